"""The answers of a trained model: an image's own, whatever stands beside it."""

import json
import shutil

import jax
import numpy as np
import pytest
import tiny

from mln_flax.engine import checkpoint, evaluate
from mln_flax.engine.build import build, load_data
from mln_flax.engine.workdir import MODEL
from mln_flax.methods.mln import answer as selection
from mln_flax.methods.mln import bank, branches
from mln_flax.metrics import decision, pixel
from mln_flax.results import records
from mln_flax.types import UserError
from mln_flax.views.intensity import make_view


@pytest.fixture(scope="module")
def run():
    return build(tiny.config())


@pytest.fixture(scope="module")
def answer(run, tiny_workdir):
    return selection.predictor(run, evaluate.load_model(run, tiny_workdir))


@pytest.fixture(scope="module")
def images(run):
    """Seven images, so that the second chunk of four is padded."""
    data = load_data(run.config)
    shown = [*data.examples("ffdm", "test"), *data.examples("film", "test")][:7]
    views = [make_view(name).numpy for name in tiny.VIEWS]
    return np.stack([views[i % 3](example.image) for i, example in enumerate(shown)])


def assert_same(a, b):
    np.testing.assert_allclose(a.probability, b.probability, rtol=0, atol=1e-6)
    assert set(a.distances) == set(b.distances) == set(branches.SELECTIONS)
    for rule in a.distances:
        np.testing.assert_allclose(a.distances[rule], b.distances[rule], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(
            a.distances[rule].argmin(axis=1), b.distances[rule].argmin(axis=1)
        )


def rows(answer, chosen):
    """The answer for some of its images, in some order."""
    by_norms = {rule: values[chosen] for rule, values in answer.by_norms.items()}
    return answer._replace(probability=answer.probability[chosen], by_norms=by_norms)


def test_an_answer_depends_on_no_order_and_no_company(answer, images):
    whole = answer(images)
    assert whole.probability.shape == (7, 3, 32, 32)
    assert 0 <= whole.probability.min() < whole.probability.max() <= 1
    order = np.random.default_rng(0).permutation(7)
    assert_same(answer(images[order]), rows(whole, order))
    for one in (0, 6):
        assert_same(answer(images[[one]]), rows(whole, [one]))


def test_a_record_holds_what_the_predictor_says(run, answer, tiny_workdir):
    example = load_data(run.config).examples("dbt", "test")[1]
    said = answer(example.image[None])
    lines = records.read_whole(tiny_workdir / "records.jsonl")
    (line,) = (one for one in lines if one.get("image_id") == example.image_id)
    assert line["label_pixels"] == int(example.mask.sum())
    assert line["spacing_mm"] == [0.1, 0.1]
    for rule in branches.SELECTIONS:
        assert line["chosen"][rule] == int(said.distances[rule][0].argmin())
    for branch in range(3):
        found = said.mask(0, branch)
        overlap, total = (found & (example.mask > 0)).sum(), found.sum() + example.mask.sum()
        dsc = 2 * overlap / total if total else 1.0
        assert line["scores"]["branch"][branch]["dsc"] == pytest.approx(dsc)
    for name, found in (("union", said.union(0)), ("weighted", said.weighted(0))):
        dsc = pixel.pixel_scores(found, example.mask)[2]
        assert line["scores"][name]["dsc"] == pytest.approx(dsc)
    assert line["answer"] == "polarity" and line["selection"] == "polarity"
    assert line["threshold"] == float(said.point.threshold)
    assert line["min_pixels"] == int(said.point.min_pixels)


def test_a_record_holds_the_early_choice(run, answer, tiny_workdir):
    early = evaluate.load_model(run, tiny_workdir).early
    example = load_data(run.config).examples("processing", "test")[2]
    lines = records.read_whole(tiny_workdir / "records.jsonl")
    (line,) = (one for one in lines if one.get("image_id") == example.image_id)
    said = answer(example.image[None])
    assert set(line["chosen_early"]) == set(branches.SELECTIONS)
    for rule, chosen in line["chosen_early"].items():
        first = said.by_norms[rule][0, early[rule].at]
        assert chosen == int(first.argmin())
    assert line["chosen_early"]["image"] == line["chosen"]["image"]


def test_what_is_not_asked_twice_is_what_the_network_says(run, answer, tiny_workdir):
    """The view that changes nothing, and the pictures of the report."""
    lines = records.read_whole(tiny_workdir / "records.jsonl")
    data = load_data(run.config)
    by_id = {e.image_id: e for d in ("ffdm", "film") for e in data.examples(d, "test")}
    same = [line for line in lines if line["kind"] == "view" and line["view"] == "identity"]
    assert [line["image_id"] for line in same] == [
        example.image_id for example in data.examples("ffdm", "test")
    ]
    for line in same:
        said = answer(by_id[line["image_id"]].image[None])
        for rule in branches.SELECTIONS:
            assert line["chosen"][rule] == int(said.distances[rule][0].argmin())
            np.testing.assert_allclose(
                line["distances"][rule], said.distances[rule][0], rtol=1e-4, atol=1e-6
            )
    with np.load(tiny_workdir / "examples.npz") as shown:
        seen = 0
        for image_id, prediction in zip(shown["image_id"], shown["prediction"], strict=True):
            if str(image_id) in by_id:
                said = answer(by_id[str(image_id)].image[None])
                np.testing.assert_array_equal(prediction, said.mask(0, said.chosen("polarity")[0]))
                assert prediction.dtype == np.uint8
                seen += 1
    assert seen


@pytest.mark.parametrize(
    ("way", "settings"),
    [
        ("union", {"method__answer": "union"}),
        ("weighted", {"method__answer": "weighted"}),
        ("polarity", {}),
        ("cosine@domain", {"method__selection": "cosine", "method__level": "domain"}),
    ],
)
def test_the_pictures_show_the_answer_of_the_settings(tiny_workdir, answer, way, settings):
    asked = build(tiny.config(**settings, evaluate__examples="9"))
    point = decision.OperatingPoint(0.5, 1)  # at which the masks differ

    def marked(image):
        return answer(image)._replace(point=point, weighted_point=point)

    early = evaluate.load_model(asked, tiny_workdir).early
    examples = load_data(asked.config).examples("film", "test")
    measured = list(evaluate.image_records(asked, marked, early, examples, "target"))
    said = marked(np.stack([example.image for example in examples]))
    total = said.distances["cosine"].sum(axis=0)
    wanted = {
        "union": [said.union(i) for i in range(len(examples))],
        "weighted": [said.weighted(i) for i in range(len(examples))],
        "polarity": [said.mask(i, b) for i, b in enumerate(said.chosen("polarity"))],
        "cosine@domain": [said.mask(i, int(total.argmin())) for i in range(len(examples))],
    }[way]
    assert {one.record["answer"] for one in measured} == {way}
    for i, one in enumerate(measured):
        assert len(one.bits) == 3 + 2
        np.testing.assert_array_equal(one.mask(3), said.union(i))
        np.testing.assert_array_equal(one.mask(4), said.weighted(i))
        assert one.record["threshold"] == 0.5
    shown = evaluate.pictures(asked, examples, measured)
    assert len(shown) == sum(bool(example.mask.any()) for example in examples) > 0
    by_id = {example.image_id: i for i, example in enumerate(examples)}
    for picture in shown:
        i = by_id[picture["image_id"]]
        np.testing.assert_array_equal(picture["prediction"], wanted[i])
        assert picture["dsc"] == pixel.pixel_scores(wanted[i], examples[i].mask)[2]
        assert wanted[i].any()
    names = {picture["branch"] for picture in shown}
    assert names == {way} if way in ("union", "weighted") else names <= set(tiny.VIEWS)


def test_the_worth_of_every_rule_is_written(run, tiny_workdir):
    trained = evaluate.load_model(run, tiny_workdir)
    early = trained.early
    written = json.loads((tiny_workdir / "selection.json").read_text())
    assert list(written) == [*branches.SELECTIONS, "weighted"]
    assert written.pop("weighted") == {"dsc": trained.weighted.dsc}
    lines = [
        line for line in records.read_whole(tiny_workdir / "records.jsonl") if "scores" in line
    ]
    for rule, found in written.items():
        assert found["dsc"] == early[rule].dsc[-1]
        assert found["view_accuracy"] == early[rule].view_accuracy[-1]
        assert found["by_norms"]["agreement"] == early[rule].agreement.tolist()
        assert found["early"]["norms"] == int(early[rule].norms)
        assert found["early"]["dsc"] == early[rule].dsc[early[rule].at]
        films = [line for line in lines if line["domain"] == "film"]
        same = np.mean([line["chosen"][rule] == line["chosen_early"][rule] for line in films])
        assert found["early"]["agreement_on_test"]["film"] == same


def test_what_every_norm_adds_to_a_choice(run, answer, tiny_workdir):
    lines = records.read_whole(tiny_workdir / "records.jsonl")
    examples = load_data(run.config).examples("film", "test")
    said = answer(np.stack([example.image for example in examples]))
    by_id = {line["image_id"]: line for line in lines if line["kind"] == "image"}
    scores = [by_id[example.image_id]["scores"]["branch"] for example in examples]
    order = selection.norm_order(run)
    norms = [line for line in lines if line["kind"] == "norms"]
    own = {line["rule"]: line for line in norms if line["domain"] == "film"}
    assert set(own) == set(branches.BY_MOMENTS)
    for rule, line in own.items():
        assert line["role"] == "target" and line["norms"] == list(order)
        assert line["branches"] == list(tiny.VIEWS)
        total = np.cumsum(line["distance"], axis=0)
        for m in range(len(order)):
            first = said.by_norms[rule][:, m]
            np.testing.assert_allclose(total[m], first.mean(axis=0), rtol=1e-4, atol=1e-6)
            dsc, best = [], []
            for i, distances in enumerate(first):
                each = [score["dsc"] for score in scores[i]]
                dsc.append(each[int(np.argmin(distances))])
                best.append(dsc[-1] == max(each))
            assert line["dsc"][m] == pytest.approx(np.mean(dsc))
            assert line["best"][m] == pytest.approx(np.mean(best))


def test_a_model_that_was_saved_answers_the_same(run, images, tiny_workdir, tmp_path):
    trained = evaluate.load_model(run, tiny_workdir)
    point = decision.OperatingPoint(0.9, 4)
    trained = trained._replace(weighted=bank.Weighted(point, 0.25))
    checkpoint.save_tree(tmp_path / MODEL, bank.to_tree(trained))
    again = evaluate.load_model(run, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again, trained)
    assert again.bank.image.polarity.dtype == again.bank.image.foreground.dtype == np.float64
    before, after = (selection.predictor(run, one)(images) for one in (trained, again))
    assert_same(after, before)
    np.testing.assert_array_equal(after.shares, before.shares)
    for i in range(len(images)):
        np.testing.assert_array_equal(after.weighted(i), before.weighted(i))
        np.testing.assert_array_equal(after.union(i), before.union(i))
    assert after.weighted_point == point


def test_a_model_of_another_form(run, tiny_workdir, tmp_path):
    tree = bank.to_tree(evaluate.load_model(run, tiny_workdir))
    del tree["early"]
    checkpoint.save_tree(tmp_path / MODEL, tree)
    with pytest.raises(UserError, match="its model was written by another version"):
        evaluate.load_model(run, tmp_path)


def test_a_damaged_model_is_told_as_such(run, tiny_workdir, tmp_path):
    shutil.copytree(tiny_workdir / MODEL, tmp_path / MODEL)
    shutil.rmtree(tmp_path / MODEL / "d")
    with pytest.raises(UserError, match=f"{tmp_path / MODEL}: is damaged") as told:
        evaluate.load_model(run, tmp_path)
    assert "another version" not in str(told.value)


def test_a_workdir_without_a_model(run, tmp_path):
    with pytest.raises(UserError, match="holds no trained model; run --mode=train first"):
        evaluate.load_model(run, tmp_path)
