"""What an answer in DICOM takes over from the image that it was made of, checked and tidied."""

import datetime
import math
import os
import re
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mln_flax.data.core import Unusable
from mln_flax.data.readers import dicom_fields, dicom_pixels
from mln_flax.data.readers.dicom_fields import holder, numbers, text
from mln_flax.data.readers.header import check, opened

NAME = "mln_flax"
FOR_RESEARCH = "For research only, not for diagnosis"
# What others must know to file an answer beside its image. All may be empty (type 2) there.
_FILING = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber StudyID "
    "ReferringPhysicianName"
).split()
_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_METHODS = {  # of lossy compression (DICOM PS3.3 C.7.6.1.1.5.1)
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.93": "ISO_15444_2",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}


class Algorithm(NamedTuple):
    """What made an answer, and when."""

    model: str  # hash of the model, at most 64 letters
    version: str  # of this package
    created: datetime.datetime


class Geometry(NamedTuple):
    """Where the frames of an image lie in the patient (DICOM PS3.3 C.7.6.2)."""

    orientation: tuple[float, ...]  # 6 cosines, the same for all frames
    positions: tuple[tuple[float, ...], ...]  # of each frame, mm


class Source(NamedTuple):
    """The image that an answer belongs to; `filing` may tell who somebody is."""

    sop_class: str
    instance: str  # SOPInstanceUID
    study: str
    series: str
    number: int  # of the instance in its series, at least 1
    filing: dict[str, str]  # keyword -> value, perhaps empty
    shape: tuple[int, int]
    frames: int
    spacing_mm: tuple[float, float] | None
    thickness_mm: float
    frame_of_reference: str  # UID, or ""
    geometry: Geometry | None  # none without a frame of reference
    orientation: str  # PatientOrientation: where rows and columns lead
    laterality: str  # "L", "R" or ""
    lossy: dict[str, Any]  # keyword -> value: none, or how it was compressed

    @property
    def is_volume(self) -> bool:
        """Whether its frames are slices of the breast."""
        return self.frames > 1


def read(path: str | Path) -> Source:
    """What the header of a DICOM image says; its pixels are not needed.

    Raises:
      Unusable: not a DICOM image, or without a valid UID that an answer must refer to.
    """
    from pydicom import dcmread
    from pydicom.uid import UID

    with opened(path, dicom_pixels.FAULT):
        dataset = dcmread(path, stop_before_pixels=True, force=True)
        shape = dicom_fields.whole(dataset, "Rows"), dicom_fields.whole(dataset, "Columns")
        frames = dicom_fields.frames(dataset)
        check(shape, frames)
        sop_class, instance, study, series = (_uid(dataset, keyword) for keyword in _UIDS)
        spacing_mm = dicom_fields.spacing(dataset)[0]
        frame_of_reference = text(dataset, "FrameOfReferenceUID")
        if not UID(frame_of_reference).is_valid:
            frame_of_reference = ""
        return Source(
            sop_class,
            instance,
            study,
            series,
            max(1, dicom_fields.whole(dataset, "InstanceNumber", 1)),
            {keyword: _filed(dataset, keyword) for keyword in _FILING},
            shape,
            frames,
            spacing_mm,
            _thickness_mm(dataset),
            frame_of_reference,
            _geometry(dataset, frames) if spacing_mm and frame_of_reference else None,
            _several(dataset, "PatientOrientation"),
            dicom_fields.header_of(dataset).laterality,
            _lossy(dataset, os.stat(path).st_size),
        )


def derived_uid(*names: str) -> str:
    """A UID that is the same for the same names, below 2.25 (DICOM PS3.5 B.2; RFC 9562, 5.5)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, ' '.join((NAME, *names))).int}"


def stamp(dataset: Any, source: Source, algorithm: Algorithm) -> None:
    """Gives an answer its times, its equipment, its purpose and whom it belongs to."""
    day, time = f"{algorithm.created:%Y%m%d}", f"{algorithm.created:%H%M%S}"
    dataset.InstanceCreationDate = dataset.ContentDate = dataset.SeriesDate = day
    dataset.InstanceCreationTime = dataset.ContentTime = dataset.SeriesTime = time
    dataset.Manufacturer = dataset.ManufacturerModelName = NAME
    dataset.DeviceSerialNumber = algorithm.model
    dataset.SoftwareVersions = algorithm.version
    dataset.ContentQualification = "RESEARCH"
    dataset.SeriesDescription = f"{NAME}: {FOR_RESEARCH.lower()}"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in source.filing.items():
        setattr(dataset, keyword, value)
    for library in dataset.get("ContributingEquipmentSequence") or ():
        library.ContributionDateTime = day + time


def _uid(dataset: Any, keyword: str) -> str:
    from pydicom.uid import UID

    value = text(dataset, keyword)
    if not UID(value).is_valid:
        raise Unusable(
            f"{keyword} is {'no valid UID' if value else 'missing'}, so that no DICOM answer can "
            "refer to the image; export it again with its UIDs"
        )
    return value


def _filed(dataset: Any, keyword: str) -> str:
    """A field as text; dates, times and sexes that are none are empty."""
    value = _several(dataset, keyword)
    if keyword.endswith("Date"):
        value = value.replace(".", "")  # as before DICOM
        return value if re.fullmatch(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", value) else ""
    if keyword.endswith("Time"):
        value = value.replace(":", "")
        good = re.fullmatch(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", value)
        return value if good else ""
    if keyword == "PatientSex":
        return value.upper() if value.upper() in ("M", "F", "O") else ""
    return value


def _several(dataset: Any, keyword: str) -> str:
    """All words of a field, parted as in a file: the first alone may name somebody else."""
    from pydicom.multival import MultiValue

    try:
        value = dataset[keyword].value
    except Exception:  # no such field, or pydicom cannot convert it
        return ""
    words = value if isinstance(value, (MultiValue, list, tuple)) else [value]
    return "\\".join("" if word is None else str(word).strip(" \0") for word in words)


def _thickness_mm(dataset: Any) -> float:
    """Of a slice; of a projection, which has none, that of the breast; else 1.

    It must be there to be read back by highdicom.
    """
    for keyword in ("SliceThickness", "SpacingBetweenSlices", "BodyPartThickness"):
        values = numbers(holder(dataset, 0, keyword), keyword)
        if values and math.isfinite(values[0]) and values[0] > 0:
            return values[0]
    return 1.0


def _geometry(dataset: Any, frames: int) -> Geometry | None:
    """Where the frames lie, or None where it is not said in full, or of no use."""
    keywords = ("ImageOrientationPatient", "ImagePositionPatient")
    orientations, positions = (
        [numbers(holder(dataset, n, keyword), keyword) for n in range(frames)]
        for keyword in keywords
    )
    if (
        len(set(orientations)) > 1
        or {len(each) for each in orientations} != {6}
        or {len(each) for each in positions} != {3}
        or not np.isfinite([*orientations[0], *np.ravel(positions)]).all()
    ):
        return None
    rows, columns = np.reshape(orientations[0], (2, 3))
    # Cosines at right angles, and every frame at a depth of its own.
    if not np.allclose([rows @ rows, columns @ columns, rows @ columns], [1, 1, 0], atol=1e-3):
        return None
    depths = np.round(np.array(positions) @ np.cross(rows, columns), 3)
    if len(set(depths.tolist())) < frames:
        return None
    return Geometry(orientations[0], tuple(positions))


def _lossy(dataset: Any, size: int) -> dict[str, Any]:
    """What is to be said of lossy compression at any time in the image's life."""
    syntax = dicom_pixels.syntax_of(dataset)
    if syntax not in dicom_pixels.LOSSY and text(dataset, "LossyImageCompression") != "01":
        return {}
    ratios = numbers(dataset, "LossyImageCompressionRatio")
    methods = _several(dataset, "LossyImageCompressionMethod")
    known: dict[str, Any] = {"LossyImageCompression": "01"}
    if not ratios and syntax in _METHODS:  # the file is nearly all pixels
        values = [dicom_fields.whole(dataset, k, 1) for k in ("Rows", "Columns", "BitsAllocated")]
        ratios = (round(math.prod(values) / 8 * dicom_fields.frames(dataset) / size, 2),)
    if ratios:
        known["LossyImageCompressionRatio"] = list(ratios)
    if methods or syntax in _METHODS:
        known["LossyImageCompressionMethod"] = (methods or _METHODS[syntax]).split("\\")
    return known
