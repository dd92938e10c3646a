"""The rules that look at the image alone, against scipy and closed forms."""

import jax
import numpy as np
import pytest
from scipy import optimize, stats

from mln_flax.methods.mln import image_rules
from mln_flax.methods.mln.image_rules import LARGEST_SHIFT


def densities(gaussian, points):
    """Squared distances plus log determinants [B, V], as the device has them."""
    known = image_rules.chooser(image_rules.ImageBank(gaussian, np.zeros(1), np.zeros(1)))
    squared = image_rules.squared_distances(known, np.float32(points))
    return np.asarray(squared) + known.log_determinant


def polarity_distances(of_view, margin, inverted, branch_of_view):
    """Compiled, in float32."""
    function = jax.jit(lambda d, m: image_rules.polarity_distances(d, m, inverted, branch_of_view))
    found = jax.device_get(function(np.float32(of_view), np.float32(margin)))
    assert found.dtype == np.float32
    return found


def test_image_distances_are_an_affine_map_of_the_log_density():
    """-2 log N(x) = Mahalanobis + log determinant + d log 2 pi."""
    rng = np.random.default_rng(4)
    mixing = rng.normal(size=(3, 5, 5))
    samples = np.einsum("vfg,vng->vnf", mixing, rng.normal(size=(3, 200, 5))) + rng.normal(
        size=(3, 1, 5)
    )
    gaussian = image_rules.fit_gaussian(samples, ridge=0)
    points = rng.normal(size=(6, 5))
    distance = densities(gaussian, points)
    assert distance.shape == (6, 3)
    for v in range(3):
        np.testing.assert_allclose(gaussian.mean[v], samples[v].mean(axis=0))
        covariance = np.cov(samples[v].T) + 1e-9 * np.eye(5)
        density = stats.multivariate_normal(samples[v].mean(axis=0), covariance).logpdf(points)
        np.testing.assert_allclose(distance[:, v], -2 * density - 5 * np.log(2 * np.pi), rtol=1e-5)


def test_the_ridge_is_a_share_of_the_pooled_variance():
    samples = np.random.default_rng(5).normal(size=(2, 50, 3)) * [1.0, 10.0, 0.1]
    gaussian = image_rules.fit_gaussian(samples, ridge=0.5)
    pooled = np.mean([samples[v].var(axis=0, ddof=1) for v in range(2)], axis=0)
    for v in range(2):
        expected = np.cov(samples[v].T) + np.diag(0.5 * pooled + 1e-9)
        np.testing.assert_allclose(np.linalg.inv(gaussian.precision[v]), expected, rtol=1e-8)
        assert gaussian.log_determinant[v] == pytest.approx(np.linalg.slogdet(expected)[1])


def test_few_or_equal_images_still_give_a_proper_distribution():
    for features in (np.ones((2, 1, 19)), np.random.default_rng(6).normal(size=(2, 4, 19))):
        gaussian = image_rules.fit_gaussian(features)
        assert all(np.isfinite(part).all() for part in gaussian)
        own = densities(gaussian, gaussian.mean)
        away = densities(gaussian, gaussian.mean + 1)
        assert (np.diagonal(own) < np.diagonal(away)).all()


def test_nearest_view_of_each_branch():
    d = np.array([[4.0, 3.0, 2.0, 1.0], [1.0, 5.0, 0.0, 7.0]])
    np.testing.assert_array_equal(image_rules.nearest_view(d, (0, 1, 2, 3)), d)
    np.testing.assert_array_equal(image_rules.nearest_view(d, (0, 0, 1, 1)), [[3, 1], [1, 0]])
    np.testing.assert_array_equal(image_rules.nearest_view(d, (1, 0, 1, 0)), [[1, 2], [5, 0]])
    np.testing.assert_array_equal(image_rules.nearest_view(d, (0, 0, 0, 0)), [[1], [0]])


def upright_numbers() -> np.ndarray:
    """Numbers of upright images [60, 3]: mostly above 0, of very different sizes."""
    rng = np.random.default_rng(7)
    return (rng.normal(size=(60, 3)) + [0.8, 0.3, 0.0]) * [1.0, 100.0, 0.01]


def test_polarity_of_one_number_in_a_closed_form():
    """Of equal numbers: the slope of log(1 + exp(-w)) + 1e-3 w^2 is zero."""
    (weight,) = image_rules.fit_polarity(np.full((4, 1), 5.0))
    expected = optimize.brentq(lambda w: 2e-3 * w - 1 / (1 + np.exp(w)), 0, 50)
    assert 5 * weight == pytest.approx(expected, rel=1e-3)


