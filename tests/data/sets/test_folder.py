import pickle
import unicodedata

import numpy as np
import pytest
from PIL import Image

from mln_flax.config import DataConfig
from mln_flax.data.core import Unusable, collections
from mln_flax.data.sets import folder
from mln_flax.types import UserError

HEIGHT, WIDTH = 60, 48
PLANTED = "Planted4711"  # a patient's id: it may stand in keys, patients and secrets only


def picture(seed=0):
    """A breast at the left, uint8, whose gray levels tell the pictures apart."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    inside = np.hypot(row - HEIGHT / 2, column) < 0.7 * WIDTH
    grain = np.random.default_rng(seed).integers(0, 40, (HEIGHT, WIDTH))
    return np.where(inside, 120 + 2 * row // 3 + grain, 3).astype(np.uint8)


def spot(row=20):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[row : row + 3, 10:14] = 255
    return mask


EMPTY = np.zeros((HEIGHT, WIDTH), np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_dicom(path, pixels, **fields):
    """A mammogram without compression; `pixels` is [H, W] or [frames, H, W] of bytes."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation as MG
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MG
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = MG, meta.MediaStorageSOPInstanceUID
    data.Modality, data.PresentationIntentType = "MG", "FOR PRESENTATION"
    data.PatientID, data.PatientName = PLANTED, "Doe^Planted"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    for name, value in fields.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, data, enforce_file_format=True)


def fill(root, images=("a",), table=None):
    """A folder with a PNG image and a mask for each stem, and a table if its text is given."""
    for seed, stem in enumerate(images):
        save(root / f"images/{stem}.png", picture(seed))
        save(root / f"masks/{stem}.png", spot(10 + 2 * seed))
    if table is not None:
        (root / "cases.csv").write_text(table, encoding="utf-8")
    return root


def settings(root, **changes):
    return DataConfig(name="folder", dir=str(root), source="folder", targets=(), **changes)


def index(root, **changes):
    found = folder.index(settings(root, **changes))
    for item, reason in found.left_out:
        assert PLANTED not in reason and "\n" not in reason and item.startswith(str(root))
    assert pickle.loads(pickle.dumps(found)) == found == folder.index(settings(root, **changes))
    return found


def left_out(root, **changes):
    """The reasons by file, paths as below the folder."""
    listed = index(root, **changes).left_out
    return [(item.removeprefix(f"{root}/"), reason) for item, reason in listed]


def read(root, key="a", **changes):
    (entry,) = [entry for entry in index(root, **changes).entries if entry.key == key]
    return folder.read(entry, settings(root, **changes)).example


def test_images_and_masks_meet_by_their_stems(tmp_path):
    images = ["a.png", "b.TIF", "sub/a.bmp", "sub/c.png", "d.png", "1.2.840.5.png", "e_mask.png"]
    masks = ["a.tif", "b_mask.png", "sub/a_mask.png", "c.png", "sub/d_mask.bmp", "1.2.840.5.bmp"]
    masks.append("e_mask.png")
    for seed, (image, mask) in enumerate(zip(images, masks, strict=True)):
        save(tmp_path / "images" / image, picture(seed))
        save(tmp_path / "masks" / mask, spot(seed))
    save(tmp_path / "images/.hidden.png", picture())
    save(tmp_path / "masks/sub/._d.png", picture())
    found = collections["folder"]().index(settings(tmp_path))
    assert found.left_out == ()
    stems = [image.rpartition(".")[0] for image in images]
    assert sorted(stems) == [entry.key for entry in found.entries]
    for entry in found.entries:
        seed = stems.index(entry.key)
        assert (entry.patient, entry.domain, entry.part) == (entry.key, "folder", "")
        example, repaired = folder.read(entry, settings(tmp_path))
        assert np.abs(example.image - picture(seed) / 255).max() < 1e-6 and repaired == ()
        assert example.image.dtype == np.float32 and example.mask.dtype == np.uint8
        assert (example.mask == (spot(seed) > 0)).all()
        assert (example.image_id, example.patient_id, example.label_kind) == (
            "",
            "",
            "calcification",
        )
        assert (example.laterality, example.view_position, example.spacing_mm) == ("", "", None)


def test_only_a_mask_without_a_pixel_makes_an_image_normal(tmp_path):
    fill(tmp_path, ("a", "b", "c"))
    save(tmp_path / "masks/b.png", EMPTY)
    (tmp_path / "masks/c.png").unlink()
    assert read(tmp_path, "a", label="cluster").label_kind == "cluster"
    normal = read(tmp_path, "b", label="cluster")
    assert normal.label_kind == "none" and not normal.mask.any()
    ((file, reason),) = left_out(tmp_path)
    assert file == "images/c.png" and "nobody has said that it is normal" in reason


