import copy
import io

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from some_records import RECORDS as TILES
from some_records import rows
from whole_records import record_of, whole

from mln_flax.metrics import froc
from mln_flax.metrics.calibration import Bin, reliability
from mln_flax.results import detection, records
from mln_flax.types import UserError

RECORDS = [
    whole("film", record_of([2, 1, 0], [9, 9, 0]), [(0.9, True), (0.99, False)], "a"),
    whole("film", record_of([1, 1, 0], [3, 1, 0], 1), [(0.8, True)], "b"),
    whole("ffdm", record_of([2, 1, 0], [4, 4, 0]), [(0.97, True), (0.7, False)], "a"),
    whole("ffdm", record_of([2, 2, 0], [0, 0, 0]), [(0.98, True)], "a"),
    whole("ffdm", record_of([0], [2, 1, 0], 0, True), [(0.6, False)], "b"),
    whole("ffdm", record_of([0], [1, 0, 0], 0, True), [], "c"),
    whole("ffdm", record_of([3, 3, 0], [1, 0], 3), [(0.95, True)], "d", part="validation"),
    whole("ffdm", record_of([0], [0], 0, True), [], "e", part="validation"),
    *TILES,
]


def changed(edit):
    """The records after an edit of their second image of film."""
    altered = copy.deepcopy(RECORDS)
    edit(altered[1])
    return altered


def fewer_found(record):
    record["detection"] |= {f"{unit}_found": [0] * 40 for unit in froc.UNITS}


def one_wrong(record):
    record["clusters"][0]["hit"] = False


@pytest.mark.parametrize("unit", froc.UNITS)
def test_the_table_of_sensitivities(unit):
    table = detection.sensitivity_table(RECORDS, unit)
    source, validation, film = rows(table)
    assert [row["domain"] for row in (source, validation, film)] == [
        "ffdm (source)",
        "ffdm (source), validation",
        "film",
    ]
    name = "clusters" if unit == "clusters" else "calcifications"
    assert [source[key] for key in ("images", "normal", name)] == ["4", "2", "4"]
    assert [film[key] for key in ("images", "normal", name)] == ["2", "0", "3"]
    # Two normal images with 3, 1, 0 false marks: rates 1.5, 0.5, 0.
    assert [source[f"at {rate:g}"][:4] for rate in froc.RATES] == [
        *("0.00", "0.00", "0.75", "0.75", "1.00", "1.00")
    ]
    assert source["area"].startswith("0.38 (")  # 0.75 from 0.5 on: 0.375
    # No image of film is normal: rates 6, 5, 0 over all.
    assert film["at 4"].startswith("0.00 (") and "all: film." in table.note
    counts = [r["detection"] for r in RECORDS[2:6]]
    low, high = froc.intervals(counts, ["a", "a", "b", "c"], unit).sensitivity[2]
    assert source["at 0.5"] == f"0.75 ({low:.2f}-{high:.2f})" and low < high
    everywhere = detection.sensitivity_table(RECORDS, unit, "all")
    assert "all images" in everywhere.note and "Without" not in everywhere.note
    # Rates 7 / 4, 5 / 4, 0.
    assert rows(everywhere)[0]["at 1"].startswith("0.00 (")


def test_the_table_of_the_operating_point():
    source, validation, film = rows(detection.point_table(RECORDS))
    assert source["clusters found"] == "3 of 4" and source["false per image"] == "0.500"
    assert source["counted on"] == "normal" and film["counted on"] == "all"
    assert film["clusters found"] == "2 of 3" and film["false per image"] == "5.000"
    assert source["threshold"] == f"{froc.THRESHOLDS[1]:.4f}" and source["asked"] == "0.5000"
    assert validation["clusters found"] == "3 of 3" and source["on validation"] == "0.2500"


@pytest.mark.parametrize("point", [{}, {"threshold": 0.3, "reached": None}])
def test_a_point_beside_the_ladder_has_no_counts(point):
    altered = copy.deepcopy(RECORDS)
    for record in altered[2:6]:
        record["point"] = point
    source = rows(detection.point_table(altered))[0]
    assert source["clusters found"] == source["false per image"] == source["asked"] == "-"


