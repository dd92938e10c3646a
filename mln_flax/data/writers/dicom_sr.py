"""Answers as DICOM structured reports: what was measured of each cluster, and where it lies.

Measurement reports after DICOM PS3.16 TID 1500, with a group (TID 1411) for each cluster: the
group for whole segments; that for single frames (TID 1410) would name the frame and the segment,
which PS3.3 10.3 forbids.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mln_flax import files
from mln_flax.data.readers import dicom_pixels
from mln_flax.data.readers.dicom_fields import holder, text, whole
from mln_flax.data.readers.header import opened
from mln_flax.data.writers import source as sources
from mln_flax.data.writers.dicom_seg import FAULT, tracking_id
from mln_flax.data.writers.source import FOR_RESEARCH, NAME, Algorithm, Source

SERIES_NUMBER = 902  # beyond those of a machine, and after the segmentations. Chosen.
_TOMOSYNTHESIS = ("450566007", "SCT", "Digital breast tomosynthesis")


@dataclass(frozen=True)
class ClusterMeasurement:
    """What is known of a cluster; lengths and areas of pixels without a known size are None."""

    number: int  # as in the segmentation
    count: int  # of its calcifications
    score: float  # in [0, 1]
    extent_mm: float | None = None
    area_mm2: float | None = None


class _Place(NamedTuple):
    """A segment of a segmentation, and the image's frames that it is on, from 1."""

    number: int
    tracking_uid: str
    frames: list[int]


def write(
    path: str | Path,
    source: str | Path,
    segmentation: str | Path,
    clusters: Sequence[ClusterMeasurement],
    algorithm: Algorithm,
) -> None:
    """A DICOM structured report with a group of measurements for each cluster.

    It refers to the image and to the clusters' segments, by the segments' own tracking UIDs.

    Args:
      path: of the report.
      source: path of the DICOM image; only its header is needed.
      segmentation: path of what `dicom_seg.write` made of it: of the kind `clusters`, or else
        every cluster refers to its one segment.
      clusters: what was measured; none says that nothing was marked.
      algorithm: what made the answer.

    Raises:
      Unusable: as `dicom_seg.write`, or the segmentation cannot be read.
      ValueError: the segmentation belongs to another image or has no segment for a cluster.
    """
    from pydicom import dcmread

    image = sources.read(source)
    with opened(segmentation, dicom_pixels.FAULT):
        marked = dcmread(segmentation, stop_before_pixels=True)
        places = dict(_places(marked))
        instance = text(marked.SourceImageSequence[0], "ReferencedSOPInstanceUID")
    if instance != image.instance:
        raise ValueError("the segmentation belongs to another image")
    missing = [
        c.number for c in clusters if not {tracking_id(c.number), tracking_id(0)} & {*places}
    ]
    if missing:
        raise ValueError(f"the segmentation has no segment for clusters {missing}")
    with opened(source, FAULT):
        report = _report(image, marked, places, clusters, algorithm)
        buffer = io.BytesIO()
        report.save_as(buffer, enforce_file_format=True)
    files.write_bytes(path, buffer.getvalue())


def _places(segmentation: Any) -> Iterator[tuple[str, _Place]]:
    """The segments of a segmentation, by what they are called."""
    frames = range(whole(segmentation, "NumberOfFrames"))
    keyword, images = "ReferencedSegmentNumber", "SourceImageSequence"
    for segment in segmentation.SegmentSequence:
        number = int(segment.SegmentNumber)
        own = (n for n in frames if whole(holder(segmentation, n, keyword), keyword) == number)
        shown = (holder(segmentation, n, images)[images][0] for n in own)
        place = sorted({whole(image, "ReferencedFrameNumber", 1) for image in shown})
        yield segment.TrackingID, _Place(number, segment.TrackingUID, place)


def _report(
    image: Source,
    segmentation: Any,
    places: dict[str, _Place],
    clusters: Sequence[ClusterMeasurement],
    algorithm: Algorithm,
) -> Any:
    """The report as a pydicom Dataset."""
    from highdicom.sr import ComprehensiveSR
    from pydicom import Dataset

    evidence = Dataset()
    evidence.SOPClassUID, evidence.SOPInstanceUID = image.sop_class, image.instance
    evidence.StudyInstanceUID, evidence.SeriesInstanceUID = image.study, image.series
    segmentation.Manufacturer = ""  # else highdicom takes it for what acquired the image
    names = (segmentation.SOPInstanceUID, repr(list(clusters)))
    report = ComprehensiveSR(
        evidence=[segmentation, evidence],
        content=_content(image, segmentation, places, clusters, algorithm)[0],
        series_instance_uid=sources.derived_uid("SR", image.series, algorithm.model),
        series_number=SERIES_NUMBER,
        sop_instance_uid=sources.derived_uid("SR", *names),
        instance_number=image.number,
        manufacturer=NAME,
        is_complete=True,
    )
    sources.stamp(report, image, algorithm)
    return report


