"""Which branch answers for an image: bank, distances, selection, combination (Eq. 16-20).

Pure functions of arrays. Permuting images permutes answers, and nothing is learned at test time.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import fft

from mln_flax.registry import nearest
from mln_flax.types import Moments, UserError

METRICS = ("cosine", "euclidean", "standardized", "literal")
SELECTIONS = (*METRICS, "image")
FEATURES = 19  # numbers of `image_features`
NOISE_FLOOR = 1e-4  # gray levels; where an image is constant
TINY = 1e-12


class Gaussian(NamedTuple):
    """One normal distribution per view over the numbers of `image_features`."""

    mean: Any  # [V, features]
    precision: Any  # [V, features, features], the inverse covariances
    log_determinant: Any  # [V], of the covariances


class Bank(NamedTuple):
    """What the source's training images look like in each branch."""

    mean: Moments  # layer -> (mean [k, C], std [k, C]): averages of the images' own moments
    spread: Moments  # the same form: their standard deviation over images
    image: Gaussian


def check_metric(metric: str, known: tuple[str, ...] = METRICS) -> None:
    """Raises UserError for an unknown metric, naming the nearest known one."""
    if metric not in known:
        raise UserError(
            f"unknown selection {metric!r}{nearest(metric, known)}; known: {', '.join(known)}"
        )


def distances(
    bank: Mapping[str, tuple[Any, Any]],
    moments: Mapping[str, tuple[Any, Any]],
    metric: str = "cosine",
    spread: Mapping[str, tuple[Any, Any]] | None = None,
) -> jax.Array:
    """How far each image is from each branch: [B, k], smaller is nearer.

    - "cosine": 1 - cosine similarity, summed over layers and over mean and deviation. Eq. 18-20
      read as they must be meant: the smallest *distance* wins.
    - "literal": Eq. 18-20 as they are printed, the smallest *similarity* wins; for study.
    - "euclidean": the length of the difference, summed likewise (the paper's -E).
    - "standardized": the squared difference over the source images' own spread, averaged over
      the channels of all layers.

    Args:
      bank: layer -> (mean [k, C], std [k, C]).
      moments: layer -> (mean [B, k, C], std [B, k, C]), of B images in all k branches.
      metric: one of METRICS.
      spread: for "standardized", in the form of the bank.

    Raises:
      UserError: the metric is unknown.
      ValueError: "standardized" without a spread, or layers that differ.
    """
    return layer_distances(bank, moments, metric, spread).sum(axis=1)


def layer_distances(
    bank: Mapping[str, tuple[Any, Any]],
    moments: Mapping[str, tuple[Any, Any]],
    metric: str = "cosine",
    spread: Mapping[str, tuple[Any, Any]] | None = None,
    order: Sequence[str] = (),
) -> jax.Array:
    """What each layer adds to `distances`: [B, layers, k].

    The sum over the first m layers chooses as `distances` of those layers alone would:
    "standardized" divides by the channels of all of them, which moves no minimum.

    Args:
      bank: as in `distances`, like what follows.
      moments: of B images in all k branches.
      metric: one of METRICS.
      spread: for "standardized".
      order: of the layers; without it they are sorted by name.
    """
    check_metric(metric)
    if set(bank) != set(moments):
        raise ValueError(f"layers differ: {sorted(set(bank) ^ set(moments))}")
    if metric == "standardized" and spread is None:
        raise ValueError("metric 'standardized' needs the spread of the source images")
    shares, channels = [], 0
    for layer in order or sorted(bank):
        share = jnp.zeros(())
        for i, (center, value) in enumerate(zip(bank[layer], moments[layer], strict=True)):
            center = jnp.asarray(center)[None]
            if metric == "standardized":
                deviation = jnp.maximum(jnp.asarray(spread[layer][i]), TINY)[None]  # type: ignore[index]
                share = share + jnp.square((value - center) / deviation).sum(axis=-1)
                channels += value.shape[-1]
            elif metric == "euclidean":
                share = share + jnp.linalg.norm(value - center, axis=-1)
            else:
                similarity = _cosine(center, jnp.asarray(value))
                share = share + (similarity if metric == "literal" else 1 - similarity)
        shares.append(share)
    stacked = jnp.stack(shares, axis=1)
    return stacked / channels if metric == "standardized" else stacked


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    lengths = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return (a * b).sum(axis=-1) / jnp.maximum(lengths, TINY)


def select(distances: Any) -> Any:
    """The nearest branch of each image: [..., k] -> int32 [...]; the first one where two tie.

    Of numpy arrays in numpy: jax would round float64 first.
    """
    return distances.argmin(axis=-1).astype(np.int32)