def test_the_table_of_calibration():
    source, *_ = [r for r in rows(detection.calibration_table(RECORDS)) if "0.6000" in r["scores"]]
    assert source["domain"] == "ffdm (source)" and source["share right"] == "0.000"
    every = [r for r in rows(detection.calibration_table(RECORDS)) if r["domain"] == "film"][-1]
    assert every["scores"] == "0.8000 to 0.9900" and every["clusters"] == "3"
    assert every["mean score"] == "0.897" and every["share right"] == "0.667"
    interval = binomtest(2, 3).proportion_ci(method="wilson")
    assert every["95% interval"] == f"{interval.low:.3f} to {interval.high:.3f}"


def test_the_groups_of_scores():
    rng = np.random.default_rng(0)
    scored = [
        {"score": float(s), "hit": bool(h)}
        for s, h in zip(rng.random(100), rng.random(100) < 0.4, strict=True)
    ]
    bins = reliability(scored, 4)
    assert [some.clusters for some in bins] == [25] * 4
    assert sum(some.hits for some in bins) == sum(s["hit"] for s in scored)
    assert all(a.high < b.low for a, b in zip(bins, bins[1:], strict=False))
    assert reliability(scored[::-1], 4) == bins
    ordered = sorted(scored, key=lambda s: s["score"])[25:50]
    assert bins[1].mean_score == pytest.approx(np.mean([s["score"] for s in ordered]))
    assert bins[1].hits == sum(s["hit"] for s in ordered)
    same = [{"score": 0.9, "hit": i % 2 == 0} for i in range(6)]
    assert reliability(same) == [Bin(0.9, 0.9, 6, pytest.approx(0.9), 3)]
    assert reliability([]) == []


@pytest.mark.parametrize(("hits", "n"), [(0, 4), (4, 4), (3, 17)])
def test_wilsons_interval(hits, n):
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert Bin(0, 1, n, 0.5, hits).interval() == pytest.approx(expected, abs=1e-6)


MAKERS = {
    "clusters": detection.sensitivity_table,
    "objects": lambda lines: detection.sensitivity_table(lines, "objects"),
    "point": detection.point_table,
    "calibration": detection.calibration_table,
    "froc picture": detection.froc_picture,
    "calibration picture": detection.calibration_picture,
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_changed_record_changes_what_is_shown_and_their_order_does_not(name):
    make = MAKERS[name]
    shown = make(RECORDS)
    edit = one_wrong if "calibration" in name else fewer_found
    assert make(changed(edit)) != shown
    order = [3, 5, 2, 4, 7, 6, 1, 0]  # domains stay in their order
    assert make([RECORDS[i] for i in order]) == shown


def test_lines_that_were_written_and_read_show_the_same(tmp_path):
    records.write_whole(tmp_path / "records.jsonl", RECORDS)
    again = records.read_whole(tmp_path / "records.jsonl")
    assert detection.sensitivity_table(again) == detection.sensitivity_table(RECORDS)


def test_pictures_where_nothing_is_labeled_or_marked():
    normal = [whole("film", record_of([0], [0], 0, True))]
    for picture in (detection.froc_picture(normal), detection.calibration_picture(normal)):
        image = np.asarray(Image.open(io.BytesIO(picture)).convert("L"))
        assert min(image.shape) > 400 and image.std() > 1
    (row,) = rows(detection.sensitivity_table(normal))
    assert row["at 0.5"] == row["area"] == "-"
    assert rows(detection.calibration_table(normal)) == []


def test_the_picture_has_a_line_of_its_own_color_for_each_domain():
    image = np.asarray(Image.open(io.BytesIO(detection.froc_picture(RECORDS))).convert("RGB"))
    for color in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)):
        assert (image == color).all(axis=-1).sum() > 200


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_without_whole_images_there_is_nothing_to_show(make):
    with pytest.raises(UserError, match="no whole image was recorded"):
        make(TILES)
