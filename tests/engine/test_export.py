"""An exported model answers as the package does, where there is neither it nor flax nor scipy."""

import dataclasses
import errno
import io
import json
import os
import pathlib
import zipfile

import jax
import jaxlib
import ml_dtypes
import numpy as np
import opt_einsum
import pytest
import scipy
import tiny
from tiny import refused

from mln_flax import files
from mln_flax.data.phantoms.phantom import phantom
from mln_flax.engine import export, standalone
from mln_flax.engine.predictor import Predictor
from mln_flax.types import UserError

MODELS = {
    "polarity": {},
    "plain": {},
}
# Without site-packages: what is there is what it is given.
BARE = """
import importlib, json, pathlib, runpy, sys
links, folder = sys.argv[1:3]
sys.path.append(links)
import numpy as np
given, spacings = np.load(f"{folder}/given.npz"), json.loads(sys.argv[3])
paths, out = sorted(pathlib.Path(folder).glob("*.zip")), {}
for path in paths:
    sys.path.insert(0, str(path))
    run = importlib.import_module("run")
    assert run.__file__.startswith(str(path)), run.__file__
    model = run.load(path)
    for name, spacing in spacings.items():
        answer = run.answer(model, given[name], spacing)
        out |= {f"{path.stem}/{name}/{i}": value for i, value in enumerate(answer)}
    frames = run.volume(model, [given["large"], 1 - given["large"]], 0.1)
    out[f"{path.stem}/volume"] = np.array([frame.branch for frame in frames])
    del sys.path[0], sys.modules["run"]
np.savez(f"{folder}/out.npz", **out)
np.save(f"{folder}/image.npy", given["large"])
sys.argv = [str(path), f"{folder}/image.npy", "--spacing-mm", "0.1", f"--output={folder}/mask.npy"]
try:
    runpy.run_path(str(path), run_name="__main__")
except SystemExit as left:
    assert left.code == 0
"""


LARGE = phantom(seed=0, domain="ffdm", index=1, height=330, width=290).image
GIVEN = {
    "large": LARGE,
    "small": np.ascontiguousarray(LARGE[120:220, :120]),
    "coarse": LARGE[::2, ::2],
    "inverted": 1 - LARGE,
}
SPACINGS = {"large": 0.1, "small": 0.1, "coarse": [0.2, 0.17], "inverted": None}


@pytest.fixture(scope="module")
def answered(tiny_workdir, plain_workdir, tmp_path_factory):
    """The folder of exported models, and what the package answers, by model and image."""
    folder, expected = tmp_path_factory.mktemp("exported"), {}
    for name, changes in MODELS.items():
        workdir = plain_workdir if name == "plain" else tiny_workdir
        changes = {"predict.explain_tiles": "0", "predict.min_count": "2"} | changes
        predictor = Predictor.from_workdir(workdir, changes)
        predictor = marking(predictor, gap(predictor(GIVEN["large"], 0.1).probability))
        files.write_bytes(folder / f"{name}.zip", export.exported(predictor))
        for image, spacing in SPACINGS.items():
            expected[name, image] = predictor(GIVEN[image], spacing)
        frames = predictor.volume([GIVEN["large"], GIVEN["inverted"]], 0.1)
        expected[name, "volume"] = [frame.branch for frame in frames]
    return folder, expected


def marking(predictor, threshold):
    """The predictor with another threshold, and all that it has compiled."""
    run = predictor.run
    chosen = dataclasses.replace(run.config.predict, threshold=threshold)
    config = dataclasses.replace(run.config, predict=chosen)
    return dataclasses.replace(predictor, run=run._replace(config=config))


