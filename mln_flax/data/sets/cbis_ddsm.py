"""CBIS-DDSM: digitized film whose microcalcification clusters are outlined, in any layout.

The collection is found by its content: the case tables of calcifications anywhere below the folder
(`data.sets.cbis_table`), and the images as DICOM, PNG or JPEG by the names of cases, by series or
by headers (`data.sets.cbis_files`). Only calcification cases are used, in their official train and
test parts.

Mask and crop of an abnormality are told apart by their pixels, since what names say of them is
often wrong: a mask has two values and its image's shape. All abnormalities of an image are united
into one mask. If one of them cannot be trusted, the whole image is left out: the lesion would
otherwise be trained on as healthy tissue.

Source: R. S. Lee et al., A curated mammography data set for use in computer-aided detection and
diagnosis research, Scientific Data 4 (2017) 170177; CC BY 3.0.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mln_flax.config import DataConfig
from mln_flax.data.core import (
    Collection,
    Entry,
    Example,
    Index,
    LeftOut,
    Reading,
    Unusable,
    collections,
)
from mln_flax.data.prepare import inverted
from mln_flax.data.readers import reader
from mln_flax.data.sets import cbis_files, cbis_names, cbis_table, pairs
from mln_flax.types import UserError

DOMAIN = "cbis_ddsm"
ASPECT_TOLERANCE = 0.02  # of height over width; a mask within it shows the same film
MOST_ABNORMALITIES = 16  # the bits of `objects`

_EXPECTED = "expected the folder of CBIS-DDSM with its tables: set --config.data.dir=FOLDER"

SWAPPED = "mask and crop were swapped, told apart by their pixels"
RESIZED = "mask of another size with the image's aspect resized to it"
UNITED = "abnormalities united into one mask, kept apart for object scores"
COPIED_IMAGE = "duplicate file of the mammogram with the same pixels not used"
COPIED_MASK = "duplicate file of the mask with the same pixels not used"
SPARE_FILE = "a file that cannot be read is not needed, the mask is another one"

NO_IMAGE = "the mammogram's file is missing; add it"
TWO_IMAGES = "several files with different pixels for one mammogram; keep the right one"
NO_FILES = "the mask's file is missing; add it"
ONLY_CROP = "the mask is missing, its files show no mask; add it"
TWO_MASKS = "several different masks for one abnormality; keep the right one"
EMPTY_MASK = "mask with no pixel; fetch it again, or draw it"
GRAY_MASK = "mask with values other than two; fetch it again, or make it two-valued"
OTHER_ASPECT = "mask whose aspect is not that of its image; it may belong to another one"
NO_ROW = "is in the folder, but in no table of calcification cases; add its row"
NO_NUMBER = "a mask or crop without the number of its abnormality; rename it"
OTHER_CASE = "the header names another case than the path or the table; keep what is right"


class Details(NamedTuple):
    """What `read` must know of an entry: which of its files are what."""

    case: str
    laterality: str
    view_position: str
    wholes: int  # how many of the entry's first files show the mammogram
    regions: tuple[tuple[int, tuple[cbis_files.File, ...]], ...]  # abnormality, masks and crops


class _Mask(NamedTuple):
    pixels: np.ndarray  # bool, of the image's shape
    repaired: tuple[str, ...]


class _Candidate(NamedTuple):
    file: cbis_files.File
    kind: str  # "mask", else why it is none, "" for a crop
    pixels: np.ndarray


@collections.register(DOMAIN)
def cbis_ddsm() -> Collection:
    """The calcification cases of CBIS-DDSM."""
    return Collection(index, read)


def index(data: DataConfig) -> Index:
    """The mammograms of the tables' calcification cases, in the order of their names.

    Raises:
      UserError: the folder does not exist or holds no table or no image of one, a table lacks a
        column, a patient is in both parts, or `data.label` asks for single calcifications.
    """
    if data.label == "calcification":
        raise UserError(
            "--config.data.label=calcification: CBIS-DDSM outlines clusters, not single "
            "calcifications; allowed are cluster and none given"
        )
    root = pairs.open_folder(data.dir, _EXPECTED)
    tables = cbis_table.read(root)
    archive = cbis_files.find(root, tables.cases)
    if not any(name in tables.cases for name in archive.wholes):
        raise UserError(
            f"data.dir={data.dir!r}: no mammogram of the {len(tables.cases)} in its tables found; "
            "files are known by folders or names such as Calc-Test_P_00038_LEFT_CC, by "
            "dicom_info.csv, by folders named by the tables' series, or by DICOM headers"
        )
    entries: list[Entry] = []
    left_out = [*tables.left_out, *archive.left_out]
    for case in tables.cases.values():
        try:
            entries.append(_entry(case, archive, root))
        except Unusable as unusable:
            left_out.append(LeftOut(unusable.file, str(unusable)))
    for name, paths in archive.wholes.items():
        if name not in tables.cases:
            left_out += [LeftOut(path, f"the mammogram {NO_ROW}") for path in paths]
    patients = {case.name.patient for case in tables.cases.values()}
    return Index(tuple(entries), tuple(sorted(left_out)), archive.secrets | patients)


def read(entry: Entry, data: DataConfig) -> Reading:
    """A mammogram with the union of its abnormalities, bit i of `objects` for the i-th of them.

    Raises:
      Unusable: a file cannot be read, or the mask of one abnormality cannot be trusted.
    """
    details: Details = entry.details
    mammogram = reader.read(Path(entry.files[0]))
    _check_case(entry.files[0], mammogram.header, details.case)
    repaired = [*mammogram.repaired, *_copies(entry.files[: details.wholes])]
    objects = np.zeros(mammogram.image.shape, np.uint16)
    for bit, (number, files) in enumerate(details.regions):
        try:
            mask = _mask(files, mammogram.image, details.case)
        except Unusable as unusable:
            raise Unusable(f"abnormality {number}: {unusable}", unusable.file) from None
        objects |= mask.pixels.astype(np.uint16) << bit
        repaired += [f"abnormality {number}: {line}" for line in mask.repaired]
    example = Example(
        image=mammogram.image,
        mask=(objects > 0).astype(np.uint8),
        image_id="",
        patient_id="",
        domain=entry.domain,
        laterality=details.laterality,
        view_position=details.view_position,
        spacing_mm=mammogram.header.spacing_mm,
        label_kind="cluster",
        objects=objects,
    )
    return Reading(example, tuple(repaired))


def _entry(case: cbis_table.Case, archive: cbis_files.Archive, root: Path) -> Entry:
    """The entry of a case; raises Unusable where its files are known not to be enough."""
    name = case.name.case
    wholes = archive.wholes.get(name, ())
    regions = archive.regions.get(name, {})
    if case.fault:
        raise Unusable(case.fault, wholes[0] if wholes else str(root / case.image))
    if not wholes:
        raise Unusable(NO_IMAGE, str(root / case.image))
    if name in archive.unnumbered:
        raise Unusable(NO_NUMBER, archive.unnumbered[name])
    for row in case.abnormalities:
        if row.number not in regions:
            raise Unusable(f"abnormality {row.number}: {NO_FILES}", str(root / row.mask))
    numbers = [row.number for row in case.abnormalities]
    for number in sorted(regions.keys() - {*numbers, *case.masses}):
        raise Unusable(f"abnormality {number} {NO_ROW}", regions[number][0].path)
    if len(numbers) > MOST_ABNORMALITIES:
        reason = f"more than {MOST_ABNORMALITIES} abnormalities cannot be kept apart"
        raise Unusable(reason, wholes[0])
    united = (f"{len(numbers)} {UNITED}",) if len(numbers) > 1 else ()
    used = tuple((number, regions[number]) for number in numbers)
    files = (*wholes, *(file.path for _, group in used for file in group))
    return Entry(
        key=name,
        patient=case.name.patient,
        domain=DOMAIN,
        part=case.name.part,
        files=files,
        details=Details(name, case.name.laterality, case.name.view_position, len(wholes), used),
        repaired=(*case.repaired, *united),
    )


def _check_case(path: str, header: reader.Header, case: str) -> None:
    """Raises Unusable where a DICOM header tells that the file belongs to another mammogram."""
    name = cbis_names.parse(header.patient)
    if name and name.case != case:
        raise Unusable(OTHER_CASE, path)


def _copies(paths: Sequence[str]) -> list[str]:
    """What to say of further files of one mammogram; raises Unusable where their pixels differ."""
    if len(paths) < 2:
        return []
    first = _gray(paths[0])
    for path in paths[1:]:
        if not np.array_equal(first, _gray(path)):
            raise Unusable(TWO_IMAGES, path)
    return [COPIED_IMAGE]


def _gray(path: str) -> np.ndarray:
    try:
        return reader.read_gray(Path(path))
    except Unusable as unusable:
        raise Unusable(str(unusable), path) from None


def _mask(files: Sequence[cbis_files.File], image: np.ndarray, case: str) -> _Mask:
    """The mask among the files of one abnormality, of the image's shape.

    Raises:
      Unusable: there is none, there are different ones, or it is inverted.
    """
    shape = image.shape
    candidates, damaged = [], []
    for file in files:
        try:
            pixels = _gray(file.path)
            candidates.append(_Candidate(file, _kind(file.path, pixels, shape), pixels))
        except Unusable as unusable:
            damaged.append(unusable)
    masks = [candidate for candidate in candidates if candidate.kind == "mask"]
    if not masks:
        raise _why_none(candidates, damaged)
    first, *others = masks
    _check_case(first.file.path, reader.header(Path(first.file.path)), case)
    mask = _fitted(first.pixels, shape)
    for other in others:
        if not np.array_equal(mask, _fitted(other.pixels, shape)):
            raise Unusable(TWO_MASKS, other.file.path)
    if inverted.is_inverted(mask, image):
        raise Unusable(inverted.REASON, first.file.path)
    crops = [candidate for candidate in candidates if candidate.kind != "mask"]
    repaired = []
    if first.file.role == "crop" or any(crop.file.role == "mask" for crop in crops):
        repaired.append(SWAPPED)
    if first.pixels.shape != shape:
        repaired.append(RESIZED)
    if others:
        repaired.append(COPIED_MASK)
    if damaged:
        repaired.append(SPARE_FILE)
    return _Mask(mask, tuple(repaired))


def _why_none(candidates: Sequence[_Candidate], damaged: Sequence[Unusable]) -> Unusable:
    """Why an abnormality has no mask, by the file that is most like one."""
    if damaged:
        return damaged[0]
    order = (EMPTY_MASK, GRAY_MASK, OTHER_ASPECT, "")
    best = min(candidates, key=lambda candidate: order.index(candidate.kind))
    return Unusable(best.kind or ONLY_CROP, best.file.path)


def _kind(path: str, pixels: np.ndarray, shape: tuple[int, ...]) -> str:
    """What a file is by its pixels: "mask", why it is no usable one, or "" for a crop."""
    (height, width), (tall, wide) = pixels.shape, shape
    same_aspect = abs(height * wide / (width * tall) - 1) <= ASPECT_TOLERANCE
    if pixels.min() == pixels.max():
        return EMPTY_MASK if same_aspect else ""
    if reader.two_valued(pixels, lossy=Path(path).suffix.lower() in (".jpg", ".jpeg")):
        return "mask" if same_aspect else OTHER_ASPECT
    return GRAY_MASK if pixels.shape == shape else ""


def _fitted(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask cut at the middle of its two values, resized to a shape by its nearest pixels."""
    mask = pixels > (int(pixels.min()) + int(pixels.max())) / 2
    if mask.shape == shape:
        return mask
    rows, columns = (
        np.floor((np.arange(length) + 0.5) * mask_length / length).astype(int)
        for mask_length, length in zip(mask.shape, shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]
