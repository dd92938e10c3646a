"""Every shipped config: its step is dry-run, and a real data set's goes all the way, tiny."""

import glob
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import pytest
import tiny

from mln_flax import files, parallel, settings
from mln_flax.config import validate
from mln_flax.engine import states
from mln_flax.engine.build import build
from mln_flax.experiments import core
from mln_flax.experiments import jobs as experiment_jobs
from mln_flax.main import main
from mln_flax.methods.mln import branches, recorded
from mln_flax.results import records
from mln_flax.types import Batch

FILES = sorted(glob.glob(str(tiny.ROOT / "configs" / "*.py")))
MINI_MIAS = str(tiny.ROOT / "configs" / "mini_mias.py")
REAL = pathlib.Path(os.environ.get("MLN_FLAX_MINI_MIAS") or tiny.ROOT / "../shared/data/mini_mias")

EXPERIMENTS = sorted(glob.glob(str(tiny.ROOT / "configs" / "experiments" / "*.py")))

needs_mini_mias = pytest.mark.skipif(MINI_MIAS not in FILES, reason="the config is not there")


@pytest.mark.parametrize("file", FILES, ids=os.path.basename)
def test_a_shipped_config_builds_and_its_step_keeps_the_form_of_the_state(file):
    config = settings.load_file(file)
    validate(config)
    dry_run(build(config))


DONE = set()  # what was dry-run already: configs have networks and methods in common


