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

from mln_flax.data.images import images_of
from mln_flax.engine import checkpoint, clock, evaluate, input_pipeline, states, stop, train
from mln_flax.engine.build import build
from mln_flax.engine.load_data import load_data
from mln_flax.engine.workdir import MODEL, read_log
from mln_flax.main import main
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


@pytest.fixture(scope="module", params=["tiny", "plain"])
def kind(request):
    """MLN-net, and a network without branches: what of its settings is not the tiny run's."""
    return {"tiny": {}, "plain": tiny.PLAIN}[request.param]


@pytest.fixture(scope="module")
def run(kind):
    return build(tiny.config(**kind))


@pytest.fixture(scope="module")
def workdir(kind, request):
    return request.getfixturevalue("plain_workdir" if kind else "tiny_workdir")


def last_state(run, workdir):
    shapes = jax.eval_shape(lambda: states.random_state(run))
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


def test_two_and_two_steps_are_four(run, workdir, tmp_path, capsys):
    data = load_data(run.config)
    with pytest.raises(stop.Stopped, match="by SIGTERM after step 2; the state is saved"):
        train.train(run, data, tmp_path, StopAfter(2))
    assert int(last_state(run, tmp_path).step) == 2
    assert not (tmp_path / MODEL).exists()
    with open(tmp_path / "train.jsonl", "a") as log:  # what a kill after the save may leave
        log.write('{"step": 3, "loss": 9.0}\n{"step": 4, "lo')
    assert train.train(run, data, tmp_path) == tmp_path / MODEL
    assert "going on from step 2" in capsys.readouterr().out
    assert_same_run(run, tmp_path, workdir)


def test_sigterm_saves_and_the_same_command_goes_on(plain_workdir, tmp_path, capsys):
    workdir = tmp_path / "run"
    command = tiny.flags(workdir, **tiny.PLAIN)
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
    assert_same_run(build(tiny.config(**tiny.PLAIN)), workdir, plain_workdir)
    for name in ("records.jsonl", "data.json", "config.json"):
        assert (workdir / name).read_bytes() == (plain_workdir / name).read_bytes()


def test_signals_are_caught_once_and_handlers_put_back():
    before = signal.getsignal(signal.SIGTERM)
    signals = stop.StopSignal()
    with signals.watched():
        assert signals.name == ""
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.name == "SIGTERM"
        assert signal.getsignal(signal.SIGTERM) == before  # a second one ends the program
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_log_holds_steps_and_validations(workdir):
    lines = log_of(workdir)
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == [1, 2, 3, 4]
    scores = {line["step"]: line for line in lines if "validation_dsc" in line}
    assert sorted(scores) == [2, 4]
    for line in scores.values():
        per_view = line["validation_dsc_per_view"]
        assert list(per_view) == list(tiny.VIEWS)
        assert line["validation_dsc"] == pytest.approx(np.mean(list(per_view.values())))


def test_the_model_is_the_best_state_and_has_the_operating_point_of_its_validation(run, workdir):
    shapes = jax.eval_shape(lambda: states.random_state(run))
    with checkpoint.manager(workdir) as checkpoints:
        best = checkpoints.best_step()
        state = checkpoint.restore(checkpoints, shapes, best)
    (row,) = (r for r in log_of(workdir) if r["step"] == best and "validation_dsc" in r)
    model = evaluate.load_model(run, workdir)
    assert model.point == (row["threshold"], row["min_pixels"])
    assert_equal(model.variables["params"], state.params)
    images = images_of(load_data(run.config).part("ffdm", "validation"))
    assert row == {"step": best, **run.method.validate(state, images)}


def test_a_run_with_augmentation_is_another_and_stops_and_goes_on_alike(tmp_path):
    plain = build(tiny.config(**tiny.PLAIN))
    run = build(tiny.config(**tiny.PLAIN, views__augment="jitter(0.5)"))
    data = load_data(run.config)
    for name, of in (("plain", plain), ("whole", run), ("pieces", run)):
        if name == "pieces":
            with pytest.raises(stop.Stopped):
                train.train(of, data, tmp_path / name, StopAfter(1))
        train.train(of, data, tmp_path / name)
    assert_same_run(run, tmp_path / "pieces", tmp_path / "whole")
    losses = (
        [line["loss"] for line in log_of(tmp_path / name) if "loss" in line]
        for name in ("plain", "whole")
    )
    changed = [a != b for a, b in zip(*losses, strict=True)]
    assert changed[0] and sum(changed) >= 3  # the masks of a step may all be empty


