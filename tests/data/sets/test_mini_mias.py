import os
import pathlib
import pickle

import numpy as np
import pytest

from mln_flax.config import DataConfig
from mln_flax.data.core import LeftOut, Unusable, collections
from mln_flax.data.prepare import tiles
from mln_flax.data.sets import mini_mias
from mln_flax.types import UserError

BESIDE = pathlib.Path(__file__).parents[3] / "../shared/data/mini_mias"
REAL = pathlib.Path(os.environ.get("MLN_FLAX_MINI_MIAS") or BESIDE)
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


def settings(folder):
    return DataConfig(name="mini_mias", dir=str(folder), source="mini_mias", targets=())


# Twelve patients, the first four with a cluster; (20, 60) is on the breast, 36 rows from the top.
ROWS = [
    f"mdb{film:03d} {'G CALC B 20 60 5' if film < 8 and film % 2 else 'D NORM '}"
    for film in range(1, 25)
]


def read(folder, film):
    data = settings(folder)
    (entry,) = [entry for entry in mini_mias.index(data).entries if entry.key == film]
    return mini_mias.read(entry, data)


def reasons(folder):
    """Why films are left out, by film."""
    left_out = mini_mias.index(settings(folder)).left_out
    assert len({item for item, _ in left_out}) == len(left_out)
    assert {str(pathlib.Path(item).parent) for item, _ in left_out} <= {str(folder)}
    assert not any("mdb" in reason for _, reason in left_out)
    return {pathlib.Path(item).stem: reason for item, reason in left_out}


def test_every_film_is_an_entry_with_its_patient(tmp_path):
    index = collections["mini_mias"]().index(settings(write(tmp_path, ROWS)))
    assert index.left_out == () and index.secrets == frozenset()
    assert [entry.key for entry in index.entries] == [f"mdb{film:03d}" for film in range(1, 25)]
    assert {entry.domain for entry in index.entries} == {"mini_mias"}
    assert {entry.part for entry in index.entries} == {""}
    third = index.entries[2]
    assert (third.patient, third.files) == ("mias_002", (str(tmp_path / "mdb003.pgm"),))
    assert third.details == (mini_mias.Circle(20, 60, 5),)
    assert pickle.loads(pickle.dumps(index)) == index


def test_a_film_with_its_mask_and_what_is_known(tmp_path):
    write(tmp_path, ROWS)
    for film, laterality, kind in (("mdb003", "L", "cluster"), ("mdb004", "R", "none")):
        example, repaired = read(tmp_path, film)
        assert np.abs(example.image - breast() / 255.0).max() < 1e-6  # the background is kept
        assert example.image.dtype == np.float32 and example.mask.dtype == np.uint8
        assert (example.domain, example.laterality, example.view_position) == (
            "mini_mias",
            laterality,
            "MLO",
        )
        assert (example.label_kind, example.mask.any()) == (kind, kind == "cluster")
        assert example.spacing_mm == (0.2, 0.2)
        assert (example.image_id, example.patient_id, repaired) == ("", "", ())


def test_circles_are_counted_from_the_bottom_and_united(tmp_path):
    write(tmp_path, ["mdb001 G CALC M 20 60 5", "mdb001 G CALC M 12 30 4", *ROWS[1:]])
    row, column = np.mgrid[:SIDE, :SIDE]
    first = (row - (SIDE - 60)) ** 2 + (column - 20) ** 2 <= 25
    second = (row - (SIDE - 30)) ** 2 + (column - 12) ** 2 <= 16
    assert (read(tmp_path, "mdb001").example.mask == (first | second)).all()
    assert (read(tmp_path, "mdb003").example.mask == first).all()


@pytest.mark.parametrize("prose", [True, False])
def test_films_that_cannot_be_used_are_left_out_one_by_one(tmp_path, prose):
    whole = b"P5\n96 96\n255\n" + breast().tobytes()
    unreadable = {
        "mdb012": b"",
        "mdb013": b"not a picture at all",
        "mdb014": b"P5\n96 -3\n255\n",
        "mdb015": b"P5\n99999 99999\n255\n",
    }
    films = {"mdb010": None, "mdb011": whole[:500], **unreadable, "mdb018": breast(64)}
    write(tmp_path, ROWS, films, prose)
    found = reasons(tmp_path)
    assert found.pop("mdb010") == "not in the folder; add it if it is to be used"
    assert "wrong size: 64x64 instead of 96x96 pixels" in found.pop("mdb018")
    if "mdb011" not in found:  # its header is whole
        with pytest.raises(Unusable):
            read(tmp_path, "mdb011")
    assert set(found) - {"mdb011"} == set(unreadable)
    assert len(mini_mias.index(settings(tmp_path)).entries) >= len(ROWS) - len(films)


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


INDEXED = {film for film, (_, reason) in BAD_ROWS.items() if "outside" not in reason}


def test_rows_that_cannot_be_used_leave_their_whole_film_out(tmp_path):
    write(tmp_path, [*ROWS, *(row for lines, _ in BAD_ROWS.values() for row in lines)])
    found = reasons(tmp_path)
    assert set(found) == INDEXED
    for film, (_, reason) in BAD_ROWS.items():
        if film in INDEXED:
            assert reason in found[film], film
        else:
            with pytest.raises(Unusable, match=reason):
                read(tmp_path, film)
    assert len(mini_mias.index(settings(tmp_path)).entries) == len(ROWS) + 3


