import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from mln_flax import files
from mln_flax.data.phantoms.phantom import phantom
from mln_flax.data.prepare import inventory
from mln_flax.results import plots, prepare_report
from mln_flax.types import UserError

FILES = ("prepare.json", "splits.json", "settings.json", "sheet.npz")


def an_image(number, domain, part, repaired=(), spacing_mm=(0.1, 0.1), **others):
    """What `prepare.json` says of one image: 4 tiles, 2 of them labeled, 30 label pixels."""
    return {
        "image_id": f"i{number:06}",
        "domain": domain,
        "patient": f"p{number // 2:06}",
        "laterality": "LR"[number % 2],
        "view_position": "CC",
        "height": 3000,
        "width": 2000,
        "spacing_mm": list(spacing_mm) if spacing_mm else None,
        "label_kind": "calcification",
        "label_pixels": 30,
        "objects": 2,
        "tiles": 4,
        "tile_breast": [0.5, 0.5, 0.5, 0.5],
        "tile_label_pixels": [10, 20, 0, 0],
        "repaired": list(repaired),
        "part": part,
        "first_tile": 4 * number,
        **others,
    }


def write_folder(folder, images, left_out, pictures):
    totals = inventory.totals(images, left_out)
    files.write_json(
        folder / "prepare.json", {"images": images, "left_out": left_out, "totals": totals}
    )
    files.write_json(
        folder / "splits.json",
        {
            "seed": 41,
            "shares": {"validation": 0.15, "test": 0.25},
            "parts": {"train": ["p0", "p1"], "validation": [], "test": ["p2"]},
            "sha256": "5" * 64,
            "archive_sha256": "a" * 64,
        },
    )
    files.write_json(
        folder / "settings.json", {"format": 1, "name": "inbreast", "size": 512, "label": ""}
    )
    arrays = {"title": np.array([title for _, _, title in pictures])}
    for number, (image, mask, _) in enumerate(pictures):
        arrays[f"image{number}"], arrays[f"mask{number}"] = image, mask
    files.write_npz(folder / "sheet.npz", arrays)


def thumbnail(domain, index, height, width):
    shown = phantom(3, domain, index, height=height, width=width)
    return np.round(shown.image * 255).astype(np.uint8), shown.mask, f"{domain} train CC"


@pytest.fixture(scope="module")
def pictures():
    return [thumbnail("ffdm", 0, 96, 64), thumbnail("processing", 2, 50, 80)]


IMAGES = [
    an_image(0, "ffdm", "train"),
    an_image(1, "ffdm", "train", ["mask of 100x50 pixels resized", "12-bit values"]),
    an_image(2, "ffdm", "test", ["mask of 90x45 pixels resized"], (0.07, 0.06)),
    an_image(0, "film <b>", "test", spacing_mm=None, view_position="", laterality=""),
]
LEFT_OUT = [
    {"file": "a/1-1.dcm", "reason": "mask <missing>; add it"},
    {"file": "a/1-2.dcm", "reason": "mask <missing>; add it"},
    {"file": "b/x & y.png", "reason": "cut short; fetch it again"},
]


@pytest.fixture
def folder(tmp_path, pictures):
    write_folder(tmp_path, IMAGES, LEFT_OUT, pictures)
    return tmp_path


def text_of(page):
    return page.read_text(encoding="utf-8")


def test_the_table_counts_every_part(folder):
    table = prepare_report.table(files.read_json(folder / "prepare.json"))
    # Label areas: 30 pixels each, of 0.1 x 0.1 mm, of 0.07 x 0.06 mm, of unknown size.
    assert table.rows == (
        ("ffdm", "train", "2", "1", "8", "4", "12.0", "60", "0.60"),
        ("ffdm", "test", "1", "1", "4", "2", "6.0", "30", "0.13"),
        ("film <b>", "test", "1", "1", "4", "2", "6.0", "30", "-"),
        ("total", "", "4", "2", "16", "8", "24.0", "120", "0.73"),
    )
    text = table.to_text()
    assert "several domains counts once" in text and "of the 3 of 4 images" in text
    assert max(map(len, text.splitlines())) <= 110


