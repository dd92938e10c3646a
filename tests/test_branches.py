"""Banks, distances and choices against plain numpy, one image and one branch at a time."""

import numpy as np
import pytest
from scipy import ndimage, stats
from scipy.special import softmax

from mln_flax import branches
from mln_flax.types import UserError

WIDTHS = {"layers_0/norm1": 3, "norm_up": 5}
IMAGES, K = 4, 3


def moments_of(rng, *shape):
    return {
        layer: tuple(rng.uniform(0.5, 2, (*shape, c)).astype(np.float32) for _ in range(2))
        for layer, c in WIDTHS.items()
    }


@pytest.fixture
def made():
    """A bank, its spread, and the moments of some images in all branches."""
    rng = np.random.default_rng(0)
    return moments_of(rng, K), moments_of(rng, K), moments_of(rng, IMAGES, K)


def by_hand(bank, spread, moments, metric):
    out = np.zeros((IMAGES, K))
    channels = 2 * sum(WIDTHS.values())
    for i in range(IMAGES):
        for b in range(K):
            for layer in WIDTHS:
                for part in range(2):
                    u, v = bank[layer][part][b], moments[layer][part][i, b]
                    cosine = (u * v).sum() / np.sqrt((u**2).sum() * (v**2).sum())
                    out[i, b] += {
                        "cosine": 1 - cosine,
                        "literal": cosine,
                        "euclidean": np.sqrt(((u - v) ** 2).sum()),
                        "standardized": (((u - v) / spread[layer][part][b]) ** 2).sum() / channels,
                    }[metric]
    return out


@pytest.mark.parametrize("metric", branches.METRICS)
def test_distances(made, metric):
    bank, spread, moments = made
    d = branches.distances(bank, moments, metric, spread)
    assert d.shape == (IMAGES, K)
    np.testing.assert_allclose(d, by_hand(bank, spread, moments, metric), rtol=1e-5, atol=1e-6)


def test_a_bank_of_two_branches_by_hand():
    bank = {"norm": (np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [3.0, 4.0]]))}
    one = np.array([[[1.0, 0.0], [1.0, 0.0]]]), np.array([[[1.0, 1.0], [3.0, 4.0]]])
    spread = {"norm": (np.array([[1.0, 1.0], [0.5, 2.0]]), np.ones((2, 2)))}

    def d(metric):
        return np.asarray(branches.distances(bank, {"norm": one}, metric, spread))

    np.testing.assert_allclose(d("cosine"), [[0, 1]], atol=1e-6)
    np.testing.assert_allclose(d("literal"), [[2, 1]], atol=1e-6)
    np.testing.assert_allclose(d("euclidean"), [[0, np.sqrt(5)]], rtol=1e-6)
    np.testing.assert_allclose(d("standardized"), [[0, (4 + 1) / 4]], rtol=1e-6)


@pytest.mark.parametrize("metric", branches.METRICS)
def test_the_layers_shares_add_up_and_choose_as_the_first_layers_alone(made, metric):
    bank, spread, moments = made
    order = list(reversed(sorted(bank)))
    shares = np.asarray(branches.layer_distances(bank, moments, metric, spread, order))
    assert shares.shape == (len(moments["norm_up"][0]), len(order), K)
    whole = branches.distances(bank, moments, metric, spread)
    np.testing.assert_allclose(shares.sum(axis=1), whole, rtol=1e-5)
    for m in range(1, len(order) + 1):
        first = [{layer: of[layer] for layer in order[:m]} for of in (bank, moments, spread)]
        alone = np.asarray(branches.distances(*first[:2], metric, first[2]))
        summed = shares[:, :m].sum(axis=1)
        np.testing.assert_array_equal(branches.select(summed), branches.select(alone))
        np.testing.assert_allclose(summed / summed[0, 0], alone / alone[0, 0], rtol=1e-4)


def test_literal_chooses_the_least_similar_branch(made):
    bank, _, moments = made
    cosine = branches.distances(bank, moments, "cosine")
    literal = branches.distances(bank, moments, "literal")
    np.testing.assert_array_equal(branches.select(literal), np.argmax(cosine, axis=1))
    similarity = 2 * len(WIDTHS) - np.asarray(cosine)
    np.testing.assert_array_equal(branches.select(literal), np.argmin(similarity, axis=1))


