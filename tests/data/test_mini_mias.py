import dataclasses
import pathlib

import numpy as np
import pytest

from mln_flax.config import DataConfig, SplitConfig, TilesConfig
from mln_flax.data import mini_mias, tiles
from mln_flax.data.core import PARTS, LeftOut, loaders
from mln_flax.types import UserError

REAL = pathlib.Path(__file__).parents[2] / "../shared/data/mini_mias"
SIDE = 96
PROSE = """A collection of films made up for a test.
3rd column: Class of abnormality present:
                CALC - Calcification
2) The size of ALL the images is {0} pixels x {0} pixels. The images
   are centered, and y starts at the bottom-left corner.
=====
"""


def breast(side=SIDE):
    """A film: black padding, dark air, half a disc of breast at the left, gray levels 0 to 255."""
    row, column = np.mgrid[:side, :side]
    inside = np.hypot(row - side / 2, column) < 0.45 * side
    return np.where(inside, 120 + row, 8).astype(np.uint8)


def write_pgm(path, pixels):
    height, width = pixels.shape
    path.write_bytes(b"P5\n# a comment\n%d %d\n255\n" % (width, height) + pixels.tobytes())


def write(folder, rows, films=None, prose=True):
    """A folder of Info.txt and a film for each of its rows, except for those set to None."""
    text = (PROSE.format(SIDE) if prose else "") + "\n".join(rows) + "\n"
    (folder / "Info.txt").write_bytes(text.replace("\n", "\r\n").encode("latin-1"))
    contents = {row.split()[0]: breast() for row in rows} | (films or {})
    for name, pixels in contents.items():
        if isinstance(pixels, bytes):
            (folder / f"{name}.pgm").write_bytes(pixels)
        elif pixels is not None:
            write_pgm(folder / f"{name}.pgm", pixels)
    return str(folder)


def settings(folder, **changes):
    data = DataConfig(name="mini_mias", dir=str(folder), source="mini_mias", targets=(), size=64)
    return dataclasses.replace(data, **changes)


# Twelve patients, the first four with a cluster; (20, 60) is on the breast, 36 rows from the top.
ROWS = [
    f"mdb{film:03d} {'G CALC B 20 60 5' if film < 8 and film % 2 else 'D NORM '}"
    for film in range(1, 25)
]


def everything(data_set):
    return [tile for part in data_set.parts for tile in part.examples]


def whole_mask(data_set, film, shape=(SIDE, SIDE)):
    cut = [tile for tile in everything(data_set) if tile.image_id.startswith(film)]
    return tiles.put_back([t.mask for t in cut], [t.to_image for t in cut], shape)


ALL_TILES = TilesConfig(min_breast=0.0)


def test_films_become_tiles_in_parts_by_patient(tmp_path):
    data_set = loaders["mini_mias"](settings(write(tmp_path, ROWS), tiles=ALL_TILES))
    assert [(part.domain, part.name) for part in data_set.parts] == [
        ("mini_mias", name) for name in PARTS
    ]
    assert not data_set.left_out
    found = everything(data_set)
    assert len(found) == len({tile.image_id for tile in found}) == 24 * 4
    patients = [{tile.patient_id for tile in part.examples} for part in data_set.parts]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 12
    for part in data_set.parts:  # clusters and films without any in every part
        labels = {bool(tile.mask.any()) for tile in part.examples}
        assert labels == {True, False}
        assert {tile.label_kind for tile in part.examples} == {"cluster", "none"}
    tile = next(tile for tile in found if tile.image_id == "mdb003_r0c0")
    assert (tile.patient_id, tile.domain) == ("mias_002", "mini_mias")
    assert (tile.laterality, tile.view_position) == ("L", "MLO")
    assert tile.spacing_mm == pytest.approx((0.2 * 48 / 64, 0.2 * 48 / 64))
    assert tile.image.shape == tile.mask.shape == (64, 64)
    assert tile.image.dtype == np.float32 and 0 <= tile.image.min() <= tile.image.max() <= 1
    again = mini_mias.load(settings(tmp_path, tiles=ALL_TILES))
    assert [t.image_id for t in everything(again)] == [t.image_id for t in found]


