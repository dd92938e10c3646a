"""What a DICOM data set says of an image: spacing, view, laterality, and whose secrets it holds."""

import math
from collections.abc import Iterator
from typing import Any

from mln_flax.data.readers.header import Header

# DICOM PS3.3 C.8.11.7.1.1 and PS3.16 CID 4014: the view, as a code and as a word.
_VIEWS = {
    "399162004": "CC",
    "R-10242": "CC",
    "399368009": "MLO",
    "R-10226": "MLO",
    "399260004": "ML",
    "R-10224": "ML",
    "399352003": "LM",
    "R-10228": "LM",
    "399099002": "LMO",
    "R-10230": "LMO",
    "399196006": "FB",
    "R-10244": "FB",
    "399188001": "SIO",
    "R-102D0": "SIO",
    "441555000": "ISO",
    "R-40AAA": "ISO",
    "399192008": "XCCL",
    "R-1024A": "XCCL",
    "399101009": "XCCM",
    "R-1024B": "XCCM",
}
_VIEW_POSITIONS = frozenset(_VIEWS.values()) | {"XCC"}
# Storage of images for processing: digital X-ray, digital mammography, intra-oral.
_FOR_PROCESSING = frozenset(
    f"1.2.840.10008.5.1.4.1.1.1.{number}" for number in ("1.1", "2.1", "3.1")
)
_LARGEST_SPACING_MM = 2.0  # coarser than any mammogram; the field holds something else. Chosen.
_SECRET_KINDS = frozenset({"PN", "DA", "DT"})  # names and dates
_SECRET_WORDS = frozenset(
    "PatientID OtherPatientIDs AccessionNumber StudyID AdmissionID MedicalRecordLocator "
    "PatientAddress PatientTelephoneNumbers RequestingService PatientInsurancePlanCodeSequence "
    "FillerOrderNumberImagingServiceRequest PlacerOrderNumberImagingServiceRequest".split()
)
_FRAMES = "PerFrameFunctionalGroupsSequence"


def header_of(dataset: Any, frame: int = 0) -> Header:
    """The header of one frame of a pydicom Dataset."""
    return Header(
        shape=(whole(dataset, "Rows"), whole(dataset, "Columns")),
        frames=frames(dataset),
        spacing_mm=spacing(dataset, frame)[0],
        laterality=_laterality(dataset, frame),
        view_position=_view_position(dataset, frame),
        for_processing=for_processing(dataset),
        patient=text(dataset, "PatientID"),
        secrets=frozenset(_secrets(dataset)),
        series_uid=text(dataset, "SeriesInstanceUID"),
        series_description=text(dataset, "SeriesDescription"),
        instance_number=next(map(int, numbers(dataset, "InstanceNumber")), None),
        modality=text(dataset, "Modality"),
    )


def for_processing(dataset: Any) -> bool:
    """Whether an image is raw, meant for software and not for a reader."""
    intent = text(dataset, "PresentationIntentType").upper()
    return intent == "FOR PROCESSING" or text(dataset, "SOPClassUID") in _FOR_PROCESSING


def holder(dataset: Any, frame: int, keyword: str) -> Any:
    """The data set that holds `keyword` for a frame, or an empty one.

    It stands in the frame's own functional groups, in those that all frames share, or, as in
    single images, at the top (DICOM PS3.3 C.7.6.16).
    """
    from pydicom import Dataset

    for groups in (
        _item(dataset, _FRAMES, frame),
        _item(dataset, "SharedFunctionalGroupsSequence"),
    ):
        for element in groups or ():
            if element.VR == "SQ" and element.value and keyword in element.value[0]:
                return element.value[0]
    return dataset if keyword in dataset else Dataset()


def numbers(dataset: Any, keyword: str) -> tuple[float, ...]:
    """The numbers of a field, also with decimal commas; empty where they cannot be understood."""
    try:
        value = dataset.get(keyword)
        if value is None or value == "":
            return ()
        if isinstance(value, str):  # of a kind that pydicom cannot convert
            value = value.split("\\")
        values = (value,) if isinstance(value, (int, float)) else tuple(value)
        return tuple(
            float(number.replace(",", ".") if isinstance(number, str) else number)
            for number in values
        )
    except Exception:  # pydicom converts on access, and any file may hold anything
        return ()