def test_cosine_is_the_default_and_knows_no_scale(made):
    bank, _, moments = made
    doubled = {layer: (2 * mean, 3 * std) for layer, (mean, std) in moments.items()}
    np.testing.assert_allclose(
        branches.distances(bank, doubled),
        branches.distances(bank, moments, "cosine"),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("metric", branches.METRICS)
def test_an_image_like_the_bank_of_a_branch_is_given_that_branch(made, metric):
    bank, spread, moments = made
    for b in range(K):
        for layer in WIDTHS:
            for part in range(2):
                moments[layer][part][0, b] = bank[layer][part][b]
        d = branches.distances(bank, moments, metric, spread)
        extreme = np.argmax(d[0]) if metric == "literal" else branches.select(d)[0]
        assert extreme == b
        moments["norm_up"][0][0, b] *= np.array([1, 2, 3, 4, 5])  # no longer like it


@pytest.mark.parametrize("metric", branches.METRICS)
def test_permuted_images_give_permuted_answers(made, metric):
    bank, spread, moments = made
    order = np.array([2, 0, 3, 1])
    permuted = {layer: (mean[order], std[order]) for layer, (mean, std) in moments.items()}
    np.testing.assert_array_equal(
        branches.distances(bank, permuted, metric, spread),
        np.asarray(branches.distances(bank, moments, metric, spread))[order],
    )
    alone = {layer: (mean[:1], std[:1]) for layer, (mean, std) in moments.items()}
    np.testing.assert_allclose(
        branches.distances(bank, alone, metric, spread)[0],
        branches.distances(bank, moments, metric, spread)[0],
        rtol=1e-6,
    )


def test_moments_of_zero_give_finite_distances(made):
    bank, spread, moments = made
    zero = {layer: tuple(np.zeros_like(m) for m in pair) for layer, pair in moments.items()}
    for metric in branches.METRICS:
        assert np.isfinite(branches.distances(bank, zero, metric, spread)).all()


def test_standardized_needs_the_spread(made):
    bank, _, moments = made
    with pytest.raises(ValueError, match="'standardized' needs the spread"):
        branches.distances(bank, moments, "standardized")


def test_layers_must_be_the_same(made):
    bank, _, moments = made
    del moments["norm_up"]
    with pytest.raises(ValueError, match=r"layers differ: \['norm_up'\]"):
        branches.distances(bank, moments)


def test_an_unknown_metric_names_the_nearest(made):
    bank, _, moments = made
    with pytest.raises(UserError, match="unknown selection 'cosin' .did you mean 'cosine'"):
        branches.distances(bank, moments, "cosin")
    with pytest.raises(UserError, match="unknown selection 'image'"):
        branches.check_metric("image")
    branches.check_metric("image", branches.SELECTIONS)


def test_select_takes_the_nearest_and_of_equals_the_first():
    chosen = branches.select(np.array([[3.0, 1.0, 2.0], [1.0, 0.0, 0.0], [2.0, 2.0, 2.0]]))
    np.testing.assert_array_equal(chosen, [1, 1, 0])
    assert chosen.dtype == np.int32


def test_combine_is_the_union_or_a_weighted_mean():
    p = np.random.default_rng(1).random((2, K, 4, 5, 2)).astype(np.float32)
    np.testing.assert_array_equal(branches.combine(p), p.max(axis=1))
    d = np.array([[0.0, 1.0, 2.0], [0.5, 0.5, 0.5]])
    for temperature in (1.0, 0.3):
        weights = softmax(-d / temperature, axis=1)
        expected = np.einsum("bk,bk...->b...", weights, p)
        combined = branches.combine(p, d, temperature=temperature)
        np.testing.assert_allclose(combined, expected, rtol=1e-5)
    nearest_only = branches.combine(p[:1], d[:1], temperature=1e-3)
    np.testing.assert_allclose(nearest_only, p[:1, 0], rtol=1e-6)


def images_to_measure() -> list[np.ndarray]:
    """Smaller than a blur reaches, of an odd size, and as stored, with a black background."""
    rng = np.random.default_rng(2)
    breast = rng.random((48, 64)).astype(np.float32) ** 2
    breast[:, :25] = 0
    return [rng.random((7, 9)), rng.random((33, 50)), breast]


@pytest.mark.parametrize("image", images_to_measure())
def test_image_features_of_one_image_by_hand(image):
    height, width = image.shape
    stored, image = image, image.astype(np.float64)
    quantiles = np.quantile(image, [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])
    borders = sorted(edge.mean() for edge in (image[0], image[-1], image[:, 0], image[:, -1]))
    down = np.mean(
        [abs(image[i + 1, j] - image[i, j]) for i in range(height - 1) for j in range(width)]
    )
    across = np.mean(
        [abs(image[i, j + 1] - image[i, j]) for i in range(height) for j in range(width - 1)]
    )
    gradient = np.log((down + across) / 2 + branches.NOISE_FLOOR)
    center = image[1:-1, 1:-1].ravel()
    kernel = [[0, -1, 0], [-1, 4, -1], [0, -1, 0]]
    laplacian = np.abs(ndimage.convolve(image, kernel)[1:-1, 1:-1]).ravel()
    edges = np.quantile(center, [0, 0.25, 0.5, 0.75, 1])
    noise = [
        np.log(laplacian[(center >= low) & (center <= high)].mean() + branches.NOISE_FLOOR)
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    polarity = []
    for fine, coarse in ((1, 3), (2, 6)):
        band = ndimage.gaussian_filter(image, fine) - ndimage.gaussian_filter(image, coarse)
        dark, middle, bright = np.quantile(band, [0.01, 0.5, 0.99]) + [
            -branches.NOISE_FLOOR,
            0,
            branches.NOISE_FLOOR,
        ]
        polarity.append(np.log((bright - middle) / (middle - dark)))
    expected = [*quantiles, *borders, gradient, stats.skew(image, axis=None), *noise, *polarity]
    features = branches.image_features(stored[None])
    assert features.shape == (1, 19) == (1, branches.FEATURES)
    assert features.dtype == np.float64
    np.testing.assert_allclose(features[0], expected, rtol=1e-9, atol=1e-12)


def test_image_features_know_no_orientation_but_the_intensity():
    images = np.random.default_rng(3).random((3, 8, 8)) ** 2
    features = branches.image_features(images)
    for turned in (images[:, ::-1], images[:, :, ::-1], images.swapaxes(1, 2)):
        np.testing.assert_allclose(branches.image_features(turned), features, rtol=1e-9)
    np.testing.assert_allclose(branches.image_features(images[::-1]), features[::-1])
    inverted = branches.image_features(1 - images)
    np.testing.assert_allclose(inverted[:, :7], 1 - features[:, 6::-1])  # quantiles from behind
    np.testing.assert_allclose(inverted[:, 7:11], 1 - features[:, 10:6:-1])
    np.testing.assert_allclose(inverted[:, 11], features[:, 11])
    np.testing.assert_allclose(inverted[:, 12], -features[:, 12])
    np.testing.assert_allclose(inverted[:, 13:17], features[:, 16:12:-1])  # noise by gray
    np.testing.assert_allclose(inverted[:, 17:], -features[:, 17:], atol=1e-9)


def test_image_features_of_a_constant_image_are_finite():
    np.testing.assert_allclose(
        branches.image_features(np.full((1, 5, 5), 0.25)),
        [[0.25] * 11 + [np.log(1e-4), 0] + [np.log(1e-4)] * 4 + [0, 0]],
        atol=1e-9,
    )


def test_image_distances_are_an_affine_map_of_the_log_density():
    """-2 log N(x) = Mahalanobis + log determinant + d log 2 pi."""
    rng = np.random.default_rng(4)
    mixing = rng.normal(size=(3, 5, 5))
    samples = np.einsum("vfg,vng->vnf", mixing, rng.normal(size=(3, 200, 5))) + rng.normal(
        size=(3, 1, 5)
    )
    gaussian = branches.fit_gaussian(samples, ridge=0)
    points = rng.normal(size=(6, 5))
    distance = branches.image_distances(gaussian, points)
    assert distance.shape == (6, 3)
    for v in range(3):
        np.testing.assert_allclose(gaussian.mean[v], samples[v].mean(axis=0))
        covariance = np.cov(samples[v].T) + 1e-9 * np.eye(5)
        density = stats.multivariate_normal(samples[v].mean(axis=0), covariance).logpdf(points)
        np.testing.assert_allclose(distance[:, v], -2 * density - 5 * np.log(2 * np.pi), rtol=1e-6)


def test_the_ridge_is_a_share_of_the_pooled_variance():
    samples = np.random.default_rng(5).normal(size=(2, 50, 3)) * [1.0, 10.0, 0.1]
    gaussian = branches.fit_gaussian(samples, ridge=0.5)
    pooled = np.mean([samples[v].var(axis=0, ddof=1) for v in range(2)], axis=0)
    for v in range(2):
        expected = np.cov(samples[v].T) + np.diag(0.5 * pooled + 1e-9)
        np.testing.assert_allclose(np.linalg.inv(gaussian.precision[v]), expected, rtol=1e-8)
        assert gaussian.log_determinant[v] == pytest.approx(np.linalg.slogdet(expected)[1])


def test_few_or_equal_images_still_give_a_proper_distribution():
    for features in (np.ones((2, 1, 19)), np.random.default_rng(6).normal(size=(2, 4, 19))):
        gaussian = branches.fit_gaussian(features)
        assert all(np.isfinite(part).all() for part in gaussian)
        own = branches.image_distances(gaussian, gaussian.mean)
        away = branches.image_distances(gaussian, gaussian.mean + 1)
        assert (np.diagonal(own) < np.diagonal(away)).all()


def test_nearest_view_of_each_branch():
    d = np.array([[4.0, 3.0, 2.0, 1.0], [1.0, 5.0, 0.0, 7.0]])
    np.testing.assert_array_equal(branches.nearest_view(d, (0, 1, 2, 3)), d)
    np.testing.assert_array_equal(branches.nearest_view(d, (0, 0, 1, 1)), [[3, 1], [1, 0]])
    np.testing.assert_array_equal(branches.nearest_view(d, (1, 0, 1, 0)), [[1, 2], [5, 0]])
    np.testing.assert_array_equal(branches.nearest_view(d, (0, 0, 0, 0)), [[1], [0]])
