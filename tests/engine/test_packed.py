"""Packed models: to the bit, refused by name where damaged, and what answers without a workdir."""

import dataclasses
import json
import os
import shutil
import tomllib

import answering
import boxes
import jax
import numpy as np
import pytest
import tiny
from boxes import both  # noqa: F401  # a fixture
from tiny import refused

from mln_flax import Predictor, settings
from mln_flax.engine import checkpoint, packed, stored, whole_model
from mln_flax.engine.hashes import tree_hash
from mln_flax.engine.origin import origin_of
from mln_flax.engine.pack import MOST_BYTES
from mln_flax.main import main
from mln_flax.metrics import froc
from mln_flax.types import UserError

IN_FOLDER = ("clusters.csv", "objects.csv")


def flat(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


@pytest.fixture
def plain(plain_workdir, tmp_path):
    """The packed plain network, to be damaged."""
    return boxes.pack(plain_workdir, tmp_path / "packed")


def test_every_array_is_read_back_to_the_bit(both):  # noqa: F811
    workdir, folder = both
    before, after = flat(checkpoint.load_tree(workdir / "model")), flat(stored.tree_of(folder))
    assert set(before) == set(after) and len(before) > 10
    for path, array in before.items():
        assert (array.shape, array.dtype) == (after[path].shape, after[path].dtype), path
        assert array.tobytes() == after[path].tobytes(), path
    assert {a.dtype for path, a in after.items() if "params" in path} == {np.dtype(np.float32)}
    assert sorted(path.name for path in folder.iterdir()) == [packed.FACTS, packed.WEIGHTS]
    facts = packed.facts(folder)
    assert facts["hashes"]["model"] == tree_hash(stored.tree_of(folder))
    assert facts["trained"]["steps"] == 4 and facts["trained"]["seed"] == 0
    log = [json.loads(line) for line in (workdir / "train.jsonl").read_text().splitlines()]
    scores = {row["step"]: row["validation_dsc"] for row in log if "validation_dsc" in row}
    assert facts["trained"]["best_validation_dsc"] == max(scores.values())
    assert facts["trained"]["last_loss"] == [row["loss"] for row in log if "loss" in row][-1]


def test_a_packed_model_answers_as_its_workdir_does(both, tmp_path):  # noqa: F811
    """Every file to the bit but for times, commands and pages."""
    workdir, folder = both
    image = answering.save(tmp_path / "in" / "a.png", answering.mammogram(), bits=16)
    reasons = ["--config.predict.explain_tiles=1", "--config.predict.attribution=false"]
    outputs = tmp_path / "of_run", tmp_path / "of_packed"
    for place, out in zip((workdir, folder), outputs, strict=True):
        words = [f"--workdir={place}", "--mode=predict", f"--output={out}"]
        point = ["--config.predict.threshold=0.3", "--config.predict.min_count=1"]
        assert main([*words, *point, *reasons, str(image)]) == 0
    pictures = [path.name for path in outputs[0].iterdir() if path.suffix in (".png", ".jpg")]
    assert len(pictures) >= 4
    for name in (*pictures, *IN_FOLDER):
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes(), name
    lines = [json.loads((out / "a.json").read_text()) for out in outputs]
    for line in lines:
        assert line.pop("seconds") >= 0
    assert lines[0] == lines[1] and lines[0]["hashes"]["model"]  # those of settings too
    about = [json.loads((out / "prediction.json").read_text()) for out in outputs]
    assert about[0]["of"] == about[1]["of"]
    assert [one["weights"] for one in about] == ["weights of a workdir", packed.title(folder)]


def test_without_a_workdir_the_weights_in_the_box_answer(plain, tmp_path, monkeypatch, capsys):
    boxes.put(monkeypatch, plain)
    image, out = answering.save(tmp_path / "a.png", answering.mammogram()), tmp_path / "out"
    words = ["--mode=predict", f"--output={out}", str(image)]
    assert main([*words, "--config.predict.threshold=0.3"]) == 0
    about = json.loads((out / "prediction.json").read_text())
    digest = packed.facts(plain)["hashes"]["model"]
    assert about["weights"] == "weights in the box" and about["of"]["model"] == digest
    assert about["command"] == (
        "python -m mln_flax.main --mode=predict --config.predict.threshold=0.3"
    )
    page = (out / "index.html").read_text(encoding="utf-8")
    assert f"hash {digest[:12]}, weights in the box" in page and str(plain) not in page
    assert f"predict: weights in the box, model {digest[:12]}" in capsys.readouterr().out
    assert main([*words, "--config.predict.threshold=0.3"]) == 0
    assert "a.png: done already" in capsys.readouterr().out
    err = refused(capsys, [*words, "--config.data.size=64"])
    assert "weights in the box: belong to other settings (data.size: 32 -> 64); those" in err
    err = refused(capsys, [*words, f"--config={tiny.PHANTOM}"])
    assert "the weights in the box have settings of their own; leave it out" in err


def test_a_predictor_without_a_workdir(plain, plain_workdir, monkeypatch):
    boxes.put(monkeypatch, plain)
    image = answering.mammogram()
    expected = Predictor.from_workdir(plain_workdir)
    predictor = Predictor()
    assert predictor.weights == "weights in the box"
    assert origin_of(predictor) == origin_of(expected)
    assert predictor(image, 0.1).probability.tobytes() == expected(image, 0.1).probability.tobytes()
    changed = Predictor.from_workdir(changes={"predict.keep": "all"})
    assert changed.run.config.predict.keep == "all"


def test_an_export_without_a_workdir(plain, tmp_path, monkeypatch):
    boxes.put(monkeypatch, plain)
    assert main(["--mode=export", f"--output={tmp_path / 'model.zip'}"]) == 0
    from mln_flax.engine import standalone

    facts = standalone.load(str(tmp_path / "model.zip")).facts
    assert facts["weights"] == "weights in the box"
    assert facts["hashes"]["model"] == packed.facts(plain)["hashes"]["model"]


def test_an_empty_box_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    boxes.put(monkeypatch, tmp_path / "detector")
    image = answering.save(tmp_path / "a.png", answering.mammogram())
    said = "this copy of the package holds no weights (mln_flax/detector/weights.safetensors is"
    for words in (
        ["--mode=predict", f"--output={tmp_path / 'out'}", str(image)],
        ["--mode=export", f"--output={tmp_path / 'model.zip'}"],
    ):
        err = refused(capsys, words)
        assert said in err and len(err.splitlines()) == 1
    with pytest.raises(UserError, match="holds no weights"):
        Predictor()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def damage_weights(folder):
    content = bytearray((folder / packed.WEIGHTS).read_bytes())
    content[-5] ^= 1
    (folder / packed.WEIGHTS).write_bytes(content)


def change_facts(**changes):
    def change(folder):
        facts = json.loads((folder / packed.FACTS).read_text())
        (folder / packed.FACTS).write_text(json.dumps(facts | changes))

    return change


DAMAGE = {
    "a bit": (damage_weights, "weights.safetensors: is damaged (its hash is not the one in mo"),
    "cut": (
        lambda folder: os.truncate(folder / packed.WEIGHTS, 100),
        "weights.safetensors: is damaged",
    ),
    "no weights": (
        lambda folder: (folder / packed.WEIGHTS).unlink(),
        "weights.safetensors: cannot be read (No such file or directory); install mln_flax again",
    ),
    "no facts": (lambda folder: (folder / packed.FACTS).unlink(), "model.json: cannot be read"),
    "cut facts": (lambda folder: os.truncate(folder / packed.FACTS, 500), "model.json: not JSON"),
    "other facts": (
        change_facts(whole={}),
        "model.json: is damaged (it is not as --mode=pack wrote it); install mln_flax again",
    ),
    "lacking": (change_facts(whole=None), "model.json: is damaged (whole is missing)"),
    "newer": (change_facts(format=2), "model.json: format 2; this version of mln_flax reads form"),
    "foreign": (
        lambda folder: (folder / packed.FACTS).write_text("{}"),
        "model.json: --mode=pack did not write it",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_box_is_refused_by_name(what, plain, tmp_path, monkeypatch, capsys):
    boxes.put(monkeypatch, plain)
    damage, message = DAMAGE[what]
    damage(plain)
    image = answering.save(tmp_path / "a.png", answering.mammogram())
    err = refused(capsys, ["--mode=predict", f"--output={tmp_path / 'out'}", str(image)])
    assert message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_no_place_and_no_patient_is_in_a_packed_model(plain_workdir, tmp_path):
    workdir = shutil.copytree(plain_workdir, tmp_path / "zebedee")
    config = settings.read_json(workdir / "config.json")
    places = {"data.dir": tmp_path, "data.also": f"{tmp_path}/b", "benchmark.against": tmp_path}
    changed = settings.override_all(config, {name: str(p) for name, p in places.items()})
    (workdir / "config.json").write_text(json.dumps(settings.to_dict(changed)))
    spots = np.random.default_rng(0).random((40, 40), np.float32) ** 8
    rule = whole_model.cluster_rule(config.predict)
    counts = froc.counts(spots, np.zeros((40, 40), np.uint8), "none", (0.1, 0.1), 0.0, rule)
    line = {"image_id": "QUENTINA", "patient_id": "PID-1", "detection": counts}
    kept = whole_model.WholeModel((0.1, 0.1), {}, [line], (f"no images in {tmp_path}",))
    whole_model.write(workdir, kept)
    folder = boxes.pack(workdir, tmp_path / "packed")
    text = (folder / packed.FACTS).read_text()
    for word in (str(tmp_path), "zebedee", "QUENTINA", "PID-1", str(tiny.ROOT), os.getcwd()):
        assert word not in text
    assert [list(line) for line in whole_model.read(folder).validation] == [["detection"]]
    assert whole_model.read(folder).operating_threshold(0.5) == kept.operating_threshold(0.5)


def test_what_cannot_be_packed_or_worked_in(plain, plain_workdir, tmp_path, capsys):
    pack = [f"--workdir={plain_workdir}", "--mode=pack"]
    assert "--output is missing: the folder for the" in refused(capsys, pack)
    err = refused(capsys, [*pack, f"--output={plain}"])
    assert "holds weights.safetensors already; take another folder, or --overwrite" in err
    assert main([*pack, f"--output={plain}", "--overwrite"]) == 0
    (tmp_path / "file").write_text("mine")
    assert "is a file, or below one" in refused(capsys, [*pack, f"--output={tmp_path / 'file/x'}"])
    assert "is the workdir of a run" in refused(capsys, [*pack, f"--output={plain_workdir}"])
    assert "--workdir is missing" in refused(capsys, ["--mode=pack", f"--output={tmp_path / 'x'}"])
    before = tiny.snapshot(plain)
    for mode in ("train", "evaluate", "pack"):
        err = refused(capsys, [*tiny.flags(plain, **tiny.PLAIN), f"--mode={mode}", "--output=x"])
        assert "holds a packed model, for --mode=predict and --mode=export" in err
    assert tiny.snapshot(plain) == before


def test_settings_of_answers_are_packed_as_they_are_given(plain_workdir, tmp_path):
    words = ["--config.predict.false_clusters=0.25"]
    folder = boxes.pack(plain_workdir, tmp_path / "packed", *words)
    assert Predictor.from_workdir(folder).run.config.predict.false_clusters == 0.25


def test_the_shipped_box_can_be_read_and_is_small():
    names = (packed.WEIGHTS, packed.FACTS)
    if not any((packed.DETECTOR / name).exists() for name in names):
        pytest.skip("this copy holds no weights")
    assert sum((packed.DETECTOR / name).stat().st_size for name in names) <= MOST_BYTES
    detector = settings.load_file(str(tiny.ROOT / "configs" / "detector.py"))
    # What it began with is a folder, which a box does not name.
    assert Predictor().run.config.model == dataclasses.replace(detector.model, init_from="")
    assert str(tiny.ROOT) not in (packed.DETECTOR / packed.FACTS).read_text()


def test_a_wheel_would_contain_the_box():
    project = tomllib.loads((tiny.ROOT / "pyproject.toml").read_text())
    (pattern,) = project["tool"]["setuptools"]["package-data"]["mln_flax"]
    package = tiny.ROOT / "mln_flax"
    assert packed.DETECTOR == package / "detector" and packed.DETECTOR.is_dir()
    for name in (packed.WEIGHTS, packed.FACTS):
        assert (packed.DETECTOR / name).relative_to(package).match(pattern)
    assert "safetensors" in (tiny.ROOT / "requirements.txt").read_text()
