import pickle
import unicodedata

import numpy as np
import pytest
from PIL import Image

from mln_flax.config import DataConfig
from mln_flax.data.core import Unusable, collections
from mln_flax.data.phantoms.phantom import phantom
from mln_flax.data.sets import ffdm_dbt
from mln_flax.types import UserError

HEIGHT, WIDTH = 72, 60
EMPTY = np.zeros((HEIGHT, WIDTH), np.uint8)


def shown(number, domain="ffdm"):
    """A phantom's image and mask, uint8; every number is another one."""
    example = phantom(5, domain, number, height=HEIGHT, width=WIDTH, spacing_mm=0.8)
    mask = example.mask.copy()
    mask[30:32, 20 + number % 20] = 1  # calcifications fall through so coarse a grid
    return np.round(example.image * 255).astype(np.uint8), mask * 255


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def add(root, image, mask, number=1):
    """An image file and its mask, None for none."""
    save(root / image, shown(number)[0])
    if mask is not None:
        save(root / mask, shown(number)[1])


def save_volume(path, frames, **fields):
    """A tomosynthesis volume, uint8 [frames, H, W], without compression."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import BreastTomosynthesisImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = BreastTomosynthesisImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = BreastTomosynthesisImageStorage, "1.2.3"
    data.Modality, data.PresentationIntentType = "MG", "FOR PRESENTATION"
    data.PatientID, data.PatientName = "Known77", "Doe^Jane"
    data.NumberOfFrames, data.Rows, data.Columns = frames.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    for name, value in fields.items():
        setattr(data, name, value)
    data.PixelData = frames.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def settings(root, **changes):
    return DataConfig(name="ffdm_dbt", dir=str(root), source="ffdm", targets=("dbt",), **changes)


def index(root):
    found = ffdm_dbt.index(settings(root))
    for item, reason in found.left_out:
        assert item.startswith(str(root)) and "\n" not in reason
        assert not any(secret.lower() in reason.split() for secret in found.secrets)
    assert pickle.loads(pickle.dumps(found)) == found == ffdm_dbt.index(settings(root))
    return found


def keys(root):
    return [entry.key for entry in index(root).entries]


def left_out(root):
    return {item.removeprefix(f"{root}/"): reason for item, reason in index(root).left_out}


def patients(root):
    """The patients by the images' own paths."""
    return {e.files[0].removeprefix(f"{root}/"): e.patient for e in index(root).entries}


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("FFDM/012_LCC.bmp", "FFDM_mask/012_LCC.bmp"),
        ("FFDM/012_LCC.bmp", "FFDM/012_LCC_mask.bmp"),
        ("FFDM/012_LCC.bmp", "FFDM/012_LCC_mask.png"),
        ("FFDM/012_LCC.bmp", "ffdmMASKS/012_lcc_mask.png"),
        ("FFDM/images/012_LCC.bmp", "FFDM/labels/012_LCC.bmp"),
        ("FFDM/012_LCC.bmp", "FFDM/GT/012_LCC.bmp"),
        ("FFDM/012_LCC.bmp", "mask/FFDM/012_LCC.bmp"),
        ("images/FFDM/012-LCC.bmp", "ROI/FFDM/012 LCC.tif"),
        ("FFDM-DBT/FFDM/012_LCC.bmp", "FFDM-DBT/FFDM-label/012_LCC.bmp"),
        ("DBT/LCC/012_07.bmp", "DBT/LCC_mask/012_07.bmp"),
        ("DBT/LCC/012_07.bmp", "DBT/LCC/mask/012_07_mask.bmp"),
        ("DBT/LCC/012_07.bmp", "DBT_masks/LCC/012_07.bmp"),
        ("DBT/012_LCC/7.bmp", "DBT_roi/012_LCC/7.bmp"),
    ],
)
def test_masks_are_found_beside_images_and_in_folders_of_their_own(tmp_path, image, mask):
    add(tmp_path, image, mask)
    found = collections["ffdm_dbt"]().index(settings(tmp_path))
    assert found.left_out == () and "012" in found.secrets
    (entry,) = found.entries
    domain = "dbt" if image.startswith("DBT") else "ffdm"
    assert (entry.patient, entry.domain, entry.part) == ("012", domain, "")
    assert entry.files == (str(tmp_path / image), str(tmp_path / mask))
    example, repaired = ffdm_dbt.read(entry, settings(tmp_path))
    pixels, label = shown(1)
    assert np.abs(example.image - pixels / 255).max() < 1e-6 and repaired == ()
    assert (example.mask == label / 255).all() and example.mask.any()
    assert example.image.dtype == np.float32 and example.mask.dtype == np.uint8
    assert (example.laterality, example.view_position) == ("L", "CC")
    assert (example.label_kind, example.spacing_mm, example.domain) == (
        "calcification",
        None,
        domain,
    )
    assert (example.image_id, example.patient_id, example.objects) == ("", "", None)