def test_a_plain_table_has_no_notes():
    said = {"totals": inventory.totals(IMAGES[:2], [])}
    assert prepare_report.table(said).note == ""


def test_the_terminal_hears_every_reason(folder):
    assert prepare_report.lines(files.read_json(folder / "prepare.json")) == [
        "left out: 2 x mask <missing>; add it",
        "left out: 1 x cut short; fetch it again",
        "repaired: 2 x mask of ... pixels resized",
        "repaired: 1 x 12-bit values",
    ]
    nothing = {"totals": inventory.totals(IMAGES[:1], [])}
    assert prepare_report.lines(nothing) == ["left out: nothing", "repaired: nothing"]


def test_many_reasons_are_cut_short():
    reasons = {f"reason {letter}": 30 - n for n, letter in enumerate("abcdefghijklmnopqrstuvw")}
    said = {"totals": {"left_out_by_reason": reasons, "repaired_by_reason": {}}}
    shown = prepare_report.lines(said)
    assert shown[0] == "left out: 30 x reason a" and shown[19] == "left out: 11 x reason t"
    assert shown[20:] == ["left out: 27 more, for 3 other reasons", "repaired: nothing"]


@pytest.mark.parametrize(
    ("reasons", "name"),
    [
        (["line 3 of cases.csv: no id", "line 12 of cases.csv: no id"], "line ... of cases.csv"),
        (["levels from 1e-05 to 0.7", "levels from -3 to 2"], "levels from ... to ..."),
        (["mask is i01af.png; draw", "mask is i3b.png; draw"], "mask is ...; draw"),
        (["1.5 mm. Mend it", "2 mm. Mend it"], "... mm. Mend it"),
    ],
)
def test_reasons_that_differ_in_numbers_are_one(reasons, name):
    said = {"totals": {"left_out_by_reason": dict.fromkeys(reasons, 2), "repaired_by_reason": {}}}
    line = prepare_report.lines(said)[0]
    assert line.startswith(f"left out: 4 x {name}")


def test_the_page_shows_what_was_found(folder):
    page = prepare_report.write(folder)
    assert page == folder / prepare_report.PAGE == folder / "report.html"
    text = text_of(page)
    assert prepare_report.table(files.read_json(folder / "prepare.json")).to_html() in text
    for words in (
        "inbreast: 4 images of 2 patients, 4 with a label, cut into 16 tiles of 512 x 512 pixels. "
        "3 items left out, 2 images repaired.",
        *("5" * 64, "a" * 64, "<dd>41</dd>", "train 2, validation 0, test 1"),
        *("a/1-1.dcm", "a/1-2.dcm", "b/x &amp; y.png", "mask &lt;missing&gt;; add it"),
        *("i000001", "i000002", "mask of 100x50 pixels resized", "mask of 90x45 pixels resized"),
        *("film &lt;b&gt;", "3000x2000 (3)", "0.1x0.1 (2), 0.07x0.06 (1)", "unknown (1)"),
        *("L CC", "R CC", "calcification"),
    ):
        assert words in text, words
    assert "<b>" not in text and "<missing>" not in text


def test_the_page_stands_alone_and_holds_the_sheet(folder):
    text = text_of(prepare_report.write(folder))
    assert not re.search(r"https?://|<script|<link|@import|url\(", text)
    (source,) = re.findall(r'src="data:image/png;base64,([^"]*)"', text)
    assert base64.b64decode(source) == (folder / "contact_sheet.png").read_bytes()
    assert {path.name for path in folder.iterdir()} == {*FILES, "report.html", "contact_sheet.png"}


def test_the_same_files_give_the_same_bytes(folder):
    first = prepare_report.write(folder).read_bytes()
    assert prepare_report.write(folder).read_bytes() == first
    said = files.read_json(folder / "prepare.json")
    said["images"][0]["height"] = 2999
    files.write_json(folder / "prepare.json", said)
    assert prepare_report.write(folder).read_bytes() != first


