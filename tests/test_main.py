"""The door: what the user got wrong is said in a line or two with code 2; nothing is written."""

import errno
import io
import json
import os
import shutil
import sys

import numpy as np
import pytest
import tiny
from PIL import Image
from tiny import refused

from mln_flax.main import main

MINI_MIAS = str(tiny.ROOT / "configs" / "mini_mias.py")


def config(*words):
    """A command line that is right but for some words."""
    return lambda workdir: [*tiny.flags(workdir), *(f"--config.{word}" for word in words)]


def mode(*words):
    return lambda workdir: [f"--workdir={workdir}", *words]


WRONG = {
    "flag": (mode("--mod=train"), "unknown flag --mod (did you mean '--mode'?)"),
    "flag without a value": (mode("--mode"), "--mode: expected one argument"),
    "mode": (mode("--mode=trian"), "--mode=trian: unknown mode (did you mean 'train'?); known: "),
    "setting": (config("train.stps=3"), "unknown setting 'stps' (did you mean 'steps'?)"),
    "group": (config("trian.steps=3"), "unknown setting 'trian' (did you mean 'train'?)"),
    "setting without =": (config("train.steps"), "give its value as --config.train.steps=VALUE"),
    "whole number": (config("train.steps=3.5"), "--config.train.steps=3.5: must be a whole number"),
    "number": (config("optim.b1=much"), "--config.optim.b1=much: must be a number"),
    "range": (config("train.batch_size=0"), "--config.train.batch_size=0: must be above 0"),
    "size": (config("data.size=4", "views.crop=1"), "--config.data.size=4: this network needs 8 "),
    "crop": (config("views.crop=33"), "--config.views.crop=33.0: is the side's share that a"),
    "heads": (config("model.num_heads=3,2"), "3 heads do not divide the 8 channels of stage 0"),
    "view": (config("views.names=identity,bezir(0.3)"), "unknown view 'bezir' (did you mean 'bez"),
    "view's number": (config("views.names=bezier(3)"), "bezier(3): a must lie in [0, 1]"),
    "preset": (config("model.preset=demmo"), "preset=demmo: unknown (did you mean 'demo'?); known"),
    "network": (config("model.name=unett"), "unknown network 'unett' (did you mean 'unet'?); know"),
    "method": (config("method.name=mlm"), "unknown method 'mlm' (did you mean 'mln'?)"),
    "selection": (config("method.selection=cosin"), "=cosin: unknown (did you mean 'cosine'?)"),
    "another's setting": (
        lambda workdir: [*tiny.flags(workdir, **tiny.PLAIN), "--config.method.selection=cosine"],
        "--config.method.selection: unknown setting 'selection'",
    ),
    "augmentation": (
        config("views.augment=jiter(0.5)"),
        "unknown augmentation 'jiter' (did you mean 'jitter'?); known: jitter",
    ),
    "augmentation's number": (config("views.augment=jitter(2)"), "jitter(2): the strength must"),
    "unlabeled": (
        config("data.unlabeled=film"),
        "--config.data.unlabeled=film: method.name=mln trains on the source alone; leave it empty",
    ),
    "unlabeled of a plain network": (
        lambda workdir: [
            *tiny.flags(workdir, **tiny.PLAIN),
            "--config.data.unlabeled=film,dbt",
        ],
        "--config.data.unlabeled=film,dbt: method.name=supervised trains on the source alone",
    ),
    "unlabeled twice": (config("data.unlabeled=film,dbt,film"), "film: 'film' is named twice"),
    "unlabeled that is no target": (
        config("data.unlabeled=flim"),
        "--config.data.unlabeled=flim: 'flim' is no target (did you mean 'film'?); known: dbt, fil",
    ),
    "data set": (config("data.name=phantoms"), "'phantoms' (did you mean 'phantom'?)"),
    "domain": (config("data.targets=flim"), "unknown phantom domain 'flim' (did you mean 'film'?)"),
    "checkpoint": (config("model.pretrained=/nowhere/swin.npz"), "/nowhere/swin.npz"),
    "config": (mode("--config=configs/phantm.py"), "no such file (did you mean 'phantom.py'?)"),
    "no config": (
        mode(),
        "holds neither a run nor an experiment, and --config is missing: a file such as",
    ),
    "paths": (
        mode("--mode=report", "a.png"),
        "'a.png': only --mode=predict and --mode=froc take paths",
    ),
    "no workdir": (lambda _: [f"--config={tiny.PHANTOM}"], "--workdir is missing: the folder"),
    "data folder": (
        lambda workdir: [f"--config={MINI_MIAS}", f"--workdir={workdir}", "--config.data.dir=/no"],
        "data.dir='/no' does not exist; expected a folder with Info.txt",
    ),
    "no data folder": (
        lambda workdir: [f"--config={MINI_MIAS}", f"--workdir={workdir}", "--mode=prepare"],
        "data.dir is empty; expected a folder with Info.txt",
    ),
    "evaluate nothing": (
        lambda workdir: [*tiny.flags(workdir), "--mode=evaluate"],
        "holds no trained model; run --mode=train first",
    ),
    "predict with nothing": (
        lambda workdir: [*tiny.flags(workdir), "--mode=predict", "--output=/nowhere", tiny.PHANTOM],
        "holds no trained model; run --mode=train first",
    ),
    "report on nothing": (
        lambda workdir: [*tiny.flags(workdir), "--mode=report"],
        "config.json is missing: --mode=train makes it",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_and_nothing_is_written(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tiny.ROOT)
    words, message = WRONG[name]
    assert message in refused(capsys, words(tmp_path / "run"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["train", "evaluate", "prepare", "predict", "report"])
def test_a_workdir_that_is_a_file(what, tmp_path, capsys):
    workdir = tmp_path / "file"
    workdir.write_text("mine")
    more = ["--output=x", tiny.PHANTOM] if what == "predict" else []
    err = refused(capsys, [*tiny.flags(workdir), f"--mode={what}", *more])
    assert "is a file" in err or "missing" in err
    assert workdir.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("what", ["train", "evaluate", "prepare", "predict"])
def test_a_workdir_of_other_settings(what, plain_workdir, tmp_path, capsys):
    before = tiny.snapshot(plain_workdir)
    more = [f"--output={tmp_path / 'out'}", tiny.PHANTOM] if what == "predict" else []
    words = tiny.flags(plain_workdir, **tiny.PLAIN, train__steps="5", optim__b1="0.8")
    err = refused(capsys, [*words, f"--mode={what}", *more])
    assert "belongs to other settings (optim.b1: 0.9 -> 0.8; train.steps: 4 -> 5); take" in err
    assert tiny.snapshot(plain_workdir) == before and not list(tmp_path.iterdir())


def test_another_method_is_another_setting(plain_workdir, tmp_path, capsys):
    before = tiny.snapshot(plain_workdir)
    err = refused(capsys, [*tiny.flags(plain_workdir), "--mode=evaluate"])
    assert "belongs to other settings (" in err and "method.name: supervised -> mln" in err
    assert tiny.snapshot(plain_workdir) == before


def test_a_config_json_edited_by_hand(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"train": {"steps": "many"}}))
    err = refused(capsys, [f"--workdir={tmp_path}", "--mode=evaluate"])
    assert "train: steps: must be of type int, not 'many'" in err


def test_after_a_mistyped_data_folder_the_right_one_is_no_other_setting(tmp_path, capsys):
    words = [f"--config={MINI_MIAS}", f"--workdir={tmp_path / 'run'}", "--mode=prepare"]
    refused(capsys, [*words, "--config.data.dir=/mistyped"])
    assert "/right" in refused(capsys, [*words, "--config.data.dir=/right"])


def test_predict_without_output_or_paths(plain_workdir, tmp_path, capsys):
    before = tiny.snapshot(plain_workdir)
    words = [f"--workdir={plain_workdir}", "--mode=predict"]
    assert "--output is missing" in refused(capsys, [*words, tiny.PHANTOM])
    out = tmp_path / "out"
    assert "give image files or folders" in refused(capsys, [*words, f"--output={out}"])
    err = refused(capsys, [*words, f"--output={out}", "nowhere.png"])
    assert "nowhere.png: no such file or folder" in err
    assert not out.exists() and tiny.snapshot(plain_workdir) == before


def test_names_of_other_encodings_can_be_printed(monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="utf-8"))
    odd = os.fsdecode(b"M\xfc_mask.png")
    monkeypatch.setattr("mln_flax.main.run", lambda argv: print(odd, flush=True) or 0)
    assert main([]) == 0 and printed.getvalue() == b"M\\udcfc_mask.png\n"


