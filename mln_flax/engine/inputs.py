"""A user's own images: which files are meant, how their answers are called, and what is read."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mln_flax import files
from mln_flax.data import disk
from mln_flax.data.core import Unusable
from mln_flax.data.readers import reader
from mln_flax.data.readers.header import Header
from mln_flax.data.readers.reader import Mammogram
from mln_flax.data.sets import pairs
from mln_flax.types import UserError

LEAST_SIDE = 8  # pixels of an image: no calcification can be told from its surround in fewer
MOST_PIXELS = 120_000_000  # of an image; a film of 24 x 30 cm in 25-micron pixels has 115 million
KEPT_BYTES = 2 * 10**9  # of a volume's decoded frames; what is beyond is decoded again
# Modalities of DICOM (PS3.3 C.7.3.1.1.1) that mammograms have; "" is a file that does not say.
MAMMOGRAMS = ("", "MG", "CR", "DX", "RG", "SC", "OT")
LONGEST_ENDING = "_0001_probability.png"


class Case(NamedTuple):
    """One file to answer for, and what its answers are called."""

    file: Path
    image: str  # its path below the folder that holds all that was given, with slashes
    folder: str  # of its answers, below the output; "" is the output itself
    stem: str  # begins the names of its answers


class Inputs(NamedTuple):
    """All files that are meant, and what has the name of an image and cannot be had."""

    root: Path
    cases: tuple[Case, ...]
    absent: tuple[tuple[str, str], ...]  # name and reason


def find(paths: Sequence[Path], output: Path) -> Inputs:
    """The image files among the paths, and in the folders among them and below.

    The output's own folder is not entered: answers are no images.

    Raises:
      UserError: a path does not exist, there is no image at all, or two would have answers of the
        same names.
    """
    for path in paths:
        if not os.path.lexists(path):
            raise UserError(f"{path}: no such file or folder")
    root = _root(paths)
    cases: dict[Path, Case] = {}
    absent: list[tuple[str, str]] = []
    own = output.resolve()
    for path in paths:
        found = [path]
        if path.is_dir():
            found = [file for file in reader.find(path) if own not in file.resolve().parents]
            gone = disk.listing(path).absent
            absent += [
                (_below(root, a.item), a.reason) for a in gone if reader.may_be_image(a.item)
            ]
        for file in found:
            cases.setdefault(Path(os.path.abspath(file)), _case(file, root))
    if not cases and not absent:
        known = ", ".join(sorted(reader.SUFFIXES))
        raise UserError(
            f"{', '.join(map(str, paths))}: no images here ({known}, DICOM without a suffix)"
        )
    _refuse_twins(tuple(cases.values()))
    return Inputs(root, tuple(cases.values()), tuple(absent))


def _root(paths: Sequence[Path]) -> Path:
    """The deepest folder that holds all that was given."""
    return Path(os.path.commonpath([os.path.abspath(p if p.is_dir() else p.parent) for p in paths]))


def _below(root: Path, path: str | Path) -> str:
    return Path(os.path.relpath(os.path.abspath(path), root)).as_posix()


def _case(file: Path, root: Path) -> Case:
    image = _below(root, file)
    folder, _, name = image.rpartition("/")
    stem = files.fitting(pairs.stem(name), LONGEST_ENDING).removesuffix(LONGEST_ENDING)
    return Case(file, image, folder, stem)


def _refuse_twins(cases: Sequence[Case]) -> None:
    """Refuses files whose answers would have one name; on some disks letters' case counts not."""
    names = Counter((case.folder.lower(), case.stem.lower()) for case in cases)
    for case in cases:
        if names[case.folder.lower(), case.stem.lower()] > 1:
            raise UserError(
                f"{case.file}: the answers of another image beside it are also called "
                f"{case.stem}_...: they would overwrite each other; rename one of them"
            )


def header(file: Path) -> Header:
    """What a file says of its image.

    Raises:
      Unusable: it cannot be read, shows something else than a mammogram, or has too few or too
        many pixels.
    """
    found = reader.header(file)
    if found.modality.upper() not in MAMMOGRAMS:
        allowed = ", ".join(filter(None, MAMMOGRAMS))
        raise Unusable(
            f"an image of modality {found.modality[:16]!r}, no mammogram; allowed are {allowed}"
        )
    height, width = found.shape
    if min(height, width) < LEAST_SIDE:
        raise Unusable(
            f"an image of {height}x{width} pixels: nothing can be found in it; allowed are sides "
            f"of {LEAST_SIDE} pixels or more"
        )
    if height * width > MOST_PIXELS:
        raise Unusable(
            f"an image of {height}x{width} pixels; allowed are {MOST_PIXELS:,} in all: store it "
            "with larger pixels"
        )
    return found


def frames_of(file: Path, count: int) -> Callable[[int], Mammogram]:
    """`read(frame)` of a file; each frame is decoded once, as long as there is room.

    Raises Unusable where a frame cannot be read.
    """
    kept: dict[int, Mammogram] = {}
    room = KEPT_BYTES

    def read(frame: int) -> Mammogram:
        nonlocal room
        if frame in kept:
            return kept[frame]
        mammogram = reader.read(file, frame)
        if count == 1 or mammogram.image.nbytes <= room:
            kept[frame] = mammogram
            room -= mammogram.image.nbytes
        return mammogram

    return read


def read_image(file: str | Path, frame: int = 0) -> Mammogram:
    """A mammogram, or one frame of a volume: float32 [H, W] in [0, 1], with what its file says.

    Raises:
      UserError: it cannot be read, has colors, is of one gray level, or is no mammogram.
    """
    try:
        header(Path(file))
        return reader.read(file, frame)
    except Unusable as reason:
        raise UserError(f"{file}: {reason}") from None
