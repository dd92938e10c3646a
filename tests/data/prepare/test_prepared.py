"""Tiles stored once: the same bytes wherever, the same values back, and no TensorFlow to read."""

import errno
import json
import os

import numpy as np
import pytest
import tiny
import trees
from scipy import ndimage

from mln_flax.data.core import Example
from mln_flax.data.prepare import prepared, tiles
from mln_flax.types import UserError

SIDE = 16
ORDERS = (
    trees.Order("a", "P1", spots=3),
    trees.Order("b", "P2", spots=0, spacing_mm=None, shape=(64, 48)),
    trees.Order("c", "P3", spots=1, shape=(57, 91), domain="ffdm"),
)


def wholes():
    return [
        trees.example_of(order)._replace(image_id=f"i{order.key}", patient_id=f"p{order.key}")
        for order in ORDERS
    ]


def cuts():
    return [tile for whole in wholes() for tile in tiles.cut(whole, 2, 2, SIDE)]


def store(folder, examples, per_shard=4, split="film_train"):
    fields = [prepared.fields_of(tile, "train", 0.5) for tile in examples]
    shards = [fields[i : i + per_shard] for i in range(0, len(fields), per_shard)]
    prepared.write(folder, examples[0].mask.shape[0], {split: [shard.__iter__ for shard in shards]})
    return [(split, number) for number in range(len(fields))]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with the tiles of three images in three shards, and all places: to be read only."""
    folder = tmp_path_factory.mktemp("prepared")
    return folder, store(folder, cuts())


def same(found, tile):
    """Whether a stored tile is the one that was cut, its image to 16 bits."""
    rest = {"image": None, "mask": None, "to_image": None, "objects": None}
    assert found._replace(**rest) == tile._replace(**rest)
    assert np.abs(found.image - tile.image).max() <= 0.5 / 65535 + 1e-7
    assert found.image.dtype == np.float32 and found.mask.dtype == np.uint8
    assert (found.mask == tile.mask).all() and (found.to_image == tile.to_image).all()
    assert found.to_image.dtype == np.float64
    if tile.objects is None or not tile.objects.any():
        assert found.objects is None
    else:
        assert found.objects.dtype == np.uint16 and (found.objects == tile.objects).all()
    return True


def test_every_field_comes_back_in_any_order(stored):
    folder, places = stored
    expected = cuts()
    found = prepared.read(folder, places)
    assert len(found) == len(expected) == 12
    for index in np.random.default_rng(0).permutation(12):
        assert same(found[index], expected[index])
    assert same(found[-1], expected[-1])
    assert [tile.image_id for tile in found] == [tile.image_id for tile in expected]
    assert [tile.image_id for tile in found[7:2:-2]] == [e.image_id for e in expected[7:2:-2]]
    with pytest.raises(IndexError):
        found[12]


def test_places_choose_and_order_the_tiles(stored):
    folder, places = stored
    chosen = [places[9], places[0], places[9]]
    found = prepared.read(folder, chosen)
    assert [tile.image_id for tile in found] == ["ic_r0c1", "ia_r0c0", "ic_r0c1"]
    assert len(prepared.read(folder, [])) == 0


def test_spacing_that_is_not_known_stays_so(stored):
    folder, places = stored
    found = prepared.read(folder, places)
    assert [tile.spacing_mm is None for tile in found] == 4 * [False] + 4 * [True] + 4 * [False]
    assert found[0].spacing_mm == (0.2 * 41 / SIDE, 0.3 * 34 / SIDE)
    assert all(isinstance(length, float) for length in found[0].spacing_mm)
    assert found[0].image_shape == (81, 67)


def test_whole_images_come_back_from_their_stored_tiles(stored):
    folder, places = stored
    found = prepared.read(folder, places)
    for number, whole in enumerate(wholes()):
        of_image = found[4 * number : 4 * number + 4]
        objects = tiles.whole_objects(of_image, of_image[0].image_shape)
        assert (objects == whole.objects).all()


@pytest.mark.parametrize("size", [64, 200])
def test_distances_in_mm_are_the_same_on_stored_tile_and_image(tmp_path, size):
    shape, spacing = (257, 191), (0.07, 0.11)
    ends = np.array([(25, 20), (105, 70)])  # both on the first tile
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    mask = sum(np.hypot(rows - row, columns - column) <= 6 for row, column in ends)
    example = Example(
        trees.breast(shape), mask.astype(np.uint8), "i", "p", "film", "", "", spacing, "cluster"
    )
    (tmp_path / "out").mkdir()
    places = store(tmp_path / "out", tiles.cut(example, 2, 2, size))
    tile = prepared.read(tmp_path / "out", places)[0]
    spots, count = ndimage.label(tile.mask)
    assert count == 2
    found = np.array(ndimage.center_of_mass(tile.mask, spots, [1, 2]))
    on_tile = np.hypot(*((found[1] - found[0]) * tile.spacing_mm))
    assert on_tile == pytest.approx(np.hypot(*((ends[1] - ends[0]) * spacing)), rel=0.02)
    back = [tile.to_image @ (column, row, 1) for row, column in found]
    assert np.array(back)[:, ::-1] == pytest.approx(ends, abs=1)


def test_all_gray_levels_of_16_bits_are_kept(tmp_path):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = levels.astype(np.float32) / 65535
    assert (prepared.to_bits(image) == levels).all()
    mask = (levels % 7 == 0).astype(np.uint8)
    example = Example(image, mask, "i", "p", "film", "", "", None, "none")
    (tile,) = tiles.cut(example, 1, 1, 256)
    (found,) = prepared.read(tmp_path, store(tmp_path, [tile]))
    assert (found.image == image).all() and (found.mask == mask).all()
    assert (prepared.to_bits(found.image) == levels).all()


def test_several_splits_and_writing_twice(tmp_path):
    first, second = cuts()[:4], cuts()[4:9]
    for folder in (tmp_path / "a", tmp_path / "b"):  # in one process
        folder.mkdir()
        fields = {
            name: [prepared.fields_of(tile, "test", 0.5) for tile in chosen]
            for name, chosen in {"film_test": first, "ffdm_test": second}.items()
        }
        prepared.write(folder, SIDE, {name: [f.__iter__] for name, f in fields.items()})
        found = prepared.read(folder, [("ffdm_test", 4), ("film_test", 0)])
        assert same(found[0], second[4]) and same(found[1], first[0])
    assert trees.contents(tmp_path / "a") == trees.contents(tmp_path / "b")
    assert {path.split("/")[0] for path in trees.contents(tmp_path / "a")} == {prepared.BUILDER}


WRITE = """
import pathlib, sys
sys.path.insert(0, "tests/data/prepare")
import test_prepared
test_prepared.store(pathlib.Path(sys.argv[1]), test_prepared.cuts())
"""


def test_other_processes_write_the_same_bytes(stored, tmp_path):
    # Sets and protocol buffers' maps are ordered by hashes that differ from process to process.
    children = [
        tiny.python("-c", WRITE, tmp_path / seed, PYTHONHASHSEED=seed, PYTHONPATH="tests/support")
        for seed in ("1", "22")
    ]
    for child in children:
        _, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
    expected = trees.contents(stored[0])
    assert len(expected) == 5  # dataset_info.json, features.json, three shards
    assert trees.contents(tmp_path / "1") == trees.contents(tmp_path / "22") == expected


LEAN = """
import importlib.machinery, json, pathlib, sys

