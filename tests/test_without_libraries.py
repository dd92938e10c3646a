"""A machine without TensorFlow, DICOM and drawing libraries: train from arrays, and predict."""

import sys

import pytest
import tiny

LEAN = """
import importlib.machinery, pathlib, pkgutil, sys

MISSING = set(sys.argv[2].split(","))

class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in MISSING else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Without
sys.path[:0] = ["tests", "tests/support"]
import numpy as np
import mln_flax
for module in pkgutil.walk_packages(mln_flax.__path__, "mln_flax."):
    importlib.import_module(module.name)
import tiny
from mln_flax.engine import evaluate, input_pipeline, train
from mln_flax.engine.build import build
from mln_flax.data.core import DataSet, Example, Part

rng = np.random.default_rng(0)

def example(index):
    image = rng.random((32, 32), np.float32)
    mask = (image > 0.9).astype(np.uint8)
    return Example(image, mask, str(index), str(index), "mine", "", "", None, "calcification")

parts = [Part.of("mine", "train", tuple(map(example, range(6)))),
         Part.of("mine", "validation", tuple(map(example, range(6, 9))))]
network = dict(model__name="unet", model__widths="4")
run = build(tiny.config(**network, data__source="mine", data__targets=""))
workdir = pathlib.Path(sys.argv[1])
train.train(run, DataSet(tuple(parts)), workdir)
fitted = evaluate.load_model(run, workdir)
image = parts[0].examples[0].image[None]
for answer, maps in ((run.method.answer_all, 3 + 6), (run.method.answer, 1)):
    answers = answer(fitted, image)
    assert len(answers.maps) == maps
    for probability in answers.maps.values():
        assert probability.shape == (1, 32, 32) and np.isfinite(probability).all()
assert not input_pipeline.have_tensorflow() and not MISSING & set(sys.modules)
"""
MISSING = (
    "tensorflow tensorflow_datasets clu tensorboard pydicom gdcm highdicom matplotlib PIL"
).split()


def test_training_from_arrays_and_predicting_need_none_of_them(tmp_path):
    process = tiny.python("-c", LEAN, tmp_path, ",".join(MISSING))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "step 4/4" in out


ELSEWHERE = """
import importlib, os, pkgutil, signal, sys
import mln_flax

def all_modules():
    for module in pkgutil.walk_packages(mln_flax.__path__, "mln_flax."):
        importlib.import_module(module.name)

all_modules()  # others' libraries have what they need of Unix by now
for name in [name for name in sys.modules if name.split(".")[0] == "mln_flax"]:
    del sys.modules[name]
for name in "fcntl resource pwd grp termios tty pty syslog".split():
    sys.modules[name] = None
for name in "SIGKILL SIGALRM SIGHUP SIGUSR1 SIGUSR2 SIGCHLD pause pthread_sigmask".split():
    delattr(signal, name)
for name in "fork getuid geteuid getpgid killpg setsid sched_getaffinity uname statvfs".split():
    delattr(os, name)
import mln_flax
all_modules()
"""


def test_no_file_needs_unix_to_be_imported():
    process = tiny.python("-c", ELSEWHERE)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


def test_tensorflow_without_its_board(tmp_path, monkeypatch):
    from mln_flax.engine import workdir
    from mln_flax.results import records

    pytest.importorskip("tensorflow")
    monkeypatch.setitem(sys.modules, "clu", None)
    with workdir.writers(tmp_path) as write:
        write({"step": 1, "loss": 0.5})
    assert records.read(tmp_path / "train.jsonl") == [{"step": 1, "loss": 0.5}]
