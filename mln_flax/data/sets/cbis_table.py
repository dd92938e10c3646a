"""The case tables of CBIS-DDSM: which abnormalities a mammogram has, and where its files were.

`calc_case_description_train_set.csv` and `..._test_set.csv` have one row per abnormality. The
copy as JPEG brings `dicom_info.csv` along, one row per file.

Source: R. S. Lee et al., A curated mammography data set for use in computer-aided detection and
diagnosis research, Scientific Data 4 (2017) 170177; the tables are CC BY 3.0.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mln_flax.data import disk
from mln_flax.data.core import LeftOut
from mln_flax.data.sets import pairs
from mln_flax.data.sets.cbis_names import Name, clean, last_two, parse
from mln_flax.registry import nearest
from mln_flax.types import UserError

COLUMNS = (
    "patient_id",
    "left or right breast",
    "image view",
    "abnormality id",
    "abnormality type",
    "image file path",
    "cropped image file path",
    "ROI mask file path",
)
FILE_COLUMNS = ("image_path", "PatientID")


class Abnormality(NamedTuple):
    """One row of a table: an abnormality, and where its mask and crop were in the first release."""

    number: int
    mask: str
    crop: str


class Case(NamedTuple):
    """A mammogram with its abnormalities in the order of their numbers."""

    name: Name
    image: str  # path in the first release
    abnormalities: tuple[Abnormality, ...]
    masses: frozenset[int]  # abnormalities that a row calls masses
    repaired: tuple[str, ...] = ()
    fault: str = ""  # why it cannot be used


class Tables(NamedTuple):
    """All mammograms with calcifications by name, and the rows that are not used."""

    cases: Mapping[str, Case]
    left_out: tuple[LeftOut, ...]


class Listed(NamedTuple):
    """A row of dicom_info.csv: whose file it is and what it shows."""

    name: Name
    description: str


class _Row(NamedTuple):
    table: str
    line: int
    name: Name
    is_mass: bool
    number: int
    image: str
    mask: str
    crop: str


def read(root: Path) -> Tables:
    """The calcification cases of all tables below a folder; tables of masses count for nothing.

    Raises:
      UserError: there is no table, a table lacks a column, or a patient is in both parts.
    """
    cases: dict[str, list[_Row]] = {}
    left_out: list[LeftOut] = []
    faults: dict[str, str] = {}
    files, absent = disk.listing(root).ending(".csv")
    for item, reason in absent:
        if _is_named(Path(item).name.lower()) or _lists_files(Path(item), ()):
            raise UserError(f"{item}: {reason}")
        if "mass" not in Path(item).name.lower():
            left_out.append(LeftOut(item, reason))
    tables = [table for table in map(_case_table, files) if table]
    if not tables:
        raise UserError(
            f"data.dir={str(root)!r}: no table of calcification cases; put "
            "calc_case_description_train_set.csv and calc_case_description_test_set.csv into it"
            f"{disk.and_absent(absent)}"
        )
    for path in tables:
        for line, cells in _rows(path, COLUMNS):
            row, named, reason = _row(path, line, cells)
            if row:
                cases.setdefault(row.name.case, []).append(row)
            if reason:
                left_out.append(LeftOut(str(path), f"line {line}: {reason}"))
                fault = f"line {line} of {path.name}: {reason}"
                faults.update(dict.fromkeys(named, fault))
    _refuse_two_parts([row for rows in cases.values() for row in rows if not row.is_mass])
    known = {name: _case(rows, faults.get(name, "")) for name, rows in sorted(cases.items())}
    used = {name: case for name, case in known.items() if case.abnormalities or case.fault}
    return Tables(used, tuple(left_out))


def listed_files(root: Path) -> dict[str, Listed]:
    """Whose file is whose by `FOLDER/FILE`, from all tables of files (dicom_info.csv) in a folder.

    Raises:
      UserError: such a table lacks a column.
    """
    rows: dict[str, Listed] = {}
    for path in disk.listing(root).ending(".csv").files:
        if _lists_files(path, _header(path)):
            for _, cells in _rows(path, FILE_COLUMNS):
                name = parse(cells.get("patientid", ""))
                if name:
                    listed = Listed(name, cells.get("seriesdescription", ""))
                    for column in ("image path", "file path"):
                        rows[last_two(cells.get(column, ""))] = listed
    rows.pop("", None)
    return rows


def _is_named(name: str) -> bool:
    """Whether a table's name in lower case says that it is one of calcification cases."""
    return "calc" in name and "case" in name


