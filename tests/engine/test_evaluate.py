"""The answers of a trained model: an image's own, whatever stands beside it."""

import shutil

import jax
import numpy as np
import pytest
import tiny

from mln_flax.engine import checkpoint, evaluate
from mln_flax.engine.build import build
from mln_flax.engine.load_data import load_data
from mln_flax.engine.workdir import MODEL
from mln_flax.methods.mln import branches, recorded
from mln_flax.methods.mln.bank import Weighted
from mln_flax.methods.mln.passes import norm_order
from mln_flax.metrics import pixel
from mln_flax.metrics.decision import OperatingPoint
from mln_flax.results import records
from mln_flax.results.study import answering_score
from mln_flax.types import UserError
from mln_flax.views.intensity import make_view

MAPS = [*tiny.VIEWS, *recorded.TOGETHER]


@pytest.fixture(scope="module")
def run():
    return build(tiny.config())


@pytest.fixture(scope="module")
def data(run):
    return load_data(run.config)


@pytest.fixture(scope="module")
def fitted(run, tiny_workdir):
    return evaluate.load_model(run, tiny_workdir)


@pytest.fixture(scope="module")
def answer(run, fitted):
    """Of images: every map of them, with what chooses between the maps."""
    return lambda images: run.method.answer_all(fitted, images)


@pytest.fixture(scope="module")
def images(data):
    """Seven images, so that the second chunk of four is padded."""
    shown = [*data.examples("ffdm", "test"), *data.examples("film", "test")][:7]
    views = [make_view(name).numpy for name in tiny.VIEWS]
    return np.stack([views[i % 3](example.image) for i, example in enumerate(shown)])


@pytest.fixture(scope="module")
def lines(tiny_workdir):
    return records.read_whole(tiny_workdir / "records.jsonl")


def line_of(lines, example):
    images = (line for line in lines if line["kind"] == "image")
    (line,) = (line for line in images if line["image_id"] == example.image_id)
    return line


def assert_same(a, b):
    assert set(a.maps) == set(b.maps) and a.points == b.points
    assert list(a.chosen) == list(b.chosen)
    for name in a.maps:
        np.testing.assert_allclose(a.maps[name], b.maps[name], rtol=0, atol=1e-6)
    for one, other in zip(a.facts, b.facts, strict=True):
        assert set(one) == set(other)
        for name in set(one) - {"distances"}:
            assert one[name] == other[name]
        for rule, distances in one.get("distances", {}).items():
            np.testing.assert_allclose(distances, other["distances"][rule], rtol=1e-4, atol=1e-6)
            assert np.argmin(distances) == np.argmin(other["distances"][rule])


def rows(answers, places):
    """The answers for some of the images, in some order."""
    return answers._replace(
        maps={name: values[places] for name, values in answers.maps.items()},
        chosen=[answers.chosen[i] for i in places],
        facts=[answers.facts[i] for i in places],
    )


@pytest.mark.parametrize("kind", ["tiny", "plain"])
@pytest.mark.parametrize("ask", ["answer_all", "answer"])
def test_an_answer_depends_on_no_order_and_no_company(kind, ask, images, request):
    run = build(tiny.config(**({} if kind == "tiny" else tiny.PLAIN)))
    fitted = evaluate.load_model(run, request.getfixturevalue(f"{kind}_workdir"))

    def answer(shown):
        return getattr(run.method, ask)(fitted, shown)

    whole = answer(images)
    for name, probability in whole.maps.items():
        assert probability.shape == (7, 32, 32) and name in whole.points
        assert 0 <= probability.min() < probability.max() <= 1
    assert len(whole.chosen) == len(whole.facts) == 7 and set(whole.chosen) <= set(whole.maps)
    order = np.random.default_rng(0).permutation(7)
    assert_same(answer(images[order]), rows(whole, order))
    for one in (0, 6):
        assert_same(answer(images[[one]]), rows(whole, [one]))


def test_a_record_holds_what_the_method_says(fitted, answer, data, lines):
    example = data.examples("dbt", "test")[1]
    answers = answer(example.image[None])
    line = line_of(lines, example)
    assert line["label_pixels"] == int(example.mask.sum())
    assert line["spacing_mm"] == [0.1, 0.1]
    (facts,) = answers.facts
    assert set(line["distances"]) == set(branches.SELECTIONS)
    for rule in branches.SELECTIONS:
        assert line["chosen"][rule] == int(np.argmin(facts["distances"][rule]))
        np.testing.assert_allclose(
            line["distances"][rule], facts["distances"][rule], rtol=1e-4, atol=1e-6
        )
    assert list(line["scores"]) == list(answers.maps) == MAPS
    for name in MAPS:
        mask = answers.mask(0, name)
        overlap, total = (mask & (example.mask > 0)).sum(), mask.sum() + example.mask.sum()
        dsc = 2 * overlap / total if total else 1.0
        assert line["scores"][name]["dsc"] == pytest.approx(dsc)
    assert line["answer"] == "polarity" and line["selection"] == "polarity"
    assert line["answered_by"] == answers.chosen[0] == tiny.VIEWS[line["chosen"]["polarity"]]
    assert answering_score(line) == line["scores"][line["answered_by"]]
    assert line["threshold"] == float(fitted.point.threshold)
    assert line["min_pixels"] == int(fitted.point.min_pixels)
    assert "unlabeled" not in line


