import pickle
import plistlib
import shutil

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import Image
from scipy import ndimage

from mln_flax.config import DataConfig
from mln_flax.data.core import Unusable, collections
from mln_flax.data.phantoms.phantom import phantom
from mln_flax.data.sets import inbreast, regions
from mln_flax.types import UserError

HEIGHT, WIDTH = 96, 72
HEAD = "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads\n"
ROWS = {  # two women; the last image is normal
    "22678622": "removed;removed;R;CC;201001;22678622;4;3",
    "22678670": "removed;removed;R;MLO;201001;22678670;4;2",
    "22580192": "removed;removed;L;CC;201001;22580192;2;1",
}
HASHES = {"22678622": "61b13c59bcba149d", "22678670": "61b13c59bcba149d"}
OTHER_HASH = "036aff49b8ac84f0"
PLANTED = "Planted4711"
BLOB = [(20, 30), (28.5, 31), (27, 40.25), (19, 38)]


def picture(file_id):
    image = phantom(3, "ffdm", int(file_id) % 7, height=HEIGHT, width=WIDTH, spacing_mm=0.8).image
    return np.round(image * 4095).astype(np.uint16)


def name_of(file_id):
    return f"{file_id}_{HASHES.get(file_id, OTHER_HASH)}_MG_R_CC_ANON.dcm"


def save_dicom(path, pixels, **fields):
    """A mammogram of 12 bits without compression and without spacing, as the archive's."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation as MG
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MG
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = MG, "1.2.3", "MG"
    data.PatientID, data.PatientName = "removed", "removed"
    data.PresentationIntentType = "FOR PRESENTATION"
    data.ImageLaterality, data.ViewPosition = "L", "ML"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    for name, value in fields.items():
        setattr(data, name, value)
    data.PixelData = pixels.astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def xml_of(*regions, **changes):
    """A property list of (name, points) pairs as OsiriX writes it."""
    rois = [
        {
            "Area": 0.0,
            "IndexInImage": number,
            "Name": name,
            "NumberOfPoints": len(points),
            "Point_px": [f"({x:f}, {y:f})" for x, y in points],
            "Type": 15 if len(points) > 1 else 19,
        }
        for number, (name, points) in enumerate(regions)
    ]
    image = {"ImageIndex": 0, "NumberOfROIs": len(rois), "ROIs": rois} | changes
    return plistlib.dumps({"Images": [image]})


USUAL = {
    "22678622": (("Calcification", BLOB), ("Calcification", [(50, 60)]), ("Mass", [(1, 2)] * 3)),
    "22678670": (("Mass", BLOB),),
}


def fill(root, regions=USUAL, rows=ROWS, images=tuple(ROWS)):
    """An archive of small images; `regions` are pairs as in `xml_of`, or a file's content."""
    for file_id in images:
        save_dicom(root / "AllDICOMs" / name_of(file_id), picture(file_id))
    (root / "AllXML").mkdir(parents=True, exist_ok=True)
    for file_id, content in regions.items():
        whole = content if isinstance(content, bytes) else xml_of(*content)
        (root / f"AllXML/{file_id}.xml").write_bytes(whole)
    lines = rows.values() if isinstance(rows, dict) else rows
    (root / "INbreast.csv").write_text(HEAD + "\n".join(lines) + "\n")
    return root


def settings(root, **changes):
    return DataConfig(name="inbreast", dir=str(root), source="inbreast", targets=(), **changes)


def index(root, **changes):
    found = inbreast.index(settings(root, **changes))
    for item, reason in found.left_out:
        assert item.startswith(str(root)) and "\n" not in reason
        assert not any(word in reason for word in (PLANTED, "61b13c59", "036aff49"))
    assert pickle.loads(pickle.dumps(found)) == found == inbreast.index(settings(root, **changes))
    return found


def left_out(root, **changes):
    return {item.removeprefix(f"{root}/"): why for item, why in index(root, **changes).left_out}


def keys(root):
    return [entry.key for entry in index(root).entries]


def read(root, file_id="22678622", **changes):
    (entry,) = [entry for entry in index(root, **changes).entries if entry.key == file_id]
    return inbreast.read(entry, settings(root, **changes))