def test_gray_levels_are_divided_by_255_and_the_background_is_kept(tmp_path):
    data = settings(write(tmp_path, ROWS), size=SIDE // 2, tiles=ALL_TILES)
    cut = [t for t in everything(mini_mias.load(data)) if t.image_id.startswith("mdb002_")]
    whole = tiles.put_back([t.image for t in cut], [t.to_image for t in cut], (SIDE, SIDE))
    assert np.abs(whole - breast() / 255.0).max() < 1e-6


def test_circles_are_counted_from_the_bottom_and_united(tmp_path):
    rows = ["mdb001 G CALC M 20 60 5", "mdb001 G CALC M 12 30 4", *ROWS[1:]]
    data_set = mini_mias.load(settings(write(tmp_path, rows), size=SIDE // 2, tiles=ALL_TILES))
    row, column = np.mgrid[:SIDE, :SIDE]
    first = (row - (SIDE - 60)) ** 2 + (column - 20) ** 2 <= 25
    second = (row - (SIDE - 30)) ** 2 + (column - 12) ** 2 <= 16
    assert (whole_mask(data_set, "mdb001_") == (first | second)).all()
    assert (whole_mask(data_set, "mdb003_") == first).all()
    assert not whole_mask(data_set, "mdb002_").any()


def broken_films():
    whole = b"P5\n96 96\n255\n" + breast().tobytes()
    return {
        "mdb010": (None, "not in the folder"),
        "mdb011": (whole[:500], "cannot be read"),
        "mdb012": (b"", "cannot be read"),
        "mdb013": (b"not a picture at all", "cannot be read"),
        "mdb014": (b"P5\n96 -3\n255\n", "cannot be read"),
        "mdb015": (b"P5\n99999 99999\n255\n", "cannot be read"),
        "mdb016": (b"P6\n96 96\n255\n" + bytes(3 * 96 * 96), "not an 8-bit gray image"),
        "mdb017": (b"P5\n96 96\n65535\n" + bytes(2 * 96 * 96), "not an 8-bit gray image"),
        "mdb018": (breast(64), "wrong size: 64x64 instead of 96x96"),
        "mdb019": (np.full((SIDE, SIDE), 77, np.uint8), "no breast found"),
    }


@pytest.mark.parametrize("prose", [True, False])
def test_films_that_cannot_be_used_are_left_out_one_by_one(tmp_path, prose):
    broken = broken_films()
    films = {name: content for name, (content, _) in broken.items()}
    data_set = mini_mias.load(settings(write(tmp_path, ROWS, films, prose), tiles=ALL_TILES))
    assert [item for item, _ in data_set.left_out] == list(broken)
    for item, reason in data_set.left_out:
        assert broken[item][1] in reason
    assert len(everything(data_set)) == 14 * 4
    assert not {tile.image_id[:6] for tile in everything(data_set)} & set(broken)
    notes = "\n".join(data_set.notes)
    assert "cannot be read: no whole PGM image: 5 of 24 films" in notes
    assert "mdb" not in notes
    assert "not in the folder: 1 of 24 films" in notes


BAD_ROWS = {
    "mdb101": (["mdb101 D CALC M *NOTE 3* "], "CALC row without a circle"),
    "mdb102": (["mdb102 D CALC M"], "CALC row without a circle"),
    "mdb103": (["mdb103 D CALC M 20 60"], "CALC row without a circle"),
    "mdb104": (["mdb104 D CALC M 20 60 0"], "CALC row without a circle"),
    "mdb105": (["mdb105 D CALC M 20 60 5", "mdb105 D CALC M *NOTE 3*"], "without a circle"),
    "mdb106": (["mdb106 D CALC B 90 90 5"], "circle outside the breast"),
    "mdb107": (["mdb107 D CALC B 20 60 5", "mdb107 D CALC B 5000 1 5"], "outside the breast"),
    "mdb108": (["mdb108 D CALC B 20 60 90000"], "circle outside the breast"),
    "mdb109": (["mdb109 D CIRC B 20 60 5"], "other abnormality"),
    "mdb110": (["mdb110 F SPIC M *NOTE 3*"], "other abnormality"),
    "mdb111": (["mdb111 F CALC M 20 60 5", "mdb111 F MISC M 20 60 9"], "other abnormality"),
    "mdb112": (["mdb112 G NORM", "mdb112 G CALC B 20 60 5"], "both normal and abnormal"),
    "mdb113": (["mdb113 G WHAT B 20 60 5"], "not understood"),
    "mdb114": (["mdb114"], "not understood"),
}


def test_rows_that_cannot_be_used_leave_their_whole_film_out(tmp_path):
    rows = [*ROWS, *(row for lines, _ in BAD_ROWS.values() for row in lines)]
    data_set = mini_mias.load(settings(write(tmp_path, rows), tiles=ALL_TILES))
    assert [item for item, _ in data_set.left_out] == list(BAD_ROWS)
    for item, reason in data_set.left_out:
        assert BAD_ROWS[item][1] in reason, item
    assert len(everything(data_set)) == len(ROWS) * 4


def test_a_file_that_info_does_not_name_is_left_out(tmp_path):
    folder = write(tmp_path, ROWS, {"mdb200": breast(), "other": b"x"})
    left_out = mini_mias.load(settings(folder)).left_out
    assert left_out == tuple(LeftOut(name, "not named in Info.txt") for name in ("mdb200", "other"))


def test_many_missing_films_are_one_note_and_an_entry_each(tmp_path):
    missing = {f"mdb{film}": None for film in range(200, 300)}
    rows = [*ROWS, *(f"{name} D NORM" for name in missing)]
    data_set = mini_mias.load(settings(write(tmp_path, rows, missing)))
    assert [item for item, _ in data_set.left_out] == list(missing)
    lines = [note for note in data_set.notes if "not in the folder" in note]
    assert lines == ["left out, not in the folder: 100 of 124 films"]


def test_only_training_drops_tiles_without_breast(tmp_path):
    folder = write(tmp_path, ROWS)
    kept, dropped = (
        mini_mias.load(settings(folder, tiles=TilesConfig(min_breast=least)))
        for least in (0.0, 0.05)
    )
    for name in ("validation", "test"):
        ids = [[t.image_id for t in d.part("mini_mias", name)] for d in (kept, dropped)]
        assert ids[0] == ids[1]
    train = dropped.part("mini_mias", "train")
    gone = {t.image_id for t in kept.part("mini_mias", "train")} - {t.image_id for t in train}
    assert gone and {image_id[-2:] for image_id in gone} == {"c1"}  # the breast is on the left
    assert any(f"{len(gone)} dropped (almost no breast)" in note for note in dropped.notes)


def test_notes_count_films_patients_and_tiles(tmp_path):
    data_set = mini_mias.load(settings(write(tmp_path, ROWS), tiles=ALL_TILES))
    notes = list(data_set.notes)
    assert notes[0] == ("films read: 24 of the 24 that Info.txt names: 4 with clusters, 20 normal")
    for part in data_set.parts:
        patients = len({tile.patient_id for tile in part.examples})
        labeled = sum(bool(tile.mask.any()) for tile in part.examples)
        count = len(part.examples)
        assert (
            f"{part.name}: {patients} patients, {count // 4} films, {count} tiles, {labeled} with "
            "a label"
        ) in notes


def test_laterality_and_patients_follow_the_film_numbers():
    assert [mini_mias.patient_of(f"mdb{n:03d}") for n in (1, 2, 209, 210, 322)] == [
        "mias_001",
        "mias_001",
        "mias_105",
        "mias_105",
        "mias_161",
    ]
    assert [mini_mias.laterality_of(f"mdb{n:03d}") for n in (209, 210)] == ["L", "R"]


def test_read_info_passes_over_prose():
    info = mini_mias.read_info(PROSE.format(1024) + "mdb005 F CIRC B 477 133 30\nMDB006 F NORM\n")
    assert info.shape == (1024, 1024)
    assert info.films == {
        "mdb005": (mini_mias.Row("mdb005", "CIRC", mini_mias.Circle(477, 133, 30)),),
        "mdb006": (mini_mias.Row("mdb006", "NORM", None),),
    }


@pytest.mark.parametrize(
    "changes",
    [{"source": "ffdm"}, {"targets": ("film",)}, {"source": "mini-mias", "targets": ("dbt",)}],
)
def test_other_domains_are_refused(tmp_path, changes):
    with pytest.raises(UserError, match="single domain 'mini_mias'; set --config.data.source="):
        mini_mias.load(settings(write(tmp_path, ROWS), **changes))


def test_what_is_missing_is_named_with_the_way_to_set_it(tmp_path):
    hint = "Info.txt and mdb001.pgm .*--config.data.dir="
    with pytest.raises(UserError, match="data.dir is empty.*" + hint):
        mini_mias.load(settings(""))
    with pytest.raises(UserError, match="nowhere' is not a folder.*" + hint):
        mini_mias.load(settings(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="Info.txt: No such file.*" + hint):
        mini_mias.load(settings(tmp_path))
    (tmp_path / "Info.txt").write_text("nothing of use\n")
    with pytest.raises(UserError, match="Info.txt has no row.*" + hint):
        mini_mias.load(settings(tmp_path))


def test_too_few_films_are_refused_in_one_line(tmp_path):
    folder = write(tmp_path, ROWS, {row.split()[0]: None for row in ROWS})
    with pytest.raises(UserError, match="no film can be used; left out, not in the folder: 24"):
        mini_mias.load(settings(folder))
    for film in ("mdb001", "mdb002", "mdb003"):
        write_pgm(tmp_path / f"{film}.pgm", breast())
    with pytest.raises(UserError, match="part 'validation' from 3 usable films of 2 patients") as e:
        mini_mias.load(settings(folder))
    assert "\n" not in str(e.value)
    everyone = SplitConfig(validation=0.0, test=0.0)  # empty on purpose is no mistake
    assert not mini_mias.load(settings(folder, split=everyone)).part("mini_mias", "test")


@pytest.mark.skipif(not REAL.is_dir(), reason="the films are not here")
def test_the_real_films():
    data_set = mini_mias.load(settings(REAL, size=128, tiles=ALL_TILES))
    found = everything(data_set)
    assert len(found) == 26 * 4
    assert len({tile.patient_id for tile in found}) == 24
    with_cluster = {tile.image_id[:6] for tile in found if tile.mask.any()}
    assert with_cluster == {
        f"mdb{film}" for film in (209, 211, 213, 218, 219, 223, 226, 227, 239, 240, 248, 249)
    }
    reasons = {item: reason for item, reason in data_set.left_out}
    assert len(reasons) == len(data_set.left_out) == 296
    present = {item: reason for item, reason in reasons.items() if "folder" not in reason}
    assert present == {
        "mdb212": "circle outside the breast",
        "mdb214": "circle outside the breast",
        "mdb216": "CALC row without a circle",
        "mdb233": "CALC row without a circle",
        "mdb245": "CALC row without a circle",
    }
    for part in data_set.parts:
        assert {bool(tile.mask.any()) for tile in part.examples} == {True, False}
    # mdb219: x 546, y 756, radius 29, where the brightest specks of its surroundings lie.
    mask = whole_mask(data_set, "mdb219", (1024, 1024))
    rows, columns = np.nonzero(mask)
    assert (rows.mean(), columns.mean()) == pytest.approx((1024 - 756, 546), abs=1)
    assert mask.sum() == pytest.approx(np.pi * 29**2, rel=0.1)


@pytest.mark.skipif(not REAL.is_dir(), reason="the films are not here")
def test_breast_masks_of_the_real_films():
    info, paths = mini_mias._open_folder(str(REAL))
    for film in ("mdb003", "mdb062", "mdb216", "mdb248"):
        image = mini_mias._read_pgm(paths[film], info.shape)
        found = tiles.breast_mask(image)
        assert 0.2 < found.mean() < 0.55
        assert (tiles.breast_mask(1 - image) == found).mean() > 0.999
    # The marker at the upper right of mdb248 lies in the air.
    assert image[:100, 600:].max() > 0.8 and not found[:100, 560:].any()
