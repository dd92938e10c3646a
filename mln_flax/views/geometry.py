"""Geometric augmentation (paper, Fig. 9): one random flip, scale and crop of image and mask.

Four uniform numbers become a `Draw`, a draw becomes an affine map, and the map is applied by
TensorFlow (tf.data), by scipy, or by jax on the device. The first two steps are the same code for
all: they use arithmetic operators only, on numpy or TensorFlow float32 scalars alike. For the
device they are done in numpy, so that no rounding of it decides which pixels are seen.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from mln_flax.types import UserError


class Draw(NamedTuple):
    """What is random in one augmentation; float32 scalars.

    Only left and right are exchanged: the other breast is a mirror image, while an upside-down
    oblique view, with the pectoral muscle at the bottom, is never recorded.
    """

    flip: Any  # 1.0 exchanges left and right, 0.0 does not
    scale: Any  # of what is seen: 1.1 makes everything a tenth larger
    row: Any  # where the window lies, in [0, 1): first to last place
    column: Any


def draw(uniform: Sequence[Any], *, flip: bool, scale: tuple[float, float]) -> Draw:
    """The draw that four uniform numbers in [0, 1) stand for; `scale` is its range.

    Raises:
      UserError: `scale` is not 0 < low <= high.
    """
    if not (len(scale) == 2 and 0 < scale[0] <= scale[1]):
        raise UserError(f"views.scale={scale}: allowed are two numbers, 0 < low <= high")
    first, second, row, column = uniform
    mirrored = (2 * first) // 1 if flip else 0 * first
    return Draw(mirrored, scale[0] + (scale[1] - scale[0]) * second, row, column)


def _first_pixel(place: Any, free: Any) -> Any:
    """The window's first row or column: whole pixels, so that scale 1 moves without blurring.

    Every whole number from 0 to `free` is equally likely. Where the window is larger than the
    image (`free` < 0), the image lies anywhere inside the window.
    """
    return (place * (free // 1 + 1)) // 1


def affine(drawn: Draw, shape: Sequence[Any], window: Sequence[Any]) -> tuple[tuple[Any, ...], ...]:
    """The 2x3 map from (column, row, 1) of the output to (column, row) of the input, pixels.

    Pixel centers have whole coordinates. `shape` is the input's (H, W) and `window` the output's;
    the output shows `window / scale` pixels of the input, inside it wherever they fit.
    """
    (height, width), (rows, columns) = shape, window
    top = _first_pixel(drawn.row, height - rows / drawn.scale)
    left = _first_pixel(drawn.column, width - columns / drawn.scale)
    step = 1 / drawn.scale
    none = 0 * step
    # Outer edges, not centers, are what scales: hence the halves.
    across = (0.5 + drawn.flip * (columns - 1)) * step + left - 0.5
    return ((1 - 2 * drawn.flip) * step, none, across), (none, step, 0.5 * step + top - 0.5)


def _window(height: int | None, width: int | None, crop: int) -> None:
    """Raises UserError where a crop of this side cannot be cut; None is a size not yet known."""
    known = [size for size in (height, width) if size is not None]
    if crop < 0 or any(crop > size for size in known):
        shown = " x ".join("?" if size is None else str(size) for size in (height, width))
        raise UserError(
            f"views.crop={crop}: allowed are 0 (whole image) to the shorter side of {shown} pixels"
        )


def placement(drawn: Draw, shape: tuple[int, int], crop: int = 0) -> np.ndarray:
    """The map of `drawn` as its only numbers, float32 [2, 2]: for rows and columns, step and start.

    Row i of the output lies in row `start + i * step` of the input [H, W].

    Raises:
      UserError: `crop` does not fit into the image.
    """
    height, width = shape
    _window(height, width, crop)
    # float32 as in TensorFlow, so that rounding to whole pixels never differs.
    sizes = [list(map(np.float32, size)) for size in (shape, (crop or height, crop or width))]
    ((across, _, left), (_, down, top)) = affine(drawn, *sizes)
    return np.array([[down, top], [across, left]], np.float32)


def warp_numpy(image: Any, mask: Any, drawn: Draw, crop: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Image (bilinear) and mask (nearest) under the map of `drawn`; see `augment_numpy`."""
    image, mask = np.asarray(image), np.asarray(mask)
    height, width = image.shape
    window = (crop or height, crop or width)
    # The map has no other numbers. Given as a diagonal it goes a quicker way in scipy.
    diagonal, offset = placement(drawn, (height, width), crop).astype(float).T

    def apply(array: np.ndarray, order: int) -> np.ndarray:
        return ndimage.affine_transform(
            array, diagonal, offset, output_shape=window, order=order, mode="reflect"
        )

    return apply(image, 1), apply(mask, 0)


