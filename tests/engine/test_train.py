"""Stopping and going on: a run in two pieces is the run in one, bit for bit."""

import json
import os
import signal
import time

import jax
import numpy as np
import pytest
import tiny
from tiny import wait_for

from mln_flax.engine import checkpoint, clock, evaluate, input_pipeline, stop, train
from mln_flax.engine.build import build, load_data
from mln_flax.engine.workdir import MODEL, read_log
from mln_flax.main import main
from mln_flax.methods.mln import bank
from mln_flax.results import records
from mln_flax.types import UserError


class StopAfter(stop.StopSignal):
    """A signal that has come when the loop looks for the n-th time."""

    def __init__(self, looks):
        self.left = looks

    @property
    def name(self):
        self.left -= 1
        return "" if self.left > 0 else "SIGTERM"


@pytest.fixture(scope="module")
def run():
    return build(tiny.config())


def last_state(run, workdir):
    shapes = jax.eval_shape(lambda: train.initial_state(run))
    with checkpoint.manager(workdir) as checkpoints:
        return checkpoint.restore(checkpoints, shapes)


TIMED = ("seconds", "images_per_s", "input_wait", "input_alone_images_per_s")


def log_of(workdir):
    """The lines of train.jsonl without the clock."""
    lines = records.read(workdir / "train.jsonl")
    return [{name: v for name, v in line.items() if name not in TIMED} for line in lines]


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def assert_same_run(run, a, b):
    """Everything that training leaves behind is equal, to the last bit."""
    states = last_state(run, a), last_state(run, b)
    assert int(states[0].step) == 4
    assert_equal(*states)
    assert_equal(evaluate.load_model(run, a), evaluate.load_model(run, b))
    assert log_of(a) == log_of(b)


def test_two_and_two_steps_are_four(run, tiny_workdir, tmp_path, capsys):
    data = load_data(run.config)
    with pytest.raises(stop.Stopped, match="by SIGTERM after step 2; the state is saved"):
        train.train(run, data, tmp_path, StopAfter(2))
    assert int(last_state(run, tmp_path).step) == 2
    assert not (tmp_path / MODEL).exists()
    with open(tmp_path / "train.jsonl", "a") as log:  # what a kill after the save may leave
        log.write('{"step": 3, "loss": 9.0}\n{"step": 4, "lo')
    assert train.train(run, data, tmp_path) == tmp_path / MODEL
    assert "going on from step 2" in capsys.readouterr().out
    assert_same_run(run, tmp_path, tiny_workdir)


