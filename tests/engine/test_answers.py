"""What is written of an answer: pictures and numbers that say the same."""

import csv
import io
import json

import answering
import dicoms
import exams
import numpy as np
import pydicom
import pytest
from PIL import Image

from mln_flax.data.readers import reader
from mln_flax.engine import answers
from mln_flax.engine.answers import Whole
from mln_flax.engine.hashes import tree_hash
from mln_flax.engine.origin import Origin
from mln_flax.metrics import clusters
from mln_flax.results import answer_tables

ORIGIN = Origin("a" * 64, "b" * 64, (0.1, 0.1), {"mln_flax": "0"})
LOOSE = (85, 8)  # a spot that belongs to no cluster


def opened(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """The folder of an answer, the answer and its record; pixels are higher than wide."""
    folder = tmp_path_factory.mktemp("answers")
    image = answering.mammogram(dots=(*answering.DOTS, LOOSE))
    rule = {"predict__cluster_mm2": "10", "predict__min_mm2": "0"}
    prediction = answering.predictor(**rule)(image, (0.12, 0.1))
    whole = Whole(folder / "x.png", "sub/x.png", "x", "c" * 64)
    numbers = clusters.linked([prediction.marks])
    answers.write_maps(folder, "x", prediction)
    answers.write(folder, whole, [prediction], numbers, ORIGIN, "clusters", 1.5)
    return folder, prediction, json.loads((folder / "x.json").read_text())


def test_the_pictures_and_the_numbers_agree(answered):
    folder, prediction, record = answered
    mask, levels = (opened(folder / f"x_{name}.png") for name in ("mask", "probability"))
    assert mask.shape == levels.shape == (96, 80) == (record["height"], record["width"])
    assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 255}
    assert levels.dtype == np.uint16
    np.testing.assert_array_equal(levels, np.floor(prediction.probability * np.float32(65535)))
    assert record["marked_pixels"] == (mask > 0).sum() == prediction.mask.sum()
    (cluster,) = record["clusters"]
    members = [c for c in record["calcifications"] if c["cluster"] == 1]
    assert cluster["calcifications"] == [c["number"] for c in members] and cluster["count"] == 4
    assert [c["cluster"] for c in record["calcifications"]].count(0) == 1
    shown = np.zeros_like(mask)
    for item in members:
        top, left, bottom, right = item["box"]
        shown[top:bottom, left:right] = 255
        assert item["area_mm2"] == pytest.approx((bottom - top) * (right - left) * 0.12 * 0.1)
        assert item["row_mm"] == pytest.approx((item["row_px"] + 0.5) * 0.12)
        assert item["column_mm"] == pytest.approx((item["column_px"] + 0.5) * 0.1)
        assert item["peak"] == pytest.approx(levels[top:bottom, left:right].max() / 65535, abs=1e-4)
    np.testing.assert_array_equal(shown, mask)  # all spots are rectangles here
    assert record["hashes"] == {"file": "c" * 64, "model": "a" * 64, "config": "b" * 64}
    assert all((folder / name).exists() for name in record["files"].values())
    assert record["spacing_mm"] == [0.12, 0.1] and record["seconds"] == 1.5


def test_the_tables_hold_the_same_numbers(answered):
    folder, _, record = answered
    (line,) = answer_tables.write(folder, ["x", "none"], [("bad.png", "broken")])
    assert "calcifications" not in line and line["clusters"] == record["clusters"]
    assert answer_tables.read(folder)[1] == [
        {"kind": "left out", "image": "bad.png", "reason": "broken"}
    ]
    objects, groups = (
        list(csv.DictReader(io.StringIO((folder / name).read_text())))
        for name in (answer_tables.OBJECTS, answer_tables.CLUSTERS)
    )
    assert len(objects) == 5 and len(groups) == 1
    for row, item in zip(objects, record["calcifications"], strict=True):
        assert row["image"] == "sub/x.png" and int(row["cluster"]) == item["cluster"]
        for name in ("row_px", "column_px", "length_mm", "area_mm2", "mean", "peak"):
            assert float(row[name]) == pytest.approx(item[name], rel=1e-5)
        assert [int(row[name]) for name in ("top", "left", "bottom", "right")] == item["box"]
    assert float(groups[0]["extent_mm"]) == pytest.approx(record["clusters"][0]["extent_mm"], 1e-5)


@pytest.mark.parametrize("name", ["=1+1.png", "+x.png", "-x.png", "@sum.png", "\tx.png"])
def test_a_name_that_a_spreadsheet_would_compute(answered, tmp_path, name):
    record = answered[2] | {"image": name}
    for rows in (answer_tables.object_rows(record), answer_tables.cluster_rows(record)):
        assert {row[0] for row in rows} == {f"./{name}"}
    assert answer_tables.safe("a=b.png") == "a=b.png"


