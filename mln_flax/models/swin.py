"""The parts of a Swin transformer (Liu et al., 2021): windows, attention, blocks, scale changes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mln_flax.models import attention, products
from mln_flax.models.norms import NormMaker

MASKED = -100.0  # added to the logits of pairs that must not attend, as the public weights expect
# Variance-preserving at any width; the public code's fixed deviation of 0.02 suits 96 channels and
# pretrained weights, and starves a narrow network that starts from nothing.
kernel_init = nn.initializers.lecun_normal()
table_init = nn.initializers.truncated_normal(0.02)


class Windows(NamedTuple):
    """How a [H, W] map is cut into windows: their size, the shift, and the padded map."""

    size: tuple[int, int]
    shift: tuple[int, int]
    padded: tuple[int, int]


def plan_windows(height: int, width: int, window_size: int, shifted: bool) -> Windows:
    """The windows of a map; along an axis no longer than the window it is one window, unshifted."""
    size = (min(window_size, height), min(window_size, width))
    shift = tuple(
        window_size // 2 if shifted and length > window_size else 0 for length in (height, width)
    )
    padded = (-(-height // size[0]) * size[0], -(-width // size[1]) * size[1])
    return Windows(size, shift, padded)  # type: ignore[arg-type]


def partition(x: Any, size: tuple[int, int]) -> Any:
    """[B, H, W, C] -> [B, windows, tokens, C], for numpy and jax alike."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size[0], size[0], w // size[1], size[1], c)
    return x.swapaxes(2, 3).reshape(b, -1, size[0] * size[1], c)