def test_files_that_belong_to_no_film_are_left_out(tmp_path):
    write(tmp_path, ROWS, {"mdb200": breast(), "other": b"x"})
    write_pgm(tmp_path / "MDB001.PGM", breast())
    unnamed = "not named in Info.txt; add its row, or take it away"
    assert mini_mias.index(settings(tmp_path)).left_out == (
        LeftOut(str(tmp_path / "mdb001.pgm"), "another file has this film's number; keep one"),
        LeftOut(str(tmp_path / "mdb200.pgm"), unnamed),
        LeftOut(str(tmp_path / "other.pgm"), unnamed),
    )


def test_links_and_hidden_films(tmp_path):
    write(tmp_path, ROWS)
    for name in ("._mdb001.pgm", ".mdb999.pgm", "~$mdb002.pgm"):
        (tmp_path / name).write_bytes(b"left behind")
    (tmp_path / "mdb300.pgm").mkdir()
    for name in ("mdb002.pgm", "mdb500.pgm", "MDB003.PGM"):  # the last one a copy
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to("nowhere")
    found = mini_mias.index(settings(tmp_path)).left_out
    by_name = {pathlib.Path(item).name: reason for item, reason in found}
    assert len(by_name) == len(found) == 3
    assert by_name["mdb002.pgm"].startswith("a link whose file is not here; fetch its content")
    assert "not named in Info.txt" in by_name["mdb500.pgm"]
    assert by_name["MDB003.PGM"] == "another file has this film's number; keep one"


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


def test_what_is_missing_is_named_with_the_way_to_set_it(tmp_path):
    hint = "Info.txt and mdb001.pgm .*--config.data.dir="
    with pytest.raises(UserError, match="data.dir is empty.*" + hint):
        mini_mias.index(settings(""))
    with pytest.raises(UserError, match="nowhere' does not exist.*" + hint):
        mini_mias.index(settings(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="Info.txt: No such file.*" + hint):
        mini_mias.index(settings(tmp_path))
    (tmp_path / "Info.txt").write_text("nothing of use\n")
    with pytest.raises(UserError, match="Info.txt has no row.*" + hint):
        mini_mias.index(settings(tmp_path))


@pytest.mark.skipif(not REAL.is_dir(), reason="the films are not here")
def test_the_real_films():
    found = reasons(REAL)
    present = {film: reason for film, reason in found.items() if "folder" not in reason}
    assert present == {f"mdb{film}": "CALC row without a circle" for film in (216, 233, 245)}
    data = settings(REAL)
    entries = mini_mias.index(data).entries
    examples = {}
    for entry in entries:
        if entry.key in ("mdb212", "mdb214"):
            with pytest.raises(Unusable, match="circle outside the breast"):
                mini_mias.read(entry, data)
        else:
            examples[entry.key] = mini_mias.read(entry, data).example
    assert len(examples) == 26 and len(found) == 322 - 28
    assert len({entry.patient for entry in entries if entry.key in examples}) == 24
    with_cluster = {film for film, example in examples.items() if example.mask.any()}
    assert with_cluster == {
        f"mdb{film}" for film in (209, 211, 213, 218, 219, 223, 226, 227, 239, 240, 248, 249)
    }
    # mdb219: x 546, y 756, radius 29, where the brightest specks of its surroundings lie.
    mask = examples["mdb219"].mask
    rows, columns = np.nonzero(mask)
    assert (rows.mean(), columns.mean()) == pytest.approx((1024 - 756, 546), abs=1)
    assert mask.sum() == pytest.approx(np.pi * 29**2, rel=0.01)


@pytest.mark.skipif(not REAL.is_dir(), reason="the films are not here")
def test_breast_masks_of_the_real_films():
    for film in ("mdb003", "mdb062", "mdb211", "mdb248"):
        image = read(REAL, film).example.image
        found = tiles.breast_mask(image)
        assert 0.2 < found.mean() < 0.55
        assert (tiles.breast_mask(1 - image) == found).mean() > 0.999
    # The marker at the upper right of mdb248 lies in the air.
    assert image[:100, 600:].max() > 0.8 and not found[:100, 560:].any()


def test_films_of_other_findings_are_kept_apart(tmp_path):
    """They are left out of training, and can be read as images without calcifications."""
    rows = ["mdb001 G CIRC B 20 60 5", "mdb002 G SPIC M 20 60 5", "mdb003 G CALC B *NOTE 3*"]
    rows += ["mdb004 G WHAT B 20 60 5", "mdb005 G ARCH B 20 60 5", "mdb006 D NORM"]
    rows += ["mdb007 G CIRC B 20 60 5", "mdb007 G CALC B 20 60 5", "mdb008 D NORM"]
    index = mini_mias.index(settings(write(tmp_path, rows, {"mdb005": b"no film"})))
    assert [entry.key for entry in index.entries] == ["mdb006", "mdb008"]
    assert [entry.key for entry in index.other_findings] == ["mdb001", "mdb002"]
    assert {pathlib.Path(item).stem for item, _ in index.left_out} == {
        *("mdb001", "mdb002", "mdb003", "mdb004", "mdb005", "mdb007")
    }
    example = mini_mias.read(index.other_findings[0], settings(tmp_path)).example
    assert example.label_kind == "none" and not example.mask.any()
