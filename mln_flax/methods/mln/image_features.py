"""Numbers of an image itself that know how its grays were changed: no network is needed.

All of it is jax in float32, so that it runs where the network does; what would lose digits there
is summed in rows, centered, and made of differences of neighbors.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

VIEW_NUMBERS, POLARITY_NUMBERS = 19, 12  # of `image_features`
TAILS = (0.002, 0.01, 0.05)  # shares of the pixels at either end
QUANTILES = (0.02, 0.10, 0.25, 0.50, 0.75, 0.90, 0.98)
NOISE_FLOOR = 1e-4  # gray levels; where an image is constant
BANDS_PX = ((0.7, 1.5), (1.0, 3.0), (2.0, 6.0))  # Gaussians whose difference shows dots and lines
BACKGROUND = 0.02  # share of the gray range next to black or white that may be air
NAMES = (  # of the view numbers
    *(f"{share:.0%} quantile" for share in QUANTILES),
    *(
        f"{place} border"
        for place in ("darkest", "second darkest", "second brightest", "brightest")
    ),
    "log gradient",
    "skewness",
    *(f"log noise, {quarter} quarter" for quarter in ("darkest", "second", "third", "brightest")),
    *(f"bright to dark tail, {fine:g} to {coarse:g} px" for fine, coarse in BANDS_PX[1:]),
)


class ImageFeatures(NamedTuple):
    """What rules without a network see of B images."""

    view: Any  # float32 [B, 19]: knows how the grays were changed
    polarity: Any  # float32 [B, 12]: changes its sign where an image is inverted


def image_features(image: Any) -> ImageFeatures:
    """The numbers of images [B, H, W], each by itself.

    `view`: seven quantiles (2, 10, 25, 50, 75, 90, 98%), the mean along each of the four borders,
    sorted, the log of the mean absolute gradient, and the skewness; the log of the fine noise in
    each quarter of the pixels by gray, since a curve that stretches or presses a gray level does
    the same to the noise that it finds there; and in the two coarser bands the log ratio of the
    bright to the dark tail (1%), since vessels, fibers and calcifications are bright lines and
    dots until somebody inverts the image.

    `polarity`: in each band that ratio at 0.2, 1 and 5%, and the cube root of the skewness. These
    hold however a machine draws its grays.
    """
    image = jnp.asarray(image, jnp.float32)
    borders = [image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]]
    border_means = jnp.sort(jnp.stack([border.mean(axis=1) for border in borders], 1), axis=1)
    gradient = (
        _mean(jnp.abs(jnp.diff(image, axis=1))) + _mean(jnp.abs(jnp.diff(image, axis=2)))
    ) / 2
    polarity = jnp.stack([_polarity(_band(image, *scales)) for scales in BANDS_PX], axis=1)
    view = jnp.concatenate(
        [
            _quantiles(_ordered(image), QUANTILES),
            border_means,
            jnp.log(gradient + NOISE_FLOOR)[:, None],
            _skewness(image)[:, None],
            _noise(image),
            polarity[:, 1:, TAILS.index(0.01)],
        ],
        axis=1,
    )
    return ImageFeatures(view, polarity.reshape(-1, POLARITY_NUMBERS))


def _ordered(image: jax.Array) -> jax.Array:
    """The pixels of each image, sorted: [B, H, W] -> [B, H W].

    As integers of the same order: XLA sorts floats, with all their signs of nothing, several
    times slower.
    """
    bits = jax.lax.bitcast_convert_type(image, jnp.int32)
    keys = jax.lax.sort(
        _flipped(bits).reshape(-1, image.shape[1] * image.shape[2]), is_stable=False
    )
    return jax.lax.bitcast_convert_type(_flipped(keys), jnp.float32)


def _flipped(bits: jax.Array) -> jax.Array:
    """The bits of floats as integers of their order, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _quantiles(ordered: jax.Array, shares: tuple[float, ...]) -> jax.Array:
    """The quantiles of each row, linear between its values: [B, N] -> [B, quantiles]."""
    last = ordered.shape[1] - 1
    place = np.asarray(shares) * last
    below = place.astype(int)
    low, high = ordered[:, below], ordered[:, np.minimum(below + 1, last)]
    return low + (high - low) * (place - below).astype(np.float32)[None]


def _noise(image: jax.Array) -> jax.Array:
    """The log of the mean absolute Laplacian in each quarter of the pixels by gray: [B, 4].

    A pixel on the edge of two quarters is in both.
    """
    center = image[:, 1:-1, 1:-1]
    neighbors = image[:, :-2, 1:-1], image[:, 2:, 1:-1], image[:, 1:-1, :-2], image[:, 1:-1, 2:]
    laplacian = jnp.abs(sum(center - neighbor for neighbor in neighbors))
    ordered = _ordered(center)
    place = np.linspace(0, 1, 5) * (ordered.shape[1] - 1)
    # The pixels next to an edge that lies between them stand for it, which no rounding moves.
    least, most = np.ceil(place).astype(int)[:-1], np.floor(place).astype(int)[1:]
    quarters = []
    for low, high in zip(ordered[:, least].T, ordered[:, most].T, strict=True):
        inside = (center >= low[:, None, None]) & (center <= high[:, None, None])
        quarters.append(_mean(laplacian * inside) / _mean(inside.astype(jnp.float32)))
    return jnp.log(jnp.stack(quarters, axis=1) + NOISE_FLOOR)


