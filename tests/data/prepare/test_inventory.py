"""Who is in which part, and the counts of a preparation, against counts by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mln_flax import files
from mln_flax.config import DataConfig, SplitConfig
from mln_flax.data.core import Entry
from mln_flax.data.prepare import inventory, splits, staging
from mln_flax.data.prepare.inventory import Staged
from mln_flax.types import UserError

DATA = DataConfig(name="made")


def image(key, patient, domain="film", part="", label=0, tiles=(0, 0), spacing=None, **facts):
    """An image as staged; `label` counts its labeled pixels, `tiles` those of its tiles."""
    known = {
        "image_id": f"i{key}",
        "domain": domain,
        "patient": f"hash of {patient}",
        "view_position": "CC",
        "height": 10,
        "width": 20,
        "spacing_mm": spacing,
        "label_kind": "calcification" if label else "none",
        "label_pixels": label,
        "tiles": len(tiles),
        "tile_breast": [0.5] * len(tiles),
        "tile_label_pixels": list(tiles),
        "repaired": [],
    }
    entry = Entry(key, patient, domain, part, (f"/archive/{key}.png",))
    return Staged(entry, Path(f"{key}.npz"), known | facts)


def test_what_the_collection_calls_its_test_part_stays_so():
    staged = [
        image(f"{part}{i}", f"{part} patient {i}", part=part, label=i % 3)
        for part in ("train", "test")
        for i in range(12)
    ]
    parts = inventory.parts(staged, DATA)
    assert {p for p, part in parts.items() if part == "test"} == {
        f"test patient {i}" for i in range(12)
    }
    held_out = {p for p, part in parts.items() if part == "validation"}
    assert held_out and held_out < {f"train patient {i}" for i in range(12)}
    assert len(parts) == 24
    # Validation is drawn as for any other collection without a test part.
    labeled = {f"train patient {i}": bool(i % 3) for i in range(12)}
    expected = splits.split(labeled, SplitConfig(test=0.0), labeled)
    assert {p: part for p, part in parts.items() if p in labeled} == expected


def test_without_parts_all_patients_are_split():
    staged = [image(f"{i}", f"P{i}", label=i % 2) for i in range(20)]
    parts = inventory.parts(staged, DATA)
    assert parts == splits.split(parts, DATA.split, {f"P{i}": bool(i % 2) for i in range(20)})
    other = inventory.parts(staged, dataclasses.replace(DATA, split=SplitConfig(seed=1)))
    assert other != parts and other.keys() == parts.keys()
    assert inventory.parts(staged[::-1], DATA) == parts


def test_a_patient_with_one_labeled_image_counts_as_labeled():
    staged = [image(f"{i}{j}", f"P{i}", label=j * (i % 2)) for i in range(9) for j in (0, 1, 0)]
    labeled = {f"P{i}": bool(i % 2) for i in range(9)}
    assert inventory.parts(staged, DATA) == splits.split(labeled, DATA.split, labeled)


def test_a_patient_is_in_the_same_part_in_all_domains():
    staged = [
        image(f"{domain}{i}", f"P{i}", domain) for domain in ("film", "ffdm") for i in range(9)
    ]
    parts = inventory.parts(staged, DATA)
    said = inventory.report(staged, [], parts)
    for shown in said["images"]:
        assert shown["part"] == parts[shown["patient"].removeprefix("hash of ")]


@pytest.mark.parametrize("names", [("train", "test"), ("test", "train"), ("", "test")])
def test_a_patient_in_two_parts_is_refused_without_a_name(names):
    staged = [image("a", "Jane", part="train"), image("b", "P2", part="test")]
    staged += [image(f"c{i}", "Doe", "AB"[i], part) for i, part in enumerate(names)]
    with pytest.raises(UserError, match="1 patient is in more than one part") as caught:
        inventory.parts(staged, DATA)
    text = str(caught.value).replace("hash of Doe", "its id")
    assert "its id" in text and "Doe" not in text and "Jane" not in text and "\n" not in text


def test_the_report_counts_what_is_there():
    staged = [
        image("a", "P1", label=7, tiles=(0, 3, 4), spacing=(0.1, 0.2), repaired=["x", "y"]),
        image("b", "P1", label=5, tiles=(5,), spacing=None, height=30),
        image("c", "P2", tiles=(0, 0), spacing=(0.5, 0.5), repaired=["x"]),
        image("d", "P2", "ffdm", label=2, tiles=(2, 1)),
        image("e", "P3", tiles=(0,)),
    ]
    part_of = {"P1": "train", "P2": "test", "P3": "train"}
    left_out = [{"file": f"f{i}", "reason": "blank" if i else "torn"} for i in range(4)]
    said = inventory.report(staged, left_out, part_of)
    assert said["left_out"] == left_out
    needed = {"image_id", "domain", "part", "patient", "tiles", "label_pixels", "spacing_mm"}
    for shown in said["images"]:
        assert needed | {"repaired"} <= set(shown)
    assert [shown["part"] for shown in said["images"]] == "train train test test train".split()
    assert [shown["first_tile"] for shown in said["images"]] == [0, 3, 0, 0, 4]
    totals = said["totals"]
    assert (totals["images"], totals["patients"], totals["labeled_images"]) == (5, 3, 3)
    assert (totals["tiles"], totals["labeled_tiles"]) == (9, 5)
    assert totals["pixels"] == 4 * 200 + 600 and totals["label_pixels"] == 14
    assert totals["label_area_mm2"] == pytest.approx(7 * 0.02)
    assert totals["images_with_spacing"] == 2
    assert totals["left_out"] == 4 and totals["left_out_by_reason"] == {"torn": 1, "blank": 3}
    assert totals["repaired"] == 2 and totals["repaired_by_reason"] == {"x": 2, "y": 1}
    shown = [(p["domain"], p["part"], p["images"], p["patients"]) for p in totals["parts"]]
    assert shown == [("film", "train", 3, 2), ("film", "test", 1, 1), ("ffdm", "test", 1, 1)]
    areas = [part["label_area_mm2"] for part in totals["parts"]]
    assert areas == [pytest.approx(0.14), 0, None]
    for key in ("images", "tiles", "pixels", "label_pixels", "labeled_images", "labeled_tiles"):
        assert sum(part[key] for part in totals["parts"]) == totals[key]


def test_the_manifest_tells_any_change_of_a_part():
    staged = [image(f"{i}", f"P{i}") for i in range(8)]
    parts = inventory.parts(staged, DATA)
    digest = splits.manifest(parts, DATA.split)["sha256"]
    assert splits.manifest(dict(reversed(parts.items())), DATA.split)["sha256"] == digest
    digests = {digest}
    for patient, part in parts.items():
        moved = parts | {patient: "test" if part != "test" else "train"}
        digests.add(splits.manifest(moved, DATA.split)["sha256"])
    assert len(digests) == 9


def test_the_sheet_shows_labeled_images_of_every_group_first(tmp_path):
    staged = []
    for number in range(80):
        path = tmp_path / f"{number}.npz"
        small = np.full((4, 3), number, np.uint8)
        files.write_npz(path, {"thumbnail": small, "outline": small > 40})
        domain, label = ("film", "ffdm")[number % 2], int(number > 60)
        one = image(f"{number}", f"P{number % 4}", domain, label=label)
        staged.append(one._replace(path=path))
    part_of = {"P0": "train", "P1": "train", "P2": "test", "P3": "test"}
    inventory.write_sheet(staged, part_of, tmp_path / "sheet.npz")
    with np.load(tmp_path / "sheet.npz") as sheet:
        titles = sheet["title"].tolist()
        numbers = [int(sheet[f"image{i}"][0, 0]) for i in range(len(titles))]
        outlines = [sheet[f"mask{i}"].any() for i in range(len(titles))]
    each = inventory.SHEET_IMAGES // 4
    groups = ["ffdm test CC", "ffdm train CC", "film test CC", "film train CC"]
    assert [title[: title.rindex(" ")] for title in titles] == [
        group for group in groups for _ in range(each)
    ]
    for title, number, outline in zip(titles, numbers, outlines, strict=True):
        part = "train" if number % 4 < 2 else "test"
        assert title == f"{('film', 'ffdm')[number % 2]} {part} CC i{number}"
        assert outline == (number > 40)
    labeled = [number > 60 for number in numbers]
    for start in range(0, len(numbers), each):
        assert labeled[start : start + each] == sorted(labeled[start : start + each], reverse=True)
        assert sum(labeled[start : start + each]) == 5 - (groups[start // each] == "film train CC")


def test_the_sheet_shows_one_of_each_group_where_there_are_many(tmp_path):
    path = tmp_path / "a.npz"
    files.write_npz(path, {"thumbnail": np.zeros((2, 2)), "outline": np.zeros((2, 2))})
    staged = [image(f"{i}", "P", f"domain{i:02d}")._replace(path=path) for i in range(40)]
    inventory.write_sheet(staged, {"P": "test"}, tmp_path / "sheet.npz")
    with np.load(tmp_path / "sheet.npz") as sheet:
        assert len(sheet["title"]) == 40
    assert staging.read_thumbnail(path)[0].shape == (2, 2)
