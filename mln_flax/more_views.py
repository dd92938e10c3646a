"""Views that no curve can make: location and scale of the grays, and random convolutions.

As in `views`, each exists in numpy and as TensorFlow operations, with the same arithmetic in the
same order.
"""

from typing import Any

import numpy as np

from mln_flax.types import UserError, View

SIZES = (3, 5, 7)  # of a kernel, pixels
ORIGINAL = 0.5  # share of the original beside a convolution


def location_scale(scale: float, shift: float) -> View:
    """The image times `scale` plus `shift`, clipped to [0, 1] (as in Su et al. 2023).

    The published augmentation draws both anew for each image; here they are fixed, since a view
    is one and the same map for every image.

    Raises:
      UserError: `scale` is not above 0 (for below, `invert` is the view), or a number is not
        finite.
    """
    if not (0 < scale < np.inf and np.isfinite(shift)):
        raise UserError(
            f"location_scale({scale}, {shift}): the scale must be above 0, the shift finite"
        )
    scale, shift = float(scale), float(shift)

    def in_numpy(image: Any) -> np.ndarray:
        return np.clip(np.asarray(image) * scale + shift, 0, 1)

    def in_tf(image: Any) -> Any:
        import tensorflow as tf

        return tf.clip_by_value(image * scale + shift, 0.0, 1.0)

    return View(f"location_scale({scale}, {shift})", in_numpy, in_tf)


def kernel(seed: int, size: int) -> np.ndarray:
    """The weights that `seed` draws, float32 [size, size]; their absolute values sum to 1.

    Each is normal before. The sign is the one that gives a sum above 0: so a larger bright area
    stays brighter than a dark one, and `convolve(...)+invert` is the other half of all kernels.
    """
    weights = np.random.default_rng(seed).standard_normal((size, size))
    weights *= np.sign(weights.sum()) / np.abs(weights).sum()
    return weights.astype(np.float32)


def convolve(seed: int, size: int = 3, original: float = ORIGINAL) -> View:
    """A fixed random convolution of the image, mixed with the image itself (Xu et al. 2021).

    The kernel is drawn from `seed` alone; at the edges the image is mirrored. The convolved image
    is stretched from its own least and largest value to [0, 1] (an even one becomes black), then
    the share `original` of the image is mixed in. The publication draws kernel, size and share
    anew for each image; here they are fixed, since a view is one map. Without the original many
    kernels leave edges only, and dark spots where calcifications were; an even mixture keeps
    their places bright and still changes texture and grays.

    Raises:
      UserError: `seed` is not a whole number from 0 on, `size` is not 3, 5 or 7, or `original`
        lies outside [0, 1).
    """
    if type(seed) is not int or seed < 0:
        raise UserError(f"convolve({seed!r}): the seed must be a whole number, 0 or more")
    if size not in SIZES:
        raise UserError(f"convolve: size {size!r} is not one of {', '.join(map(str, SIZES))}")
    if not 0 <= original < 1:
        raise UserError(f"convolve: the original's share {original} must be 0 or more, below 1")
    weights, share, reach = kernel(seed, size), float(original), size // 2
    shown = (seed, size, share) if share != ORIGINAL else (seed, size) if size != 3 else (seed,)

    def in_numpy(image: Any) -> np.ndarray:
        image = np.asarray(image)
        edges = [(0, 0)] * (image.ndim - 2) + [(reach, reach)] * 2
        convolved = _weighted(np.pad(image, edges, "symmetric"), weights, image.shape)
        low, high = (f(convolved, axis=(-2, -1), keepdims=True) for f in (np.min, np.max))
        stretched = (convolved - low) / np.where(high > low, high - low, 1)
        return stretched + share * (image - stretched)

    def in_tf(image: Any) -> Any:
        import tensorflow as tf

        edges = [(0, 0)] * (len(image.shape) - 2) + [(reach, reach)] * 2
        convolved = _weighted(tf.pad(image, edges, "SYMMETRIC"), weights, tf.shape(image))
        low, high = (f(convolved, [-2, -1], True) for f in (tf.reduce_min, tf.reduce_max))
        stretched = (convolved - low) / tf.where(high > low, high - low, 1)
        return tf.ensure_shape(stretched + share * (image - stretched), image.shape)

    return View(f"convolve({', '.join(map(str, shown))})", in_numpy, in_tf)


def _weighted(padded: Any, weights: np.ndarray, shape: Any) -> Any:
    """The weighted sum of the shifted images [..., H, W], in one order for both libraries."""
    height, width = shape[-2], shape[-1]
    total = 0.0
    for (row, column), weight in np.ndenumerate(weights):
        total += float(weight) * padded[..., row : row + height, column : column + width]
    return total
