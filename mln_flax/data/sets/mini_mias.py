"""mini-MIAS: digitized screen films whose clusters of calcifications are marked by circles.

The public archive (J. Suckling et al., Excerpta Medica 1069, 1994) is one folder of `Info.txt`
and `mdb001.pgm` to `mdb322.pgm`, 8 bits, 0.2 mm a pixel, all mediolateral oblique.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mln_flax.config import DataConfig
from mln_flax.data import disk
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
from mln_flax.data.prepare import tiles
from mln_flax.data.readers import reader
from mln_flax.data.sets import pairs
from mln_flax.types import UserError

DOMAIN = "mini_mias"
SPACING_MM = (0.2, 0.2)  # Info.txt: 200 micron pixel edge
MIN_CIRCLE_ON_BREAST = 0.5  # a circle with less of its area on the breast is misplaced (chosen)

FINDINGS = ("CALC", "CIRC", "SPIC", "MISC", "ARCH", "ASYM", "NORM")

_ROW = re.compile(r"^(mdb\d+)\b\s*(?:[FGD]\s+([A-Z]{4})\b)?(.*)$", re.IGNORECASE)
_CIRCLE = re.compile(r"^\s*[BM]\s+(\d+)\s+(\d+)\s+(\d+)\s*$", re.IGNORECASE)
_SIZE = re.compile(r"size of all the images is (\d+) pixels x (\d+) pixels", re.IGNORECASE)


class Circle(NamedTuple):
    """A circle around a cluster, in pixels; y counts from the bottom of the film."""

    x: int
    y: int
    radius: int


class Row(NamedTuple):
    """One line of Info.txt: a film and one finding, with its circle if it has one."""

    film: str
    finding: str  # one of FINDINGS, or what else stands there
    circle: Circle | None


class Info(NamedTuple):
    """What Info.txt says: the rows of each film, and the films' (height, width) if stated."""

    films: dict[str, tuple[Row, ...]]
    shape: tuple[int, int] | None


def read_info(text: str) -> Info:
    """The films of Info.txt's text; its prose is passed over, except for the size of the films.

    A row whose circle is missing or replaced by a note, such as `*NOTE 3*`, has the circle None.
    """
    films: dict[str, tuple[Row, ...]] = {}
    for line in text.splitlines():
        if match := _ROW.match(line.strip()):
            film, finding = match[1].lower(), (match[2] or "").upper()
            numbers = _CIRCLE.match(match[3])
            circle = Circle(*map(int, numbers.groups())) if numbers else None
            films[film] = (*films.get(film, ()), Row(film, finding, circle))
    size = _SIZE.search(" ".join(text.split()))
    return Info(films, (int(size[2]), int(size[1])) if size else None)


def circle_mask(shape: tuple[int, int], circle: Circle) -> np.ndarray:
    """The disc of a circle, bool [H, W], with y counted from the bottom: row = H - y."""
    row, column = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(row - (shape[0] - circle.y), column - circle.x) <= circle.radius


def patient_of(film: str) -> str:
    """The patient of a film: films 2n-1 and 2n are the pair `mias_n`."""
    return f"mias_{(int(film[3:]) + 1) // 2:03d}"


def laterality_of(film: str) -> str:
    """The side of a film: "L" for odd numbers, "R" for even ones.

    Info.txt's first note says the reverse, but the lead letters on the films decide: every one
    that can be read (L on 209, 219, 243; R on 6, 24, 210, 248) is L on odd and R on even films.
    """
    return "L" if int(film[3:]) % 2 else "R"


@collections.register(DOMAIN)
def mini_mias() -> Collection:
    """The collection of mini-MIAS films."""
    return Collection(index, read)