FULL, LOCKED = errno.ENOSPC, errno.EROFS


@pytest.mark.parametrize(("number", "advice"), [(FULL, "free space"), (LOCKED, "permissions")])
def test_what_the_machine_refuses_is_one_line(
    number, advice, tiny_workdir, tmp_path, capsys, monkeypatch
):
    """Whatever file is written, in every mode that writes."""
    workdir, image = shutil.copytree(tiny_workdir, tmp_path / "run"), tmp_path / "a.png"
    Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32)).save(image)

    def refuse(_number):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)  # before any file gets its name
    for words, file in (
        ([*tiny.flags(tmp_path / "new")], tmp_path / "new"),
        ([f"--workdir={workdir}", "--mode=evaluate"], workdir),
        ([f"--workdir={workdir}", "--mode=report"], workdir / "report"),
        (
            [f"--workdir={workdir}", "--mode=predict", f"--output={tmp_path / 'out'}", image],
            tmp_path / "out" / ".places.json",
        ),
    ):
        err = refused(capsys, words)
        assert str(file) in err and os.strerror(number) in err and advice in err
        assert len(err.splitlines()) == 1 and ".tmp" not in err
    assert not [path for path in tmp_path.rglob("*.tmp")]


def test_help_and_a_wrong_flag_in_a_fresh_process(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for word in ("--config", "--workdir", "--mode", "predict", "--output", "learning_rate"):
        assert word in shown
    process = tiny.python("-m", "mln_flax.main", "--wordir=x")
    assert process.communicate() == (
        "",
        "error: unknown flag --wordir (did you mean '--workdir'?)\n",
    )
    assert process.returncode == 2


def test_who_reads_the_output_may_leave(tiny_workdir):
    process = tiny.python("-m", "mln_flax.main", f"--workdir={tiny_workdir}", "--mode=report")
    process.stdout.close()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + 13 and "Traceback" not in err and "Exception" not in err
