"""Checkpoints: what is kept, what is ignored, and that everything comes back as it was."""

import gc
import shutil

import jax
import numpy as np
import pytest

from mln_flax import files
from mln_flax.engine import checkpoint
from mln_flax.methods.core import TrainState
from mln_flax.types import UserError


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


def spoiled(state, value):
    """The state with one number replaced, far from the loss."""
    params = {"a": {"kernel": state.params["a"]["kernel"].at[0, 0].set(value)}}
    return state._replace(params=state.params | params)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_not_finite_never_becomes_the_newest(tmp_path, value):
    with checkpoint.manager(tmp_path) as kept:
        with pytest.raises(
            UserError, match="after step 1 holds numbers that are not finite: it is"
        ):
            checkpoint.save(kept, 1, spoiled(a_state(1), value), 0.9)
        checkpoint.save(kept, 2, a_state(2), 0.1)
        message = "not saved, the checkpoint of step 2 stays the newest; a smaller --config.optim"
        with pytest.raises(UserError, match=message):
            checkpoint.save(kept, 3, spoiled(a_state(3), value), 0.9)
        assert (kept.latest_step(), kept.best_step()) == (2, 2)
        assert_equal(checkpoint.restore(kept, a_state(0)), a_state(2))
        checkpoint.save(kept, 3, a_state(3), 0.2)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


DAMAGED = {
    "no arrays": lambda folder: shutil.rmtree(folder / "d"),
    "cut arrays": lambda folder: [cut(path) for path in (folder / "d").iterdir()],
    "zeros": lambda folder: [zeros(path) for path in (folder / "d").iterdir()],
    "no manifest": lambda folder: (folder / "manifest.ocdbt").unlink(),
    "cut manifest": lambda folder: cut(folder / "manifest.ocdbt"),
    "cut metadata": lambda folder: cut(folder / "_METADATA"),
    "no metadata": lambda folder: (folder / "_METADATA").unlink(),
    "cut shapes": lambda folder: cut(folder / "array_metadatas" / "process_0"),
    "nothing": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_checkpoint_is_told_of_and_the_one_before_it_is_used(tmp_path, how, capfd):
    with checkpoint.manager(tmp_path) as kept:
        checkpoint.save(kept, 1, a_state(1), 0.5)
        checkpoint.save(kept, 2, a_state(2), 0.1)
    folder = tmp_path / "checkpoints" / "2"
    DAMAGED[how](folder / "default")
    with checkpoint.manager(tmp_path) as again:
        with pytest.raises(UserError) as told:
            checkpoint.restore(again, a_state(0))
    line = str(told.value)
    assert line.startswith(f"{folder}: is damaged (") and "\n" not in line
    assert line.endswith("; remove it, then the command goes on from step 1")
    assert "Traceback" not in capfd.readouterr().err
    shutil.rmtree(folder)
    with checkpoint.manager(tmp_path) as again:
        assert_equal(checkpoint.restore(again, a_state(0)), a_state(1))
    gc.collect()


def test_a_checkpoint_whose_validation_or_numbers_cannot_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "is_finite", lambda _state: True)  # as older versions saved
    with checkpoint.manager(tmp_path) as kept:
        checkpoint.save(kept, 1, spoiled(a_state(1), np.nan), 0.5)
    monkeypatch.undo()
    with checkpoint.manager(tmp_path) as again:
        with pytest.raises(UserError, match="are not finite.; remove it, then the command begins"):
            checkpoint.restore(again, a_state(0))
    cut(tmp_path / "checkpoints" / "1" / "metrics" / "metrics")
    with pytest.raises(UserError, match="checkpoints/1: is damaged .metrics: "):
        checkpoint.manager(tmp_path)


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_model_is_no_other_version(tmp_path, how, capfd):
    model, tree = tmp_path / "model", {"x": a_state(1).params}
    checkpoint.save_tree(model, tree)
    DAMAGED[how](model)
    with pytest.raises(UserError, match="model: is damaged .*; remove it, then the command of"):
        checkpoint.load_tree(model)
    assert "Traceback" not in capfd.readouterr().err
    checkpoint.save_tree(model, tree)
    assert_equal(checkpoint.load_tree(model), tree)


# What Orbax began to write may end after its event loop, in whatever test runs by then.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_takes_no_more_is_an_error_of_the_folder(tmp_path, capfd):
    """No file may grow beyond some bytes: the system refuses as it does on a full disk."""
    resource = pytest.importorskip("resource")
    large = a_state(2)._replace(domain_stats={"x": jax.random.normal(jax.random.key(0), (9999,))})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with checkpoint.manager(tmp_path) as kept:
        checkpoint.save(kept, 1, a_state(1), 0.1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, hard))
        try:
            with pytest.raises(OSError) as state:
                checkpoint.save(kept, 2, large, 0.2)
            with pytest.raises(OSError) as model:
                checkpoint.save_tree(tmp_path / "model", large)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files.refusal(state.value) == f"{tmp_path}/checkpoints: File too large"
    assert files.refusal(model.value) == f"{tmp_path}/model: File too large"
    assert "Traceback" not in capfd.readouterr().err
    with checkpoint.manager(tmp_path) as again:
        assert_equal(checkpoint.restore(again, a_state(0)), a_state(1))
    gc.collect()
