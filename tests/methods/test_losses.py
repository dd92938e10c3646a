"""Losses against plain numpy loops over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from mln_flax.methods import losses

SMOOTH = 1e-5


def a_batch(rows=5, side=6, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, side, side, 2)).astype(np.float32)
    mask = (rng.random((rows, side, side)) < 0.3).astype(np.int32)
    branch = np.array([0, 2, 0, 1, -1][:rows], np.int32)
    return logits, mask, branch


def dice_by_hand(probabilities, mask, branch, num_branches):
    out = np.zeros((num_branches, 2))
    for b in range(num_branches):
        rows = branch == b
        for c in range(2):
            p, t = probabilities[rows, ..., c], (mask[rows] == c).astype(float)
            out[b, c] = (2 * (p * t).sum() + SMOOTH) / (p.sum() + t.sum() + SMOOTH)
    return out


def test_group_dice_is_eq_14_in_every_group_and_padding_counts_nowhere():
    logits, mask, branch = a_batch()
    p = softmax(logits, axis=-1)
    dice = losses.group_dice(p, mask, branch, 3)
    assert dice.shape == (3, 2)
    np.testing.assert_allclose(dice, dice_by_hand(p, mask, branch, 3), rtol=1e-5)
    other = p.copy()
    other[branch < 0] = 0.5
    np.testing.assert_array_equal(losses.group_dice(other, mask, branch, 3), dice)


def test_a_perfect_prediction_has_dice_1_and_a_wrong_one_0():
    _, mask, branch = a_batch()
    perfect = np.eye(2, dtype=np.float32)[mask]
    np.testing.assert_allclose(losses.group_dice(perfect, mask, branch, 3), 1, atol=1e-6)
    np.testing.assert_allclose(losses.group_dice(1 - perfect, mask, branch, 3), 0, atol=1e-5)


def test_an_empty_mask_that_is_predicted_empty_and_a_group_without_rows_have_dice_1():
    mask = np.zeros((2, 4, 4), np.int32)
    empty = np.eye(2, dtype=np.float32)[mask]
    dice = losses.group_dice(empty, mask, np.zeros(2, np.int32), 2)
    np.testing.assert_allclose(dice, 1, atol=1e-6)


def test_dice_loss_is_eq_15():
    dice = jnp.array([[0.9, 0.5], [0.8, 0.1], [1.0, 0.0]])
    assert losses.dice_loss(dice) == pytest.approx(-(0.7 + 0.45 + 0.5))
    assert losses.dice_loss(dice, foreground_only=True) == pytest.approx(-0.6)
    assert losses.dice_loss(jnp.ones((3, 2))) == -3


def cross_entropy_by_hand(logits, mask, valid, class_weights=(1, 1), hard_negatives=1.0):
    total, count = 0.0, 0.0
    for row in np.flatnonzero(valid):
        loss = -np.take_along_axis(log_softmax(logits[row], -1), mask[row][..., None], -1)[..., 0]
        background = np.sort(loss[mask[row] == 0])[::-1]
        kept = max(1, round(hard_negatives * len(background)))
        total += class_weights[0] * background[:kept].sum()
        count += class_weights[0] * kept
        total += class_weights[1] * loss[mask[row] == 1].sum()
        count += class_weights[1] * (mask[row] == 1).sum()
    return total / count


@pytest.mark.parametrize("class_weights", [(), (0.2, 3.0)])
@pytest.mark.parametrize("hard_negatives", [1.0, 0.25, 0.0])
def test_cross_entropy(class_weights, hard_negatives):
    logits, mask, branch = a_batch()
    valid = branch >= 0
    loss = losses.cross_entropy(logits, mask, valid, class_weights, hard_negatives)
    expected = cross_entropy_by_hand(logits, mask, valid, class_weights or (1, 1), hard_negatives)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_hard_negatives_are_a_share_of_the_background_however_much_foreground_there_is():
    logits, mask, _ = a_batch(rows=1)
    mask[0, :4] = 1  # two thirds of the image
    loss = losses.cross_entropy(logits, mask, np.array([True]), (), 0.5)
    assert loss == pytest.approx(cross_entropy_by_hand(logits, mask, [True], (1, 1), 0.5), rel=1e-5)


def test_cross_entropy_of_a_sure_and_right_prediction_is_0_and_of_padding_alone_too():
    _, mask, branch = a_batch()
    sure = 60.0 * np.eye(2, dtype=np.float32)[mask]
    assert losses.cross_entropy(sure, mask, branch >= 0) == pytest.approx(0, abs=1e-6)
    assert losses.cross_entropy(-sure, mask, np.zeros(5, bool)) == 0


@pytest.mark.parametrize("hard_negatives", [1.0, 0.4])
def test_two_unequal_devices_equal_the_whole_batch(hard_negatives):
    """Sums over the device axis come before any ratio; the second shard is half padding."""
    logits, mask, branch = a_batch(rows=4, seed=1)
    branch[:] = [0, 2, 0, -1]
    shards = [x.reshape(2, 2, *x.shape[1:]) for x in (logits, mask, branch)]

    def loss(logits, mask, branch, axis_name):
        dice = losses.group_dice(jax.nn.softmax(logits), mask, branch, 3, axis_name)
        valid = branch >= 0
        entropy = losses.cross_entropy(logits, mask, valid, (1.0, 2.0), hard_negatives, axis_name)
        return dice, entropy

    dice, entropy = loss(logits, mask, branch, None)
    of_shards = jax.jit(jax.vmap(lambda *x: loss(*x, "batch"), axis_name="batch"))(*shards)
    np.testing.assert_allclose(of_shards[0], np.stack([dice, dice]), rtol=1e-6)
    np.testing.assert_allclose(of_shards[1], [entropy, entropy], rtol=1e-6)
    alone = [loss(*(x[i] for x in shards), None)[1] for i in range(2)]
    assert abs(np.mean(alone) - entropy) > 1e-3  # a mean over devices is another loss


@pytest.mark.parametrize(
    ("step", "start", "counted"),
    [
        (0, 0, 1),
        (50, 0, 1),
        (0, 100, 0),
        (100, 100, 0),
        (150, 100, 0.5),
        (200, 100, 1),
        (999, 9, 1),
    ],
)
def test_a_ramp_rises_from_its_start_to_twice_its_start(step, start, counted):
    assert losses.ramp(step, start) == pytest.approx(counted)


def test_gradients_are_finite_and_padding_has_none():
    logits, mask, branch = a_batch()

    def loss(logits):
        dice = losses.group_dice(jax.nn.softmax(logits), mask, branch, 3)
        return losses.dice_loss(dice) + losses.cross_entropy(logits, mask, branch >= 0, (), 0.3)

    gradient = np.asarray(jax.jit(jax.grad(loss))(jnp.asarray(logits)))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[branch >= 0]).max() > 0
    np.testing.assert_array_equal(gradient[branch < 0], 0)


def test_calcifications_of_any_size_weigh_the_same():
    mask = np.zeros((2, 40, 40), np.int32)
    areas = {(4, 4): (5, 5), (4, 25): (1, 1), (25, 8): (2, 3)}  # place: height, width
    for (row, column), (height, width) in areas.items():
        mask[0, row : row + height, column : column + width] = 1
    weight = np.asarray(losses.object_weight(mask, 9))
    assert (weight[mask == 0] == 1).all() and weight[0][mask[0] > 0].mean() == pytest.approx(1)
    shares = [
        weight[0, row : row + height, column : column + width].sum()
        for (row, column), (height, width) in areas.items()
    ]
    np.testing.assert_allclose(shares, mask.sum() / 3, rtol=1e-5)


def test_a_small_calcification_that_is_missed_costs_as_much_as_a_large_one():
    mask = np.zeros((1, 32, 32), np.int32)
    mask[0, 4:10, 4:10] = mask[0, 20:22, 20:22] = 1
    group = np.zeros(1, np.int32)

    def dice(missed, weight):
        found = mask.copy()
        found[0][missed] = 0
        both = jax.nn.one_hot(found, 2)
        return float(losses.group_dice(both, mask, group, 1, weight=weight)[0, 1])

    large, small = (np.s_[4:10, 4:10], np.s_[20:22, 20:22])
    weight = losses.object_weight(mask, 13)
    assert dice(large, weight) == pytest.approx(dice(small, weight), rel=1e-4)
    assert dice(large, None) < dice(small, None) - 0.5