def test_what_has_no_partner_is_named(tmp_path):
    fill(tmp_path, ("a", "b", "c", "p/x", "q/x"))
    save(tmp_path / "images/a.tif", picture())  # the stem of a.png
    save(tmp_path / "masks/b_mask.png", spot())  # a second mask of b
    save(tmp_path / "masks/lost.png", spot())
    save(tmp_path / "masks/x_mask.png", spot())  # of p/x or of q/x?
    save(tmp_path / "masks/r/c.tif", spot())  # a second mask of c
    (tmp_path / "images/notes.txt").write_text(PLANTED)
    (tmp_path / "images/d.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
    save(tmp_path / "masks/d.png", spot())
    reasons = left_out(tmp_path)
    assert [file for file, _ in reasons] == [
        "images/a.png",
        "images/a.tif",
        "images/b.png",
        "images/c.png",
        "images/d.png",
        "images/notes.txt",
        "masks/lost.png",
        "masks/x_mask.png",
    ]
    by_file = dict(reasons)
    assert "several images have this stem" in by_file["images/a.png"]
    assert by_file["images/a.tif"] == by_file["images/a.png"]
    assert (
        by_file["images/b.png"]
        == by_file["images/c.png"]
        == ("several masks with its stem; keep one")
    )
    assert "no image of a known format" in by_file["images/notes.txt"]
    assert "a mask without an image" in by_file["masks/lost.png"] == by_file["masks/x_mask.png"]
    assert [entry.key for entry in index(tmp_path).entries] == ["p/x", "q/x"]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (spot()[:-1], "a mask of 59x48 pixels for an image of 60x48"),
        (spot().T.copy(), "a mask of 48x60 pixels for an image of 60x48"),
        (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8), "value"),
        (EMPTY + np.uint8(255), "a mask that labels every pixel"),
        (255 - spot(), "lesions are black on white; invert it"),
        (b"\x89PNG\r\n\x1a\n", "read"),
    ],
)
def test_a_mask_that_does_not_fit_leaves_its_image_out(tmp_path, mask, expected):
    fill(tmp_path)
    path = tmp_path / "masks/a.png"
    path.write_bytes(mask) if isinstance(mask, bytes) else save(path, mask)
    with pytest.raises(Unusable, match=expected) as caught:
        read(tmp_path)
    assert caught.value.file == str(path)


def save_pages(path, *pages):
    first, *others = map(Image.fromarray, pages)
    first.save(path, save_all=True, append_images=others)


def test_a_mask_may_have_a_page_for_each_lesion_of_one_image(tmp_path):
    fill(tmp_path)
    (tmp_path / "masks/a.png").unlink()
    save_pages(tmp_path / "masks/a.tif", spot(20), spot(40))
    np.testing.assert_array_equal(read(tmp_path).mask, (spot(20) | spot(40)) > 0)
    save_dicom(tmp_path / "images/a.dcm", np.stack([picture(1), picture(2)]))
    (tmp_path / "images/a.png").unlink()
    (tmp_path / "masks/a.tif").rename(tmp_path / "masks/a_2.tif")
    (entry,) = index(tmp_path).entries
    with pytest.raises(Unusable, match="not sure to show one image"):
        folder.read(entry, settings(tmp_path))


TABLE = """\ufeffImage;Patient;laterality;VIEW;spacing;domain;label;part
a;Planted4711;left;mlo;0.07;ffdm;cluster;Train
"b.png";P2;R;CC;0.05 x 0.10;dbt;;test

sub/c;P3;;;0.2×0.1;;Cluster;
images\\d.png;P3
"""


def test_the_table_tells_what_is_known_of_each_image(tmp_path):
    fill(tmp_path, ("a", "b", "sub/c", "d"), TABLE)
    found = index(tmp_path)
    assert found.left_out == ()
    assert [(e.key, e.patient, e.domain, e.part) for e in found.entries] == [
        ("a", PLANTED, "ffdm", "train"),
        ("b", "P2", "dbt", "test"),
        ("d", "P3", "folder", ""),
        ("sub/c", "P3", "folder", ""),
    ]
    assert found.secrets == {PLANTED, "P2", "P3"}
    known = [read(tmp_path, entry.key) for entry in found.entries]
    assert [(e.laterality, e.view_position) for e in known] == [
        ("L", "MLO"),
        ("R", "CC"),
        ("", ""),
        ("", ""),
    ]
    assert [e.spacing_mm for e in known] == [(0.07, 0.07), (0.05, 0.1), None, (0.2, 0.1)]
    assert {e.label_kind for e in known} == {"cluster"}  # the one kind that the table names


