"""The workdir: one run at a time, one content of data, and a commit that is this package's own."""

import pathlib
import re
import shutil
import subprocess

import pytest
import tiny
from tiny import refused, wait_for

from mln_flax import files, locks
from mln_flax.engine import run as one_run
from mln_flax.engine import workdir as workdirs
from mln_flax.engine.build import build
from mln_flax.main import main
from mln_flax.types import UserError

PACKAGE = pathlib.Path(workdirs.__file__).parents[1]


def test_a_second_run_is_refused_while_the_first_is_at_work(tiny_workdir, tmp_path, capsys):
    copy = shutil.copytree(tiny_workdir, tmp_path / "run")
    (copy / "records.jsonl").unlink()
    before = tiny.snapshot(copy)
    with workdirs.claimed(tmp_path / "other", tiny.config(), ""):
        pass  # another workdir's lock is another
    with locks.alone(copy, lambda: None):
        for mode in ("train", "evaluate", "prepare"):
            err = refused(capsys, [*tiny.flags(copy), f"--mode={mode}"])
            assert f"--workdir={copy}: another process is at work in it; wait for its end" in err
        assert tiny.snapshot(copy) == before
        with pytest.raises(UserError, match="at work in it"):
            workdirs.refuse_held(copy)  # asked before the data is read
        shutil.copy(tiny_workdir / "records.jsonl", copy)
        assert main([f"--workdir={copy}", "--mode=report"]) == 0  # reads alone
        words = [f"--workdir={copy}", "--mode=predict", f"--output={tmp_path / 'out'}"]
        assert "no such file" in refused(capsys, [*words, tmp_path / "none.png"])
    workdirs.refuse_held(copy)
    assert main([*tiny.flags(copy), "--mode=prepare"]) == 0


def test_a_run_holds_its_workdir_from_the_first_file_to_the_last(tmp_path, capsys):
    workdir = tmp_path / "run"
    command = tiny.flags(workdir, train__steps="100000")
    process = tiny.python("-m", "mln_flax.main", *command)
    try:
        wait_for((workdir / "environment.json").exists, process)
        assert "another process is at work in it" in refused(capsys, command)
    finally:
        process.kill()
        process.communicate()
    with locks.alone(workdir, lambda: pytest.fail("its death did not free the workdir")):
        pass


MINI_MIAS = str(tiny.ROOT / "configs" / "mini_mias.py")


def read(workdir, root, **changes):
    """Reads films into a workdir, as training does before its first step."""
    config = tiny.config(MINI_MIAS, data__dir=str(root), data__workers="1", **changes)
    workdirs.refuse_other_settings(workdir, config)
    with one_run.read_data(build(config), workdir):
        return files.read_json(workdir / "config.json")["data"]["dir"]


@pytest.fixture
def films(tmp_path):
    """A folder of films, and a workdir where they were read."""
    root = tmp_path / "films"
    root.mkdir()
    read(tmp_path / "run", tiny.write_films(root))
    return root, tmp_path / "run"


def test_data_may_move_with_what_was_prepared_or_without(films, tmp_path):
    root, workdir = films
    there = root.rename(tmp_path / "other disk")
    with pytest.raises(UserError, match="train.steps: 4 -> 5"):  # and nothing of the folder
        read(workdir, there, train__steps="5")
    assert read(workdir, there) == str(there)  # prepared anew: its folder is named by the other
    there = there.rename(tmp_path / "third")
    (prepared, _) = sorted((tmp_path / "prepared").iterdir())
    mine = prepared.rename(tmp_path / "mine")
    assert read(workdir, there, data__prepared_dir=str(mine)) == str(there)
    assert read(workdir, "", data__prepared_dir=str(mine)) == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "prepared", "run", "third"]


@pytest.mark.parametrize("name", ["mdb001.pgm", "Info.txt"])
def test_data_of_another_content_is_refused(name, films, tmp_path):
    root, workdir = films
    other = shutil.copytree(root, tmp_path / "other")
    content = (other / name).read_bytes()
    changed = {"mdb001.pgm": content[:-9000] + bytes(9000), "Info.txt": content.replace(b"5", b"6")}
    (other / name).write_bytes(changed[name])
    before = tiny.snapshot(workdir)
    with pytest.raises(UserError, match="belongs to data of another content than that in") as no:
        read(workdir, other)
    assert f"--config.data.dir={other}" in str(no.value) and "\n" not in str(no.value)
    assert tiny.snapshot(workdir) == before


def test_a_workdir_that_knows_no_content_keeps_its_folders(films, tmp_path):
    root, workdir = films
    described = files.read_json(workdir / workdirs.DATA)
    del described["content"]  # as older versions wrote it
    files.write_json(workdir / workdirs.DATA, described)
    with pytest.raises(UserError, match="belongs to other settings .data.dir: "):
        read(workdir, root.rename(tmp_path / "moved"))


def git(folder, *words):
    who = ["-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def commit_noted_in(folder):
    """What a copy of the package in a folder notes as its commit."""
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    script = "from mln_flax.engine import workdir; print(workdir.__file__, workdir.commit())"
    process = tiny.python("-P", "-c", script, PYTHONPATH=str(folder))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    file, commit = out.split()
    assert pathlib.Path(file).is_relative_to(folder)
    return commit


def test_the_commit_of_another_repository_is_not_ours(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("theirs")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "theirs")
    assert commit_noted_in(tmp_path) == "unknown"  # beside their files, and not one of them


def test_below_the_top_of_another_repository_there_is_no_commit_either(tmp_path):
    git(tmp_path, "init", "-q")
    vendored = tmp_path / "vendor"
    vendored.mkdir()
    (vendored / "a").write_text("theirs")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "theirs")
    assert commit_noted_in(vendored) == "unknown"


def test_the_commit_of_this_repository_is_noted(tmp_path):
    git(tmp_path, "init", "-q")
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "ours")
    shutil.rmtree(tmp_path / PACKAGE.name)
    commit = commit_noted_in(tmp_path)
    assert re.fullmatch("[0-9a-f]{10}", commit)
