"""Which branch answers for an image: bank, distances, selection, combination (Eq. 16-20).

Pure functions of arrays. Permuting images permutes answers, and nothing is learned at test time.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import gaussian_filter

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
    check_metric(metric)
    if set(bank) != set(moments):
        raise ValueError(f"layers differ: {sorted(set(bank) ^ set(moments))}")
    if metric == "standardized" and spread is None:
        raise ValueError("metric 'standardized' needs the spread of the source images")
    total, channels = jnp.zeros(()), 0
    for layer in sorted(bank):
        for i, (center, value) in enumerate(zip(bank[layer], moments[layer], strict=True)):
            center = jnp.asarray(center)[None]
            if metric == "standardized":
                deviation = jnp.maximum(jnp.asarray(spread[layer][i]), TINY)[None]  # type: ignore[index]
                total = total + jnp.square((value - center) / deviation).sum(axis=-1)
                channels += value.shape[-1]
            elif metric == "euclidean":
                total = total + jnp.linalg.norm(value - center, axis=-1)
            else:
                similarity = _cosine(center, jnp.asarray(value))
                total = total + (similarity if metric == "literal" else 1 - similarity)
    return total / channels if metric == "standardized" else total


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    lengths = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return (a * b).sum(axis=-1) / jnp.maximum(lengths, TINY)


def select(distances: jax.Array) -> jax.Array:
    """The nearest branch of each image: [B, k] -> int32 [B]; the first one where two tie."""
    return jnp.argmin(distances, axis=-1).astype(jnp.int32)


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
    quantiles = np.quantile(flat, [0.02, 0.10, 0.25, 0.50, 0.75, 0.90, 0.98], axis=1).T
    borders = [image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]]
    border_means = np.sort(np.stack([border.mean(axis=1) for border in borders], 1), axis=1)
    gradient = (
        np.abs(np.diff(image, axis=1)).mean(axis=(1, 2))
        + np.abs(np.diff(image, axis=2)).mean(axis=(1, 2))
    ) / 2
    centered = flat - flat.mean(axis=1, keepdims=True)
    deviation = np.maximum(np.sqrt(np.square(centered).mean(axis=1)), 1e-6)
    skewness = (centered**3).mean(axis=1) / deviation**3
    return np.column_stack(
        [
            quantiles,
            border_means,
            np.log(gradient + NOISE_FLOOR),
            skewness,
            _noise(image),
            _polarity(image, 1, 3),
            _polarity(image, 2, 6),
        ]
    )


def _noise(image: np.ndarray) -> np.ndarray:
    """The log of the mean absolute Laplacian in each quarter of the pixels by gray: [B, 4]."""
    center = image[:, 1:-1, 1:-1]
    neighbors = image[:, :-2, 1:-1] + image[:, 2:, 1:-1] + image[:, 1:-1, :-2] + image[:, 1:-1, 2:]
    center, laplacian = (
        x.reshape(len(image), -1) for x in (center, np.abs(4 * center - neighbors))
    )
    edges = np.quantile(center, [0, 0.25, 0.5, 0.75, 1], axis=1)[:, :, None]
    quarters = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (center >= low) & (center <= high)
        quarters.append((laplacian * inside).sum(axis=1) / inside.sum(axis=1))
    return np.log(np.stack(quarters, axis=1) + NOISE_FLOOR)


def _polarity(image: np.ndarray, fine_px: float, coarse_px: float) -> np.ndarray:
    """The log ratio of the bright to the dark tail (1%) of a difference of Gaussians: [B]."""
    band = gaussian_filter(image, (0, fine_px, fine_px))
    band -= gaussian_filter(image, (0, coarse_px, coarse_px))
    dark, middle, bright = np.quantile(band.reshape(len(image), -1), [0.01, 0.5, 0.99], axis=1)
    return np.log((bright - middle + NOISE_FLOOR) / (middle - dark + NOISE_FLOOR))


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