def test_sigterm_saves_and_the_same_command_goes_on(run, tiny_workdir, tmp_path, capsys):
    workdir = tmp_path / "run"
    command = tiny.flags(workdir)
    process = tiny.python("-m", "mln_flax.main", *command)
    # The board's folder is made when signals are caught already, but nothing is compiled yet.
    wait_for(lambda: any(workdir.glob("tensorboard/*")), process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "stopped by SIGTERM after step 1; the state is saved, the same command goes" in out
    assert "Traceback" not in err
    assert not (workdir / "records.jsonl").exists()
    capsys.readouterr()
    assert main(command) == 0
    assert "going on from step 1" in capsys.readouterr().out
    assert_same_run(run, workdir, tiny_workdir)
    for name in ("records.jsonl", "data.json", "config.json"):
        assert (workdir / name).read_bytes() == (tiny_workdir / name).read_bytes()


def test_signals_are_caught_once_and_handlers_put_back():
    before = signal.getsignal(signal.SIGTERM)
    signals = stop.StopSignal()
    with signals.watched():
        assert signals.name == ""
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.name == "SIGTERM"
        assert signal.getsignal(signal.SIGTERM) == before  # a second one ends the program
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_log_holds_steps_and_validations(tiny_workdir):
    lines = log_of(tiny_workdir)
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == [1, 2, 3, 4]
    scores = {line["step"]: line for line in lines if "validation_dsc" in line}
    assert sorted(scores) == [2, 4]
    for line in scores.values():
        per_view = line["validation_dsc_per_view"]
        assert list(per_view) == list(tiny.VIEWS)
        assert line["validation_dsc"] == pytest.approx(np.mean(list(per_view.values())))


def test_the_model_has_the_operating_point_of_its_validation(run, tiny_workdir, tmp_path):
    with checkpoint.manager(tiny_workdir) as checkpoints:
        best = checkpoints.best_step()
    (row,) = (r for r in log_of(tiny_workdir) if r["step"] == best and "validation_dsc" in r)
    point = train.logged_point(tiny_workdir / "train.jsonl", best)
    assert point == (row["threshold"], row["min_pixels"])
    model = evaluate.load_model(run, tiny_workdir)
    assert model.point == point
    images = input_pipeline.images_of(load_data(run.config).part("ffdm", "validation"))
    assert train.validate(run, bank.forward(run), model.variables, images)[1] == point
    assert train.logged_point(tiny_workdir / "train.jsonl", 3) is None  # a step, no validation
    assert train.logged_point(tmp_path / "train.jsonl", best) is None


def test_a_loss_that_is_not_finite_is_said_in_one_line():
    train._check_finite({"step": 3, "loss": 0.5})
    with pytest.raises(UserError, match="the loss is nan at step 3; a smaller --config.optim"):
        train._check_finite({"step": 3, "loss": float("nan")})


def test_a_state_that_is_not_finite_is_never_saved_and_the_workdir_lives(tmp_path, monkeypatch):
    """Between two lines of the log, where nobody looks at the loss, a batch goes wrong."""
    few = {"train__steps": "6", "train__log_every_steps": "6", "train__evaluate_every_steps": "2"}
    run = build(tiny.config(**few))
    data, real = load_data(run.config), input_pipeline.train_batches

    def spoiled(*words):
        for number, batch in enumerate(real(*words), start=1):
            yield batch._replace(image=batch.image * np.nan) if number == 3 else batch

    monkeypatch.setattr(input_pipeline, "train_batches", spoiled)
    with pytest.raises(UserError, match="after step 4 .* step 2 stays the newest"):
        train.train(run, data, tmp_path)
    monkeypatch.setattr(input_pipeline, "train_batches", real)
    monkeypatch.setattr(train, "finish", lambda run, checkpoints, state, *_: int(state.step))
    assert train.train(run, data, tmp_path) == 6
    assert checkpoint.is_finite(last_state(run, tmp_path))
    assert [row["step"] for row in log_of(tmp_path)] == [2, 4, 6, 6]


def test_progress():
    progress = clock.Progress(time.monotonic() - 10, 20)
    assert progress.line(40, 440).startswith("step 40/440  2.00 steps/s  3:")
    assert "0.00 steps/s  0:00 left" in progress.line(20, 440)


def test_a_log_cut_short_is_read_up_to_there(tmp_path):
    log = tmp_path / "train.jsonl"
    assert read_log(log) == []
    log.write_text(json.dumps({"step": 1}) + '\n{"st')
    assert read_log(log) == [{"step": 1}]


def test_the_stopwatch_counts_steps_and_nothing_else(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])

    def batches():
        for number in range(5):
            now[0] += 1.0  # a second of waiting for each
            yield number

    watch = clock.Stopwatch(batches())
    assert next(watch) == 0  # with compiling
    now[0] += 60.0
    watch.stop()
    watch.reset()
    assert watch.rates(4) == {"seconds": 0.0, "images_per_s": None, "input_wait": None}
    next(watch)
    now[0] += 3.0
    watch.stop()
    now[0] += 500.0  # validation
    next(watch)
    now[0] += 3.0
    watch.stop()
    assert watch.rates(4) == {"seconds": 8.0, "images_per_s": 1.0, "input_wait": 0.25}
    watch.reset()
    assert list(watch) == [3, 4] and watch.steps == 2