def unpartition(x: jax.Array, size: tuple[int, int], height: int, width: int) -> jax.Array:
    """[B, windows, tokens, C] -> [B, H, W, C]."""
    b, c = x.shape[0], x.shape[-1]
    x = x.reshape(b, height // size[0], width // size[1], size[0], size[1], c)
    return x.swapaxes(2, 3).reshape(b, height, width, c)


def attention_mask(windows: Windows, height: int, width: int) -> np.ndarray | None:
    """What to add to attention logits: float32 [windows, tokens, tokens], or None for nothing.

    After the cyclic shift a window may hold parts of the map that are not neighbors, and padding:
    tokens of different parts do not see each other.
    """
    if windows.shift == (0, 0) and windows.padded == (height, width):
        return None
    parts = np.zeros(windows.padded, np.int32)
    parts[height:], parts[:, width:] = 1, 1
    parts = np.roll(parts, [-s for s in windows.shift], axis=(0, 1))
    for axis, (length, size, shift) in enumerate(
        zip(windows.padded, windows.size, windows.shift, strict=True)
    ):
        if shift:
            position = np.arange(length)
            part = (position >= length - size).astype(np.int32) + (position >= length - shift)
            parts = 3 * parts + (part[:, None] if axis == 0 else part[None, :])
    part_of_token = partition(parts[None, :, :, None], windows.size)[0, :, :, 0]
    apart = part_of_token[:, :, None] != part_of_token[:, None, :]
    return np.where(apart, MASKED, 0.0).astype(np.float32)


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a learned bias per relative position.

    Attributes:
      num_heads: their number.
      window_size: of the full window.
      dtype: of the products.
      attention: "plain"; "fused", one kernel for GPUs (`window_kernel`); "interpreted", the same
        kernel by an interpreter, for tests.
    """

    num_heads: int
    window_size: int
    dtype: Any = jnp.float32
    attention: str = "plain"

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, int], mask: np.ndarray | None) -> jax.Array:
        """[B, windows, tokens, C] -> the same shape; mask as `attention_mask` gives it."""
        b, n, t, c = x.shape
        project = QueryKeyValue(self.dtype, name="qkv")
        table = self.param(
            "relative_position_bias_table",
            table_init,
            ((2 * self.window_size - 1) ** 2, self.num_heads),
        )
        bias = attention.relative_position_bias(table, size, self.window_size)
        if self.attention == "plain":
            qkv = project(x.reshape(-1, c)).reshape(b, n, t, 3 * c)
            out = attention.attend(qkv, bias, attention.frozen(mask), self.num_heads)
        else:
            # Imported here: Pallas is for those who have a GPU, and announces changes.
            from mln_flax.models import window_kernel

            out = window_kernel.attend(
                x.astype(self.dtype),
                *project.factors(c),
                bias,
                parts_of(mask, n, t),
                self.num_heads,
                self.attention == "interpreted",
            )
        return dense(c, self.dtype, "proj")(out)


def parts_of(mask: np.ndarray | None, windows: int, tokens: int) -> np.ndarray:
    """Which tokens of a window see each other, as a number for each: int32 [windows, tokens].

    It is the first token that a token sees; mask as `attention_mask` gives it.
    """
    if mask is None:
        return np.zeros((windows, tokens), np.int32)
    return (mask == 0).argmax(axis=-1).astype(np.int32)


class QueryKeyValue(nn.Module):
    """Three projections in one, the middle one's bias left out of the sum.

    A bias on the keys adds the same to all logits of a query, so the softmax drops it. Left out,
    its gradient is exactly zero, not rounding noise that Adam would turn into full steps. The
    parameter itself stays, as in the public checkpoints.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def factors(self, c: int) -> tuple[jax.Array, jax.Array]:
        """Kernel [C, 3 C] and bias [3 C], that of the keys zero."""
        kernel = self.param("kernel", kernel_init, (c, 3 * c)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (3 * c,)).astype(self.dtype)
        return kernel, bias * np.repeat([1, 0, 1], c).astype(bias.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., 3 C]: queries, keys, values."""
        kernel, bias = self.factors(x.shape[-1])
        product = products.dot(x.astype(self.dtype), kernel)
        return product + bias.reshape((1,) * (x.ndim - 1) + (-1,))


class DropPath(nn.Module):
    """Stochastic depth: a sample's residual branch is left out with probability `rate`."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """X [B, ...], scaled by 1 / (1 - rate) where it is kept."""
        if not train or self.rate == 0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return x * keep.astype(x.dtype) / (1 - self.rate)


class SwinBlock(nn.Module):
    """Window attention and an MLP, each behind a layer norm and with a residual (Eq. 6-9)."""

    num_heads: int
    window_size: int
    shifted: bool
    norm: NormMaker
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.0
    dtype: Any = jnp.float32
    attention: str = "plain"  # as in `WindowAttention`

    @nn.compact
    def __call__(self, x: jax.Array, branch: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> the same shape."""
        _, h, w, c = x.shape
        windows = plan_windows(h, w, self.window_size, self.shifted)
        drop_path = DropPath(self.drop_path_rate)

        y = self.norm(name="norm1")(x, branch)
        pad_h, pad_w = windows.padded[0] - h, windows.padded[1] - w
        if pad_h or pad_w:
            y = jnp.pad(y, ((0, 0), (0, pad_h), (0, pad_w), (0, 0)))
        if any(windows.shift):
            y = jnp.roll(y, [-s for s in windows.shift], axis=(1, 2))
        attend = WindowAttention(
            self.num_heads, self.window_size, self.dtype, self.attention, name="attn"
        )
        mask = attention_mask(windows, h, w)
        y = attend(partition(y, windows.size), windows.size, mask)
        y = unpartition(y, windows.size, *windows.padded)
        if any(windows.shift):
            y = jnp.roll(y, windows.shift, axis=(1, 2))
        x = x + drop_path(y[:, :h, :w], train)

        y = self.norm(name="norm2")(x, branch)
        y = Mlp(int(c * self.mlp_ratio), self.dtype, name="mlp")(y)
        return x + drop_path(y, train)


class Mlp(nn.Module):
    """Two dense layers with an exact GELU between them."""

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C]."""
        y = gelu(dense(self.hidden, self.dtype, "fc1")(x))
        return dense(x.shape[-1], self.dtype, "fc2")(y)


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, by the error function: one smooth formula, where its complement has cases."""
    return x * (0.5 + 0.5 * jax.lax.erf(x * 2**-0.5))


def dense(features: int, dtype: Any, name: str, **options: Any) -> Callable[[jax.Array], jax.Array]:
    """A dense layer over the channels of [..., C], applied to the matrix [tokens, C].

    With two dimensions the gradient of the kernel is one product of two matrices as they lie;
    with more, XLA for CPUs copies both first and takes a slower kernel.
    """
    options = {"kernel_init": kernel_init, "dot_general": products.dot_general} | options
    layer = nn.Dense(features, **options, dtype=dtype, name=name)
    return lambda x: layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], features)


def contrast_init(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
    """Initial kernel of the patch embedding, [pixels, C]: deaf to brightness, keen on contrast.

    Calcifications differ from their surround by a few percent of the gray range, and the layer
    norm behind the embedding divides by what all pixels of a patch share. So a fifth of each
    filter's mean is kept, and the rest is amplified; with a bias of unit deviation the tokens then
    tell strong contrast from weak. The gain is chosen: 8 and 20 both let a narrow network find
    lesions within 100 steps on one batch of phantoms, a plain start needed several times as long.
    """
    kernel = CONTRAST_GAIN * jax.random.normal(key, shape, dtype) / shape[0] ** 0.5
    return kernel - 0.8 * kernel.mean(axis=0, keepdims=True)


CONTRAST_GAIN = 20.0


class PatchEmbed(nn.Module):
    """Each patch of pixels becomes one token."""

    dim: int
    patch_size: int
    norm: NormMaker
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, branch: jax.Array) -> jax.Array:
        """[B, H, W, channels] -> [B, H / patch, W / patch, dim]."""
        x = space_to_depth(image, self.patch_size)
        initializers = {"kernel_init": contrast_init, "bias_init": nn.initializers.normal(1.0)}
        x = dense(self.dim, self.dtype, "proj", **initializers)(x)
        return self.norm(name="norm")(x, branch)


class PatchMerging(nn.Module):
    """Half the height and width, twice the channels."""

    norm: NormMaker
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, branch: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H / 2, W / 2, 2 C]; H and W must be even."""
        b, h, w, c = x.shape
        # The public weights order the four neighbors column by column.
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 4, 2, 5)
        y = self.norm(name="norm")(x.reshape(b, h // 2, w // 2, 4 * c), branch)
        return dense(2 * c, self.dtype, "reduction", use_bias=False)(y)


class PatchExpanding(nn.Module):
    """Twice the height and width, half the channels."""

    norm: NormMaker
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, branch: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, 2 H, 2 W, C / 2]."""
        c = x.shape[-1]
        y = dense(2 * c, self.dtype, "expand", use_bias=False)(x)
        y = y.reshape(*x.shape[:-1], 4, c // 2)
        return depth_to_space(self.norm(name="norm")(y, branch))


class FinalExpansion(nn.Module):
    """Each token becomes the logits of its patch: expansion, norm and a 1x1 head in one.

    Norm and head look at one pixel at a time, so the pixels are moved to their places behind
    them: then it is num_classes channels, not C, that are moved at full resolution.
    """

    patch_size: int
    num_classes: int
    norm: NormMaker

    @nn.compact
    def __call__(self, x: jax.Array, branch: jax.Array) -> jax.Array:
        """[B, H, W, C] -> float32 [B, patch H, patch W, classes]."""
        c, pixels = x.shape[-1], self.patch_size**2
        expand = Kernel((c, pixels * c), name="expand")().reshape(c, pixels, c)
        head = Kernel((c, self.num_classes), name="output")()
        return depth_to_space(self.norm(name="norm")(x, branch, projection=(expand, head)))


class Kernel(nn.Module):
    """The kernel of a dense layer without bias, for those who multiply by it themselves."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self) -> jax.Array:
        """Float32 of `shape`, (in, out)."""
        return self.param("kernel", kernel_init, self.shape)


def space_to_depth(x: jax.Array, patch: int) -> jax.Array:
    """[B, H, W, C] -> [B, H / patch, W / patch, patch * patch * C]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).swapaxes(2, 3)
    return x.reshape(b, h // patch, w // patch, patch * patch * c)


def depth_to_space(x: jax.Array) -> jax.Array:
    """[B, H, W, scale * scale, C] -> [B, scale * H, scale * W, C]."""
    b, h, w, pixels, c = x.shape
    scale = int(pixels**0.5)
    x = x.reshape(b, h, w, scale, scale, c).swapaxes(2, 3)
    return x.reshape(b, scale * h, scale * w, c)
