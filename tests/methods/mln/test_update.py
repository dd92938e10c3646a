"""The training rule: what counts in which branch's loss, against numpy on the model's logits."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from noisy import Noisy

from mln_flax import config, parallel
from mln_flax.methods.mln import update
from mln_flax.methods.mln.settings import MlnSettings
from mln_flax.models import unet
from mln_flax.types import Batch, UserError

SIDE = 8
VIEWS = 3
PER_VIEW = tuple(range(VIEWS))
# The smallest networks: the rule asks nothing of what lies between an image and its logits.
UNET = unet.build(config.network("unet", widths=(4,)), VIEWS)
NOISY = Noisy(VIEWS)
OPTIMIZER = optax.chain(optax.scale_by_adam(), optax.scale(-1e-3))


@pytest.fixture(scope="module")
def batch():
    """Six rows, two of each view; the last is padding."""
    rng = np.random.default_rng(1)
    image = rng.random((6, SIDE, SIDE, 1)).astype(np.float32)
    mask = (rng.random((6, SIDE, SIDE)) > 0.8).astype(np.int32)
    view, domain = np.array([0, 1, 2, 0, 1, 2], np.int32), np.zeros(6, np.int32)
    return Batch(image, mask, view, domain, np.ones(6, bool), np.arange(6) < 5)


@functools.cache
def a_step(model, accumulate, branch_of_view, rule):
    settings = MlnSettings(**{"foreground_only": True} | dict(rule))
    step = partial(update.update, model, OPTIMIZER, settings, branch_of_view, 0, accumulate)
    return parallel.parallel_update(step, jax.devices()[:1])


def one_step(state, batch, model=UNET, accumulate=1, branch_of_view=PER_VIEW, **rule):
    """The next state and what was measured, of a single device."""
    step = a_step(model, accumulate, branch_of_view, tuple(rule.items()))
    whole = parallel.replicate(state, jax.devices()[:1])
    return jax.device_get(step(whole, parallel.shard(batch, 1)))


def first_state(model, batch):
    drawn = jax.jit(partial(update.init, model, OPTIMIZER))(jax.random.key(0), batch)
    rng = np.random.default_rng(2)  # so that the branches differ

    def moved(p):
        return p + rng.normal(scale=0.1, size=p.shape).astype(p.dtype)

    return drawn._replace(params=jax.tree.map(moved, drawn.params))


@pytest.fixture(scope="module")
def state(batch):
    return first_state(UNET, batch)


@pytest.fixture(scope="module")
def logits_of(state):
    """The model's logits of a batch whose views are its branches, float64."""
    apply = jax.jit(UNET.apply)

    def call(batch):
        drawn, _ = apply({"params": state.params}, batch.image, batch.view)
        return np.asarray(drawn, np.float64)

    return call


def dice_by_hand(logits, batch, members):
    """Soft Dice of both classes over the pixels of some rows (Eq. 14)."""
    logits, mask = logits[members], batch.mask[members]
    share = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    truth = np.stack([mask == 0, mask == 1], axis=-1)
    overlap, size = (share * truth).sum(axis=(0, 1, 2)), (share + truth).sum(axis=(0, 1, 2))
    return (2 * overlap + 1e-5) / (size + 1e-5)


def test_a_state_begins_before_the_first_step(batch):
    first = jax.eval_shape(partial(update.init, UNET, OPTIMIZER), jax.random.key(0), batch)
    assert first.step.shape == () and first.step.dtype == jnp.int32
    assert set(first.variables) == {"params", "domain_stats"}
    scale = first.params["down_0"]["norm1"]["scale"]
    assert scale.shape == (VIEWS, 4)


@pytest.mark.parametrize("foreground_only", [False, True])
def test_every_views_loss_counts_in_its_branch(state, batch, logits_of, foreground_only):
    _, measured = one_step(state, batch, foreground_only=foreground_only)
    logits = logits_of(batch)
    dice = np.stack([dice_by_hand(logits, batch, rows) for rows in ([0, 3], [1, 4], [2])])
    counted = dice[:, 1] if foreground_only else dice.mean(axis=1)
    assert measured["loss"] == pytest.approx(1 - counted.mean(), abs=1e-5)
    assert measured["dice"] == pytest.approx(dice[:, 1].mean(), abs=1e-5)


def test_views_of_one_branch_share_its_dice(state, batch, logits_of):
    _, measured = one_step(state, batch, branch_of_view=(0, 0, 2))
    grouped = batch._replace(view=np.array([0, 0, 2, 0, 0, 2], np.int32))
    logits = logits_of(grouped)
    dice = [dice_by_hand(logits, batch, rows)[1] for rows in ([0, 1, 3, 4], [2])]
    # Branch 1 has no rows: its Dice is 1 and nothing is trained by it.
    assert measured["loss"] == pytest.approx(1 - (1 + sum(dice)) / 3, abs=1e-5)


def test_cross_entropy_is_added_with_its_weights_from_its_step_on(state, batch, logits_of):
    logits = logits_of(batch)[:5]
    log_share = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    entropy = -np.take_along_axis(log_share, batch.mask[:5, ..., None], -1)[..., 0]
    weight = np.array([1.0, 3.0])[batch.mask[:5]]
    added = 0.5 * (entropy * weight).sum() / weight.sum() / VIEWS
    plain = one_step(state, batch)[1]["loss"]
    later = {"cross_entropy": 0.5, "class_weights": (1.0, 3.0), "cross_entropy_from_step": 100}
    for step, share in ((0, 0), (100, 0), (150, 0.5), (200, 1), (900, 1)):
        at = state._replace(step=np.int32(step))
        found = one_step(at, batch, **later)[1]["loss"]
        assert found - plain == pytest.approx(share * added, abs=1e-5)


