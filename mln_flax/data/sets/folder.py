"""A folder of one's own: `images/` and `masks/` side by side, paired by their stems.

    images/a.dcm           masks/a.png or masks/a_mask.png
    images/b/left.tif      masks/b/left.png
    images/volume.dcm      masks/volume_1.png, masks/volume_07.png: of its first and seventh frame
    cases.csv              optional: what is known of each image (`data.sets.cases`)

Images and masks are of any format that the reader knows. A mask has its image's size and two
values; its pages, frames or segments are united where they are sure to show that one image. A mask
all zero says that the image is normal. An image without a mask is left out, since nobody has said
so of it.

Without the column `patient`, the patient of a DICOM file is its header's, and of another file its
stem: then every image is its own patient. Where patients have several images, give `cases.csv`,
or one patient's images may be trained on and tested on.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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
from mln_flax.data.sets import cases, pairs
from mln_flax.types import UserError

DOMAIN = "folder"
LABEL = "calcification"  # what masks show where neither the table nor data.label says it


class Details(NamedTuple):
    """What `read` must know of an entry besides its files."""

    frame: int  # from 0
    label: str
    laterality: str = ""  # "" and None: as the image's header says
    view_position: str = ""
    spacing_mm: tuple[float, float] | None = None  # (row, column)


class _Rows(NamedTuple):
    """The table's rows by the stem of their image, and what the table says of all of them."""

    by_stem: Mapping[str, cases.Case]
    left_out: tuple[LeftOut, ...]
    patients: frozenset[str] | None  # None without that column
    label: str  # of rows without one


@collections.register(DOMAIN)
def folder() -> Collection:
    """The collection of a user's own folder."""
    return Collection(index, read)


def index(data: DataConfig) -> Index:
    """The images of a folder that have a mask, each by the stem of its path below `images/`.

    Raises:
      UserError: the folder, `images/` or `masks/` is missing or holds no image; `cases.csv` is no
        table of known columns, or has two kinds of labels and `data.label` chooses none.
    """
    root = _root(data.dir)
    images, masks = pairs.images(root / "images"), pairs.images(root / "masks")
    headers, damaged = _headers([*images.by_stem.values(), *masks.by_stem.values()])
    known, unknown = _single(images.by_stem, headers, damaged)
    names = pairs.Names(images.by_stem)
    rows = _rows(root / "cases.csv", names, data)
    frames = {stem: header.frames for stem, header in known.items()}
    paired, orphans = pairs.pair(masks.by_stem, names, frames)
    left_out = [*images.others, *images.absent, *masks.others, *masks.absent]
    left_out += [*unknown, *orphans, *rows.left_out]
    entries: list[Entry] = []
    for stem, header in known.items():
        path = images.by_stem[stem][0]
        try:
            case = _case(stem, header, rows, data.label)
            kept, reasons = _masks(header.frames, paired.get(stem, {}))
        except Unusable as unusable:
            left_out.append(LeftOut(str(path), str(unusable)))
            continue
        for frame, mask in kept:
            key = f"{stem}_{frame:03d}" if frame else stem
            if frame and key in images.by_stem:
                reasons.append(f"frame {frame} would have another image's name; rename that image")
            else:
                entries.append(_entry(key, (path, mask), frame, case, header))
        left_out += [LeftOut(str(path), reason) for reason in reasons]
    # Of masks and of images left out as well: their paths stand in reports.
    secrets = {word for header in headers.values() for word in (header.patient, *header.secrets)}
    secrets.update(rows.patients or ())
    return Index(tuple(entries), tuple(sorted(left_out)), frozenset(secrets - {""}))


def read(entry: Entry, data: DataConfig) -> Reading:
    """The image of an entry, whole, with its mask; without a labeled pixel it is a normal image.

    Raises:
      Unusable: a file cannot be read, the mask has other than two values or another size,
        labels every pixel, or is inverted.
    """
    details: Details = entry.details
    mammogram = reader.read(Path(entry.files[0]), details.frame)
    frames = mammogram.header.frames
    mask = pairs.read_mask(entry.files[1], mammogram.image, frames)
    header = mammogram.header
    example = Example(
        image=mammogram.image,
        mask=mask,
        image_id="",
        patient_id="",
        domain=entry.domain,
        laterality=details.laterality or header.laterality,
        view_position=details.view_position or header.view_position,
        spacing_mm=details.spacing_mm or header.spacing_mm,
        label_kind=details.label if mask.any() else "none",
    )
    return Reading(example, mammogram.repaired)


def _root(folder: str) -> Path:
    """The folder, known to hold images/ and masks/."""
    expected = "expected a folder with images/ and masks/: set --config.data.dir=FOLDER"
    root = pairs.open_folder(folder, expected)
    for name in ("images", "masks"):
        if not (root / name).is_dir():
            raise UserError(f"data.dir={folder!r} has no folder {name}/; {expected}")
    return root


def _headers(
    files: Iterable[Sequence[Path]],
) -> tuple[dict[Path, reader.Header], dict[Path, str]]:
    """The header of each file, and why a file has none."""
    headers, damaged = {}, {}
    for path in itertools.chain(*files):
        try:
            headers[path] = reader.header(path)
        except Unusable as unusable:
            damaged[path] = str(unusable)
    return headers, damaged