def refusal(root, file_id="22678622", **changes):
    """Why an image's regions cannot be used."""
    with pytest.raises(Unusable) as caught:
        read(root, file_id, **changes)
    assert caught.value.file == str(root / f"AllXML/{file_id}.xml")
    assert PLANTED not in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def enclosed(points, shape=(HEIGHT, WIDTH)):
    """The pixel centers within a polygon, by matplotlib."""
    row, column = np.mgrid[: shape[0], : shape[1]]
    centers = np.stack([column.ravel(), row.ravel()], 1)
    return Outline([*points, points[0]], closed=True).contains_points(centers).reshape(shape)


def disc(x, y, radius_mm, spacing_mm=0.07):
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    return (row - y) ** 2 + (column - x) ** 2 <= (radius_mm / spacing_mm) ** 2


def test_images_find_their_patients_rows_and_regions(tmp_path):
    found = collections["inbreast"]().index(settings(fill(tmp_path)))
    assert found.left_out == () and found.secrets == {*HASHES.values(), OTHER_HASH}
    assert [(e.key, e.patient, e.domain, e.part) for e in found.entries] == [
        ("22580192", OTHER_HASH, "inbreast", ""),
        ("22678622", "61b13c59bcba149d", "inbreast", ""),
        ("22678670", "61b13c59bcba149d", "inbreast", ""),
    ]
    assert [len(entry.files) for entry in found.entries] == [1, 2, 2]
    for entry, side, view, kind in zip(
        found.entries, "LRR", ("CC", "CC", "MLO"), ("none", "calcification", "none"), strict=True
    ):
        example, repaired = inbreast.read(entry, settings(tmp_path))
        assert np.abs(example.image - picture(entry.key) / 4095).max() < 1e-3
        assert example.image.dtype == np.float32 and example.mask.dtype == np.uint8
        assert (example.laterality, example.view_position) == (side, view)  # the table's
        assert (example.spacing_mm, example.label_kind) == ((0.07, 0.07), kind)
        assert (example.image_id, example.patient_id, repaired) == ("", "", ())
        assert example.domain == "inbreast" and example.objects is None


def test_single_calcifications_become_outlines_and_discs(tmp_path):
    example = read(fill(tmp_path)).example
    expected = enclosed(BLOB) | disc(50, 60, 0.25)
    assert (example.mask == expected).all() and ndimage.label(example.mask)[1] == 2
    wide = read(tmp_path, point_radius_mm=0.6).example
    assert (wide.mask == enclosed(BLOB) | disc(50, 60, 0.6)).all()


def test_the_headers_spacing_and_intent_count_where_there_are_any(tmp_path):
    fill(tmp_path, rows=[])
    path = tmp_path / "AllDICOMs" / name_of("22678622")
    known = {"PresentationIntentType": "FOR PROCESSING", "PixelSpacing": [0.05, 0.1]}
    save_dicom(path, picture("22678622"), **known)
    example = read(tmp_path, point_radius_mm=0.26).example
    assert example.domain == "inbreast_processing" and example.spacing_mm == (0.05, 0.1)
    assert (example.laterality, example.view_position) == ("L", "ML")  # not in the table
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    expected = ((row - 60) * 0.05) ** 2 + ((column - 50) * 0.1) ** 2 <= 0.26**2
    assert (example.mask == expected | enclosed(BLOB)).all()


@pytest.mark.parametrize("seed", range(6))
def test_polygons_enclose_the_pixels_that_matplotlib_says(seed):
    rng = np.random.default_rng(seed)
    corners = 3 + 7 * seed
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = rng.uniform(4, 55, corners)  # spiky, and over the edges
    points = np.stack([35 + radius * np.cos(angle), 44 + radius * np.sin(angle)], 1)
    for outline in (points, points[::-1]):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        regions.draw_polygon(mask, outline)
        assert (mask == enclosed(points)).all() and mask.any()


def test_an_outline_drawn_over_its_beginning_has_no_hole():
    angle = np.linspace(0, 3 * np.pi, 60)  # one and a half times around
    points = np.stack([30 + 9.3 * np.cos(angle), 40 + 9.3 * np.sin(angle)], 1)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    regions.draw_polygon(mask, points)
    assert (mask == enclosed(points[:40])).all()
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    assert mask[np.hypot(row - 40, column - 30) < 9].all()