def test_two_kinds_of_labels_are_not_mixed(tmp_path):
    fill(tmp_path, "abc", "image,label\na,cluster\nb,calcification\n")
    with pytest.raises(UserError, match="cases.csv labels both .*--config.data.label="):
        folder.index(settings(tmp_path))
    found = index(tmp_path, label="cluster")
    assert [entry.key for entry in found.entries] == ["a", "c"]
    assert read(tmp_path, "c", label="cluster").label_kind == "cluster"
    ((file, reason),) = left_out(tmp_path, label="cluster")
    assert (file, "data.label=cluster" in reason) == ("images/b.png", True)


HEAD = "image,patient,laterality,view,spacing,domain,label,part\n"
BAD_ROWS = {  # the second line of a table, and what is said of it
    "few": (f"a,{PLANTED},X", "'laterality' is not understood; known: l, left, r, right"),
    "view": (f"a,{PLANTED},,M L O", "'view' is not understood"),
    "spacing": (f"a,{PLANTED},,,seventy", "'spacing' is no number of mm from 0.005 to 5"),
    "micrometers": (f"a,{PLANTED},,,70", "'spacing' is no number of mm"),
    "nan": (f"a,{PLANTED},,,nan", "'spacing' is no number of mm"),
    "below": (f"a,{PLANTED},,,-0.07", "'spacing' is no number of mm"),
    "three": (f"a,{PLANTED},,,0.1x0.1x0.1", "'spacing' is no number of mm"),
    "domain": (f"a,{PLANTED},,,,F F", "'domain' is not understood; allowed: letters, digits"),
    "label": (f"a,{PLANTED},,,,,mass", "'label' is not understood; known: calcification, cluster"),
    "part": (f"a,{PLANTED},,,,,,validation", "'part' is not understood; known: train, test"),
    "slipped": (f"a,,{PLANTED}", "'laterality' is not understood"),
    "long": (f"a,{PLANTED},,,,,,,", "more cells than the 8 columns"),
    "no_patient": ("a,,L", "knows the patients of images, but not of this one"),
    "twice": (f"a.png,{PLANTED}\na,{PLANTED}", "line 3 of cases.csv: its image is that of line 2"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_row_that_cannot_be_used_leaves_its_image_out(tmp_path, name):
    row, expected = BAD_ROWS[name]
    fill(tmp_path, ("a", "b"), f"{HEAD}{row}\nb,P2\n")
    assert [entry.key for entry in index(tmp_path).entries] == ["b"]
    ((file, reason),) = left_out(tmp_path)
    assert file == "images/a.png" and expected in reason
    assert name == "no_patient" or reason.startswith(f"line {2 + (name == 'twice')} of cases.csv")


def test_a_row_for_no_image_is_named_by_its_line(tmp_path):
    rows = f"{HEAD}a,P1\n{PLANTED},P2\n,{PLANTED}\nx,P3\n"
    fill(tmp_path, ("a", "p/x", "q/x"), rows)
    assert index(tmp_path).secrets == {"P1", "P2", "P3", PLANTED}
    reasons = [reason for file, reason in left_out(tmp_path) if file == "cases.csv"]
    nothing = "no image, or more than one, has the name of its column 'image'"
    assert reasons == [f"line 3: {nothing}", "line 4: no image is named", f"line 5: {nothing}"]
    others = [file for file, _ in left_out(tmp_path) if file != "cases.csv"]
    assert others == ["images/p/x.png", "images/q/x.png"]  # the table knows no patient of theirs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty; its first line names columns: image, patient"),
        (f"a,{PLANTED}\n", "line 1: no column 'image'; the columns may be: image, patient"),
        ("images,patient\n", "line 1: no column 'image' .there is 'images'.;"),
        ("image,patients\n", "line 1: unknown column 'patients' .did you mean 'patient'.."),
        ("image,age\n", "line 1: unknown column 'age'; known: image, patient"),
        ("\nimage,view,view\n", "line 2: the column 'view' is there twice"),
        ("image,\n", "line 1: column 2 has no name"),
        (f'image,patient\na,"{PLANTED}\nb,P2\n', "line 3: not a line of a CSV file"),
        (b"image,patient\na,M\xfcller\n", "no UTF-8 text; save the table as CSV in UTF-8"),
    ],
)
def test_a_table_of_other_columns_is_refused_in_one_line(tmp_path, text, expected):
    fill(tmp_path)
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "cases.csv").write_bytes(content)
    with pytest.raises(UserError, match="cases.csv.*" + expected) as caught:
        folder.index(settings(tmp_path))
    assert "\n" not in str(caught.value) and PLANTED not in str(caught.value)


