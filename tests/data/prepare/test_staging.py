"""One image staged by itself: whole or not at all, and what is told of it."""

import dataclasses
import os

import numpy as np
import pytest
import trees

from mln_flax import files
from mln_flax.data import core
from mln_flax.data.core import Collection, Unusable
from mln_flax.data.prepare import identity, prepared, staging, tiles
from mln_flax.data.prepare.staging import Task

ORDER = trees.Order("a", "P1")


def task(folder, order=ORDER):
    files = ("/archive/a.dcm", "/archive/mask.png")
    entry = core.Entry(
        order.key, order.patient, order.domain, order.part, files, repaired=order.repaired
    )
    return Task(entry, "i1", "p1", folder / "a.npz")


def stage(tmp_path, monkeypatch, order=ORDER, **changes):
    trees.enter(monkeypatch, [order])
    data = trees.made_settings(tmp_path / "data", **changes)
    one = task(tmp_path, order)
    staging.stage(one, data)
    return one.path, data


def test_what_is_staged_is_the_image_cut(tmp_path, monkeypatch):
    order = trees.Order("a", "P1", spots=3, repaired=("a border of 3 pixels",))
    path, data = stage(tmp_path, monkeypatch, order)
    whole = trees.example_of(order)._replace(image_id="i1", patient_id="p1")
    cut = tiles.cut(whole, 2, 2, trees.SIZE)
    facts = staging.read_facts(path)
    stored = list(staging.read_tiles(path, "test"))
    assert len(stored) == len(cut) == facts["tiles"] == 4
    for fields, tile in zip(stored, cut, strict=True):
        assert (fields["image"] == np.round(tile.image * 65535)).all()
        assert fields["image"].dtype == np.uint16 and fields["mask"].dtype == np.uint8
        assert (fields["mask"] == tile.mask).all()
        assert (fields["to_image"] == tile.to_image).all()
        assert tuple(fields["spacing_mm"]) == tile.spacing_mm
        assert (fields["image_id"], fields["patient_id"]) == (tile.image_id, "p1")
        assert (fields["part"], fields["label_kind"]) == ("test", "calcification")
    assert facts["label_pixels"] == np.count_nonzero(whole.mask) and facts["objects"] == 3
    assert facts["tile_label_pixels"] == [int(tile.mask.sum()) for tile in cut]
    breast = tiles.breast_mask(whole.image)
    shares = [tiles.breast_share(breast, tile) for tile in cut]
    assert facts["tile_breast"] == pytest.approx(shares, abs=1e-4)
    assert [fields["breast"].item() for fields in stored] == shares
    assert (facts["height"], facts["width"]) == order.shape
    assert facts["spacing_mm"] == [0.2, 0.3] and facts["repaired"] == ["a border of 3 pixels"]
    assert (facts["image_id"], facts["patient"], facts["domain"]) == ("i1", "p1", "film")
    assert (facts["laterality"], facts["view_position"]) == ("L", "MLO")
    small, outline = staging.read_thumbnail(path)
    assert small.shape == outline.shape == order.shape and outline.sum() == facts["label_pixels"]


def test_without_objects_the_mask_is_one(tmp_path, monkeypatch):
    order = trees.Order("a", "P1", spots=2)
    trees.enter(monkeypatch, [order])
    made = core.collections["made"]()

    def read(entry, data):
        reading = made.read(entry, data)
        return reading._replace(example=reading.example._replace(objects=None))

    monkeypatch.setitem(core.collections._entries, "made", lambda: Collection(made.index, read))
    one = task(tmp_path, order)
    staging.stage(one, trees.made_settings(tmp_path / "data"))
    assert staging.read_facts(one.path)["objects"] == 1
    assert max(fields["objects"].max(initial=0) for fields in staging.read_tiles(one.path, "")) == 1


def told(tmp_path, monkeypatch, read):
    """What is staged of an image whose collection reads like that."""
    monkeypatch.setitem(core.collections._entries, "made", lambda: Collection(None, read))
    one = task(tmp_path)
    staging.stage(one, trees.made_settings(tmp_path / "data"))
    return staging.read_facts(one.path)


def raises(error):
    def read(entry, data):
        raise error

    return read


def test_what_cannot_be_used_is_staged_with_its_reason_but_no_path(tmp_path, monkeypatch):
    # A path may name a patient, and what is staged stays where a preparation was stopped.
    said = told(tmp_path, monkeypatch, raises(Unusable("cut short; get it again")))
    assert said["left_out"] == "cut short; get it again" and "archive" not in str(said)
    said = told(tmp_path, monkeypatch, raises(Unusable("two masks", "/archive/mask.png")))
    assert said["left_out"] == "two masks" and "archive" not in str(said)


