"""Whole images of a config: of phantoms and of files by one door."""

import dataclasses

import pytest
import tiny
import trees

from mln_flax import settings
from mln_flax.data import core
from mln_flax.data.prepare import prepare
from mln_flax.engine.whole_data import whole_images

WHOLE = {
    "data__phantom__whole_normal": "2",
    "data__phantom__whole_lesions": "1",
    "data__phantom__whole_test": "2",
    "data__phantom__spacing_mm": "2",
    "data__targets": "film,dbt",
}


def test_phantoms():
    config = tiny.config(**WHOLE)
    found = whole_images(config, "validation")
    assert [(part.domain, part.name, len(part.examples)) for part in found.parts] == [
        ("ffdm", "validation", 3)
    ]
    assert found.notes == ("ffdm validation: 3 whole images, 2 normal, 1 with a label",)
    tested = whole_images(config, "test")
    assert [part.domain for part in tested.parts] == ["ffdm", "film", "dbt"]
    assert [len(part.examples) for part in tested.parts] == [2, 2, 2] and tested.left_out == ()
    assert tested.parts[1].examples[0].domain == "film"
    patients = [patient for part in (*found.parts, *tested.parts) for patient in part.patient_ids]
    assert len(set(patients)) == len(patients) == 9


def test_files(tmp_path):
    root = trees.write_npz(tmp_path / "data", images=8)
    data = trees.npz_settings(root)
    prepare.prepare(data, tmp_path / "prepared")
    config = dataclasses.replace(tiny.config(), data=data)
    found = whole_images(config, "test", tmp_path / "prepared")
    assert [(part.domain, part.name) for part in found.parts] == [
        ("film", "test"),
        ("ffdm", "test"),
    ]
    assert found.parts[0].examples[0].image.shape == trees.SHAPE
    assert found.notes[0].startswith(f"film test: {len(found.parts[0].examples)} whole images, ")


def test_what_has_none_is_left_out_by_name(monkeypatch):
    monkeypatch.setitem(core.loaders._entries, "drawn", lambda data: core.DataSet(()))
    config = settings.override(tiny.config(), "data.name", "drawn")
    found = whole_images(config, "test")
    assert found.parts == () and [item for item, _ in found.left_out] == [
        "ffdm",
        "dbt",
        "film",
        "processing",
    ]
    assert found.notes[1] == "dbt: no whole images; the data set 'drawn' is drawn as windows alone"


def test_only_validation_and_test():
    with pytest.raises(ValueError, match="'train'; allowed: validation, test"):
        whole_images(tiny.config(), "train")
