"""Tiles of whole mammograms: where the breast is, how an image is cut, and the way back."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from mln_flax.data.core import Example
from mln_flax.types import UserError

# The breast is looked for in a copy of at most this many pixels a side (chosen): noise averages
# out, one opening fits every resolution, and a 50-micron film costs no more than a small one.
_SEARCH_SIDE = 256
# Air: even gray at an end of the range. Of whole phantoms of the four machines it is 0.31 and more
# of the image, so half of that is sure; in their crops without air half of it is rare.
_EVEN, _END = 0.05, 0.15  # shares of the range: of gray levels around a pixel, and next to an end
_LEAST_AIR, _MORE = 0.15, 1.5  # share of the image, and times that at the other end


def breast_mask(image: np.ndarray) -> np.ndarray:
    """Where the breast is: bool [H, W]; all False where the image has a single gray level.

    The air may be black or white, as `air_is_white` tells; where it does not, it is what fills
    most of the image's margin. Otsu's threshold
    finds the tissue, Otsu's threshold of what is left the edge of the skin line, and halfway from
    there to the air's median lies the outline. After an opening that cuts thin bridges the largest
    piece counts, so that label markers in the air are left out; one that overlaps the skin stays.

    Args:
      image: [H, W] in any range, for example 8 to 16 bits scaled to [0, 1].
    """
    level = _search_level(image)
    if level is None:
        return np.zeros(image.shape, bool)
    white = _air_is_white(level)
    if white is None:
        margin = np.ones(level.shape, bool)
        # Wide enough to outweigh the bright or dark frame that a digitized film may have.
        depth = max(1, min(level.shape) // 10)
        margin[depth:-depth, depth:-depth] = False
        white = bool(np.mean(level[margin] > _otsu(level)) > 0.5)
    if white:
        level = 1 - level
    breast = _main_piece(level > _outline_level(level))
    return _resize(breast.astype(np.float32), image.shape, "bilinear") >= 0.5


def air_is_white(image: np.ndarray) -> bool | None:
    """Whether the air around the breast is white, so the image inverted; None: no air is seen.

    Air is the even gray at one end of the range that fills most of an image; tissue, whose texture
    is uneven, and labels and edges of films at the other end, which are small, fill less.

    Args:
      image: [H, W] in any range.
    """
    level = _search_level(image)
    return None if level is None else _air_is_white(level)


def _air_is_white(level: np.ndarray) -> bool | None:
    """As `air_is_white`, of the small copy."""
    if min(level.shape) < 3:
        return None
    around = np.lib.stride_tricks.sliding_window_view(level, (3, 3))
    even = around.max(axis=(2, 3)) - around.min(axis=(2, 3)) < _EVEN
    center = level[1:-1, 1:-1]
    dark, bright = np.mean(even & (center < _END)), np.mean(even & (center > 1 - _END))
    if max(dark, bright) < max(_LEAST_AIR, _MORE * min(dark, bright)):
        return None
    return bool(bright > dark)


def _search_level(image: np.ndarray) -> np.ndarray | None:
    """The search copy from 0 to 1; None where it has a single gray level."""
    search = _search_copy(image)
    low, high = np.percentile(search, (0.5, 99.5))  # a few hot pixels must not set the scale
    if not high > low:
        low, high = float(search.min()), float(search.max())
    return np.clip((search - low) / (high - low), 0, 1) if high > low else None


def _search_copy(image: np.ndarray) -> np.ndarray:
    """The small copy of an image in which the breast is looked for."""
    height, width = image.shape
    factor = min(1.0, _SEARCH_SIDE / max(height, width))
    return _resize(image, (max(1, round(height * factor)), max(1, round(width * factor))), "box")


def _main_piece(tissue: np.ndarray) -> np.ndarray:
    """The largest piece of `tissue` after cutting thin bridges, without holes."""
    radius = max(1, max(tissue.shape) // 64)
    cross = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), radius)
    # Continued beyond the image, or the opening would eat what the image's border cuts off.
    continued = np.pad(tissue, radius, mode="edge")
    opened = ndimage.binary_opening(continued, cross)[radius:-radius, radius:-radius]
    pieces, count = ndimage.label(opened)
    if not count:
        return opened
    return ndimage.binary_fill_holes(pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]))


def _outline_level(level: np.ndarray) -> float:
    """The gray level that parts the breast with its skin line from dark air."""
    dark = level[level <= _otsu(level)]
    edge = _otsu(dark) if dark.max() > dark.min() else dark.max()
    air = np.median(dark)
    return float(air + (edge - air) / 2)


def _otsu(values: np.ndarray) -> float:
    """The threshold that parts values into two classes of greatest between-class variance.

    Source: N. Otsu, IEEE Trans. Systems, Man, and Cybernetics 9 (1979) 62-66.
    """
    counts, edges = np.histogram(values, 256)
    centers = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = np.cumsum(counts * centers)
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1 + np.argmax(below * above * (mean_below - mean_above) ** 2)])


def cut(example: Example, rows: int, columns: int, size: int) -> tuple[Example, ...]:
    """The tiles of a whole image, row by row, each resampled to size x size.

    A tile spans ceil(H / rows) x ceil(W / columns) image pixels. Where that does not divide
    evenly, the image is continued by its last row and column and the mask by zeros. The image is
    resampled with an antialiased linear filter. A tile pixel is labeled where half of its area
    is; a labeled spot too small for that keeps the one tile pixel that it fills most.

    A tile's `image_id` ends in `_r0c1`, its `spacing_mm` is its own (row, column), and its
    `to_image` is the 2x3 affine from the tile's (column, row, 1) to the image's (column, row),
    with pixel centers at integers. Its `objects` are the image's own pixels in its window.

    Raises:
      UserError: fewer pixels than tiles, or rows, columns or size below 1.
      ValueError: the example is a tile already.
    """
    if example.to_image is not None:
        raise ValueError(f"{example.image_id} is a tile; only whole images are cut")
    if min(rows, columns, size) < 1:
        raise UserError(f"tiles: rows={rows}, columns={columns}, size={size}; each must be >= 1")
    height, width = example.image.shape
    if height < rows or width < columns:
        raise UserError(
            f"{example.image_id}: an image of {height}x{width} pixels cannot be cut into "
            f"{rows}x{columns} tiles"
        )
    tall, wide = math.ceil(height / rows), math.ceil(width / columns)
    padding = ((0, tall * rows - height), (0, wide * columns - width))
    image = np.pad(example.image, padding, mode="edge")
    mask = np.pad(example.mask, padding)
    objects = None if example.objects is None else np.pad(example.objects, padding)
    scale = (tall / size, wide / size)
    spacing = example.spacing_mm
    tiles = []
    for row, column in np.ndindex(rows, columns):
        top, left = row * tall, column * wide
        window = (slice(top, top + tall), slice(left, left + wide))
        tiles.append(
            example._replace(
                image=_resize(image[window], (size, size), "bilinear"),
                mask=_resize_mask(mask[window], size),
                image_id=f"{example.image_id}_r{row}c{column}",
                spacing_mm=spacing and (spacing[0] * scale[0], spacing[1] * scale[1]),
                to_image=_affine(top, left, scale),
                objects=None if objects is None else objects[window],
                image_shape=(height, width),
            )
        )
    return tuple(tiles)


def _affine(top: int, left: int, scale: tuple[float, float]) -> np.ndarray:
    """The 2x3 affine of a tile whose first image pixel is (top, left)."""
    # Pixel centers are at integers, so the tile's outer edge lies at -0.5 on both sides.
    return np.array(
        [
            [scale[1], 0.0, left - 0.5 + 0.5 * scale[1]],
            [0.0, scale[0], top - 0.5 + 0.5 * scale[0]],
        ]
    )


def _resize(image: np.ndarray, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """A float32 image resampled to `shape`; filters widen when shrinking, so nothing aliases."""
    from PIL import Image

    resample = {"bilinear": Image.Resampling.BILINEAR, "box": Image.Resampling.BOX}[kind]
    source = Image.fromarray(np.ascontiguousarray(image, np.float32))
    return np.array(source.resize((shape[1], shape[0]), resample))


def _resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """A mask resampled to size x size from which no connected spot is lost."""
    share = _resize(mask, (size, size), "box")
    small = (share >= 0.5).astype(np.uint8)
    spots, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        return small
    row, column = np.nonzero(mask)
    spot = spots[row, column]
    # The tile pixel on which each labeled image pixel falls.
    row = ((row + 0.5) * size / mask.shape[0]).astype(int)
    column = ((column + 0.5) * size / mask.shape[1]).astype(int)
    kept = np.zeros(count + 1, bool)
    kept[spot[small[row, column] > 0]] = True
    order = np.argsort(share[row, column], kind="stable")  # the fullest pixel is written last
    best = np.zeros(count + 1, int)
    best[spot[order]] = order
    lost = best[1:][~kept[1:]]
    small[row[lost], column[lost]] = 1
    return small


def put_back(
    tiles_arrays: Sequence[np.ndarray],
    affines: Sequence[np.ndarray],
    image_shape: tuple[int, int],
) -> np.ndarray:
    """The whole image [H, W] stitched from what was computed on its tiles, of the same dtype.

    Integers and booleans (masks) are taken from the nearest tile pixel, floats (probabilities)
    are interpolated linearly. What no tile covers is zero.

    Args:
      tiles_arrays: one [h, w] array per tile.
      affines: the tiles' `to_image`.
      image_shape: of the whole image; padding beyond it is cut off.
    """
    whole = np.zeros(image_shape, np.asarray(tiles_arrays[0]).dtype)
    for array, affine in zip(tiles_arrays, affines, strict=True):
        tile = np.asarray(array)
        window = _footprint(affine, tile.shape, image_shape)
        rows = (np.arange(window[0].start, window[0].stop) - affine[1, 2]) / affine[1, 1]
        columns = (np.arange(window[1].start, window[1].stop) - affine[0, 2]) / affine[0, 0]
        if np.issubdtype(tile.dtype, np.floating):
            grid = np.meshgrid(rows, columns, indexing="ij")
            whole[window] = ndimage.map_coordinates(tile, grid, order=1, mode="nearest")
        else:
            nearest = [
                np.clip(np.floor(at + 0.5).astype(int), 0, length - 1)
                for at, length in zip((rows, columns), tile.shape, strict=True)
            ]
            whole[window] = tile[np.ix_(*nearest)]
    return whole


def whole_objects(tiles: Sequence[Example], image_shape: tuple[int, int]) -> np.ndarray:
    """The whole image's objects, uint16 [H, W], pixel by pixel as they were before cutting.

    Args:
      tiles: all tiles of one image; one without `objects` has none.
      image_shape: of the whole image.
    """
    whole = np.zeros(image_shape, np.uint16)
    for tile in tiles:
        if tile.objects is not None and tile.to_image is not None:
            window = _footprint(tile.to_image, tile.mask.shape, image_shape)
            rows, columns = (part.stop - part.start for part in window)
            whole[window] = tile.objects[:rows, :columns]
    return whole


def window_shape(affine: np.ndarray, tile_shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a tile's window in pixels of the whole image, padding included."""
    height, width = (round(n * affine[1 - a, 1 - a]) for a, n in enumerate(tile_shape))
    return height, width