def test_a_record_of_a_plain_network_holds_its_one_map(plain_workdir, data):
    run = build(tiny.config(**tiny.PLAIN))
    fitted = evaluate.load_model(run, plain_workdir)
    lines = records.read_whole(plain_workdir / "records.jsonl")
    assert {line["kind"] for line in lines} == {"image"} and len(lines) == 4 * tiny.TEST_IMAGES
    for example in data.examples("film", "test"):
        line = line_of(lines, example)
        mask = run.method.answer_all(fitted, example.image[None]).mask(0)
        assert list(line["scores"]) == ["network"] and line["answered_by"] == "network"
        assert line["scores"]["network"]["dsc"] == pixel.pixel_scores(mask, example.mask)[2]
        assert line["threshold"] == float(fitted.point.threshold)
        assert not {"chosen", "distances", "branches", "answer"} & set(line)


def test_a_record_holds_the_early_choice(fitted, answer, data, lines):
    early = fitted.early
    example = data.examples("processing", "test")[2]
    line = line_of(lines, example)
    answers = answer(example.image[None])
    assert set(line["chosen_early"]) == set(branches.SELECTIONS)
    for rule, chosen in line["chosen_early"].items():
        if rule in branches.BY_MOMENTS:
            assert chosen == int(answers.kept[0][rule][early[rule].at].argmin())
        else:
            assert chosen == line["chosen"][rule]


def test_what_is_not_asked_twice_is_what_the_network_says(answer, data, lines, tiny_workdir):
    """The view that changes nothing, and the pictures of the report."""
    by_id = {e.image_id: e for d in ("ffdm", "film") for e in data.examples(d, "test")}
    same = [line for line in lines if line["kind"] == "view" and line["view"] == "identity"]
    assert [line["image_id"] for line in same] == [
        example.image_id for example in data.examples("ffdm", "test")
    ]
    for line in same:
        (facts,) = answer(by_id[line["image_id"]].image[None]).facts
        for rule in branches.SELECTIONS:
            distances = facts["distances"][rule]
            assert line["chosen"][rule] == int(np.argmin(distances))
            np.testing.assert_allclose(line["distances"][rule], distances, rtol=1e-4, atol=1e-6)
    with np.load(tiny_workdir / "examples.npz") as shown:
        seen = 0
        for image_id, name, prediction in zip(
            shown["image_id"], shown["answered_by"], shown["prediction"], strict=True
        ):
            if str(image_id) in by_id:
                answers = answer(by_id[str(image_id)].image[None])
                assert str(name) == answers.chosen[0]
                np.testing.assert_array_equal(prediction, answers.mask(0))
                assert prediction.dtype == np.uint8
                seen += 1
    assert seen


@pytest.mark.parametrize(
    ("way", "settings"),
    [
        ("union", {"method__answer": "union"}),
        ("weighted", {"method__answer": "weighted"}),
        ("mixed by polarity", {"method__answer": "mixed", "method__mixing": "polarity"}),
        ("polarity", {}),
        ("cosine@domain", {"method__selection": "cosine", "method__level": "domain"}),
    ],
)
def test_the_pictures_show_the_answer_of_the_settings(fitted, answer, data, way, settings):
    asked = build(tiny.config(**settings, evaluate__examples="9"))
    point = OperatingPoint(0.5, 1)  # at which the masks differ
    mixtures = {name: one._replace(point=point) for name, one in fitted.mixtures.items()}
    weighted = fitted.weighted._replace(point=point)
    at_point = fitted._replace(point=point, weighted=weighted, mixtures=mixtures)
    examples = data.examples("film", "test")
    measured = evaluate.settle(asked, evaluate.image_records(asked, at_point, examples, "target"))
    answers = answer(np.stack([example.image for example in examples]))
    answers = answers._replace(points=dict.fromkeys(answers.maps, point))
    total = np.sum([facts["distances"]["cosine"] for facts in answers.facts], axis=0)
    of_polarity = [tiny.VIEWS[np.argmin(facts["distances"]["polarity"])] for facts in answers.facts]
    wanted = {
        "union": ["union"] * len(examples),
        "weighted": ["weighted"] * len(examples),
        "mixed by polarity": ["mixed by polarity"] * len(examples),
        "polarity": of_polarity,
        "cosine@domain": [tiny.VIEWS[total.argmin()]] * len(examples),
    }[way]
    assert {one.record["answer"] for one in measured} == {way}
    assert [one.record["answered_by"] for one in measured] == wanted
    for i, one in enumerate(measured):
        assert list(one.bits) == MAPS
        for name in MAPS:
            np.testing.assert_array_equal(one.mask(name), answers.mask(i, name))
        assert one.record["threshold"] == 0.5
    shown = evaluate.pictures(asked, examples, measured)
    assert len(shown) == sum(bool(example.mask.any()) for example in examples) > 0
    by_id = {example.image_id: i for i, example in enumerate(examples)}
    for picture in shown:
        i = by_id[picture["image_id"]]
        mask = answers.mask(i, wanted[i])
        np.testing.assert_array_equal(picture["prediction"], mask)
        assert picture["dsc"] == pixel.pixel_scores(mask, examples[i].mask)[2]
        assert mask.any() and picture["answered_by"] == wanted[i]


