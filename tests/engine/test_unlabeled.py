"""Targets that are seen without labels: their images, a whole run, and what its results say."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import trees

from mln_flax.config import METHODS, one_of
from mln_flax.data.core import PARTS
from mln_flax.data.prepare import prepare
from mln_flax.engine import checkpoint, evaluate, states, stop, train
from mln_flax.engine.build import build
from mln_flax.engine.load_data import load_data
from mln_flax.main import main
from mln_flax.methods import supervised
from mln_flax.registry import kinds
from mln_flax.results import records
from mln_flax.types import AXIS, UserError

NAME = "counts_unlabeled"


@dataclass(frozen=True)
class Settings(supervised.SupervisedSettings):
    name: Annotated[str, one_of(NAME)] = NAME


def build_method(settings, ingredients):
    """A plain network that also measures what of each target it saw."""
    method = supervised.build(settings, ingredients)

    def update(state, batch):
        after, scalars = method.update(state, batch)
        is_seen = batch.valid & ~batch.labeled
        seen = {
            f"rows_of_{number}": jax.lax.psum(jnp.sum(is_seen & (batch.domain == number)), AXIS)
            for number in (0, 1, 2)
        }
        labels = jax.lax.psum(jnp.sum(batch.mask * is_seen[:, None, None]), AXIS)
        return after, scalars | seen | {"labels": labels}

    return method._replace(update=update)


@pytest.fixture(scope="module")
def entered():
    """The method is a file of `methods/` as any other, while these tests run."""
    kind = supervised.KIND._replace(settings=Settings, build=build_method, takes_unlabeled=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kinds(METHODS), NAME, kind)
        yield


CHANGES = tiny.PLAIN | {
    "method__name": NAME,
    "data__unlabeled": "film,dbt",
    "train__unlabeled_batch_size": "3",
}


@pytest.fixture(scope="module")
def workdir(entered, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unlabeled") / "run"
    assert main(tiny.flags(folder, **CHANGES)) == 0
    return folder


@pytest.fixture(scope="module")
def run(entered):
    return build(tiny.config(**CHANGES))


def last_state(run, folder):
    shapes = jax.eval_shape(lambda: states.random_state(run))
    with checkpoint.manager(folder) as checkpoints:
        return checkpoint.restore(checkpoints, shapes)


def test_every_step_sees_its_share_of_each_target_and_no_label(workdir):
    steps = [line for line in records.read(workdir / "train.jsonl") if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    for line in steps:
        rows = 3 * len(tiny.VIEWS)
        assert (line["rows_of_0"], line["rows_of_1"], line["rows_of_2"]) == (0, rows, rows)
        assert line["labels"] == 0


def test_the_source_is_seen_as_in_a_run_without_them(run, workdir, plain_workdir):
    """Rows without a label count nowhere in a plain network's loss."""
    plain = last_state(build(tiny.config(**tiny.PLAIN)), plain_workdir)
    for a, b in zip(
        jax.tree.leaves(last_state(run, workdir).params),
        jax.tree.leaves(plain.params),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def test_a_run_in_two_pieces_is_the_run_in_one(run, workdir, tmp_path):
    class StopAtOnce(stop.StopSignal):
        name = "SIGTERM"

        def __init__(self):
            pass

    data = load_data(run.config)
    with pytest.raises(stop.Stopped, match="after step 1"):
        train.train(run, data, tmp_path, StopAtOnce())
    train.train(run, data, tmp_path)
    states = [jax.tree.leaves(last_state(run, folder)) for folder in (tmp_path, workdir)]
    for a, b in zip(*states, strict=True):
        np.testing.assert_array_equal(a, b)


def test_records_tables_and_the_page_say_what_was_seen(workdir, capsys):
    images = [r for r in records.read_whole(workdir / "records.jsonl") if r["kind"] == "image"]
    assert len(images) == 4 * tiny.TEST_IMAGES
    assert all(record["unlabeled"] == ["film", "dbt"] for record in images)
    capsys.readouterr()
    assert main([f"--workdir={workdir}", "--mode=report"]) == 0
    printed = capsys.readouterr().out
    page = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    for text in (printed, page):
        for domain in ("film (seen without labels)", "dbt (seen without labels)"):
            assert domain in text
        assert "processing (seen" not in text and "ffdm (source)" in text
        assert "Training saw images of dbt, film without their labels: not unseen." in text


def test_its_model_answers_and_is_evaluated_again(run, workdir):
    before = (workdir / "records.jsonl").read_bytes()
    assert main([f"--workdir={workdir}", "--mode=evaluate"]) == 0
    assert (workdir / "records.jsonl").read_bytes() == before
    image = load_data(run.config).examples("film", "test")[0].image
    answers = run.method.answer(evaluate.load_model(run, workdir), image[None])
    assert answers.maps["network"].shape == (1, 32, 32)


def test_phantoms_to_train_on_are_others_than_those_tested_and_change_none():
    config = tiny.config()
    unlabeled = dataclasses.replace(config.data, unlabeled=("film", "dbt"))
    plain = load_data(config)
    more = load_data(dataclasses.replace(config, data=unlabeled))
    assert [(part.domain, part.name) for part in more.parts[-2:]] == [
        ("film", "train"),
        ("dbt", "train"),
    ]
    for a, b in zip(plain.parts, more.parts, strict=False):
        assert [e.image_id for e in a.examples] == [e.image_id for e in b.examples]
    patients = [patient for part in more.parts for patient in part.patient_ids]
    assert len(set(patients)) == len(patients) and len(more.part("film", "train").examples) == 6


def prepared(tmp_path, orders, name="made", **changes):
    """The settings of a run on a prepared folder of these orders, and the folder."""
    home = tmp_path / name
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        trees.enter(patch, orders)
        data = trees.made_settings(home / "data", **changes)
        prepare.prepare(data, home / "prepared")
    return data, home / "prepared"


def orders(domain, patients, name="", part=""):
    return [trees.Order(f"{name}{domain}{i}", f"{name}P{i}", domain, part) for i in range(patients)]


def loaded(data, folder):
    """The parts that a run on prepared data sees."""
    with pytest.MonkeyPatch.context() as patch:
        trees.enter(patch, [])
        return load_data(dataclasses.replace(tiny.config(), data=data), folder)


def test_a_prepared_target_is_trained_on_by_its_own_training_images(tmp_path):
    wanted = [*orders("film", 10), *orders("ffdm", 10)]
    data, folder = prepared(tmp_path, wanted, targets=("ffdm",))
    other, there = prepared(tmp_path, orders("dbt", 10, "x"), "other", source="dbt")
    assert other.source == "dbt"
    data = dataclasses.replace(data, also=(str(there),), targets=("ffdm", "dbt"))
    without = loaded(data, folder)
    seen = loaded(dataclasses.replace(data, unlabeled=("dbt", "ffdm")), folder)
    for domain in ("ffdm", "dbt"):
        own, tested = seen.part(domain, "train"), seen.part(domain, "test")
        assert len(own.examples) and len(tested.examples)
        assert not own.patient_ids & tested.patient_ids
    assert seen.part("ffdm", "test").patient_ids == without.part("ffdm", "test").patient_ids
    # Whole where training sees nothing of it.
    assert seen.part("dbt", "test").patient_ids < without.part("dbt", "test").patient_ids
    assert [part.name for part in seen.parts[:3]] == list(PARTS)


def test_a_target_without_training_images_is_refused(tmp_path):
    wanted = [*orders("film", 10), *orders("ffdm", 4, "x", "test")]
    data, folder = prepared(tmp_path, wanted, targets=("ffdm",))
    with pytest.raises(UserError, match="unlabeled=ffdm: domain 'ffdm' has no train images; ch"):
        loaded(dataclasses.replace(data, unlabeled=("ffdm",)), folder)
