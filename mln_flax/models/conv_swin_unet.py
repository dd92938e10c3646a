"""U-Net whose deep scales attend: convolutions where dots are seen, Swin blocks where context is.

A calcification of 0.15 mm is one or two pixels. Patches of 4 x 4 pixels, the first layer of a
Swin-Unet, have no place for it; convolutions at full and half resolution do. Attention in windows
stands where a pixel is a quarter or an eighth of the image's, and sees clusters, ducts and vessels.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mln_flax.config import NetworkSettings, below_one, each_positive, one_of, positive
from mln_flax.models import anscombe, core, moments, norm_kinds, perturbation, swin, unet
from mln_flax.models.norms import DomainLayerNorm, DomainNorm
from mln_flax.models.recompute import recomputed
from mln_flax.types import Moments, UserError


class Preset(NamedTuple):
    """The sizes that make one; `depths` and `num_heads` are of the last scales."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int


# Pinned by a test to 249,470 and 985,082 parameters at one channel, two classes, one branch.
PRESETS = {
    "dots": Preset((8, 16, 32, 64), (2, 2), (2, 4), 8),
    "dots_wide": Preset((16, 32, 64, 128), (2, 2), (4, 8), 8),
}


class ConvSwinUnet(nn.Module):
    """Convolutions down and up with skips; the last scales down have Swin blocks behind them.

    Every norm has `num_branches` parameter sets: those of convolutions are of a kind that can be
    chosen, those of blocks are layer norms. Any height and width: the image is continued at its
    edges to whole pixels of the last scale.

    Attributes:
      num_classes: of the logits.
      num_branches: k.
      widths: channels of every scale; each but the first halves height and width.
      depths: Swin blocks of each of the last scales, two of which make a whole and a shifted one.
      num_heads: of their attention, in the same order.
      window_size: of their windows, pixels of their scale.
      drop_path_rate: of the last block; it grows from 0 at the first.
      norm: of convolutions, one of `norm_kinds.KINDS`.
      dtype: in which is computed; parameters, statistics and logits are float32.
      remat: a stage and a block keep nothing for the backward pass but their input.
      statistics: "channel" or "layer", see `DomainNorm`.
      momentum: of the running statistics.
      axis_name: the device axis, or None.
      perturbation: noise on the channel statistics of the first scales, see `perturbation`.
      equalize_noise: the image goes through `anscombe.equalized`.
    """

    num_classes: int = 2
    num_branches: int = 1
    widths: tuple[int, ...] = PRESETS["dots"].widths
    depths: tuple[int, ...] = PRESETS["dots"].depths
    num_heads: tuple[int, ...] = PRESETS["dots"].num_heads
    window_size: int = 8
    drop_path_rate: float = 0.0
    norm: str = "sample"
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
          train: stochastic depth and perturbation are on, and need the random stream "dropout";
            norms of kind "batch" normalize with the batch.

        Returns:
          logits float32 [B, H, W, num_classes], and {"moments": {path: (mean, std)}}.
        """
        height, width = image.shape[1:3]
        image = anscombe.equalized(image) if self.equalize_noise else image
        side = 2 ** (len(self.widths) - 1)  # of a pixel of the last scale
        padding = ((0, 0), (0, -height % side), (0, -width % side), (0, 0))
        image = jnp.pad(image.astype(self.dtype), padding, mode="edge")
        with moments.collected() as norm_moments:
            logits = self._logits(image, branch, train)
        return logits[:, :height, :width], {"moments": norm_moments}

    def _logits(self, x, branch, train) -> jax.Array:
        """Of images of whole pixels at every scale."""
        last = len(self.widths) - 1
        plain = len(self.widths) - len(self.depths)  # scales without blocks
        skips = []
        for i in range(last + 1):
            x = self._stage(f"down_{i}", i, unet.max_pool(x) if i else x, branch, train)
            if i >= plain:
                x = self._blocks(f"down_{i}_blocks", i - plain, x, branch, train)
            if i < perturbation.STAGES:
                x = perturbation.Perturbation(self.perturbation, name=f"perturb_{i}")(x, train)
            skips.append(x)
        for i in reversed(range(last)):
            x = unet.Upsample(self.widths[i], self.dtype, name=f"upsample_{i}")(x)
            x = jnp.concatenate([skips[i], x], axis=-1)
            x = self._stage(f"up_{i}", i, x, branch, train)
        return swin.dense(self.num_classes, jnp.float32, "head")(x)

    def _stage(self, name, scale, x, branch, train) -> jax.Array:
        """Two convolutions with their norms."""
        norm = partial(DomainNorm, kind=self.norm, **self._of_norms())
        use_bias = self.norm not in norm_kinds.DROPS_BIAS
        make_stage = partial(unet.Stage, self.widths[scale], norm, use_bias, self.dtype)
        return self._run(make_stage, name, x, branch, train)

    def _blocks(self, name, attending, x, branch, train) -> jax.Array:
        """The Swin blocks of one scale, every second one with shifted windows."""
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
            x = self._run(make_block, f"{name}_{j}", x, branch, train)
        return x

    def _of_norms(self) -> dict[str, Any]:
        """What all norms are told."""
        names = "num_branches", "momentum", "statistics", "axis_name"
        return {name: getattr(self, name) for name in names}

    def _run(self, make, name, x, branch, train) -> jax.Array:
        if self.remat and not self.is_initializing():
            return recomputed(self, make, name, x, branch, train)
        return make(name=name)(x, branch, train)


@dataclass(frozen=True)
class ConvSwinUnetSettings(NetworkSettings):
    """A preset, and what of it is set otherwise; None is as the preset says."""

    name: Annotated[str, one_of("conv_swin_unet")] = "conv_swin_unet"
    preset: Annotated[str, one_of(*PRESETS)] = "dots"
    widths: Annotated[tuple[int, ...] | None, each_positive] = None
    depths: Annotated[tuple[int, ...] | None, each_positive] = None  # of the last scales
    num_heads: Annotated[tuple[int, ...] | None, each_positive] = None
    window_size: Annotated[int | None, positive] = None
    drop_path_rate: Annotated[float, below_one] = 0.0
    norm: Annotated[str, one_of(*norm_kinds.KINDS)] = "sample"  # of convolutions

    def check(self) -> None:
        """Raises UserError for statistics by which the norm cannot normalize."""
        super().check()
        unet.check_statistics(self.norm, self.statistics)


def build(settings: ConvSwinUnetSettings, num_branches: int) -> ConvSwinUnet:
    """The network of its settings.

    Raises:
      UserError: sizes that do not fit each other.
    """
    sizes = core.sizes_of(settings, PRESETS)
    widths, depths, heads = (sizes[name] for name in ("widths", "depths", "num_heads"))
    if len(depths) != len(heads) or len(depths) > len(widths):
        raise UserError(
            f"--config.model: depths {depths} and num_heads {heads} must have one entry each for "
            f"as many of the last scales, of which widths {widths} makes {len(widths)}"
        )
    for width, count in zip(widths[len(widths) - len(depths) :], heads, strict=True):
        if width % count:
            raise UserError(
                f"--config.model.num_heads: {count} heads do not divide the {width} channels of "
                "their scale"
            )
    return ConvSwinUnet(
        norm=settings.norm,
        drop_path_rate=settings.drop_path_rate,
        **core.common(settings, num_branches),
        **sizes,
    )


def least_side(settings: ConvSwinUnetSettings) -> tuple[int, str]:
    """The pixels of which one is left at the last scale, and why so many are needed."""
    scales = len(core.sizes_of(settings, PRESETS)["widths"])
    return 2 ** (scales - 1), f"{scales} scales"


KIND = core.Kind(ConvSwinUnetSettings, build, least_side)
