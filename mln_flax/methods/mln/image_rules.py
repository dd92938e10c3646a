"""Rules that choose a branch by the image alone, before the network has run.

`image` compares nineteen numbers of an image with a Gaussian per view. `polarity` first decides
whether the image is inverted, by what depends little on a machine's gray curve, and leaves the
rest to the Gaussians: they know the source's views well and other machines badly.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special

LARGEST_SHIFT = 2.0  # how far the Gaussians may move the log odds of being inverted
PENALTY = 1e-3  # of the squared weights, in units of each number's own size


class Gaussian(NamedTuple):
    """One normal distribution per view over the view numbers of `image_features`."""

    mean: Any  # [V, features]
    precision: Any  # [V, features, features], the inverse covariances
    log_determinant: Any  # [V], of the covariances


class ImageBank(NamedTuple):
    """What the source's training images are like in their views."""

    gaussian: Gaussian
    polarity: Any  # float64 [polarity features]: weights whose sum is above 0 if upright
    foreground: Any  # float64 [k]: the mean of `foreground_mean` over the images of each branch


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


def fit_polarity(features: np.ndarray) -> np.ndarray:
    """Weights that tell upright images from inverted ones: [N, features] of upright -> [features].

    Logistic regression without a constant, so that the inverse of an image, whose numbers have
    the other signs, gets exactly the opposite answer.
    """
    features = np.asarray(features, np.float64)
    size = np.sqrt(np.square(features).mean(axis=0)) + 1e-9
    scaled = features / size

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = scaled @ weights
        value = np.logaddexp(0, -margin).mean() + PENALTY * weights @ weights
        slope = -(scaled * special.expit(-margin)[:, None]).mean(axis=0) + 2 * PENALTY * weights
        return value, slope

    start = np.zeros(len(size))
    return optimize.minimize(loss, start, jac=True, method="L-BFGS-B").x / size


def polarity_distances(
    of_view: np.ndarray, margin: np.ndarray, inverted: Sequence[bool], branch_of_view: Sequence[int]
) -> np.ndarray:
    """Minus the log of each branch's probability: [B, k], smaller is nearer.

    First whether the image is inverted, by the logistic `margin`, where the Gaussians have a
    limited say; then which of the views of that polarity it shows, by the Gaussians alone. A
    branch has the probability of all its views together.

    Args:
      of_view: what `image_distances` returns, [B, V].
      margin: the polarity numbers times the weights, [B]: above 0 is upright.
      inverted: of each view.
      branch_of_view: of each view.
    """
    is_inverted, branches = np.asarray(inverted), np.asarray(branch_of_view)
    log_views = -of_view / 2
    if is_inverted.any() and not is_inverted.all():
        upright = special.logsumexp(log_views[:, ~is_inverted], axis=1)
        odds = upright - special.logsumexp(log_views[:, is_inverted], axis=1)
        margin = margin + odds.clip(-LARGEST_SHIFT, LARGEST_SHIFT)
    of_polarity = {False: -np.logaddexp(0, -margin), True: -np.logaddexp(0, margin)}
    for polarity in set(is_inverted.tolist()):
        group = is_inverted == polarity
        log_views[:, group] = special.log_softmax(log_views[:, group], axis=1)
        if not group.all():
            log_views[:, group] += of_polarity[polarity][:, None]
    of_branch = [
        special.logsumexp(log_views[:, branches == b], axis=1) for b in range(branches.max() + 1)
    ]
    return -np.stack(of_branch, axis=1)