def test_no_calcification_is_too_small_to_be_marked(tmp_path):
    sliver = [(10.1, 20.2), (10.3, 20.3), (10.2, 20.4)]  # encloses no center
    line = [(40.0, 50.0), (43.0, 50.0), (41.0, 50.0)]
    names = (
        ("Calcification", sliver),
        ("Calcifications", [(60.4, 70.6)]),
        ("calcification ", line),
    )
    fill(tmp_path, {"22678622": names})
    example = read(tmp_path, point_radius_mm=0.001).example
    marked = set(zip(*(n.tolist() for n in np.nonzero(example.mask)), strict=True))
    assert marked == {(20, 10), (71, 60), (50, 40), (50, 43), (50, 41)}


def test_two_points_are_two_discs(tmp_path):
    fill(tmp_path, {"22678622": (("Calcification", [(30, 40), (33, 40)]),)})
    assert (read(tmp_path).example.mask == disc(30, 40, 0.25) | disc(33, 40, 0.25)).all()


CLUSTERS = (
    ("Cluster", [(5, 5), (40, 5), (40, 50), (5, 50)]),
    (" clusters", [(30, 40), (60, 40), (60, 80), (30, 80)]),
)


def test_clusters_are_objects_bit_by_bit(tmp_path):
    fill(tmp_path, {"22678622": (*CLUSTERS, ("Calcification", BLOB))})
    example = read(tmp_path, label="cluster").example
    first, second = (enclosed(points) for _, points in CLUSTERS)
    # Centers on an outline belong to one side of it, as they may.
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    edge = np.isin(row, (5, 40, 50, 80)) | np.isin(column, (5, 30, 40, 60))
    assert ((example.objects == first + 2 * second) | edge).all()
    assert (example.objects & 3 == 3).any() and example.objects.dtype == np.uint16
    assert ((example.objects > 0) == example.mask).all() and example.label_kind == "cluster"
    fill(tmp_path, {"22678622": [("Cluster", BLOB)] * 17})
    example = read(tmp_path, label="cluster").example
    assert example.objects is None and (example.mask == enclosed(BLOB)).all()


def test_kinds_are_never_mixed(tmp_path):
    fill(tmp_path, {"22678622": CLUSTERS[:1], "22678670": USUAL["22678622"]})
    assert "label=cluster uses it" in refusal(tmp_path)
    assert "label=calcification uses it" in refusal(tmp_path, "22678670", label="cluster")
    assert read(tmp_path, "22580192", label="cluster").example.label_kind == "none"
    # One cluster's calcifications are marked, the other's are not.
    fill(tmp_path, {"22678622": (*CLUSTERS, ("Calcification", [(10, 10)]))})
    assert "in which no calcification is marked" in refusal(tmp_path)
    both = (("Calcification", [(10, 10)]), ("Calcification", [(50, 70)]))
    fill(tmp_path, {"22678622": (*CLUSTERS, *both)})
    example = read(tmp_path).example
    assert (example.mask == disc(10, 10, 0.25) | disc(50, 70, 0.25)).all()
    assert example.label_kind == "calcification" and example.objects is None
    fill(tmp_path, {"22678622": (("Cluster", [(10, 10)]),)})
    assert "not known how far it reaches" in refusal(tmp_path, label="cluster")


@pytest.mark.parametrize("name", ["Asymmetry", "Assymetry", "MASSES", "Spiculated  region"])
def test_other_findings_are_no_label(tmp_path, name):
    fill(tmp_path, {"22678622": ((name, BLOB), ("Espiculated Region", [(-900, 3)]))})
    for label in ("", "cluster"):
        example, repaired = read(tmp_path, label=label)
        assert not example.mask.any() and example.label_kind == "none" and repaired == ()


@pytest.mark.parametrize("name", ["Point 1", "Unnamed", "", PLANTED, "Calcifcation", "Cluster 2"])
def test_unknown_names_are_not_guessed(tmp_path, name):
    fill(tmp_path, {"22678622": (("Mass", BLOB), (name, BLOB))})
    reason = refusal(tmp_path)
    assert reason.startswith("region 2 of 2 may be a calcification") and "cluster, mass" in reason


def test_regions_over_the_edge_are_cut_off_and_those_outside_refused(tmp_path):
    over = [(60, 80), (90, 80), (90, 99), (60, 99)]
    fill(tmp_path, {"22678622": (("Calcification", over),)})
    example, repaired = read(tmp_path)
    assert repaired == ("regions that reach beyond the image are cut off at its edge",)
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    assert (example.mask == (row >= 80) & (column >= 60)).all()
    for name, points in (("Calcification", [(72, 5)]), ("Cluster", [(-9, 5), (-8, 9), (-7, 5)])):
        fill(tmp_path, {"22678622": (("Calcification", BLOB), (name, points))})
        assert refusal(tmp_path).startswith("region 2 of 2 lies outside of the image")


