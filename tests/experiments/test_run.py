"""A tiny experiment through the door: whole, in shards, killed and started again."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
import tiny
import tiny_experiment
from tiny import refused, wait_for

from mln_flax import files
from mln_flax.data.core import DataSet
from mln_flax.engine import states, train
from mln_flax.experiments import core, run
from mln_flax.experiments import jobs as experiment_jobs
from mln_flax.main import main
from mln_flax.results import records

REPORT = ("index.html", "table.csv", "table.md", "table.tex", "dots-ffdm.png")
NAMES = [f"ffdm-{slug}-seed{seed}" for seed in (0, 1) for slug in ("plain", "cosine")]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "mine.py"
    path.write_text(tiny_experiment.FILE)
    return path


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
    """The workdir of the experiment, done in one go: to be read only."""
    workdir = tmp_path_factory.mktemp("experiment") / "whole"
    assert main(tiny_experiment.flags(file, workdir)) == 0
    return workdir


@pytest.fixture
def copy(whole, tmp_path):
    """A workdir that a test may write to."""
    return shutil.copytree(whole, tmp_path / "run")


def reports(workdir):
    return {name: (workdir / "report" / name).read_bytes() for name in REPORT}


def test_every_run_is_a_workdir_of_its_own(whole, capsys):
    assert sorted(path.name for path in (whole / "runs").iterdir()) == sorted(NAMES)
    assert sorted(path.name for path in whole.iterdir()) == ["experiment.json", "report", "runs"]
    for name in NAMES:
        folder = whole / "runs" / name
        config = json.loads((folder / "config.json").read_text())
        assert config["train"]["seed"] == int(name[-1]) and config["data"]["targets"] == ["film"]
        views = list(tiny_experiment.VIEWS)
        assert (config["method"]["name"], config["views"]["names"]) == (
            ("supervised", ["identity"]) if "plain" in name else ("mln", views)
        )
        lines = records.read_whole(folder / "records.jsonl")
        assert {line["domain"] for line in lines if "domain" in line} == {"ffdm", "film"}
        assert json.loads((folder / "environment.json").read_text())["command"].startswith("python")
    page = (whole / "report" / "index.html").read_text(encoding="utf-8")
    for text in (
        "A tiny experiment",
        "Trained on ffdm",
        "euclidean",
        "against plain",
        "Parameters",
        "View accuracy of the rules",
        "model.widths",  # differs from the defaults, which do not know it
    ):
        assert text in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_run_of_an_experiment_has_a_report_of_its_own(copy):
    folder = copy / "runs" / NAMES[1]
    assert main([f"--workdir={folder}", "--mode=report"]) == 0
    assert (folder / "report" / "index.html").is_file()


def test_the_same_command_again_trains_nothing(copy, file, capsys):
    before = tiny.snapshot(copy / "runs")
    shutil.rmtree(copy / "report")
    assert main(tiny_experiment.flags(file, copy)) == 0
    assert "4 runs in shard 1/1, 4 of them done already" in capsys.readouterr().out
    assert tiny.snapshot(copy / "runs") == before


def test_the_report_is_made_again_from_the_records(copy, whole, capsys):
    shutil.rmtree(copy / "report")
    assert main([f"--workdir={copy}", "--mode=report"]) == 0
    assert reports(copy) == reports(whole)
    out = capsys.readouterr().out
    assert "All 4 runs are done." in out and "Trained on ffdm" in out and "Parameters" in out


def test_a_changed_record_changes_tables_and_picture(copy, whole):
    path = copy / "runs" / NAMES[0] / "records.jsonl"
    lines = records.read_whole(path)
    for line in lines:
        if line["kind"] == "image":
            for score in line["scores"].values():
                score["dsc"] = 0.75
    records.write_whole(path, lines)
    assert main([f"--workdir={copy}", "--mode=report"]) == 0
    found, before = reports(copy), reports(whole)
    assert [name for name in REPORT if found[name] == before[name]] == []


def test_a_part_is_shown(copy, capsys):
    words = [f"--workdir={copy}", "--mode=report", "--config.rows=cosine", "--config.seeds=1"]
    before = (copy / core.FILE).read_bytes()
    assert main(words) == 0
    csv = (copy / "report" / "table.csv").read_text()
    assert "cosine,ffdm,1" in csv and "plain" not in csv and ",0,ffdm" not in csv
    assert "All 1 runs are done." in capsys.readouterr().out
    assert (copy / core.FILE).read_bytes() == before


@pytest.mark.parametrize("kept", [0, 10])
def test_records_cut_short_at_a_line_are_no_run(copy, file, kept, capsys):
    path = copy / "runs" / NAMES[1] / "records.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:kept]))
    before = tiny.snapshot(copy)
    for words in ([f"--workdir={copy}", "--mode=report"], tiny_experiment.flags(file, copy)):
        assert f"{path}: cut short" in refused(capsys, words)
    assert tiny.snapshot(copy) == before


def test_killed_in_shards_and_started_again_it_gives_the_same(file, whole, tmp_path, capsys):
    workdir = tmp_path / "run"
    first, second = (tiny_experiment.flags(file, workdir, shard=f"{n}/2") for n in (1, 2))
    process = tiny.python("-m", "mln_flax.main", *first)
    # In the second run of this shard, which is the last of all: signals are caught already.
    wait_for(lambda: any(workdir.glob(f"runs/{NAMES[3]}/train.jsonl")), process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "stopped by SIGTERM" in out and "the same command" in out and "Traceback" not in err
    done = [name for name in NAMES if (workdir / "runs" / name / "records.jsonl").exists()]
    assert done == [NAMES[0]]
    assert main([f"--workdir={workdir}", "--mode=report"]) == 0
    assert f"1 of 4 runs are done; missing: {', '.join(NAMES[1:3])}" in capsys.readouterr().out

    assert main(first) == 0
    out = capsys.readouterr().out
    assert "2 runs in shard 1/2, 1 of them done already" in out
    assert "2 of 4 runs are done; missing: ffdm-cosine-seed0, ffdm-plain-seed1." in out
    assert main(second) == 0
    assert "All 4 runs are done." in capsys.readouterr().out
    for name in NAMES:
        found, wanted = (folder / "runs" / name / "records.jsonl" for folder in (workdir, whole))
        assert found.read_bytes() == wanted.read_bytes(), name
    for name in ("table.csv", "table.md", "table.tex", "dots-ffdm.png"):
        assert reports(workdir)[name] == reports(whole)[name], name


def test_more_seeds_and_rows_may_be_added_but_no_other_experiment(copy, file, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        run.one_run,
        "train_all",
        lambda made, folder, *_: asked.append((folder.name, made.config.train.seed)),
    )
    monkeypatch.setattr(run.one_run, "load", lambda made, folder: DataSet(()))
    assert main(tiny_experiment.flags(file, copy, seeds="2", rows="euclidean")) == 0
    assert asked == [("ffdm-cosine-seed2", 2)]
    out = capsys.readouterr().out
    assert "4 of 6 runs are done; missing: ffdm-plain-seed2, ffdm-cosine-seed2." in out
    assert core.read(copy).seeds == (0, 1, 2)
    before = tiny.snapshot(copy)
    err = refused(capsys, tiny_experiment.flags(file, copy, base__train__steps="5"))
    assert "belongs to another experiment (base.train.steps: 2 -> 5); take another workdir" in err
    assert tiny.snapshot(copy) == before


def test_data_may_move_as_long_as_its_content_stays(copy, file, capsys, monkeypatch):
    monkeypatch.setattr(run.one_run, "train_all", lambda *_: None)
    monkeypatch.setattr(run.one_run, "load", lambda made, folder: DataSet((), content="other"))
    words = tiny_experiment.flags(file, copy, seeds="0,1,2", base__data__dir="/moved")
    assert main(words) == 2  # other films: the runs of seed 2 would be compared with others'
    err = capsys.readouterr().err
    assert "seed0 has read data of another content than there is now in --config.base.data" in err
    monkeypatch.setattr(run.one_run, "load", lambda made, folder: DataSet(()))
    assert main(words) == 0
    assert core.read(copy).base.data.dir == "/moved"
    described = files.read_json(copy / "runs" / NAMES[0] / "data.json")
    del described["content"]  # as older versions wrote it
    files.write_json(copy / "runs" / NAMES[0] / "data.json", described)
    err = refused(capsys, tiny_experiment.flags(file, copy, base__data__dir="/elsewhere"))
    assert f"{NAMES[0]} belongs to other settings (data.dir: " in err


def test_a_run_that_fails_is_said_and_the_others_go_on(file, tmp_path, capsys, monkeypatch):
    def train_all(made, folder, *_):
        if "plain" in folder.name:
            raise train.UserError("the loss is nan at step 3")
        done.append(folder.name)

    done, drawn = [], []
    monkeypatch.setattr(run.one_run, "train_all", train_all)

    def load(_made, folder):
        drawn.append(folder.name)
        return DataSet(())

    monkeypatch.setattr(run.one_run, "load", load)
    assert main(tiny_experiment.flags(file, tmp_path / "run")) == 2
    err = capsys.readouterr().err
    assert f"error: {NAMES[0]}: the loss is nan at step 3; going on" in err
    assert err.endswith(f"error: {NAMES[2]} failed, for the reason above\n")
    assert done == [NAMES[1], NAMES[3]]
    assert drawn == NAMES[:1]  # the data are the same for all


def test_a_signal_outside_of_training(file, tmp_path, capsys, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(run.one_run, "load", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert main(tiny_experiment.flags(file, tmp_path / "run")) == 143
    assert "stopped by SIGTERM; the same command does what is left" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_outside_of_training(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run.one_run, "load", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test's worker ignores it
    try:
        assert main(tiny_experiment.flags(file, tmp_path / "run")) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "stopped; the same command does what is left" in capsys.readouterr().err


WRONG = {
    "row": ({"rows": "plian"}, "--config.rows=plian: unknown (did you mean 'plain'?)"),
    "setting": ({"sheds": "1"}, "unknown setting 'sheds' (did you mean 'seeds'?)"),
    "base": ({"base__train__stps": "1"}, "unknown setting 'stps' (did you mean 'steps'?)"),
    "shard": ({"shard": "3/2"}, "--config.shard=3/2: must be I/N"),
    "domain": ({"domains": "ffdm,flim"}, "unknown phantom domain 'flim' (did you mean 'film'?)"),
    "network": (
        {"base__model__widths": "1,1,1,1,1,1,1"},
        "row 'plain': --config.data.size=32: this ne",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_and_nothing_is_written(name, file, tmp_path, capsys):
    changes, message = WRONG[name]
    assert message in refused(capsys, tiny_experiment.flags(file, tmp_path / "run", **changes))
    assert not list(tmp_path.iterdir())


def test_a_row_that_cannot_be_built(file, tmp_path, capsys):
    path = tmp_path / "wrong.py"
    path.write_text(file.read_text().replace("'identity'}", "'identiti'}"))
    err = refused(capsys, tiny_experiment.flags(path, tmp_path / "run"))
    assert "row 'plain': unknown view 'identiti' (did you mean 'identity'?)" in err
    assert not (tmp_path / "run").exists()


def test_workdirs_of_other_kinds(file, whole, tmp_path, capsys):
    single = whole / "runs" / NAMES[0]
    err = refused(capsys, tiny_experiment.flags(file, single))
    assert "holds a single run; an experiment needs a workdir of its own" in err
    err = refused(capsys, [*tiny.flags(whole), "--mode=train"])
    assert "holds an experiment: allowed are --mode=experiment and --mode=report" in err
    err = refused(capsys, [f"--workdir={tmp_path}", "--mode=experiment"])
    assert "holds no experiment yet, and --config is missing" in err
    err = refused(
        capsys, [f"--config={tiny.PHANTOM}", f"--workdir={tmp_path}", "--mode=experiment"]
    )
    assert "defines get_config(), which is for --mode=train" in err
    err = refused(capsys, [f"--config={file}", f"--workdir={tmp_path}"])
    assert "defines get_experiment(), which is for --mode=experiment" in err
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refused(capsys, tiny_experiment.flags(file, tmp_path / "file"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_report_of_nothing_and_a_run_of_other_settings(file, copy, tmp_path, capsys):
    files.write_json(tmp_path / "experiment.json", core.to_dict(core.read(copy)))
    err = refused(capsys, [f"--workdir={tmp_path}", "--mode=report"])
    assert "no run is done yet; --mode=experiment does them" in err
    config = copy / "runs" / NAMES[0] / "config.json"
    config.write_text(config.read_text().replace('"b1": 0.9', '"b1": 0.8'))
    for words in ([f"--workdir={copy}", "--mode=report"], tiny_experiment.flags(file, copy)):
        assert "belongs to other settings (optim.b1: 0.8 -> 0.9)" in refused(capsys, words)


def test_networks_are_counted_once_each():
    jobs = experiment_jobs.jobs(tiny_experiment.experiment())
    one, two = run.networks(jobs)
    assert (one.rows, one.branches) == (("plain",), 1)
    assert (two.rows, two.branches) == (("cosine", "euclidean"), 2)
    assert (one.shared, one.per_branch) == (two.shared, two.per_branch)
    assert 0 < one.per_branch < one.shared
    made = run.build(jobs[1].config)
    params = jax.eval_shape(lambda: states.random_state(made)).params
    total = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    assert two.shared + 2 * two.per_branch == total


def test_progress():
    assert run.progress(0, 12, 0.0) == "run 1 of 12, 11 after it"
    # Two runs took 10 minutes: ten more take 50.
    assert run.progress(2, 12, 600.0) == "run 3 of 12, 9 after it, about 0:50:00 left"
