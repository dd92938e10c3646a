"""mini-MIAS: digitized screen films whose clusters of calcifications are marked by circles.

The public archive (J. Suckling et al., Excerpta Medica 1069, 1994) is one folder of `Info.txt`
and `mdb001.pgm` to `mdb322.pgm`, 8 bits, 0.2 mm a pixel, all mediolateral oblique.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mln_flax.config import DataConfig
from mln_flax.data import splits, tiles
from mln_flax.data.core import PARTS, DataSet, Example, LeftOut, Part, loaders
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


class _Skip(Exception):
    """Why a film is left out."""


class _Film(NamedTuple):
    patient_id: str
    has_cluster: bool
    tiles: tuple[Example, ...]
    breast: tuple[float, ...]  # the share of breast in each tile


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


@loaders.register(DOMAIN)
def load(data: DataConfig) -> DataSet:
    """The films of a mini-MIAS folder as tiles, in parts by patient.

    Normal films and films with calcifications take part; a mask is the union of the film's
    circles, so it shows regions (`cluster`), not calcifications. Films with other abnormalities
    are left out, since calcifications on them need not be marked, and so is every film that is
    missing, cannot be read, or has a finding whose circle is missing or not on the breast: one
    `left_out` entry each.

    Raises:
      UserError: another source or any target is asked for; folder or Info.txt is missing; too few
        films are left to fill every part.
    """
    if data.source != DOMAIN or data.targets:
        raise UserError(
            f"data.source={data.source!r}, data.targets={data.targets!r}: this data set has the "
            f"single domain {DOMAIN!r}; set --config.data.source={DOMAIN} "
            "--config.data.targets='()'"
        )
    info, paths = _open_folder(data.dir)
    films: dict[str, _Film] = {}
    left_out = []
    for name in sorted({*info.films, *paths}):
        try:
            whole, breast = _read_film(name, info, paths)
        except _Skip as reason:
            left_out.append(LeftOut(name, str(reason)))
            continue
        cut = tiles.cut(whole, data.tiles.rows, data.tiles.columns, data.size)
        shares = tuple(tiles.breast_share(breast, tile) for tile in cut)
        films[name] = _Film(whole.patient_id, bool(whole.mask.any()), cut, shares)
    reasons = _reasons(left_out, len(info.films))
    if not films:
        raise UserError(f"{data.dir}: no film can be used; {'; '.join(reasons)}")
    clusters = sum(film.has_cluster for film in films.values())
    read = (
        f"films read: {len(films)} of the {len(info.films)} that Info.txt names: {clusters} with "
        f"clusters, {len(films) - clusters} normal"
    )
    parts, part_notes = _parts(list(films.values()), data)
    return DataSet(parts, tuple(left_out), (read, *reasons, *part_notes))


def _open_folder(folder: str) -> tuple[Info, dict[str, Path]]:
    """Info.txt and the paths of the PGM files by film."""
    expected = "expected a folder with Info.txt and mdb001.pgm ...: set --config.data.dir=FOLDER"
    if not folder:
        raise UserError(f"data.dir is empty; {expected}")
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"data.dir={folder!r} is not a folder; {expected}")
    try:
        info = read_info((root / "Info.txt").read_text(encoding="latin-1"))
    except OSError as error:
        raise UserError(f"{root / 'Info.txt'}: {error.strerror}; {expected}") from None
    if not info.films:
        raise UserError(f"{root / 'Info.txt'} has no row such as 'mdb003 D NORM'; {expected}")
    files = sorted(path for path in root.iterdir() if path.suffix.lower() == ".pgm")
    if not info.shape:
        info = info._replace(shape=_commonest_shape(files))
    return info, {path.stem.lower(): path for path in files}


def _commonest_shape(files: Sequence[Path]) -> tuple[int, int] | None:
    """The (height, width) of most films, from their headers; None where none can be read."""
    from PIL import Image

    shapes: Counter[tuple[int, int]] = Counter()
    for path in files:
        with contextlib.suppress(*_damage()), Image.open(path, formats=("PPM",)) as image:
            shapes[image.height, image.width] += 1
    return max(shapes, key=lambda shape: (shapes[shape], shape)) if shapes else None


def _damage() -> tuple[type[Exception], ...]:
    """What Pillow raises for damaged files."""
    from PIL import Image

    return OSError, ValueError, SyntaxError, Image.DecompressionBombError


def _read_film(name: str, info: Info, paths: dict[str, Path]) -> tuple[Example, np.ndarray]:
    """A whole film and its breast mask; raises _Skip where it cannot be used."""
    if name not in info.films:
        raise _Skip("not named in Info.txt")
    if name not in paths:
        raise _Skip("not in the folder")
    rows = info.films[name]
    circles = _circles(rows)
    image = _read_pgm(paths[name], info.shape)
    breast = tiles.breast_mask(image)
    if not breast.any():
        raise _Skip("no breast found in the image")
    mask = np.zeros(image.shape, bool)
    for circle in circles:
        disc = circle_mask(image.shape, circle)
        # Of the whole circle: what lies beyond the film's edge is not on the breast either.
        area = np.pi * circle.radius**2
        if np.count_nonzero(disc & breast) < MIN_CIRCLE_ON_BREAST * area:
            raise _Skip("circle outside the breast")
        mask |= disc
    example = Example(
        image=image,
        mask=mask.astype(np.uint8),
        image_id=name,
        patient_id=patient_of(name),
        domain=DOMAIN,
        laterality=laterality_of(name),
        view_position="MLO",
        spacing_mm=SPACING_MM,
        label_kind="cluster" if circles else "none",
    )
    return example, breast


def _circles(rows: Sequence[Row]) -> list[Circle]:
    """The circles around a film's clusters; none for a normal film."""
    findings = {row.finding for row in rows}
    if not findings.issubset(FINDINGS):
        raise _Skip("row of Info.txt not understood")
    if findings == {"NORM"}:
        return []
    if "NORM" in findings:
        raise _Skip("both normal and abnormal in Info.txt")
    if findings != {"CALC"}:
        raise _Skip("other abnormality, on which calcifications may be unmarked")
    circles = [row.circle for row in rows if row.circle and row.circle.radius > 0]
    if len(circles) < len(rows):
        raise _Skip("CALC row without a circle")
    return circles


