"""Numbers of a measurement on whole images, from lines that are counted by hand."""

import math

import pytest
import whole_records

from mln_flax.results import froc_tables


def line(domain, truths=(), marks=(), patient=None, normal=None):
    """The line of an image: whether each labeled cluster is found, and whether each mark is."""
    normal = not truths if normal is None else normal
    found, false = sum(truths), len(marks) - sum(marks)
    detection = whole_records.record_of([found], [false], len(truths), normal)
    scored = [(0.9, hit) for hit in marks]
    image = whole_records.whole(domain, detection, scored, patient)
    image["truths"] = [{"hit": hit} for hit in truths]
    return image | {"image": image["image_id"]}


LINES = [
    line("a", [True, False, True], [True, True, False], "p1"),
    line("a", [False], [False], "p2"),
    line("a", [], [False, False], "p3"),
    line("a", [], [], "p3", normal=False),  # a calcification, no cluster
    line("b", [True], [True], "p4"),
    line("b", [], [False], "p5"),
]


def test_at_the_operating_point_each_is_counted_by_itself():
    shares = {name: froc_tables.at_point(some) for name, some in froc_tables.groups(LINES).items()}
    counted = {
        name: {what: (share.part, share.whole) for what, share in each.items()}
        for name, each in shares.items()
    }
    assert counted == {
        "all": {"clusters": (3, 5), "images": (2, 3), "false": (3, 2)},
        "a": {"clusters": (2, 4), "images": (1, 2), "false": (2, 1)},
        "b": {"clusters": (1, 1), "images": (1, 1), "false": (1, 1)},
    }
    whole = shares["all"]["clusters"]
    assert whole.value == pytest.approx(0.6) and whole.low <= 0.6 <= whole.high
    assert shares["a"]["false"].cell() == "2.00 (2.00-2.00)"


def test_an_image_counts_once_however_many_clusters_it_has():
    counts = froc_tables.counted(LINES, "images")
    assert [each["clusters"] for each in counts] == [1, 1, 0, 0, 1, 0]
    assert [each["clusters_found"][0] for each in counts] == [1, 0, 0, 0, 1, 0]
    numbers = froc_tables.numbers(LINES)["all"]
    assert numbers["clusters"]["sensitivity"][0] == pytest.approx(3 / 5)
    assert numbers["images"]["sensitivity"][0] == pytest.approx(2 / 3)
    assert froc_tables.counts(LINES) == {
        "images": 6,
        "patients": 5,
        "without calcifications": 2,
        "with clusters": 3,
        "with calcifications, no cluster": 1,
        "clusters": 5,
    }


def test_without_normal_images_false_clusters_are_counted_on_all_and_it_is_said():
    some = [LINES[0], LINES[1]]
    share = froc_tables.at_point(some)["false"]
    assert (share.part, share.whole) == (2, 2)
    assert "on all images" in froc_tables.tables(some)["point"].note
    assert "on all images" in froc_tables.tables(some)["sensitivity"].note
    assert "on all images" not in froc_tables.tables(LINES)["point"].note


def test_nothing_labeled_has_no_sensitivity():
    shares = froc_tables.at_point([LINES[2]])
    assert math.isnan(shares["clusters"].value) and shares["clusters"].cell() == "-"


def test_what_is_left_out_is_told_by_reason():
    left_out = [{"image": f"{n}.png", "reason": "cut short"} for n in range(10)]
    left_out.append({"image": "x.png", "reason": "no mask"})
    lines = froc_tables.by_reason(left_out)
    assert lines[0].startswith("10 not counted, cut short: 0.png, ")
    assert lines[0].endswith("7.png and 2 more") and lines[1] == "1 not counted, no mask: x.png"
