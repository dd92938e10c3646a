"""Swin-Unet (Cao et al., 2021) with branches: plain and multi-LN are one class."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mln_flax.config import (
    AFTER_TRAINING,
    NetworkSettings,
    below_one,
    each_positive,
    one_of,
    positive,
)
from mln_flax.models import convert, core, perturbation, swin
from mln_flax.models.norms import DomainLayerNorm
from mln_flax.models.recompute import recomputed_if_asked
from mln_flax.types import Moments, UserError


class Preset(NamedTuple):
    """The sizes that make a Swin-Unet."""

    patch_size: int
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int


# Pinned by a test to 27,165,156 and 84,041,796 parameters at one channel and two classes.
PRESETS = {
    "tiny": Preset(4, 96, (2, 2, 2, 2), (3, 6, 12, 24), 7),
    "small": Preset(4, 96, (2, 2, 18, 2), (3, 6, 12, 24), 8),  # the paper's order of size
    "demo": Preset(4, 24, (2, 2, 2), (1, 2, 4), 4),
}


LARGEST_FUSED_WINDOW = 8  # 64 tokens; the square of more does not fit a processor's registers


class SwinUnet(nn.Module):
    """A U-shaped Swin transformer; every layer norm has `num_branches` parameter sets.

    Any height and width: the image is continued at its edges to whole tokens at every stage, and
    feature maps are padded to whole windows, masked, and cut back.
    """

    num_classes: int = 2
    num_branches: int = 1
    patch_size: int = 4
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 2, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.1
    dtype: Any = jnp.float32
    remat: bool = False
    attention: str = "plain"  # as in `swin.WindowAttention`
    statistics: str = "channel"
    momentum: float = 0.95
    axis_name: str | None = None
    perturbation: float = 0.0  # noise on the channel statistics behind embedding and first stage
    equalize_noise: bool = False  # the image goes through `anscombe.equalized`

    @nn.compact
    def __call__(
        self, image: jax.Array, branch: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, Moments]]:
        """The logits and the moments of every layer norm.

        Args:
          image: float [B, H, W, channels].
          branch: of each sample, as `DomainNorm` takes it; a batch may mix branches.
          train: stochastic depth and perturbation are on; needs the random stream "dropout".

        Returns:
          logits float32 [B, H, W, num_classes], and {"moments": {path: (mean, std)}}.
        """
        side = self.patch_size * 2 ** (len(self.depths) - 1)  # of a token of the last stage
        return core.on_whole_pixels(self, side, partial(self._logits, branch, train), image)

    def _logits(self, branch, train, image) -> jax.Array:
        """Of images of whole tokens at every stage."""
        norm = partial(
            DomainLayerNorm,
            num_branches=self.num_branches,
            momentum=self.momentum,
            statistics=self.statistics,
            axis_name=self.axis_name,
        )
        levels = len(self.depths)
        dims = [self.embed_dim * 2**i for i in range(levels)]

        embed = swin.PatchEmbed(dims[0], self.patch_size, norm, self.dtype, name="patch_embed")
        x = self._perturbed(embed(image, branch), train, 0)
        skips = []
        for i in range(levels):
            skips.append(x)
            x = self._blocks(x, branch, train, i, f"layers_{i}", norm)
            x = self._perturbed(x, train, i + 1)
            if i < levels - 1:
                merge = swin.PatchMerging(norm, self.dtype, name=f"layers_{i}_downsample")
                x = merge(x, branch)
        x = norm(name="norm")(x, branch)

        for up, i in enumerate(reversed(range(levels - 1)), start=1):
            name = "layers_up_0" if up == 1 else f"layers_up_{up - 1}_upsample"
            x = swin.PatchExpanding(norm, self.dtype, name=name)(x, branch)
            fuse = swin.dense(dims[i], self.dtype, f"concat_back_dim_{up}")
            x = fuse(jnp.concatenate([x, skips[i]], axis=-1))
            x = self._blocks(x, branch, train, i, f"layers_up_{up}", norm)
        x = norm(name="norm_up")(x, branch)
        head = swin.FinalExpansion(self.patch_size, self.num_classes, norm, name="up")
        return head(x, branch)

    def _perturbed(self, x, train, place) -> jax.Array:
        if place >= perturbation.STAGES:
            return x
        return perturbation.Perturbation(self.perturbation, name=f"perturb_{place}")(x, train)

    def _blocks(self, x, branch, train, level, name, norm) -> jax.Array:
        """The blocks of one stage, every second one with shifted windows."""
        earlier, last = sum(self.depths[:level]), max(sum(self.depths) - 1, 1)
        for j in range(self.depths[level]):
            make_block = partial(
                swin.SwinBlock,
                num_heads=self.num_heads[level],
                window_size=self.window_size,
                shifted=j % 2 == 1,
                norm=norm,
                mlp_ratio=self.mlp_ratio,
                drop_path_rate=self.drop_path_rate * (earlier + j) / last,
                dtype=self.dtype,
                attention=self.attention,
            )
            block_name = f"{name}_blocks_{j}"
            x = recomputed_if_asked(self, make_block, block_name, x, branch, train)
        return x


@dataclass(frozen=True)
class SwinUnetSettings(NetworkSettings):
    """A Swin-Unet: a preset, and what of it is set otherwise; None is as the preset says."""

    name: Annotated[str, one_of("swin_unet")] = "swin_unet"
    preset: Annotated[str, one_of(*PRESETS)] = "tiny"
    patch_size: Annotated[int | None, positive] = None
    embed_dim: Annotated[int | None, positive] = None
    depths: Annotated[tuple[int, ...] | None, each_positive] = None
    num_heads: Annotated[tuple[int, ...] | None, each_positive] = None
    window_size: Annotated[int | None, positive] = None
    mlp_ratio: Annotated[float, positive] = 4.0
    drop_path_rate: Annotated[float, below_one] = 0.1
    # "fused" is one kernel for GPUs (Pallas, by way of Triton), equal to "plain" but for rounding.
    # No card has run it yet: tested on CPUs by an interpreter, its speed is not known.
    attention: Annotated[str, one_of("plain", "fused"), AFTER_TRAINING] = "plain"
    pretrained: str = ""  # a PyTorch Swin-Unet checkpoint as .npz


def build(settings: SwinUnetSettings, num_branches: int) -> SwinUnet:
    """The network of its settings.

    Raises:
      UserError: sizes that do not fit each other.
    """
    sizes = core.sizes_of(settings, PRESETS)
    if len(sizes["depths"]) != len(sizes["num_heads"]):
        raise UserError(
            f"--config.model: depths {sizes['depths']} and num_heads {sizes['num_heads']} "
            "must have one entry per stage each"
        )
    for stage, heads in enumerate(sizes["num_heads"]):
        width = sizes["embed_dim"] * 2**stage
        if width % heads:
            raise UserError(
                f"--config.model.num_heads: {heads} heads do not divide the {width} channels "
                f"of stage {stage}"
            )
    if settings.attention == "fused":
        _check_kernel(sizes["window_size"])
    return SwinUnet(
        attention=settings.attention,
        mlp_ratio=settings.mlp_ratio,
        drop_path_rate=settings.drop_path_rate,
        **core.common(settings, num_branches),
        **sizes,
    )


def _check_kernel(window_size: int) -> None:
    """Refuses attention in one kernel where there is none."""
    if jax.default_backend() != "gpu":
        raise UserError(
            "--config.model.attention=fused: needs an accelerator, a GPU, and this is a "
            f"{jax.default_backend().upper()}; allowed here is plain, with the same result"
        )
    if window_size > LARGEST_FUSED_WINDOW:
        raise UserError(
            f"--config.model.attention=fused: windows of {window_size} tokens a side do not fit "
            f"its kernel; allowed is plain, or a window_size up to {LARGEST_FUSED_WINDOW}"
        )


def least_side(settings: SwinUnetSettings) -> tuple[int, str]:
    """The pixels of one token of the deepest stage, and why so many are needed."""
    sizes = core.sizes_of(settings, PRESETS)
    stages, patch = len(sizes["depths"]), sizes["patch_size"]
    return patch * 2 ** (stages - 1), f"patches of {patch}, {stages} stages"


def read_pretrained(path: str, model: nn.Module, image_shape: tuple[int, ...]) -> tuple[Any, str]:
    """The parameters in a PyTorch checkpoint, and lines that say what became of each.

    Raises:
      UserError: the file cannot be read, or does not fit the network.
    """
    params, report = convert.swin_unet_params(convert.read_state_dict(path), model, image_shape)
    return params, convert.describe(report)


KIND = core.Kind(SwinUnetSettings, build, least_side, read_pretrained)
