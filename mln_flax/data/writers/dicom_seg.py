"""Answers as DICOM segmentations that lie on the image they were made of, pixel for pixel.

The masks are in the image's own frame, as its file has it: no reader flips or turns an image, so
nothing is to be undone, whatever laterality, orientation or flip the header names.
"""

import hashlib
import io
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mln_flax import files
from mln_flax.data.readers.header import opened
from mln_flax.data.writers import source as sources
from mln_flax.data.writers.source import NAME, Algorithm, Geometry, Source

Kind = Literal["clusters", "binary", "fractional"]
SERIES_NUMBER = 901  # beyond those of a machine. Chosen.
FAULT = "its header cannot be taken over into DICOM answers; export it again"
_STEPS = 255  # in which probabilities are stored
_TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.13.1.3"  # has frames and a place for each


def write(
    path: str | Path,
    source: str | Path,
    segments: np.ndarray,
    algorithm: Algorithm,
    kind: Kind = "clusters",
) -> None:
    """A DICOM segmentation of one image or volume; frames without any segment are left out.

    Its UIDs follow from the image's, the model, and what is marked: the same answer of the same
    model has the same ones.

    Args:
      path: of the segmentation.
      source: path of the DICOM file that was read; only its header is needed.
      segments: [H, W] or [frames, H, W]. For `clusters` whole numbers, 0 where there is none;
        each number becomes a segment. For `binary` anything, and what is not 0 becomes the one
        segment. For `fractional` probabilities in [0, 1], stored in 255 steps.
      algorithm: what made the answer.
      kind: of segmentation.

    Raises:
      Unusable: the image lacks what a segmentation must have, or says it in a way that cannot be
        taken over; it names the attribute and never a patient.
      ValueError: segments of another shape than the image, or with values that are not allowed.
    """
    image = sources.read(source)
    frames = _checked(segments, image, kind)
    least = 0.5 / _STEPS if kind == "fractional" else 0  # what is less is stored as 0
    kept = [n for n, frame in enumerate(frames) if frame.max() > least] or [0]
    pixels = frames[kept]
    with opened(source, FAULT):
        numbers = _numbers(pixels, kind)
        dataset = _built(image, _labeled(pixels, numbers, kind), numbers, kept, algorithm, kind)
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
    files.write_bytes(path, buffer.getvalue())


def tracking_id(number: int) -> str:
    """What a cluster is called in segmentations and reports; number 0 is all of them."""
    return f"{NAME} cluster {number}" if number else f"{NAME} clusters"


def _checked(segments: np.ndarray, image: Source, kind: Kind) -> np.ndarray:
    """The segments as [frames, H, W]; raises ValueError where they are not what they must be."""
    frames = segments[None] if segments.ndim == 2 else segments
    if kind == "binary" or frames.dtype == bool:
        frames = (frames != 0).astype(np.uint8)
    if frames.shape != (image.frames, *image.shape):
        raise ValueError(
            f"segments of shape {segments.shape}; the image has {image.frames} frames of "
            f"{image.shape[0]}x{image.shape[1]} pixels"
        )
    if kind == "fractional" and not (frames.min() >= 0 and frames.max() <= 1):
        raise ValueError("fractional segments must be probabilities from 0 to 1")
    if kind == "clusters" and (frames.dtype.kind not in "iu" or frames.min() < 0):
        raise ValueError("segments of clusters must be whole numbers from 0")
    return frames


def _numbers(pixels: np.ndarray, kind: Kind) -> list[int]:
    """The clusters that have segments, in the segments' order; 0 stands for all of them."""
    found = np.unique(pixels[pixels != 0]).tolist() if kind == "clusters" else []
    return found or [0]


def _labeled(pixels: np.ndarray, numbers: list[int], kind: Kind) -> np.ndarray:
    """The pixels as highdicom takes them: the number of the segment, or its probability."""
    if kind == "fractional":
        return np.round(pixels.astype(np.float32) * _STEPS) / np.float32(_STEPS)
    if numbers == [0]:  # of one segment, or none
        return pixels.astype(np.uint8)
    places = np.zeros(numbers[-1] + 1, np.uint8 if len(numbers) < 256 else np.uint16)
    places[numbers] = np.arange(1, len(numbers) + 1)
    return places[pixels]


def _built(
    image: Source,
    pixels: np.ndarray,
    numbers: list[int],
    kept: list[int],
    algorithm: Algorithm,
    kind: Kind,
) -> Any:
    """The segmentation of the frames that are kept, as a pydicom Dataset."""
    from highdicom.seg import Segmentation

    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()
    names = (image.instance, algorithm.model, kind, str(kept), str(numbers), digest)
    stand_in = _stand_in(image, kept)
    dataset = Segmentation(
        source_images=[stand_in],
        pixel_array=pixels,
        segmentation_type="FRACTIONAL" if kind == "fractional" else "BINARY",
        max_fractional_value=_STEPS,
        segment_descriptions=_descriptions(image, numbers, algorithm, names),
        series_instance_uid=sources.derived_uid("SEG", image.series, algorithm.model),
        series_number=SERIES_NUMBER,
        sop_instance_uid=sources.derived_uid("SEG", *names),
        instance_number=image.number,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=algorithm.version,
        device_serial_number=algorithm.model,
        content_label="CALCIFICATIONS",
        content_description="Clustered microcalcifications",
    )
    _refer(dataset, image, kept, sources.derived_uid("dimensions", *names))
    if image.geometry is None:
        _take_out_of_space(dataset, image)
    for keyword, value in image.lossy.items():
        setattr(dataset, keyword, value)
    sources.stamp(dataset, image, algorithm)
    return dataset


