"""Checkpoints: what is kept, what is ignored, and that everything comes back as it was."""

import shutil

import jax
import numpy as np

from mln_flax.engine import checkpoint
from mln_flax.methods.core import TrainState


def a_state(step):
    rng = np.random.default_rng(step)
    params = {"a": {"kernel": rng.normal(size=(3, 4)).astype(np.float32)}, "b": np.float32([step])}
    stats = {"norm": {"mean": rng.normal(size=(2, 4)).astype(np.float32)}}
    inner = (np.int32(step), {"mu": params}, ())
    return jax.tree.map(jax.numpy.asarray, TrainState(np.int32(step), params, stats, inner))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_the_newest_and_the_best_are_kept_and_come_back_exactly(tmp_path):
    with checkpoint.manager(tmp_path) as kept:
        assert checkpoint.restore(kept, a_state(0)) is None
        for step, score in ((1, 0.1), (2, 0.5), (3, 0.2), (4, 0.3)):
            checkpoint.save(kept, step, a_state(step), score)
        checkpoint.save(kept, 5, a_state(5), None)  # stopped: not measured
        assert set(kept.all_steps()) == {2, 5}
    with checkpoint.manager(tmp_path) as again:
        assert (again.best_step(), again.latest_step()) == (2, 5)
        shapes = jax.eval_shape(lambda: a_state(0))
        assert_equal(checkpoint.restore(again, shapes), a_state(5))
        assert_equal(checkpoint.restore(again, shapes, again.best_step()), a_state(2))
        checkpoint.save(again, 6, a_state(6), 0.6)
        assert set(again.all_steps()) == {6}


def test_a_state_without_a_score_alone(tmp_path):
    with checkpoint.manager(tmp_path) as kept:
        checkpoint.save(kept, 1, a_state(1), None)
    with checkpoint.manager(tmp_path) as again:
        assert again.latest_step() == 1
        assert_equal(checkpoint.restore(again, a_state(0)), a_state(1))


def test_what_a_kill_during_a_save_left_is_ignored(tmp_path):
    with checkpoint.manager(tmp_path) as kept:
        checkpoint.save(kept, 1, a_state(1), 0.1)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "1", folder / "2.orbax-checkpoint-tmp-1700000000")
    (folder / "2.orbax-checkpoint-tmp-1700000000" / "commit_success.txt").unlink(missing_ok=True)
    with checkpoint.manager(tmp_path) as again:
        assert again.latest_step() == 1
        assert_equal(checkpoint.restore(again, a_state(0)), a_state(1))
        checkpoint.save(again, 2, a_state(2), 0.2)
        assert again.latest_step() == 2
        assert_equal(checkpoint.restore(again, a_state(0)), a_state(2))


def test_a_tree_is_written_over_an_older_one(tmp_path):
    for step in (1, 2):
        checkpoint.save_tree(tmp_path / "model", {"x": a_state(step).params})
    found = checkpoint.load_tree(tmp_path / "model")
    assert_equal(jax.tree.map(jax.numpy.asarray, found), {"x": a_state(2).params})
