"""Swin-Unet (Cao et al., 2021) with branches: plain and multi-LN are one class."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mln_flax.models import moments, swin
from mln_flax.models.norms import DomainLayerNorm
from mln_flax.models.recompute import recomputed
from mln_flax.types import Moments


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
    statistics: str = "channel"
    momentum: float = 0.95
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, image: jax.Array, branch: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, Moments]]:
        """The logits and the moments of every layer norm.

        Args:
          image: float [B, H, W, channels].
          branch: int32 [B]: the branch of each sample; a batch may mix branches. Negative marks
            padding, which counts in no statistics.
          train: stochastic depth is on; needs the random stream "dropout".

        Returns:
          logits float32 [B, H, W, num_classes], and {"moments": {path: (mean, std)}}.
        """
        height, width = image.shape[1:3]
        side = self.patch_size * 2 ** (len(self.depths) - 1)  # of a token of the last stage
        padding = ((0, 0), (0, -height % side), (0, -width % side), (0, 0))
        image = jnp.pad(image.astype(self.dtype), padding, mode="edge")
        with moments.collected() as norm_moments:
            logits = self._logits(image, branch, train)
        return logits[:, :height, :width], {"moments": norm_moments}

    def _logits(self, image, branch, train) -> jax.Array:
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
        x = embed(image, branch)
        skips = []
        for i in range(levels):
            skips.append(x)
            x = self._blocks(x, branch, train, i, f"layers_{i}", norm)
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
            )
            block_name = f"{name}_blocks_{j}"
            if self.remat and not self.is_initializing():
                x = recomputed(self, make_block, block_name, x, branch, train)
            else:
                x = make_block(name=block_name)(x, branch, train)
        return x
