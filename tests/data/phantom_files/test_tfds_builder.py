"""Phantoms by TFDS: the same as drawn, by patient, in any number, and never another code's."""

import importlib
import json

import numpy as np
import pytest

from mln_flax.data.phantom_files import plan, tfds_builder
from mln_flax.data.phantoms import phantom
from mln_flax.types import UserError

tfds = pytest.importorskip("tensorflow_datasets")
FEW = {"count": 6, "size": 32, "validation": 0.3, "test": 0.3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def builder(folder):
    config = tfds_builder.MlnFlaxPhantoms.config("film", **FEW)
    builder = tfds.builder("mln_flax_phantoms", config=config, data_dir=folder)
    tfds.disable_progress_bar()
    builder.download_and_prepare()
    return builder


def test_examples_are_the_phantoms(builder):
    patients = []
    for part, count in (("train", 2), ("validation", 2), ("test", 2)):
        examples = list(tfds.as_numpy(builder.as_dataset(part)))
        assert len(examples) == count
        for example in examples:
            domain, seed, index = example["image_id"].decode().split("-")
            patients.append(example["patient_id"].decode())
            drawn = phantom.phantom(int(seed), domain, int(index), height=32, width=32)
            assert example["image"].dtype == np.uint16 and example["image"].shape == (32, 32, 1)
            np.testing.assert_array_equal(
                example["image"][..., 0], np.round(drawn.image * np.float32(65535))
            )
            np.testing.assert_array_equal(example["mask"][..., 0], drawn.mask)
            assert example["view"].decode() == drawn.view_position
            assert example["laterality"].decode() == drawn.laterality
            np.testing.assert_allclose(example["spacing_mm"], 0.1)
            areas = example["objects"]["area_mm2"]
            np.testing.assert_allclose(areas.sum(), drawn.mask.sum() * 0.01, rtol=1e-4, atol=1e-9)
            spots = plan.marks_of(drawn).calcifications
            np.testing.assert_allclose(
                example["objects"]["row"], [s.row_px for s in spots], atol=1e-3
            )
    assert len(set(patients)) == 6


def test_each_machine_has_a_config(folder):
    assert set(tfds_builder.MlnFlaxPhantoms.builder_configs) == set(phantom.DOMAINS)
    builder = tfds.builder("mln_flax_phantoms/dbt", data_dir=folder)
    assert builder.builder_config.domain == "dbt" and builder.builder_config.count > 0


def test_other_numbers_have_other_folders():
    config = tfds_builder.MlnFlaxPhantoms.config
    names = {config("film", count=count).name for count in (1234567, 1234568, 3)}
    assert len(names | {config("film", count=3, whole=True).name, "film"}) == 5
    with pytest.raises(UserError, match="unexpected keyword argument 'cuont'"):
        config("film", cuont=3)
    with pytest.raises(UserError, match="unknown phantom domain 'flim'"):
        config("flim")


def test_phantoms_of_other_code_are_refused(builder, folder):
    path = next((folder / "mln_flax_phantoms" / builder.builder_config.name).rglob("metadata.json"))
    stored = path.read_text()
    path.write_text(json.dumps(json.loads(stored) | {"drawing_code": "other"}))
    try:
        with pytest.raises(UserError, match="holds phantoms that other code has drawn; remove it"):
            tfds.builder("mln_flax_phantoms", config=builder.builder_config, data_dir=folder)
    finally:
        path.write_text(stored)


def test_a_name_that_the_module_lacks():
    with pytest.raises(AttributeError, match="has no attribute 'Phantoms'"):
        importlib.import_module(tfds_builder.__name__).Phantoms  # noqa: B018