def test_dicom_headers_tell_what_the_table_does_not(tmp_path):
    known = {"ImageLaterality": "R", "ViewPosition": "MLO", "PixelSpacing": [0.07, 0.08]}
    save_dicom(tmp_path / "images/a", picture(1), **known)  # no suffix, found by its first bytes
    raw = {"PresentationIntentType": "FOR PROCESSING", "PatientID": "Another9"}
    save_dicom(tmp_path / "images/b.dcm", picture(2), **known, **raw)
    for stem in "ab":
        save(tmp_path / f"masks/{stem}.png", spot())
    found = index(tmp_path)
    assert [(e.key, e.patient, e.domain) for e in found.entries] == [
        ("a", PLANTED, "folder"),
        ("b", "Another9", "folder_processing"),
    ]
    assert {PLANTED, "Another9"} <= found.secrets
    assert any("Doe" in secret for secret in found.secrets)
    save_dicom(tmp_path / "masks/Lost8.dcm", spot(), PatientID="Lost8")
    assert "Lost8" in index(tmp_path).secrets  # its path is shown as that of a mask left out
    (tmp_path / "masks/Lost8.dcm").unlink()
    example = read(tmp_path)
    assert (example.laterality, example.view_position) == ("R", "MLO")
    assert example.spacing_mm == pytest.approx((0.07, 0.08))
    assert example.image.shape == example.mask.shape == (HEIGHT, WIDTH)
    table = "image,laterality,spacing,domain\na,L,0.1,ffdm\nb,,,ffdm\n"
    (tmp_path / "cases.csv").write_text(table)
    example = read(tmp_path)
    assert (example.laterality, example.view_position) == ("L", "MLO")
    assert example.spacing_mm == (0.1, 0.1)
    assert [(e.patient, e.domain) for e in index(tmp_path).entries] == [
        (PLANTED, "ffdm"),
        ("Another9", "ffdm_processing"),
    ]


def test_frames_have_masks_of_their_own(tmp_path):
    frames = np.stack([picture(seed) for seed in range(4)])
    save_dicom(tmp_path / "images/vol.dcm", frames)
    for name, mask in {"vol_2": spot(), "vol_03_mask": EMPTY, "vol_4": spot()}.items():
        save(tmp_path / f"masks/{name}.png", mask)
    for name in ("vol_004", "vol_5", "vol_0"):
        save(tmp_path / f"masks/{name}.tif", spot())
    found = index(tmp_path)
    assert [(e.key, e.patient, e.details.frame) for e in found.entries] == [
        ("vol_002", PLANTED, 1),
        ("vol_003", PLANTED, 2),
    ]
    for entry, kind in zip(found.entries, ("calcification", "none"), strict=True):
        example = folder.read(entry, settings(tmp_path)).example
        assert example.label_kind == kind
        gray = picture(entry.details.frame)  # up to the header's windows, which keep the order
        assert np.corrcoef(example.image.ravel(), gray.ravel())[0, 1] > 0.999
    reasons = left_out(tmp_path)
    assert [file for file, _ in reasons] == [
        *["images/vol.dcm"] * 2,
        "masks/vol_0.tif",
        "masks/vol_5.tif",
    ]
    assert "no mask for 1 of 4 frames" in reasons[0][1]
    assert "several masks of frame 4" in reasons[1][1]
    assert "its image has the frames 1 to 4" in reasons[2][1]


def test_a_mask_of_a_whole_volume_says_how_to_name_frames(tmp_path):
    save_dicom(tmp_path / "images/vol.dcm", np.stack([picture(1), picture(2)]))
    save(tmp_path / "masks/vol.png", spot())
    assert not index(tmp_path).entries
    reasons = [reason for _, reason in left_out(tmp_path)]
    assert len(reasons) == 2 and "NAME_1.png" in reasons[0] and "NAME_1.png" in reasons[1]
    save(tmp_path / "images/vol_002.png", picture())  # takes the second frame's mask and name
    save(tmp_path / "masks/vol_2.png", spot())
    save(tmp_path / "masks/vol_002.png", spot())
    assert [entry.key for entry in index(tmp_path).entries] == ["vol_002"]
    assert any("would have another image's name" in reason for _, reason in left_out(tmp_path))