def volume(path, count=3):
    """A volume as DICOM: a cluster in the first two frames, another in the last."""
    dots = [answering.DOTS, answering.DOTS, [(r + 34, c - 12) for r, c in answering.DOTS]]
    frames = np.stack([answering.mammogram(dots=dots[i]) for i in range(count)])
    fields = exams.groups([(3.0 + n, 1.0, 2.0) for n in range(count)], spacing=(0.1, 0.1))
    return dicoms.write(path, (frames * 4095).astype(np.uint16), bits=12, **exams.UIDS | fields)


@pytest.mark.parametrize("kind", ["clusters", "fractional"])
def test_a_volume_has_linked_numbers_one_segmentation_and_one_report(tmp_path, kind):
    file = volume(tmp_path / "v.dcm")
    frames = [reader.read(file, number).image for number in range(3)]
    rule = {"predict__cluster_mm2": "10", "predict__min_mm2": "0"}
    predictions = answering.predictor(**rule).volume(frames, 0.1)
    numbers = clusters.linked([p.marks for p in predictions])
    lighter = [answers.lighter(prediction, kind) for prediction in predictions]
    assert sum(a.nbytes for a in (lighter[0].image, lighter[0].mask)) < predictions[0].image.nbytes
    for number, prediction in enumerate(predictions, start=1):
        answers.write_maps(tmp_path, f"v_{number:04d}", prediction)
    whole = Whole(file, "v.dcm", "v", "c" * 64)
    answers.write(tmp_path, whole, lighter, numbers, ORIGIN, kind, 1.0)
    records = answer_tables.of_file(tmp_path, "v")
    assert [[c["number"] for c in record["clusters"]] for record in records] == [[1], [1], [2]]
    assert [record["frame"] for record in records] == [0, 1, 2]
    for record, prediction in zip(records, predictions, strict=True):
        assert record["marked_pixels"] == prediction.mask.sum() == 16
        assert {c["cluster"] for c in record["calcifications"]} == {record["clusters"][0]["number"]}
        assert (record["files"]["seg"], record["files"]["sr"]) == ("v_seg.dcm", "v_sr.dcm")
    assert len(list(tmp_path.glob("*.dcm"))) == 3
    segmentation = pydicom.dcmread(tmp_path / "v_seg.dcm")
    assert len(segmentation.SegmentSequence) == (2 if kind == "clusters" else 1)
    pixels = segmentation.pixel_array
    if kind == "clusters":
        assert pixels.sum() == 48 and segmentation.NumberOfFrames == 3
    else:
        expected = np.round(np.stack([p.probability for p in predictions]) * 255)
        assert np.abs(pixels.astype(int) - expected).max() <= 1
    assert pydicom.dcmread(tmp_path / "v_sr.dcm").Modality == "SR"


def test_probabilities_of_a_long_volume_are_not_written_as_dicom(tmp_path, monkeypatch):
    monkeypatch.setitem(answers.MOST_SEGMENTED, "fractional", 3 * 96 * 80 - 1)
    file = volume(tmp_path / "v.dcm")
    predictions = answering.predictor().volume([reader.read(file, n).image for n in range(3)], 0.1)
    whole = Whole(file, "v.dcm", "v", "c" * 64)
    names, notes = answers.write_dicom(tmp_path, whole, predictions, [{}] * 3, ORIGIN, "fractional")
    assert names == {} and "23,040 pixels in all frames" in notes[0]


def test_a_header_without_uids_is_a_note(tmp_path):
    image = (answering.mammogram() * 4095).astype(np.uint16)
    file = dicoms.write(tmp_path / "a.dcm", image, bits=12)  # names no study
    prediction = answering.predictor()(reader.read(file).image, 0.1)
    whole = Whole(file, "a.dcm", "a", "c" * 64)
    answers.write_maps(tmp_path, "a", prediction)
    numbers = clusters.linked([prediction.marks])
    answers.write(tmp_path, whole, [prediction], numbers, ORIGIN, "clusters", 1.0)
    (record,) = answer_tables.of_file(tmp_path, "a")
    assert any("no DICOM answer: StudyInstanceUID" in note for note in record["notes"])
    assert "seg" not in record["files"] and not (tmp_path / "a_seg.dcm").exists()


def test_hashes_tell_models_apart():
    tree = {"a": np.arange(3.0), "b": {"c": np.float32(1)}}
    same = {"b": {"c": np.float32(1)}, "a": np.arange(3.0)}
    assert tree_hash(tree) == tree_hash(same)
    for other in (
        {"a": np.arange(3), "b": tree["b"]},
        {"a": np.arange(3.0) + 1e-9, "b": tree["b"]},
    ):
        assert tree_hash(other) != tree_hash(tree)
