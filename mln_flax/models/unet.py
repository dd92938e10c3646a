"""U-Net (Ronneberger et al., 2015) with branches, a choice of norms, and room for attention."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mln_flax.config import NetworkSettings, each_positive, one_of
from mln_flax.models import core, norm_kinds, perturbation, products, swin
from mln_flax.models.convolution import Convolution
from mln_flax.models.norms import DomainLayerNorm, DomainNorm, NormMaker
from mln_flax.models.recompute import recomputed_if_asked
from mln_flax.types import Moments, UserError


class Preset(NamedTuple):
    """The sizes that make a U-Net."""

    widths: tuple[int, ...]


# Pinned by a test to 31,042,434, 1,943,778 and 121,394 parameters at one channel, two classes and
# one branch, normalized by "channel" or "sample".
PRESETS = {
    "unet": Preset((64, 128, 256, 512, 1024)),  # the published widths
    "unet_narrow": Preset((16, 32, 64, 128, 256)),
    "unet_demo": Preset((8, 16, 32, 64)),
}


class UNet(nn.Module):
    """Convolutions down and up with skips; every norm has `num_branches` parameter sets.

    The last stages down may have Swin blocks behind their convolutions. Any height and width: the
    image is continued at its edges to whole pixels of the last stage. Convolutions pad with zeros,
    so maps keep their size; the published network cut its skips.

    Attributes:
      num_classes: of the logits.
      num_branches: k.
      widths: channels of every stage; each stage but the first halves height and width.
      norm: of convolutions, one of `norm_kinds.KINDS`. Where it drops a constant, convolutions
        have no bias. Blocks have layer norms.
      depths: Swin blocks of each of the last stages down, every second one with shifted windows.
      num_heads: of their attention, in the same order.
      window_size: of their windows, pixels of their stage; 0 without blocks.
      drop_path_rate: of the last block; it grows from 0 at the first.
      dtype: in which is computed; parameters, statistics and logits are float32.
      remat: a stage keeps nothing for the backward pass but its input.
      statistics: "channel" or "layer", see `DomainNorm`.
      momentum: of the running statistics.
      axis_name: the device axis, or None.
      perturbation: noise on the channel statistics of the first stages, see `perturbation`.
      equalize_noise: the image goes through `anscombe.equalized`.
    """

    num_classes: int = 2
    num_branches: int = 1
    widths: tuple[int, ...] = PRESETS["unet"].widths
    norm: str = "channel"
    depths: tuple[int, ...] = ()
    num_heads: tuple[int, ...] = ()
    window_size: int = 0
    drop_path_rate: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False
    statistics: str = "channel"
    momentum: float = 0.95
    axis_name: str | None = None
    perturbation: float = 0.0
    equalize_noise: bool = False

    @nn.compact
    def __call__(
        self, image: jax.Array, branch: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, Moments]]:
        """The logits and the moments of every norm.

        Args:
          image: float [B, H, W, channels].
          branch: of each sample, as `DomainNorm` takes it; a batch may mix branches.
          train: "batch" normalizes with the batch; in evaluation it needs `domain_stats`.
            Perturbation and stochastic depth are on, and need the random stream "dropout".

        Returns:
          logits float32 [B, H, W, num_classes], and {"moments": {path: (mean, std)}}.
        """
        side = 2 ** (len(self.widths) - 1)  # of a pixel of the last stage
        return core.on_whole_pixels(self, side, partial(self._logits, branch, train), image)

    def _logits(self, branch, train, x) -> jax.Array:
        """Of images of whole pixels at every stage."""
        last = len(self.widths) - 1
        plain = len(self.widths) - len(self.depths)  # stages without blocks
        skips = []
        for i in range(last + 1):
            x = self._stage(f"down_{i}", i, max_pool(x) if i else x, branch, train)
            if i >= plain:
                x = self._blocks(f"down_{i}_blocks", i - plain, x, branch, train)
            if i < perturbation.STAGES:
                x = perturbation.Perturbation(self.perturbation, name=f"perturb_{i}")(x, train)
            skips.append(x)
        for i in reversed(range(last)):
            x = Upsample(self.widths[i], self.dtype, name=f"upsample_{i}")(x)
            x = jnp.concatenate([skips[i], x], axis=-1)
            x = self._stage(f"up_{i}", i, x, branch, train)
        return swin.dense(self.num_classes, jnp.float32, "head")(x)

    def _stage(self, name, level, x, branch, train) -> jax.Array:
        """Two convolutions with their norms."""
        norm = partial(DomainNorm, kind=self.norm, **self._of_norms())
        use_bias = self.norm not in norm_kinds.DROPS_BIAS
        make_stage = partial(Stage, self.widths[level], norm, use_bias, self.dtype)
        return recomputed_if_asked(self, make_stage, name, x, branch, train)

    def _blocks(self, name, attending, x, branch, train) -> jax.Array:
        """The Swin blocks of one stage."""
        earlier, last = sum(self.depths[:attending]), max(sum(self.depths) - 1, 1)
        for j in range(self.depths[attending]):
            make_block = partial(
                swin.SwinBlock,
                num_heads=self.num_heads[attending],
                window_size=self.window_size,
                shifted=j % 2 == 1,
                norm=partial(DomainLayerNorm, **self._of_norms()),
                drop_path_rate=self.drop_path_rate * (earlier + j) / last,
                dtype=self.dtype,
            )
            x = recomputed_if_asked(self, make_block, f"{name}_{j}", x, branch, train)
        return x

    def _of_norms(self) -> dict[str, Any]:
        """What all norms are told."""
        names = "num_branches", "momentum", "statistics", "axis_name"
        return {name: getattr(self, name) for name in names}


class Stage(nn.Module):
    """Two 3x3 convolutions, each with a norm and a ReLU behind it."""

    width: int
    norm: NormMaker
    use_bias: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, branch: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, width]."""
        for i in (1, 2):
            convolution = Convolution(self.width, self.use_bias, self.dtype, name=f"conv{i}")
            x, bias = convolution(x)
            x = self.norm(name=f"norm{i}")(x, branch, train=train, offset=bias, relu=True)
        return x


