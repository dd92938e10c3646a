"""Preparation that ends before it is done: nothing half done is believed, nothing done twice."""

import concurrent.futures
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import threading
import time
import uuid

import pytest
import tiny
import trees

from mln_flax import files
from mln_flax.data.prepare import inventory, prepare, prepared, prepared_set, splits, staging
from mln_flax.data.prepare.prepare import REPORT, SETTINGS, SHEET, SPLITS
from mln_flax.locks import LOCK
from mln_flax.types import UserError

KILLS = int(os.environ.get("MLN_FLAX_KILLS", 3))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A data folder of 16 phantoms of 4 patients in two domains: to be read only."""
    return trees.write_npz(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def done(tree):
    """That folder prepared without disturbance by one process: to be read only."""
    folder = tree.parent / f"{tree.name}_prepared"
    prepare.prepare(trees.npz_settings(tree), folder)
    return folder


def test_what_is_staged_is_not_done_again(tree, done, tmp_path):
    data, out = trees.npz_settings(tree), tmp_path / "out"
    staged, times = [], {}
    for after in (5, 0, 4, 99):
        with pytest.MonkeyPatch.context() as patch:
            some = trees.interrupt(patch, after)
            if after < 99:
                with pytest.raises(trees.Interrupted):
                    prepare.prepare(data, out)
                now = tiny.snapshot(out / "staging")
                assert times.items() <= now.items()
                times = now
                with pytest.raises(UserError, match="is not prepared to the end"):
                    prepared_set.load(data, out)
            else:
                prepare.prepare(data, out)
        staged += some
    assert len(staged) == len(set(staged)) == 16
    assert trees.contents(out) == trees.contents(done)


@pytest.mark.parametrize(
    "where",
    ["_store", "splits.manifest", "inventory.write_sheet", "inventory.report", "shutil.rmtree"],
)
def test_ended_after_staging_it_goes_on_there(tree, done, tmp_path, monkeypatch, where):
    data, out = trees.npz_settings(tree), tmp_path / "out"
    place, _, name = where.rpartition(".")
    owner = {"": prepare, "splits": splits, "inventory": inventory, "shutil": prepare.shutil}[place]

    def ended(*args, **kwargs):
        if name != "rmtree" or pathlib.Path(args[0]).name == "staging":
            raise trees.Interrupted
        return real(*args, **kwargs)

    real = getattr(owner, name)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, ended)
        with pytest.raises(trees.Interrupted):
            prepare.prepare(data, out)
    assert (out / REPORT).exists() == (name == "rmtree")
    with monkeypatch.context() as patch:
        assert trees.interrupt(patch, 0) == []  # to stage an image would raise
        prepare.prepare(data, out)
    assert trees.contents(out) == trees.contents(done)


def test_what_a_kill_left_half_written_is_cleared_away(tree, done, tmp_path, monkeypatch):
    data, out = trees.npz_settings(tree), tmp_path / "out"
    with monkeypatch.context() as patch:
        trees.interrupt(patch, 6)
        with pytest.raises(trees.Interrupted):
            prepare.prepare(data, out)
    *_, torn, short = sorted((out / "staging").glob("*.npz"))
    torn.write_bytes(torn.read_bytes()[:-40])
    short.write_bytes(short.read_bytes()[:100])
    for name in (f".{SHEET}.77.tmp", f".{REPORT}.77.tmp", "staging/.a.npz.77.tmp"):
        (out / name).write_bytes(b"half")
    half = out / prepared.BUILDER / "incomplete.X_1.0.0" / "mammogram_tiles-film_train"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    (out / prepared.BUILDER / prepared.VERSION).mkdir()
    with monkeypatch.context() as patch:
        staged = trees.interrupt(patch, 99)
        prepare.prepare(data, out)
    assert len(staged) == 12 and {torn.name, short.name} <= set(staged)
    assert trees.contents(out) == trees.contents(done)


PREPARE = """
import pathlib, sys
sys.path[:0] = ["tests/support", "tests/data/prepare"]
import trees
from mln_flax.data.prepare.prepare import prepare
prepare(trees.npz_settings(pathlib.Path(sys.argv[1]), workers=2), pathlib.Path(sys.argv[2]))
"""


def processes(token):
    """The ids of living processes that were started with the token in their environment."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if token.encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
        except OSError:  # ended meanwhile, or another user's
            pass
    return found


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(not pathlib.Path("/proc/self/environ").exists(), reason="needs /proc")
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path):
    tree = trees.write_npz(tmp_path / "tree", images=12)
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    token = f"mln_flax_test_{uuid.uuid4().hex}"

    def start(folder):
        return tiny.python("-c", PREPARE, tree, tmp_path / folder, MLN_FLAX_TOKEN=token)

    started = time.monotonic()
    child = start("undisturbed")
    _, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    lasted = time.monotonic() - started
    expected = trees.contents(tmp_path / "undisturbed")
    assert REPORT in expected and not any(name.startswith("staging") for name in expected)

    def finish(folder):
        child = start(folder)
        _, err = child.communicate(timeout=300)
        assert child.returncode == 0, err
        assert trees.contents(tmp_path / folder) == expected

    landed, round_number, staged = 0, 0, {}
    while landed < KILLS:
        out = tmp_path / f"killed{round_number}"
        child = start(out.name)
        time.sleep(moments.uniform(0.2, 1.0) * lasted)
        landed += child.poll() is None
        child.kill()
        child.communicate(timeout=60)
        wait_until(lambda: not processes(token))  # no worker outlives it
        now = tiny.snapshot(out / "staging")
        done = {name: at for name, at in now.items() if name.endswith(".npz")}
        print(
            f"{landed}: {len(done)} staged, {sorted(trees.top(out)) if out.exists() else 'nothing'}"
        )
        if (out / REPORT).exists():
            assert expected.items() <= trees.contents(out).items()
            finish(out.name)
            round_number, done = round_number + 1, {}
        else:
            assert staged.items() <= done.items()  # nothing was done again
            with pytest.raises(UserError, match="is not prepared to the end"):
                prepared_set.load(trees.npz_settings(tree), out)
        staged = done
    finish(f"killed{round_number}")
    wait_until(lambda: not processes(token))


