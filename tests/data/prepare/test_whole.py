"""Whole images of prepared folders: those that the tiles were cut from, in the same parts."""

import dataclasses
import shutil

import numpy as np
import pytest
import tiny
import trees
from PIL import Image

from mln_flax import config as configs
from mln_flax import files
from mln_flax.config import Config, DataConfig, SplitConfig, TilesConfig
from mln_flax.data.prepare import identity, prepare, prepared, prepared_set, staging, tiles, whole
from mln_flax.types import UserError

SPLIT = SplitConfig(validation=0.3, test=0.3)


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    """Slices of four patients in two domains, and their prepared folder: to be read only."""
    root = trees.write_npz(tmp_path_factory.mktemp("npz") / "data", images=6)
    data = trees.npz_settings(root, split=SPLIT)
    prepare.prepare(data, root.parent / "prepared")
    return data, root.parent / "prepared"


@pytest.fixture
def copy(npz, tmp_path):
    """A copy of both that may be changed: of the data, another place than it was prepared from."""
    data, folder = npz
    shutil.copytree(data.dir, tmp_path / "data")
    shutil.copytree(folder, tmp_path / "prepared")
    return dataclasses.replace(data, dir=str(tmp_path / "data")), tmp_path / "prepared"


def images_folder(root):
    """`images/` and `masks/` of six patients with two images each, every other one normal."""
    random = np.random.default_rng(0)
    lines = ["image,patient,spacing"]
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(12):
        height, width = 50 + number, 41 + number % 5
        pixels = (np.asarray(trees.breast((height, width))) * 200).astype(np.uint8)
        pixels = pixels + random.integers(0, 9, pixels.shape, np.uint8)
        mask = np.zeros_like(pixels)
        mask[20:24, 5:8] = 255 * (number % 2)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
        lines.append(f"{number}.png,anna{number // 2},0.07x0.05")
    (root / "cases.csv").write_text("\n".join(lines))
    return DataConfig(
        name="folder", dir=str(root), source="folder", targets=(), size=32, workers=1, split=SPLIT
    )


def of_tiles(part):
    """The image and patient that the tiles of a part tell, once each, in their order."""
    return list(
        dict.fromkeys((t.image_id.rpartition("_r")[0], t.patient_id) for t in part.examples)
    )


def assert_cut_from(data, folder, parts):
    """Cutting the whole images gives the stored tiles of that part, bit by bit, and no others."""
    loaded = prepared_set.load(data, folder)
    for part in parts:
        stored = loaded.part(part.domain, part.name)
        examples = list(part.examples)
        assert examples
        assert [(e.image_id, e.patient_id) for e in examples] == of_tiles(stored)
        assert part.patient_ids == stored.patient_ids
        assert tuple(int(e.mask.sum()) for e in examples) == part.label_pixels
        cut = [
            tile
            for example in examples
            for tile in tiles.cut(example, data.tiles.rows, data.tiles.columns, data.size)
        ]
        for one, other in zip(cut, stored.examples, strict=True):
            np.testing.assert_array_equal(
                prepared.to_bits(one.image), prepared.to_bits(other.image)
            )
            np.testing.assert_array_equal(one.mask, other.mask)
            assert one.spacing_mm == other.spacing_mm and one.label_kind == other.label_kind
            assert (one.to_image == other.to_image).all() and one.domain == other.domain


def test_slices_in_the_parts_of_their_tiles(npz):
    data, folder = npz
    before = tiny.snapshot(folder.parent)
    parts, left_out = whole.parts(data, folder, "test")
    assert [(part.domain, part.name) for part in parts] == [("film", "test"), ("ffdm", "test")]
    assert_cut_from(data, folder, parts)
    validation, _ = whole.parts(data, folder, "validation")
    assert [(part.domain, part.name) for part in validation] == [("film", "validation")]
    assert_cut_from(data, folder, validation)
    assert left_out == [] and not validation[0].patient_ids & parts[0].patient_ids
    example = parts[0].examples[0]
    known = {trees.drawn("film", i).image.tobytes(): trees.drawn("film", i).mask for i in range(6)}
    assert (known[example.image.tobytes()] == example.mask).all()
    assert tiny.snapshot(folder.parent) == before


