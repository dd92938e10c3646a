"""Which frames of a DICOM mask may lie over each other, and what their pixels say.

The frames of a segmentation are its segments, or the slices of a volume, or both (DICOM PS3.3
A.51 and C.8.20). Only frames that are sure to show one image are united.
"""

from typing import Any

import numpy as np

from mln_flax.data.core import Unusable
from mln_flax.data.readers.dicom_fields import frames, holder, numbers, text, whole
from mln_flax.data.readers.masks import SEVERAL_IMAGES

_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.13.1."  # begins its classes: their frames are slices
_PLACE = "ImagePositionPatient"
_KINDS = (
    "a segmentation whose segments are of several kinds, as lesions and tissue may be; store the "
    "segments of one kind alone"
)
_FRACTIONS = (
    "a segmentation of fractions (probabilities or occupancy) between none and all; threshold it"
)


def is_segmentation(dataset: Any) -> bool:
    """Whether a data set is a DICOM segmentation, of whatever type."""
    return text(dataset, "SOPClassUID") in _SEGMENTATIONS or "SegmentSequence" in dataset


def require_one_image(dataset: Any) -> None:
    """Raises Unusable where the frames of a mask are not sure to show one image.

    They are not where they refer to several images or frames, lie at several places, or show one
    segment twice; and in tomosynthesis and tiled images, whose frames never do.
    """
    count = frames(dataset)
    if count == 1:
        return
    apart = text(dataset, "SOPClassUID").startswith(_TOMOSYNTHESIS)
    sources = {source for frame in range(count) for source in _sources(dataset, frame)}
    places = {numbers(holder(dataset, n, _PLACE), _PLACE) for n in range(count)}
    segments = [segment for n in range(count) if (segment := _segment(dataset, n)) is not None]
    if (
        apart
        or "TotalPixelMatrixRows" in dataset
        or len(sources or _instances(dataset)) > 1
        or len(places) > 1
        or len(set(segments)) < len(segments)
    ):
        raise Unusable(SEVERAL_IMAGES)


def refers_to_one_image(dataset: Any) -> bool:
    """Whether the frames name the one image, or frame of a volume, that they show."""
    return len({s for n in range(frames(dataset)) for s in _sources(dataset, n)}) == 1


def label(pixels: np.ndarray, dataset: Any, frame: int) -> np.ndarray:
    """Where a frame of a segmentation has any segment, bool [H, W].

    Raises:
      Unusable: fractions other than none and all, or segments of several kinds.
    """
    kind = text(dataset, "SegmentationType").upper()
    if kind == "LABELMAP":
        background = whole(dataset, "PixelPaddingValue")
        _require_one_kind(dataset, set(np.unique(pixels).tolist()) - {background})
        return pixels != background
    segments = {_segment(dataset, n) for n in range(frames(dataset))}
    _require_one_kind(dataset, segments)
    if kind == "FRACTIONAL":
        largest = whole(dataset, "MaximumFractionalValue", int(np.iinfo(pixels.dtype).max))
        if ((pixels != 0) & (pixels != largest)).any():
            raise Unusable(_FRACTIONS)
    return pixels != 0


def _sources(dataset: Any, frame: int) -> set[tuple[str, tuple[float, ...]]]:
    """The images, each with the numbers of its frames, that a frame was drawn on."""
    items = holder(dataset, frame, "SourceImageSequence").get("SourceImageSequence") or ()
    return {
        (text(item, "ReferencedSOPInstanceUID"), numbers(item, "ReferencedFrameNumber"))
        for item in items
    }


def _instances(dataset: Any) -> set[str]:
    """The images that the whole file refers to."""
    return {
        text(instance, "ReferencedSOPInstanceUID")
        for series in dataset.get("ReferencedSeriesSequence") or ()
        for instance in series.get("ReferencedInstanceSequence") or ()
    }


def _segment(dataset: Any, frame: int) -> int | None:
    """The number of the segment that a frame shows, or None."""
    keyword = "ReferencedSegmentNumber"
    return next(map(int, numbers(holder(dataset, frame, keyword), keyword)), None)


def _require_one_kind(dataset: Any, segments: set[Any]) -> None:
    """Raises Unusable where the segments of these numbers show different kinds of things."""
    kinds = set()
    for item in dataset.get("SegmentSequence") or ():
        if whole(item, "SegmentNumber") in segments:
            for code in item.get("SegmentedPropertyTypeCodeSequence") or ():
                kinds.add((text(code, "CodeValue"), text(code, "CodingSchemeDesignator")))
    if len(kinds) > 1:
        raise Unusable(_KINDS)