def test_long_lists_are_folded_by_reason(folder, pictures):
    left_out = [
        {"file": f"{n}.dcm", "reason": f"border of {n} pixels" if n < 20 else "cut short"}
        for n in range(50)
    ]
    images = [an_image(n, "ffdm", "train", ["12-bit values"]) for n in range(30)]
    write_folder(folder, images, left_out, pictures)
    text = text_of(prepare_report.write(folder))
    assert re.findall("<summary>(.*?)</summary>", text) == [
        "30 x cut short",
        "20 x border of ... pixels",
        "30 x 12-bit values",
    ]
    for one in left_out:
        assert text.count(f"<td>{one['reason']}</td><td>{one['file']}</td>") == 1
    for image in images:
        assert text.count(image["image_id"]) == 1


def test_nothing_left_out_and_nothing_repaired(folder):
    write_folder(folder, IMAGES[:1], [], [thumbnail("dbt", 0, 40, 30)])
    text = text_of(prepare_report.write(folder))
    assert "Nothing was left out." in text and "Nothing was repaired." in text


def test_many_sizes_are_cut_short(folder, pictures):
    images = [an_image(n, "ffdm", "train", height=3000 + n // 2) for n in range(20)]
    write_folder(folder, images, [], pictures)
    text = text_of(prepare_report.write(folder))
    assert "3000 to 3009" in text and "3003x2000 (2) and 6 others (12)" in text


def sheet_of(folder):
    png = (folder / "contact_sheet.png").read_bytes()
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_every_thumbnail_stands_in_the_sheet_as_it_is(folder, pictures):
    prepare_report.write(folder)
    sheet = sheet_of(folder)
    blue = (sheet == [0x56, 0xB4, 0xE9]).all(axis=2)
    windows = np.lib.stride_tricks.sliding_window_view
    found = []
    for image, mask, _ in pictures:
        assert mask.any()
        height, width = image.shape
        # All of it, upright and unstretched, at one place; outlines may cover some pixels.
        seen = windows(sheet[..., 0], (height, width))
        places = np.argwhere(seen[:, :, 0, 0] == image[0, 0])
        places = [
            (row, column)
            for row, column in places
            if (np.abs(seen[row, column].astype(int) - image) <= 1).mean() > 0.8
        ]
        ((row, column),) = places
        inside = blue[row : row + height, column : column + width]
        assert inside.any() and not (inside & (mask > 0)).any()
        found.append((row + height / 2, column + width / 2))
    # Cells of one size: thumbnails of other shapes have their middles in one line.
    assert found[0][0] == found[1][0]


def test_a_label_at_the_edge_is_outlined(folder):
    image = np.zeros((90, 60), np.uint8)
    write_folder(folder, IMAGES, [], [(image, image + 1, "all of it")])
    prepare_report.write(folder)
    blue = (sheet_of(folder) == [0x56, 0xB4, 0xE9]).all(axis=2)
    assert blue.sum() == 2 * 90 + 2 * 60 + 4  # a closed line, cut short at its corners


def test_contact_sheets_of_odd_shapes(folder):
    shapes = [(320, 1), (1, 320), (320, 320), (40, 30)]
    pictures = [(np.zeros(s, np.uint8), np.zeros(s, np.uint8), "x" * 400) for s in shapes]
    write_folder(folder, IMAGES, [], pictures)
    prepare_report.write(folder)
    assert sheet_of(folder).shape[1] < 1300


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing; remove the folder"):
        prepare_report.write(folder)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_is_named(folder, name):
    (folder / name).write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        prepare_report.write(folder)


def test_a_missing_field_is_named(folder):
    files.write_json(folder / "settings.json", {"name": "inbreast"})
    with pytest.raises(UserError, match="lacks the field 'size'; remove the folder"):
        prepare_report.write(folder)


def test_a_sheet_that_lacks_an_image(folder):
    np.savez(folder / "sheet.npz", title=np.array(["a"]), image0=np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match=r"sheet\.npz: cannot be read as thumbnails"):
        prepare_report.write(folder)


def test_a_full_disk_is_said(folder, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_bytes", full)
    with pytest.raises(UserError, match="cannot be written .No space left on device.; make room"):
        prepare_report.write(folder)


def test_the_outline_has_the_color_that_is_told(folder):
    assert plots._LABEL == "#56b4e9" and "blue line" in text_of(prepare_report.write(folder))
