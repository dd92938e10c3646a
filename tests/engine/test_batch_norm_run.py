"""A whole run of a U-Net with batch norm: its running statistics go wherever it answers."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

from mln_flax.engine import checkpoint, evaluate, input_pipeline, train
from mln_flax.engine.build import build, load_data
from mln_flax.main import main
from mln_flax.methods.mln import answer as selection
from mln_flax.methods.mln import bank, branches
from mln_flax.methods.mln.bank import Early
from mln_flax.results import records

CHANGES = {
    "model__name": "unet",
    "model__preset": "unet_demo",
    "model__widths": "4,8",
    "model__norm": "batch",
    "method__momentum": "0.5",
    "optim__warmup_steps": "0",
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch_norm") / "run"
    assert main(tiny.flags(folder, **CHANGES)) == 0
    return folder


@pytest.fixture(scope="module")
def run():
    return build(tiny.config(**CHANGES))


@pytest.fixture(scope="module")
def trained(run, workdir):
    return evaluate.load_model(run, workdir)


@pytest.fixture(scope="module")
def data(run):
    return load_data(run.config)


def test_the_model_has_the_statistics_of_its_best_step(run, workdir, trained):
    with checkpoint.manager(workdir) as checkpoints:
        shapes = jax.eval_shape(lambda: train.initial_state(run))
        best = checkpoint.restore(checkpoints, shapes, checkpoints.best_step())
    jax.tree.map(np.testing.assert_array_equal, trained.variables, jax.device_get(best.variables))
    moved = [np.abs(leaf).max() for leaf in jax.tree.leaves(trained.domain_stats)]
    assert len(moved) == 2 * 6 and min(moved) > 1e-3


def test_it_is_the_network_that_was_validated(run, workdir, trained, data):
    images = input_pipeline.images_of(data.part("ffdm", "validation"))
    scores, point = train.validate(run, bank.forward(run), trained.variables, images)
    logged = [row for row in records.read(workdir / "train.jsonl") if "validation_dsc" in row]
    best = max(row["validation_dsc"] for row in logged)
    assert scores["validation_dsc"] == pytest.approx(best, abs=1e-6) and point == trained.point


def test_every_way_to_predict_uses_the_statistics(run, trained, data):
    image = np.stack([one.image for one in data.examples("film", "test")])
    said = selection.predictor(run, trained)(image)
    rows = np.repeat(image[..., None], 3, axis=0)
    branch = np.tile(np.arange(3, dtype=np.int32), len(image))
    logits, out = jax.device_get(run.model.apply(trained.variables, rows, branch))
    probability = jax.nn.softmax(logits)[..., 1].reshape(said.probability.shape)
    np.testing.assert_allclose(said.probability, probability, atol=1e-5)
    other = trained._replace(domain_stats=jax.tree.map(lambda v: v + 1, trained.domain_stats))
    assert np.abs(selection.predictor(run, other)(image).probability - probability).max() > 1e-3
    order = selection.norm_order(run)
    assert order[0] == "down_0/norm1" and set(order) == set(out["moments"])
    for rule in branches.SELECTIONS:
        by_image = rule in branches.BY_IMAGE
        total = 1 if by_image else len(order)
        early = Early(np.int64(0 if by_image else 2), *(np.ones(total) for _ in range(3)))
        method = dataclasses.replace(run.config.method, selection=rule, answer="branch")
        chooses = run._replace(config=dataclasses.replace(run.config, method=method))
        answer = selection.selected(chooses, trained._replace(early={rule: early}))(image)
        chosen = said.chosen(rule, int(early.norms))
        assert answer.chosen.tolist() == chosen.tolist()
        expected = probability[np.arange(len(image)), chosen]
        np.testing.assert_allclose(answer.probability, expected, atol=1e-5)


def test_evaluate_again_and_predict_through_the_door(workdir, tmp_path, data):
    before = (workdir / "records.jsonl").read_bytes()
    kinds = [line["kind"] for line in records.read_whole(workdir / "records.jsonl")]
    assert kinds.count("image") == 4 * tiny.TEST_IMAGES and kinds.count("view") == 3 * 4
    assert main([f"--workdir={workdir}", "--mode=evaluate"]) == 0
    assert (workdir / "records.jsonl").read_bytes() == before
    image = (255 * data.examples("film", "test")[0].image[:, :21]).round().astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    words = [f"--workdir={workdir}", "--mode=predict", f"--output={tmp_path / 'out'}"]
    assert main([*words, str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "out" / "a_mask.png") as mask:
        assert mask.size == (21, 32)