def test_folders_that_are_none_are_named(tmp_path):
    hint = "images/ and masks/: set --config.data.dir="
    with pytest.raises(UserError, match="data.dir is empty.*" + hint):
        folder.index(settings(""))
    with pytest.raises(UserError, match="nowhere' does not exist.*" + hint):
        folder.index(settings(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file' is not a folder.*" + hint):
        folder.index(settings(tmp_path / "file"))
    with pytest.raises(UserError, match="has no folder images/.*" + hint):
        folder.index(settings(tmp_path))
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="has no folder masks/.*" + hint):
        folder.index(settings(tmp_path))
    (tmp_path / "masks").write_text("a file")
    with pytest.raises(UserError, match="has no folder masks/.*" + hint):
        folder.index(settings(tmp_path))
    (tmp_path / "masks").unlink()
    save(tmp_path / "masks/a.png", spot())
    with pytest.raises(UserError, match="images holds no image; known are DICOM and .*.png"):
        folder.index(settings(tmp_path))


def test_links_to_files_that_are_not_here_are_named(tmp_path):
    fill(tmp_path, ("a", "b", "c"))
    for name in ("images/a.png", "masks/b.png", "images/1.2.840.5", "masks/.hidden.png"):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to("../.git/annex/objects/x")
    reasons = dict(left_out(tmp_path))
    assert [entry.key for entry in index(tmp_path).entries] == ["c"]
    for name in ("images/a.png", "masks/b.png", "images/1.2.840.5"):
        assert reasons[name].startswith("a link whose file is not here; fetch its content")
    assert sorted(reasons) == [
        *("images/1.2.840.5", "images/a.png", "images/b.png", "masks/a.png", "masks/b.png")
    ]
    (tmp_path / "cases.csv").symlink_to("nowhere")  # it may name the patients
    with pytest.raises(UserError, match="cases.csv: a link whose file is not here"):
        folder.index(settings(tmp_path))


def test_a_folder_of_links_alone_says_so(tmp_path):
    fill(tmp_path)
    (tmp_path / "images/a.png").unlink()
    (tmp_path / "images/a.png").symlink_to("nowhere")
    with pytest.raises(UserError, match="holds no image.*not counted .1.: a link whose file is"):
        folder.index(settings(tmp_path))


def test_locks_and_hidden_files_count_for_nothing(tmp_path):
    fill(tmp_path)
    for name in ("images/~$a.png", "masks/~$cases.csv", "images/.DS_Store", "masks/._a.png"):
        (tmp_path / name).write_bytes(b"left behind")
    (tmp_path / "images/Thumbs.db").write_bytes(b"left behind")
    (tmp_path / "images/table.csv").mkdir()
    assert left_out(tmp_path) == [] and len(index(tmp_path).entries) == 1


def test_names_are_the_same_however_their_accents_are_spelled(tmp_path):
    whole, parted = (unicodedata.normalize(form, "é_ü") for form in ("NFC", "NFD"))
    assert whole != parted
    for image, mask, cell in ((whole, parted, parted), (parted, whole, whole)):
        root = tmp_path / str(len(image))
        save(root / f"images/{image}.png", picture())
        save(root / f"masks/{mask}_mask.png", spot())
        (root / "cases.csv").write_text(f"image,patient\n{cell}.png,P1\n", encoding="utf-8")
        assert left_out(root) == []
        assert [(entry.key, entry.patient) for entry in index(root).entries] == [(whole, "P1")]


def test_files_named_by_uids_keep_their_last_number(tmp_path):
    uids = ["1.2.840.113.5", "1.2.840.113.6"]
    for seed, uid in enumerate(uids):
        save_dicom(tmp_path / "images" / uid, picture(seed), PatientID=f"P{seed}")
        save(tmp_path / f"masks/{uid}_mask.png", spot(10 + seed))
    (tmp_path / "cases.csv").write_text("image,view\n1.2.840.113.5,CC\n1.2.840.113.6,MLO\n")
    assert left_out(tmp_path) == []
    assert [(entry.key, entry.patient) for entry in index(tmp_path).entries] == [
        (uids[0], "P0"),
        (uids[1], "P1"),
    ]
    assert [read(tmp_path, uid).view_position for uid in uids] == ["CC", "MLO"]


def test_ids_that_a_spreadsheet_made_numbers_are_found(tmp_path):
    fill(tmp_path, ("12345", "67"), "image,patient\n12345.0,P1\n67.0,P2\n")
    assert [entry.patient for entry in index(tmp_path).entries] == ["P1", "P2"]
    assert left_out(tmp_path) == []


def test_a_patient_that_a_spreadsheet_made_a_number_is_one(tmp_path):
    fill(tmp_path, ("a", "b"), "image,patient\na,17.0\nb,17\n")
    assert {entry.patient for entry in index(tmp_path).entries} == {"17"}
