"""What is said of why a branch was chosen, against the answers themselves and plain numpy."""

import json

import numpy as np
import numpy_features
import pytest
import small_mln

from mln_flax.methods.mln import bank, branches
from mln_flax.metrics.decision import OperatingPoint, decide
from mln_flax.views import intensity

TILES, NAMES = small_mln.SHOWN[:4], small_mln.VIEWS


@pytest.fixture(scope="module")
def mln():
    return small_mln.built()


@pytest.fixture(scope="module")
def fitted():
    return small_mln.fitted()._replace(point=OperatingPoint(0.6, 2))


@pytest.fixture(scope="module")
def found(mln, fitted):
    return mln.explain(fitted, TILES, None)


@pytest.fixture(scope="module")
def full(mln, fitted):
    """What evaluation records of the same tiles."""
    return mln.answer_all(fitted, TILES)


def squared(gaussian, image):
    """Squared Mahalanobis distances [n, V] in float64."""
    apart = numpy_features.image_features(image).view[:, None] - gaussian.mean
    return np.einsum("bvf,vfg,bvg->bv", apart, gaussian.precision, apart)


def test_distances_are_those_of_evaluation_summed(found, full):
    why = found.why
    assert why["branches"] == list(NAMES) and why["looked_at"] == 4
    assert list(why["distances"]) == list(branches.SELECTIONS)
    for rule, distances in why["distances"].items():
        expected = np.sum([fact["distances"][rule] for fact in full.facts], axis=0)
        np.testing.assert_allclose(distances, expected, rtol=1e-6)
    assert why["chosen"] == NAMES[int(np.argmin(why["distances"]["polarity"]))]


def test_the_norms_add_up(found):
    assert list(found.why["by_norm"]) == list(branches.BY_MOMENTS)
    for rule, of_rule in found.why["by_norm"].items():
        assert of_rule["norms"] == ["down_0/norm1", "down_0/norm2"]
        added = np.array(of_rule["distances"])
        assert added.shape == (2, 3)
        np.testing.assert_allclose(added.sum(axis=0), found.why["distances"][rule], rtol=1e-5)


def test_another_choice_may_be_given(mln, fitted, found):
    given = np.array([3.0, 1.0, 2.0])
    for common in (given, np.tile(given, (4, 1))):
        other = mln.explain(fitted, TILES, common).why
        assert other["chosen"] == NAMES[1] != found.why["chosen"]
        assert other["distances"] == found.why["distances"]


def test_numbers_stand_beside_those_of_the_nearest_view(fitted, found):
    gaussian = fitted.bank.image.gaussian
    nearest = squared(gaussian, TILES).mean(axis=0).argmin()
    values = numpy_features.image_features(TILES).view.mean(axis=0)
    training = [intensity.make_view(name).numpy(small_mln.IMAGE) for name in NAMES]
    source = np.stack([numpy_features.image_features(images).view for images in training])
    variance = source.var(axis=1, ddof=1)
    std = np.sqrt(variance[nearest] + 1e-3 * variance.mean(axis=0) + 1e-9)  # with its ridge
    rows = found.why["numbers"]
    assert len({row["name"] for row in rows}) == len(rows) == 19
    assert rows[3]["name"] == "50% quantile" and rows[12]["name"] == "skewness"
    for i, row in enumerate(rows):
        assert row["value"] == pytest.approx(values[i], rel=1e-4, abs=1e-5)
        assert row["mean"] == pytest.approx(source[nearest, :, i].mean(), rel=1e-4, abs=1e-5)
        assert row["std"] == pytest.approx(std[i], rel=1e-3)
        assert row["z"] == pytest.approx((row["value"] - row["mean"]) / row["std"])
        assert row["outside"] is (abs(row["z"]) > 3)
    assert any(row["outside"] for row in rows)  # one half of the tiles is inverted


def test_an_image_is_far_beyond_99_percent_of_the_source(mln, fitted):
    gaussian = fitted.bank.image.gaussian
    views = [intensity.make_view(name).numpy(small_mln.IMAGE) for name in NAMES]
    usual = [squared(gaussian, view).min(axis=1) for view in views]
    assert fitted.far == pytest.approx(np.quantile(np.concatenate(usual), 0.99), rel=1e-3)
    blank = np.full((2, 16, 16), 0.5, np.float32)
    for image, is_far in ((small_mln.IMAGE[:2], False), (blank, True)):
        far = mln.explain(fitted, image, None).why["far"]
        assert far["is_far"] is is_far and far["threshold"] == fitted.far
        expected = squared(gaussian, image).mean(axis=0).min()
        assert far["distance"] == pytest.approx(expected, rel=1e-3)


def test_models_of_before_warn_of_nothing(mln, fitted):
    tree = bank.to_tree(fitted)
    assert bank.from_tree(tree).far == fitted.far
    before = bank.from_tree({name: part for name, part in tree.items() if name != "far"})
    assert before.far is None and "far" not in bank.to_tree(before)
    assert "far" not in mln.explain(before, TILES, None).why


def test_disagreement_is_where_branches_mark_otherwise(fitted, found, full):
    of_branches = np.stack([full.maps[name] for name in NAMES], axis=1)
    for b, name in enumerate(NAMES):
        np.testing.assert_array_equal(found.maps[f"branch {name}"], of_branches[:, b])
    mean = of_branches.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.square(of_branches - mean).mean(axis=1))
    assert found.maps["disagreement"].dtype == np.float32
    np.testing.assert_allclose(found.maps["disagreement"], deviation, rtol=1e-4, atol=1e-6)
    marked = [[decide(p, fitted.point) for p in tile] for tile in of_branches]
    differs = [(tile != tile[0]).any(axis=0) for tile in np.array(marked)]
    said = found.why["disagreement"]
    assert 0 < said["share"] == pytest.approx(np.mean(differs))
    assert said["mean"] == pytest.approx(deviation.mean(), rel=1e-4)
    assert said["largest"] == pytest.approx(deviation.max(), rel=1e-4)


def test_it_is_made_of_plain_numbers_and_names(found):
    assert json.loads(json.dumps(found.why)) == found.why
