"""A plain network: MLN-net with one branch trains as it does, and it answers by its one map."""

from functools import partial

import flax
import jax
import jax.export
import numpy as np
import optax
import pytest
from noisy import Noisy

from mln_flax import config
from mln_flax.data.images import from_arrays
from mln_flax.methods import supervised, validation
from mln_flax.methods.core import Ingredients
from mln_flax.methods.losses import LossSettings
from mln_flax.methods.mln import method as mln
from mln_flax.methods.mln.settings import MlnSettings
from mln_flax.metrics import decision
from mln_flax.models import unet
from mln_flax.results.study import PLAIN
from mln_flax.types import AXIS, Batch

SIDE, CHUNK = 8, 2
VIEWS = ("identity", "invert")
LOSS = {"cross_entropy": 0.5, "cross_entropy_from_step": 1, "class_weights": (1.0, 2.0)}
UNET = partial(unet.build, config.network("unet", widths=(4,)))


def ingredients(network=UNET):
    return Ingredients(network, optax.adam(1e-2), VIEWS, SIDE, CHUNK, seed=3)


def a_batch(rows=4, seed=0):
    """Rows of both views in turn."""
    rng = np.random.default_rng(seed)
    image = rng.random((rows, SIDE, SIDE, 1)).astype(np.float32)
    mask = (rng.random((rows, SIDE, SIDE)) > 0.7).astype(np.int32)
    view, domain = np.arange(rows, dtype=np.int32) % 2, np.zeros(rows, np.int32)
    return Batch(image, mask, view, domain, np.ones(rows, bool), np.ones(rows, bool))


@pytest.fixture(scope="module")
def method():
    return supervised.build(supervised.SupervisedSettings(**LOSS), ingredients())


@pytest.fixture(scope="module")
def state(method):
    """At a step at which all parts of the loss count."""
    return jax.jit(method.init)(jax.random.key(0), a_batch())._replace(step=np.int32(2))


@pytest.fixture(scope="module")
def step(method):
    """The update on several devices: (state, batch [devices, rows, ...]) -> all their results."""
    return on_devices(method.update)


@pytest.fixture(scope="module")
def images():
    """Three images: a full chunk and a padded one; in one there is nothing to find."""
    rng = np.random.default_rng(4)
    image = rng.random((3, SIDE, SIDE)).astype(np.float32)
    mask = (image > 0.9).astype(np.uint8)
    mask[1] = 0
    return from_arrays(image, mask)


@pytest.fixture(scope="module")
def fitted(method, state, images):
    return method.fit(state, images, images)


def on_devices(update):
    """An update as devices run it, each a row of the batch; all of them on this one."""
    return jax.jit(jax.vmap(update, in_axes=(None, 0), axis_name=AXIS))


