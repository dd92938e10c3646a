"""A whole image as a network sees it: its pixel size, its tiles, and the way back.

An image is resampled to the pixel size that the model was trained at and cut into tiles that
overlap. Their probabilities are blended, brought back to the image's own pixels, and kept inside
the breast. What is marked is decided once, on the result.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mln_flax.data.prepare.tiles import air_is_white, breast_mask

Spacing = tuple[float, float]  # mm of a pixel: (row, column)
LEAST_SIDE = 8  # pixels of an image: no calcification can be told from its surround in fewer
# Of an image, and of it at the model's pixel size: memory stays below 4 GB. A film of 24 x 30 cm
# in 25-micron pixels has 115 million.
MOST_PIXELS = 120_000_000
FULL = 0.9  # share of breast in a tile by which a branch is chosen
MOST_FULL = 24  # tiles of an image by which it is chosen. Chosen.
GRID = 32  # pixels: the largest step of a network, which halves its maps five times
_ROWS = 256  # of an image that are worked on at a time, to need little memory
_AROUND = 2  # pixels of a map that interpolation takes from beyond the breast


class Tiling(NamedTuple):
    """How a whole image is cut."""

    side: int  # of a tile, pixels
    overlap: int  # of neighbors, pixels; less than a side

    @property
    def margin(self) -> int:
        """Pixels at a tile's inner edges that count for nothing: they see too little around."""
        return self.overlap // 4

    @property
    def grid(self) -> int:
        """Where tiles may begin, pixels: so a network's coarse maps lie alike in all of them."""
        room = max(1, self.side - self.overlap)
        return min(GRID, 1 << (room.bit_length() - 1))


class Scene(NamedTuple):
    """An image on its way through the network."""

    image: np.ndarray  # float32 [h, w], at the model's pixel size
    shape: tuple[int, int]  # (H, W) of the image itself
    breast: np.ndarray  # bool [H, W]: where anything may be marked
    tiling: Tiling
    corners: tuple[tuple[int, int], ...]  # (top, left) of each tile, by rows
    inverted: bool | None = None  # the air is white; None: no air is seen

    @property
    def inside(self) -> np.ndarray:
        """The breast at the model's pixel size, bool [h, w]."""
        same = self.breast.shape == self.image.shape
        return self.breast if same else nearest(self.breast, self.image.shape)


def scene(image: np.ndarray, scale: Spacing, tiling: Tiling) -> Scene:
    """The scene of an image [H, W] in [0, 1]; a tile without any breast is left out.

    Args:
      image: as read.
      scale: how many pixels of the model one of the image's is, (row, column).
      tiling: at the model's pixel size.

    Raises:
      ValueError: the image, or what it is resampled to, has more than MOST_PIXELS.
    """
    height, width = image.shape
    size = (height * scale[0], width * scale[1])
    if max(height * width, size[0] * size[1]) > MOST_PIXELS:
        raise ValueError(
            f"{height}x{width} pixels are {size[0]:.0f}x{size[1]:.0f} at the model's pixel size; "
            f"allowed are {MOST_PIXELS:,} in all"
        )
    shape = (max(1, round(size[0])), max(1, round(size[1])))
    small = image if shape == image.shape else resampled(image, shape)
    uncut = Scene(small, (height, width), breast_mask(image), tiling, (), air_is_white(image))
    inside = uncut.inside
    corners = tuple(
        (top, left)
        for top in starts(shape[0], tiling)
        for left in starts(shape[1], tiling)
        if window(inside, (top, left), tiling.side, _AROUND).any()
    )
    return uncut._replace(corners=corners)


def window(values: np.ndarray, corner: tuple[int, int], side: int, around: int = 0) -> np.ndarray:
    """What of an array lies in a tile, and so many pixels around it."""
    top, left = corner
    rows = slice(max(0, top - around), top + side + around)
    return values[rows, max(0, left - around) : left + side + around]


def full_corners(scene: Scene, side: int, most: int | None = MOST_FULL) -> list[tuple[int, int]]:
    """Where tiles [side, side] lie that are nearly all breast: (top, left) each.

    They lie side by side, the last of a row and of a column at the image's edge.

    They decide what kind of image it is: training shows little air, and the edge of the skin has a
    sign of its own, which is taken for that of the whole image. Where none is so full it is the
    fullest; of no breast none. Of many at most `most` are taken, evenly spread.
    """
    inside = scene.inside
    shares = {
        (top, left): float(inside[top : top + side, left : left + side].mean())
        for top in side_by_side(inside.shape[0], side)
        for left in side_by_side(inside.shape[1], side)
    }
    least = min(FULL, max(shares.values()))
    full = [corner for corner, share in shares.items() if share >= least > 0]
    return full if most is None else [full[place] for place in spread(len(full), most)]


def spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, evenly spread, the first and the last too."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def side_by_side(length: int, side: int) -> list[int]:
    """Where tiles begin that cover an axis, each behind the other, the last at the end."""
    return [*range(0, length - side, side), max(0, length - side)]


