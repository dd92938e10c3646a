"""U-Net whose deep scales attend: convolutions where dots are seen, Swin blocks where context is.

A calcification of 0.15 mm is one or two pixels. Patches of 4 x 4 pixels, the first layer of a
Swin-Unet, have no place for it; convolutions at full and half resolution do. Attention in windows
stands where a pixel is a quarter or an eighth of the image's, and sees clusters, ducts and vessels.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

from mln_flax.config import NetworkSettings, below_one, each_positive, one_of, positive
from mln_flax.models import core, norm_kinds, unet
from mln_flax.models.unet import UNet
from mln_flax.types import UserError


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


def build(settings: ConvSwinUnetSettings, num_branches: int) -> UNet:
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
    return UNet(
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
