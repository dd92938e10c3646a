"""Normalization with a scale, a shift and statistics for each branch (Eq. 10-13)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from mln_flax.models import norm_kinds
from mln_flax.types import Moments

STATISTICS = ("channel", "layer")
EXACT = jax.lax.Precision.HIGHEST
MEAN, STD = ("domain_stats", "mean"), ("domain_stats", "std")


class DomainLayerNorm(nn.Module):
    """Layer norm whose scale, bias and running statistics are chosen per sample by its branch.

    Each token is normalized over its own channels, as in every layer norm; only the scale and the
    bias depend on the branch (Eq. 13). The moments of the layer's *input* over the positions of
    an image are what branch selection compares (Eq. 16-17). Other kinds of normalization differ
    in what they subtract and divide by, and in nothing else.

    Attributes:
      num_branches: k, the rows of scale, bias and statistics.
      kind: over what is normalized: "channel", a token's channels; "sample", all features of a
        sample; "instance", the positions of a sample's channel; "batch", the positions of a
        channel in all samples of the branch, and in evaluation by the running statistics.
      epsilon: added to the variance.
      momentum: share of the old running statistics that stays at each update.
      statistics: "channel" keeps moments per channel, "layer" of all channels together, which
        "batch" cannot use.
      axis_name: the device axis over which statistics are summed, or None.
    """

    num_branches: int = 1
    kind: str = "channel"
    epsilon: float = 1e-5
    momentum: float = 0.95
    statistics: str = "channel"
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        branch: jax.Array,
        expand: jax.Array | None = None,
        head: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, Moments]:
        """The normalized x and its moments.

        Args:
          x: [B, ..., C].
          branch: int32 [B] in [0, num_branches); a negative one marks padding, which is
            normalized with some branch and counted in no statistics.
          expand: [C, new, D], with `head`: the layer's input is then x @ expand, of which only
            norm(x @ expand) @ head is asked for (see `normalized_projection`); only of "channel".
          head: [D, classes].
          train: "batch" normalizes with the batch, not with the running statistics.

        Returns:
          y [B, ..., C] in the type of x (with a head float32 [B, ..., new, classes]), and
          {path of this layer: (mean [B, C], std [B, C])}; C is 1 with statistics="layer".

        Raises:
          ValueError: "batch" in evaluation is not given the collection domain_stats.
        """
        channels = x.shape[-1] if expand is None else expand.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (self.num_branches, channels))
        bias = self.param("bias", nn.initializers.zeros, (self.num_branches, channels))
        running = self._running(1 if self.statistics == "layer" else channels)
        own = jnp.maximum(branch, 0)
        if expand is not None and head is not None:
            y = normalized_projection(x, expand, head, scale[own], bias[own], self.epsilon)
            moments = expanded_moments(x, expand, self.statistics)
        else:
            if self.kind == "channel":
                y = normalize(x, scale[own], bias[own], self.epsilon)
            else:
                center = self._center(x, branch, running, train)
                y = norm_kinds.standardize(x, *center, scale[own], bias[own], self.epsilon)
            moments = input_moments(x, self.statistics)
        self._update_statistics(running, moments, branch)
        return y, {"/".join(self.path): moments}

    def _running(self, width: int) -> tuple[nn.Variable, nn.Variable] | None:
        """The running mean and deviation [k, width], where there are any."""
        if not (self.is_mutable_collection("domain_stats") or self.has_variable(*MEAN)):
            return None
        shape = (self.num_branches, width)
        return self.variable(*MEAN, jnp.zeros, shape), self.variable(*STD, jnp.ones, shape)

    def _center(self, x, branch, running, train) -> tuple[jax.Array, jax.Array]:
        """Mean and variance [B, C] by which a sample is normalized."""
        if self.kind != "batch":
            return norm_kinds.of_sample(x, self.kind)
        if train:
            return norm_kinds.of_batch(x, branch, self.num_branches, self.axis_name)
        if running is None:
            raise ValueError(
                f"batch norm {'/'.join(self.path)}: evaluation needs the running statistics, the "
                "collection domain_stats beside the parameters"
            )
        mean, std = (value.value[jnp.maximum(branch, 0)] for value in running)
        return mean, jnp.square(std)

    def _update_statistics(self, running, moments, branch) -> None:
        """Move the running statistics of the branches in the batch, where they may be touched."""
        if self.is_initializing() or not self.is_mutable_collection("domain_stats"):
            return  # nobody reads the moments then, and XLA drops them
        mean, std = moments
        running_mean, running_std = running
        # A sum over samples and devices before any ratio: devices may hold unequal numbers.
        members = jax.nn.one_hot(branch, self.num_branches)
        sums = (
            members.sum(axis=0)[:, None],
            norm_kinds.per_branch(members, mean),
            norm_kinds.per_branch(members, jnp.square(std) + jnp.square(mean)),
        )
        count, total, squares = norm_kinds.over_devices(sums, self.axis_name)
        batch_mean = total / jnp.maximum(count, 1)
        batch_variance = jnp.maximum(squares / jnp.maximum(count, 1) - jnp.square(batch_mean), 0)
        step = jnp.where(count > 0, 1 - self.momentum, 0)
        running_mean.value += step * (batch_mean - running_mean.value)
        variance = jnp.square(running_std.value)
        running_std.value = jnp.sqrt(variance + step * (batch_variance - variance))


def normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Layer norm of x [B, ..., C] with scale and bias [B, C] per sample, in the type of x."""
    tokens = x.reshape(x.shape[0], -1, x.shape[-1])
    return _normalize(tokens, scale, bias, epsilon).reshape(x.shape)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(x, scale, bias, epsilon):
    """Of x [B, tokens, C]; the backward pass is written out, autodiff passes over x twice more."""
    return _normalize_forward(x, scale, bias, epsilon)[0]