def devices(batch, count=1):
    """The rows of a batch, shared out to devices."""
    return Batch(*(x.reshape(count, len(x) // count, *x.shape[1:]) for x in batch))


def assert_close(a, b, rtol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b)


def test_it_trains_step_for_step_as_mln_net_with_one_branch():
    """On the same seed and network, which draws alike in both what is random in it."""
    of_run = ingredients(Noisy)
    plain = supervised.build(supervised.SupervisedSettings(**LOSS), of_run)
    shared = mln.build(MlnSettings(branch_map="shared", **LOSS), of_run)
    states = [jax.jit(built.init)(jax.random.key(1), a_batch()) for built in (plain, shared)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    updates, seen = [on_devices(built.update) for built in (plain, shared)], []
    for number in range(3):
        batch = a_batch(seed=number)._replace(valid=np.arange(4) < 4 - number)
        for place, update in enumerate(updates):
            after, measured = update(states[place], devices(batch))
            states[place] = jax.tree.map(lambda x: x[0], after)
            seen.append({name: float(value[0]) for name, value in measured.items()})
    for of_plain, of_shared in zip(seen[::2], seen[1::2], strict=True):
        assert of_plain == pytest.approx(of_shared, abs=1e-6)
    assert_close(*(state.variables for state in states), rtol=1e-5)
    assert int(states[0].step) == 3 and len({round(row["loss"], 4) for row in seen}) == 3


@pytest.mark.parametrize("column", ["labeled", "valid"])
def test_rows_without_a_label_and_padding_count_nowhere(step, state, column):
    """What stands in them changes nothing: not the loss, no parameter, no statistics."""
    batch = a_batch()._replace(**{column: np.arange(4) < 3})
    other = batch._replace(
        image=np.concatenate([batch.image[:3], 1 - batch.image[3:]]),
        mask=np.concatenate([batch.mask[:3], 1 - batch.mask[3:]]),
    )
    found = step(state, devices(batch))
    jax.tree.map(np.testing.assert_array_equal, found, step(state, devices(other)))
    counted = step(state, devices(a_batch()))
    assert abs(found[1]["loss"][0] - counted[1]["loss"][0]) > 1e-4


def test_several_devices_train_as_one_does(step, state):
    """Rows that count are shared out unevenly."""
    batch = a_batch()._replace(labeled=np.array([True, True, False, True]))
    after, measured = jax.tree.map(lambda x: x[0], step(state, devices(batch)))
    of_two = step(state, devices(batch, 2))
    for device in range(2):
        again, also = jax.tree.map(lambda x, d=device: x[d], of_two)
        assert_close((again.variables, also), (after.variables, measured), rtol=1e-4)
    first_alone = batch._replace(valid=np.arange(4) < 2)  # what the first of two would see
    assert abs(step(state, devices(first_alone))[1]["loss"][0] - measured["loss"]) > 1e-3


def test_it_is_validated_and_fitted_on_all_views(method, state, images, fitted):
    apply = jax.jit(partial(method.model.apply, train=False))

    def probability(image, number):
        logits, _ = apply(state.variables, image[..., None], np.zeros(len(image), np.int32))
        return np.asarray(jax.nn.softmax(logits))[..., 1]

    wanted, point = validation.of_views(probability, VIEWS, images, CHUNK)
    found = method.validate(state, images)
    of_views = "validation_dsc_per_view"
    assert found.pop(of_views) == pytest.approx(wanted.pop(of_views))
    assert found == pytest.approx(wanted) and fitted.point == point
    jax.tree.map(np.testing.assert_array_equal, fitted.variables, state.variables)


def test_its_answer_is_its_one_map(method, state, fitted, images):
    image, _ = images.stack(slice(0, 3))
    answers = method.answer(fitted, image)
    apply = jax.jit(partial(method.model.apply, train=False))
    logits, _ = apply(state.variables, image[..., None], np.zeros(3, np.int32))
    assert list(answers.maps) == ["network"] and answers.chosen == ["network"] * 3
    np.testing.assert_allclose(answers.maps["network"], jax.nn.softmax(logits)[..., 1], atol=1e-6)
    assert answers.points == {"network": fitted.point} and list(answers.facts) == [{}, {}, {}]
    for i in range(3):
        wanted = decision.decide(answers.maps["network"][i], fitted.point)
        np.testing.assert_array_equal(answers.mask(i), wanted)
        alone = method.answer_all(fitted, image[[i]])
        np.testing.assert_allclose(alone.maps["network"][0], answers.maps["network"][i], atol=1e-6)
    assert method.look is None and method.further is None


def test_what_is_kept_survives_a_checkpoint(method, fitted, images):
    image, _ = images.stack(slice(0, 3))
    tree = supervised.to_tree(fitted)
    for path, leaf in flax.traverse_util.flatten_dict(tree).items():
        assert all(isinstance(name, str) and "/" not in name for name in path)
        assert isinstance(leaf, np.ndarray | np.generic | jax.Array)
    stored = jax.tree.map(np.asarray, tree)
    again = supervised.from_tree(stored)
    assert type(again) is supervised.Fitted and again.point == fitted.point
    jax.tree.map(np.testing.assert_array_equal, again, fitted)
    np.testing.assert_array_equal(
        method.answer(again, image).maps["network"], method.answer(fitted, image).maps["network"]
    )
    for name in ("params", "point"):
        with pytest.raises(KeyError, match=name):
            supervised.from_tree({key: value for key, value in stored.items() if key != name})


def test_the_kind_promises_no_more_than_the_method_can():
    kind = supervised.KIND
    assert issubclass(kind.settings, LossSettings) and kind.study is PLAIN
    assert not kind.takes_parts and not kind.takes_unlabeled
    assert kind.settings().name == "supervised"


def test_what_is_exported_answers_as_the_method(method, fitted, images):
    """For any number of images."""
    image, _ = images.stack(slice(0, 3))
    (count,) = jax.export.symbolic_shape("count")
    of_any = jax.ShapeDtypeStruct((count, SIDE, SIDE), np.float32)
    call = jax.export.export(jax.jit(method.traced(fitted)), platforms=["cpu"])(of_any).call
    expected = method.answer(fitted, image).maps["network"]
    found = jax.device_get(call(image))
    np.testing.assert_allclose(found["probability"], expected, rtol=0, atol=1e-5)
    assert found["branch"].tolist() == [0, 0, 0] and found["branch"].dtype == np.int32
    shares = np.ones((3, 1), np.float32)
    alone = jax.jit(method.probability)(fitted, shares, image)
    np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-5)
