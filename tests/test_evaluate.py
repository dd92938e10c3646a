"""The answers of a trained model: an image's own, whatever stands beside it."""

import numpy as np
import pytest
import tiny

from mln_flax import branches, evaluate, records
from mln_flax.build import build, load_data
from mln_flax.types import UserError
from mln_flax.views import make_view


@pytest.fixture(scope="module")
def run():
    return build(tiny.config())


@pytest.fixture(scope="module")
def answer(run, tiny_workdir):
    return evaluate.predictor(run, evaluate.load_model(run, tiny_workdir))


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
    distances = {rule: values[chosen] for rule, values in answer.distances.items()}
    return answer._replace(probability=answer.probability[chosen], distances=distances)


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
    lines = records.read(tiny_workdir / "records.jsonl")
    (line,) = (one for one in lines if one["image_id"] == example.image_id)
    assert line["label_pixels"] == int(example.mask.sum())
    assert line["spacing_mm"] == [0.1, 0.1]
    for rule in branches.SELECTIONS:
        assert line["chosen"][rule] == int(said.distances[rule][0].argmin())
    for branch in range(3):
        found = said.mask(0, branch)
        overlap, total = (found & (example.mask > 0)).sum(), found.sum() + example.mask.sum()
        dsc = 2 * overlap / total if total else 1.0
        assert line["scores"]["branch"][branch]["dsc"] == pytest.approx(dsc)


def test_a_workdir_without_a_model(run, tmp_path):
    with pytest.raises(UserError, match="holds no trained model; run --mode=train first"):
        evaluate.load_model(run, tmp_path)