def _normalize_forward(x, scale, bias, epsilon):
    standard, _ = _standardized(x, epsilon)
    y = standard * scale[:, None] + bias[:, None]
    return y.astype(x.dtype), (x, scale)


def _normalize_backward(epsilon, saved, gradient):
    x, scale = saved
    standard, inverse = _standardized(x, epsilon)
    gradient = gradient.astype(jnp.float32)
    scaled = gradient * scale[:, None]
    along = _channel_mean(scaled * standard)
    of_x = inverse * (scaled - _channel_mean(scaled) - standard * along)
    ones = jnp.ones(x.shape[:2])
    # Sums written as products, for CPUs; exact, since accelerators would round the factors.
    of_scale = jnp.einsum("bt,btc->bc", ones, gradient * standard, precision=EXACT)
    of_bias = jnp.einsum("bt,btc->bc", ones, gradient, precision=EXACT)
    return of_x.astype(x.dtype), of_scale, of_bias


def _standardized(x, epsilon):
    """Tokens [B, tokens, C] of zero mean and unit variance, and one over their deviation."""
    x = x.astype(jnp.float32)
    centered = x - _channel_mean(x)
    inverse = jax.lax.rsqrt(_channel_mean(jnp.square(centered)) + epsilon)
    return centered * inverse, inverse


def _channel_mean(x):
    """[B, tokens, C] -> [B, tokens, 1]; as a matrix, for with few samples XLA for CPUs is slow."""
    return x.reshape(-1, x.shape[-1]).mean(axis=-1).reshape(*x.shape[:-1], 1)


_normalize.defvjp(_normalize_forward, _normalize_backward)


def normalized_projection(x, expand, head, scale, bias, epsilon: float) -> jax.Array:
    """normalize(x @ expand) @ head, without normalizing the wide array in the middle.

    Centering, scale and head are linear and fold into one narrow kernel per sample; only the
    variance of each expanded token needs the wide product, and of that its squared length alone.

    Args:
      x: [B, H, W, C].
      expand: [C, new, D].
      head: [D, classes].
      scale: [B, D], per sample.
      bias: [B, D].
      epsilon: added to the variance.

    Returns:
      float32 [B, H, W, new, classes].
    """
    c, new, _ = expand.shape
    centered = expand - expand.mean(axis=-1, keepdims=True)
    tokens = x.reshape(-1, c)
    variance = expanded_variance(tokens, centered).reshape(*x.shape[:-1], new)
    kernel = jnp.einsum("cnd,bd,dk->bcnk", centered, scale, head)
    kernel = kernel.reshape(x.shape[0], c, -1).astype(x.dtype)
    x = x.reshape(x.shape[0], -1, c)
    narrow = jnp.einsum("btc,bcm->btm", x, kernel, preferred_element_type=jnp.float32)
    narrow = narrow.reshape(*variance.shape, -1)
    inverse = jax.lax.rsqrt(variance + epsilon)[..., None]
    return narrow * inverse + (bias @ head)[:, None, None, None]