def gap(probability):
    """A threshold between probabilities that lie apart, so that no rounding moves a pixel."""
    values = np.unique(probability[probability > np.quantile(probability, 0.9)])
    at = np.argmax(np.diff(values[: len(values) // 2]))
    return float(values[at] / 2 + values[at + 1] / 2)


@pytest.fixture(scope="module")
def bare(answered, tmp_path_factory):
    """What the exported models answer in a Python that has jax, numpy and what these import."""
    links = tmp_path_factory.mktemp("links")
    for package in (jax, jaxlib, np, scipy, ml_dtypes, opt_einsum):
        found = pathlib.Path(package.__file__).parent
        for path in (found, found.with_name(f"{found.name}.libs")):
            if path.exists():
                (links / path.name).symlink_to(path)
    folder = answered[0]
    np.savez(folder / "given.npz", **GIVEN)
    process = tiny.python("-I", "-S", "-c", BARE, links, folder, json.dumps(SPACINGS))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "branch identity, " in out or "branch bezier" in out or "branch invert" in out
    return np.load(folder / "out.npz"), np.load(folder / "mask.npy")


@pytest.mark.parametrize("name", MODELS)
def test_the_file_answers_as_the_package(name, answered, bare):
    marked = 0
    for image in SPACINGS:
        expected = answered[1][name, image]
        probability, mask, branch = (bare[0][f"{name}/{image}/{i}"] for i in range(3))
        np.testing.assert_allclose(probability, expected.probability, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(mask, expected.mask)
        assert probability.dtype == np.float32 and mask.dtype == bool
        assert str(branch) == expected.branch and (branch in tiny.VIEWS or name == "plain")
        marked += mask.sum()
    assert marked > 0
    assert bare[0][f"{name}/volume"].tolist() == answered[1][name, "volume"]


def test_branches_are_chosen_and_shared(answered):
    first, second = answered[1]["polarity", "volume"]  # of one case
    assert first == second != "" and answered[1]["plain", "volume"] == ["", ""]


def test_the_command_line_writes_the_mask(answered, bare):
    expected = answered[1]["polarity", "large"]  # of the last file
    np.testing.assert_array_equal(bare[1], expected.mask)


def test_what_the_file_holds(answered, tiny_workdir):
    with zipfile.ZipFile(answered[0] / "polarity.zip") as file:
        facts, names = json.loads(file.read("model.json")), set(file.namelist())
        script = file.read("run.py").decode()
    programs = {"alone.bin", "look.bin", "answer.bin"}
    parts = {"model.json", "run.py", "__main__.py", "LICENSE"}
    assert parts | programs <= names
    assert script == pathlib.Path(standalone.__file__).read_text(encoding="utf-8")
    assert facts["branches"] == list(tiny.VIEWS) and facts["platforms"] == ["cpu", "cuda", "tpu"]
    assert facts["spacing_mm"] == [0.1, 0.1] and facts["min_count"] == 2
    assert "esearch only" in facts["note"] and facts["largest_difference"] < 1e-5
    assert len(facts["hashes"]["model"]) == 64 and facts["versions"]["jax"] == jax.__version__
    assert str(tiny_workdir) not in json.dumps(facts)


def test_programs_hold_neither_parameters_nor_folders_of_this_machine(answered):
    """Parameters are their arguments, stored once."""
    with zipfile.ZipFile(answered[0] / "polarity.zip") as file:
        names = file.namelist()
        (kernel,) = (name for name in names if name.endswith("concat_back_dim_1/kernel.npy"))
        values = np.load(io.BytesIO(file.read(kernel))).tobytes()
        programs = [file.read(name) for name in names if name.endswith(".bin")]
    assert len(values) > 200 and not any(b"mln_flax/" in program for program in programs)
    assert not any(values in program for program in programs)


def test_the_same_model_is_the_same_file(plain_workdir):
    predictor = Predictor.from_workdir(plain_workdir)
    first = export.exported(predictor)
    assert first == export.exported(predictor)
    with zipfile.ZipFile(io.BytesIO(first)) as file:
        facts = json.loads(file.read("model.json"))
    assert facts["programs"] == ["alone"] and facts["branches"] == []
    assert "expect many false marks" in facts["warnings"][0]


def words(workdir, output):
    return ["--mode=export", f"--workdir={workdir}", *([f"--output={output}"] if output else [])]


def test_a_kernel_for_one_kind_of_machine_is_refused(tmp_path):
    config = tiny.config(model__attention="fused")
    with pytest.raises(UserError, match="attention=fused: .* add --config.model.attention=plain"):
        export.export(config, tmp_path, str(tmp_path / "model.zip"))


def test_an_output_that_cannot_be(plain_workdir, tmp_path, capsys):
    there = tmp_path / "there.zip"
    there.write_text("mine")
    for output, message in (
        ("", "--output is missing: the file"),
        (tmp_path, "is a folder; give a file"),
        (there, "is there already; take another name, or --overwrite"),
        (there / "x.zip", "there.zip is a file; give another name"),
    ):
        assert message in refused(capsys, words(plain_workdir, output))
    assert there.read_text() == "mine" and list(tmp_path.iterdir()) == [there]


def test_no_trained_model(tmp_path, capsys):
    out = tmp_path / "model.zip"
    err = refused(capsys, [*tiny.flags(tmp_path / "run"), "--mode=export", f"--output={out}"])
    assert "holds no trained model; run --mode=train first" in err and not list(tmp_path.iterdir())


def changed(workdir, traced):
    """The predictor of a workdir whose method offers another function to export."""
    predictor = Predictor.from_workdir(workdir)
    method = predictor.run.method
    run = predictor.run._replace(method=method._replace(traced=traced and traced(method)))
    return dataclasses.replace(predictor, run=run)


def test_a_method_without_a_function_to_export(plain_workdir):
    with pytest.raises(UserError, match="method.name=supervised: offers no function that can be"):
        export.exported(changed(plain_workdir, None))


def test_programs_that_answer_otherwise_are_not_written(plain_workdir):
    def of(method):
        def traced(fitted):
            respond = method.traced(fitted)
            return lambda image: (
                respond(image) | {"probability": 0.9 * respond(image * 0.9)["probability"]}
            )

        return traced

    with pytest.raises(UserError, match="the exported programs differ by .* nothing is written"):
        export.exported(changed(plain_workdir, of))


def test_programs_that_choose_otherwise_are_not_written(tiny_workdir):
    """What tiles add to a choice that they share is capped."""

    def of(method):
        def traced(fitted):
            respond = method.traced(fitted)

            def uncapped(*given):
                out = respond(*given)
                return out | {"look": out["distances"]}

            return uncapped

        return traced

    with pytest.raises(UserError, match="the exported programs differ by .* nothing is written"):
        export.exported(changed(tiny_workdir, of))


def test_a_full_disk_leaves_no_half_of_a_file(plain_workdir, tmp_path, capsys, monkeypatch):
    def refuse(_number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(export, "exported", lambda predictor: b"content")
    out = tmp_path / "model.zip"
    err = refused(capsys, words(plain_workdir, out))
    assert str(out) in err and "free space" in err and not list(tmp_path.iterdir())


def test_a_file_that_is_none_is_refused_by_the_script(answered, tmp_path, capsys):
    whole = (answered[0] / "plain.zip").read_bytes()
    half, other, image = (tmp_path / name for name in ("half.zip", "other.zip", "image.npy"))
    half.write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("model.json", json.dumps({"format": standalone.FORMAT + 1}))
    np.save(image, GIVEN["small"])
    mask = tmp_path / "mask.npy"
    for file, message in (
        (half, "no exported model, or a damaged one"),
        (other, f"this script reads format {standalone.FORMAT}"),
        (tmp_path / "none.zip", "No such file"),
    ):
        assert standalone.main([str(file), str(image), f"--output={mask}"]) == 2
        assert message in capsys.readouterr().err and not mask.exists()


@pytest.mark.parametrize(
    ("image", "spacing", "message"),
    [
        (np.zeros((20, 20), np.uint8), 0.1, "uint8 (20, 20); allowed: floats"),
        (np.zeros((20, 4), np.float32), 0.1, "(20, 4); allowed"),
        (np.full((20, 20), 2.0), 0.1, "from 2.0 to 2.0; allowed: 0 to 1"),
        (np.full((20, 20), np.nan), 0.1, "from nan"),
        (np.zeros((20, 20)), 0.0, "spacing_mm=0.0: must be above 0"),
        (np.zeros((20, 20)), [0.1, np.nan], "must be above 0"),
        (np.zeros((20, 20)), 1000.0, "200000x200000 at the model's pixel size; allowed"),
        (
            np.broadcast_to(np.float32(0), (8, 15_000_001)),
            1e-3,
            "(8, 15000001), and 0x150000 at the",
        ),
    ],
)
def test_an_image_that_cannot_be_answered(image, spacing, message, answered):
    model = standalone.load(answered[0] / "plain.zip")
    with pytest.raises(ValueError) as error:
        standalone.answer(model, image, spacing)
    assert message in str(error.value)


def test_an_answer_that_is_no_number_is_refused(answered):
    model = standalone.load(answered[0] / "plain.zip")

    def broken(tiles):
        return {"probability": np.full_like(tiles, np.nan), "branch": np.zeros(len(tiles), int)}

    with pytest.raises(ValueError, match="no number"):
        standalone.answer(model._replace(programs={"alone": broken}), LARGE, 0.1)


def test_a_unet_takes_tiles_of_any_size(answered):
    program = standalone.load(answered[0] / "plain.zip").programs["alone"]
    assert program(LARGE[None, :50, :70])["probability"].shape == (1, 50, 70)


def test_without_a_breast_nothing_is_marked(answered):
    model = standalone.load(answered[0] / "polarity.zip")
    answer = standalone.answer(model, np.full((40, 50), 0.5, np.float32), 0.1)
    assert answer.branch == "" and not answer.mask.any() and not answer.probability.any()
    assert answer.mask.shape == (40, 50)