def test_the_worth_of_every_rule_is_recorded(fitted, lines):
    worth = {line["rule"]: line for line in lines if line["kind"] == "rule"}
    assert list(worth) == [*branches.SELECTIONS, *recorded.FITTED, recorded.MATCHED]
    assert {line["part"] for line in worth.values()} == {"validation"}
    assert worth.pop("weighted")["dsc"] == fitted.weighted.dsc
    for name, of_mixture in fitted.mixtures.items():
        assert worth.pop(name)["dsc"] == of_mixture.dsc
    for rule, line in worth.items():
        early = fitted.early[rule]
        assert line["dsc"] == early.dsc[-1]
        assert line["view_accuracy"] == early.view_accuracy[-1]
        assert line["norms"] == int(early.norms)
        for name in ("agreement", "view_accuracy", "dsc"):
            assert line["by_norms"][name] == getattr(early, name).tolist()


def test_what_every_norm_adds_to_a_choice(run, answer, data, lines):
    examples = data.examples("film", "test")
    answers = answer(np.stack([example.image for example in examples]))
    scores = [line_of(lines, example)["scores"] for example in examples]
    norms = [line for line in lines if line["kind"] == "norms"]
    own = {line["rule"]: line for line in norms if line["domain"] == "film"}
    assert set(own) == set(branches.BY_MOMENTS)
    for rule, line in own.items():
        assert line["role"] == "target" and line["norms"] == list(norm_order(run.model, 32))
        assert line["branches"] == list(tiny.VIEWS)
        total = np.cumsum(line["distance"], axis=0)
        by_norms = np.stack([kept[rule] for kept in answers.kept])  # [images, norms, branches]
        assert len(total) == by_norms.shape[1] == len(line["norms"])
        for m in range(len(total)):
            first = by_norms[:, m]
            np.testing.assert_allclose(total[m], first.mean(axis=0), rtol=1e-4, atol=1e-6)
            dsc, best = [], []
            for i, distances in enumerate(first):
                each = [scores[i][name]["dsc"] for name in tiny.VIEWS]
                dsc.append(each[int(np.argmin(distances))])
                best.append(dsc[-1] == max(each))
            assert line["dsc"][m] == pytest.approx(np.mean(dsc))
            assert line["best"][m] == pytest.approx(np.mean(best))


def test_a_model_that_was_saved_answers_the_same(run, images, fitted, tmp_path):
    point = OperatingPoint(0.9, 4)
    fitted = fitted._replace(weighted=Weighted(point, 0.25))
    checkpoint.save_tree(tmp_path / MODEL, run.kind.to_tree(fitted))
    again = evaluate.load_model(run, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again, fitted)
    assert again.bank.image.polarity.dtype == again.bank.image.foreground.dtype == np.float64
    before, after = (run.method.answer_all(one, images) for one in (fitted, again))
    assert_same(after, before)
    for i in range(len(images)):
        for name in MAPS:
            np.testing.assert_array_equal(after.mask(i, name), before.mask(i, name))
    assert after.points["weighted"] == point


@pytest.mark.parametrize("missing", ["early", "point", "params"])
def test_a_model_of_another_form(run, fitted, tmp_path, missing):
    tree = run.kind.to_tree(fitted)
    del tree[missing]
    checkpoint.save_tree(tmp_path / MODEL, tree)
    with pytest.raises(UserError, match="its model was written by another version"):
        evaluate.load_model(run, tmp_path)


@pytest.mark.parametrize("missing", ["point", "domain_stats"])
def test_a_plain_model_of_another_form(plain_workdir, tmp_path, missing):
    run = build(tiny.config(**tiny.PLAIN))
    tree = run.kind.to_tree(evaluate.load_model(run, plain_workdir))
    del tree[missing]
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