@jax.custom_vjp
def expanded_variance(tokens: jax.Array, centered: jax.Array) -> jax.Array:
    """The mean square over d of tokens [T, C] @ centered [C, new, D]: float32 [T, new].

    The product, 16 times as wide as the tokens, lives for a chunk of tokens at a time, both ways.
    """
    c, new, d = centered.shape
    kernel = centered.reshape(c, new * d).astype(tokens.dtype)

    def of_chunk(chunk):
        wide = jnp.dot(chunk, kernel, preferred_element_type=jnp.float32)
        return jnp.square(wide).reshape(-1, new, d).mean(axis=-1)

    return jax.lax.map(of_chunk, _chunks(tokens, new * d)).reshape(-1, new)


def _variance_forward(tokens, centered):
    return expanded_variance(tokens, centered), (tokens, centered)


def _variance_backward(saved, gradient):
    tokens, centered = saved
    c, new, d = centered.shape
    kernel = centered.reshape(c, new * d).astype(tokens.dtype)

    def of_chunk(total, pair):
        chunk, share = pair
        wide = jnp.dot(chunk, kernel, preferred_element_type=jnp.float32).reshape(-1, new, d)
        wide = (wide * (2 / d * share[..., None])).astype(tokens.dtype).reshape(-1, new * d)
        own = jnp.dot(chunk.T, wide, preferred_element_type=jnp.float32)
        return total + own, jnp.dot(wide, kernel.T)

    chunks = _chunks(tokens, new * d)
    shares = gradient.reshape(*chunks.shape[:2], new)
    total, of_tokens = jax.lax.scan(of_chunk, jnp.zeros((c, new * d)), (chunks, shares))
    return of_tokens.reshape(tokens.shape), total.reshape(centered.shape)


expanded_variance.defvjp(_variance_forward, _variance_backward)


def _chunks(tokens, width):
    """Tokens [T, C] in equal chunks [chunks, rows, C] of at most CHUNK numbers at this width."""
    total = tokens.shape[0]
    fewest = -(-total * width // CHUNK)
    count = next(n for n in range(fewest, total + 1) if total % n == 0)
    return tokens.reshape(count, total // count, -1)


CHUNK = 2**24  # 64 MB of float32


def input_moments(x: jax.Array, statistics: str) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of x [B, ..., C] over positions: [B, C] each, or [B, 1].

    The gradient does not pass: moments describe the input, they are not trained.
    """
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    axes = tuple(range(1, x.ndim if statistics == "layer" else x.ndim - 1))
    mean = x.mean(axis=axes)
    # The two-pass form: E[x^2] - E[x]^2 loses all digits where the mean is large.
    aligned = mean.reshape(mean.shape[:1] + (1,) * len(axes) + mean.shape[1:])
    std = jnp.sqrt(jnp.square(x - aligned).mean(axis=axes))
    return (mean[:, None], std[:, None]) if statistics == "layer" else (mean, std)


def expanded_moments(x: jax.Array, expand: jax.Array, statistics: str):
    """`input_moments` of x @ expand, from the mean and covariance of x: no wide array.

    x is [B, H, W, C], expand [C, new, D]; positions are H, W and new.
    """
    x, expand = jax.lax.stop_gradient((x.astype(jnp.float32), expand))
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    center = x.mean(axis=1)
    deviation = x - center[:, None]
    product = partial(jnp.einsum, precision=EXACT)
    covariance = product("bpc,bpe->bce", deviation, deviation) / x.shape[1]
    of_token = product("bc,cnd->bnd", center, expand)
    within = product("cnd,bce,end->bd", expand, covariance, expand) / expand.shape[1]
    mean, variance = of_token.mean(axis=1), within + of_token.var(axis=1)
    if statistics == "layer":
        between = mean.var(axis=-1, keepdims=True)
        mean, variance = (v.mean(axis=-1, keepdims=True) for v in (mean, variance))
        variance += between
    return mean, jnp.sqrt(jnp.maximum(variance, 0))
