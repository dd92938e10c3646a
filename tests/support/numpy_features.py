"""The numbers of `methods/mln/image_features.py` in numpy and float64, found in other ways.

Quantiles are interpolated from both sides, and a blur is a product of cosine coefficients.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from scipy import fft, special

TAILS = (0.002, 0.01, 0.05)  # shares of the pixels at either end
NOISE_FLOOR = 1e-4  # gray levels; where an image is constant
BANDS_PX = ((0.7, 1.5), (1.0, 3.0), (2.0, 6.0))  # Gaussians whose difference shows dots and lines
BACKGROUND = 0.02  # share of the gray range next to black or white that may be air


class ImageFeatures(NamedTuple):
    """What rules without a network see of B images."""

    view: Any  # float64 [B, 19]: knows how the grays were changed
    polarity: Any  # float64 [B, 12]: changes its sign where an image is inverted


def image_features(image: np.ndarray) -> ImageFeatures:
    """The numbers of images [B, H, W], each by itself."""
    image = np.asarray(image, np.float64)
    flat = image.reshape(len(image), -1)
    quantiles = _quantiles(flat, (0.02, 0.10, 0.25, 0.50, 0.75, 0.90, 0.98))
    borders = [image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]]
    border_means = np.sort(np.stack([border.mean(axis=1) for border in borders], 1), axis=1)
    gradient = (
        np.abs(np.diff(image, axis=1)).mean(axis=(1, 2))
        + np.abs(np.diff(image, axis=2)).mean(axis=(1, 2))
    ) / 2
    polarity = np.stack([_polarity(band) for band in _bands(image)])
    view = np.column_stack(
        [
            quantiles,
            border_means,
            np.log(gradient + NOISE_FLOOR),
            _skewness(flat),
            _noise(image),
            polarity[1:, :, TAILS.index(0.01)].T,
        ]
    )
    return ImageFeatures(view, np.concatenate(list(polarity), axis=1))


def _quantiles(values: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """The quantiles of each row, linear between its values: [B, N] -> [B, quantiles].

    As numpy's own, which selects value by value where one sort of all is several times faster.
    """
    ordered = np.sort(values, axis=1)
    place = np.asarray(shares) * (values.shape[1] - 1)
    below = place.astype(int)
    low, high = (ordered[:, np.minimum(at, values.shape[1] - 1)] for at in (below, below + 1))
    return np.where(
        place - below < 0.5,
        low + (high - low) * (place - below),
        high - (high - low) * (1 - (place - below)),
    )


def _noise(image: np.ndarray) -> np.ndarray:
    """The log of the mean absolute Laplacian in each quarter of the pixels by gray: [B, 4]."""
    center = image[:, 1:-1, 1:-1]
    neighbors = image[:, :-2, 1:-1] + image[:, 2:, 1:-1] + image[:, 1:-1, :-2] + image[:, 1:-1, 2:]
    center, laplacian = (
        x.reshape(len(image), -1) for x in (center, np.abs(4 * center - neighbors))
    )
    edges = _quantiles(center, (0, 0.25, 0.5, 0.75, 1))
    quarters = []
    for k in range(4):
        inside = (center >= edges[:, k, None]) & (center <= edges[:, k + 1, None])
        total = np.einsum("bp,bp->b", laplacian, inside)
        quarters.append(total / np.count_nonzero(inside, axis=1))
    return np.log(np.stack(quarters, axis=1) + NOISE_FLOOR)


def _polarity(band: np.ndarray) -> np.ndarray:
    """The log ratios of the bright to the dark tail, and the skewness: [B, pixels] -> [B, 4]."""
    above = tuple(1 - share for share in TAILS)
    middle, *tails = _quantiles(band, (0.5, *TAILS, *above)).T
    ratios = [
        np.log((bright - middle + NOISE_FLOOR) / (middle - dark + NOISE_FLOOR))
        for dark, bright in zip(tails[: len(TAILS)], tails[len(TAILS) :], strict=True)
    ]
    return np.stack([*ratios, np.cbrt(_skewness(band))], axis=1)


def _skewness(values: np.ndarray) -> np.ndarray:
    """Of each row: [B, N] -> [B]; nearly 0 where there is no contrast."""
    centered = values - values.mean(axis=1, keepdims=True)
    deviation = np.maximum(np.sqrt(np.square(centered).mean(axis=1)), 1e-6)
    cubes = np.square(centered) * centered  # what a power of 3 is many times slower for
    return cubes.mean(axis=1) / deviation**3


def _bands(image: np.ndarray) -> list[np.ndarray]:
    """Differences of two Gaussians: [B, H, W] -> [B, H W] for each of BANDS_PX.

    A Gaussian blur with mirrored borders is a product of cosine coefficients, so one transform
    serves all scales (fine, coarse), and none is slower for being coarse.
    """
    coefficients = fft.dctn(image, axes=(1, 2))
    bands = []
    for scales in BANDS_PX:
        fine, coarse = (np.outer(*(_passed(n, sigma) for n in image.shape[1:])) for sigma in scales)
        band = fft.idctn(coefficients * (fine - coarse), axes=(1, 2))
        bands.append(band.reshape(len(image), -1))
    return bands


@functools.lru_cache(maxsize=64)
def _passed(length: int, sigma_px: float) -> np.ndarray:
    """What is left of each cosine, [length], after a Gaussian blur that is cut at 4 sigma."""
    at = np.arange(int(4 * sigma_px + 0.5) + 1)
    weights = np.exp(-0.5 * np.square(at / sigma_px))
    weights[1:] *= 2  # both sides
    return np.cos(np.pi / length * np.outer(np.arange(length), at)) @ (weights / weights.sum())


def foreground_mean(image: np.ndarray) -> np.ndarray:
    """The mean gray without the background: [B, H, W] -> float64 [B].

    Background is what lies within 2% of the image's darkest or brightest gray, whichever end
    holds more pixels: air is black until an image is inverted (the paper's "+", section 5.1.2,
    which leaves out the smallest gray). An image of one gray is all foreground.
    """
    flat = np.asarray(image, np.float64).reshape(len(image), -1)
    low, high = flat.min(axis=1, keepdims=True), flat.max(axis=1, keepdims=True)
    reach = BACKGROUND * (high - low)
    dark, bright = flat <= low + reach, flat >= high - reach
    is_dark = dark.sum(axis=1, keepdims=True) >= bright.sum(axis=1, keepdims=True)
    inside = ~np.where(is_dark, dark, bright)
    inside |= ~inside.any(axis=1, keepdims=True)
    return (flat * inside).sum(axis=1) / inside.sum(axis=1)


def distances(
    of_view: np.ndarray, margin: np.ndarray, inverted: tuple[bool, ...]
) -> dict[str, np.ndarray]:
    """By both rules of the image, [B, V] each, where every view has its own branch."""
    log_density, is_inverted = -of_view / 2, np.asarray(inverted)
    upright, other = (
        special.logsumexp(log_density[:, is_inverted == side], axis=1) for side in (False, True)
    )
    margin = margin + np.clip(upright - other, -0.5, 0.5)
    of_side = -np.logaddexp(0, np.where(is_inverted, margin[:, None], -margin[:, None]))
    total = np.where(is_inverted, other[:, None], upright[:, None])
    return {"image": of_view, "polarity": -(of_side + log_density - total)}
