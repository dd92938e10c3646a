import pickle
import re
import unicodedata

import numpy as np
import pytest

from mln_flax.config import DataConfig
from mln_flax.data.core import LeftOut, Unusable, collections
from mln_flax.data.phantoms.phantom import phantom
from mln_flax.data.sets import npz
from mln_flax.types import UserError

RNG = np.random.default_rng(0)
IMAGE = RNG.random((20, 30))
LABEL = (IMAGE > 0.9).astype(np.uint8)


def settings(folder, **changes):
    return DataConfig(name="npz", dir=str(folder), source="npz", targets=(), **changes)


def write(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **({"image": IMAGE, "label": LABEL} | arrays))
    return path


def read(folder, **changes):
    """The reading of the only file of a folder."""
    (entry,) = npz.index(settings(folder)).entries
    return npz.read(entry, settings(folder, **changes))


def reason(folder, **arrays):
    write(folder / "a_1.npz", **arrays)
    with pytest.raises(Unusable) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_slice_and_its_label(tmp_path):
    write(tmp_path / "case7_12.npz")
    example, repaired = read(tmp_path)
    assert example.image.dtype == np.float32 and example.mask.dtype == np.uint8
    assert np.abs(example.image - IMAGE).max() < 1e-7 and (example.mask == LABEL).all()
    assert (example.label_kind, example.spacing_mm, example.domain) == (
        "calcification",
        None,
        "npz",
    )
    assert (example.image_id, example.patient_id) == ("", "") and repaired == ()
    assert read(tmp_path, label="cluster").example.label_kind == "cluster"
    write(tmp_path / "case7_12.npz", label=np.zeros((20, 30), bool))
    example = read(tmp_path).example
    assert example.label_kind == "none" and not example.mask.any()


def test_folders_are_domains_and_slices_of_a_case_stay_together(tmp_path):
    for name in ("A-1/x_1", "A-1/x_02", "B/deep/x_3", "B/lone", "case_9_10"):
        write(tmp_path / f"{name}.npz")
    index = collections["npz"]().index(settings(tmp_path))
    assert [(e.key, e.patient, e.domain, e.part) for e in index.entries] == [
        ("A-1/x_02", "x", "A_1", ""),
        ("A-1/x_1", "x", "A_1", ""),
        ("B/deep/x_3", "x", "B", ""),
        ("B/lone", "lone", "B", ""),
        ("case_9_10", "case_9", "npz", ""),
    ]
    assert index.left_out == () and index.secrets == frozenset()
    assert pickle.loads(pickle.dumps(index)) == index


def test_the_published_layout_gives_the_parts(tmp_path):
    for name in ("train/t2_ss/sample0_1", "val/t2_ss/sample1_1", "test/t1/test_sample1", "Test/q"):
        write(tmp_path / f"{name}.npz")
    found = {(e.patient, e.domain, e.part) for e in npz.index(settings(tmp_path)).entries}
    assert found == {
        ("sample0", "t2_ss", "train"),
        ("sample1", "t2_ss", "train"),
        ("test_sample1", "t1", "test"),
        ("q", "npz", "test"),
    }


BYTES = np.arange(600).reshape(20, 30) % 256
GRAY = {
    "bytes": (BYTES.astype(np.uint8), BYTES / 255, 255),
    "bytes_in_longer_numbers": (BYTES.astype(np.int64), BYTES / 255, 255),
    "twelve_bits": (BYTES.astype(np.uint16) * 16, BYTES * 16 / 4095, 4095),
    "ten_bits": (BYTES.astype(np.int16) * 2, BYTES * 2 / 1023, 1023),
    "sixteen_bits": (BYTES.astype(np.uint16) * 257, BYTES / 255, 65535),
    "around_zero": ((BYTES / 127.5 - 1).astype(np.float32), BYTES / 255, 1),
    "just_beyond": (BYTES / 127.499 - 1, BYTES / 255, 1),
    "floats_to_255": (BYTES.astype(np.float64), BYTES / 255, 255),
    "halves": (BYTES.astype(np.float16), BYTES / 255, 255),
}