@pytest.mark.parametrize(
    ("image", "patient"),
    [
        ("FFDM/012_LCC.bmp", "012"),
        ("FFDM/LCC_012.bmp", "012"),
        ("FFDM/P012-R-MLO.bmp", "p012"),
        ("FFDM/patient_12_ccl.bmp", "12"),
        ("FFDM/012.bmp", "012"),
        ("FFDM/012/LCC.bmp", "012"),
        ("FFDM/LCC/012.bmp", "012"),
        ("FFDM/LCC.bmp", "unnamed"),
        ("FFDM/train/012_LCC.bmp", "012"),
        ("DBT/LCC/012_7.bmp", "012"),
        ("DBT/LCC/012_slice7.bmp", "012"),
        ("DBT/LCC/012_LCC_slice_007.bmp", "012"),
        ("DBT/LCC/case012_LCC_7.bmp", "case012"),
        ("DBT/012_LCC/7.bmp", "012"),
        ("DBT/012/LCC/7.bmp", "012"),
        ("DBT-P012/LCC/7.bmp", "p012"),
        ("DBT/LCC/7.bmp", "unnamed"),
        ("DBT/view1/slice_7.bmp", "unnamed"),
        ("DBT/012_LCC.bmp", "012"),
        ("DBT/张_LCC/7.bmp", "张"),
        (unicodedata.normalize("NFD", "FFDM/Müller_LCC.bmp"), "müller"),
    ],
)
def test_the_patient_is_the_first_word_that_is_one(tmp_path, image, patient):
    add(tmp_path, image, f"masks/{image}")
    assert patients(tmp_path) == {image: patient}


def test_slices_of_a_case_stay_together_in_their_order(tmp_path):
    for number in (10, 9, 1, 100):
        add(tmp_path, f"DBT/LCC/012_{number}.bmp", f"DBT_mask/LCC/012_{number}.bmp", number)
        add(tmp_path, f"DBT/RMLO/{number}.bmp", f"DBT_mask/RMLO/{number}.bmp", number)
    add(tmp_path, "FFDM/012_LCC.bmp", "FFDM_mask/012_LCC.bmp")
    found = index(tmp_path)
    order = [f"dbt/{name}{n}" for name in ("lcc/012_", "rmlo/") for n in (1, 9, 10, 100)]
    assert [entry.key for entry in found.entries] == [*order, "ffdm/012_lcc"]
    assert [entry.patient for entry in found.entries] == ["012"] * 4 + ["unnamed"] * 4 + ["012"]
    assert found.secrets == {"012"}
    for entry, number in zip(found.entries, (1, 9, 10, 100) * 2, strict=False):
        example = ffdm_dbt.read(entry, settings(tmp_path)).example
        assert (example.mask == shown(number)[1] / 255).all()
        assert example.laterality + example.view_position == entry.key.split("/")[1].upper()


def test_folders_above_count_where_there_are_several(tmp_path):
    add(tmp_path, "P1/FFDM/1.bmp", "P1/FFDM_mask/1.bmp")
    assert patients(tmp_path) == {"P1/FFDM/1.bmp": "1"}  # P1 may be a name for all the data
    add(tmp_path, "P2/DBT/LCC/1.bmp", "P2/DBT_mask/LCC/1.bmp")
    assert patients(tmp_path) == {"P1/FFDM/1.bmp": "p1", "P2/DBT/LCC/1.bmp": "p2"}


