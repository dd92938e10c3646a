"""What the first release wrote, or its users, is still read: settings, experiments and records."""

import json
import tarfile

import pytest
import tiny

from mln_flax import settings
from mln_flax.config import Config, MethodConfig, ModelConfig, method, network, validate
from mln_flax.experiments import core
from mln_flax.experiments import jobs as experiment_jobs
from mln_flax.main import main
from mln_flax.types import UserError

ARCHIVES = sorted((tiny.ROOT / "docs" / "records").glob("*.tar.xz"))
# All fields of a network in config.json, whichever it was.
SIZES = {"widths": [], "patch_size": 0, "embed_dim": 0, "depths": [], "num_heads": []}
MODEL = {"preset": "tiny", "name": "swin_unet", "num_classes": 2, "norm": "channel", **SIZES}
MODEL |= {"window_size": 0, "mlp_ratio": 4.0, "drop_path_rate": 0.1, "dtype": "float32"}
MODEL |= {"remat": False, "statistics": "channel", "pretrained": ""}
METHOD = {"name": "mln", "branch_map": "per_view", "foreground_only": True, "momentum": 0.9}


def member(archive, name):
    """The first file of an archive that is called so; what stands behind it is not read."""
    with tarfile.open(archive, "r|xz") as files:
        for file in files:
            if file.name.endswith(name):
                return json.loads(files.extractfile(file).read())
    raise FileNotFoundError(name)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, network("swin_unet", momentum=0.9)),
        (
            {"preset": "demo", "depths": [1, 1], "window_size": 4},
            network("swin_unet", preset="demo", depths=(1, 1), window_size=4, momentum=0.9),
        ),
        (
            {"name": "unet", "preset": "unet_demo", "norm": "sample", "window_size": 7},
            network("unet", preset="unet_demo", norm="sample", momentum=0.9),
        ),
        (
            {"name": "unet", "preset": "unet", "widths": [4, 8], "remat": True},
            network("unet", widths=(4, 8), remat=True, momentum=0.9),
        ),
    ],
)
def test_a_config_json(changes, wanted, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model": MODEL | changes, "method": METHOD}))
    config = settings.read_json(path)
    validate(config)
    assert config == Config(model=wanted, method=method("mln", foreground_only=True))
    assert settings.from_dict(settings.to_dict(config)) == config  # and now as it is written now


def test_what_was_refused_then_is_never_passed_over():
    """A Swin-Unet has layer norms over channels; a mistyped name belongs to no network."""
    for changes in ({"norm": "batch"}, {"windw_size": 3}):
        with pytest.raises(UserError, match=f"unknown setting {next(iter(changes))!r}"):
            settings.from_dict({"model": MODEL | changes, "method": METHOD})


def test_a_python_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from mln_flax.config import Config, MethodConfig, ModelConfig\n"
        "def get_config():\n"
        "    model = ModelConfig('demo', depths=(), norm='channel', drop_path_rate=0.0)\n"
        "    return Config(model=model, method=MethodConfig(momentum=0.95, cross_entropy=1.0))\n"
    )
    assert settings.load_file(str(path)) == Config(
        model=network("swin_unet", preset="demo", drop_path_rate=0.0),
        method=method("mln", cross_entropy=1.0),
    )
    assert ModelConfig() == network("swin_unet") and MethodConfig() == method("mln")
    unet = ModelConfig("unet_demo", "unet", widths=(), window_size=8, norm="sample")
    assert unet == network("unet", preset="unet_demo", norm="sample")
    with pytest.raises(UserError, match=r"is ModelConfig\(momentum=0.9\) now"):
        MethodConfig(momentum=0.9)
    with pytest.raises(TypeError, match="'norm'"):
        ModelConfig(norm="batch")


@pytest.mark.parametrize(
    "words",
    ["from mln_flax.experiment_config import Row", "from mln_flax import experiment_config"],
)
def test_a_module_that_has_moved_is_named_with_its_place(words, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"{words}\n")
    with pytest.raises(UserError) as error:
        core.load(str(path))
    assert str(error.value).startswith(f"--config={path}: ")
    assert str(error.value).endswith("; it is mln_flax.experiments.core now")


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_an_experiment_json(archive, tmp_path):
    """The first file of an archive of records."""
    values = member(archive, core.FILE)
    (tmp_path / core.FILE).write_text(json.dumps(values))
    experiment = core.choose("", {}, tmp_path)  # which looks at every row
    assert len(experiment.rows) == len(values["rows"])
    assert experiment.base.method == method(
        "mln",
        foreground_only=True,
        cross_entropy=1.0,
        cross_entropy_from_step=400,
        hard_negatives=0.03,
    )
    run = experiment_jobs.recorded(settings.from_dict(member(archive, "config.json")))
    jobs = experiment_jobs.jobs(experiment)
    assert run in [experiment_jobs.recorded(job.config) for job in jobs]


def test_rows_that_set_what_is_called_otherwise_now(tmp_path):
    values = member(ARCHIVES[0], core.FILE)
    rows = [
        {"name": "slow", "settings": {"method.momentum": "0.99"}, "sources": []},
        {"name": "sizes", "settings": {"model.window_size": "0", "model.depths": "()"}},
    ]
    values |= {"rows": rows, "against": "slow", "only": []}
    (tmp_path / core.FILE).write_text(json.dumps(values))
    slow, sizes = (job.config for job in experiment_jobs.jobs(core.choose("", {}, tmp_path))[:2])
    assert slow.model.momentum == 0.99 and sizes.model == core.read(tmp_path).base.model


def test_the_records_of_an_archive_give_the_tables_of_the_docs(tmp_path, capsys):
    with tarfile.open(tiny.ROOT / "docs" / "records" / "fig9.tar.xz") as files:
        files.extractall(tmp_path, filter="data")
    assert main([f"--workdir={tmp_path}", "--mode=report"]) == 0
    table = (tmp_path / "report" / "table.md").read_text()
    published = (tiny.ROOT / "docs" / "experiments.md").read_text()
    for name in ("no augmentation", "conventional", "source augmentation"):
        (row,) = (line for line in table.splitlines() if line.startswith(f"| {name} |"))
        cells = row.split(" | ")
        assert " | ".join([cells[0], *cells[2:9]]) in published  # without seeds and comparison
    assert "All 9 runs are done." in capsys.readouterr().out
