"""INbreast: digital mammograms with their calcifications outlined one by one, clusters as a whole.

The public archive (I. C. Moreira et al., Academic Radiology 19 (2012) 236-248) holds

    INbreast.csv                                     a row for each image
    AllDICOMs/22678622_<patient>_MG_R_CC_ANON.dcm    <patient> is a hash
    AllXML/22678622.xml                              the image's regions; normal images have none

Files are found by their names and contents, whatever their folders are called. An image without
an XML file is normal only if its row says BI-RADS 1: otherwise its regions are missing.

A calcification marked by one or two points becomes a disc around each (`data.point_radius_mm`).
Coordinates are taken as counted from the center of the first pixel: the archive does not say
whether they are, and half a pixel is 0.035 mm.

Single calcifications and clusters are never mixed. `data.label` "" and "calcification" take the
former, and leave out images with a cluster in which none is marked; "cluster" takes the latter,
and leaves out images that have single calcifications only.
"""

import csv
import filecmp
import io
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mln_flax.config import DataConfig
from mln_flax.data import disk
from mln_flax.data.core import (
    PROCESSING,
    Collection,
    Entry,
    Example,
    Index,
    LeftOut,
    Reading,
    Unusable,
    collections,
)
from mln_flax.data.readers import reader
from mln_flax.data.sets import pairs, regions
from mln_flax.types import UserError

DOMAIN = "inbreast"
SPACING_MM = (0.07, 0.07)  # of the detector, for files that do not say it
LABEL = "calcification"  # the usual kind: 6880 regions, of clusters only 27
COLUMNS = ("file name", "laterality", "view", "bi-rads")
VIEWS = ("cc", "mlo", "ml", "lm", "lmo", "xccl", "xccm")  # others are as the header says
NOBODY = ("", "removed", "anonymous", "anonymized", "anon", "unknown", "none", "n/a")

_EXPECTED = "expected INbreast with INbreast.csv, DICOM and XML files: set --config.data.dir=FOLDER"
_NAME = re.compile(r"(\d{4,})(?:_([0-9a-f]{12,}))?(?:[ _.-].*)?", re.IGNORECASE)


class Row(NamedTuple):
    """What the table says of an image."""

    line: int
    laterality: str  # "L", "R" or ""
    view_position: str
    birads: str


class _Archive(NamedTuple):
    """The files of the archive by file id, and what the table says."""

    images: dict[str, list[Path]]
    regions: dict[str, list[Path]]
    rows: dict[str, list[Row]]
    absent: frozenset[str]  # ids whose regions are a link to a file that is not here
    secrets: frozenset[str]  # the patients of names and table


@collections.register(DOMAIN)
def inbreast() -> Collection:
    """The collection of INbreast's images."""
    return Collection(index, read)


def index(data: DataConfig) -> Index:
    """The images of an INbreast folder, by file id; `files` are an image and its XML, if any.

    The patient is the hash in a file's name. Where no file has one, it is the header's patient
    id; an image whose patient is not known is left out, for it could be in two parts of the data.

    Raises:
      UserError: there is no folder, image, XML file or INbreast.csv, or a column is missing.
    """
    archive, left_out = _find(data.dir)
    has_hash = any(_parts(path)[1] for paths in archive.images.values() for path in paths)
    entries, secrets = [], set(archive.secrets)
    for file_id, paths in sorted(archive.images.items()):
        image, copies = _original(paths)
        xml, other_xml = _original(archive.regions.get(file_id, []))
        left_out += copies + other_xml
        if image is None:
            continue
        try:
            header = reader.header(image)
            secrets |= {header.patient, *header.secrets}
            if xml is None and other_xml:
                raise Unusable("its regions are there in different versions; keep one XML file")
            if xml is None and file_id in archive.absent:
                raise Unusable(f"its regions are {disk.ABSENT}")
            row = _row(archive.rows.get(file_id, []), xml)
            patient = _patient(image, header, has_hash)
        except Unusable as reason:
            left_out.append(LeftOut(str(image), str(reason)))
            continue
        domain = DOMAIN + PROCESSING if header.for_processing else DOMAIN
        files = (str(image),) if xml is None else (str(image), str(xml))
        entries.append(Entry(file_id, patient, domain, "", files, row))
    secrets = {secret for secret in secrets if secret.lower() not in NOBODY}
    return Index(tuple(entries), tuple(sorted(left_out)), frozenset(secrets))


