import contextlib
import logging
import warnings

import dicoms
import exams
import highdicom
import numpy as np
import pydicom
import pytest
from exams import ALGORITHM
from pydicom import uid

from mln_flax.data.core import Unusable
from mln_flax.data.readers import reader
from mln_flax.data.writers import dicom_seg

POSITIONED = {
    "FrameOfReferenceUID": "1.2.3.8",
    "ImagePositionPatient": [1, 2, 3],
    "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
    "PixelSpacing": [0.1, 0.2],
}
SOURCES = {
    "plain": {},
    "left": {"ImageLaterality": "L", "PatientOrientation": ["A", "F"]},
    "flipped": {
        "ImageLaterality": "R",
        "PatientOrientation": ["P", "H"],
        "FieldOfViewHorizontalFlip": "YES",
        "FieldOfViewRotation": 180,
    },
    "dark": {"PhotometricInterpretation": "MONOCHROME1"},
    "raw": {"SOPClassUID": dicoms.FOR_PROCESSING, "PresentationIntentType": "FOR PROCESSING"},
    "film": {"SOPClassUID": dicoms.SECONDARY_CAPTURE, "Modality": "OT"},
    "unknown": {"SOPClassUID": "1.2.3.99"},
    "frame of reference": {"FrameOfReferenceUID": "1.2.3.8", "PixelSpacing": [0.1, 0.2]},
    "positioned": POSITIONED,
    "slice": exams.groups([(1, 2, 3)]) | {"NumberOfFrames": 1},
    "implicit": {"syntax": uid.ImplicitVRLittleEndian},
    "big": {"syntax": uid.ExplicitVRBigEndian},
    "deflated": {"syntax": uid.DeflatedExplicitVRLittleEndian},
}
VOLUMES = {
    "placed": exams.VOLUME,
    "reversed": exams.groups([(3.0 - n, 1.0, 2.0) for n in range(exams.FRAMES)]),
    "irregular": exams.groups([(3.0 + n * n, 1.0, 2.0) for n in range(exams.FRAMES)]),
    "no places": {"SOPClassUID": dicoms.TOMOSYNTHESIS},
    "one place": exams.groups([(1.0, 2.0, 3.0)] * exams.FRAMES),
    "mammogram": {"FrameOfReferenceUID": "1.2.3.8"},
}


@contextlib.contextmanager
def quiet():
    """Silence where a test itself writes or reads what is not allowed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def by_pydicom(path, shape):
    """The clusters' numbers of each frame of the source, read without any segmentation library."""
    dataset = pydicom.dcmread(path)
    frames = dataset.pixel_array.reshape(-1, *shape[1:])
    names = {s.SegmentNumber: s.TrackingID for s in dataset.SegmentSequence}
    labels = np.zeros(shape, int)
    for pixels, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        image = groups.DerivationImageSequence[0].SourceImageSequence[0]
        assert image.ReferencedSOPInstanceUID == "1.2.3.4"
        shared = dataset.SharedFunctionalGroupsSequence[0]
        at = groups if "SegmentIdentificationSequence" in groups else shared
        segment = at.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        number = int(names[segment].split()[-1]) if names[segment][-1].isdigit() else 1
        labels[image.get("ReferencedFrameNumber", 1) - 1][pixels > 0] = number
    return labels


def classes(dataset):
    return {e.value for e in dataset.iterall() if e.keyword == "ReferencedSOPClassUID"}


@pytest.mark.parametrize("name", SOURCES)
def test_an_image_is_marked_pixel_for_pixel(tmp_path, name):
    image = exams.image(tmp_path / "x.dcm", **SOURCES[name])
    labels = exams.clusters()
    path = tmp_path / "x_seg.dcm"
    dicom_seg.write(path, image, labels, ALGORITHM)
    segmentation = highdicom.seg.segread(path)
    assert segmentation.segment_numbers == [1, 2]
    pixels = segmentation.get_pixels_by_source_instance(["1.2.3.4"])
    np.testing.assert_array_equal(pixels[0, ..., 0], labels == 1)
    np.testing.assert_array_equal(pixels[0, ..., 1], labels == 3)
    np.testing.assert_array_equal(by_pydicom(path, (1, *labels.shape))[0], labels)
    np.testing.assert_array_equal(reader.read_mask(path), labels > 0)
    assert classes(segmentation) == {SOURCES[name].get("SOPClassUID", dicoms.MAMMOGRAM)}
    assert not [e for e in segmentation.iterall() if e.keyword == "ReferencedFrameNumber"]
    assert segmentation.get("FrameOfReferenceUID") == SOURCES[name].get("FrameOfReferenceUID")
    placed = [e.value for e in segmentation.iterall() if e.keyword == "ImagePositionPatient"]
    assert placed == ([[1, 2, 3]] * len(placed) if name in ("positioned", "slice") else [])
    orientation = SOURCES[name].get("PatientOrientation", "")
    assert placed or segmentation.PatientOrientation == orientation