MISSING = {"tensorflow", "clu", "tensorboard", "pydicom", "gdcm", "matplotlib", "PIL", "jax"}

class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in MISSING else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Without
from mln_flax.data.prepare import prepared

places = [("film_train", number) for number in range(12)]
found = [prepared.read(pathlib.Path(sys.argv[1]), places)[i] for i in (11, 0, 5)]
assert not MISSING & set(sys.modules), MISSING & set(sys.modules)
print(json.dumps([[e.image_id, e.spacing_mm, prepared.to_bits(e.image).tolist()] for e in found]))
"""


def test_reading_needs_no_tensorflow(stored):
    child = tiny.python("-c", LEAN, stored[0])
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    expected = cuts()
    for said, index in zip(json.loads(out), (11, 0, 5), strict=True):
        tile = expected[index]
        assert said[:2] == [tile.image_id, tile.spacing_mm and list(tile.spacing_mm)]
        assert (np.array(said[2]) == np.round(tile.image * 65535)).all()


def shard(folder):
    """The second of three shards."""
    return next((folder / prepared.BUILDER / prepared.VERSION).glob("*-00001-of-00003"))


DAMAGE = {
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "end": lambda path: os.truncate(path, path.stat().st_size - 1),
    "first block": lambda path: os.truncate(path, 65536),
    "empty": lambda path: os.truncate(path, 0),
    "missing": lambda path: path.unlink(),
    "info": lambda path: (path.parent / "dataset_info.json").unlink(),
    "features": lambda path: (path.parent / "features.json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_tiles_are_named_before_anything_is_read(tmp_path, damage):
    places = store(tmp_path, cuts())
    DAMAGE[damage](shard(tmp_path))
    with pytest.raises(UserError, match="remove .* and prepare again") as caught:
        prepared.read(tmp_path, places)
    assert str(tmp_path / prepared.BUILDER) in str(caught.value) and "\n" not in str(caught.value)


def test_a_tile_damaged_within_is_named_when_it_is_read(tmp_path):
    places = store(tmp_path, cuts())
    path = shard(tmp_path)
    content = bytearray(path.read_bytes())
    middle = 65536 + len(bytes(content[65536:]).rstrip(b"\0")) // 2
    content[middle : middle + 300] = bytes(300)
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{prepared.BUILDER}.*remove {tmp_path} and prepare again"):
        list(prepared.read(tmp_path, places))


def test_what_is_not_stored_cannot_be_asked_for(stored, tmp_path):
    folder, places = stored
    with pytest.raises(UserError, match="film_train lacks tiles; remove"):
        prepared.read(folder, [*places, ("film_train", 12)])
    with pytest.raises(UserError, match="cannot be read .*remove"):
        prepared.read(folder, [("ffdm_train", 0)])
    with pytest.raises(UserError, match="cannot be read .*remove"):
        prepared.read(tmp_path, places)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENAMETOOLONG])
def test_what_the_disk_refuses_is_told_as_such(tmp_path, monkeypatch, number):
    import tensorflow_datasets as tfds

    said = f"write() failed: {os.strerror(number)}; writing x; at byte 4096; Failed to close"

    def full(*args, **kwargs):
        raise RuntimeError(said)  # as ArrayRecord says it

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", full)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        store(tmp_path, cuts()[:4])
    assert caught.value.errno == number
