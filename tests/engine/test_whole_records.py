"""Whole images measured: the operating point from validation, records of test images, cases."""

import json
import math
import shutil

import numpy as np
import pytest
import tiny

from mln_flax.engine import evaluate, whole_data, whole_model, whole_records
from mln_flax.engine import run as one_run
from mln_flax.engine.build import build
from mln_flax.engine.load_data import load_data
from mln_flax.engine.predictor import Predictor
from mln_flax.engine.whole_model import WholeModel
from mln_flax.metrics import clusters, froc
from mln_flax.metrics.decision import OperatingPoint
from mln_flax.results import records
from mln_flax.types import UserError

COARSE = {  # whole breasts of a few hundred pixels
    "data__phantom__spacing_mm": "0.8",
    "data__phantom__whole_normal": "2",
    "data__phantom__whole_lesions": "1",
    "data__phantom__whole_test": "2",
    "data__targets": "film",
    "predict__min_mm2": "0",
    **tiny.PLAIN,
}


@pytest.fixture(scope="module")
def workdir(plain_workdir, tmp_path_factory):
    """A workdir with a model of coarse pixels, and what it keeps for whole images."""
    folder = shutil.copytree(plain_workdir, tmp_path_factory.mktemp("whole") / "run")
    (folder / whole_model.FILE).unlink()
    run = build(tiny.config(**COARSE))
    whole_records.fit(run, load_data(run.config), folder)
    return folder


def test_the_operating_point_is_counted_on_whole_validation_images(workdir):
    kept = whole_model.read(workdir)
    assert kept.spacing_mm == (0.8, 0.8) and len(kept.validation) == 3
    assert [line["part"] for line in kept.validation] == ["validation"] * 3
    assert sum(line["detection"]["normal"] for line in kept.validation) == 2
    counts = [line["detection"] for line in kept.validation]
    for asked in ("0.1", "1.0", "50.0"):
        config = tiny.config(**COARSE, predict__false_clusters=asked)
        point = whole_model.point(kept, config, OperatingPoint())
        expected = froc.operating_threshold(counts, float(asked))
        wanted = (expected.threshold, float(asked), expected.reached, 2, "normal")
        assert point[:1] + point[2:] == wanted
        normal = [c["clusters_false"] for c in counts if c["normal"]]
        level = froc.level(point.threshold)
        assert np.mean([of_image[level] for of_image in normal]) == point.reached


def test_a_changed_record_changes_the_point(workdir):
    kept, config = whole_model.read(workdir), tiny.config(**COARSE)
    first = json.loads(json.dumps(kept.validation))
    for line in first:
        line["detection"]["clusters_false"] = [0] * len(froc.THRESHOLDS)
    without = kept._replace(validation=first)
    assert whole_model.point(without, config, OperatingPoint()).threshold == froc.THRESHOLDS[0]
    for line in first:
        line["detection"]["clusters_false"] = [9] * len(froc.THRESHOLDS)
    point = whole_model.point(without, config, OperatingPoint())
    assert point.threshold == froc.THRESHOLDS[-1] and point.reached == 9
    for line in first:  # no normal image: all are counted on, and it is said
        line["detection"]["normal"] = False
    point = whole_model.point(without, config, OperatingPoint())
    assert (point.images, point.counted_on) == (3, "all")


def test_a_point_that_was_chosen_for_other_marks_is_not_taken(workdir):
    kept, of_tiles = whole_model.read(workdir), OperatingPoint(0.7, 3)
    for name, value in (
        ("min_mm2", "0.5"),
        ("min_count", "5"),
        ("cluster_mm2", "50"),
        ("choice", "tile"),
        ("tile", "64"),
        ("overlap", "0.25"),
    ):
        config = tiny.config(**COARSE | {f"predict__{name}": value})
        assert f"another predict.{name}" in whole_model.doubt(kept, config)
        point = whole_model.point(kept, config, of_tiles)
        assert point.threshold == 0.7 and point.images == 0 and math.isnan(point.reached)
    assert "keeps none" in whole_model.doubt(None, tiny.config(**COARSE))
    for harmless in ({"predict__explain_tiles": "0"}, {"predict__keep": "all"}):
        assert whole_model.doubt(kept, tiny.config(**COARSE | harmless)) == ""
    chosen = tiny.config(**COARSE, predict__threshold="0.9")
    assert whole_model.point(kept, chosen, of_tiles).threshold == 0.9


