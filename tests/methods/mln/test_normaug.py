"""Auxiliary branches in training: the rows, the loss by hand, and what answers."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
import small_mln

from mln_flax import config, parallel
from mln_flax.config import Config, validate
from mln_flax.methods.core import Ingredients
from mln_flax.methods.mln import method, normaug, update
from mln_flax.methods.mln.settings import MlnSettings
from mln_flax.models import unet
from mln_flax.types import Batch, UserError

SIDE, WIDTHS = 8, (3,)


def batch(views):
    """Two rows of each view; the last is padding."""
    rng, rows = np.random.default_rng(1), 2 * views
    image = rng.random((rows, SIDE, SIDE, 1)).astype(np.float32)
    mask = (rng.random((rows, SIDE, SIDE)) > 0.8).astype(np.int32)
    view = np.tile(np.arange(views, dtype=np.int32), 2)
    labeled = np.ones(rows, bool)
    valid = np.arange(rows) < rows - 1 if views > 1 else labeled
    return Batch(image, mask, view, np.zeros(rows, np.int32), labeled, valid)


def network(branches):
    return unet.build(config.network("unet", widths=WIDTHS, norm="sample"), branches)


def step(views, weight, accumulate=1, **settings):
    """State before and after one step of plain descent at rate 1, and what was measured."""
    model, optimizer = network(1 + views if weight else 1), optax.sgd(1.0)
    settings = MlnSettings(branch_map="shared", normaug=weight, **settings)
    run = functools.partial(update.update, model, optimizer, settings, (0,) * views, 0, accumulate)
    first = update.init(model, optimizer, jax.random.key(0), batch(views))
    whole = parallel.replicate(first, jax.devices()[:1])
    rows = parallel.shard(batch(views), 1)
    after, measured = jax.device_get(parallel.parallel_update(run, jax.devices()[:1])(whole, rows))
    return first, jax.tree.map(np.asarray, after), measured


def test_rows_go_through_the_main_and_the_auxiliary_branches():
    rows = jax.device_get(normaug.rows(batch(3), np.int32([0, 0, 0, 0, 0, -1]), 3))
    np.testing.assert_array_equal(rows.branch, [0] * 5 + [-1] + [1] * 5 + [-1])
    np.testing.assert_array_equal(rows.image[6:], rows.image[:6])
    np.testing.assert_array_equal(rows.mask[6:], batch(3).mask)
    np.testing.assert_array_equal(rows.candidates[:5], np.zeros((5, 6)))
    for i, view in enumerate([0, 1, 2, 0, 1]):
        assert sorted(rows.candidates[6 + i]) == sorted([1 + view] * 3 + [1, 2, 3])
    np.testing.assert_array_equal(rows.candidates[[5, 11]], -np.ones((2, 6)))


@pytest.mark.parametrize("added", [{}, {"cross_entropy": 0.5, "hard_negatives": 0.5}])
def test_with_one_view_both_branches_take_the_plain_step(added):
    """They begin alike, so what they share moves as by one plain loss, 1 + weight times."""
    first, plain, of_plain = step(1, 0.0, **added)
    _, after, measured = step(1, 0.5, **added)
    changes = jax.tree.map(lambda new, old: new - old, plain.params, first.params)
    stage, of_stage = after.params["down_0"], changes["down_0"]
    start = first.params["down_0"]
    moved = stage["conv1"]["kernel"] - start["conv1"]["kernel"]
    np.testing.assert_allclose(moved, 1.5 * of_stage["conv1"]["kernel"], rtol=1e-3, atol=1e-6)
    for norm in ("norm1", "norm2"):
        for name, at in (("scale", 1.0), ("bias", 0.0)):
            wanted = of_stage[norm][name][0]
            found = stage[norm][name] - at
            np.testing.assert_allclose(found[0], wanted, rtol=1e-3, atol=1e-6)
            np.testing.assert_allclose(found[1], 0.5 * wanted, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(measured["loss"], of_plain["loss"], rtol=1e-5)
    np.testing.assert_allclose(measured["dice"], of_plain["dice"], rtol=1e-5)


def test_all_branches_are_trained_and_parts_change_no_main_branch():
    first, after, measured = step(3, 1.0)
    scale = after.params["down_0"]["norm1"]["scale"]
    assert (np.abs(scale - 1).max(axis=1) > 1e-6).all() and len(scale) == 4
    assert np.isfinite(measured["loss"])
    _, in_parts, _ = step(3, 1.0, accumulate=2)  # one part for each of the two losses
    main = (one.params["down_0"]["norm1"]["scale"][0] for one in (in_parts, after))
    np.testing.assert_allclose(*main, rtol=1e-4)


def test_the_main_branch_alone_answers():
    """As a network with one branch and the main branch's parameters; nothing else is kept."""
    settings = MlnSettings(branch_map="shared", normaug=1.0)
    build = functools.partial(unet.build, config.network("unet", widths=WIDTHS, norm="sample"))
    of_run = Ingredients(
        build, optax.sgd(0.1), small_mln.VIEWS, small_mln.SIDE, small_mln.CHUNK, seed=0
    )
    mln = method.build(settings, of_run)
    state = small_mln.first_state(mln)
    assert mln.model.num_branches == 4
    fitted = mln.fit(state, small_mln.source(), small_mln.source())
    assert fitted.params["down_0"]["norm1"]["scale"].shape == (1, 3)
    answers = mln.answer(fitted, small_mln.IMAGE)
    logits, _ = mln.model.apply(
        {"params": state.params}, small_mln.IMAGE[..., None], np.zeros(5, np.int32)
    )
    wanted = jax.nn.softmax(logits)[..., 1]
    np.testing.assert_allclose(answers.maps["answer"], wanted, atol=1e-5)
    shared = method.build(dataclasses.replace(settings, normaug=0.0), of_run)
    again = shared.answer(fitted, small_mln.IMAGE)  # what was trained so is a shared model
    np.testing.assert_array_equal(again.maps["answer"], answers.maps["answer"])


def test_it_is_for_one_branch():
    chosen = dataclasses.replace(Config(), method=MlnSettings(normaug=1.0))
    with pytest.raises(UserError, match=r"normaug=1.0: .*branch_map=shared, not per_view"):
        validate(chosen)
