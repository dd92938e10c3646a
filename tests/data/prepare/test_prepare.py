"""Preparation: the same bytes however it is done, nothing half done, nobody named."""

import dataclasses
import os
import pathlib
import unicodedata

import numpy as np
import pytest
import tiny
import trees

from mln_flax import files
from mln_flax.config import SplitConfig, TilesConfig
from mln_flax.data import disk
from mln_flax.data.prepare import prepare, prepared, prepared_set, splits, staging, tiles
from mln_flax.data.prepare.prepare import REPORT, SETTINGS, SHEET, SPLITS
from mln_flax.locks import LOCK
from mln_flax.types import UserError

WHOLE = {LOCK, REPORT, SETTINGS, SHEET, SPLITS, prepared.BUILDER}  # what a prepared folder holds


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A data folder of 16 phantoms of 4 patients in two domains: to be read only."""
    return trees.write_npz(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def done(tree):
    """That folder prepared without disturbance by one process: to be read only."""
    folder = tree.parent / f"{tree.name}_prepared"
    prepare.prepare(trees.npz_settings(tree), folder)
    return folder


# The same, however it is done


def test_two_processes_prepare_the_same_bytes(tree, done, tmp_path):
    said = prepare.prepare(trees.npz_settings(tree, workers=2), tmp_path / "two")
    assert trees.contents(tmp_path / "two") == trees.contents(done)
    assert trees.top(done) == WHOLE and said == files.read_json(done / REPORT)
    assert said["totals"]["images"] == 16 and said["left_out"] == []


def test_a_second_call_does_nothing(tree, tmp_path, monkeypatch):
    data = trees.npz_settings(tree)
    first = prepare.prepare(data, tmp_path / "out")
    before = tiny.snapshot(tmp_path)
    monkeypatch.setattr(staging, "stage", None)
    monkeypatch.setattr(prepared, "write", None)
    monkeypatch.setattr(files, "write_bytes", None)
    assert prepare.prepare(data, tmp_path / "out") == first
    # Other settings of a run are no other preparation; without the data folder it is found too.
    changed = dataclasses.replace(data, workers=3, cache_gb=1.0, source="ffdm", targets=())
    assert prepare.prepare(dataclasses.replace(changed, dir=""), tmp_path / "out") == first
    assert tiny.snapshot(tmp_path) == before


def test_images_stay_in_order_over_many_shards(tree, done, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "TILES_PER_SHARD", 8)
    said = prepare.prepare(trees.npz_settings(tree), tmp_path / "out")
    home = tmp_path / "out" / prepared.BUILDER / prepared.VERSION
    assert len(list(home.glob("*film_train*-of-00002"))) == 2
    assert said["images"] == files.read_json(done / REPORT)["images"]
    for image in said["images"]:
        split = prepared.split_name(image["domain"], image["part"])
        places = [(split, image["first_tile"] + i) for i in range(image["tiles"])]
        for tile, pixels in zip(
            prepared.read(tmp_path / "out", places), image["tile_label_pixels"], strict=True
        ):
            assert tile.image_id.startswith(image["image_id"] + "_r")
            assert (tile.patient_id, tile.domain) == (image["patient"], image["domain"])
            assert tile.mask.sum() == pixels


def test_masks_and_pixels_of_whole_images_come_back(tmp_path, monkeypatch):
    orders = [
        trees.Order("a", "P1", spots=5, shape=(257, 191), spacing_mm=(0.07, 0.11)),
        trees.Order("b", "P2", spots=2, shape=(200, 160), spacing_mm=None),
        trees.Order("c", "P3", spots=0, shape=(90, 301)),
    ]
    trees.enter(monkeypatch, orders)
    data = trees.made_settings(tmp_path / "data", split=SplitConfig(validation=0.0, test=0.0))
    said = prepare.prepare(data, tmp_path / "out")
    for image, order in zip(said["images"], orders, strict=True):
        whole = trees.example_of(order)
        places = [("film_train", image["first_tile"] + i) for i in range(image["tiles"])]
        stored = list(prepared.read(tmp_path / "out", places))
        objects = tiles.whole_objects(stored, stored[0].image_shape)
        assert objects.dtype == np.uint16 and (objects == whole.objects).all()
        assert image["label_pixels"] == np.count_nonzero(objects)
        assert image["objects"] == order.spots
        back = tiles.put_back(
            [tile.image for tile in stored], [tile.to_image for tile in stored], order.shape
        )
        assert np.abs(back - whole.image).mean() < 0.01
        if order.spacing_mm:
            tall, wide = -(-order.shape[0] // 2), -(-order.shape[1] // 2)
            expected = order.spacing_mm[0] * tall / 64, order.spacing_mm[1] * wide / 64
            assert stored[0].spacing_mm == pytest.approx(expected, rel=1e-12)
        assert image["spacing_mm"] == (order.spacing_mm and list(order.spacing_mm))


# What is refused


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"size": 32}, "size 64 instead of 32"),
        ({"tiles": TilesConfig(rows=3)}, "rows 2 instead of 3"),
        ({"tiles": TilesConfig(columns=1)}, "columns 2 instead of 1"),
        ({"label": "cluster"}, "label '' instead of 'cluster'"),
        ({"point_radius_mm": 0.5}, "point_radius_mm 0.25 instead of 0.5"),
        ({"hide_names": True}, "hide_names False instead of True"),
        ({"split": SplitConfig(seed=3)}, "split_seed 0 instead of 3"),
        ({"split": SplitConfig(test=0.3)}, "test 0.25 instead of 0.3"),
        ({"split": SplitConfig(validation=0.3)}, "validation 0.15 instead of 0.3"),
        ({"name": "folder"}, "name 'npz' instead of 'folder'"),
    ],
)
def test_other_settings_are_named(tree, done, change, named):
    before = tiny.snapshot(done)
    data = dataclasses.replace(trees.npz_settings(tree), **change)
    with pytest.raises(UserError) as caught:
        prepare.prepare(data, done)
    assert str(done) in str(caught.value) and f"({named})" in str(caught.value)
    assert "take another folder, or remove it" in str(caught.value)
    assert tiny.snapshot(done) == before


def test_an_unfinished_folder_belongs_to_its_settings_too(tree, tmp_path, monkeypatch):
    data, out = trees.npz_settings(tree), tmp_path / "out"
    trees.interrupt(monkeypatch, 2)
    with pytest.raises(trees.Interrupted):
        prepare.prepare(data, out)
    with pytest.raises(UserError, match="size 64 instead of 32"):
        prepare.prepare(dataclasses.replace(data, size=32), out)


def test_another_data_folder_is_refused_and_not_named(tree, done, tmp_path):
    other = trees.write_npz(tmp_path / "Jane", images=2)
    with pytest.raises(UserError, match="prepared with other settings .folder '"):
        prepare.prepare(trees.npz_settings(other), done)
    everything = b"".join(trees.contents(done).values())
    assert str(tree).encode() not in everything and tree.name.encode() not in everything
    assert prepare.default_folder(trees.npz_settings(other), tmp_path / "run") != (
        prepare.default_folder(trees.npz_settings(tree), tmp_path / "run")
    )


def test_a_foreign_folder_is_refused_and_left_as_it_is(tree, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=f"{tmp_path} holds other files; give a folder of its own"):
        prepare.prepare(trees.npz_settings(tree), tmp_path)
    assert trees.top(tmp_path) == {"notes.txt"}


def test_what_a_file_manager_left_in_the_folder_is_no_obstacle(tree, tmp_path):
    for name in (".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"left behind")
    prepare.refuse_other_settings(trees.npz_settings(tree), tmp_path)


def test_a_folder_inside_the_data_is_refused_and_not_made(tmp_path):
    tree = trees.write_npz(tmp_path / "tree", images=2)
    before = tiny.snapshot(tree)
    for inside in (tree / "prepared", tree / "film" / "a" / "b", tmp_path / "x" / ".." / "tree/x"):
        with pytest.raises(UserError, match="lies inside --config.data.dir; take a folder outside"):
            prepare.prepare(trees.npz_settings(tree), inside)
    assert tiny.snapshot(tree) == before and trees.top(tree) == {"film", "ffdm"}


@pytest.mark.parametrize("data_dir", ["", "missing"])
def test_a_data_folder_that_is_not_there_leaves_no_trace(tmp_path, data_dir):
    data = trees.npz_settings(tmp_path / data_dir if data_dir else "")
    with pytest.raises(UserError, match="data.dir"):
        prepare.prepare(data, tmp_path / "out")
    assert not (tmp_path / "out" / SETTINGS).exists()


def test_a_file_in_the_place_of_the_folder_is_told(tree, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match=str(tmp_path / "out")):
        prepare.prepare(trees.npz_settings(tree), tmp_path / "out")


def test_changed_data_is_noticed(tmp_path):
    tree = trees.write_npz(tmp_path / "tree", images=4, domains=("film",))
    data = trees.npz_settings(tree)
    said = prepare.prepare(data, tmp_path / "out")
    assert not prepare.has_changed(data, said)
    (tree / "film" / "case1_1.npz").unlink()
    assert prepare.has_changed(data, said)
    assert not prepare.has_changed(dataclasses.replace(data, dir=""), said)


# What cannot be used


BAD = [trees.Order(f"{i}", f"P{i}", why="" if i % 3 else f"torn {i % 2}") for i in range(9)]


def test_what_is_left_out_is_counted_with_file_and_reason(tmp_path, monkeypatch):
    other = [("list.csv", "line 3: no image"), ("Doe_L.dcm", "a mask without an image")]
    trees.enter(monkeypatch, BAD, other, secrets=["Doe^Jane"])
    data = trees.made_settings(tmp_path / "data")
    said = prepare.prepare(data, tmp_path / "out")
    assert [tuple(one) for one in map(dict.keys, said["left_out"])] == 5 * [("file", "reason")]
    left_out = {one["file"]: one["reason"] for one in said["left_out"]}
    (hidden,) = [name for name in left_out if name.endswith("_L.dcm")]
    assert hidden.startswith("p") and left_out.pop(hidden) == "a mask without an image"
    assert left_out == {
        "0.dcm": "torn 0",
        "3.dcm": "torn 1",
        "6.dcm": "torn 0",
        "list.csv": "line 3: no image",
    }
    totals = said["totals"]
    assert (totals["images"], totals["left_out"]) == (6, 5)
    assert totals["left_out_by_reason"]["torn 0"] == 2
    loaded = prepared_set.load(data, tmp_path / "out")
    assert {(one.item, one.reason) for one in loaded.left_out} == (
        {*left_out.items(), (hidden, "a mask without an image")}
    )
    assert "6 images, 5 left out" in loaded.notes[0]
    hide = dataclasses.replace(data, hide_names=True)
    names = [one["file"] for one in prepare.prepare(hide, tmp_path / "hidden")["left_out"]]
    assert all(len(name) == 17 and name[-4:] in (".dcm", ".csv") for name in names)


def test_the_file_at_fault_is_named(tmp_path, monkeypatch):
    why = "a mask of 3x3 pixels"
    bad = trees.Order("b", "P2", why=why, mask="masks/b_mask.png")
    trees.enter(monkeypatch, [trees.Order("a", "P1"), bad])
    said = prepare.prepare(trees.made_settings(tmp_path / "data"), tmp_path / "out")
    assert said["left_out"] == [{"file": "masks/b_mask.png", "reason": why}]


def test_stop_ends_at_the_first_with_its_file_and_reason(tmp_path, monkeypatch):
    trees.enter(monkeypatch, BAD)
    staged = trees.interrupt(monkeypatch, 99)
    data = trees.made_settings(tmp_path / "data", on_error="stop")
    with pytest.raises(UserError, match="^0.dcm: torn 0. --config.data.on_error=report leaves"):
        prepare.prepare(data, tmp_path / "out")
    assert len(staged) == 1 and not (tmp_path / "out" / REPORT).exists()
    said = prepare.prepare(dataclasses.replace(data, on_error="report"), tmp_path / "out")
    assert len(staged) == 9 and said["totals"]["left_out"] == 3


def test_stop_ends_before_reading_where_the_collection_knows_it(tmp_path, monkeypatch):
    trees.enter(monkeypatch, BAD, [("a.csv", "torn"), ("b.csv", "blank")])
    trees.interrupt(monkeypatch, 0)
    data = trees.made_settings(tmp_path / "data", on_error="stop")
    with pytest.raises(UserError, match="^a.csv: torn. "):
        prepare.prepare(data, tmp_path / "out")


def test_nothing_to_use_is_an_error_that_shows_why(tmp_path, monkeypatch):
    trees.enter(monkeypatch, [trees.Order("a", "P1", why="torn"), trees.Order("b", "P1", why="x")])
    data = trees.made_settings(tmp_path / "data")
    for _ in range(2):  # also where it is staged already
        with pytest.raises(UserError, match="no image in it can be used. a.dcm: torn; b.dcm: x"):
            prepare.prepare(data, tmp_path / "out")
    assert not (tmp_path / "out" / REPORT).exists()


def test_file_names_of_other_encodings_are_no_obstacle(tmp_path):
    tree = trees.write_npz(tmp_path / "tree", images=4, domains=("film",))
    odd = os.fsencode(tree / "film") + b"/M\xfcller_0.npz"
    (tree / "film" / "case0_0.npz").rename(os.fsdecode(odd))
    torn = os.fsencode(tree / "film") + b"/\xe4_0.npz"
    pathlib.Path(os.fsdecode(torn)).write_bytes(b"torn")
    said = prepare.prepare(trees.npz_settings(tree), tmp_path / "out")
    assert said["totals"]["images"] == 4 and len(said["left_out"]) == 1
    assert said == files.read_json(tmp_path / "out" / REPORT)


def test_a_data_folder_of_another_encoding_is_prepared(tmp_path):
    root = pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller"))
    data = trees.npz_settings(trees.write_npz(root, images=4, domains=("film",)), targets=())
    assert prepare.default_folder(data, tmp_path / "run").name.startswith("npz_64_")
    assert prepare.prepare(data, tmp_path / "out")["totals"]["images"] == 4


def test_links_to_files_that_are_not_here_are_counted_and_noticed_when_they_come(tmp_path):
    tree = trees.write_npz(tmp_path / "tree", images=4, domains=("film",))
    (tree / "film/case0_0.npz").rename(tmp_path / "content")
    (tree / "film/case0_0.npz").symlink_to(tmp_path / "annex")
    data = trees.npz_settings(tree, targets=())
    said = prepare.prepare(data, tmp_path / "out")
    assert said["left_out"] == [{"file": "film/case0_0.npz", "reason": disk.ABSENT}]
    assert said["totals"]["images"] == 3
    (tree / ".DS_Store").write_bytes(b"a file manager was here")
    assert not prepare.has_changed(data, said)
    (tmp_path / "content").rename(tmp_path / "annex")
    assert prepare.has_changed(data, said)


def test_a_domain_whose_name_no_file_can_take_is_refused(tmp_path):
    for length in (prepare.LONGEST_DOMAIN, prepare.LONGEST_DOMAIN + 1):
        root, domain = tmp_path / f"{length}", "x" * length
        trees.write_npz(root, images=4, domains=("film",))
        (root / "film").rename(root / domain)
        data = trees.npz_settings(root, source=domain, targets=())
        if length == prepare.LONGEST_DOMAIN:
            assert prepare.prepare(data, tmp_path / "out")["totals"]["images"] == 4
        else:
            with pytest.raises(UserError, match="a domain has a name of 201 letters; files are"):
                prepare.prepare(data, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("grid", [(1, 1), (2, 2)])
def test_images_of_a_few_pixels_are_prepared_or_left_out_by_name(tmp_path, grid):
    """Of every shape up to 8 x 8, with a pixel labeled or none."""
    (tmp_path / "in/film").mkdir(parents=True)
    shapes = list(np.ndindex(8, 8))
    for number, (rows, columns) in enumerate(shapes):
        image = np.random.default_rng(number).random((rows + 1, columns + 1))
        label = image == image.max() if number % 2 else np.zeros(image.shape)
        path = tmp_path / f"in/film/case{number}_1.npz"
        np.savez(path, image=np.round(image * 255).astype(np.uint8), label=label)
    tiling = {"tiles": TilesConfig(*grid), "targets": ()}
    said = prepare.prepare(trees.npz_settings(tmp_path / "in", **tiling), tmp_path / "out")
    totals = said["totals"]
    assert totals["images"] + totals["left_out"] == len(shapes) and totals["images"] > 20
    assert not any("fault of this program" in reason for reason in totals["left_out_by_reason"])
    if grid == (2, 2):
        assert any("too small to cut" in reason for reason in totals["left_out_by_reason"])


# Parts and ids


def test_official_parts_are_kept_and_patients_joint(tmp_path, monkeypatch):
    orders = [
        trees.Order(f"{domain}{part}{i}", f"{part}{i}", domain, part)
        for domain in ("film", "ffdm")
        for part in ("train", "test")
        for i in range(6)
    ]
    trees.enter(monkeypatch, orders)
    data = trees.made_settings(tmp_path / "data", targets=("ffdm",))
    said = prepare.prepare(data, tmp_path / "out")
    parts = {}
    for image, order in zip(said["images"], orders, strict=True):
        assert image["part"] == parts.setdefault(image["patient"], image["part"])
        assert (image["part"] == "test") == (order.part == "test")
    assert sorted(parts.values()) == 6 * ["test"] + 5 * ["train"] + ["validation"]
    manifest = files.read_json(tmp_path / "out" / SPLITS)
    shown = {patient: part for part, ids in manifest["parts"].items() for patient in ids}
    assert shown == parts
    loaded = prepared_set.load(data, tmp_path / "out")
    assert len(loaded.part("film", "test").patient_ids) == 6


def test_one_patient_spelled_in_two_ways_is_in_one_part(tmp_path, monkeypatch):
    whole, parted = (unicodedata.normalize(form, "Zoé") for form in ("NFC", "NFD"))
    orders = [trees.Order("a", whole, part="train"), trees.Order("b", parted, "ffdm", "test")]
    trees.enter(monkeypatch, orders)
    with pytest.raises(UserError, match="1 patient is in more than one part"):
        prepare.prepare(trees.made_settings(tmp_path / "data"), tmp_path / "out")


def test_a_patient_in_both_official_parts_stops_all(tmp_path, monkeypatch):
    orders = [trees.Order("a", "Jane", part="train"), trees.Order("b", "Jane", "ffdm", "test")]
    trees.enter(monkeypatch, orders)
    with pytest.raises(UserError, match="1 patient is in more than one part") as caught:
        prepare.prepare(trees.made_settings(tmp_path / "data"), tmp_path / "out")
    assert "Jane" not in str(caught.value)
    assert not (tmp_path / "out" / REPORT).exists()


def test_the_manifest_is_that_of_the_archive_whatever_the_salt(tmp_path, monkeypatch):
    orders = [trees.Order(f"{i}", f"P{i // 2}") for i in range(8)]
    found = []
    for name in ("one", "two", "moved"):
        if name == "moved":  # a patient less, so at least one is elsewhere
            orders = orders[:6]
        trees.enter(monkeypatch, orders)
        data = trees.made_settings(tmp_path / name)
        said = prepare.prepare(data, tmp_path / f"{name}_out")
        found.append((said, files.read_json(tmp_path / f"{name}_out" / SPLITS)))
    (one, first), (two, second), (_, moved) = found
    assert first["archive_sha256"] == second["archive_sha256"] != moved["archive_sha256"]
    assert first["sha256"] != second["sha256"]
    for manifest in (first, second, moved):
        own = {k: manifest[k] for k in ("seed", "shares", "parts")}
        assigned = {p: part for part, ids in own["parts"].items() for p in ids}
        assert splits.manifest(assigned, SplitConfig())["sha256"] == manifest["sha256"]
        assert manifest["sha256"] != manifest["archive_sha256"]
    assert [i["part"] for i in one["images"]] == [i["part"] for i in two["images"]]
    ids = [{i["image_id"] for i in said["images"]} for said in (one, two)]
    assert len(ids[0]) == len(ids[1]) == 8 and not ids[0] & ids[1]
    patients = [{i["patient"] for i in said["images"]} for said in (one, two)]
    assert len(patients[0]) == len(patients[1]) == 4 and not patients[0] & patients[1]


def test_ids_stay_when_images_are_added(tmp_path, monkeypatch):
    orders = [trees.Order(f"{i}", f"P{i}") for i in range(5)]
    data = trees.made_settings(tmp_path / "data")
    found = []
    for count in (4, 5):
        trees.enter(monkeypatch, orders[:count])
        said = prepare.prepare(data, tmp_path / f"out{count}")
        found.append([(image["image_id"], image["patient"]) for image in said["images"]])
    assert found[1][:4] == found[0]


def test_other_patients_in_the_table_are_not_overlooked_by_a_second_run(tmp_path, monkeypatch):
    # Stopped, then the patients are mended in a table, then finished.
    data = trees.made_settings(tmp_path / "data", split=SplitConfig(validation=0.0, test=0.0))
    orders = [trees.Order("a", "P1"), trees.Order("b", "P2")]
    trees.enter(monkeypatch, orders)
    with monkeypatch.context() as patch:
        trees.interrupt(patch, 1)
        with pytest.raises(trees.Interrupted):
            prepare.prepare(data, tmp_path / "out")
    trees.enter(monkeypatch, [order._replace(patient="P2") for order in orders])
    said = prepare.prepare(data, tmp_path / "out")
    assert len({image["patient"] for image in said["images"]}) == 1
    found = prepared.read(tmp_path / "out", [("film_train", 0), ("film_train", 4)])
    assert {tile.patient_id for tile in found} == {said["images"][0]["patient"]}
