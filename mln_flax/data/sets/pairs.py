"""Images and masks that lie in two folders and belong together by their stems."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mln_flax import files
from mln_flax.data import disk
from mln_flax.data.core import LeftOut, Unusable
from mln_flax.data.prepare import inverted
from mln_flax.data.readers import reader
from mln_flax.types import UserError

WHOLE = 0  # stands for the frame of a mask that belongs to no frame but to the file

_DECIMALS = re.compile(r"(\d+)[.,]0+")
_FRAME = re.compile(r"(.+)_(\d+)")


class Files(NamedTuple):
    """The image files below a folder by stem, the other files there, and what is not here."""

    by_stem: dict[str, list[Path]]
    others: tuple[LeftOut, ...]
    absent: tuple[LeftOut, ...]  # of what may be images


def open_folder(folder: str, expected: str) -> Path:
    """The data folder; raises UserError, ending in what is `expected`, where there is none."""
    if not folder:
        raise UserError(f"data.dir is empty; {expected}")
    root = Path(folder)
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"data.dir={folder!r} {problem}; {expected}")
    return root


def images(root: Path) -> Files:
    """The image files below a folder, in sorted order.

    Raises:
      UserError: there is no image.
    """
    paths, listing = sorted(reader.find(root)), disk.listing(root)
    absent = tuple(gone for gone in listing.absent if reader.may_be_image(gone.item))
    if not paths:
        known = ", ".join(sorted(reader.SUFFIXES))
        raise UserError(
            f"{root} holds no image; known are DICOM and files ending in {known}"
            f"{disk.and_absent(absent)}"
        )
    by_stem = defaultdict(list)
    for path in paths:
        by_stem[stem(path.relative_to(root).as_posix())].append(path)
    reason = "no image of a known format; convert it or take it away"
    rest = sorted(set(listing.files).difference(paths))
    return Files(dict(by_stem), tuple(LeftOut(str(path), reason) for path in rest), absent)


def stem(name: str) -> str:
    """A file's name without its suffix; only known ones are cut off, for ids may hold dots too."""
    name = disk.spelled(name)
    suffix = Path(name).suffix
    return name[: -len(suffix)] if suffix.lower() in reader.SUFFIXES else name


class Names:
    """The stems of images, to be found by what a mask or a table calls them."""

    def __init__(self, stems: Iterable[str]):
        """Keeps the stems: paths below `images/` without suffix."""
        self._stems = frozenset(stems)
        by_name = defaultdict(list)
        for whole in self._stems:
            by_name[whole.rpartition("/")[2]].append(whole)
        self._alone = {name: whole[0] for name, whole in by_name.items() if len(whole) == 1}

    def find(self, name: str) -> str | None:
        """The stem of the one image that is meant, or None.

        That is the same path. Where one of the two lies at the top, its name alone is enough, if
        no other image has it.
        """
        name = disk.spelled(name)
        if name in self._stems:
            return name
        last = name.rpartition("/")[2]
        if last != name:
            return last if last in self._stems else None
        return self._alone.get(name)


def read_mask(path: str, image: np.ndarray, frames: int = 1) -> np.ndarray:
    """The label of a mask file, uint8 {0, 1} [H, W]; `frames` are those of its image's file.

    Raises:
      Unusable: naming the mask, where it cannot be read, has other than two values or another
        shape than its image [H, W], may be of several frames, labels every pixel, or is inverted.
    """
    try:
        mask = reader.read_mask(Path(path), frames)
    except Unusable as unusable:
        raise Unusable(str(unusable), path) from None
    if mask.shape != image.shape:
        sizes = "{}x{} pixels for an image of {}x{}".format(*mask.shape, *image.shape)
        raise Unusable(f"a mask of {sizes}; draw it on the image itself", path)
    if mask.all():
        raise Unusable("a mask that labels every pixel; its background must be zero", path)
    if inverted.is_inverted(mask, image):
        raise Unusable(inverted.REASON, path)
    return mask.astype(np.uint8)


def mask_name(image: str, frame: int = 0, frames: int = 1) -> str:
    """The name of a file for the mask of an image: `a_mask.png`, of frames `a_0001_mask.png` ...

    `pair` finds the image by it, unless a long stem had to be cut for `files.MOST_BYTES`.

    Args:
      image: the name of its file, with its suffix if it has one.
      frame: from 0.
      frames: of the file.
    """
    number = f"_{frame + 1:04d}" if frames > 1 else ""
    return files.fitting(stem(image), f"{number}_mask.png")


def whole_number(cell: str) -> str:
    """The id in a cell that a spreadsheet has made a number (`12345.0`); else the cell itself."""
    match = _DECIMALS.fullmatch(cell)
    return match[1] if match else cell


def pair(
    masks: Mapping[str, list[Path]], names: Names, frames: Mapping[str, int]
) -> tuple[dict[str, dict[int, list[Path]]], list[LeftOut]]:
    """The masks of each image by frame (from 1, or WHOLE), and the masks that fit no image.

    Args:
      masks: paths by stem; a stem equals its image's, or has `_mask` at its end. In between, or
        instead, stands `_` and a number where the image has several frames.
      names: the images' stems.
      frames: of each image that can be read.
    """
    paired: dict[str, dict[int, list[Path]]] = {}
    orphans = []
    for whole, paths in masks.items():
        plain = whole.removesuffix("_mask")
        image, frame = names.find(whole) or names.find(plain), WHOLE
        reason = "a mask without an image: no image has its stem; rename it or add the image"
        match = _FRAME.fullmatch(plain)
        if not image and match and frames.get(volume := names.find(match[1]) or "", 1) > 1:
            image, frame = volume, int(match[2])
            if not 1 <= frame <= frames[volume]:
                image = None
                reason = f"a mask without a frame: its image has the frames 1 to {frames[volume]}"
        if image:
            paired.setdefault(image, defaultdict(list))[frame] += paths
        else:
            orphans += [LeftOut(str(path), reason) for path in paths]
    return paired, orphans
