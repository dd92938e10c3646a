"""Names: what is cut off, what pairs, and what a mask is called."""

import os
import unicodedata
from pathlib import Path

import pytest

from mln_flax import files
from mln_flax.data.sets import pairs


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.png", "a_mask.png"),
        ("a.DCM", "a_mask.png"),
        ("1.2.840.113.5", "1.2.840.113.5_mask.png"),  # DICOM files named by their uid
        ("1.2.840.113.6", "1.2.840.113.6_mask.png"),
        ("1.2.840.113.6.dcm", "1.2.840.113.6_mask.png"),
        ("IM.0001", "IM.0001_mask.png"),
        (unicodedata.normalize("NFD", "é.png"), "é_mask.png"),
        (os.fsdecode(b"M\xfcller.png"), os.fsdecode(b"M\xfcller_mask.png")),
    ],
)
def test_only_known_suffixes_make_way_for_a_masks_name(image, mask):
    assert pairs.mask_name(image) == mask
    assert pairs.mask_name(image, 6, 20) == mask.replace("_mask", "_0007_mask")


@pytest.mark.parametrize("letter", ["a", "é", "乳", os.fsdecode(b"\xfc")])
def test_names_of_masks_fit_a_file_system_and_stay_apart(tmp_path, letter):
    longest = letter * (255 // len(os.fsencode(letter)))
    masks = [
        pairs.mask_name(longest[:-1] + last, *frame) for last in "xy" for frame in ((), (2, 9))
    ]
    assert len(set(masks)) == 4
    for name, end in zip(masks, ("_mask.png", "_0003_mask.png") * 2, strict=True):
        assert len(os.fsencode(name)) <= files.MOST_BYTES and name.endswith(end)
        files.write_bytes(tmp_path / name, b"any")
    fits = "b" * (files.MOST_BYTES - len("_mask.png"))
    assert pairs.mask_name(fits) == f"{fits}_mask.png" != pairs.mask_name(f"{fits}b")


def test_the_image_of_a_mask_is_found_by_the_masks_name():
    images = ["1.2.840.5", "1.2.840.6", "sub/é.png", "vol.dcm"]
    names = pairs.Names(map(pairs.stem, images))
    masks = {pairs.stem(pairs.mask_name(Path(image).name)): [Path(image)] for image in images[:3]}
    masks[pairs.stem(pairs.mask_name("vol.dcm", 1, 3))] = [Path("vol.dcm")]
    paired, orphans = pairs.pair(masks, names, {"vol": 3})
    assert orphans == [] and paired == {
        **{pairs.stem(image): {pairs.WHOLE: [Path(image)]} for image in images[:3]},
        "vol": {2: [Path("vol.dcm")]},
    }
    assert names.find(unicodedata.normalize("NFD", "é")) == "sub/é"


@pytest.mark.parametrize(
    ("cell", "number"),
    [("12345.0", "12345"), ("12345,00", "12345"), ("12345", "12345"), ("007.0", "007")]
    + [(cell, cell) for cell in ("", "1.5", "1.0.0", "a.0", ".0", "2.27e+07", "4a")],
)
def test_a_number_of_a_spreadsheet_is_an_id_again(cell, number):
    assert pairs.whole_number(cell) == number
