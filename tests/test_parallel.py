"""One device against four, a step that compiles once, and padding that counts nowhere."""

import os

import jax
import numpy as np
import pytest
import tiny

from mln_flax import parallel
from mln_flax.data.images import from_arrays
from mln_flax.engine import input_pipeline
from mln_flax.engine.build import build, plan, update_of
from mln_flax.types import Batch, UserError

UNET = {"model__name": "unet", "model__widths": "4"}
RUNS = ({}, UNET | {"model__widths": "4,8", "model__norm": "batch"}, tiny.PLAIN)
# Two images in three views are six rows: on four devices two rows are padding. On two devices each
# holds an image, whose views can go through the network one after the other.
COMPARE = """
import sys
sys.path[:0] = ["tests", "tests/support"]
import jax
import numpy as np
import tiny
from mln_flax import parallel
from mln_flax.engine.states import random_state
from test_parallel import RUNS, UNET, a_run, after_steps, assert_equal

assert jax.device_count() == 4
for changes in RUNS:
    run = a_run(**changes)
    state = random_state(run)
    one = after_steps(run, jax.devices()[:1], state, keep=5)
    four = after_steps(run, jax.devices(), state, keep=5)
    assert_equal(one, four)
    assert len({round(row["loss"], 4) for row in one[1]}) == 4  # it did move
rows = np.arange(14.0).reshape(7, 2)
double = parallel.parallel_map(lambda scale, x: {"y": scale * x})
np.testing.assert_array_equal(double(np.float32(2), rows)["y"], 2 * rows)
whole, parted = a_run(**UNET), a_run(**UNET, train__accumulate="3")
state = random_state(whole)
one = after_steps(whole, jax.devices()[:1], state, keep=6)
assert_equal(one, after_steps(parted, jax.devices()[:2], state, keep=6))
images = a_run(**tiny.PLAIN, views__on_device="true", train__batch_size="3")
state = random_state(images)
one = after_steps(images, jax.devices()[:1], state, keep=2)
assert_equal(one, after_steps(images, jax.devices(), state, keep=2))
print("equal")
"""


def some_images(side=32, count=6):
    rng = np.random.default_rng(0)
    image = rng.random((count, side, side)).astype(np.float32)
    return from_arrays(image, (image > 0.8).astype(np.uint8))


def a_run(**changes):
    return build(tiny.config(optim__warmup_steps="0", **changes))


def after_steps(run, devices, state, keep, steps=4):
    """The state and what was measured.

    Of the last batch only `keep` rows are valid, and where that is not all, one has no label.
    """
    traces = []

    def counted(state, batch):
        traces.append(1)
        return update_of(run)(state, batch)

    update = parallel.parallel_update(counted, devices)
    state, rows = parallel.replicate(state, devices), []
    batches = input_pipeline.train_batches(some_images(), plan(run), 0, steps, backend="numpy")
    for step, batch in enumerate(batches, start=1):
        if step == steps:
            places = np.arange(len(batch.valid))
            is_labeled = (places != 1) | (keep == len(places))
            batch = batch._replace(valid=places < keep, labeled=is_labeled)
        state, measured = update(state, parallel.shard(batch, len(devices)))
        rows.append({name: float(value) for name, value in measured.items()})
    assert len(traces) == 1
    return state, rows


def assert_equal(one, several):
    """That two runs of `after_steps` end alike, and measured the same on the way."""
    for name in ("params", "domain_stats"):
        a, b = (jax.tree.leaves(jax.device_get(getattr(s, name))) for s in (one[0], several[0]))
        difference = max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))
        assert difference < 1e-5, (name, difference)
    for a, b in zip(one[1], several[1], strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-5 and abs(a["dice"] - b["dice"]) < 1e-5


def test_several_devices_train_as_one_does_and_compile_once():
    """With an uneven last batch, and with views that go one after the other."""
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4"
    process = tiny.python("-c", COMPARE, XLA_FLAGS=flags)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out.strip()) == (0, "equal"), err


def test_a_replicated_state_is_a_copy_that_may_be_donated():
    state = {"a": jax.numpy.arange(4.0)}
    copy = parallel.replicate(state)
    jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(copy)
    np.testing.assert_array_equal(state["a"], np.arange(4.0))


def test_shard_pads_with_rows_that_are_not_valid():
    image, mask = np.ones((5, 2, 2, 1), np.float32), np.ones((5, 2, 2), np.int32)
    numbers, marks = np.arange(5, dtype=np.int32), np.ones(5, bool)
    cut = parallel.shard(Batch(image, mask, numbers, 9 - numbers, marks, marks), 4)
    assert cut.image.shape == (4, 2, 2, 2, 1) and cut.valid.shape == (4, 2)
    np.testing.assert_array_equal(cut.valid.ravel(), [True] * 5 + [False] * 3)
    np.testing.assert_array_equal(cut.labeled.ravel(), cut.valid.ravel())
    np.testing.assert_array_equal(cut.view.ravel()[:5], numbers)
    np.testing.assert_array_equal(cut.domain.ravel()[:5], 9 - numbers)
    assert not cut.image.reshape(8, -1)[5:].any()


def test_parallel_map_keeps_order_and_length():
    rows = np.arange(6.0).reshape(3, 2)
    out = parallel.parallel_map(lambda scale, x, y: scale * x + y)(np.float32(2), rows, rows)
    np.testing.assert_array_equal(out, 3 * rows)


def numbered(count, wrong=None):
    """Batches of a row that shows its number; reading number `wrong` fails. And what was asked."""
    asked = []

    def batches():
        for number in range(count):
            asked.append(number)
            if number == wrong:
                raise UserError("the stored tiles are damaged")
            row = np.full((1, 2, 2, 1), number, np.float32)
            marks = np.ones(1, bool)
            yield Batch(
                row, row[..., 0].astype(np.int32), *np.zeros((2, 1), np.int32), marks, marks
            )

    return batches(), asked


def test_batches_are_sent_in_order_one_ahead_of_their_step():
    batches, asked = numbered(5)
    seen = []
    for batch in parallel.sent(batches):
        assert isinstance(batch.image, jax.Array) and batch.image.shape == (1, 1, 2, 2, 1)
        assert len(asked) == min(len(seen) + 1 + parallel.BATCHES_SENT, 5)
        seen.append(int(batch.mask[0, 0, 0, 0]))
    assert seen == list(range(5))
    assert list(parallel.sent(numbered(0)[0])) == []


def test_what_is_wrong_with_a_batch_comes_behind_the_steps_before_it():
    batches, asked = numbered(5, wrong=3)
    seen = []
    with pytest.raises(UserError, match="damaged"):
        for batch in parallel.sent(batches):
            seen.append(int(batch.mask[0, 0, 0, 0]))
    assert (seen, asked) == ([0, 1, 2], [0, 1, 2, 3])


def test_a_step_takes_a_batch_where_it_was_sent():
    """Nothing is copied again when the step begins."""
    update = parallel.parallel_update(lambda state, batch: (state + batch.image.sum(), {}))
    state, (batch,) = parallel.replicate(np.float32(1)), parallel.sent(numbered(1)[0])
    on_host = jax.device_get(batch)
    with jax.transfer_guard("disallow_explicit"):
        update(state, batch)
    state = parallel.replicate(np.float32(1))
    with jax.transfer_guard("disallow_explicit"), pytest.raises(Exception, match="transfer"):
        update(state, on_host)
