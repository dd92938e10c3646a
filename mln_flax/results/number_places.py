"""Where the numbers of outlines go: beside what they number, on nothing that is marked."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

_CELL_PX = 4  # places are looked for on a grid of such cells

_Outline = Sequence[tuple[float, float]]  # (row, column) corners
_Size = tuple[int, int]  # height, width


def places(
    size: _Size, outlines: Sequence[_Outline], sides: Sequence[_Size], gap: int
) -> list[tuple[int, int]]:
    """(top, left) of every outline's number, in the order of the outlines.

    Each stands where no outline, grown by `gap` pixels, and no earlier number is, as near to its
    own as there is room. Only where the picture has no such place it stands within an outline, as
    far from the middle of its own as can be.

    Args:
      size: of the picture.
      outlines: corners within the picture or a little outside.
      sides: (height, width) of each number.
      gap: between a number and all outlines.
    """
    taken = _filled(size, outlines, gap)
    corners = []
    for outline, side in zip(outlines, sides, strict=True):
        height, width = (min(-(-s // _CELL_PX), n) for s, n in zip(side, taken.shape, strict=True))
        covered = _covered(taken, height, width)
        # The last row and column of cells may lie partly outside of the picture.
        covered = covered[: max(1, (size[0] - side[0]) // _CELL_PX + 1)]
        covered = covered[:, : max(1, (size[1] - side[1]) // _CELL_PX + 1)]
        distance = _distance(outline, covered.shape, (height, width))
        free = covered == 0
        cost = np.where(free, distance, np.inf) if free.any() else covered - 1e-3 * distance
        row, column = np.unravel_index(np.argmin(cost), cost.shape)
        taken[row : row + height, column : column + width] = True
        corners.append((int(row) * _CELL_PX, int(column) * _CELL_PX))
    return corners


def leaders(
    corners: Sequence[tuple[int, int]],
    sides: Sequence[_Size],
    outlines: Sequence[_Outline],
    farthest: float,
) -> list[_Outline]:
    """A line from each number that is farther than `farthest` to its outline's nearest point."""
    lines: list[_Outline] = []
    for (top, left), (height, width), outline in zip(corners, sides, outlines, strict=True):
        points = _along(np.array(outline))
        start = np.clip(points, (top, left), (top + height, left + width))
        distance = np.hypot(*(points - start).T)
        nearest = int(np.argmin(distance))
        if distance[nearest] > farthest:
            lines.append([tuple(start[nearest]), tuple(points[nearest])])
    return lines


def _along(corners: np.ndarray) -> np.ndarray:
    """Points on every side of an outline: [16 N, 2]."""
    sides = np.roll(corners, -1, axis=0) - corners
    steps = np.arange(16)[:, None, None] / 16
    return (corners + steps * sides).reshape(-1, 2)


def _filled(size: _Size, outlines: Sequence[_Outline], gap: int) -> np.ndarray:
    """bool: cells that an outline, its inside or its surround touches."""
    from PIL import Image, ImageDraw

    cells = (-(-size[1] // _CELL_PX), -(-size[0] // _CELL_PX))
    picture = Image.new("L", cells)
    pen = ImageDraw.Draw(picture)
    for outline in outlines:
        corners = [(column / _CELL_PX, row / _CELL_PX) for row, column in outline]
        pen.polygon(corners, fill=255, outline=255)
    reach = 2 * (-(-gap // _CELL_PX) + 1) + 1  # and a cell for what drawing rounds
    return ndimage.maximum_filter(np.asarray(picture) > 0, reach)


def _covered(taken: np.ndarray, height: int, width: int) -> np.ndarray:
    """How many taken cells every box of this size holds, by its top left cell."""
    total = np.pad(taken.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    rows = total[height:] - total[:-height]
    return rows[:, width:] - rows[:, :-width]


def _distance(outline: _Outline, shape: tuple[int, ...], side: _Size) -> np.ndarray:
    """Cells from the middle of every box of this size to the middle of the outline.

    Along the outline's longer side it counts less, so that a number stays near to a long cluster.
    """
    points = np.array(outline) / _CELL_PX
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    extent = np.maximum(points.max(axis=0) - points.min(axis=0) + side, 1)
    rows, columns = (np.arange(n) + s / 2 for n, s in zip(shape, side, strict=True))
    down, across = (rows - middle[0]) / extent[0], (columns - middle[1]) / extent[1]
    # A little more for below and left: equally near, a number stands above and right.
    lean = 1e-3 * (down[:, None] - across[None])
    return np.hypot(down[:, None], across[None]) * np.sqrt(extent.prod()) + lean