def dry_run(run):
    """One step as shapes alone: the state keeps its form, whatever the number of branches."""
    config = run.config
    network_and_method = str(run.model.clone(num_branches=1)), config.method.name
    if network_and_method in DONE:
        return
    DONE.add(network_and_method)
    side, rows = config.views.crop_side(config.data.size), 2 * len(run.view_names)
    state = jax.eval_shape(run.method.init, jax.random.key(0), states.empty_batch(run))
    batch = Batch(
        image=jax.ShapeDtypeStruct((1, rows, side, side, 1), jnp.float32),
        mask=jax.ShapeDtypeStruct((1, rows, side, side), jnp.int32),
        view=jax.ShapeDtypeStruct((1, rows), jnp.int32),
        domain=jax.ShapeDtypeStruct((1, rows), jnp.int32),
        labeled=jax.ShapeDtypeStruct((1, rows), jnp.bool_),
        valid=jax.ShapeDtypeStruct((1, rows), jnp.bool_),
    )
    update = parallel.parallel_update(run.method.update, jax.devices()[:1])
    after, measured = jax.eval_shape(update, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert "loss" in measured and all(value.shape == () for value in measured.values())


@pytest.mark.parametrize("file", EXPERIMENTS, ids=os.path.basename)
@pytest.mark.filterwarnings("ignore:views.strategy='mean'")  # the paper's own strategy does it
def test_every_row_of_a_shipped_experiment_builds_and_every_network_is_dry_run(file, tmp_path):
    experiment = core.load(file)
    core.validate(experiment)
    files.write_json(tmp_path / core.FILE, core.to_dict(experiment))
    assert core.read(tmp_path) == experiment  # so that it goes on after a kill
    for row in experiment.rows:
        for source in experiment.sources_of(row):
            made = build(core.config_of(experiment, row, source, seed=0))
            assert made.config.data.targets and source not in made.config.data.targets
            dry_run(made)
    text = pathlib.Path(file).read_text(encoding="utf-8")
    command = "python -m mln_flax.main --mode=experiment --config=configs/experiments/"
    assert f"{command}{os.path.basename(file)} --workdir=" in text


def test_the_ablation_of_the_paper_shares_its_trainings():
    experiment = core.load(str(tiny.ROOT / "configs" / "experiments" / "table3.py"))
    jobs = experiment_jobs.jobs(experiment)
    names = [row.name for row in experiment.rows]
    plain = [name for name in names if "-S" in name or name == "Basenet"]

    def of(network):
        return tuple(name for name in names if name.startswith(network) and name not in plain)

    first = {job.rows for job in jobs if (job.source, job.seed) == ("ffdm", 0)}
    assert first == {*((name,) for name in plain), *map(of, ("MLN-net", "Unet", "Dots"))}
    assert [len(of(network)) for network in ("MLN-net", "Unet", "Dots")] == [7, 3, 7]
    others = {job.rows for job in jobs if job.source != "ffdm"}
    assert others == {
        *(("Basenet",), ("Basenet-S",), ("Unet-S",), ("Dots-S",)),
        *(("MLN-net", "MLN-net-P", "MLN-net-M"), ("Unet-P", "Unet-M"), ("Dots-P", "Dots-M")),
    }
    methods = {
        row.name: core.config_of(experiment, row, "ffdm", 0).method for row in experiment.rows
    }
    assert {name for name in names if methods[name].name == "supervised"} == {
        name for name in plain if "normaug" not in name
    }
    answers = {
        name.partition("net")[2]: recorded.of_settings(methods[name]) for name in of("MLN-net")
    }
    assert answers == {
        "-R": "union",
        "-E": "euclidean",
        "": "cosine",
        "-E+": "euclidean+",
        "+": "cosine+",
        "-P": "polarity",
        "-M": "mixed by polarity",
    }
    of_dots = {name: recorded.of_settings(methods[name]) for name in of("Dots")}
    assert of_dots == {
        "Dots*": "cosine",
        "Dots-P": "polarity",
        "Dots-M": "mixed by polarity",
        "Dots-P mixed": "mixed by probabilities",
        "Dots-P weighted": "weighted",
        "Dots-P entropy": "entropy",
        "Dots-P matched": "matched",
    }
    assert len(jobs) == 3 * 10 + 3 * 3 * 7


@needs_mini_mias
def test_mini_mias_goes_through_its_config(tmp_path, capsys):
    films, workdir = tmp_path / "films", tmp_path / "run"
    films.mkdir()
    network = {"model__name": "unet", "model__widths": "4"}  # compiles faster
    assert main(tiny.flags(workdir, MINI_MIAS, data__dir=tiny.write_films(films), **network)) == 0
    lines = records.read_whole(workdir / "records.jsonl")
    images = [line for line in lines if line["kind"] == "image"]
    data = json.loads((workdir / "data.json").read_text())
    tested = next(part["images"] for part in data["parts"] if part["part"] == "test")
    assert len(images) == len({line["image_id"] for line in images}) == tested > 4
    kinds = [line["kind"] for line in lines]
    assert kinds.count("view") == len(tiny.VIEWS) * tested
    assert {line["domain"] for line in images} == {"mini_mias"}
    assert {line["label_kind"] for line in images} == {"cluster", "none"}
    assert set(images[0]["chosen"]) == set(branches.SELECTIONS)
    assert (workdir / "report" / "index.html").is_file()
    capsys.readouterr()

    # A whole film is cut into tiles, and their masks are put together again.
    out = tmp_path / "out"
    predict = [f"--workdir={workdir}", "--mode=predict", f"--output={out}"]
    assert main([*predict, str(films / "mdb003.pgm")]) == 0
    (line,) = records.read_whole(out / "predictions.jsonl")
    assert line["image"] == "mdb003.pgm" and "2x2 of its tiles" in line["notes"][0]
    assert line["branch"] in tiny.VIEWS


@needs_mini_mias
@pytest.mark.skipif(not REAL.is_dir(), reason="the films are not there")
def test_the_real_films_are_prepared(tmp_path):
    workdir = tmp_path / "run"
    words = [f"--config={MINI_MIAS}", f"--config.data.dir={REAL}", f"--workdir={workdir}"]
    assert main([*words, "--mode=prepare"]) == 0
    (report,) = tmp_path.glob("prepared/mini_mias_256_*/prepare.json")
    report = json.loads(report.read_text())
    totals, left_out = report["totals"], {one["file"] for one in report["left_out"]}
    used = {path.stem for path in REAL.glob("mdb*.pgm") if path.name not in left_out}
    lines = map(str.split, (REAL / "Info.txt").read_text(encoding="latin-1").splitlines())
    marked = {words[0] for words in lines if words[2:3] == ["CALC"]}
    assert totals["images"] == len(used) > 0
    assert totals["patients"] == len({(int(name[3:]) - 1) // 2 for name in used})  # two films each
    assert totals["labeled_images"] == len(used & marked) > 0
    assert [part["part"] for part in totals["parts"]] == ["train", "validation", "test"]
    assert all(part["labeled_images"] and part["label_pixels"] for part in totals["parts"])
    assert not (REAL / ".mln_flax_salt").exists()  # that folder is not to be written


@pytest.mark.parametrize("name", ["cbis", "inbreast", "ffdm_dbt", "folder", "npz"])
def test_configs_of_real_data_differ_from_the_phantoms_in_data_and_steps_alone(name):
    real, phantom = (
        settings.to_dict(settings.load_file(str(tiny.ROOT / "configs" / f"{file}.py")))
        for file in (name, "phantom")
    )
    assert {key for key in phantom if phantom[key] != real[key]} == {"data", "train"}
    assert real["train"] == phantom["train"] | {"steps": 1200}