@pytest.mark.parametrize("hide_names", [False, True])
def test_a_folder_of_ones_own(tmp_path, hide_names):
    data = dataclasses.replace(images_folder(tmp_path / "data"), hide_names=hide_names)
    prepare.prepare(data, tmp_path / "prepared")
    for name in ("validation", "test"):
        parts, _ = whole.parts(data, tmp_path / "prepared", name)
        assert_cut_from(data, tmp_path / "prepared", parts)
        assert parts[0].examples[0].spacing_mm == (0.07, 0.05)
        assert 0 < sum(n > 0 for n in parts[0].label_pixels) < len(parts[0].examples)


def orders(**changes):
    official = {0: "test", 1: "test"}
    return [
        trees.Order(
            f"{patient}_{view}",
            f"P{patient}",
            spots=view,
            part=official.get(patient, "train"),
            why="damaged" if (patient, view) == (0, 1) else "",
            **changes,
        )
        for patient in range(6)
        for view in range(2)
    ]


def test_official_parts_and_what_was_left_out_stay(tmp_path, monkeypatch):
    trees.enter(monkeypatch, orders())
    data = trees.made_settings(tmp_path / "data", split=SPLIT)
    report = prepare.prepare(data, tmp_path / "prepared")
    assert len(report["left_out"]) == 1
    for name, count in (("test", 3), ("validation", 2)):
        parts, _ = whole.parts(data, tmp_path / "prepared", name)
        assert_cut_from(data, tmp_path / "prepared", parts)
        assert len(parts[0].examples) % 2 == count % 2
        for example in parts[0].examples:
            assert example.objects is not None and ((example.objects > 0) == example.mask).all()


def test_an_image_is_read_when_it_is_asked_for(tmp_path, monkeypatch):
    trees.enter(monkeypatch, orders())
    data = trees.made_settings(tmp_path / "data", split=SPLIT)
    prepare.prepare(data, tmp_path / "prepared")
    real, read = staging.read, []

    def noted(entry, *names):
        read.append(entry.key)
        return real(entry, *names)

    monkeypatch.setattr(staging, "read", noted)
    ((part,), _) = whole.parts(data, tmp_path / "prepared", "test")
    assert len(part.examples) == 3 and read == []
    assert part.examples[1].image_id and read == ["1_0"]
    assert [e.image_id for e in part.examples[-2:]] == [e.image_id for e in list(part.examples)[1:]]


# What is refused


def refusal(data, folder):
    with pytest.raises(UserError) as error:
        parts, _ = whole.parts(data, folder, "test")
        for part in parts:
            list(part.examples)
    text = str(error.value)
    assert "case" not in text and text.count("\n") == 0  # no file, no patient
    return text


def test_a_copy_of_the_data_elsewhere_is_the_same(npz, copy):
    parts, _ = whole.parts(*copy, "test")
    there, _ = whole.parts(*npz, "test")
    assert [e.image_id for e in parts[0].examples] == [e.image_id for e in there[0].examples]


def test_data_that_is_gone(copy):
    data, folder = copy
    assert "data.dir=: not given" in refusal(dataclasses.replace(data, dir=""), folder)
    shutil.rmtree(data.dir)
    assert f"data.dir={data.dir}: no such folder" in refusal(data, folder)


@pytest.mark.parametrize("change", ["added", "removed", "longer"])
def test_other_files(copy, change):
    data, folder = copy
    path = next((folder.parent / "data" / "film").iterdir())
    if change == "added":
        path.with_name("case9_0.npz").write_bytes(path.read_bytes())
    elif change == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b" ")
    assert f"holds other files than those that were prepared in {folder}" in refusal(data, folder)


