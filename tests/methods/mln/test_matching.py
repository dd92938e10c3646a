"""Grays moved to the source's: quantiles by numpy, the identity, tiles that share a choice."""

import dataclasses

import jax
import numpy as np
import pytest
import small_mln

from mln_flax.config import Config, validate
from mln_flax.methods.mln import image_rules, matching
from mln_flax.methods.mln.bank import ViewMap
from mln_flax.methods.mln.matching import LEVELS, Look
from mln_flax.methods.mln.settings import MlnSettings
from mln_flax.types import UserError

VIEWS = ViewMap(small_mln.VIEWS, (0, 1, 2))


def breasts(count=3, side=64, seed=0):
    """Images with a third of black air beside smooth and noisy grays, float32."""
    rng = np.random.default_rng(seed)
    image = rng.beta(2, 3, (count, side, side)) * 0.8 + 0.1
    image[:, :, : side // 3] = 0
    return image.astype(np.float32)


def seen_of(image, distances, sides):
    return Look(np.float32(distances), np.float32(sides), np.asarray(matching.histogram(image)))


def test_quantiles_are_those_of_the_breast():
    image = breasts()
    for shown in (image, 1 - image):
        histogram = np.asarray(matching.histogram(shown))
        np.testing.assert_allclose(histogram.sum(axis=1), 43 / 64, rtol=1e-5)
        found = np.asarray(matching.quantiles(histogram))
        wanted = [np.quantile(one[:, 64 // 3 :], LEVELS) for one in shown]
        np.testing.assert_allclose(found, wanted, atol=1 / matching.BINS + 1e-3)
        assert (np.diff(found, axis=1) > 0).all()


def test_an_image_with_the_quantiles_of_the_source_stays_as_it_is():
    image = breasts(1)
    grays = matching.source_grays([np.asarray(matching.histogram(image))] * 3, VIEWS)
    seen = seen_of(image, [[1, 0, 2]], [[0, 5]])
    np.testing.assert_allclose(matching.matched(grays, seen, image), image, atol=1e-4)


def test_another_curve_is_undone_in_either_polarity():
    """Of a strictly growing curve of grays nothing is left; air stays air."""
    image = breasts()
    histograms = [np.asarray(matching.histogram(of)) for of in (image, np.sqrt(image), 1 - image)]
    grays = matching.source_grays(histograms, VIEWS)
    assert grays.shape == (3, 2, len(LEVELS))
    for branch, side, own in ((0, 0, image), (1, 0, np.sqrt(image)), (2, 1, 1 - image)):
        shown = own**1.7
        distances, sides = np.ones((3, 3)), np.ones((3, 2))
        distances[:, branch], sides[:, side] = 0, 0
        found = np.asarray(matching.matched(grays, seen_of(shown, distances, sides), shown))
        inside = np.s_[:, :, 64 // 3 :]
        middle = (own[inside] > 0.2) & (own[inside] < 0.7)  # where quantiles lie close together
        np.testing.assert_allclose(found[inside][middle], own[inside][middle], atol=0.03)
        np.testing.assert_allclose(found[:, :, 0], own[:, :, 0], atol=5e-3)
        order = np.argsort(shown[0].ravel())
        assert (np.diff(found[0].ravel()[order]) >= -1e-6).all()


def test_views_of_both_polarities_in_one_branch_are_told_apart():
    image = breasts()
    histograms = [np.asarray(matching.histogram(of)) for of in (image, image, 1 - image)]
    grays = matching.source_grays(histograms, ViewMap(small_mln.VIEWS, (0, 0, 0)))
    assert grays.shape == (1, 2, len(LEVELS))
    np.testing.assert_allclose(grays[0, 1], 1 - grays[0, 0, ::-1], atol=1e-2)
    upright = matching.source_grays(histograms[:2], ViewMap(small_mln.VIEWS[:2], (0, 1)))
    np.testing.assert_array_equal(upright[:, 0], upright[:, 1])


@pytest.fixture(scope="module")
def mln():
    return small_mln.built(matching=True)


@pytest.fixture(scope="module")
def own(mln):
    """The answers for images each by itself."""
    return mln.answer(small_mln.fitted(), small_mln.SHOWN)


def test_the_matched_image_goes_through_its_branch(mln, own):
    kept, image = small_mln.fitted(), small_mln.SHOWN
    looks = mln.look(kept, image)
    seen = Look.of(looks)
    assert seen.distances.shape == (5, 3) and seen.sides.shape == (5, 2)
    np.testing.assert_allclose(seen.histogram, matching.histogram(image), atol=1e-6)
    plain = small_mln.built()
    np.testing.assert_allclose(seen.distances, plain.look(kept, image), atol=1e-4)
    shown = np.asarray(matching.matched(kept.grays, seen, image))
    assert np.abs(shown - image).max() > 0.02
    wanted = plain.answer(kept, shown, seen.distances)  # in the same branches
    np.testing.assert_allclose(own.maps["answer"], wanted.maps["answer"], atol=1e-4)
    assert [f["branch"] for f in own.facts] == [f["branch"] for f in wanted.facts]
    full = mln.answer_all(kept, image)
    assert set(full.chosen) == {"matched"} and own.facts[0]["answer"] == "matched"
    np.testing.assert_allclose(full.maps["matched"], own.maps["answer"], atol=1e-5)
    point = kept.mixtures["matched"].point
    assert full.points["matched"] == own.points["answer"] == point
    known = image_rules.chooser(kept.bank.image)
    of_one_side = matching.look(ViewMap(small_mln.VIEWS[:2], (0, 1)), _first(known, 2), image)
    assert (np.asarray(of_one_side.sides).argmin(axis=1) == 0).all()


def _first(known, views):
    parts = (x[:views] for x in (known.mean, known.whitening, known.log_determinant))
    return image_rules.Chooser(*parts, known.polarity)


def test_tiles_that_share_a_choice_are_mapped_alike(mln, own):
    kept, image = small_mln.fitted(), small_mln.SHOWN
    looks = mln.look(kept, image)
    order = np.random.default_rng(1).permutation(5)
    again = mln.answer(kept, image[order])
    np.testing.assert_allclose(again.maps["answer"], own.maps["answer"][order], atol=1e-5)
    common = np.tile(looks[:3].sum(axis=0), (5, 1))
    answers = mln.answer(kept, image, common)
    seen = Look.of(common)
    assert len({fact["branch"] for fact in answers.facts}) == 1
    grays = np.concatenate([one.ravel() for one in image])
    curve = np.asarray(matching.matched(kept.grays, seen, image)).ravel()
    order = np.argsort(grays)
    assert (np.diff(curve[order]) >= -1e-6).all()  # one curve for all
    out = jax.device_get(jax.jit(mln.traced(kept))(image, common))
    np.testing.assert_allclose(out["probability"], answers.maps["answer"], atol=1e-4)
    why = mln.explain(kept, image, common).why
    assert why["chosen"] == answers.facts[0]["branch"]


def test_what_is_traced_answers_as_the_method(mln, own):
    kept, image = small_mln.fitted(), small_mln.SHOWN
    out = jax.device_get(jax.jit(mln.traced(kept))(image))
    np.testing.assert_allclose(out["probability"], own.maps["answer"], atol=1e-4)
    np.testing.assert_allclose(out["look"], mln.look(kept, image), atol=1e-4)
    shares = np.float32([list(fact["shares"].values()) for fact in own.facts])
    given = jax.jit(mln.probability)(kept, shares, image)
    np.testing.assert_allclose(given, own.maps["answer"], atol=1e-4)


@pytest.mark.parametrize(
    "values",
    [{"answer": "mixed"}, {"answer": "union"}, {"selection": "cosine"}, {"level": "domain"}],
)
def test_what_cannot_be_matched_is_refused(values):
    config = dataclasses.replace(Config(), method=MlnSettings(matching=True, **values))
    with pytest.raises(UserError, match="matching=true"):
        validate(config)