def combine(probabilities: Any, distances: Any = None, *, temperature: float = 1.0) -> Any:
    """One answer out of all branches: [B, k, ...] -> [B, ...].

    Without distances the union of the branches (the paper's -R): the largest probability. With
    distances [B, k] the mean weighted by softmax(-distance / temperature).
    """
    if distances is None:
        return jnp.max(probabilities, axis=1)
    weights = jax.nn.softmax(-jnp.asarray(distances) / temperature, axis=-1)
    return (weights.reshape(weights.shape + (1,) * (probabilities.ndim - 2)) * probabilities).sum(1)


def image_features(image: np.ndarray) -> np.ndarray:
    """Nineteen numbers of each image that know its view: [B, H, W] -> float64 [B, 19].

    Seven quantiles (2, 10, 25, 50, 75, 90, 98%), the mean along each of the four borders, sorted,
    the log of the mean absolute gradient, and the skewness; the log of the fine noise in each
    quarter of the pixels by gray, since a curve that stretches or presses a gray level does the
    same to the noise that it finds there; and at two scales the log ratio of the bright to the
    dark tail, since vessels, fibers and calcifications are bright lines and dots until somebody
    inverts the image.
    """
    image = np.asarray(image, np.float64)
    flat = image.reshape(len(image), -1)
    quantiles = _quantiles(flat, (0.02, 0.10, 0.25, 0.50, 0.75, 0.90, 0.98))
    borders = [image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]]
    border_means = np.sort(np.stack([border.mean(axis=1) for border in borders], 1), axis=1)
    gradient = (
        np.abs(np.diff(image, axis=1)).mean(axis=(1, 2))
        + np.abs(np.diff(image, axis=2)).mean(axis=(1, 2))
    ) / 2
    centered = flat - flat.mean(axis=1, keepdims=True)
    deviation = np.maximum(np.sqrt(np.square(centered).mean(axis=1)), 1e-6)
    cubes = np.square(centered) * centered  # what a power of 3 is many times slower for
    skewness = cubes.mean(axis=1) / deviation**3
    return np.column_stack(
        [
            quantiles,
            border_means,
            np.log(gradient + NOISE_FLOOR),
            skewness,
            _noise(image),
            _polarity(image, ((1, 3), (2, 6))),
        ]
    )


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


def _polarity(image: np.ndarray, scales_px: tuple[tuple[float, float], ...]) -> np.ndarray:
    """The log ratio of the bright to the dark tail (1%) of differences of Gaussians: [B, scales].

    A Gaussian blur with mirrored borders is a product of cosine coefficients, so one transform
    serves all scales (fine, coarse), and none is slower for being coarse.
    """
    coefficients = fft.dctn(image, axes=(1, 2))
    ratios = []
    for scales in scales_px:
        fine, coarse = (np.outer(*(_passed(n, sigma) for n in image.shape[1:])) for sigma in scales)
        band = fft.idctn(coefficients * (fine - coarse), axes=(1, 2)).reshape(len(image), -1)
        dark, middle, bright = _quantiles(band, (0.01, 0.5, 0.99)).T
        ratios.append(np.log((bright - middle + NOISE_FLOOR) / (middle - dark + NOISE_FLOOR)))
    return np.stack(ratios, axis=1)


@functools.lru_cache(maxsize=64)
def _passed(length: int, sigma_px: float) -> np.ndarray:
    """What is left of each cosine, [length], after a Gaussian blur that is cut at 4 sigma."""
    at = np.arange(int(4 * sigma_px + 0.5) + 1)
    weights = np.exp(-0.5 * np.square(at / sigma_px))
    weights[1:] *= 2  # both sides
    return np.cos(np.pi / length * np.outer(np.arange(length), at)) @ (weights / weights.sum())


def fit_gaussian(features: np.ndarray, ridge: float = 1e-3) -> Gaussian:
    """A normal distribution per view: [V, N, features] -> Gaussian.

    `ridge` times each number's variance, pooled over the views, is added to the diagonal of
    every covariance, so that few or equal images still give a proper distribution.
    """
    features = np.asarray(features, np.float64)
    mean = features.mean(axis=1)
    centered = features - mean[:, None]
    covariance = np.einsum("vnf,vng->vfg", centered, centered) / max(features.shape[1] - 1, 1)
    pooled = np.einsum("vff->vf", covariance).mean(axis=0)
    covariance = covariance + np.diag(ridge * pooled + 1e-9)
    return Gaussian(mean, np.linalg.inv(covariance), np.linalg.slogdet(covariance)[1])


def image_distances(gaussian: Gaussian, features: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance plus log determinant: [B, features] -> [B, V]."""
    difference = features[:, None] - gaussian.mean[None]
    squared = np.einsum("bvf,vfg,bvg->bv", difference, gaussian.precision, difference)
    return squared + gaussian.log_determinant


def nearest_view(distances: np.ndarray, branch_of_view: tuple[int, ...]) -> np.ndarray:
    """Distances from views [B, V] -> from branches [B, k]: that of each branch's nearest view."""
    of_view = np.asarray(branch_of_view)
    columns = [distances[:, of_view == b].min(axis=1) for b in range(of_view.max() + 1)]
    return np.stack(columns, axis=1)