def _polarity(band: jax.Array) -> jax.Array:
    """The log ratios of the bright to the dark tail, and the skewness: [B, H, W] -> [B, 4]."""
    above = tuple(1 - share for share in TAILS)
    middle, *tails = _quantiles(_ordered(band), (0.5, *TAILS, *above)).T
    ratios = [
        jnp.log((bright - middle + NOISE_FLOOR) / (middle - dark + NOISE_FLOOR))
        for dark, bright in zip(tails[: len(TAILS)], tails[len(TAILS) :], strict=True)
    ]
    return jnp.stack([*ratios, jnp.cbrt(_skewness(band))], axis=1)


def _skewness(image: jax.Array) -> jax.Array:
    """Of each image: [B, H, W] -> [B]; nearly 0 where there is no contrast."""
    centered = image - _mean(image)[:, None, None]
    centered = centered - _mean(centered)[:, None, None]  # what rounding had left of the mean
    deviation = jnp.maximum(jnp.sqrt(_mean(jnp.square(centered))), 1e-6)
    return _mean((centered / deviation[:, None, None]) ** 3)


def _mean(values: jax.Array) -> jax.Array:
    """The mean of each image, by rows first: short sums lose few digits. [B, H, W] -> [B]."""
    of_rows = jax.lax.optimization_barrier(values.mean(axis=2))  # else XLA makes one sum of both
    return of_rows.mean(axis=1)


def _band(image: jax.Array, fine_px: float, coarse_px: float) -> jax.Array:
    """The difference of two Gaussian blurs with mirrored borders: [B, H, W].

    Where F and C are the blurs along one axis, F F - C C = (F - C) F + C (F - C): so the blurs are
    subtracted before they meet an image, and what is left is made of its neighbors' differences.
    The band has the digits of its own small values, not of the grays that they lie on.
    """
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    height, width = image.shape[1:]
    across = product("bij,jw->biw", jnp.diff(image, axis=2), _steps(width, fine_px, coarse_px).T)
    down = product("hi,bij->bhj", _steps(height, fine_px, coarse_px), jnp.diff(image, axis=1))
    return product("hi,biw->bhw", _blur(height, coarse_px).astype(np.float32), across) + product(
        "bhj,jw->bhw", down, _blur(width, fine_px).T.astype(np.float32)
    )


@functools.lru_cache(maxsize=64)
def _blur(length: int, sigma_px: float) -> np.ndarray:
    """A Gaussian blur as a matrix [length, length]: cut at 4 sigma, its borders mirrored."""
    reach = int(4 * sigma_px + 0.5)
    at = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * np.square(at / sigma_px))
    period = 2 * length  # of a line that is mirrored at both ends
    place = (np.arange(length)[:, None] + at) % period
    matrix = np.zeros((length, length))
    rows = np.broadcast_to(np.arange(length)[:, None], place.shape)
    np.add.at(matrix, (rows, np.minimum(place, period - 1 - place)), weights / weights.sum())
    return matrix


@functools.lru_cache(maxsize=64)
def _steps(length: int, fine_px: float, coarse_px: float) -> np.ndarray:
    """The difference of two blurs as a matrix for the steps between neighbors, [length, length-1].

    The rows of the difference have the sum 0, so a step counts with all the weights behind it.
    """
    difference = _blur(length, fine_px) - _blur(length, coarse_px)
    behind = np.cumsum(difference[:, ::-1], axis=1)[:, ::-1]
    return behind[:, 1:].astype(np.float32)


def foreground(image: jax.Array) -> jax.Array:
    """Which pixels are no background: [B, H, W] -> bool [B, H, W].

    Background is what lies within 2% of the image's darkest or brightest gray, whichever end
    holds more pixels: air is black until an image is inverted. An image of one gray is all
    foreground.
    """
    low, high = (of(axis=(1, 2), keepdims=True) for of in (image.min, image.max))
    reach = BACKGROUND * (high - low)
    dark, bright = image <= low + reach, image >= high - reach
    is_dark = dark.sum((1, 2), keepdims=True) >= bright.sum((1, 2), keepdims=True)
    inside = ~jnp.where(is_dark, dark, bright)
    return inside | ~inside.any(axis=(1, 2), keepdims=True)


def foreground_mean(image: Any) -> jax.Array:
    """The mean gray without the background (the paper's "+", section 5.1.2, which leaves out the
    smallest gray): [B, H, W] -> float32 [B].
    """
    image = jnp.asarray(image, jnp.float32)
    inside = foreground(image)
    return _mean(image * inside) / _mean(inside.astype(jnp.float32))