def _footprint(
    affine: np.ndarray, tile_shape: tuple[int, ...], image_shape: tuple[int, ...]
) -> tuple[slice, slice]:
    """The rows and columns of the image whose pixels a tile covers."""
    if affine[0, 1] or affine[1, 0]:
        raise ValueError(f"a tile's affine neither turns nor shears: {affine.tolist()}")
    window = []
    for axis, (tile_length, image_length) in enumerate(zip(tile_shape, image_shape, strict=True)):
        scale, offset = affine[1 - axis, 1 - axis], affine[1 - axis, 2]
        first = round(offset - 0.5 * scale + 0.5)
        last = round(first + tile_length * scale)
        window.append(slice(min(max(first, 0), image_length), min(last, image_length)))
    return window[0], window[1]


def breast_share(breast: np.ndarray, tile: Example) -> float:
    """The share of a tile's area, padding included, that is breast: 0 to 1.

    Args:
      breast: bool [H, W], the `breast_mask` of the whole image.
      tile: one of the image's tiles.
    """
    if tile.to_image is None:
        raise ValueError(f"{tile.image_id} is not a tile")
    height, width = tile.image.shape
    area = height * tile.to_image[1, 1] * width * tile.to_image[0, 0]
    return float(breast[_footprint(tile.to_image, tile.image.shape, breast.shape)].sum() / area)


def thumbnail(whole: Example, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A small copy of an image and of its mask, uint8, the longer side at most `side` pixels."""
    factor = min(1.0, side / max(whole.image.shape))
    shape = tuple(max(1, round(length * factor)) for length in whole.image.shape)
    image = np.round(_resize(whole.image, shape, "box").clip(0, 1) * 255).astype(np.uint8)
    # Any label in a pixel counts: a single calcification would vanish otherwise.
    mask = (_resize(whole.mask, shape, "box") > 1e-6).astype(np.uint8)
    return image, mask
