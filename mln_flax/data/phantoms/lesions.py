"""Calcifications of a phantom and what looks like them: their attenuation and their masks."""

import numpy as np

from mln_flax.data.phantoms import anatomy, coverage
from mln_flax.data.phantoms.benign import distractors
from mln_flax.data.phantoms.clusters import Focus, cluster, focus
from mln_flax.data.phantoms.coverage import Spot
from mln_flax.data.phantoms.morphology import NET_PER_MM

__all__ = ["Focus", "Spot", "cluster", "distractors", "draw", "focus"]


def draw(spots: list[Spot], grid: anatomy.Grid) -> tuple[np.ndarray, np.ndarray]:
    """The spots' attenuation, float32 [H, W], and the mask of the labeled ones, uint8 [H, W].

    Attenuation is the path through a spot, mean over the pixel, times 0.745 per mm (calcium
    oxalate net of gland at 20 keV) times the spot's density. A pixel is in the mask when one
    labeled spot covers half of it or more; a spot in the image that covers no pixel so far marks
    the pixel it covers most. Spots add up in the attenuation.
    """
    shape = len(grid.y), len(grid.x)
    layer, mask = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    for spot, pixels, share, chord_mm in coverage.parts(spots, grid):
        layer[pixels] += np.float32(NET_PER_MM * spot.density) * chord_mm
        if spot.labeled:
            covered = share >= 0.5
            if not covered.any() and _holds(grid, spot):
                if not share.any():  # it lies between the sampled points
                    x, y = grid.x[pixels[1]] - spot.x, grid.y[pixels[0]] - spot.y
                    share = -np.hypot(x, y[:, None])
                covered = np.arange(share.size).reshape(share.shape) == share.argmax()
            mask[pixels] |= covered.astype(np.uint8)
    return layer, mask


def _holds(grid: anatomy.Grid, spot: Spot) -> bool:
    """Whether a spot's middle lies in the image."""
    half = grid.spacing_mm / 2
    inside_x = grid.x[0] - half <= spot.x < grid.x[-1] + half
    return bool(inside_x and grid.y[0] - half <= spot.y < grid.y[-1] + half)