@pytest.mark.parametrize("name", GRAY)
def test_gray_levels_by_type_and_range(tmp_path, name):
    pixels, expected, white = GRAY[name]
    write(tmp_path / "a_1.npz", image=pixels)
    example, repaired = read(tmp_path)
    assert np.abs(example.image - expected).max() < 1e-5
    assert 0 <= example.image.min() and example.image.max() <= 1
    assert len(repaired) == 1 and f"to {white} taken to 0 to 1" in repaired[0]


@pytest.mark.parametrize("shape", ["[H,W,3]", "[1,H,W]", "[4,H,W]", "[H,W,1]"])
def test_equal_channels_are_one(tmp_path, shape):
    count = int(shape.strip("[]").replace("H,W", "").strip(","))
    axis = 0 if shape.startswith("[1") or shape.startswith("[4") else -1
    write(tmp_path / "a_1.npz", image=np.stack([IMAGE] * count, axis), mask=LABEL[..., None])
    with pytest.raises(Unusable, match="both labels"):
        read(tmp_path)
    np.savez(tmp_path / "a_1.npz", image=np.stack([IMAGE] * count, axis), mask=LABEL[..., None])
    example = read(tmp_path).example
    assert np.abs(example.image - IMAGE).max() < 1e-7 and (example.mask == LABEL).all()


ODD = {
    "nan": ({"image": np.where(IMAGE > 0.5, np.nan, IMAGE)}, "no numbers .NaN or infinite."),
    "infinite": ({"image": np.where(IMAGE > 0.5, np.inf, IMAGE)}, "no numbers"),
    "flat": ({"image": np.full((20, 30), 0.5)}, "single gray level"),
    "negative": ({"image": BYTES - 9}, "from -9 to 246 as int64: allowed are"),
    "hounsfield": ({"image": IMAGE * 900 - 400}, "allowed are floats in"),
    "three_values": ({"label": LABEL + 2 * (IMAGE < 0.1)}, "other values than zero and one"),
    "unsure": ({"label": np.where(LABEL, np.nan, 0)}, "other values than zero and one"),
    "soft": ({"label": LABEL * IMAGE}, "other values than zero and one"),
    "everywhere": ({"label": LABEL * 0 + 1}, "its label is everywhere"),
    "turned": ({"label": LABEL.T}, "30x20 for an image of 20x30 pixels"),
    "colors": ({"image": RNG.random((20, 30, 3))}, "unequal channels"),
    "volume": ({"image": RNG.random((9, 20, 30))}, "the shape 9x20x30; a slice is"),
    "line": ({"image": IMAGE[0]}, "the shape 30"),
    "nothing": ({"image": np.zeros((0, 30))}, "the shape 0x30"),
    "objects": ({"image": np.array([[{}, []]], object)}, "cannot be read: no whole .npz"),
    "words": ({"image": np.array([["a", "b"]])}, "no numbers; save"),
    "waves": ({"image": IMAGE + 1j}, "no numbers; save"),
}


@pytest.mark.parametrize("name", ODD)
def test_arrays_that_cannot_be_used_are_refused(tmp_path, name):
    arrays, expected = ODD[name]
    assert re.search(expected, reason(tmp_path, **arrays))


def test_labels_of_any_two_values(tmp_path):
    for label in (LABEL * 255, LABEL.astype(bool), LABEL.astype(np.float32), LABEL * np.int64(-7)):
        write(tmp_path / "a_1.npz", label=label)
        assert (read(tmp_path).example.mask == LABEL).all()