@pytest.mark.parametrize("kind", ["clusters", "binary", "fractional"])
@pytest.mark.parametrize("name", VOLUMES)
def test_a_volume_is_marked_frame_by_frame(tmp_path, name, kind):
    image = exams.image(tmp_path / "x.dcm", exams.FRAMES, **VOLUMES[name])
    labels = exams.clusters(exams.FRAMES)
    path = tmp_path / "x_seg.dcm"
    segments = {"clusters": labels, "binary": -labels, "fractional": labels / 3}[kind]
    dicom_seg.write(path, image, segments, ALGORITHM, kind)
    segmentation = highdicom.seg.segread(path)
    assert segmentation.NumberOfFrames == (4 if kind == "clusters" else 3)
    pixels = segmentation.get_pixels_by_source_frame(
        "1.2.3.4", list(range(1, exams.FRAMES + 1)), assert_missing_frames_are_empty=True
    )
    expected = {
        "clusters": np.stack([labels == 1, labels == 3], -1),
        "binary": labels[..., None] > 0,
        "fractional": labels[..., None] / 3,
    }[kind]
    np.testing.assert_allclose(pixels, expected, atol=0.5 / 255 + 1e-6)
    numbers = labels if kind == "clusters" else labels > 0
    np.testing.assert_array_equal(by_pydicom(path, labels.shape), numbers)
    assert classes(segmentation) == {VOLUMES[name].get("SOPClassUID", dicoms.MAMMOGRAM)}
    placed = {tuple(e.value) for e in segmentation.iterall() if e.keyword == "ImagePositionPatient"}
    if name in ("placed", "reversed", "irregular"):
        places = VOLUMES[name]["PerFrameFunctionalGroupsSequence"]
        every = [tuple(p.PlanePositionSequence[0].ImagePositionPatient) for p in places]
        assert placed == {every[n] for n in (1, 4, 5)}
    else:
        assert placed == set()
        content = [g.FrameContentSequence[0] for g in segmentation.PerFrameFunctionalGroupsSequence]
        for item in content:
            assert item.DimensionIndexValues[1] == item.InStackPositionNumber
    with pytest.raises(Unusable, match="several frames"):  # of one image this would be no mask
        reader.read_mask(path)


@pytest.mark.parametrize("frames", [1, exams.FRAMES])
def test_nothing_marked(tmp_path, frames):
    image = exams.image(tmp_path / "x.dcm", frames, **exams.VOLUME if frames > 1 else {})
    path = tmp_path / "x_seg.dcm"
    dicom_seg.write(path, image, 0 * exams.clusters(frames), ALGORITHM)
    assert highdicom.seg.segread(path).NumberOfFrames == 1
    assert not reader.read_mask(path).any()


@pytest.mark.parametrize(
    ("fields", "spacing", "thickness"),
    [
        ({"PixelSpacing": [0.1, 0.2]}, [0.1, 0.2], 1),
        (
            {"ImagerPixelSpacing": [0.1, 0.1], "EstimatedRadiographicMagnificationFactor": 2},
            [0.05, 0.05],
            1,
        ),
        ({"ImagerPixelSpacing": [0.094, 0.094], "BodyPartThickness": 52}, [0.094, 0.094], 52),
    ],
)
def test_pixel_measures(tmp_path, fields, spacing, thickness):
    image = exams.image(tmp_path / "x.dcm", **fields)
    path = tmp_path / "x_seg.dcm"
    dicom_seg.write(path, image, exams.clusters(), ALGORITHM)
    shared = pydicom.dcmread(path).SharedFunctionalGroupsSequence[0]
    assert shared.PixelMeasuresSequence[0].PixelSpacing == spacing
    assert shared.PixelMeasuresSequence[0].SliceThickness == thickness
    assert reader.header(path).spacing_mm == reader.header(image).spacing_mm == tuple(spacing)