def _content(
    image: Source,
    segmentation: Any,
    places: dict[str, _Place],
    clusters: Sequence[ClusterMeasurement],
    algorithm: Algorithm,
) -> Any:
    """The tree of the report: who observed, what was done, and a group for each cluster."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=sources.derived_uid("device", algorithm.model),
        name=NAME,
        manufacturer_name=NAME,
        model_name=f"{NAME} {algorithm.version}",
        serial_number=algorithm.model,
    )
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device, observer_identifying_attributes=device
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=(
            sr.CodedConcept(*_TOMOSYNTHESIS) if image.is_volume else codes.SCT.Mammography
        ),
        imaging_measurements=[
            _group(image, segmentation, places, cluster, algorithm) for cluster in clusters
        ]
        or [_nothing(image, segmentation, algorithm)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    marked = "" if clusters else " No cluster is marked."
    content[0].ContentSequence.append(
        sr.TextContentItem(
            name=codes.DCM.Comment,
            value=f"{FOR_RESEARCH}.{marked}",
            relationship_type="CONTAINS",
        )
    )
    return content


def _group(
    image: Source,
    segmentation: Any,
    places: dict[str, _Place],
    cluster: ClusterMeasurement,
    algorithm: Algorithm,
) -> Any:
    """The measurements of one cluster, with its segment and the image's frames that show it."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    name = tracking_id(cluster.number)
    place = places.get(name) or places[tracking_id(0)]
    own_uid = sources.derived_uid(name, segmentation.SOPInstanceUID)
    shown = sr.SourceImageForSegmentation(
        image.sop_class, image.instance, place.frames if image.is_volume else None
    )
    segment = sr.ReferencedSegment(
        segmentation.SOPClassUID, segmentation.SOPInstanceUID, place.number, source_images=[shown]
    )
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            place.tracking_uid if name in places else own_uid, name
        ),
        referenced_segment=segment,
        finding_type=codes.SCT.CalcificationCluster,
        measurements=_measurements(cluster),
        **_context(image, algorithm),
    )


def _nothing(image: Source, segmentation: Any, algorithm: Algorithm) -> Any:
    """The group of an image without any cluster, after DICOM PS3.16 TID 1501 and CID 6047."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    uid = sources.derived_uid("nothing", segmentation.SOPInstanceUID)
    without = sr.QualitativeEvaluation(
        codes.DCM.CADProcessingAndFindingsSummary,
        codes.DCM.AllAlgorithmsSucceededWithoutFindings,
    )
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid, tracking_id(0)),
        qualitative_evaluations=[without],
        source_images=[sr.SourceImageForMeasurementGroup(image.sop_class, image.instance)],
        **_context(image, algorithm),
    )


def _context(image: Source, algorithm: Algorithm) -> dict[str, Any]:
    """What every group says: which algorithm looked, and at which breast."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    side = {"L": codes.SCT.Left, "R": codes.SCT.Right}.get(image.laterality)
    identification = sr.AlgorithmIdentification(
        name=NAME, version=algorithm.version, parameters=[f"model={algorithm.model}"]
    )
    return {
        "algorithm_id": identification,
        "finding_sites": [sr.FindingSite(codes.SCT.Breast, laterality=side)],
    }


def _measurements(cluster: ClusterMeasurement) -> list[Any]:
    """What was measured, with its units; what is not known is left out."""
    from highdicom.sr import Measurement
    from pydicom.sr.codedict import codes

    values = (
        (codes.DCM.NumberOfCalcifications, cluster.count, codes.UCUM.NoUnits),
        (codes.DCM.CertaintyOfFinding, 100 * cluster.score, codes.UCUM.Percent),
        (codes.SCT.LongAxis, cluster.extent_mm, codes.UCUM.Millimeter),
        (codes.SCT.Area, cluster.area_mm2, codes.UCUM.SquareMillimeter),
    )
    return [
        Measurement(name=name, value=round(float(value), 4), unit=unit)
        for name, value, unit in values
        if value is not None
    ]
