"""The training rule: what counts in which branch's loss, against numpy on the model's logits."""

import jax
import numpy as np
import pytest
import tiny

from mln_flax import parallel
from mln_flax.build import build
from mln_flax.types import Batch

SIDE = 24


@pytest.fixture(scope="module")
def batch():
    """Six rows, two of each view; the last is padding."""
    rng = np.random.default_rng(1)
    image = rng.random((6, SIDE, SIDE, 1)).astype(np.float32)
    mask = (rng.random((6, SIDE, SIDE)) > 0.8).astype(np.int32)
    valid = np.array([True] * 5 + [False])
    return Batch(image, mask, np.array([0, 1, 2, 0, 1, 2], np.int32), valid)


def a_run(**changes):
    return build(tiny.config(optim__warmup_steps="0", **changes))


@pytest.fixture(scope="module")
def state():
    run = a_run()
    drawn = jax.jit(run.method.init)(jax.random.key(0), np.zeros((1, SIDE, SIDE, 1), np.float32))
    rng = np.random.default_rng(2)  # so that the branches differ

    def moved(p):
        return p + rng.normal(scale=0.1, size=p.shape).astype(p.dtype)

    return drawn._replace(params=jax.tree.map(moved, drawn.params))


def one_step(run, state, batch):
    """The next state and what was measured, of a single device."""
    devices = jax.devices()[:1]
    update = parallel.parallel_update(run.method.update, devices)
    return jax.device_get(update(parallel.replicate(state, devices), parallel.shard(batch, 1)))


@pytest.fixture(scope="module")
def logits(state, batch):
    apply = jax.jit(a_run().model.apply)
    return np.asarray(apply({"params": state.params}, batch.image, batch.branch)[0], np.float64)


def dice_by_hand(logits, batch, members):
    """Soft Dice of both classes over the pixels of some rows (Eq. 14)."""
    logits, mask = logits[members], batch.mask[members]
    share = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    truth = np.stack([mask == 0, mask == 1], axis=-1)
    overlap, size = (share * truth).sum(axis=(0, 1, 2)), (share + truth).sum(axis=(0, 1, 2))
    return (2 * overlap + 1e-5) / (size + 1e-5)


@pytest.mark.parametrize("foreground_only", ["false", "true"])
def test_every_views_loss_counts_in_its_branch(state, batch, logits, foreground_only):
    run = a_run(method__foreground_only=foreground_only)
    _, measured = one_step(run, state, batch)
    dice = np.stack([dice_by_hand(logits, batch, rows) for rows in ([0, 3], [1, 4], [2])])
    counted = dice[:, 1] if foreground_only == "true" else dice.mean(axis=1)
    assert measured["loss"] == pytest.approx(1 - counted.mean(), abs=1e-5)
    assert measured["dice"] == pytest.approx(dice[:, 1].mean(), abs=1e-5)


def test_grouped_views_share_a_branch_and_its_loss(batch):
    run = a_run(method__branch_map="grouped")
    assert run.branch_of_view == (0, 0, 1)
    grouped = batch._replace(branch=np.array([0, 0, 1, 0, 0, 1], np.int32))
    image = np.zeros((1, SIDE, SIDE, 1), np.float32)
    state = jax.jit(run.method.init)(jax.random.key(0), image)
    drawn, _ = jax.jit(run.model.apply)({"params": state.params}, grouped.image, grouped.branch)
    _, measured = one_step(run, state, grouped)
    drawn = np.asarray(drawn, np.float64)
    dice = [dice_by_hand(drawn, batch, rows)[1] for rows in ([0, 1, 3, 4], [2])]
    assert measured["loss"] == pytest.approx(1 - np.mean(dice), abs=1e-5)


def test_cross_entropy_is_added_with_its_weight_and_options(state, batch, logits):
    plain = one_step(a_run(), state, batch)[1]["loss"]
    log_share = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    entropy = -np.take_along_axis(log_share, batch.mask[..., None], -1)[..., 0][:5]
    k, mask = 3, batch.mask[:5]
    run = a_run(method__cross_entropy="0.5")
    found = one_step(run, state, batch)[1]["loss"]
    assert found - plain == pytest.approx(0.5 * entropy.mean() / k, abs=1e-5)
    weight = np.array([1.0, 3.0])[mask]
    run = a_run(method__cross_entropy="0.5", method__class_weights="1,3")
    found = one_step(run, state, batch)[1]["loss"]
    expected = 0.5 * (entropy * weight).sum() / weight.sum() / k
    assert found - plain == pytest.approx(expected, abs=1e-5)


def test_every_parameter_gets_a_finite_gradient_and_padding_none(state, batch):
    run = a_run(optim__weight_decay="0")
    after, _ = one_step(run, state, batch)
    assert int(after.step) == 1
    flat = jax.tree_util.tree_leaves_with_path(after.params)
    before = dict(jax.tree_util.tree_leaves_with_path(state.params))
    for path, value in flat:
        assert np.isfinite(value).all(), path
        assert (value != np.asarray(before[path])).any(), path
    noise = np.random.default_rng(5).random(batch.image[5:].shape).astype(np.float32)
    other = batch._replace(
        image=np.concatenate([batch.image[:5], noise]),
        mask=np.concatenate([batch.mask[:5], 1 - batch.mask[5:]]),
    )
    again, _ = one_step(run, state, other)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_the_branches_of_a_batch_move(state, batch):
    run = a_run(optim__weight_decay="0")
    after, _ = one_step(run, state, batch._replace(branch=np.zeros(6, np.int32)))
    scale, old = after.params["norm"]["scale"], np.asarray(state.params["norm"]["scale"])
    assert (scale[0] != old[0]).any() and (scale[1:] == old[1:]).all()
    stats, old = after.domain_stats["norm"]["mean"], np.asarray(state.domain_stats["norm"]["mean"])
    assert (stats[0] != old[0]).any() and (stats[1:] == old[1:]).all()


def test_predict_gives_each_image_in_each_branch(state, batch, logits):
    run = a_run()
    said = jax.jit(run.method.predict)({"params": state.params}, batch.image)
    assert said.logits.shape == (6, 3, SIDE, SIDE, 2)
    own = np.asarray(said.logits)[np.arange(6), batch.branch]
    np.testing.assert_allclose(own, logits, rtol=0, atol=1e-5)
    for mean, std in said.moments.values():
        assert mean.shape == std.shape and mean.shape[:2] == (6, 3)


def test_stochastic_depth_is_drawn_anew_at_each_step(state, batch):
    run = a_run(model__drop_path_rate="0.5")
    losses = [
        float(one_step(run, state._replace(step=np.int32(step)), batch)[1]["loss"])
        for step in (0, 0, 1, 2, 3)
    ]
    assert losses[0] == losses[1] and len(set(losses)) > 2
