"""Names in CBIS-DDSM: of cases in folders, files and headers, and of files in tables."""

import re
from typing import NamedTuple

_NAME = re.compile(
    r"(calc|mass)-(training|test)_(p_\d+)_(left|right)_(cc|mlo)"
    r"(?:_(\d+))?(?:[ _-]([a-z][a-z _-]*?))?(?:_(\d+))?",
    re.IGNORECASE,
)


class Name(NamedTuple):
    """What a name such as Calc-Test_P_00038_LEFT_CC_1_mask says."""

    case: str  # Calc-Test_P_00038_LEFT_CC: one mammogram
    abnormality: int | None  # None: the whole mammogram
    word: str  # what follows, in lower case
    patient: str  # P_00038
    part: str  # "train" or "test"
    is_mass: bool
    laterality: str  # "L" or "R"
    view_position: str  # "CC" or "MLO"


def parse(text: str) -> Name | None:
    """What a folder's or file's name or a PatientID says; None where it names no case."""
    match = _NAME.fullmatch(text.strip())
    if not match:
        return None
    kind, part, patient, side, view, number, word, last = match.groups()
    number = number or last
    case = "_".join((f"{kind.title()}-{part.title()}", patient.upper(), side.upper(), view.upper()))
    return Name(
        case=case,
        abnormality=int(number) if number else None,
        word=(word or "").lower(),
        patient=patient.upper(),
        part="train" if part.lower() == "training" else "test",
        is_mass=kind.lower() == "mass",
        laterality=side[0].upper(),
        view_position=view.upper(),
    )


def role(words: str) -> str:
    """What words call a file: "mask", "crop", "whole", "" where there are none, else "other"."""
    words = words.lower()
    if "crop" in words:
        return "crop"
    if "mask" in words or "roi" in words:
        return "mask"
    if "full" in words or "mammogram" in words or "whole" in words:
        return "whole"
    return "other" if words.strip() else ""


def last_two(path: str) -> str:
    """The last folder and the file's name of a path, in lower case; "" without a folder."""
    parts = clean(path).split("/")
    return "/".join(parts[-2:]).lower() if len(parts) > 1 else ""


def clean(path: str) -> str:
    """A path of a table without the spaces and line ends that some copies have in it."""
    return re.sub(r"\s+", "", path).replace("\\", "/")


def series_uid(path: str) -> str:
    """The series of a table's path CASE/STUDY/SERIES/FILE, "" where it has another form."""
    parts = path.split("/")
    return parts[-2] if len(parts) > 2 else ""