def test_an_image_without_a_mask_is_left_out_and_an_empty_mask_is_normal(tmp_path):
    add(tmp_path, "FFDM/1_LCC.bmp", None)
    add(tmp_path, "FFDM/2_LCC.bmp", None)
    save(tmp_path / "FFDM_mask/2_LCC.bmp", EMPTY)
    (entry,) = index(tmp_path).entries
    example = ffdm_dbt.read(entry, settings(tmp_path)).example
    assert example.label_kind == "none" and not example.mask.any()
    ((file, reason),) = left_out(tmp_path).items()
    assert file == "FFDM/1_LCC.bmp" and reason.startswith("no mask, so nobody has said")


def test_files_that_do_not_fit_are_named(tmp_path):
    add(tmp_path, "FFDM/1_LCC.bmp", "FFDM_mask/1_LCC.bmp")
    add(tmp_path, "FFDM/2_LCC.bmp", "FFDM_mask/2_LCC.bmp")
    save(tmp_path / "FFDM/2-LCC.png", shown(2)[0])
    add(tmp_path, "FFDM/3_LCC.bmp", "FFDM_mask/3_LCC.bmp")
    save(tmp_path / "FFDM/3_LCC_mask.bmp", EMPTY)
    save(tmp_path / "FFDM_mask/4_LCC.bmp", EMPTY)
    add(tmp_path, "other/5_LCC.bmp", "other/5_LCC_mask.bmp")
    add(tmp_path, "FFDM/6_LCC.bmp", "FFDM_mask/6_LCC.bmp")
    (tmp_path / "FFDM/6_LCC.bmp").write_bytes(b"BM, and then nothing")
    save(tmp_path / "FFDM/._1_LCC.bmp", EMPTY)
    (tmp_path / "FFDM/Thumbs.db").write_bytes(b"")
    reasons = left_out(tmp_path)
    assert keys(tmp_path) == ["ffdm/1_lcc"]
    name = "several images have this name, and a mask fits one; rename them"
    assert reasons.pop("FFDM/6_LCC.bmp") and reasons == {
        "FFDM/2_LCC.bmp": name,
        "FFDM/2-LCC.png": name,
        "FFDM/3_LCC.bmp": "several masks; keep one",
        "FFDM_mask/4_LCC.bmp": "a mask without an image: no image has its stem; rename it or add "
        "the image",
        "other/5_LCC.bmp": "lies neither below FFDM nor below DBT, so its domain is not known",
    }


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (EMPTY[1:], "a mask of 71x60 pixels for an image of 72x60"),
        (EMPTY + np.arange(WIDTH, dtype=np.uint8), "two"),
        (EMPTY + np.uint8(255), "labels every pixel"),
        (255 - shown(1)[1], "lesions are black on white; invert it"),
    ],
)
def test_a_mask_that_is_none_is_named(tmp_path, mask, expected):
    add(tmp_path, "FFDM/1_LCC.bmp", None)
    save(tmp_path / "FFDM_mask/1_LCC.bmp", mask)
    (entry,) = index(tmp_path).entries
    with pytest.raises(Unusable, match=expected) as caught:
        ffdm_dbt.read(entry, settings(tmp_path))
    assert caught.value.file == str(tmp_path / "FFDM_mask/1_LCC.bmp")