def _lists_files(path: Path, columns: Sequence[str]) -> bool:
    """Whether a table is one of files, by its name or its columns."""
    return "dicom_info" in path.name.lower() or {*map(_column, FILE_COLUMNS)} <= {*columns}


def _case_table(path: Path) -> Path | None:
    """The path if it is a table of calcification cases, by its name or its columns."""
    columns = _header(path)
    name = path.name.lower()
    named = _is_named(name)
    of_masses = not named and ("mass" in name or "mass shape" in columns)
    return path if named or ("roi mask file path" in columns and not of_masses) else None


def _header(path: Path) -> list[str]:
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            return [_column(cell) for cell in next(csv.reader(file), [])]
        except csv.Error:
            return []


def _column(cell: str) -> str:
    return " ".join(cell.lower().replace("_", " ").split())


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """The line number and the cells by column of every row that is not empty.

    Raises:
      UserError: a column that is needed is missing, or the file is no CSV.
    """
    columns = _header(path)
    known = list(map(_column, needed))
    for column in needed:
        if _column(column) not in columns:
            # A column that is needed itself is none that was misspelled.
            hint = nearest(_column(column), [name for name in columns if name not in known])
            raise UserError(
                f"{path}: no column {column!r}{hint}; needed are "
                f"{', '.join(needed)}: take the table as the archive hands it out"
            )
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        reader, line = csv.reader(file), 1  # a row begins at a line, and may have several
        try:
            for cells in reader:
                if line > 1 and any(cell.strip() for cell in cells):
                    yield line, dict(zip(columns, map(str.strip, cells), strict=False))
                line = reader.line_num + 1
        except csv.Error:
            raise UserError(
                f"{path}: line {line} is no line of a CSV file; take the table as the "
                "archive hands it out"
            ) from None


def _row(
    path: Path, line: int, cells: Mapping[str, str]
) -> tuple[_Row | None, tuple[str, ...], str]:
    """A row; the cases that it spoils; and why it is not used."""
    patient, side, view, number, kind, *paths = (cells.get(_column(name), "") for name in COLUMNS)
    number = pairs.whole_number(number)
    image, crop, mask = map(clean, paths)
    name, of_mask = (parse(source.split("/")[0]) for source in (image, mask))
    told = f"_{patient}_{side}_{view}".upper()
    spoiled = tuple(dict.fromkeys(n.case for n in (name, of_mask) if n))
    if not name or not of_mask or not number.isdecimal():
        return None, spoiled, "its columns do not name a case of the archive; mend the table"
    is_mass = "mass" in kind.lower() or name.is_mass
    row = _Row(str(path), line, name, is_mass, int(number), image, mask, crop)
    if is_mass:
        return row, (), "a mass in the table of calcifications: row not used"
    if not name.case.endswith(told) or (of_mask.case, of_mask.abnormality) != (
        name.case,
        int(number),
    ):
        return None, spoiled, "its columns contradict each other; mend the table"
    return row, (), ""


def _case(rows: list[_Row], fault: str) -> Case:
    """The case of the rows that name it."""
    repaired = []
    by_number: dict[int, _Row] = {}
    for row in rows:
        if row.is_mass:
            continue
        first = by_number.setdefault(row.number, row)
        if (first.image, first.mask, first.crop) != (row.image, row.mask, row.crop):
            fault = (
                f"lines {first.line} and {row.line} of {Path(row.table).name}: two different rows "
                "of the table for one abnormality; keep the right one"
            )
        elif first is not row:
            repaired.append(f"abnormality {row.number}: duplicate row of the table not used")
    calcifications = [row for _, row in sorted(by_number.items())]
    if len({row.image for row in calcifications}) > 1:
        fault = "the table's rows give different files for one mammogram; mend the table"
    return Case(
        name=rows[0].name,
        image=calcifications[0].image if calcifications else rows[0].image,
        abnormalities=tuple(Abnormality(r.number, r.mask, r.crop) for r in calcifications),
        masses=frozenset(row.number for row in rows if row.is_mass),
        repaired=tuple(repaired),
        fault=fault,
    )


def _refuse_two_parts(rows: list[_Row]) -> None:
    """Raises UserError where a patient is both in the training and in the test part."""
    first: dict[str, _Row] = {}
    for row in rows:
        other = first.setdefault(row.name.patient, row)
        if other.name.part != row.name.part:
            raise UserError(
                f"{row.table}, line {row.line}: the patient is in the other official part as well "
                f"({other.table}, line {other.line}); a patient may be in one part only"
            )