def assert_equal(a, b):
    """That two steps end in the same state and measure the same."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_every_parameter_gets_a_finite_gradient(state, batch):
    after, _ = one_step(state, batch)
    assert int(after.step) == 1
    before = dict(jax.tree_util.tree_leaves_with_path(state.params))
    for path, value in jax.tree_util.tree_leaves_with_path(after.params):
        assert np.isfinite(value).all(), path
        assert (value != np.asarray(before[path])).any(), path


@pytest.mark.parametrize("column", ["valid", "labeled"])
def test_padding_and_rows_without_a_label_count_nowhere(state, batch, column):
    """The last row is one or the other, and what stands in it changes nothing."""
    batch = batch._replace(**{"valid": np.ones(6, bool), column: np.arange(6) < 5})
    noise = np.random.default_rng(5).random(batch.image[5:].shape).astype(np.float32)
    other = batch._replace(
        image=np.concatenate([batch.image[:5], noise]),
        mask=np.concatenate([batch.mask[:5], 1 - batch.mask[5:]]),
    )
    found = one_step(state, batch)
    assert_equal(found, one_step(state, other))
    counted = one_step(state, batch._replace(**{column: np.ones(6, bool)}))
    assert abs(counted[1]["loss"] - found[1]["loss"]) > 1e-4


def test_only_the_branches_of_a_batch_move(state, batch):
    after, _ = one_step(state, batch._replace(view=np.zeros(6, np.int32)))
    (scale, old), (mean, old_mean) = (
        (
            getattr(after, part)["down_0"]["norm1"][name],
            np.asarray(getattr(state, part)["down_0"]["norm1"][name]),
        )
        for part, name in (("params", "scale"), ("domain_stats", "mean"))
    )
    assert (scale[0] != old[0]).any() and (scale[1:] == old[1:]).all()
    assert (mean[0] != old_mean[0]).any() and (mean[1:] == old_mean[1:]).all()


def test_what_is_random_in_a_network_is_drawn_anew_at_each_step(batch):
    state = first_state(NOISY, batch)
    losses = [
        float(one_step(state._replace(step=np.int32(step)), batch, NOISY)[1]["loss"])
        for step in (0, 0, 1, 2, 3)
    ]
    assert losses[0] == losses[1] and len(set(losses)) > 2


def first_moments(state):
    """Adam's running mean of the gradients: after one step (1 - b1) times the gradient."""
    return next(part.mu for part in state.opt_state if hasattr(part, "mu"))


def assert_same_step(found, wanted):
    """Gradients, loss, Dice and statistics, of two steps from one state."""
    (after, measured), (expected, at_once) = found, wanted
    gradients = first_moments(expected)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest),
        first_moments(after),
        gradients,
    )
    for name in ("loss", "dice"):
        np.testing.assert_allclose(measured[name], at_once[name], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        after.domain_stats,
        expected.domain_stats,
    )
    assert after.step == expected.step == 1


@pytest.mark.parametrize("rule", [{}, {"cross_entropy": 1.0, "hard_negatives": 0.5}])
def test_a_part_for_each_view_changes_nothing(state, batch, rule):
    masks = batch.mask[[0, 0, 0, 3, 3, 3]]  # as in training: the views of an image share its mask
    batch = batch._replace(valid=np.ones(6, bool), mask=masks)
    parted = one_step(state, batch, accumulate=3, **rule)
    assert_same_step(parted, one_step(state, batch, **rule))


def test_padding_changes_nothing_in_parts(state, batch):
    assert_same_step(one_step(state, batch, accumulate=3), one_step(state, batch))


def test_a_branch_without_rows_counts_in_parts_as_at_once(state, batch, logits_of):
    few = batch._replace(view=np.array([0, 0, 2, 0, 0, 2], np.int32))
    _, measured = one_step(state, few, accumulate=3)
    logits = logits_of(few)  # the parts hold views 0, 0 twice, and 2 with padding
    first, second, third = (dice_by_hand(logits, few, rows)[1] for rows in ([0, 1], [3, 4], [2]))
    assert measured["loss"] == pytest.approx(1 - ((first + second) / 2 + 1 + third) / 3, abs=1e-5)


def test_a_branch_in_several_parts_has_the_mean_of_their_dice(state, batch, logits_of):
    batch = batch._replace(valid=np.ones(6, bool))
    _, measured = one_step(state, batch, accumulate=2)
    logits = logits_of(batch)  # the parts hold views 0, 0, 1 and 1, 2, 2
    parts = [dice_by_hand(logits, batch, rows)[1] for rows in ([0, 3], [1], [4], [2, 5])]
    dice = [parts[0], (parts[1] + parts[2]) / 2, parts[3]]
    assert measured["loss"] == pytest.approx(1 - np.mean(dice), abs=1e-5)
    assert measured["dice"] == pytest.approx(np.mean(dice), abs=1e-5)


def test_rows_that_do_not_divide_are_refused(state, batch):
    with pytest.raises(UserError, match="accumulate=2: must divide the 5 rows"):
        one_step(state, Batch(*(x[:5] for x in batch)), accumulate=2)
