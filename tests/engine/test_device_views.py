"""Views and geometry made by the step: the rows that the host makes, and a run of them."""

from functools import partial

import jax
import numpy as np
import pytest
import tiny

from mln_flax.config import ViewsConfig
from mln_flax.data.images import from_arrays
from mln_flax.engine import checkpoint, device_views, states, stop, train
from mln_flax.engine.build import build
from mln_flax.engine.input_pipeline import Plan, train_batches
from mln_flax.engine.load_data import load_data
from mln_flax.engine.workdir import claimed, refuse_other_settings
from mln_flax.results import records
from mln_flax.types import UserError
from mln_flax.views.intensity import make_view

NAMES = ("identity", "bezier(0.3)", "bezier(0.01)", "invert", "bezier(0.7)+invert")


def smooth_images(count=5, height=24, width=32):
    """Images of slopes up to a tenth per pixel, so that a place's rounding shows as little."""
    place = np.arange(count)[:, None, None]
    row, column = np.mgrid[:height, :width]
    image = 0.5 + 0.3 * np.sin(row / 5 + column / 11 + place) + 0.2 * np.cos(column / 7 - place)
    return from_arrays(image.astype(np.float32), (image > 0.6).astype(np.uint8))


def plans(**changes):
    """How the host makes batches and how the device does, alike in all else."""
    views = tuple(map(make_view, NAMES))
    of_host, of_device = (
        Plan(views, ViewsConfig(on_device=on_device, **changes), 4, 3, 0.25, unlabeled_batch_size=2)
        for on_device in (False, True)
    )
    return of_host, of_device


@pytest.mark.parametrize(("backend", "tolerance"), [("numpy", 1e-5), ("tf", 1e-4)])
@pytest.mark.parametrize("crop", [1.0, 0.75])
def test_the_device_makes_the_rows_of_the_host(backend, tolerance, crop):
    """Of the source and of a target without labels, and from k times fewer bytes."""
    source, target = smooth_images(), smooth_images(3)
    of_host, of_device = plans(crop=crop, scale=(0.8, 1.3))
    on_host, on_device = (
        train_batches(source, plan, 2, 5, backend=backend, unlabeled=[target])
        for plan in (of_host, of_device)
    )
    make = jax.jit(partial(device_views.rows, plan=of_device))
    for batch, originals in zip(on_host, on_device, strict=True):
        rows = make(originals)
        for name in ("mask", "view", "domain", "labeled", "valid"):
            ours, theirs = getattr(rows, name), getattr(batch, name)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        assert rows.image.dtype == np.float32
        np.testing.assert_allclose(rows.image, batch.image, atol=tolerance, rtol=0)
        sizes = [sum(np.asarray(x).nbytes for x in fields) for fields in (batch, originals)]
        assert sizes[0] > len(NAMES) * crop**2 * sizes[1]


class StopAfter(stop.StopSignal):
    """A signal that has come when the loop looks for the second time."""

    def __init__(self):
        self.left = 2

    @property
    def name(self):
        self.left -= 1
        return "" if self.left > 0 else "SIGTERM"


def last_state(run, workdir):
    shapes = jax.eval_shape(lambda: states.random_state(run))
    with checkpoint.manager(workdir) as checkpoints:
        return checkpoint.restore(checkpoints, shapes)


def losses(workdir):
    return [line["loss"] for line in records.read(workdir / "train.jsonl") if "loss" in line]


def test_a_run_of_it_learns_as_the_hosts_and_goes_on_exactly(plain_workdir, tmp_path, capsys):
    """With the optimizer's arrays as one vector too."""
    run = build(tiny.config(**tiny.PLAIN, views__on_device="true", optim__flat="true"))
    data = load_data(run.config)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.train(run, data, whole)
    assert "images/s, without views" in capsys.readouterr().out
    with pytest.raises(stop.Stopped, match="after step 2"):
        train.train(run, data, parts, StopAfter())
    train.train(run, data, parts)
    ends = [jax.tree.leaves(last_state(run, folder)) for folder in (whole, parts)]
    for a, b in zip(*ends, strict=True):
        np.testing.assert_array_equal(a, b)
    assert losses(whole) == losses(parts)
    np.testing.assert_allclose(losses(whole), losses(plain_workdir), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["optim.flat", "views.on_device"])
def test_a_workdir_goes_on_in_the_form_that_it_began_with(name, tmp_path):
    with claimed(tmp_path, tiny.config(), "content"):
        pass
    refuse_other_settings(tmp_path, tiny.config())
    with pytest.raises(UserError, match=f"belongs to other settings .{name}"):
        refuse_other_settings(tmp_path, tiny.config(**{name: "true"}))