def _stand_in(image: Source, kept: list[int]) -> Any:
    """A volume of the frames that are kept, with a place for each, for highdicom to go by.

    highdicom takes frames without a place only from single images, and asks each class of images
    for other things. So every image is shown to it as the same class, at its own place or at one
    that `_take_out_of_space` removes again; `_refer` puts in what is really referred to.
    """
    from pydicom import Dataset

    geometry = image.geometry or Geometry(
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), tuple((0.0, 0.0, -float(n)) for n in range(image.frames))
    )
    orientation, measures, shared, dataset = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = list(geometry.orientation)
    measures.PixelSpacing = list(map(_decimal, image.spacing_mm or (1.0, 1.0)))
    measures.SliceThickness = _decimal(image.thickness_mm)
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    for frame in kept:
        position, groups = Dataset(), Dataset()
        position.ImagePositionPatient = list(map(_decimal, geometry.positions[frame]))
        groups.PlanePositionSequence = [position]
        dataset.PerFrameFunctionalGroupsSequence.append(groups)
    dataset.NumberOfFrames = len(kept)
    dataset.Rows, dataset.Columns = image.shape
    dataset.SOPClassUID, dataset.SOPInstanceUID = _TOMOSYNTHESIS, image.instance
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = image.study, image.series
    dataset.FrameOfReferenceUID = image.frame_of_reference or image.instance
    for keyword in image.filing:  # the values are put in at the end, where nothing looks at them
        setattr(dataset, keyword, "")
    return dataset


def _decimal(value: float) -> str:
    """A number as a decimal string of DICOM, 16 letters at most."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value))


def _descriptions(
    image: Source, numbers: list[int], algorithm: Algorithm, names: tuple[str, ...]
) -> list[Any]:
    """What each segment is: a cluster of calcifications in the breast, found by an algorithm."""
    import highdicom
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    identification = highdicom.AlgorithmIdentificationSequence(
        name=NAME,
        family=codes.DCM.ArtificialIntelligence,
        version=algorithm.version,
        parameters={"model": algorithm.model},
    )
    described = [
        SegmentDescription(
            segment_number=place,
            segment_label=f"Cluster {number}" if number else "Clusters",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.CalcificationCluster,
            algorithm_type="AUTOMATIC",
            algorithm_identification=identification,
            tracking_uid=sources.derived_uid("cluster", str(number), *names),
            tracking_id=tracking_id(number),
            anatomic_regions=[codes.SCT.Breast],
        )
        for place, number in enumerate(numbers, 1)
    ]
    sides = {"L": codes.SCT.Left, "R": codes.SCT.Right}
    if image.laterality in sides:
        for segment in described:
            modifier = CodedConcept.from_code(sides[image.laterality])
            segment.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [modifier]
    return described


def _refer(dataset: Any, image: Source, kept: list[int], dimensions: str) -> None:
    """Puts the image's own class, and the frames' own numbers, into all references to it."""
    corrected = set()  # several frames may share an item

    def correct(holder: Any, element: Any) -> None:
        if element.keyword == "ReferencedSOPClassUID":
            element.value = image.sop_class
        elif element.keyword == "DimensionOrganizationUID":
            element.value = dimensions
        elif element.keyword == "ReferencedFrameNumber" and not image.is_volume:
            del holder[element.tag]
        elif element.keyword == "ReferencedFrameNumber" and id(holder) not in corrected:
            element.value = kept[int(element.value) - 1] + 1
            corrected.add(id(holder))

    dataset.walk(correct)


def _take_out_of_space(dataset: Any, image: Source) -> None:
    """Removes the places that only the stand-in has: frames are told apart by their numbers."""
    from pydicom import Dataset
    from pydicom.datadict import tag_for_keyword

    shared = dataset.SharedFunctionalGroupsSequence[0]
    del shared.PlaneOrientationSequence
    shared.PixelMeasuresSequence[0].pop("SpacingBetweenSlices", None)
    if not image.spacing_mm:
        del shared.PixelMeasuresSequence
    dataset.pop("DimensionOrganizationType", None)
    if image.frame_of_reference:
        dataset.FrameOfReferenceUID = image.frame_of_reference
    else:
        del dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator
    dataset.PatientOrientation = image.orientation.split("\\") if image.orientation else ""
    indices = dataset.DimensionIndexSequence
    del indices[1:]
    if image.is_volume:
        index = Dataset()
        index.DimensionOrganizationUID = indices[0].DimensionOrganizationUID
        index.DimensionIndexPointer = tag_for_keyword("InStackPositionNumber")
        index.FunctionalGroupPointer = tag_for_keyword("FrameContentSequence")
        index.DimensionDescriptionLabel = "Frame"
        indices.append(index)
    frames = [_source_frame(groups) for groups in dataset.PerFrameFunctionalGroupsSequence]
    ranks = {frame: rank for rank, frame in enumerate(sorted(set(frames)), 1)}
    for groups, frame in zip(dataset.PerFrameFunctionalGroupsSequence, frames, strict=True):
        del groups.PlanePositionSequence
        content = groups.FrameContentSequence[0]
        values = list(content.DimensionIndexValues)[:1]
        if image.is_volume:
            content.StackID, content.InStackPositionNumber = "1", ranks[frame]
            values.append(ranks[frame])
        content.DimensionIndexValues = values


def _source_frame(groups: Any) -> int:
    """The number of the frame that a frame of the segmentation was made of."""
    image = groups.DerivationImageSequence[0].SourceImageSequence[0]
    return int(image.get("ReferencedFrameNumber", 1))