def test_no_spacing_is_made_up(tmp_path):
    image = exams.image(tmp_path / "x.dcm")
    dicom_seg.write(tmp_path / "x_seg.dcm", image, exams.clusters(), ALGORITHM)
    shared = pydicom.dcmread(tmp_path / "x_seg.dcm").SharedFunctionalGroupsSequence[0]
    assert "PixelMeasuresSequence" not in shared
    assert reader.header(tmp_path / "x_seg.dcm").spacing_mm is None


def test_what_the_segments_are(tmp_path):
    image = exams.image(tmp_path / "x.dcm", ImageLaterality="R")
    path = tmp_path / "x_seg.dcm"
    dicom_seg.write(path, image, exams.clusters(), ALGORITHM)
    dataset = pydicom.dcmread(path)
    assert dataset.ContentQualification == "RESEARCH" and dataset.ContentDate == "20260102"
    for segment in dataset.SegmentSequence:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("129769006", "SCT")
        category = segment.SegmentedPropertyCategoryCodeSequence[0]
        assert (category.CodeValue, category.CodingSchemeDesignator) == ("49755003", "SCT")
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert algorithm.AlgorithmName == "mln_flax" and algorithm.AlgorithmVersion == "0.1.0"
        assert ALGORITHM.model in algorithm.AlgorithmParameters
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        region = segment.AnatomicRegionSequence[0]
        assert region.AnatomicRegionModifierSequence[0].CodeMeaning == "Right"


def test_the_same_answer_is_the_same_file(tmp_path):
    image = exams.image(tmp_path / "x.dcm")
    labels = exams.clusters()

    def written(labels=labels, algorithm=ALGORITHM):
        dicom_seg.write(tmp_path / "x_seg.dcm", image, labels, algorithm)
        content = (tmp_path / "x_seg.dcm").read_bytes()
        dataset = pydicom.dcmread(tmp_path / "x_seg.dcm")
        return content, dataset.SOPInstanceUID, dataset.SeriesInstanceUID

    first = written()
    assert written() == first
    fewer = written(labels * (labels == 1))
    retrained = written(algorithm=ALGORITHM._replace(model="cd" * 32))
    assert fewer[1] != first[1] and fewer[2] == first[2]
    assert retrained[1] != first[1] and retrained[2] != first[2]
    assert uid.UID(first[1]).is_valid and first[1].startswith("2.25.")


def test_lossy_compression_is_said(tmp_path):
    pixels = np.full((64, 64), 100, np.uint8)
    syntax = uid.JPEGBaseline8Bit
    image = dicoms.write_encapsulated(tmp_path / "x.dcm", pixels, syntax, dicoms.jpeg, **exams.UIDS)
    dicom_seg.write(tmp_path / "x_seg.dcm", image, pixels[:, ::-1] * 0 + 1, ALGORITHM)
    dataset = pydicom.dcmread(tmp_path / "x_seg.dcm")
    assert dataset.LossyImageCompression == "01"
    assert dataset.LossyImageCompressionMethod == "ISO_10918_1"
    size = (tmp_path / "x.dcm").stat().st_size
    assert dataset.LossyImageCompressionRatio == pytest.approx(64 * 64 / size, abs=0.01)


def test_only_what_files_it_is_taken_over(tmp_path):
    image = exams.image(tmp_path / "x.dcm", ReferringPhysicianName="Ygritte^Doctor")
    dicom_seg.write(tmp_path / "x_seg.dcm", image, exams.clusters(), ALGORITHM)
    content = (tmp_path / "x_seg.dcm").read_bytes()
    for needed in ("Zebedee^Quentina", "PID-778899", "19511224", "ACC-445566", "20250607"):
        assert needed.encode() in content
    for value in exams.PRIVATE.values():
        assert value.encode() not in content


@pytest.mark.parametrize(
    "keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
)
@pytest.mark.parametrize("value", [None, "Zebedee"])
def test_what_cannot_be_referred_to_is_refused(tmp_path, keyword, value):
    exams.image(tmp_path / "x.dcm")
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    del dataset[keyword]
    if value:
        dataset[keyword] = pydicom.DataElement(
            keyword, "UI", value, validation_mode=pydicom.config.IGNORE
        )
    dataset.save_as(tmp_path / "y.dcm")
    with pytest.raises(Unusable, match=keyword) as refused:
        dicom_seg.write(tmp_path / "seg.dcm", tmp_path / "y.dcm", exams.clusters(), ALGORITHM)
    assert "Zebedee" not in str(refused.value)
    assert not (tmp_path / "seg.dcm").exists()


