"""Two processes of one run: they stop together, one of them writes, and both are told of errors."""

import json
import pathlib
import socket

import pytest
import tiny

from mln_flax import parallel
from mln_flax.engine import stop
from mln_flax.results import records
from mln_flax.types import UserError

# One program for both. What follows training is left out: each process does it alone.
RUN = """
import hashlib, json, os, pathlib, signal, sys
sys.path[:0] = ["tests/support"]
sys.modules["tensorflow"] = None
import jax, numpy as np
import tiny
from mln_flax import files, parallel
from mln_flax.engine import run as one_run, stop, train
from mln_flax.engine.build import build
from mln_flax.engine.load_data import load_data
from mln_flax.results import records
from mln_flax.types import UserError

train.input_pipeline.have_tensorflow = lambda: False
parallel.initialize(True)
caught = pathlib.Path("/proc/self/status").read_text().partition("SigCgt:")[2].split()[0]
me, root = jax.process_index(), pathlib.Path(sys.argv[1])
states, said = [], {"process": me, "count": jax.process_count(),
                "swallowed": bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)}
if me:
    def write(path, *_):
        raise AssertionError(f"{path} is written by process {me}")
    files.write_bytes = records.write_bytes = records.append = write
train.finish = lambda run, checkpoints, state, *_: states.append(jax.device_get(state))
one_run.evaluate.evaluate = one_run.whole_records.fit = lambda *_: None
run = build(tiny.config(model__name="unet", model__preset="unet_demo", model__widths="4,8",
                        train__steps="8", train__evaluate_every_steps="8"))
data = load_data(run.config)
shard, steps = parallel.shard, []

def disturbed(batch, *devices):
    steps.append(1)
    if len(steps) == 3 + parallel.BATCHES_SENT and me == 1:  # before step 3
        os.kill(os.getpid(), signal.SIGTERM)
    return shard(batch, *devices)

def go(name, signals=None):
    one_run.train_all(run, root / name, signals or stop.StopSignal(), "test", data)

go("whole")
parallel.shard, signals = disturbed, stop.StopSignal()
try:
    go("parts", signals)
except stop.Stopped as stopped:
    said |= {"stopped": str(stopped), "name": signals.name}
parallel.shard = shard
go("parts")
whole, parts = (jax.tree.leaves(state) for state in states)
said["equal"] = all(np.array_equal(x, y) for x, y in zip(whole, parts, strict=True))
said["steps"] = [int(state.step) for state in states]
said["digest"] = hashlib.sha256(b"".join(leaf.tobytes() for leaf in whole)).hexdigest()

def fail():
    raise UserError("no room")

try:
    parallel.on_main(fail)
except UserError as error:
    said["error"] = str(error)
print("SAID " + json.dumps(said), flush=True)
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("two")


needs_proc = pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists(), reason="needs /proc"
)


@pytest.fixture(scope="module")
def said(workdir):
    """What each of two processes found, started by a plain shell."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    names = {parallel.ADDRESS: address, parallel.PROCESSES: "2", "MLN_FLAX_PHANTOM_CACHE": "0"}
    both = [
        tiny.python("-c", RUN, workdir, **names, **{parallel.PROCESS: str(number)})
        for number in (0, 1)
    ]
    try:
        out = [process.communicate(timeout=180) for process in both]
    finally:
        for process in both:
            process.kill()
    errors = "".join(err[-3000:] for _, err in out)  # one may only have waited for the other
    assert [process.returncode for process in both] == [0, 0], errors
    lines = [next(x for x in text.splitlines() if x.startswith("SAID ")) for text, _ in out]
    return [json.loads(line.removeprefix("SAID ")) for line in lines]


@needs_proc
def test_a_signal_to_one_of_two_processes_stops_both_at_one_step(said, workdir):
    step = 3 + stop.LATER_STEPS
    for one in said:
        assert not one["swallowed"]  # outside of training it ends a process
        assert one["count"] == 2 and one["name"] == "SIGTERM"
        assert one["stopped"].startswith(f"stopped by SIGTERM after step {step}; the state is")


@needs_proc
def test_going_on_they_end_as_if_nothing_had_been(said, workdir):
    assert [one["equal"] for one in said] == [True, True]
    assert [one["steps"] for one in said] == [[8, 8], [8, 8]]
    assert said[0]["digest"] == said[1]["digest"]
    whole, parts = (records.read(workdir / name / "train.jsonl") for name in ("whole", "parts"))
    assert [r["loss"] for r in whole if "loss" in r] == [r["loss"] for r in parts if "loss" in r]
    assert len({r["loss"] for r in whole if "loss" in r}) == 8


@needs_proc
def test_an_error_of_the_main_process_is_told_to_all(said):
    errors = {one["process"]: one["error"] for one in said}
    assert errors == {0: "no room", 1: "the main process of this run cannot go on; it says why"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "the processes do not find each other .*JAX_COORDINATOR_ADDRESS, JAX_NUM_PROC"),
        ({parallel.ADDRESS: "localhost"}, "JAX_COORDINATOR_ADDRESS=localhost: must be HOST:PORT"),
        ({parallel.PROCESSES: "two"}, "JAX_NUM_PROCESSES=two: must be a whole number"),
        ({parallel.PROCESS: "-1"}, "JAX_PROCESS_ID=-1: must be a whole number"),
    ],
)
def test_what_the_environment_says_wrong_is_refused(names, message, monkeypatch):
    for name in (parallel.ADDRESS, parallel.PROCESSES, parallel.PROCESS):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        parallel.initialize(True)


def test_jax_is_told_what_the_environment_says(monkeypatch):
    told = []
    monkeypatch.setattr(parallel.jax.distributed, "initialize", lambda **k: told.append(k))
    monkeypatch.setenv(parallel.PROCESSES, "2")
    monkeypatch.setenv(parallel.PROCESS, "1")
    parallel.initialize(True)
    monkeypatch.delenv(parallel.PROCESSES)
    monkeypatch.delenv(parallel.PROCESS)
    parallel.initialize(True)  # jax asks the cluster
    parallel.initialize(False)
    assert told == [
        {"num_processes": 2, "process_id": 1},
        {"num_processes": None, "process_id": None},
    ]


def test_one_process_agrees_with_itself():
    signals = stop.StopSignal()
    assert signals.agreed() == ""
    signals.name = "SIGINT"
    assert signals.agreed() == signals.agreed(now=True) == "SIGINT"