def test_frames_of_a_volume_have_masks_of_their_own(tmp_path):
    frames = np.stack([shown(number, "dbt")[0] for number in range(4)])
    save_volume(tmp_path / "DBT/LCC/vol.dcm", frames, ViewPosition="MLO")
    save(tmp_path / "DBT_mask/LCC/vol_2.bmp", shown(1)[1])
    save(tmp_path / "DBT_mask/LCC/vol_03_mask.bmp", EMPTY)
    found = index(tmp_path)
    assert [(e.key, e.patient, e.domain, e.details.frame) for e in found.entries] == [
        ("dbt/lcc/vol_002", "known77", "dbt", 1),
        ("dbt/lcc/vol_003", "known77", "dbt", 2),
    ]
    assert "Known77" in found.secrets and any("Doe" in secret for secret in found.secrets)
    for entry, kind in zip(found.entries, ("calcification", "none"), strict=True):
        example = ffdm_dbt.read(entry, settings(tmp_path)).example
        assert (example.label_kind, example.laterality) == (kind, "L")
        assert example.view_position == "MLO"  # the header's
        order = frames[entry.details.frame].ravel()
        assert np.corrcoef(example.image.ravel(), order)[0, 1] > 0.999
    assert list(left_out(tmp_path).values()) == [
        "no mask of 2 of 4 frames, so nobody has said that there is nothing; draw it, or add one "
        "that is all zero"
    ]
    save(tmp_path / "DBT_mask/LCC/vol.bmp", EMPTY)
    save(tmp_path / "DBT_mask/LCC/vol_02.bmp", EMPTY)
    save(tmp_path / "DBT_mask/LCC/vol_5.bmp", EMPTY)
    assert keys(tmp_path) == ["dbt/lcc/vol_003"]
    reasons = " ".join(reason for _, reason in index(tmp_path).left_out)
    assert "a mask of the whole volume; name masks by frames" in reasons
    assert "several masks of 1 of 4 frames" in reasons
    assert "its image has the frames 1 to 4" in reasons
    add(tmp_path, "DBT/LCC/vol_003.bmp", "DBT_mask/LCC/vol_003.bmp")
    save(tmp_path / "DBT_mask/LCC/vol_3.bmp", EMPTY)
    assert keys(tmp_path) == ["dbt/lcc/vol_003"]


def test_a_volume_without_a_known_id_has_the_patient_of_its_name(tmp_path):
    frames = np.stack([shown(number, "dbt")[0] for number in range(2)])
    raw = {"PatientID": "REMOVED", "PresentationIntentType": "FOR PROCESSING"}
    save_volume(tmp_path / "DBT/LCC/012.dcm", frames, **raw)
    save(tmp_path / "DBT_mask/LCC/012_1.bmp", shown(1)[1])
    (entry,) = index(tmp_path).entries
    assert (entry.patient, entry.domain) == ("012", "dbt_processing")
    assert "REMOVED" not in index(tmp_path).secrets


def test_what_is_no_such_folder_is_named(tmp_path):
    def refused(match, root=tmp_path, **changes):
        with pytest.raises(UserError, match=match) as caught:
            ffdm_dbt.index(settings(root, **changes))
        assert "\n" not in str(caught.value)

    hint = ".*set --config.data.dir="
    refused("data.dir is empty" + hint, "")
    refused("nowhere' does not exist" + hint, tmp_path / "nowhere")
    refused("holds no image")
    add(tmp_path, "some/1_LCC.bmp", "some/1_LCC_mask.bmp")
    refused("no image below FFDM/ or DBT/" + hint)
    refused("'cluster': the masks of ffdm_dbt show calcifications", label="cluster")
    (tmp_path / "file").write_text("")
    refused("file' is not a folder" + hint, tmp_path / "file")


def test_links_to_files_that_are_not_here_are_named_and_their_patients_hidden(tmp_path):
    add(tmp_path, "FFDM/1_LCC.bmp", "FFDM_mask/1_LCC.bmp")
    (tmp_path / "FFDM/2_LCC.bmp").symlink_to("../.git/annex/objects/x")
    (tmp_path / "FFDM/readme.txt").symlink_to("nowhere")  # no image
    (tmp_path / "FFDM/~$1_LCC.bmp").write_bytes(b"left behind")
    ((file, reason),) = left_out(tmp_path).items()
    assert file == "FFDM/2_LCC.bmp" and "fetch its content" in reason
    assert keys(tmp_path) == ["ffdm/1_lcc"] and index(tmp_path).secrets == {"1", "2"}
