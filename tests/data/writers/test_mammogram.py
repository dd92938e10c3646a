"""Drawn mammograms as DICOM: valid by dciodvfy, nobody's, and with the gray levels as drawn."""

import datetime
import shutil
import subprocess

import numpy as np
import pydicom
import pytest

from mln_flax.data.readers import reader
from mln_flax.data.writers import dicom_seg, mammogram
from mln_flax.data.writers.source import Algorithm

EXAM = mammogram.Exam(
    image="ffdm-0-7",
    patient="0-7",
    laterality="R",
    view="MLO",
    spacing_mm=(0.1, 0.2),
    for_processing=False,
    detector="DIRECT",
    description="mammogram phantom, ffdm",
    algorithm=Algorithm("ab" * 32, "phantoms", datetime.datetime(2000, 1, 1)),
)
EXAMS = {
    "for presentation": EXAM,
    "for processing": EXAM._replace(for_processing=True, laterality="L", view="CC"),
    "film": EXAM._replace(detector="FILM"),
}


def image(top=1.0):
    return np.random.default_rng(0).random((40, 30), np.float32) * np.float32(top)


def save(folder, exam, pixels):
    """The paths of a mammogram and of its segmentation."""
    mask = np.zeros(pixels.shape, np.uint8)
    mask[3:6, 4:7] = mask[20, 20] = 1
    path, marked = folder / "x.dcm", folder / "x_seg.dcm"
    path.write_bytes(mammogram.content(pixels, exam))
    dicom_seg.write(marked, path, mask, exam.algorithm, "binary")
    return path, marked, mask


@pytest.mark.parametrize("top", [1.0, 0.2, 0.004])
@pytest.mark.parametrize("name", EXAMS)
def test_it_is_read_as_it_was_drawn(tmp_path, name, top):
    exam = EXAMS[name]
    path, marked, mask = save(tmp_path, exam, image(top))
    mammogram_read = reader.read(path)
    steps = 2**mammogram.BITS - 1
    expected = np.round(image(top) * np.float32(steps)) / steps
    np.testing.assert_allclose(mammogram_read.image, expected, atol=1e-6)
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, np.round(expected * steps))
    np.testing.assert_array_equal(reader.read_mask(marked), mask)
    header = mammogram_read.header
    assert (header.laterality, header.view_position) == (exam.laterality, exam.view)
    assert header.spacing_mm == exam.spacing_mm
    assert header.for_processing == exam.for_processing


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dicom3tools")
@pytest.mark.parametrize("name", EXAMS)
def test_dciodvfy_finds_no_error(tmp_path, name):
    for path in save(tmp_path, EXAMS[name], image())[:2]:
        words = ["dciodvfy", "-new", str(path)]
        said = subprocess.run(words, capture_output=True, text=True, check=False)
        assert "Error" not in said.stdout + said.stderr
        kind = "Segmentation" if path.stem.endswith("seg") else "MammographyImageFor"
        assert kind in said.stdout + said.stderr


def test_the_patient_is_a_phantom_and_bytes_are_the_same():
    content = mammogram.content(image(), EXAM)
    assert content == mammogram.content(image(), EXAM)
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))
    assert dataset.PatientName == "PHANTOM^0-7" and dataset.PatientBirthDate == ""
    assert (dataset.BurnedInAnnotation, dataset.QualityControlSubject) == ("NO", "YES")
    other = pydicom.dcmread(pydicom.filebase.DicomBytesIO(mammogram.content(image(0.5), EXAM)))
    assert other.SOPInstanceUID != dataset.SOPInstanceUID
    assert other.StudyInstanceUID == dataset.StudyInstanceUID


def test_what_is_no_mammogram_is_refused():
    for pixels in (image(1.5), image()[0], -image(), image() * np.nan):
        with pytest.raises(ValueError, match="allowed: "):
            mammogram.content(pixels, EXAM)
    with pytest.raises(ValueError, match="allowed: L or R; CC or MLO"):
        mammogram.content(image(), EXAM._replace(view="ML"))
