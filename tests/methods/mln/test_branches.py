"""Banks, distances and choices against plain numpy, one image and one branch at a time."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from mln_flax.methods.mln import branches
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


def test_the_nearest_of_precise_numbers_is_found():
    """Numbers that are equal in float32."""
    d = np.array([[1.0 + 1e-12, 1.0], [1.0, 1.0 + 1e-12]])
    np.testing.assert_array_equal(branches.select(d), [1, 0])


def test_the_foreground_joins_the_mean_of_every_layer(made):
    bank, _, moments = made
    rng = np.random.default_rng(3)
    of_branch, of_image = rng.random(K), rng.random(IMAGES)
    banked, seen = (
        branches.with_foreground(bank, of_branch),
        branches.with_foreground(moments, of_image),
    )
    assert set(banked) == set(seen) == set(WIDTHS)
    for layer, c in WIDTHS.items():
        assert banked[layer][0].shape == (K, c + 1) and seen[layer][0].shape == (IMAGES, K, c + 1)
        np.testing.assert_array_equal(banked[layer][0][:, :c], bank[layer][0])
        np.testing.assert_array_equal(seen[layer][0][..., :c], moments[layer][0])
        np.testing.assert_allclose(banked[layer][0][:, c], of_branch, rtol=1e-6)
        for b in range(K):  # an image has one foreground, whatever branch looks at it
            np.testing.assert_allclose(seen[layer][0][:, b, c], of_image, rtol=1e-6)
        assert banked[layer][1] is bank[layer][1] and seen[layer][1] is moments[layer][1]
    assert bank["norm_up"][0].shape == (K, WIDTHS["norm_up"])  # what was given is as it was


@pytest.mark.parametrize("metric", branches.WITH_FOREGROUND.values())
def test_distances_with_the_foreground_by_hand(made, metric):
    bank, _, moments = made
    rng = np.random.default_rng(4)
    of_branch, of_image = rng.random(K), rng.random(IMAGES)
    d = branches.distances(
        branches.with_foreground(bank, of_branch),
        branches.with_foreground(moments, of_image),
        metric,
    )
    of_bank, of_moments = {}, {}
    for layer in WIDTHS:
        of_bank[layer] = np.column_stack([bank[layer][0], of_branch]), bank[layer][1]
        gray = np.tile(of_image[:, None, None], (1, K, 1))
        of_moments[layer] = np.concatenate([moments[layer][0], gray], axis=2), moments[layer][1]
    ones = {layer: (np.ones((K, c + 1)), np.ones((K, c))) for layer, c in WIDTHS.items()}
    expected = by_hand(of_bank, ones, of_moments, metric)
    np.testing.assert_allclose(d, expected, rtol=1e-5, atol=1e-6)
    without = branches.distances(bank, moments, metric)
    assert np.abs(np.asarray(d) - np.asarray(without)).max() > 1e-3


def test_weights_are_the_probabilities_at_temperature_1():
    p = np.array([[0.5, 0.3, 0.2], [0.05, 0.9, 0.05], [1 / 3, 1 / 3, 1 / 3]])
    for shift in (0, 700):  # of all distances of an image: counts nowhere
        found = branches.weights(shift - np.log(p))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[[0, 2]], p[[0, 2]], rtol=1e-6)
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)


def test_temperature_evens_out_the_weights():
    d = np.random.default_rng(5).uniform(0, 2, (6, K))
    for temperature in (0.7, 2.0, 50.0):
        share = np.exp(-d / temperature)
        share /= share.sum(axis=1, keepdims=True)
        share[share < 0.05] = 0
        share /= share.sum(axis=1, keepdims=True)
        found = branches.weights(d, temperature)
        np.testing.assert_allclose(found, share, rtol=1e-5)
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(branches.weights(d, 1e6), np.full((6, K), 1 / K), rtol=1e-4)
    np.testing.assert_array_equal(branches.weights(d, 1e-3), np.eye(K)[d.argmin(axis=1)])


def test_a_negligible_branch_has_no_weight():
    found = branches.weights(-np.log([[0.78, 0.16, 0.06], [0.8, 0.16, 0.04]]))
    np.testing.assert_allclose(found[0], [0.78, 0.16, 0.06], rtol=1e-6)
    np.testing.assert_allclose(found[1], [0.8 / 0.96, 0.16 / 0.96, 0], rtol=1e-6)
    assert found[1, 2] == 0


def test_of_many_branches_none_may_be_left_out_for_being_one_of_many():
    many = branches.weights(np.zeros((1, 40)))
    np.testing.assert_allclose(many, np.full((1, 40), 1 / 40), rtol=1e-6)
    likely = branches.weights(np.r_[0.0, np.ones(39)][None])
    np.testing.assert_array_equal(likely, np.eye(40)[:1])  # 0.065 against 39 times 0.024


def test_shares_of_each_answer():
    d = np.array([[3.0, 1.0, 2.0], [0.2, 0.4, 0.2]])

    def shares(**settings):
        return branches.shares(d, inverted=(False, False, True), **settings)

    nearest = shares(answer="branch", temperature=5.0)
    np.testing.assert_array_equal(nearest, [[0, 1, 0], [1, 0, 0]])
    for answer in branches.BY_MAPS:
        np.testing.assert_array_equal(shares(answer=answer), np.ones((2, 3)))
    of_polarity = shares(answer="mixed", mixing="polarity")
    np.testing.assert_array_equal(of_polarity, [[0.5, 0.5, 0], [0.5, 0.5, 0]])
    for temperature in (1.0, 3.0):
        weighted = shares(answer="weighted", temperature=temperature)
        mixed = shares(answer="mixed", temperature=temperature)
        np.testing.assert_array_equal(mixed, weighted)
        expected = softmax(-d / temperature, axis=1)
        np.testing.assert_allclose(weighted, expected, rtol=1e-5)
        assert nearest.dtype == weighted.dtype == np.float32


def test_polarity_mixes_the_branches_of_the_likelier_side_alike():
    """By the sums of the probabilities on either side, not by the nearest branch."""
    p = np.array([[0.3, 0.3, 0.4], [0.1, 0.1, 0.8], [0.25, 0.25, 0.5]])
    found = branches.mixing_weights(-np.log(p), "polarity", 1.0, (False, False, True))
    np.testing.assert_array_equal(found[:2], [[0.5, 0.5, 0], [0, 0, 1]])
    turned = branches.mixing_weights(jnp.asarray(-np.log(p)), "polarity", 1.0, (True, True, False))
    np.testing.assert_array_equal(turned[:2], found[:2])
    for inverted in (False, True):  # branches of one polarity alone
        alike = branches.mixing_weights(-np.log(p), "polarity", 1.0, (inverted,) * 3)
        np.testing.assert_allclose(alike, np.full((3, 3), 1 / 3), rtol=1e-6)


def test_entropy_of_either_side_counts_half():
    """Weights by hand: one sure branch, one that is unsure of its lesion, one that finds none."""
    sure, unsure, none = np.full((3, 4, 4), 0.01, np.float32)
    sure[0, 0], unsure[0, :2] = 0.99, 0.6

    def h(p):
        return -p * np.log(p) - (1 - p) * np.log(1 - p)

    wanted = np.array([h(0.01), (h(0.01) + h(0.6)) / 2, (h(0.01) + np.log(2)) / 2])
    maps = np.stack([sure, unsure, none])[None]
    for given in (maps, jnp.asarray(maps)):
        np.testing.assert_allclose(branches.balanced_entropy(given)[0], wanted, rtol=1e-5)
        for temperature in (0.1, 1.0):
            found = branches.entropy_weights(given, temperature)
            np.testing.assert_allclose(found[0], softmax(-wanted / temperature), rtol=1e-4)
    assert np.isfinite(branches.balanced_entropy(np.float32([[[0, 1]]]))).all()


def test_combine_is_the_union_or_a_weighted_mean():
    p = np.random.default_rng(1).random((2, K, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(branches.combine(p), p.max(axis=1))
    shares = np.array([[0.5, 0.25, 0.25], [0.0, 0.1, 0.9]], np.float32)
    for probability in (p, p[..., None]):
        found = branches.combine(probability, shares)
        np.testing.assert_allclose(
            found, np.einsum("bk,bk...->b...", shares, probability), rtol=1e-6
        )
    nearest_only = branches.combine(p, np.eye(3, dtype=np.float32)[[1, 1]])
    np.testing.assert_array_equal(nearest_only, p[:, 1])


def test_no_image_outvotes_many_in_a_shared_choice():
    """A probability is taken for no smaller than e^-10; distances of moments are as they are."""
    distances = np.array([[300.0, 0.0], [0.3, 1.4], [0.3, 1.4], [0.3, 1.4]] + [[0.3, 1.4]] * 9)
    assert branches.select(distances.sum(axis=0)) == 1
    assert branches.select(branches.pooled(distances, "polarity").sum(axis=0)) == 0
    assert branches.pooled(distances, "polarity").max() == branches.SUREST
    np.testing.assert_array_equal(branches.pooled(distances, "cosine"), distances)
