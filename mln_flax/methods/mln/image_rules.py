"""Rules that choose a branch by the image alone, before the network has run.

`image` compares nineteen numbers of an image with a Gaussian per view. `polarity` first decides
whether the image is inverted, by what depends little on a machine's gray curve, and leaves the
rest to the Gaussians: they know the source's views well and other machines badly.

Both are fitted in numpy, in float64; what they say of an image is jax, in float32.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

from mln_flax.methods.mln.image_features import ImageFeatures

# How far the Gaussians may move the log odds of being inverted. They take smooth pixels for
# upright: with 2 a third of the raw windows that the numbers alone tell rightly goes wrong.
LARGEST_SHIFT = 0.5
PENALTY = 1e-3  # of the squared weights, in units of each number's own size
EXACT = jax.lax.Precision.HIGHEST  # float32 on every device


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


class Chooser(NamedTuple):
    """What of an ImageBank images are compared with, in float32 for the device."""

    mean: Any  # [V, features]
    whitening: Any  # [V, features, features]: its product with its transpose is the precision
    log_determinant: Any  # [V]
    polarity: Any  # [polarity features]


class Compared(NamedTuple):
    """What the numbers of B images say of V views and k branches; all distances smaller: nearer."""

    numbers: Any  # float32 [B, features]: the view numbers themselves
    squared: Any  # float32 [B, V]: squared Mahalanobis distances from the views
    by_rule: dict[str, Any]  # rule -> float32 [B, k]


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


def chooser(bank: ImageBank) -> Chooser:
    """What of a bank images are compared with.

    The precisions come as factors: a sum of squares keeps digits in float32 that a sum of products
    with both signs would lose.
    """
    exact = bank.gaussian
    whitening = np.linalg.cholesky(np.asarray(exact.precision, np.float64))
    parts = exact.mean, whitening, exact.log_determinant, bank.polarity
    return Chooser(*(np.asarray(part, np.float32) for part in parts))


def compare(
    known: Chooser, features: ImageFeatures, inverted: Sequence[bool], branch_of_view: Sequence[int]
) -> Compared:
    """What the numbers of images say of the views and of the branches."""
    squared = squared_distances(known, features.view)
    of_view = squared + known.log_determinant[None]
    margin = jnp.dot(features.polarity, known.polarity, precision=EXACT)
    by_rule = {
        "image": nearest_view(of_view, branch_of_view),
        "polarity": polarity_distances(of_view, margin, inverted, branch_of_view),
    }
    return Compared(features.view, squared, by_rule)


def squared_distances(known: Chooser, numbers: jax.Array) -> jax.Array:
    """Squared Mahalanobis distance from each view: [B, features] -> [B, V].

    With the log determinant it is the Gaussian's -2 log density but for a constant.
    """
    difference = numbers[:, None] - known.mean[None]
    white = jnp.einsum("bvf,vfg->bvg", difference, known.whitening, precision=EXACT)
    return jnp.square(white).sum(axis=-1)


def nearest_view(distances: jax.Array, branch_of_view: Sequence[int]) -> jax.Array:
    """Distances from views [B, V] -> from branches [B, k]: that of each branch's nearest view."""
    of_view = np.asarray(branch_of_view)
    columns = [distances[:, of_view == b].min(axis=1) for b in range(of_view.max() + 1)]
    return jnp.stack(columns, axis=1)


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
    of_view: jax.Array, margin: jax.Array, inverted: Sequence[bool], branch_of_view: Sequence[int]
) -> jax.Array:
    """Minus the log of each branch's probability: [B, k], smaller is nearer.

    First whether the image is inverted, by the logistic `margin`, where the Gaussians have a
    limited say; then which of the views of that polarity it shows, by the Gaussians alone. A
    branch has the probability of all its views together.

    Args:
      of_view: squared distances plus log determinants, [B, V].
      margin: the polarity numbers times the weights, [B]: above 0 is upright.
      inverted: of each view.
      branch_of_view: of each view.
    """
    is_inverted, branches = np.asarray(inverted), np.asarray(branch_of_view)
    log_views = -of_view / 2
    of_polarity = {
        side: jax.nn.logsumexp(log_views[:, is_inverted == side], axis=1)
        for side in set(is_inverted.tolist())
    }
    if len(of_polarity) == 2:
        odds = of_polarity[False] - of_polarity[True]
        margin = margin + odds.clip(-LARGEST_SHIFT, LARGEST_SHIFT)
        log_sides = {False: jax.nn.log_sigmoid(margin), True: jax.nn.log_sigmoid(-margin)}
    else:
        log_sides = dict.fromkeys(of_polarity, jnp.zeros_like(margin))
    sides = is_inverted.tolist()
    within = log_views - jnp.stack([of_polarity[side] for side in sides], axis=1)
    log_views = within + jnp.stack([log_sides[side] for side in sides], axis=1)
    of_branch = [
        jax.nn.logsumexp(log_views[:, branches == b], axis=1) for b in range(branches.max() + 1)
    ]
    return -jnp.stack(of_branch, axis=1)
