import exams
import highdicom
import numpy as np
import pydicom
import pytest
from exams import ALGORITHM

from mln_flax.data.core import Unusable
from mln_flax.data.writers import dicom_seg, dicom_sr
from mln_flax.data.writers.dicom_sr import ClusterMeasurement

CLUSTERS = [
    ClusterMeasurement(1, 5, 0.9123, 3.25, 5.5),
    ClusterMeasurement(np.int64(3), np.int64(4), np.float32(0.5)),  # of pixels without a size
]
MEASURED = [
    {
        ("Number of calcifications", "1"): 5,
        ("Certainty of Finding", "%"): 91.23,
        ("Long axis", "mm"): 3.25,
        ("Area", "mm2"): 5.5,
    },
    {("Number of calcifications", "1"): 4, ("Certainty of Finding", "%"): 50},
]


def written(folder, frames=1, kind="clusters", clusters=CLUSTERS, **fields):
    """A segmentation and a report of it, read back by highdicom."""
    image = exams.image(folder / "x.dcm", frames, **(exams.VOLUME if frames > 1 else {}) | fields)
    labels = exams.clusters(frames) * bool(clusters)
    dicom_seg.write(folder / "x_seg.dcm", image, labels, ALGORITHM, kind)
    dicom_sr.write(folder / "x_sr.dcm", image, folder / "x_seg.dcm", clusters, ALGORITHM)
    segmentation = highdicom.seg.segread(folder / "x_seg.dcm")
    return segmentation, highdicom.sr.srread(folder / "x_sr.dcm")


def groups_of(report):
    return report.content.get_volumetric_roi_measurement_groups()


def referred(dataset, concept):
    """What the items refer to whose concept's name begins so, as (UID, segment, frames)."""
    for item in dataset.ContentSequence:
        if item.ConceptNameCodeSequence[0].CodeMeaning.startswith(concept):
            reference = item.ReferencedSOPSequence[0]
            yield (
                reference.ReferencedSOPInstanceUID,
                reference.get("ReferencedSegmentNumber"),
                reference.get("ReferencedFrameNumber"),
            )


@pytest.mark.parametrize("frames", [1, exams.FRAMES])
def test_each_cluster_has_its_measurements_and_its_segment(tmp_path, frames):
    segmentation, report = written(tmp_path, frames, ImageLaterality="L")
    groups = groups_of(report)
    shown = [[2, 5, 6], 6] if frames > 1 else [None, None]
    for group, cluster, values, segment in zip(groups, CLUSTERS, MEASURED, (1, 2), strict=True):
        found = {(m.name.meaning, m.unit.value): m.value for m in group.get_measurements()}
        assert found == pytest.approx(values)
        description = segmentation.get_segment_description(segment)
        assert group.tracking_uid == description.TrackingUID
        assert group.tracking_identifier == description.TrackingID
        assert group.tracking_identifier == f"mln_flax cluster {cluster.number}"
        assert group.finding_type.value == "129769006"
        assert group.finding_sites[0].laterality.meaning == "Left"
        assert [*referred(group[0], "Referenced Segment")] == [
            (segmentation.SOPInstanceUID, segment, None)
        ]
        ((instance, _, source_frames),) = referred(group[0], "Source Image for Segmentation")
        assert instance == "1.2.3.4"
        assert source_frames == shown[segment - 1]


@pytest.mark.parametrize(("frames", "code"), [(1, "71651007"), (exams.FRAMES, "450566007")])
def test_what_the_report_says_of_itself(tmp_path, frames, code):
    _, report = written(tmp_path, frames)
    texts = {
        item.ConceptNameCodeSequence[0].CodeMeaning: item.get("TextValue", "")
        or item.get("ConceptCodeSequence", [{}])[0].get("CodeValue")
        for item in report.ContentSequence
        if "ConceptNameCodeSequence" in item
    }
    assert texts["Observer Type"] == "121007"
    assert texts["Device Observer Name"] == "mln_flax"
    assert texts["Device Observer Model Name"] == "mln_flax 0.1.0"
    assert texts["Device Observer Serial Number"] == ALGORITHM.model
    assert texts["Procedure reported"] == code
    assert texts["Comment"] == "For research only, not for diagnosis."
    assert report.ContentQualification == "RESEARCH"
    assert report.VerificationFlag == "UNVERIFIED" and report.PreliminaryFlag == "PRELIMINARY"
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert len(evidence) == 2  # the image's and the segmentation's
    # The software has not acquired the image.
    purposes = [
        item.PurposeOfReferenceCodeSequence[0].CodeMeaning
        for item in report.get("ContributingEquipmentSequence", [])
    ]
    assert "Acquisition Equipment" not in purposes