def _read_pgm(path: Path, shape: tuple[int, int] | None) -> np.ndarray:
    """The pixels of an 8-bit PGM file over 255, float32; the film's own background is kept."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PPM",)) as image:
            mode, pixels = image.mode, np.asarray(image)
    except _damage():
        raise _Skip("cannot be read: no whole PGM image") from None
    if mode != "L":
        raise _Skip(f"not an 8-bit gray image (mode {mode})")
    if shape and pixels.shape != shape:
        # The circles are in pixels of the stated size and would lie elsewhere.
        raise _Skip("wrong size: {}x{} instead of {}x{} pixels".format(*pixels.shape, *shape))
    return pixels.astype(np.float32) / 255


def _parts(films: Sequence[_Film], data: DataConfig) -> tuple[tuple[Part, ...], list[str]]:
    """The three parts, and a line on each: patients, films, tiles."""
    has_cluster: dict[str, bool | None] = {}
    for film in films:
        has_cluster[film.patient_id] = has_cluster.get(film.patient_id, False) or film.has_cluster
    assigned = splits.split(has_cluster, data.split, has_cluster)
    digest = splits.manifest(assigned, data.split)["sha256"][:12]
    parts, notes = [], [f"split by patient: seed {data.split.seed}, sha256 {digest}"]
    for name in PARTS:
        patients = {patient for patient, part in assigned.items() if part == name}
        share = {"validation": data.split.validation, "test": data.split.test}.get(name, 1.0)
        members = [film for film in films if film.patient_id in patients]
        # Only training may choose its tiles, and never by their labels.
        least = data.tiles.min_breast if name == "train" else 0.0
        kept = tuple(_with_breast(members, least))
        if share and not kept:
            raise UserError(
                f"{data.dir}: nothing is left for the part {name!r} from {len(films)} usable films "
                f"of {len(assigned)} patients; at least 3 patients are needed"
            )
        labeled = sum(bool(tile.mask.any()) for tile in kept)
        dropped = sum(len(film.tiles) for film in members) - len(kept)
        parts.append(Part(DOMAIN, name, kept))
        notes.append(
            f"{name}: {len(patients)} patients, {len(members)} films, {len(kept)} tiles, {labeled} "
            f"with a label" + (f", {dropped} dropped (almost no breast)" if dropped else "")
        )
    return tuple(parts), notes


def _with_breast(films: Sequence[_Film], least: float) -> Iterator[Example]:
    """The tiles of which at least a share `least` is breast."""
    for film in films:
        for tile, share in zip(film.tiles, film.breast, strict=True):
            if share >= least:
                yield tile


def _reasons(left_out: Sequence[LeftOut], named: int) -> list[str]:
    """One line per reason: how many films. Which ones is in `left_out`, notes name nobody."""
    counts = Counter(reason for _, reason in left_out)
    return [f"left out, {reason}: {n} of {named} films" for reason, n in counts.items()]