def test_a_reader_that_is_killed_is_told_of(tree, tmp_path, monkeypatch):
    real = concurrent.futures.as_completed

    def kill_one_first(futures):
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        return real(futures)

    monkeypatch.setattr(concurrent.futures, "as_completed", kill_one_first)
    with pytest.raises(UserError, match="was killed.*--config.data.workers=1"):
        prepare.prepare(trees.npz_settings(tree, workers=2), tmp_path / "out")
    assert not (tmp_path / "out" / REPORT).exists() and not multiprocessing.active_children()


def test_two_at_once_wait_for_each_other(tree, done, tmp_path, capsys):
    data, out = trees.npz_settings(tree), tmp_path / "out"
    out.mkdir()
    other = threading.Thread(target=prepare.prepare, args=(data, out))
    said = ""
    with prepare._alone(out):
        other.start()
        while "waiting for it" not in said:
            time.sleep(0.01)
            said += capsys.readouterr().out
        assert trees.top(out) == {LOCK}
    other.join()
    assert trees.contents(out) == trees.contents(done)


def test_one_that_waited_for_other_settings_is_refused(tree, done, tmp_path, capsys):
    data, out, caught = trees.npz_settings(tree, size=32), tmp_path / "out", []
    out.mkdir()

    def wait():
        try:
            caught.append(prepare.prepare(data, out))
        except UserError as error:
            caught.append(str(error))

    other, said = threading.Thread(target=wait), ""
    with prepare._alone(out):
        other.start()
        while "waiting for it" not in said:
            time.sleep(0.01)
            said += capsys.readouterr().out
        shutil.copytree(done, out, dirs_exist_ok=True)  # with tiles of 64 pixels
    other.join()
    assert "size 64 instead of 32" in caught[0]


# A disk that fills up


@pytest.mark.parametrize("name", [SETTINGS, "staged", SPLITS, SHEET, REPORT])
def test_a_full_disk_is_said_and_mended(tree, done, tmp_path, monkeypatch, name):
    data, out = trees.npz_settings(tree), tmp_path / "out"
    real, written = files.write_bytes, []

    def full(path, content):
        staged = pathlib.Path(path).parent.name == "staging"
        if (name == "staged" and len(written) > 6) or pathlib.Path(path).name == name:
            raise OSError(28, "No space left on device")
        written.append(staged)
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", full)
        with pytest.raises(UserError, match=f"{out}: the disk is full; free space") as caught:
            prepare.prepare(data, out)
        assert "\n" not in str(caught.value)
    assert not (out / REPORT).exists()
    prepare.prepare(data, out)
    assert trees.contents(out) == trees.contents(done)


def test_a_disk_that_fills_up_with_tiles_is_said(tree, done, tmp_path, monkeypatch):
    data, out = trees.npz_settings(tree), tmp_path / "out"

    def full(*args):
        raise RuntimeError("write() failed: No space left on device; writing x; at byte 4096")

    import tensorflow_datasets as tfds

    with monkeypatch.context() as patch:
        patch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", lambda *a, **k: full())
        with pytest.raises(UserError, match="the disk is full; free space"):
            prepare.prepare(data, out)
    prepare.prepare(data, out)
    assert trees.contents(out) == trees.contents(done)


def test_want_of_memory_is_said(tmp_path, monkeypatch):
    trees.enter(monkeypatch, [trees.Order("a", "P1")])

    def stage(task, data):
        raise MemoryError

    monkeypatch.setattr(staging, "stage", stage)
    with pytest.raises(UserError, match="memory.*--config.data.workers=1"):
        prepare.prepare(trees.made_settings(tmp_path / "data"), tmp_path / "out")