def test_a_poor_header_is_tidied_in_silence(tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    exams.image(tmp_path / "x.dcm", SpecificCharacterSet="ISO_IR 100")
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    for keyword in ("AccessionNumber", "StudyTime", "InstanceNumber"):
        del dataset[keyword]
    ignore = pydicom.config.IGNORE
    for keyword, kind, value in (
        ("PatientSex", "CS", "female"),
        ("StudyDate", "DA", "2025.06.07"),
        ("PatientBirthDate", "LO", "Zebedeetember 1951"),
        ("PatientName", "PN", "Zébédée Quentina " + 40 * "very " + "long"),
        ("PatientID", "LO", "PID\\778899"),
        ("ImageOrientationPatient", "DS", "1\\0"),
    ):
        dataset[keyword] = pydicom.DataElement(keyword, kind, value, validation_mode=ignore)
    with quiet():
        dataset.save_as(tmp_path / "y.dcm")
    capfd.readouterr()
    caplog.clear()
    path = tmp_path / "y_seg.dcm"
    dicom_seg.write(path, tmp_path / "y.dcm", exams.clusters(), ALGORITHM)
    assert capfd.readouterr() == ("", "") and caplog.text == ""
    assert not logging.root.manager.disable
    with quiet():
        answer = pydicom.dcmread(path)
        assert answer.PatientSex == answer.PatientBirthDate == answer.AccessionNumber == ""
        assert answer.StudyDate == "20250607" and answer.InstanceNumber == 1
        assert str(answer.PatientName).startswith("Zébédée Quentina very")
        assert answer.PatientID == ["PID", "778899"]


def test_no_dicom(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"Zebedee" * 100)
    with pytest.raises(Unusable):
        dicom_seg.write(tmp_path / "seg.dcm", tmp_path / "x.dcm", exams.clusters(), ALGORITHM)


@pytest.mark.parametrize(
    ("segments", "kind", "why"),
    [
        (exams.clusters()[1:], "clusters", "shape"),
        (exams.clusters(exams.FRAMES), "clusters", "shape"),
        (exams.clusters() - 1, "clusters", "whole numbers"),
        (exams.clusters() / 2, "clusters", "whole numbers"),
        (exams.clusters() * 1.0, "fractional", "from 0 to 1"),
        (exams.clusters() * np.nan, "fractional", "from 0 to 1"),
    ],
)
def test_segments_that_are_none(tmp_path, segments, kind, why):
    image = exams.image(tmp_path / "x.dcm")
    with pytest.raises(ValueError, match=why):
        dicom_seg.write(tmp_path / "seg.dcm", image, segments, ALGORITHM, kind)


@pytest.mark.parametrize("kind", ["clusters", "binary", "fractional"])
def test_a_mask_of_true_and_false(tmp_path, kind):
    image = exams.image(tmp_path / "x.dcm")
    mask = exams.clusters() > 0
    dicom_seg.write(tmp_path / "x_seg.dcm", image, mask, ALGORITHM, kind)
    np.testing.assert_array_equal(reader.read_mask(tmp_path / "x_seg.dcm"), mask)


def test_probabilities_too_small_to_be_stored(tmp_path):
    image = exams.image(tmp_path / "x.dcm", exams.FRAMES, **exams.VOLUME)
    probability = np.full((exams.FRAMES, *exams.SHAPE), 0.001)
    dicom_seg.write(tmp_path / "x_seg.dcm", image, probability, ALGORITHM, "fractional")
    segmentation = highdicom.seg.segread(tmp_path / "x_seg.dcm")
    assert segmentation.NumberOfFrames == 1 and not segmentation.pixel_array.any()


def test_many_clusters(tmp_path):
    image = exams.image(tmp_path / "x.dcm")
    labels = np.zeros(exams.SHAPE, np.int32)
    labels[:9] = np.arange(1, 1 + 9 * 29).reshape(9, 29)  # more than a byte holds
    dicom_seg.write(tmp_path / "x_seg.dcm", image, labels, ALGORITHM)
    np.testing.assert_array_equal(by_pydicom(tmp_path / "x_seg.dcm", (1, *exams.SHAPE))[0], labels)
