"""A whole run of a U-Net with batch norm: its running statistics go wherever it answers."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

from mln_flax.data.images import images_of
from mln_flax.engine import checkpoint, evaluate, states
from mln_flax.engine.build import build
from mln_flax.engine.load_data import load_data
from mln_flax.main import main
from mln_flax.methods.mln import answer as answering
from mln_flax.methods.mln import branches, passes
from mln_flax.methods.mln.bank import Early, ViewMap
from mln_flax.results import records

CHANGES = {
    "model__name": "unet",
    "model__widths": "4,8",
    "model__norm": "batch",
    "model__momentum": "0.5",
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
def fitted(run, workdir):
    return evaluate.load_model(run, workdir)


@pytest.fixture(scope="module")
def data(run):
    return load_data(run.config)


def best_state(run, workdir):
    shapes = jax.eval_shape(lambda: states.random_state(run))
    with checkpoint.manager(workdir) as checkpoints:
        return checkpoint.restore(checkpoints, shapes, checkpoints.best_step())


def test_the_model_has_the_statistics_of_its_best_step(run, workdir, fitted):
    best = best_state(run, workdir)
    jax.tree.map(np.testing.assert_array_equal, fitted.variables, jax.device_get(best.variables))
    moved = [np.abs(leaf).max() for leaf in jax.tree.leaves(fitted.domain_stats)]
    assert len(moved) == 2 * 6 and min(moved) > 1e-3


def test_it_is_the_network_that_was_validated(run, workdir, fitted, data):
    images = images_of(data.part("ffdm", "validation"))
    scores = run.method.validate(best_state(run, workdir)._replace(**fitted.variables), images)
    logged = [row for row in records.read(workdir / "train.jsonl") if "validation_dsc" in row]
    best = max(row["validation_dsc"] for row in logged)
    assert scores["validation_dsc"] == pytest.approx(best, abs=1e-6)
    assert (scores["threshold"], scores["min_pixels"]) == fitted.point


def test_every_way_to_predict_uses_the_statistics(run, fitted, data):
    image = np.stack([example.image for example in data.examples("film", "test")])
    names = tiny.VIEWS
    views = ViewMap(names, (0, 1, 2))
    programs = passes.programs(run.model, run.config.method, views, names, 32, len(image))
    seen = answering.see(programs, fitted, image)
    rows = np.repeat(image[..., None], 3, axis=0)
    branch = np.tile(np.arange(3, dtype=np.int32), len(image))
    logits, out = jax.device_get(jax.jit(run.model.apply)(fitted.variables, rows, branch))
    probability = jax.nn.softmax(logits)[..., 1].reshape(seen.probability.shape)
    np.testing.assert_allclose(seen.probability, probability, atol=1e-5)
    other = fitted._replace(domain_stats=jax.tree.map(lambda v: v + 1, fitted.domain_stats))
    assert np.abs(answering.see(programs, other, image).probability - probability).max() > 1e-3
    order = programs.order()
    assert order[0] == "down_0/norm1" and set(order) == set(out["moments"])
    for rule in branches.SELECTIONS:
        by_image = rule in branches.BY_IMAGE
        total = 1 if by_image else len(order)
        early = Early(np.int64(0 if by_image else 2), *(np.ones(total) for _ in range(3)))
        settings = dataclasses.replace(run.config.method, selection=rule, answer="branch")
        answers = answering.answer(
            programs._replace(settings=settings), fitted._replace(early={rule: early}), image
        )
        chosen = seen.by_norms[rule][:, early.at].argmin(axis=1)
        assert [facts["branch"] for facts in answers.facts] == [names[b] for b in chosen]
        assert all(facts["early"] for facts in answers.facts)
        expected = probability[np.arange(len(image)), chosen]
        (found,) = answers.maps.values()
        np.testing.assert_allclose(found, expected, atol=1e-5)


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