def cut_at(scene: Scene, corners: Sequence[tuple[int, int]], side: int) -> np.ndarray:
    """The tiles float32 [n, side, side] at corners; continued by the image's edge beyond it."""
    tiles = np.empty((len(corners), side, side), np.float32)
    for tile, corner in zip(tiles, corners, strict=True):
        part = window(scene.image, corner, side)
        height, width = part.shape
        tile[:height, :width] = part
        tile[:height, width:] = part[:, -1:]
        tile[height:] = tile[height - 1]
    return tiles


def starts(length: int, tiling: Tiling) -> list[int]:
    """Where tiles begin along an axis: evenly on the grid, with at least the overlap.

    The first begins at the edge; the last may reach less than a step of the grid beyond the other.
    """
    steps = -(-(length - tiling.side) // tiling.grid)
    if steps <= 0:
        return [0]
    count = -(-steps // ((tiling.side - tiling.overlap) // tiling.grid))
    return [steps * i // count * tiling.grid for i in range(count + 1)]


def tiles_of(scene: Scene, numbers: Sequence[int] | None = None) -> np.ndarray:
    """The tiles float32 [n, side, side]; beyond the image they are continued by its edge.

    Args:
      scene: of an image.
      numbers: of the tiles that are wanted; None for all.
    """
    wanted = range(len(scene.corners)) if numbers is None else numbers
    return cut_at(scene, [scene.corners[number] for number in wanted], scene.tiling.side)


def add(total: np.ndarray, scene: Scene, number: int, tile: np.ndarray) -> None:
    """Adds the map [side, side] of one tile to a total [h, w], by the tile's weights there.

    Of all tiles together the total is their weighted mean. What was left out of a scene counts as
    zero, and only where there is no breast.
    """
    top, left = scene.corners[number]
    rows = weights(scene.image.shape[0], scene.tiling)[top]
    columns = weights(scene.image.shape[1], scene.tiling)[left]
    share = np.multiply.outer(rows, columns)
    share *= tile[: len(rows), : len(columns)]
    window(total, (top, left), scene.tiling.side)[:] += share


@functools.lru_cache(maxsize=64)
def weights(length: int, tiling: Tiling) -> dict[int, np.ndarray]:
    """The weights of tiles along an axis by where they begin, as far as they lie in the image.

    They fall linearly to a tile's inner edges and are 0 in its margin: a pixel has its value from
    the tiles that see enough around it. At each pixel their sum is 1.
    """
    ramp = max(tiling.overlap - 2 * tiling.margin, 1)
    total, single = np.zeros(length), {}
    for start in starts(length, tiling):
        stop = min(start + tiling.side, length)
        at, share = np.arange(start, stop) + 0.5, np.ones(stop - start)
        if start > 0:
            share = np.minimum(share, (at - start - tiling.margin) / ramp)
        if stop < length:
            share = np.minimum(share, (start + tiling.side - at - tiling.margin) / ramp)
        single[start] = share.clip(0)
        total[start:stop] += single[start]
    return {
        start: (share / total[start : start + len(share)]).astype(np.float32)
        for start, share in single.items()
    }


def in_own_pixels(scene: Scene, values: np.ndarray) -> np.ndarray:
    """A map [h, w] at the model's pixel size as [H, W] in the image's own; 0 outside the breast.

    Linear between the model's pixels. No peak is lost: a pixel has at least the highest of the
    values whose centers lie in it.
    """
    height, width = scene.shape
    own = np.empty(scene.shape, np.float32)
    columns = along(values, 1, width)
    for top in range(0, height, _ROWS):
        rows = slice(top, min(top + _ROWS, height))
        of_rows = along(columns, 0, height, rows.start, rows.stop)
        own[rows] = np.where(scene.breast[rows], of_rows, np.float32(0))
    return own


def along(
    values: np.ndarray, axis: int, length: int, first: int = 0, stop: int | None = None
) -> np.ndarray:
    """Values [h, w] at another length along an axis, or the part of it from `first` to `stop`."""
    stop, size = length if stop is None else stop, values.shape[axis]
    if size == length:
        return values.take(np.arange(first, stop), axis)
    step = size / length
    at = ((np.arange(first, stop) + 0.5) * step - 0.5).clip(0, size - 1)
    low = np.floor(at).astype(int)
    part = (at - low).astype(np.float32)
    part = part[:, None] if axis == 0 else part[None, :]
    out = values.take(low, axis) * (1 - part)
    out += values.take(np.minimum(low + 1, size - 1), axis) * part
    # The centers in the i-th pixel are the numbers from edges[i] to below edges[i + 1].
    edges = np.ceil(np.arange(first, stop + 1) * step - 0.5 - 1e-9).astype(int)
    for i in range(math.ceil(step)):
        inside = np.flatnonzero(edges[:-1] + i < edges[1:])
        where = (inside,) if axis == 0 else (slice(None), inside)
        out[where] = np.maximum(out[where], values.take(edges[inside] + i, axis))
    return out


def resampled(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """An image float32 [H, W] at another size; the linear filter widens where it shrinks."""
    from PIL import Image

    source = Image.fromarray(np.ascontiguousarray(image, np.float32))
    return np.asarray(source.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def nearest(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Values [H, W] at another size, each pixel the one that its center falls on."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(shape, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]