class Upsample(nn.Module):
    """A 2x2 transposed convolution of stride 2: each pixel becomes four."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, 2 H, 2 W, width]."""
        b, h, w, c = x.shape
        # The four kernels do not overlap. A product makes both pixels of a row, which lie side by
        # side as they shall, so rows of pixels are moved to their places, not pixels.
        kernel = swin.Kernel((c, 4 * self.width), name="expand")().astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)
        pairs = [
            products.dot(x.reshape(-1, c), row) + jnp.tile(bias, 2)[None]
            for row in jnp.split(kernel, 2, axis=1)
        ]
        rows = jnp.stack([pair.reshape(b, h, -1) for pair in pairs], axis=2)
        return rows.reshape(b, 2 * h, 2 * w, self.width)


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of every 2x2 pixels: [B, H, W, C] -> [B, H / 2, W / 2, C]; H and W are even.

    Made of choices between two, whose gradient goes to exactly one. That of `max` compares with
    the result: a compiler that computes both again with other roundings finds no equal and divides
    by none. That of a window reduction is slow on CPUs.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c)
    x = _larger(x[:, :, 0], x[:, :, 1])
    return _larger(x[:, :, :, 0], x[:, :, :, 1])


def _larger(x, y):
    return jnp.where((x >= y) | jnp.isnan(x), x, y)  # what is no number is handed on


@dataclass(frozen=True)
class UNetSettings(NetworkSettings):
    """A U-Net: a preset, and what of it is set otherwise; None is as the preset says."""

    name: Annotated[str, one_of("unet")] = "unet"
    preset: Annotated[str, one_of(*PRESETS)] = "unet"
    widths: Annotated[tuple[int, ...] | None, each_positive] = None
    norm: Annotated[str, one_of(*norm_kinds.KINDS)] = "channel"  # over what is normalized

    def check(self) -> None:
        """Raises UserError for statistics by which the norm cannot normalize."""
        super().check()
        check_statistics(self.norm, self.statistics)


def check_statistics(norm: str, statistics: str) -> None:
    """Raises UserError for statistics by which a norm of convolutions cannot normalize."""
    if norm in norm_kinds.FROM_STATISTICS and statistics == "layer":
        raise UserError(
            f"--config.model.norm={norm}: normalizes each channel by its own statistics; "
            "allowed is model.statistics=channel"
        )


def build(settings: UNetSettings, num_branches: int) -> UNet:
    """The network of its settings."""
    sizes = core.sizes_of(settings, PRESETS)
    return UNet(norm=settings.norm, **core.common(settings, num_branches), **sizes)


def least_side(settings: UNetSettings) -> tuple[int, str]:
    """The pixels of which one is left at the last stage, and why so many are needed."""
    stages = len(core.sizes_of(settings, PRESETS)["widths"])
    return 2 ** (stages - 1), f"{stages} stages"


KIND = core.Kind(UNetSettings, build, least_side)