def warp_tf(image: Any, mask: Any, drawn: Draw, crop: int = 0) -> tuple[Any, Any]:
    """Image (bilinear) and mask (nearest) under the map of `drawn`; see `augment_tf`."""
    import tensorflow as tf

    height, width = image.shape
    _window(height, width, crop)
    shape = tf.shape(image)
    window = tf.constant([crop, crop]) if crop else shape
    sizes = tf.unstack(tf.cast(shape, tf.float32)), tf.unstack(tf.cast(window, tf.float32))
    across, down = affine(drawn, *sizes)
    transform = tf.stack([*across, *down, 0.0, 0.0])[tf.newaxis]

    def apply(tensor: Any, interpolation: str) -> Any:
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=tensor[tf.newaxis, :, :, tf.newaxis],
            transforms=transform,
            output_shape=window,
            fill_value=0.0,
            interpolation=interpolation,
            fill_mode="REFLECT",
        )
        return tf.ensure_shape(moved[0, :, :, 0], (crop or height, crop or width))

    return apply(image, "BILINEAR"), apply(mask, "NEAREST")


def warp_jax(image: Any, mask: Any, place: Any, window: tuple[int, int]) -> tuple[Any, Any]:
    """Image (bilinear) and mask (nearest) [H, W] under a `placement`, `window` being the output's.

    Places of pixels are float32 here and float64 in scipy: up to 1e-4 pixels apart at 1,000 pixels,
    by which a gray may differ, times its slope. Where a place lies that close to the border of two
    pixels, the mask may take the other one.
    """
    import jax.numpy as jnp

    for axis, count in enumerate(window):
        step, start = place[axis]
        size, line = image.shape[axis], start + step * jnp.arange(count, dtype=jnp.float32)
        low = jnp.floor(line)
        share = jnp.expand_dims(line - low, 1 - axis)
        first, second, nearest = (
            _mirrored(pixel.astype(jnp.int32), size)
            for pixel in (low, low + 1, jnp.floor(line + 0.5))
        )
        before, after = (jnp.take(image, pixels, axis, mode="clip") for pixels in (first, second))
        image = (1 - share) * before + share * after
        mask = jnp.take(mask, nearest, axis, mode="clip")
    return image, mask


def _mirrored(pixel: Any, size: int) -> Any:
    """The pixel that is seen at whole places outside of 0, ..., size - 1, mirrored at the edges."""
    import jax.numpy as jnp

    folded = pixel % (2 * size)
    return jnp.minimum(folded, 2 * size - 1 - folded)


def uniform_numpy(rng: np.random.Generator) -> np.ndarray:
    """The uniform numbers of one draw, float32 [4]."""
    return rng.random(len(Draw._fields), np.float32)


def uniform_tf(seed: Any) -> Any:
    """The uniform numbers of one draw, float32 [4], which `seed` (int32 or int64 [2]) decides."""
    import tensorflow as tf

    return tf.random.stateless_uniform([len(Draw._fields)], seed)


def augment_numpy(
    image: Any,
    mask: Any,
    rng: np.random.Generator,
    *,
    flip: bool = True,
    scale: tuple[float, float] = (0.9, 1.1),
    crop: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask after one random flip (left-right), scale and crop that both share.

    Args:
      image: float32 [H, W], interpolated linearly.
      mask: uint8 or int32 [H, W], the nearest pixel. Outside, both are mirrored at the edge.
      rng: gives four numbers per call.
      flip: whether half of the images are mirrored.
      scale: range of the magnification, drawn uniformly.
      crop: side of the output in pixels; 0 gives [H, W].

    Raises:
      UserError: `scale` is not 0 < low <= high, or `crop` does not fit into the image.
    """
    drawn = draw(list(uniform_numpy(rng)), flip=flip, scale=scale)
    return warp_numpy(image, mask, drawn, crop)


def augment_tf(
    image: Any,
    mask: Any,
    seed: Any,
    *,
    flip: bool = True,
    scale: tuple[float, float] = (0.9, 1.1),
    crop: int = 0,
) -> tuple[Any, Any]:
    """Image and mask after one random flip (left-right), scale and crop that both share.

    As `augment_numpy`, with TensorFlow operations; image float32 [H, W], mask uint8 or int32.
    `seed` (int32 or int64 [2]) alone decides: equal seeds give equal results, eagerly and inside
    a tf.data map. Numbers differ from numpy's generator; for equal draws the results agree.

    Raises:
      UserError: `scale` is not 0 < low <= high, or `crop` does not fit into the image.
    """
    import tensorflow as tf

    uniform = tf.unstack(uniform_tf(seed))
    return warp_tf(image, mask, draw(uniform, flip=flip, scale=scale), crop)