@pytest.mark.parametrize(
    ("change", "what"),
    [("image", "has another pixels"), ("label", "has another label_pixels, masks")],
)
def test_other_content_of_the_same_size(copy, change, what):
    data, folder = copy
    for path in (folder.parent / "data" / "film").iterdir():
        with np.load(path) as stored:
            arrays = dict(stored)
        if change == "image":
            arrays["image"] = arrays["image"] * np.float32(0.9)
        else:
            arrays["label"] = arrays["label"] | (np.arange(arrays["label"].size) == 777).reshape(
                arrays["label"].shape
            )
        size = path.stat().st_size
        np.savez(path, **arrays)
        assert path.stat().st_size == size
    assert what in refusal(data, folder).replace("another label_kind, label", "another label")


def test_a_file_that_cannot_be_read_any_more(copy):
    data, folder = copy
    for path in (folder.parent / "data" / "film").iterdir():
        path.write_bytes(b"0" * path.stat().st_size)
    assert "cannot be read: cannot be read: no whole .npz" in refusal(data, folder)


@pytest.mark.parametrize("salt", ["another", "missing"])
def test_another_secret_gives_other_ids(copy, salt):
    data, folder = copy
    path = folder.parent / "data" / identity.SALT_FILE
    path.unlink()
    if salt == "another":
        path.write_text("0" * 32)
    assert f"its {identity.SALT_FILE} is another one or missing" in refusal(data, folder)
    assert path.exists() == (salt == "another")


def test_patients_that_have_changed(tmp_path, monkeypatch):
    trees.enter(monkeypatch, orders())
    data = trees.made_settings(tmp_path / "data", split=SPLIT)
    prepare.prepare(data, tmp_path / "prepared")
    trees.enter(monkeypatch, [o._replace(patient=f"{o.patient}x") for o in orders()])
    assert "a table in it has changed" in refusal(data, tmp_path / "prepared")


# Other folders


@pytest.fixture(scope="module")
def also(tmp_path_factory):
    """A prepared folder of one's own images, whose label is given: to be read only."""
    data = images_folder(tmp_path_factory.mktemp("also") / "data")
    folder = tmp_path_factory.mktemp("also_prepared") / "prepared"
    prepare.prepare(dataclasses.replace(data, size=trees.SIZE, label="cluster"), folder)
    return data.dir, folder


def test_a_target_from_another_folder_counts_whole_where_its_files_are_known(npz, also):
    data, folder = npz
    place, other = also
    data = dataclasses.replace(data, targets=("folder", "ffdm"), also=(str(other),))
    parts, left_out = whole.parts(data, folder, "test")
    assert [part.domain for part in parts] == ["film", "ffdm"]
    assert [item for item, _ in left_out] == ["folder"]
    assert "is not known; give --config.data.also_dirs=FOLDER" in left_out[0].reason
    data = dataclasses.replace(data, also_dirs=(place,))
    parts, left_out = whole.parts(data, folder, "test")
    assert [part.domain for part in parts] == ["film", "folder", "ffdm"] and left_out == []
    assert_cut_from(data, folder, parts)
    assert (
        len(parts[1].examples) == files.read_json(other / prepare.REPORT)["totals"]["images"] == 12
    )
    validation, left_out = whole.parts(data, folder, "validation")
    assert [part.domain for part in validation] == ["film"] and left_out == []
    wrong = dataclasses.replace(data, also_dirs=(data.dir,))
    assert f"data.also_dirs={data.dir}: holds other files" in refusal(wrong, folder)


def test_other_data_folders_are_as_many_as_prepared_ones():
    config = Config(data=DataConfig(also=("a", "b"), also_dirs=("c",)))
    with pytest.raises(UserError, match=r"^--config.data.also_dirs=c: .*data.also, which are 2"):
        configs.validate(config)


def test_tiles_of_another_grid_are_of_the_same_images(tmp_path):
    data = dataclasses.replace(
        images_folder(tmp_path / "data"), tiles=TilesConfig(rows=1, columns=3)
    )
    prepare.prepare(data, tmp_path / "prepared")
    parts, _ = whole.parts(data, tmp_path / "prepared", "test")
    assert_cut_from(data, tmp_path / "prepared", parts)
