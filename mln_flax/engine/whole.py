"""A whole image as a network sees it: its pixel size, its tiles, and the way back.

An image is resampled to the pixel size that the model was trained at and cut into tiles that
overlap. Their probabilities are blended, brought back to the image's own pixels, and kept inside
the breast. What is marked is decided once, on the result.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mln_flax.data.prepare.tiles import breast_mask

Spacing = tuple[float, float]  # mm of a pixel: (row, column)
FULL = 0.9  # share of breast in a tile by which a branch is chosen
MOST_PIXELS = 1 << 28  # of an image at the model's pixel size: 16,384 x 16,384


class Tiling(NamedTuple):
    """How a whole image is cut."""

    side: int  # of a tile, pixels
    overlap: int  # of neighbors, pixels; less than a side

    @property
    def margin(self) -> int:
        """Pixels at a tile's inner edges that count for nothing: they see too little around."""
        return self.overlap // 4


class Scene(NamedTuple):
    """An image on its way through the network."""

    image: np.ndarray  # float32 [h, w], at the model's pixel size
    shape: tuple[int, int]  # (H, W) of the image itself
    breast: np.ndarray  # bool [H, W]: where anything may be marked
    tiling: Tiling
    corners: tuple[tuple[int, int], ...]  # (top, left) of each tile, by rows


def scene(image: np.ndarray, scale: Spacing, tiling: Tiling) -> Scene:
    """The scene of an image [H, W] in [0, 1]; a tile without any breast is left out.

    Args:
      image: as read.
      scale: how many pixels of the model one of the image's is, (row, column).
      tiling: at the model's pixel size.

    Raises:
      ValueError: resampled, the image has more than MOST_PIXELS.
    """
    height, width = image.shape
    shape = (max(1, round(height * scale[0])), max(1, round(width * scale[1])))
    if shape[0] * shape[1] > MOST_PIXELS:
        raise ValueError(
            f"{height}x{width} pixels are {shape[0]}x{shape[1]} at the model's pixel size; allowed "
            f"are {MOST_PIXELS:,} in all"
        )
    breast = breast_mask(image)
    small = image if shape == image.shape else resampled(image, shape)
    inside = breast if shape == image.shape else nearest(breast, shape)
    corners = tuple(
        (top, left)
        for top in starts(shape[0], tiling)
        for left in starts(shape[1], tiling)
        if inside[top : top + tiling.side, left : left + tiling.side].any()
    )
    return Scene(small, (height, width), breast, tiling, corners)


def full_corners(scene: Scene, side: int) -> list[tuple[int, int]]:
    """Where tiles [side, side] lie that are nearly all breast, without overlap: (top, left) each.

    They decide what kind of image it is: training shows little air, and the edge of the skin has a
    sign of its own, which is taken for that of the whole image. Where none is so full it is the
    fullest; of no breast none.
    """
    inside = scene.breast
    if inside.shape != scene.image.shape:
        inside = nearest(inside, scene.image.shape)
    shares = {
        (top, left): float(inside[top : top + side, left : left + side].mean())
        for top in range(0, max(1, inside.shape[0] - side + 1), side)
        for left in range(0, max(1, inside.shape[1] - side + 1), side)
    }
    least = min(FULL, max(shares.values()))
    return [corner for corner, share in shares.items() if share >= least > 0]


def cut_at(scene: Scene, corners: Sequence[tuple[int, int]], side: int) -> np.ndarray:
    """The tiles float32 [n, side, side] at corners; continued by the image's edge beyond it."""
    tiles = np.empty((len(corners), side, side), np.float32)
    for tile, (top, left) in zip(tiles, corners, strict=True):
        window = scene.image[top : top + side, left : left + side]
        missing = ((0, side - window.shape[0]), (0, side - window.shape[1]))
        tile[:] = np.pad(window, missing, mode="edge") if window.shape != tile.shape else window
    return tiles


def starts(length: int, tiling: Tiling) -> list[int]:
    """Where tiles begin along an axis: evenly, from edge to edge, with at least the overlap."""
    last = length - tiling.side
    if last <= 0:
        return [0]
    count = 1 + -(-last // (tiling.side - tiling.overlap))
    return [round(last * i / (count - 1)) for i in range(count)]


def blended(scene: Scene, tiles: np.ndarray) -> np.ndarray:
    """The map float32 [h, w] of maps of tiles [n, side, side], their weighted mean; 0 elsewhere.

    A tile's weight falls linearly to its inner edges and is 0 in their margin: a pixel has its
    value from the tiles that see enough around it. Edges of the image have full weight.

    Args:
      scene: of the image.
      tiles: at its corners, in their order.
    """
    shape, side = scene.image.shape, scene.tiling.side
    total, weights = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for (top, left), tile in zip(scene.corners, tiles, strict=True):
        rows = weight(top, shape[0], scene.tiling)
        columns = weight(left, shape[1], scene.tiling)
        window = (slice(top, top + side), slice(left, left + side))
        share = np.multiply.outer(rows, columns)
        total[window] += share * tile[: len(rows), : len(columns)]
        weights[window] += share
    return np.divide(total, weights, out=total, where=weights > 0)


def weight(start: int, length: int, tiling: Tiling) -> np.ndarray:
    """The weight of a tile along an axis, float32, as far as it lies inside the image."""
    stop = min(start + tiling.side, length)
    at = np.arange(start, stop, dtype=np.float32) + 0.5
    ramp = max(tiling.overlap - 2 * tiling.margin, 1)
    shares = np.ones(stop - start, np.float32)
    if start > 0:
        shares = np.minimum(shares, (at - start - tiling.margin) / ramp)
    if stop < length:
        shares = np.minimum(shares, (stop - at - tiling.margin) / ramp)
    return shares.clip(0)


def in_own_pixels(scene: Scene, values: np.ndarray) -> np.ndarray:
    """A map [h, w] at the model's pixel size as [H, W] in the image's own; 0 outside the breast.

    Between the model's pixels it is interpolated. A pixel that several of the model's fall on has
    the highest of them: nothing is thinned out below what marks it.
    """
    own = values
    if values.shape != scene.shape:
        pooled = [
            max(1, -(-small // large))
            for small, large in zip(values.shape, scene.shape, strict=True)
        ]
        if max(pooled) > 1:
            values = ndimage.maximum_filter(values, size=pooled)
        own = interpolated(values, scene.shape)
    return np.where(scene.breast, own, np.float32(0))


def resampled(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """An image float32 [H, W] at another size; the linear filter widens where it shrinks."""
    from PIL import Image

    source = Image.fromarray(np.ascontiguousarray(image, np.float32))
    return np.asarray(source.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def interpolated(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Values float32 [h, w] at the pixel centers of another size, linear between their own."""
    for axis, length in enumerate(shape):
        size = values.shape[axis]
        at = ((np.arange(length) + 0.5) * size / length - 0.5).clip(0, size - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, size - 1)
        part = (at - low).astype(np.float32)
        part = part[:, None] if axis == 0 else part[None, :]
        values = values.take(low, axis) * (1 - part) + values.take(high, axis) * part
    return values


def nearest(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Values [H, W] at another size, each pixel the one that its center falls on."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(shape, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]