def test_an_image_is_marked_while_it_is_read(tmp_path, monkeypatch):
    marked, tasks = [], [task(tmp_path), task(tmp_path)._replace(path=tmp_path / "b.npz")]

    def read(entry, data):
        marked.append(staging.being_read(tasks))
        raise Unusable("torn")

    told(tmp_path, monkeypatch, read)
    assert marked == [[tasks[0]]] and staging.being_read(tasks) == []
    with pytest.raises(MemoryError):
        told(tmp_path, monkeypatch, raises(MemoryError()))
    assert staging.being_read(tasks) == []
    for one in tasks:
        one.path.with_suffix(staging.READING).touch()  # as a kill leaves them
    assert staging.being_read(tasks) == tasks
    staging.forget_reading(tmp_path)
    assert staging.being_read(tasks) == []


def test_an_unforeseen_fault_leaves_one_image_out_and_tells_no_values(tmp_path, monkeypatch):
    said = told(tmp_path, monkeypatch, raises(ZeroDivisionError("Doe^Jane")))
    assert "ZeroDivisionError" in said["left_out"] and "Jane" not in str(said)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_faults_of_the_machine_are_not_blamed_on_the_image(tmp_path, monkeypatch, error):
    with pytest.raises(type(error)):
        told(tmp_path, monkeypatch, raises(error))
    assert staging.read_facts(tmp_path / "a.npz") is None


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.full((40, 40), 0.3, np.float32), "no breast"),
        (np.linspace(0, 1, 40, dtype=np.float32)[None], "an image of 1x40 pixels is too small"),
    ],
)
def test_images_without_breast_or_size_are_left_out(tmp_path, monkeypatch, image, expected):
    example = trees.example_of(trees.Order("a", "P1"))
    mask = np.zeros(image.shape, np.uint8)
    example = example._replace(image=image, mask=mask, objects=None)
    monkeypatch.setattr(tiles, "breast_mask", breast_unless_flat)
    said = told(tmp_path, monkeypatch, lambda entry, data: core.Reading(example))
    assert expected in said["left_out"]


def breast_unless_flat(image):
    return np.full(image.shape, image.max() > image.min())


@pytest.mark.parametrize("damage", ["half", "one byte", "empty", "other", "zeros"])
def test_a_damaged_staged_file_counts_as_none(tmp_path, monkeypatch, damage):
    path, _ = stage(tmp_path, monkeypatch)
    content = path.read_bytes()
    damaged = {
        "half": content[: len(content) // 2],
        "one byte": content[:-1],
        "empty": b"",
        "other": b"PK\x03\x04 something else",
        # The first member, the facts, is overwritten; the archive's directory stands.
        "zeros": content[:60] + bytes(60) + content[120:],
    }
    path.write_bytes(damaged[damage])
    assert staging.read_facts(path) is None
    assert staging.read_facts(tmp_path / "missing.npz") is None


def test_a_staged_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        stage(tmp_path, monkeypatch)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def place(root, entry, data):
    """Where `prepare` stages an entry, by way of `prepare` itself."""
    from mln_flax.data.prepare import prepare

    found = []
    with pytest.MonkeyPatch.context() as patch:
        made = Collection(lambda data: core.Index((entry,)), None)
        patch.setitem(core.collections._entries, "made", lambda: made)
        patch.setattr(prepare.workers, "stage_all", lambda tasks, *_: found.extend(tasks) or ())
        with pytest.raises(ValueError, match="no image in it can be used"):
            prepare.prepare(data, root / f"out{len(list(root.iterdir()))}")
    return found[0].path.name


def test_what_is_stored_of_an_image_decides_where_it_is_staged(tmp_path):
    data = trees.made_settings(tmp_path / "data")
    image = tmp_path / "data" / "a.dcm"
    image.write_bytes(b"123")
    entry = core.Entry("a", "P1", "film", "", (str(image),), details=(1, None))
    first = place(tmp_path, entry, data)
    assert place(tmp_path, entry, data) == first
    changed = {
        "patient": entry._replace(patient="P2"),  # the table of patients was mended
        "domain": entry._replace(domain="ffdm"),
        "details": entry._replace(details=(2, None)),
        "repaired": entry._replace(repaired=("mask and crop exchanged",)),
        "key": entry._replace(key="b"),
    }
    others = {name: place(tmp_path, other, data) for name, other in changed.items()}
    assert [name for name, other in others.items() if other == first] == []
    assert place(tmp_path, entry, dataclasses.replace(data, point_radius_mm=0.5)) != first
    os.utime(image, ns=(1, 1))
    assert place(tmp_path, entry, data) != first
    second = place(tmp_path, entry, data)
    (tmp_path / "data" / identity.SALT_FILE).write_text("another salt")
    assert place(tmp_path, entry, data) != second  # ids are stored too


def test_staging_and_storing_agree_on_the_fields(tmp_path, monkeypatch):
    path, _ = stage(tmp_path, monkeypatch)
    assert set(next(staging.read_tiles(path, ""))) == set(prepared._features(trees.SIZE))