@pytest.mark.parametrize("kind", ["binary", "fractional"])
def test_clusters_may_share_a_segment(tmp_path, kind):
    image = exams.image(tmp_path / "x.dcm")
    mask = exams.clusters() > 0
    dicom_seg.write(tmp_path / "x_seg.dcm", image, mask, ALGORITHM, kind)
    dicom_sr.write(tmp_path / "x_sr.dcm", image, tmp_path / "x_seg.dcm", CLUSTERS, ALGORITHM)
    groups = groups_of(highdicom.sr.srread(tmp_path / "x_sr.dcm"))
    segmentation = pydicom.dcmread(tmp_path / "x_seg.dcm")
    assert len({group.tracking_uid for group in groups}) == 2
    for group in groups:
        assert [*referred(group[0], "Referenced Segment")] == [
            (segmentation.SOPInstanceUID, 1, None)
        ]


@pytest.mark.parametrize("frames", [1, exams.FRAMES])
def test_nothing_marked_is_said(tmp_path, frames):
    _, report = written(tmp_path, frames, clusters=[])
    assert groups_of(report) == []
    (group,) = report.content.get_image_measurement_groups()
    (finding,) = group.get_qualitative_evaluations()
    assert finding.value.meaning == "All algorithms succeeded; without findings"
    ((instance, *_),) = referred(group[0], "Source")
    assert instance == "1.2.3.4"
    assert report.ContentSequence[-1].TextValue.endswith("No cluster is marked.")


def test_the_patient_stands_in_it_and_nothing_else_of_hers(tmp_path):
    written(tmp_path, SpecificCharacterSet="ISO_IR 100", PatientName="Zébédée^Quentina")
    content = (tmp_path / "x_sr.dcm").read_bytes()
    for needed in ("Zébédée^Quentina", "PID-778899", "19511224", "ACC-445566", "20250607"):
        assert needed.encode() in content
    for value in exams.PRIVATE.values():
        assert value.encode() not in content


def test_the_same_answer_is_the_same_file(tmp_path):
    written(tmp_path)
    first = (tmp_path / "x_sr.dcm").read_bytes()
    written(tmp_path)
    assert (tmp_path / "x_sr.dcm").read_bytes() == first
    before = pydicom.dcmread(tmp_path / "x_sr.dcm").SOPInstanceUID
    _, report = written(tmp_path, clusters=CLUSTERS[:1])
    assert report.SOPInstanceUID != before


def test_a_segmentation_that_does_not_fit(tmp_path):
    image = exams.image(tmp_path / "x.dcm")
    other = exams.image(tmp_path / "y.dcm", SOPInstanceUID="1.2.3.44")
    path = tmp_path / "seg.dcm"
    dicom_seg.write(path, image, exams.clusters(), ALGORITHM)
    with pytest.raises(ValueError, match="another image"):
        dicom_sr.write(tmp_path / "sr.dcm", other, path, CLUSTERS, ALGORITHM)
    with pytest.raises(ValueError, match=r"clusters \[2\]"):
        dicom_sr.write(tmp_path / "sr.dcm", image, path, [ClusterMeasurement(2, 3, 0.5)], ALGORITHM)
    with pytest.raises(Unusable):
        dicom_sr.write(tmp_path / "sr.dcm", image, image, CLUSTERS, ALGORITHM)
    assert not (tmp_path / "sr.dcm").exists()