def read(entry: Entry, data: DataConfig) -> Reading:
    """An image, whole, with the regions of one kind; clusters are its objects, bit by bit.

    Single calcifications are too many for bits: their `objects` is None.

    Raises:
      Unusable: the image or its regions cannot be read, or it has regions of unknown or only of
        the other kind.
    """
    row: Row | None = entry.details
    mammogram = reader.read(Path(entry.files[0]))
    header, shape = mammogram.header, mammogram.image.shape
    spacing, kind = header.spacing_mm or SPACING_MM, data.label or LABEL
    mask, objects = np.zeros(shape, bool), None
    repaired = mammogram.repaired
    for xml in entry.files[1:]:
        try:
            outlines = regions.read_regions(Path(xml).read_bytes())
            if regions.reach_beyond(outlines, shape):
                repaired += ("regions that reach beyond the image are cut off at its edge",)
            if kind == "cluster":
                mask, objects = regions.clusters(outlines, shape, spacing)
            else:
                mask = regions.calcifications(outlines, shape, spacing, data.point_radius_mm)
        except OSError as error:
            raise Unusable(f"cannot be read: {error.strerror}", xml) from None
        except Unusable as reason:
            raise Unusable(str(reason), xml) from None
    example = Example(
        image=mammogram.image,
        mask=mask.astype(np.uint8),
        image_id="",
        patient_id="",
        domain=entry.domain,
        laterality=(row and row.laterality) or header.laterality,
        view_position=(row and row.view_position) or header.view_position,
        spacing_mm=spacing,
        label_kind=kind if mask.any() else "none",
        objects=objects,
    )
    return Reading(example, repaired)


def _find(folder: str) -> tuple[_Archive, list[LeftOut]]:
    """The archive's files below a folder, and those that belong to nothing."""
    root = pairs.open_folder(folder, _EXPECTED)
    listing = disk.listing(root)
    pictures = pairs.images(root)
    left_out = list(pictures.absent)
    images, regions = defaultdict(list), defaultdict(list)
    for path in (path for paths in pictures.by_stem.values() for path in paths):
        if file_id := _parts(path)[0]:
            images[file_id].append(path)
        else:
            left_out.append(
                LeftOut(str(path), "its name begins with no file id; name it as in the archive")
            )
    texts = listing.ending(".xml")
    for path in texts.files:
        if not _is_muscle(path, root):
            regions[_parts(path)[0]].append(path)
    unread = [gone for gone in texts.absent if not _is_muscle(Path(gone.item), root)]
    left_out += unread
    if not regions:
        missing = disk.and_absent(unread)
        raise UserError(f"data.dir={folder!r} holds no XML file of regions; {_EXPECTED}{missing}")
    for file_id in regions.keys() - images.keys():
        reason = "regions without their image; add the image that its name begins with"
        left_out += [LeftOut(str(path), reason) for path in regions[file_id]]
    table, rows, secrets = _table(root, listing.ending(".csv"))
    for file_id in rows.keys() - images.keys():
        reason = "there is no image of this row's file name; add it"
        left_out += [LeftOut(str(table), f"line {row.line}: {reason}") for row in rows[file_id]]
    names = [*listing.files, *(Path(gone.item) for gone in listing.absent)]
    secrets |= {_parts(path)[1] for path in names}
    unknown = frozenset(_parts(Path(gone.item))[0] for gone in unread)
    return _Archive(dict(images), dict(regions), rows, unknown, frozenset(secrets)), left_out


def _is_muscle(path: Path, root: Path) -> bool:
    # The outlines of the chest muscle lie beside the others and may have the same names.
    return "muscle" in path.relative_to(root).as_posix().lower()