BOMB = b"""<?xml version="1.0"?><!DOCTYPE plist [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>
<plist version="1.0"><dict><key>Images</key><string>&b;</string></dict></plist>"""
GOOD = xml_of(("Calcification", BLOB), ("Calcification", [(50, 60)]))
NO_LIST, POINTS = "no property list with the regions of one image", "has points that are missing"
BROKEN = {
    "empty": (b"", NO_LIST),
    "cut": (GOOD[: len(GOOD) // 2], NO_LIST),
    "bomb": (BOMB, NO_LIST),
    "text": (PLANTED.encode(), NO_LIST),
    "binary": (plistlib.dumps({"Images": []}, fmt=plistlib.FMT_BINARY), NO_LIST),
    "list": (plistlib.dumps([PLANTED]), NO_LIST),
    "two_images": (plistlib.dumps({"Images": [{}, {}]}), NO_LIST),
    "no_rois": (plistlib.dumps({"Images": [{"NumberOfROIs": 0}]}), NO_LIST),
    "fewer": (xml_of(("Mass", BLOB), NumberOfROIs=2), "more or fewer regions than it says"),
    "number": (GOOD.replace(b"(50.0", b"(5o.0"), POINTS),
    "planted": (GOOD.replace(b"(50.0", f"({PLANTED}".encode()), POINTS),
    "nan": (GOOD.replace(b"(50.000000", b"(nan"), POINTS),
    "far": (GOOD.replace(b"(50.000000", b"(1e300"), POINTS),
    "three": (GOOD.replace(b"(50.0", b"(1, 50.0"), POINTS),
    "points": (GOOD.replace(b"<integer>4<", b"<integer>5<"), POINTS),
    "no_points": (GOOD.replace(b"Point_px", b"Point_mm"), POINTS),
    "no_name": (GOOD.replace(b"Name<", b"Nam<"), "region 1 of 2 may be a calcification"),
    "number_as_name": (
        GOOD.replace(b"<string>Calcification</string>", b"<real>1</real>"),
        "region 1 of 2 may be a calcification",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_regions_are_named(tmp_path, name):
    content, expected = BROKEN[name]
    assert content != GOOD
    fill(tmp_path, {"22678622": content})
    assert expected in refusal(tmp_path)


def test_images_without_regions_are_normal_only_by_the_table(tmp_path):
    fill(tmp_path, {"22678622": USUAL["22678622"]})
    (problem,) = left_out(tmp_path).items()
    assert problem[0] == f"AllDICOMs/{name_of('22678670')}"
    assert problem[1].startswith("has no XML file, while INbreast.csv does not call it normal")
    fill(tmp_path, rows=[ROWS["22678622"]])
    assert left_out(tmp_path) == {
        f"AllDICOMs/{name_of('22580192')}": "has neither an XML file nor a row in INbreast.csv "
        "that calls it normal; add one"
    }
    assert keys(tmp_path) == ["22678622", "22678670"]  # the latter is known from its regions


def test_files_and_rows_that_belong_to_nothing_are_named(tmp_path):
    fill(tmp_path, USUAL | {"99999999": USUAL["22678622"]}, {**ROWS, "x": "a;b;R;CC;0;123;1;1"})
    (tmp_path / "AllXML/._22678622.xml").write_bytes(b"left by a file manager")
    muscle = tmp_path / "PectoralMuscle/Pectoral Muscle XML/22678670_muscle.xml"
    muscle.parent.mkdir(parents=True)
    muscle.write_bytes(xml_of(("Pectoral Muscle", BLOB)))
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "figure.png")
    assert left_out(tmp_path) == {
        "AllXML/99999999.xml": "regions without their image; add the image that its name begins "
        "with",
        "INbreast.csv": "line 5: there is no image of this row's file name; add it",
        "figure.png": "its name begins with no file id; name it as in the archive",
    }
    assert keys(tmp_path) == sorted(ROWS)


def test_the_layout_of_the_folders_does_not_matter(tmp_path):
    fill(tmp_path / "one")
    (tmp_path / "other/x/y").mkdir(parents=True)
    for number, path in enumerate(sorted((tmp_path / "one").rglob("*.*"))):
        shutil.copy(path, tmp_path / "other" / ("x/y", "x", ".")[number % 3] / path.name)
    table = (tmp_path / "one/INbreast.csv").read_text().replace(";", ",")
    next((tmp_path / "other").rglob("*.csv")).unlink()
    (tmp_path / "other/x/list.CSV").write_bytes(
        b"\xef\xbb\xbf" + table.replace("\n", "\r\n").encode()
    )
    assert left_out(tmp_path / "other") == {}
    for file_id in ROWS:
        example, other = (read(tmp_path / part, file_id).example for part in ("one", "other"))
        assert (example.mask == other.mask).all() and (example.image == other.image).all()
        assert example[2:8] == other[2:8] and example.view_position


def test_one_file_id_twice(tmp_path):
    first = fill(tmp_path) / "AllDICOMs" / name_of("22678622")
    (tmp_path / "copy").mkdir()
    shutil.copy(first, tmp_path / "copy")
    Image.fromarray(picture("22580192")).save(tmp_path / "copy/22580192.png")
    copied = {
        "copy/22580192.png": "a copy of a picture that is there as DICOM too",
        f"copy/{first.name}": "the same file is there twice",
    }
    assert left_out(tmp_path) == copied and keys(tmp_path) == sorted(ROWS)
    save_dicom(tmp_path / "copy" / first.name, picture("22678670"))
    reasons = left_out(tmp_path)
    assert reasons[f"AllDICOMs/{first.name}"].startswith("different files have the same file id")
    assert len(reasons) == 3 and keys(tmp_path) == ["22580192", "22678670"]
    shutil.copy(first, tmp_path / "copy")
    (tmp_path / "copy/22678622.xml").write_bytes(GOOD)
    reasons = left_out(tmp_path)
    assert reasons[f"AllDICOMs/{first.name}"].startswith("its regions are there in different")
    assert reasons["copy/22678622.xml"] == reasons["AllXML/22678622.xml"]
    assert keys(tmp_path) == ["22580192", "22678670"]


def test_rows_that_contradict_each_other_leave_their_image_out(tmp_path):
    lines = [*ROWS.values(), ROWS["22580192"], ROWS["22678622"].replace(";R;", ";L;")]
    fill(tmp_path, rows=lines)
    assert left_out(tmp_path) == {
        f"AllDICOMs/{name_of('22678622')}": "lines 2 and 6 of INbreast.csv contradict each other "
        "on it; keep one"
    }


def test_images_of_unknown_patients_are_left_out(tmp_path):
    fill(tmp_path)
    for path in sorted((tmp_path / "AllDICOMs").iterdir()):
        path.rename(path.with_name(path.name.partition("_")[0] + ".dcm"))
    reasons = left_out(tmp_path)
    assert len(reasons) == 3
    assert set(reasons.values()) == {
        "it is not known whose image it is: it has no id; take the archive's file names"
    }
    known = {"PatientID": PLANTED, "PatientName": "Doe^Jane"}
    save_dicom(tmp_path / "AllDICOMs/22678622.dcm", picture("22678622"), **known)
    found = index(tmp_path)
    assert [(e.key, e.patient) for e in found.entries] == [("22678622", PLANTED)]
    assert PLANTED in found.secrets and any("Doe" in secret for secret in found.secrets)
    assert not {"", "removed"} & found.secrets
    # Beside images with a hash, a header's id might be the same woman's other name.
    save_dicom(tmp_path / "AllDICOMs" / name_of("22580192"), picture("22580192"))
    (tmp_path / "AllDICOMs/22580192.dcm").unlink()
    assert keys(tmp_path) == ["22580192"]
    reason = left_out(tmp_path)["AllDICOMs/22678622.dcm"]
    assert "its name has no hash as those of other images" in reason


def test_a_broken_image_is_left_out_and_its_patient_hidden(tmp_path):
    broken = fill(tmp_path) / "AllDICOMs" / name_of("22580192")
    broken.write_bytes(broken.read_bytes()[:200])
    assert list(left_out(tmp_path)) == [f"AllDICOMs/{broken.name}"]
    assert OTHER_HASH in index(tmp_path).secrets


@pytest.mark.parametrize("name", ["laterality", "view", "bi-rads", "file name"])
def test_a_missing_column_is_named(tmp_path, name):
    fill(tmp_path)
    path = tmp_path / "INbreast.csv"
    head = HEAD.lower().replace(name, "something")
    path.write_text(path.read_text().replace(HEAD, head))
    with pytest.raises(UserError, match=f"INbreast.csv, line 1: no column '{name}'; needed are"):
        inbreast.index(settings(tmp_path))


def test_folders_that_are_no_inbreast_are_named(tmp_path):
    def refused(match, root=tmp_path):
        with pytest.raises(UserError, match=match) as caught:
            inbreast.index(settings(root))
        assert "\n" not in str(caught.value) and PLANTED not in str(caught.value)

    hint = ".*set --config.data.dir="
    refused("data.dir is empty" + hint, "")
    refused("nowhere' does not exist" + hint, tmp_path / "nowhere")
    refused("holds no image")
    save_dicom(tmp_path / name_of("22580192"), picture("22580192"))
    refused("holds no XML file" + hint)
    (tmp_path / "22678622.xml").write_bytes(GOOD)
    refused("holds no table with the column 'File Name'" + hint)
    (tmp_path / "other.csv").write_text("a;b\n1;2\n")
    refused("holds no table with the column 'File Name'")
    (tmp_path / "inbreast.csv").write_text("")
    refused("no column 'file name', 'laterality', 'view', 'bi-rads'")
    (tmp_path / "inbreast.csv").write_text(HEAD + f'"{PLANTED};a\n')
    refused("inbreast.csv, line 2: not a line of a CSV file")
    (tmp_path / "inbreast.csv").write_text(HEAD)
    (tmp_path / "again.csv").write_text(HEAD + ROWS["22580192"])
    refused("holds several tables")
    (tmp_path / "again.csv").write_text(HEAD)
    assert inbreast.index(settings(tmp_path)).entries == ()


def test_links_to_files_that_are_not_here_make_no_image_normal(tmp_path):
    fill(tmp_path)
    normal, other = (
        tmp_path / "AllDICOMs" / name_of(file_id) for file_id in ("22580192", "22678670")
    )
    (tmp_path / "AllXML/22580192.xml").symlink_to("nowhere")
    (tmp_path / "AllXML/22678622_muscle.xml").symlink_to("nowhere")
    hidden = tmp_path / "AllDICOMs/33333333_aaaabbbbccccdddd_MG_R_CC_ANON.dcm"
    hidden.symlink_to("nowhere")
    other.unlink()
    other.symlink_to("nowhere")
    reasons = left_out(tmp_path)
    assert keys(tmp_path) == ["22678622"] and "aaaabbbbccccdddd" in index(tmp_path).secrets
    for path in (tmp_path / "AllXML/22580192.xml", other, hidden):
        name = path.relative_to(tmp_path).as_posix()
        assert reasons.pop(name).startswith("a link whose file is not here; fetch its content")
    assert reasons.pop(f"AllDICOMs/{normal.name}").startswith("its regions are a link whose file")
    assert sorted(reasons) == ["AllXML/22678670.xml", "INbreast.csv"]  # whose image is not here
    for file_id in ("22678622", "22678670"):
        (tmp_path / f"AllXML/{file_id}.xml").unlink()
    with pytest.raises(UserError, match="no XML file of regions.*not counted .1.: a link whose"):
        inbreast.index(settings(tmp_path))


def test_locks_hidden_files_and_folders_count_for_nothing(tmp_path):
    fill(tmp_path)
    for name in ("~$INbreast.csv", "._INbreast.csv", "AllXML/~$22580192.xml", ".x/22580192.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(HEAD.encode())
    (tmp_path / "INbreast.old.csv").mkdir()
    assert left_out(tmp_path) == {} and keys(tmp_path) == sorted(ROWS)


def test_regions_in_a_linked_folder_are_found(tmp_path):
    fill(tmp_path / "data")
    (tmp_path / "data/AllXML").rename(tmp_path / "far")
    (tmp_path / "data/AllXML").symlink_to(tmp_path / "far", target_is_directory=True)
    assert left_out(tmp_path / "data") == {} and keys(tmp_path / "data") == sorted(ROWS)


def test_numbers_of_a_spreadsheet_are_ids_and_grades_again(tmp_path):
    lines = [line.replace(file_id, f"{file_id}.0") for file_id, line in ROWS.items()]
    fill(tmp_path, rows=[f"{line}.0" for line in lines])  # the last cell is the grade
    assert left_out(tmp_path) == {} and keys(tmp_path) == sorted(ROWS)
    assert read(tmp_path, "22580192").example.view_position == "CC"