def _single(
    images: Mapping[str, list[Path]],
    headers: Mapping[Path, reader.Header],
    damaged: Mapping[Path, str],
) -> tuple[dict[str, reader.Header], list[LeftOut]]:
    """The header of each image, by stem, and the images that are damaged or share their stem."""
    known, left_out = {}, []
    for stem, paths in images.items():
        if len(paths) > 1:
            reason = "several images have this stem, and a mask fits one; keep one or rename them"
            left_out += [LeftOut(str(path), reason) for path in paths]
        elif paths[0] in damaged:
            left_out.append(LeftOut(str(paths[0]), damaged[paths[0]]))
        else:
            known[stem] = headers[paths[0]]
    return known, left_out


def _rows(path: Path, names: pairs.Names, data: DataConfig) -> _Rows:
    """The rows of the table, if there is one, by the stem of their image."""
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path}: {disk.ABSENT}")
    if not path.exists():
        return _Rows({}, (), None, data.label or LABEL)
    table = cases.read(path)
    kinds = {case.label for case in table.cases} - {""}
    if len(kinds) > 1 and not data.label:
        raise UserError(
            f"{path} labels both calcifications and clusters, which are not mixed; choose by "
            "--config.data.label=calcification or cluster"
        )
    by_stem: dict[str, cases.Case] = {}
    left_out = []
    for case in table.cases:
        # Written by hand: perhaps with the folder's name, perhaps by Windows.
        name = case.image.replace("\\", "/").removeprefix("./").removeprefix("images/")
        spellings = (pairs.stem(name), name, pairs.whole_number(name))
        stem = next(filter(None, map(names.find, spellings)), None)
        if stem is None:
            reason = case.fault or "no image, or more than one, has the name of its column 'image'"
            left_out.append(LeftOut(str(path), f"line {case.line}: {reason}"))
        elif first := by_stem.get(stem):
            fault = f"its image is that of line {first.line}; keep one of them"
            by_stem[stem] = case._replace(fault=fault)
        else:
            by_stem[stem] = case
    patients = frozenset(case.patient for case in table.cases)
    has_patients = "patient" in table.columns
    label = data.label or next(iter(kinds), LABEL)
    return _Rows(by_stem, tuple(left_out), patients if has_patients else None, label)


def _case(stem: str, header: reader.Header, rows: _Rows, wanted: str) -> cases.Case:
    """What is known of an image from the table, with its patient and the kind of its label.

    Raises:
      Unusable: its row has a fault, its patient is not known, or its label is not the wanted kind.
    """
    case = rows.by_stem.get(stem, cases.Case(line=0, image=stem))
    if case.fault:
        raise Unusable(f"line {case.line} of cases.csv: {case.fault}")
    if rows.patients is not None and not case.patient:
        # The header or the stem would call the patient of other images by another name.
        raise Unusable("cases.csv knows the patients of images, but not of this one; add it")
    label = case.label or rows.label
    if wanted and label != wanted:
        raise Unusable(f"labeled {label} in cases.csv, while data.label={wanted}")
    return case._replace(patient=case.patient or header.patient or stem, label=label)


def _masks(
    frames: int, masks: Mapping[int, list[Path]]
) -> tuple[list[tuple[int, Path]], list[str]]:
    """The mask of each usable frame (from 1; WHOLE of a single one), and why others are not used.

    Raises:
      Unusable: there is none.
    """
    if frames == 1:
        if not masks:
            raise Unusable(
                "no mask with its stem, and without one nobody has said that it is normal; draw "
                "it, or add a mask that is all zero"
            )
        if len(masks[pairs.WHOLE]) > 1:
            raise Unusable("several masks with its stem; keep one")
        return [(pairs.WHOLE, masks[pairs.WHOLE][0])], []
    reasons = []
    if pairs.WHOLE in masks:
        reasons.append(
            f"a mask without the number of one of its {frames} frames; masks of frames are named "
            "NAME_1.png, NAME_2.png ..."
        )
    by_frame = {frame: paths for frame, paths in sorted(masks.items()) if frame != pairs.WHOLE}
    reasons += [f"several masks of frame {n}; keep one" for n, p in by_frame.items() if len(p) > 1]
    if missing := frames - len(by_frame):
        reasons.append(
            f"no mask for {missing} of {frames} frames, of which nobody has said that they are "
            "normal; draw them as NAME_1.png, NAME_2.png ..., or add masks that are all zero"
        )
    return [(frame, paths[0]) for frame, paths in by_frame.items() if len(paths) == 1], reasons


def _entry(
    key: str, files: tuple[Path, Path], frame: int, case: cases.Case, header: reader.Header
) -> Entry:
    """The entry of an image, or of one of its frames, and its mask."""
    domain = case.domain or DOMAIN
    if header.for_processing and not domain.endswith(PROCESSING):
        domain += PROCESSING
    details = Details(
        frame=max(0, frame - 1),
        label=case.label,
        laterality=case.laterality,
        view_position=case.view_position,
        spacing_mm=case.spacing_mm,
    )
    paths = tuple(str(path) for path in files)
    return Entry(key, case.patient, domain, case.part, paths, details)
