"""The table `cases.csv` of a folder: what the user says of each image, row by row."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mln_flax.data.sets import pairs
from mln_flax.registry import nearest
from mln_flax.types import UserError

COLUMNS = ("image", "patient", "laterality", "view", "spacing", "domain", "label", "part")
LATERALITIES = {"l": "L", "left": "L", "r": "R", "right": "R"}
LABELS = ("calcification", "cluster")
PARTS = ("train", "test")
SPACING_RANGE_MM = (0.005, 5.0)  # beyond it another unit was meant, such as micrometers (chosen)

_SPACING = re.compile(r"([^x×]+?)(?:\s*[x×]\s*([^x×]+))?", re.IGNORECASE)


class Case(NamedTuple):
    """One row; what it leaves open is "" or None."""

    line: int  # of the file, from 1
    image: str  # the stem or the file name, as written
    patient: str = ""
    laterality: str = ""  # "L", "R" or ""
    view_position: str = ""
    spacing_mm: tuple[float, float] | None = None  # (row, column)
    domain: str = ""
    label: str = ""  # one of LABELS, or ""
    part: str = ""  # one of PARTS, or ""
    fault: str = ""  # why the row cannot be used; it repeats nothing of the row


class Table(NamedTuple):
    """The columns and the rows of the file."""

    columns: tuple[str, ...]
    cases: tuple[Case, ...]


def read(path: Path) -> Table:
    """The table of a CSV file: UTF-8, parted by commas, semicolons or tabs, the first line a head.

    A cell that cannot be understood gives its row a `fault`; the cell itself is not repeated,
    since in a row that has slipped by one column it may be a patient's id.

    Raises:
      UserError: the file cannot be read, or its columns are not those of COLUMNS.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: no UTF-8 text; save the table as CSV in UTF-8") from None
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    # Strict, or a lost quotation mark would swallow all lines after it.
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for cells in lines:
            if any(cell.strip() for cell in cells):
                rows.append((lines.line_num, [cell.strip() for cell in cells]))
    except csv.Error:
        raise UserError(f"{path}, line {lines.line_num}: not a line of a CSV file") from None
    if not rows:
        raise UserError(f"{path} is empty; its first line names columns: {', '.join(COLUMNS)}")
    columns = _columns(f"{path}, line {rows[0][0]}", rows[0][1])
    return Table(columns, tuple(_case(line, columns, cells) for line, cells in rows[1:]))


def _columns(where: str, cells: Sequence[str]) -> tuple[str, ...]:
    """The names of the columns, in lower case."""
    names = tuple(cell.lower() for cell in cells)
    known = ", ".join(COLUMNS)
    if "image" not in names:
        # Only near misses are repeated: without a head the first line may hold a patient's id.
        near = next((f" (there is {name!r})" for name in names if nearest("image", [name])), "")
        raise UserError(f"{where}: no column 'image'{near}; the columns may be: {known}")
    for number, name in enumerate(names, 1):
        if not name:
            raise UserError(f"{where}: column {number} has no name; the columns may be: {known}")
        if name not in COLUMNS:
            hint = nearest(name, [column for column in COLUMNS if column not in names])
            raise UserError(f"{where}: unknown column {name!r}{hint}; known: {known}")
        if names.count(name) > 1:
            raise UserError(f"{where}: the column {name!r} is there twice")
    return names


def _case(line: int, columns: Sequence[str], cells: Sequence[str]) -> Case:
    """One row, or the row with its fault."""
    named = dict(zip(columns, cells, strict=False))  # cells missing at the end are blank
    image = named.get("image", "")
    try:
        if len(cells) > len(columns):
            raise _Fault(f"more cells than the {len(columns)} columns")
        if not image:
            raise _Fault("no image is named")
        return Case(
            line,
            image,
            pairs.whole_number(named.get("patient", "")),
            _one_of("laterality", named.get("laterality", ""), LATERALITIES),
            _word("view", named.get("view", "").upper(), r"[A-Z]{2,5}", "codes such as CC, MLO"),
            _spacing(named.get("spacing", "")),
            _word("domain", named.get("domain", ""), r"[A-Za-z0-9_]+", "letters, digits and _"),
            _one_of("label", named.get("label", ""), {label: label for label in LABELS}),
            _one_of("part", named.get("part", ""), {part: part for part in PARTS}),
        )
    except _Fault as fault:
        return Case(line, image, pairs.whole_number(named.get("patient", "")), fault=str(fault))


class _Fault(Exception):
    """What is wrong with a row."""


def _one_of(column: str, cell: str, known: dict[str, str]) -> str:
    """The meaning of a cell, "" for a blank one."""
    if cell and cell.lower() not in known:
        raise _Fault(f"the cell of {column!r} is not understood; known: {', '.join(known)}")
    return known.get(cell.lower(), "")


def _word(column: str, cell: str, pattern: str, allowed: str) -> str:
    """A cell that is blank or fits the pattern."""
    if cell and not re.fullmatch(pattern, cell):
        raise _Fault(f"the cell of {column!r} is not understood; allowed: {allowed}")
    return cell


def _spacing(cell: str) -> tuple[float, float] | None:
    """The pixel spacing (row, column) in mm of a cell such as `0.07` or `0.07x0.05`."""
    if not cell:
        return None
    low, high = SPACING_RANGE_MM
    match = _SPACING.fullmatch(cell)
    try:
        row = float(match[1]) if match else 0.0
        column = float(match[2]) if match and match[2] else row
    except ValueError:
        row = column = 0.0
    if not (low <= row <= high and low <= column <= high):  # refuses NaN as well
        raise _Fault(
            f"the cell of 'spacing' is no number of mm from {low:g} to {high:g}, nor two of them "
            "as row x column, such as 0.07x0.05"
        )
    return row, column