def stated(dataset: Any, keyword: str) -> bool:
    """Whether a field is there and not empty, be it understood or not."""
    try:
        return keyword in dataset and dataset[keyword].value not in (None, "", b"", [])
    except Exception:  # pydicom cannot convert it
        return True


def commas(dataset: Any, *keywords: str) -> tuple[str, ...]:
    """What to note of fields whose numbers are written with decimal commas."""
    return tuple(
        f"{keyword} with a decimal comma: read as a point"
        for keyword in keywords
        if numbers(dataset, keyword) and any("," in word for word in _texts(dataset, keyword))
    )


def whole(dataset: Any, keyword: str, default: int = 0) -> int:
    """The first number of a field as an integer."""
    return int(next(filter(math.isfinite, numbers(dataset, keyword)), default))


def text(dataset: Any, keyword: str) -> str:
    """The first text of a field, without spaces around it; empty where there is none."""
    return next(_texts(dataset, keyword), "")


def frames(dataset: Any) -> int:
    """How many frames there are, at least 1."""
    return max(1, whole(dataset, "NumberOfFrames", 1))


def spacing(dataset: Any, frame: int = 0) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """The (row, column) spacing in mm of the breast's plane, or None, and what was wrong.

    It is PixelSpacing; else ImagerPixelSpacing, at the detector, divided by the magnification;
    else NominalScannedPixelSpacing.
    """
    magnification = next(iter(numbers(dataset, "EstimatedRadiographicMagnificationFactor")), 1.0)
    if not 1 <= magnification < 10:
        magnification = 1.0
    wrong: tuple[str, ...] = ()
    for keyword, factor in (
        ("PixelSpacing", 1.0),
        ("ImagerPixelSpacing", magnification),
        ("NominalScannedPixelSpacing", 1.0),
    ):
        at = holder(dataset, frame, keyword)
        values = tuple(value / factor for value in numbers(at, keyword))
        if len(values) == 2 and all(0 < value <= _LARGEST_SPACING_MM for value in values):
            return (values[0], values[1]), wrong + commas(at, keyword)
        if stated(at, keyword):
            wrong += (f"{keyword} that no mammogram has: ignored",)
    return None, wrong


def _laterality(dataset: Any, frame: int) -> str:
    for keyword in ("ImageLaterality", "FrameLaterality", "Laterality"):
        value = text(holder(dataset, frame, keyword), keyword).upper()
        if value in ("L", "R"):
            return value
    return ""


def _view_position(dataset: Any, frame: int) -> str:
    for keyword in ("ViewPosition", "PatientOrientation"):  # CBIS-DDSM has it in the second
        word = text(dataset, keyword).upper()
        if word in _VIEW_POSITIONS:
            return word
    code = _item(holder(dataset, frame, "ViewCodeSequence"), "ViewCodeSequence")
    return _VIEWS.get(text(code, "CodeValue"), "") if code else ""


def _item(dataset: Any, keyword: str, index: int = 0) -> Any:
    """One item of a sequence, or None."""
    try:
        return dataset.get(keyword)[index]
    except Exception:  # no such field, too short, or not a sequence at all
        return None


def _texts(dataset: Any, tag: Any) -> Iterator[str]:
    """The words in a field; `tag` is its keyword or its number."""
    from pydicom.multival import MultiValue

    try:
        value = dataset[tag].value
        # A person's name can be iterated too: letter by letter.
        values = value if isinstance(value, (MultiValue, list, tuple)) else [value]
        words = [str(each).strip(" \0") for each in values if each is not None]
    except Exception:  # no such field, or pydicom cannot convert it
        return
    yield from filter(None, words)


def _secrets(dataset: Any) -> Iterator[str]:
    """Names, ids and dates, wherever in the data set they stand."""
    for tag in dataset.keys():
        try:
            element = dataset[tag]
        except Exception:  # a value that cannot be understood cannot be hidden either
            continue
        if element.VR == "SQ" and element.keyword != _FRAMES:
            for item in element.value:
                yield from _secrets(item)
        elif element.VR in _SECRET_KINDS or element.keyword in _SECRET_WORDS:
            yield from _texts(dataset, tag)
