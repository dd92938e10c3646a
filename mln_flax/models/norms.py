"""Normalization with a scale, a shift and statistics for each branch (Eq. 10-13)."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mln_flax.models import moments, norm_kinds
from mln_flax.models.layer_norm import normalize, normalized_projection

MEAN, STD = ("domain_stats", "mean"), ("domain_stats", "std")
NormMaker = Callable[..., nn.Module]  # makes a norm of all its settings, given its name


class Running(NamedTuple):
    """The running mean and standard deviation of a norm's input in every branch: [k, C] each."""

    mean: nn.Variable
    std: nn.Variable


def is_mixture(branch: jax.Array) -> bool:
    """Whether branches are told as weights [B, k], not as numbers."""
    return jnp.issubdtype(branch.dtype, jnp.floating)


def of_branch(values: jax.Array, branch: jax.Array) -> jax.Array:
    """Each sample's row of values [k, C], or the mean of rows by its weights: [B, C]."""
    if is_mixture(branch):
        return jnp.matmul(branch, values, precision=jax.lax.Precision.HIGHEST)
    return values[jnp.maximum(branch, 0)]


class DomainNorm(nn.Module):
    """The input normalized, then scaled and shifted by what its sample's branch has learned.

    The moments of the *input* over the positions of an image are what branch selection compares
    (Eq. 16-17): they are reported to `moments.collected`, and their running averages kept per
    branch. Kinds differ in what they subtract and divide by, and in nothing else.

    What a sample's branch is, is told in one of three forms:

    - int32 [B]: the number of the branch in [0, k); a negative one marks padding, which is
      normalized with some branch and counted in no statistics.
    - float32 [B, k]: a mixture. Scale and bias are the branches' means with these weights, and so
      are running mean and variance where the kind normalizes by them. Its images are of no single
      branch, so they count in no statistics; it is for answering.
    - int32 [B, n]: candidates, of which every norm draws its own for each sample, by the random
      stream "dropout"; a row of negative ones is padding.

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

    def __post_init__(self) -> None:
        """Raises ValueError for a kind or statistics that there are not."""
        super().__post_init__()
        for name, allowed in (("kind", norm_kinds.KINDS), ("statistics", moments.STATISTICS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} of a norm: {getattr(self, name)!r}; allowed: {', '.join(allowed)}"
                )
        if self.kind in norm_kinds.FROM_STATISTICS and self.statistics != "channel":
            raise ValueError(f"{self.kind} norm: reads the statistics of each channel, not of all")

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        branch: jax.Array,
        train: bool = False,
        *,
        offset: jax.Array | None = None,
        relu: bool = False,
    ) -> jax.Array:
        """[B, ..., C] -> the same shape and type.

        Args:
          x: [B, ..., C].
          branch: int32 [B], a mixture float32 [B, k] or candidates int32 [B, n], see the class.
          train: "batch" normalizes with the batch, not with the running statistics.
          offset: [C], such as a convolution's bias: the norm's input is x + offset.
          relu: what is below 0 behind scale and shift becomes 0.

        Bias and ReLU are what stands around the norm of a convolution. All kinds but "channel" do
        them in passes that the norm makes anyway.

        Raises:
          ValueError: "batch" in evaluation is not given the collection domain_stats, or in
            training is given a mixture.
        """
        branch = self._drawn(branch)
        scale, bias = self._affine(x.shape[-1], branch)
        running, eps = self._running(x.shape[-1]), self.epsilon
        mean, variance = moments.of_positions(x)
        offset = jnp.zeros_like(mean[:1]) if offset is None else offset[None]
        mean = mean + offset
        if self.kind == "channel":
            y = normalize(x + moments.aligned(offset.astype(x.dtype), x.ndim), scale, bias, eps)
            y = nn.relu(y) if relu else y
        else:
            center, spread = self._center(mean, variance, branch, running, train)
            center = center - offset  # of x, to which nothing has been added
            y = norm_kinds.standardize(x, center, spread, scale, bias, eps, relu)
        self._observe(*moments.reported(mean, variance, self.statistics), branch, running)
        return y

    def _drawn(self, branch: jax.Array) -> jax.Array:
        """One of its candidates for each sample, where there are any; else the branch as it is."""
        if branch.ndim == 1 or is_mixture(branch):
            return branch
        rows, candidates = branch.shape
        column = jax.random.randint(self.make_rng("dropout"), (rows, 1), 0, candidates)
        return jnp.take_along_axis(branch, column, axis=1)[:, 0]

    def _affine(self, channels: int, branch: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Scale and bias [B, C], those of each sample's branch."""
        shape = (self.num_branches, channels)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        return of_branch(scale, branch), of_branch(bias, branch)

    def _running(self, channels: int) -> Running | None:
        """The running statistics, where there are any."""
        if not (self.is_mutable_collection("domain_stats") or self.has_variable(*MEAN)):
            return None
        shape = (self.num_branches, 1 if self.statistics == "layer" else channels)
        return Running(self.variable(*MEAN, jnp.zeros, shape), self.variable(*STD, jnp.ones, shape))

    def _center(
        self,
        mean: jax.Array,
        variance: jax.Array,
        branch: jax.Array,
        running: Running | None,
        train: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Mean and variance [B, C] by which a sample is normalized, from those of its channels."""
        if self.kind != "batch":
            return norm_kinds.of_sample(mean, variance, self.kind)
        if train:
            if is_mixture(branch):
                raise ValueError(
                    f"batch norm {'/'.join(self.path)}: no batch belongs to a mixture of branches; "
                    "train in branches"
                )
            shared = self.num_branches, self.axis_name
            return norm_kinds.of_batch(mean, variance, branch, *shared)
        if running is None:
            raise ValueError(
                f"batch norm {'/'.join(self.path)}: evaluation needs the running statistics, the "
                "collection domain_stats beside the parameters"
            )
        variance = jnp.square(running.std.value)
        return of_branch(running.mean.value, branch), of_branch(variance, branch)

    def _observe(self, mean, std, branch, running: Running | None) -> None:
        """Reports the input's moments [B, C], and moves the running statistics by them.

        Those move only where they are mutable. Where nobody asks for moments, XLA drops them.
        """
        moments.report(self.path, mean, std)
        mutable = self.is_mutable_collection("domain_stats") and not self.is_initializing()
        if running is None or not mutable or is_mixture(branch):
            return
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
        running.mean.value += step * (batch_mean - running.mean.value)
        variance = jnp.square(running.std.value)
        running.std.value = jnp.sqrt(variance + step * (batch_variance - variance))


class DomainLayerNorm(DomainNorm):
    """The layer norm of the paper: `DomainNorm` over each token's channels, also of a product.

    Only scale and bias depend on the branch (Eq. 13). Attributes are those of `DomainNorm` but
    for `kind`.
    """

    kind: str = dataclasses.field(default="channel", init=False)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        branch: jax.Array,
        train: bool = False,
        *,
        projection: tuple[jax.Array, jax.Array] | None = None,
        **around: Any,
    ) -> jax.Array:
        """[B, ..., C] -> the same shape and type, or what a projection of it asks for.

        Args:
          x: [B, ..., C].
          branch: as in `DomainNorm`.
          train: changes nothing; every norm takes it.
          projection: (expand [C, pixels, D], head [D, classes]) of x [B, H, W, C]: the input is
            then x @ expand, and norm(x @ expand) @ head is returned, float32
            [B, H, W, pixels, classes] (see `normalized_projection`).
          around: what `DomainNorm` takes beside; without a projection.
        """
        if projection is None:
            return super().__call__(x, branch, train, **around)
        expand, head = projection
        branch = self._drawn(branch)
        scale, bias = self._affine(expand.shape[-1], branch)
        mean, std = moments.expanded_moments(x, expand, self.statistics)
        self._observe(mean, std, branch, self._running(expand.shape[-1]))
        return normalized_projection(x, expand, head, scale, bias, self.epsilon)
