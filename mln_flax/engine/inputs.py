"""A user's own images: which files are meant, how their answers are called, and what is read."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mln_flax import files
from mln_flax.data import disk
from mln_flax.data.core import Unusable
from mln_flax.data.readers import reader
from mln_flax.data.readers.header import Header, opened
from mln_flax.data.readers.reader import Mammogram
from mln_flax.data.sets import pairs
from mln_flax.engine.whole import LEAST_SIDE, MOST_PIXELS
from mln_flax.types import UserError

# Modalities of DICOM (PS3.3 C.7.3.1.1.1) that mammograms have; "" is a file that does not say.
MAMMOGRAMS = ("", "MG", "CR", "DX", "RG", "SC", "OT")
# And of what lies beside images in exports, no image itself.
BESIDE = frozenset(
    "SEG SR KO PR REG FID DOC PLAN SMR AU HD ANN CTPROTOCOL RTSTRUCT RTPLAN RTRECORD RTDOSE "
    "RTINTENT RTSEGANN RWV TEXTUREMAP STAIN ASMT".split()
)
MOST_OF_VOLUME = 2_000_000_000  # pixels of all frames: of each a byte is held until the end
MANIFEST = "prediction.json"  # of a folder of answers: what they were made with
# At least as long as all that follows a stem: `_0001` and the longest name of a branch's map.
LONGEST_ENDING = "_0001_branch-inverted-bezier-0.123.png"
_ANSWERS = "a folder of answers; their pictures are no images"
_TAKEN = Path(MANIFEST).stem  # its `.json` would be the answer of an image of this name


class Case(NamedTuple):
    """One file to answer for, and what its answers are called."""

    file: Path
    image: str  # its path below the folder that holds all that was given, with slashes
    folder: str  # of its answers, below the output; "" is the output itself
    stem: str  # begins the names of its answers

    @property
    def place(self) -> str:
        """Where its answers begin, below the output."""
        return f"{self.folder}/{self.stem}".lstrip("/")


class Inputs(NamedTuple):
    """All files that are meant, and what has the name of an image and cannot be had."""

    root: Path
    cases: tuple[Case, ...]
    absent: tuple[tuple[str, str], ...] = ()  # name and reason
    passed_over: tuple[tuple[str, str], ...] = ()  # likewise: no images, and none is missed


class NoImage(Exception):
    """A file that is as it should be and shows no image; the reason is its text."""


def find(paths: Sequence[Path], output: Path) -> Inputs:
    """The image files among the paths, and in the folders among them and below.

    Folders of answers, the output among them, are passed over: answers are no images.

    Raises:
      UserError: a path does not exist, there is no image at all, the output would lie around the
        images, or two images would have answers of the same names.
    """
    for path in paths:
        if not os.path.lexists(path):
            raise UserError(f"{path}: no such file or folder")
    root = _root(paths)
    _refuse_around(paths, output)
    cases: dict[Path, Case] = {}
    absent: list[tuple[str, str]] = []
    passed_over: dict[Path, str] = {}
    own = output.resolve()
    for path in paths:
        found = [path]
        if path.is_dir():
            listing = disk.listing(path)
            answers = {file.parent for file in listing.files if file.name == MANIFEST}
            passed_over |= {f: _ANSWERS for f in answers if f.resolve() != own}
            found = [
                file
                for file in reader.find(path)
                if answers.isdisjoint(file.parents) and own not in file.resolve().parents
            ]
            absent += [
                (_below(root, name), reason)
                for name, reason in listing.absent
                if reader.may_be_image(name) and answers.isdisjoint(Path(name).parents)
            ]
        for file in found:
            cases.setdefault(Path(os.path.abspath(file)), _case(file, root))
    if not cases and not absent:
        known = ", ".join(sorted(reader.SUFFIXES))
        raise UserError(
            f"{', '.join(map(str, paths))}: no images here ({known}, DICOM without a suffix)"
        )
    _refuse_twins(tuple(cases.values()))
    passed = [(_below(root, folder), reason) for folder, reason in passed_over.items()]
    return Inputs(root, tuple(cases.values()), tuple(absent), tuple(passed))


def _root(paths: Sequence[Path]) -> Path:
    """The deepest folder that holds all that was given."""
    return Path(os.path.commonpath([os.path.abspath(p if p.is_dir() else p.parent) for p in paths]))


def _below(root: Path, path: str | Path) -> str:
    return Path(os.path.relpath(os.path.abspath(path), root)).as_posix()


def _case(file: Path, root: Path) -> Case:
    image = _below(root, file)
    folder, _, name = image.rpartition("/")
    stem = files.fitting(pairs.stem(name), LONGEST_ENDING).removesuffix(LONGEST_ENDING)
    if not folder and stem.lower() == _TAKEN:
        stem += "_"
    return Case(file, image, folder, stem)


def _refuse_around(paths: Sequence[Path], output: Path) -> None:
    """Refuses an output that holds images: later they could not be told from answers."""
    own = output.resolve()
    for path in paths:
        given = path.resolve()
        if own in (given, *given.parents):
            raise UserError(
                f"--output={output}: holds the image {path}, or is its folder; give a folder for "
                f"the answers alone, such as {output / 'answers'}"
            )


def _refuse_twins(cases: Sequence[Case]) -> None:
    """Refuses files whose answers would have one name; on some disks letters' case counts not."""
    names = Counter((case.folder.lower(), case.stem.lower()) for case in cases)
    for case in cases:
        folder, stem = case.folder.lower(), case.stem.lower()
        volume = re.fullmatch(r"(.+)_\d{4,}", stem)
        is_twin = names[folder, stem] > 1
        if volume and (folder, volume[1]) in names:
            is_twin |= any(
                _frames(other.file) > 1
                for other in cases
                if (other.folder.lower(), other.stem.lower()) == (folder, volume[1])
            )
        if is_twin:
            raise UserError(
                f"{case.file}: the answers of another image beside it are also called "
                f"{case.stem}_...: they would overwrite each other; rename one of them"
            )


