"""A machine's own pixels: coarser than the grid, drawn so and resampled as prediction does."""

import numpy as np
from scipy import sparse

from mln_flax.data.phantoms.anatomy import Grid


def coarse_grid(grid: Grid, pixel_mm: float, phase: np.ndarray) -> Grid:
    """A machine's own pixels of `pixel_mm` that cover a grid.

    A whole view has as many as an image file of it would. A window's pixels begin up to a pixel
    before it, by `phase` [2] in [0, 1), as the pixels of a file do not know of windows.

    Args:
      grid: finer than `pixel_mm`.
      pixel_mm: side of a pixel of the machine.
      phase: of x and y; a whole view does not look at it.
    """
    axes = []
    for axis, part in zip((grid.x, grid.y), phase, strict=True):
        first, length = axis[0] - grid.spacing_mm / 2, len(axis) * grid.spacing_mm
        if grid.whole:
            count = max(1, round(length / pixel_mm))
            axes.append(first + (np.arange(count) + 0.5) * (length / count))
        else:
            count = int(np.ceil(length / pixel_mm + part)) + 1
            axes.append(first + (np.arange(count) + 0.5 - part) * pixel_mm)
    return Grid(axes[0], axes[1], pixel_mm, grid.whole)


def on_grid(image: np.ndarray, coarse: Grid, grid: Grid) -> np.ndarray:
    """An image of a machine's own pixels on a finer grid, float32, in breast coordinates.

    Linear between the centers of pixels, the last of which goes on outside: what
    `mln_flax.engine.whole.resampled` does when an image is predicted.
    """
    rows, columns = _linear(coarse.y, grid.y), _linear(coarse.x, grid.x)
    return (columns @ np.ascontiguousarray((rows @ image).T)).T


def _linear(old: np.ndarray, new: np.ndarray) -> sparse.csr_array:
    """Linear interpolation from regular places to others as a matrix float32 [new, old]."""
    step = old[1] - old[0] if len(old) > 1 else 1.0
    at = ((new - old[0]) / step).clip(0, len(old) - 1)
    low = np.minimum(np.floor(at).astype(np.int32), max(len(old) - 2, 0))
    high = np.minimum(low + 1, len(old) - 1)
    part = (at - low).astype(np.float32)
    weights = np.stack([1 - part, part], axis=1).ravel()
    starts = np.arange(len(new) + 1, dtype=np.int32) * 2
    points = np.stack([low, high], axis=1).ravel()
    return sparse.csr_array((weights, points, starts), shape=(len(new), len(old)))