def test_a_point_belongs_to_the_rule_and_the_answer_of_the_method(workdir):
    of_mln = whole_model.answers_by(tiny.config())
    kept = whole_model.read(workdir)._replace(counted_by=of_mln)
    assert whole_model.doubt(kept, tiny.config()) == ""
    for name, value in (("selection", "cosine"), ("answer", "union")):
        config = tiny.config(**{f"method__{name}": value})
        assert f"another method.{name}" in whole_model.doubt(kept, config)
    assert whole_model.doubt(kept, tiny.config(method__level="case")) == ""


def test_test_images_are_recorded_as_they_are_answered(workdir):
    config = tiny.config(**COARSE, evaluate__whole="true")
    run = build(config)
    fitted = evaluate.load_model(run, workdir)
    lines = list(whole_records.of_test(config, fitted, workdir))
    assert [line["domain"] for line in lines] == ["ffdm", "ffdm", "film", "film"]
    assert [line["role"] for line in lines] == ["source", "source", "target", "target"]
    predictor = Predictor.of_model(config, fitted, whole_model.read(workdir))
    images = whole_data.whole_images(config, "test")
    example = images.parts[0].examples[1]
    prediction = predictor(example.image, example.spacing_mm)
    rule = clusters.ClusterRule()
    line = lines[1]
    assert line["image_id"] == example.image_id and line["spacing_mm"] == example.spacing_mm
    assert line["detection"] == froc.counts(
        prediction.probability, example.mask, example.label_kind, example.spacing_mm, 0, rule
    )
    assert [c["score"] for c in line["clusters"]] == [c.score for c in prediction.clusters]
    for domain in ("ffdm", "film"):
        shown = {line.get("picture") for line in lines if line["domain"] == domain} - {None}
        assert shown
        for name in shown:
            png = (workdir / "whole" / f"{name}.png").read_bytes()
            assert png.startswith(b"\x89PNG") and name.split("-")[0] == domain


def test_another_rule_is_counted_again(workdir, tmp_path):
    """By --mode=evaluate; what fits the settings stays as it is."""
    folder = shutil.copytree(workdir, tmp_path / "run")
    for changes, count in (({"predict__min_count": "4"}, 4), ({"predict__min_mm2": "3"}, 4)):
        changes = {"predict__min_count": "4"} | changes
        run = build(tiny.config(**COARSE | changes))
        one_run.evaluate_again(run, folder)
        kept = whole_model.read(folder)
        assert kept.counted_by["predict.min_count"] == count and not whole_model.doubt(
            kept, run.config
        )
    before = (folder / whole_model.FILE).stat().st_mtime_ns
    one_run.evaluate_again(run, folder)
    assert (folder / whole_model.FILE).stat().st_mtime_ns == before


def test_evaluation_adds_them_where_it_is_asked_to(workdir):
    config = tiny.config(**COARSE, evaluate__whole="true")
    lines = evaluate.evaluate(build(config), load_data(config), workdir)
    assert [line["kind"] for line in lines].count("whole") == 4
    assert records.read_whole(workdir / "records.jsonl")[-1]["kind"] == "whole"


def test_without_whole_images_the_point_of_tiles_stays(plain_workdir, tmp_path, capsys):
    run = build(tiny.config(**tiny.PLAIN))
    folder = shutil.copytree(plain_workdir, tmp_path / "run")
    kept = whole_records.fit(run, load_data(run.config), folder)
    assert kept.validation == [] and whole_model.read(folder).validation == []
    assert "no operating point; that of tiles is taken" in capsys.readouterr().out


def test_a_broken_file_is_named(workdir, tmp_path):
    (tmp_path / whole_model.FILE).write_text('{"spacing": 1}')
    with pytest.raises(UserError, match="whole.json: written by another version"):
        whole_model.read(tmp_path)
    assert whole_model.read(tmp_path / "nothing") is None
    assert isinstance(whole_model.read(workdir), WholeModel)
