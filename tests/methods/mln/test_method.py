"""MLN-net as the engine has it: state, validation, fit and answer of one network."""

import functools

import jax
import numpy as np
import pytest
import scipy.signal
import small_mln

from mln_flax.data.images import from_arrays
from mln_flax.methods import validation
from mln_flax.methods.mln import branches, method, study
from mln_flax.methods.mln.settings import MlnSettings
from mln_flax.views import intensity

SIDE, CHUNK = 16, 4
NAMES = ("identity", "bezier(0.3)", "invert")
BRANCH = (0, 0, 1)  # grouped: identity and the curve share a branch
IMAGE = np.random.default_rng(0).random((5, SIDE, SIDE)).astype(np.float32)


def built(norm, **settings):
    """The method for a U-Net of one stage and two branches."""
    return small_mln.built(norm, branch_map="grouped", **settings)


@pytest.fixture(scope="module")
def mln():
    """Of a norm that does not read its statistics."""
    return built("sample")


@pytest.fixture(scope="module")
def state(mln):
    return small_mln.first_state(mln)


@pytest.fixture(scope="module")
def probability(mln, state):
    """(images, branch) -> the probabilities of the network itself."""
    apply = jax.jit(functools.partial(mln.model.apply, train=False))

    def call(image, branch):
        logits, _ = apply(state.variables, image[..., None], np.full(len(image), branch, np.int32))
        return np.asarray(jax.nn.softmax(logits))[..., 1]

    return call


@pytest.fixture(scope="module")
def source(probability):
    """Images with what the network marks in them, so that it answers well where it is asked so."""
    return from_arrays(IMAGE, (probability(IMAGE, 0) > 0.5).astype(np.uint8))


@pytest.fixture(scope="module")
def fitted(mln, state, source):
    return mln.fit(state, source, source)


def test_the_network_has_the_branches_of_the_map(mln):
    assert mln.model.num_branches == 2
    assert mln.level == "image" and built("sample", level="domain").level == "domain"
    assert method.KIND.study is study.STUDY and method.KIND.settings is MlnSettings


def test_each_view_is_validated_in_its_own_branch(mln, state, fitted, probability, source):
    def scores_of(branch_of_view):
        scores, point = validation.of_views(
            lambda image, view: probability(image, branch_of_view[view]), NAMES, source, CHUNK
        )
        return np.array([*scores.pop("validation_dsc_per_view").values(), *scores.values()]), point

    found, (wanted, point) = mln.validate(state, source), scores_of(BRANCH)
    per_view = found.pop("validation_dsc_per_view")
    assert tuple(per_view) == NAMES and fitted.point == point
    np.testing.assert_allclose([*per_view.values(), *found.values()], wanted, rtol=1e-6)
    assert wanted[0] > 0.9
    for other in ((0, 0, 0), (1, 0, 1), (0, 1, 1)):  # each view matters
        assert np.abs(scores_of(other)[0] - wanted).max() > 1e-3


def test_statistics_are_made_exact(state, fitted):
    """Those of the first norm, whose input is known without the network."""
    conv = state.params["down_0"]["conv1"]
    kernel, bias = (np.asarray(conv[name], np.float64) for name in ("kernel", "bias"))
    shown = [intensity.make_view(name).numpy(IMAGE) for name in NAMES]
    stats = fitted.domain_stats["down_0"]["norm1"]
    for b, seen in enumerate((np.concatenate(shown[:2]), shown[2])):
        for c in range(3):
            mapped = [scipy.signal.correlate2d(x, kernel[:, :, 0, c], mode="same") for x in seen]
            values = np.array(mapped) + bias[c]
            np.testing.assert_allclose(stats["mean"][b, c], np.mean(values), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(stats["std"][b, c], np.std(values), rtol=1e-4)


def test_statistics_that_make_the_network_stay_as_they_were(source, capsys):
    mln = built("batch")
    state = small_mln.first_state(mln)
    fitted = mln.fit(state, source, source)
    jax.tree.map(np.testing.assert_array_equal, fitted.variables, state.variables)
    assert set(fitted.early) == set(branches.SELECTIONS)  # it was measured, and who watches is told
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[4].rstrip(",") for line in lines] == list(branches.SELECTIONS)


def test_what_is_kept_answers_by_the_branch_that_a_look_chooses(mln, fitted):
    distances = mln.look(fitted, IMAGE)
    chosen = distances.argmin(axis=1)
    answers, full = mln.answer(fitted, IMAGE), mln.answer_all(fitted, IMAGE)
    assert full.chosen == [("similar", "dissimilar")[branch] for branch in chosen]
    kept = method.KIND.from_tree(method.KIND.to_tree(fitted))
    again = mln.answer(kept, IMAGE, distances)
    for i, name in enumerate(full.chosen):
        np.testing.assert_allclose(answers.maps["answer"][i], full.maps[name][i], atol=1e-5)
        np.testing.assert_array_equal(again.maps["answer"][i], answers.maps["answer"][i])