def _frames(file: Path) -> int:
    try:
        return reader.header(file).frames
    except Unusable:
        return 1  # it gets no answers


def header(file: Path) -> Header:
    """What a file says of its image.

    Raises:
      NoImage: it is of a kind that lies beside images and shows none.
      Unusable: it cannot be read, shows something else than a mammogram, or has too few or too
        many pixels.
    """
    if reader.is_dicom(file) and (kind := _modality(file)) in BESIDE:
        raise NoImage(f"a DICOM file of modality {kind}, which is no image")
    found = reader.header(file)
    if found.modality.upper() not in MAMMOGRAMS:
        allowed = ", ".join(filter(None, MAMMOGRAMS))
        raise Unusable(
            f"an image of modality {_word(found.modality)}, no mammogram; allowed are {allowed}"
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
    if found.frames * height * width > MOST_OF_VOLUME:
        raise Unusable(
            f"{found.frames} frames of {height}x{width} pixels; allowed are {MOST_OF_VOLUME:,} "
            "pixels in all: store them in several files"
        )
    return found


def _modality(file: Path) -> str:
    """The modality that a DICOM file names; "" where it names none or cannot be read."""
    from pydicom import dcmread

    try:
        with opened(file, ""):
            dataset = dcmread(file, specific_tags=["Modality"], stop_before_pixels=True, force=True)
            return str(dataset.get("Modality", "")).strip().upper()
    except Unusable:
        return ""


def _word(modality: str) -> str:
    """A modality as it may be shown: anything else in its place could name somebody."""
    return modality.upper() if re.fullmatch(r"[A-Za-z]{2,4}", modality) else "of no known name"


def frames_of(file: Path) -> Callable[..., Mammogram]:
    """`read(frame, again=False)` of a file; what is read `again` is decoded once.

    Raises Unusable where a frame cannot be read.
    """
    kept: dict[int, Mammogram] = {}

    def read(frame: int, again: bool = False) -> Mammogram:
        mammogram = kept.pop(frame, None) or reader.read(file, frame)
        if again:
            kept[frame] = mammogram
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
    except (Unusable, NoImage) as reason:
        raise UserError(f"{file}: {reason}") from None
