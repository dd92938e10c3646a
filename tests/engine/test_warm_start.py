"""`model.init_from`: the first step is from the trained parameters, and no fate is silent."""

import json
import shutil
from functools import partial

import boxes
import jax
import numpy as np
import pytest
import tiny
from tiny import refused

from mln_flax.engine import states, stored
from mln_flax.engine.build import build
from mln_flax.engine.hashes import tree_hash
from mln_flax.engine.warm_start import from_trained
from mln_flax.main import main
from mln_flax.types import UserError


@pytest.fixture(scope="module")
def plain(plain_workdir, tmp_path_factory):
    return boxes.pack(plain_workdir, tmp_path_factory.mktemp("plain") / "packed")


@pytest.fixture(scope="module")
def of_mln(tiny_workdir, tmp_path_factory):
    return boxes.pack(tiny_workdir, tmp_path_factory.mktemp("mln") / "packed")


def started(folder, **changes):
    """The start of a run, with shapes in place of what would be drawn."""
    run = build(tiny.config(**{"model__init_from": str(folder)} | changes))
    return from_trained(run, jax.eval_shape(partial(states.random_state, run)))


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_starts_from_the_box_and_says_so(plain, tmp_path, monkeypatch, capsys):
    boxes.put(monkeypatch, plain)
    tree, workdir = stored.tree_of(plain), tmp_path / "run"
    words = tiny.flags(workdir, **tiny.PLAIN, model__init_from="detector", data__targets="")
    # A rate of nearly nothing: what is trained is where it started.
    words += ["--config.optim.learning_rate=1e-30", "--config.data.phantom.test=1"]
    assert main(words) == 0
    assert_same(stored.tree_of(workdir)["params"], tree["params"])
    out = capsys.readouterr().out
    digest = tree_hash(tree)
    assert f"--config.model.init_from=detector: weights in the box, model {digest[:12]}" in out
    assert "parameters: 10 arrays taken as they are" in out
    assert "its images had pixels of 0.1 x 0.1 mm" in out
    start = json.loads((workdir / "start.json").read_text())
    assert start["model"] == digest and start["init_from"] == "weights in the box"
    paths = jax.tree.leaves_with_path(tree["params"])
    names = {"/".join(key.key for key in path) for path, _ in paths}
    assert set(start["parameters"]["taken"]) == names and len(names) == 10
    assert json.loads((workdir / "config.json").read_text())["model"]["init_from"] == "detector"

    # Going on reads nothing of it again: the box may be gone.
    shutil.rmtree(workdir / "model")
    boxes.put(monkeypatch, tmp_path / "nowhere")
    assert main([f"--workdir={workdir}"]) == 0
    assert "going on from step 4" in capsys.readouterr().out
    packed_again = boxes.pack(workdir, tmp_path / "again")
    facts = json.loads((packed_again / "model.json").read_text())
    assert facts["trained"]["init_from"] == {"init_from": "weights in the box", "model": digest}
    err = refused(capsys, [f"--workdir={workdir}", "--config.model.init_from="])
    assert "model.init_from: detector -> )" in err


def test_mln_starts_from_a_packed_folder_and_from_a_workdir(of_mln, tiny_workdir):
    for folder in (of_mln, tiny_workdir):
        begun, tree = started(folder), stored.tree_of(of_mln)
        assert_same(begun.state.params, tree["params"])
        assert_same(begun.state.domain_stats, tree["domain_stats"])
        assert "copied" not in begun.facts["parameters"]
        assert begun.facts["model"] == tree_hash(tree)
        drawn = jax.tree.leaves((begun.state.step, begun.state.opt_state))
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in drawn)  # as at random


def test_other_branches_take_the_first(of_mln):
    tree = stored.tree_of(of_mln)
    for views in ("identity,invert", "invert,identity,bezier(0.3)"):
        begun = started(of_mln, views__names=views)
        scale = begun.state.params["norm"]["scale"]
        assert len(scale) == views.count(",") + 1
        for row in scale:
            np.testing.assert_array_equal(row, tree["params"]["norm"]["scale"][0])
        copied = begun.facts["parameters"]["copied"]
        assert len(copied) == 24 and all("norm" in path for path in copied)
        assert f"parameters: {len(copied)} of norms, from the first branch to each" in begun.lines
        assert "running statistics: 24 of norms, from the first branch" in begun.lines


def test_a_plain_network_starts_from_one_with_branches_and_back(of_mln, plain):
    begun = started(of_mln, method__name="supervised")
    assert begun.state.params["norm"]["scale"].shape[0] == 1
    back = started(plain, **tiny.PLAIN | {"method__name": "mln"})
    scale = stored.tree_of(plain)["params"]["down_0"]["norm1"]["scale"]
    np.testing.assert_array_equal(
        back.state.params["down_0"]["norm1"]["scale"], np.repeat(scale, len(tiny.VIEWS), 0)
    )


def test_another_norm_is_said(plain):
    begun = started(plain, **tiny.PLAIN, model__norm="batch")
    assert "its network had another setting: model.norm: channel -> batch" in begun.lines
    assert "parameters: not used: down_0/conv1/bias, down_0/conv2/bias" in begun.lines


OTHER = tiny.PLAIN | {"model__widths": "5"}
UNFIT = {
    "widths": (OTHER, "down_0/conv1/bias is (4,) there and (5,) here (and "),
    "which": (OTHER, "what differs is model.widths: [4] -> [5]"),
    "network": (
        {"method__name": "supervised"},
        "is a unet, and this network a swin_unet; allowed is --config.model.name=unet with",
    ),
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_does_not_fit_is_one_line_before_anything_is_written(what, plain, tmp_path, capsys):
    changes, message = UNFIT[what]
    words = tiny.flags(tmp_path / "run", **changes, model__init_from=str(plain))
    err = refused(capsys, words)
    assert f"error: --config.model.init_from={plain}: " in err and message in err
    assert len(err.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_what_is_no_model_is_refused(plain_workdir, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    shutil.copy(plain_workdir / "config.json", tmp_path / "empty" / "config.json")
    boxes.put(monkeypatch, tmp_path / "nobox")
    for given, message in (
        ("detecter", "init_from=detecter: no such folder; allowed are detector (the weights in"),
        ("detector", "this copy of the package holds no weights"),
        (str(tmp_path), f"{tmp_path}: holds no run"),
        (str(tmp_path / "empty"), "holds no trained model"),
    ):
        words = tiny.flags(tmp_path / "run", **tiny.PLAIN, model__init_from=given)
        assert message in refused(capsys, words)
    assert not (tmp_path / "run").exists()


def test_one_start_alone(plain):
    config = tiny.config(model__init_from=str(plain), model__pretrained="a.npz")
    with pytest.raises(UserError, match="a run starts from one thing"):
        states.refuse_unfit_start(build(config))