def test_files_that_are_no_archives_are_refused(tmp_path):
    path = write(tmp_path / "a_1.npz")
    whole = path.read_bytes()
    middle = len(whole) // 2
    bent = whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 40])
    for content in (b"", b"PK", whole[:200], whole[:-30], bent + whole[middle + 40 :]):
        path.write_bytes(content)
        with pytest.raises(Unusable, match="cannot be read: no whole .npz archive"):
            read(tmp_path)
    np.save(tmp_path / "one.npy", IMAGE)
    path.write_bytes((tmp_path / "one.npy").read_bytes())
    (tmp_path / "one.npy").unlink()
    with pytest.raises(Unusable, match="one is missing"):
        read(tmp_path)
    np.savez(path, picture=IMAGE, label=LABEL)
    with pytest.raises(Unusable, match="the arrays of a slice are 'image', and 'label' or 'mask'"):
        read(tmp_path)


def test_other_files_are_named_and_hidden_ones_passed_over(tmp_path):
    write(tmp_path / "A/a_1.npz")
    write(tmp_path / "A/a_1.NPZ")  # np.savez appends .npz
    (tmp_path / "A" / "a_1.NPZ.npz").rename(tmp_path / "A" / "a_1.NPZ")
    (tmp_path / "A" / "notes.txt").write_text("seen by nobody")
    (tmp_path / ".salt").write_text("x")
    index = npz.index(settings(tmp_path))
    assert [entry.key for entry in index.entries] == ["A/a_1"]
    assert index.left_out == (
        LeftOut(str(tmp_path / "A/a_1.npz"), "another file has this name; the first is used"),
        LeftOut(str(tmp_path / "A/notes.txt"), "no .npz file; take it away"),
    )


def test_folders_that_are_none_are_named(tmp_path):
    hint = "DOMAIN/CASE_SLICE.npz .*--config.data.dir="
    with pytest.raises(UserError, match="data.dir is empty.*" + hint):
        npz.index(settings(""))
    with pytest.raises(UserError, match="nowhere' does not exist.*" + hint):
        npz.index(settings(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="holds no .npz file.*" + hint):
        npz.index(settings(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file' is not a folder.*" + hint):
        npz.index(settings(tmp_path / "file"))


def test_links_locks_and_hidden_folders(tmp_path):
    write(tmp_path / "A/a_1.npz")
    write(tmp_path / ".git/annex/a_2.npz")
    (tmp_path / "A/~$a_1.npz").write_bytes(b"left behind")
    (tmp_path / "A/b.npz").mkdir()
    (tmp_path / "A/c_1.npz").symlink_to("nowhere")
    index = npz.index(settings(tmp_path))
    assert [entry.key for entry in index.entries] == ["A/a_1"]
    ((item, reason),) = index.left_out
    assert item == str(tmp_path / "A/c_1.npz") and "fetch its content" in reason
    (tmp_path / "A/a_1.npz").unlink()
    with pytest.raises(UserError, match="holds no .npz file.*not counted .1.: a link whose file"):
        npz.index(settings(tmp_path))


def test_names_are_the_same_however_their_accents_are_spelled(tmp_path):
    for part, form in (("train", "NFC"), ("test", "NFD")):
        write(tmp_path / part / unicodedata.normalize(form, f"Süd/é{part}_1.npz"))
    entries = npz.index(settings(tmp_path)).entries
    assert [(e.patient, e.domain) for e in entries] == [("étest", "S_d"), ("étrain", "S_d")]


def test_two_folders_are_never_one_domain(tmp_path):
    write(tmp_path / "乳/a_1.npz")
    assert [entry.domain for entry in npz.index(settings(tmp_path)).entries] == ["_"]
    write(tmp_path / "肺/b_1.npz")
    with pytest.raises(UserError, match="2 folders would be one domain '_'; name them by"):
        npz.index(settings(tmp_path))


def test_an_inverted_label_is_refused(tmp_path):
    example = phantom(0, "ffdm", 1, height=96, width=80, spacing_mm=0.8)
    label = example.mask.copy()
    label[40:46, 30:36] = 1
    write(tmp_path / "A/a_1.npz", image=example.image, label=label)
    assert read(tmp_path).example.mask.any()
    write(tmp_path / "A/a_1.npz", image=example.image, label=1 - label)
    with pytest.raises(Unusable, match="lesions are black on white; invert it"):
        read(tmp_path)