def index(data: DataConfig) -> Index:
    """The films of a mini-MIAS folder whose findings are marked or absent; `details`: the circles.

    Normal films and films with calcifications take part. Films with other abnormalities are left
    out, since calcifications on them need not be marked, and so is every film that is missing,
    cannot be read, or has a finding whose circle is missing. The former, if they can be read, are
    `other_findings`.

    Raises:
      UserError: folder or Info.txt is missing, or Info.txt names no film.
    """
    info, files, absent = _open_folder(data.dir)
    paths: dict[str, Path] = {}
    left_out = []
    for path in (*files, *absent):
        if paths.setdefault(path.stem.lower(), path) != path:
            left_out.append(LeftOut(str(path), "another file has this film's number; keep one"))
    shapes, problems = _shapes(paths)
    problems |= {film: absent[path] for film, path in paths.items() if path in absent}
    expected = info.shape or _commonest(shapes.values())
    entries, other_findings = [], []
    for film in sorted({*info.films, *paths}):
        path = paths.get(film, Path(data.dir) / f"{film}.pgm")
        try:
            if film not in info.films:
                raise Unusable("not named in Info.txt; add its row, or take it away")
            if film not in paths:
                raise Unusable("not in the folder; add it if it is to be used")
            entry = Entry(film, patient_of(film), DOMAIN, "", (str(path),), ())
            is_other = _is_other(info.films[film])
            circles = () if is_other else _circles(info.films[film])
            if film in problems:
                raise Unusable(problems[film])
            if shapes[film] != expected:
                # The circles are in pixels of the stated size and would lie elsewhere.
                sizes = "{}x{} instead of {}x{} pixels".format(*shapes[film], *(expected or (0, 0)))
                raise Unusable(f"wrong size: {sizes}; take the archive's own file")
            if is_other:
                other_findings.append(entry)
                raise Unusable("other abnormality, on which calcifications may be unmarked")
        except Unusable as reason:
            left_out.append(LeftOut(str(path), str(reason)))
            continue
        entries.append(entry._replace(details=circles))
    return Index(tuple(entries), tuple(left_out), other_findings=tuple(other_findings))


def read(entry: Entry, data: DataConfig) -> Reading:
    """The film of an entry and the union of its circles, which show regions (`cluster`).

    Raises:
      Unusable: the film cannot be read, or a circle is not on the breast.
    """
    film = reader.read(Path(entry.files[0]))
    mask = np.zeros(film.header.shape, bool)
    breast = tiles.breast_mask(film.image) if entry.details else mask
    for circle in entry.details:
        disc = circle_mask(film.header.shape, circle)
        # Of the whole circle: what lies beyond the film's edge is not on the breast either.
        area = np.pi * circle.radius**2
        if np.count_nonzero(disc & breast) < MIN_CIRCLE_ON_BREAST * area:
            raise Unusable("circle outside the breast, so it is not known where the cluster is")
        mask |= disc
    example = Example(
        image=film.image,
        mask=mask.astype(np.uint8),
        image_id="",
        patient_id="",
        domain=entry.domain,
        laterality=laterality_of(entry.key),
        view_position="MLO",
        spacing_mm=SPACING_MM,
        label_kind="cluster" if entry.details else "none",
    )
    return Reading(example, film.repaired)


def _open_folder(folder: str) -> tuple[Info, Sequence[Path], dict[Path, str]]:
    """Info.txt, the paths of the PGM files, and why some of these are not here."""
    expected = "expected a folder with Info.txt and mdb001.pgm ...: set --config.data.dir=FOLDER"
    root = pairs.open_folder(folder, expected)
    try:
        info = read_info((root / "Info.txt").read_text(encoding="latin-1"))
    except OSError as error:
        raise UserError(f"{root / 'Info.txt'}: {error.strerror}; {expected}") from None
    if not info.films:
        raise UserError(f"{root / 'Info.txt'} has no row such as 'mdb003 D NORM'; {expected}")
    films = disk.listing(root, below=False).ending(".pgm")
    return info, films.files, {Path(item): reason for item, reason in films.absent}


def _shapes(paths: Mapping[str, Path]) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """The (height, width) of each film, from its header, and why a film has none."""
    shapes, problems = {}, {}
    for film, path in paths.items():
        try:
            shapes[film] = reader.header(path).shape
        except Unusable as reason:
            problems[film] = str(reason)
    return shapes, problems


def _commonest(shapes: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """The commonest (height, width), the largest of equally common ones; None of none."""
    counts = Counter(shapes)
    return max(counts, key=lambda shape: (counts[shape], shape)) if counts else None


def _is_other(rows: Sequence[Row]) -> bool:
    """Whether a film has findings, all of them known and none of them calcifications."""
    return {row.finding for row in rows}.issubset(set(FINDINGS) - {"CALC", "NORM"})


def _circles(rows: Sequence[Row]) -> tuple[Circle, ...]:
    """The circles around a film's clusters; none for a normal film."""
    findings = {row.finding for row in rows}
    if not findings.issubset(FINDINGS):
        raise Unusable("row of Info.txt not understood; take the archive's own file")
    if findings == {"NORM"}:
        return ()
    if "NORM" in findings:
        raise Unusable("both normal and abnormal in Info.txt; take the archive's own file")
    if findings != {"CALC"}:
        raise Unusable("other abnormality, on which calcifications may be unmarked")
    circles = tuple(row.circle for row in rows if row.circle and row.circle.radius > 0)
    if len(circles) < len(rows):
        raise Unusable("CALC row without a circle")
    return circles