def test_no_other_weights_tell_polarity_better():
    """Against a loop over the images, and its slopes by finite differences."""
    features = upright_numbers()
    size = np.sqrt((features**2).mean(axis=0))

    def loss(weights):
        each = [np.log1p(np.exp(-(row / size) @ weights)) for row in features]
        return np.mean(each) + image_rules.PENALTY * (weights**2).sum()

    weights = image_rules.fit_polarity(features) * size
    slopes = optimize.approx_fprime(weights, loss, 1e-6)
    np.testing.assert_allclose(slopes, 0, atol=1e-4)
    other = optimize.minimize(loss, np.ones(3), method="Nelder-Mead", tol=1e-8).x
    np.testing.assert_allclose(weights, other, atol=2e-3)
    assert weights[0] > weights[1] > abs(weights[2])


def test_inverted_images_get_exactly_the_opposite_answer():
    features = upright_numbers()
    weights = image_rules.fit_polarity(features)
    np.testing.assert_array_equal(image_rules.fit_polarity(-features), -weights)
    scale = np.array([3.0, 0.1, -20.0])  # of a number, as of its unit
    np.testing.assert_allclose(
        (scale * features) @ image_rules.fit_polarity(scale * features),
        features @ weights,
        rtol=1e-3,
        atol=1e-3,
    )


def test_few_or_silent_numbers_still_give_weights():
    for features in (np.zeros((3, 2)), np.ones((1, 2)), np.array([[1.0, 0.0], [2.0, 0.0]])):
        weights = image_rules.fit_polarity(features)
        assert weights.shape == (2,) and np.isfinite(weights).all()
        assert (weights[features.any(axis=0)] > 0).all()
        assert (weights[~features.any(axis=0)] == 0).all()


INVERTED = (False, False, True, True)


def probabilities(of_view, margin, inverted, branch_of_view):
    """Of each branch, by hand: p(polarity) times the share of the view's density, summed."""
    out = np.zeros((len(of_view), max(branch_of_view) + 1))
    for i, distances in enumerate(of_view):
        density = np.exp(-distances / 2)
        total = {
            side: sum(density[w] for w in range(4) if inverted[w] == side) for side in inverted
        }
        if len(total) == 2:
            shift = np.clip(np.log(total[False] / total[True]), -LARGEST_SHIFT, LARGEST_SHIFT)
            upright = 1 / (1 + np.exp(-margin[i] - shift))
            polarity = {False: upright, True: 1 - upright}
        else:
            polarity = {inverted[0]: 1.0}
        for v, branch in enumerate(branch_of_view):
            side = inverted[v]
            out[i, branch] += polarity[side] * density[v] / total[side]
    return out


@pytest.mark.parametrize(
    "inverted", [INVERTED, (True, False, False, False), (False,) * 4, (True,) * 4]
)
@pytest.mark.parametrize("branch_of_view", [(0, 1, 2, 3), (0, 0, 1, 1), (0, 0, 0, 0), (1, 0, 1, 0)])
def test_polarity_distances_are_probabilities(inverted, branch_of_view):
    rng = np.random.default_rng(8)
    of_view, margin = rng.uniform(-4, 8, (6, 4)), rng.normal(scale=2, size=6)
    given = of_view.copy(), margin.copy()
    d = polarity_distances(of_view, margin, inverted, branch_of_view)
    np.testing.assert_allclose(np.exp(-d).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        np.exp(-d), probabilities(of_view, margin, inverted, branch_of_view), rtol=1e-5
    )
    for now, before in zip((of_view, margin), given, strict=True):
        np.testing.assert_array_equal(now, before)


def test_the_gaussians_have_a_limited_say_in_polarity():
    rng = np.random.default_rng(9)
    of_view, margin = rng.uniform(0, 8, (4, 4)), np.array([3.0, -3.0, 0.0, 0.5])
    for moved, shift in (([0, 0, 1e3, 1e3], LARGEST_SHIFT), ([1e3, 1e3, 0, 0], -LARGEST_SHIFT)):
        d = polarity_distances(of_view + moved, margin, INVERTED, (0, 0, 1, 1))
        odds = margin + shift
        expected = np.log1p(np.exp(np.stack([-odds, odds], axis=1)))
        np.testing.assert_allclose(d, expected, atol=2e-5)  # of distances of 1000


def test_an_undecided_image_goes_by_the_margin():
    """Equally like the views of both polarities."""
    of_view, margin = np.array([[1.0, 4, 4, 1]] * 2), np.array([0.3, -0.3])
    d = polarity_distances(of_view, margin, INVERTED, (0, 0, 1, 1))
    np.testing.assert_allclose(d, np.log1p(np.exp([[-0.3, 0.3], [0.3, -0.3]])), rtol=1e-5)


def test_images_far_from_all_views_have_finite_distances():
    of_view = np.array([[2e5, 1e5, 4e5, 3e5]])
    for margin in (-1e3, 1e3):
        d = polarity_distances(of_view, np.array([margin]), INVERTED, range(4))
        assert np.isfinite(d).all()
        assert d.argmin() == (1 if margin > 0 else 3)