def _table(root: Path, listing: disk.Listing) -> tuple[Path, dict[str, list[Row]], set[str]]:
    """INbreast.csv, known by its columns or its name; its rows by file id, and its patients."""
    tables = {path: _cells(path) for path in listing.files}
    named = [path for path in tables if path.name.lower() == "inbreast.csv"]
    path, others = _original([p for p, rows in tables.items() if COLUMNS[0] in rows[0][1]] or named)
    if path is None:
        problem = "several tables" if others else "no table"
        raise UserError(
            f"data.dir={str(root)!r} holds {problem} with the column 'File Name'; {_EXPECTED} (a "
            f"sheet INbreast.xls can be saved as CSV){disk.and_absent(listing.absent)}"
        )
    (first, head), *lines = tables[path]
    if missing := [repr(name) for name in COLUMNS if name not in head]:
        raise UserError(
            f"{path}, line {first}: no column {', '.join(missing)}; needed are {', '.join(COLUMNS)}"
        )
    rows, patients = defaultdict(list), set()
    for line, cells in lines:
        cell = defaultdict(str, zip(head, cells, strict=False))
        name, side, view, birads = (cell[column] for column in COLUMNS)
        laterality = side[0].upper() if side in ("l", "r", "left", "right") else ""
        view_position = view.upper() if view in VIEWS else ""
        row = Row(line, laterality, view_position, pairs.whole_number(birads))
        rows[pairs.whole_number(name)].append(row)
        patients.add(cell["patient id"])
    return path, dict(rows), patients


def _cells(path: Path) -> list[tuple[int, list[str]]]:
    """The cells of a CSV file in lower case with the number of their line, blank lines left out."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig", "replace")  # all that is read of it is ASCII
        delimiter = max(";,\t", key=text.partition("\n")[0].count)
        # Strict, or a lost quotation mark would swallow all lines after it.
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = [(lines.line_num, [cell.strip().lower() for cell in cells]) for cells in lines]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except csv.Error:
        raise UserError(f"{path}, line {lines.line_num}: not a line of a CSV file") from None
    return [(line, cells) for line, cells in rows if any(cells)] or [(1, [])]


def _parts(path: Path) -> tuple[str, str]:
    """The file id and the patient's hash in a file's name, each "" if it is not there."""
    match = _NAME.fullmatch(path.name)
    return (match[1], (match[2] or "").lower()) if match else ("", "")


def _original(paths: Sequence[Path]) -> tuple[Path | None, list[LeftOut]]:
    """The one file that counts among those of the same id, None where it is not known."""
    originals = [path for path in paths if path.suffix.lower() == ".dcm"] or list(paths)
    reason = "a copy of a picture that is there as DICOM too"
    left_out = [LeftOut(str(path), reason) for path in paths if path not in originals]
    if not originals:
        return None, left_out
    first, *others = originals
    if all(filecmp.cmp(first, other, shallow=False) for other in others):
        return first, left_out + [LeftOut(str(p), "the same file is there twice") for p in others]
    reason = "different files have the same file id, and one is right; keep that one"
    return None, left_out + [LeftOut(str(path), reason) for path in originals]


def _row(rows: Sequence[Row], regions: Path | None) -> Row | None:
    """The row of an image; Unusable where rows differ or do not say that it is normal."""
    if len({row._replace(line=0) for row in rows}) > 1:
        lines = " and ".join(str(row.line) for row in rows)
        raise Unusable(f"lines {lines} of INbreast.csv contradict each other on it; keep one")
    row = rows[0] if rows else None
    if regions is None and row is None:
        raise Unusable(
            "has neither an XML file nor a row in INbreast.csv that calls it normal; add one"
        )
    if regions is None and row is not None and row.birads != "1":
        raise Unusable(
            "has no XML file, while INbreast.csv does not call it normal (BI-RADS 1); add it"
        )
    return row


def _patient(image: Path, header: reader.Header, has_hash: bool) -> str:
    """The patient of an image: one way for the whole archive, or one woman would be two."""
    known = _parts(image)[1] if has_hash else header.patient
    if known.strip().lower() in NOBODY:
        where = "its name has no hash as those of other images" if has_hash else "it has no id"
        raise Unusable(f"it is not known whose image it is: {where}; take the archive's file names")
    return known