def test_a_scalar_that_is_not_finite_is_said_in_one_line():
    train.check_finite({"loss": 0.5, "dice": np.float32(0)}, 3)
    with pytest.raises(UserError, match="the loss is nan at step 3; a smaller --config.optim"):
        train.check_finite({"dice": 0.5, "loss": float("nan")}, 3)
    with pytest.raises(UserError, match="the consistency is inf at step 7"):
        train.check_finite({"loss": 0.5, "consistency": np.float32(np.inf)}, 7)


def test_a_step_that_is_not_finite_is_neither_saved_nor_called_stopped(tmp_path):
    """Where no line is written at that step, and a signal asks for a state to go on from."""
    sound = build(tiny.config(**tiny.PLAIN, train__log_every_steps="4"))

    def broken(state, batch):
        state, scalars = sound.method.update(state, batch)
        return state, scalars | {"loss": scalars["loss"] * np.float32(np.nan)}

    run = sound._replace(method=sound.method._replace(update=broken))
    with pytest.raises(UserError, match="the loss is nan at step 1"):
        train.train(run, load_data(run.config), tmp_path, StopAfter(1))
    with checkpoint.manager(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
    assert not (tmp_path / MODEL).exists()


def test_a_state_that_is_not_finite_is_never_saved_and_the_workdir_lives(tmp_path, monkeypatch):
    """Between two lines of the log, where nobody looks at the loss, a batch goes wrong."""
    few = {"train__steps": "6", "train__log_every_steps": "6", "train__evaluate_every_steps": "2"}
    run = build(tiny.config(**few))
    data, real = load_data(run.config), input_pipeline.train_batches

    def spoiled(*words, **named):
        for number, batch in enumerate(real(*words, **named), start=1):
            yield batch._replace(image=batch.image * np.nan) if number == 3 else batch

    monkeypatch.setattr(input_pipeline, "train_batches", spoiled)
    with pytest.raises(UserError, match="after step 4 .* step 2 stays the newest"):
        train.train(run, data, tmp_path)
    monkeypatch.setattr(input_pipeline, "train_batches", real)
    monkeypatch.setattr(train, "finish", lambda run, checkpoints, state, *_: int(state.step))
    assert train.train(run, data, tmp_path) == 6
    assert checkpoint.is_finite(last_state(run, tmp_path))
    assert [row["step"] for row in log_of(tmp_path)] == [2, 4, 6, 6]


def test_an_image_that_cannot_be_read_ends_a_run_behind_the_steps_before_it(tmp_path, monkeypatch):
    """It is asked for ahead of its step, while those before it are not yet done."""
    run = build(tiny.config(**tiny.PLAIN))
    real = input_pipeline.train_batches

    def damaged(*words, **named):
        batches = real(*words, **named)
        yield from (next(batches), next(batches))
        raise UserError("the stored tiles are damaged")

    monkeypatch.setattr(input_pipeline, "train_batches", damaged)
    monkeypatch.setattr(input_pipeline, "rate", lambda *_: 1.0)
    with pytest.raises(UserError, match="damaged"):
        train.train(run, load_data(run.config), tmp_path)
    assert int(last_state(run, tmp_path).step) == 2
    assert [row["step"] for row in log_of(tmp_path)] == [1, 2, 2]


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

    watch = clock.Stopwatch()
    steps = watch.of_steps(watch.of_input(batches()))
    assert next(steps) == 0  # with compiling
    now[0] += 60.0
    watch.stop()
    watch.reset()
    assert watch.rates(4) == {"seconds": 0.0, "images_per_s": None, "input_wait": None}
    next(steps)
    now[0] += 3.0
    watch.stop()
    now[0] += 500.0  # validation
    next(steps)
    now[0] += 3.0
    watch.stop()
    assert watch.rates(4) == {"seconds": 8.0, "images_per_s": 1.0, "input_wait": 0.25}
    watch.reset()
    assert list(steps) == [3, 4] and watch.steps == 2


def test_sending_ahead_is_no_waiting_for_input_and_what_is_waited_for_counts_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])

    def made():
        for number in range(4):
            now[0] += 1.0
            yield number

    def ahead(batches):  # two are asked for before the first is given
        waiting = [next(batches)]
        for batch in batches:
            now[0] += 0.25  # sending
            waiting.append(batch)
            yield waiting.pop(0)
        yield waiting.pop()

    watch = clock.Stopwatch()
    steps = watch.of_steps(ahead(watch.of_input(made())))
    next(steps)
    assert watch.waited == 2.0
    assert list(steps) == [1, 2, 3]
    watch.stop()
    assert (watch.steps, watch.waited, watch.seconds) == (4, 4.0, 4.75)
