"""The one reader for a mammogram: DICOM, PNG, TIFF, BMP, PGM or JPEG, 8 to 16 bits.

`read` gives gray levels in [0, 1] as a reading room would show them: after the file's own lookup
tables and windows, with tissue bright and, except in images for processing, air dark. `read_gray`
gives the stored numbers and `read_mask` a mask. No exception names a patient or a file.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from mln_flax.data import disk
from mln_flax.data.core import Unusable
from mln_flax.data.prepare import borders
from mln_flax.data.readers import dicom, raster
from mln_flax.data.readers.header import Header

SUFFIXES = raster.SUFFIXES | dicom.SUFFIXES
# What lies beside images in the archives; not opened in the search for files without a suffix.
_NEVER = frozenset({".csv", ".xml", ".txt", ".json", ".md", ".pdf", ".zip", ".npz", ".py"})
# A mask in lossy JPEG: most pixels stay near the two values, few at the outline do not. Chosen.
_NEAR, _ASTRAY = 1 / 8, 0.01


class Mammogram(NamedTuple):
    """One image, or one frame of a volume, as read."""

    image: np.ndarray  # float32 [H, W] in [0, 1]
    header: Header
    repaired: tuple[str, ...] = ()  # faults that were mended, naming nobody


def header(path: str | Path) -> Header:
    """What the file says of its image; the pixels are not decoded.

    Raises:
      Unusable: not an image, no pixels in it, an absurd size, or cut short in its header.
    """
    return dicom.header(path) if _is_dicom(path) else raster.header(path)


def read(path: str | Path, frame: int = 0) -> Mammogram:
    """One image with its header and with what had to be mended.

    Args:
      path: of the file.
      frame: of a volume, from 0; only this one is decoded.

    Raises:
      Unusable: as `header`, or the pixels cannot be decoded, are cut short, have colors, one gray
        level, or no number (NaN); or there is no such frame.
    """
    mammogram = dicom.read(path, frame) if _is_dicom(path) else raster.read(path, frame)
    image, found, repaired = mammogram
    image, framed = borders.without_frame(image)
    return Mammogram(image, found, repaired + framed)


def read_gray(path: str | Path, frame: int = 0) -> np.ndarray:
    """The stored pixels of one image [H, W], without lookup tables or inversion.

    Raises:
      Unusable: as `read`, but one gray level is allowed.
    """
    if _is_dicom(path):
        return dicom.stored(path, frame).pixels
    return raster.stored(path, frame).pixels


def read_mask(path: str | Path) -> np.ndarray:
    """The label of a mask file, bool [H, W]: True where the brighter of its two values is.

    A file of one value is all False where that value is 0, else all True. The values of a lossy
    JPEG are cut halfway.

    Raises:
      Unusable: it cannot be read, or has other than two values.
    """
    if _is_dicom(path):
        pixels, lossy, inverted = dicom.stored(path, 0)[:3]
    else:
        pixels, lossy, inverted = raster.stored(path, 0)[:3]
    if not two_valued(pixels, lossy):
        raise Unusable(
            f"a mask with {_count(pixels)} gray values; a mask has two, background and label: "
            "threshold it, or look for the mask in another file"
        )
    low, high = pixels.min(), pixels.max()
    if low == high:
        return np.full(pixels.shape, bool(high))
    bright = pixels > (float(low) + float(high)) / 2
    return ~bright if inverted else bright


def two_valued(pixels: np.ndarray, lossy: bool = False) -> bool:
    """Whether pixels have at most two values, as a mask has.

    Args:
      pixels: as `read_gray` gives them.
      lossy: they come from a lossy JPEG: nearly all must be near one of the two extremes.
    """
    low, high = pixels.min(), pixels.max()
    if not lossy:
        return not ((pixels != low) & (pixels != high)).any()
    near = (float(high) - float(low)) * _NEAR
    astray = (pixels > low + near) & (pixels < high - near)
    return bool(astray.mean() <= _ASTRAY)


def find(folder: str | Path) -> list[Path]:
    """All image files below a folder, by suffix or as DICOM by content, sorted by their path."""
    root = Path(folder)
    found = [path for path in disk.listing(root).files if _is_image(path)]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def may_be_image(name: str) -> bool:
    """Whether a file of this name can be an image: by its suffix, or by a content not looked at."""
    path = Path(name)
    return path.name.upper() != "DICOMDIR" and path.suffix.lower() not in _NEVER


def _is_image(path: Path) -> bool:
    if not may_be_image(path.name):
        return False
    return path.suffix.lower() in SUFFIXES or dicom.has_magic(path)


def _is_dicom(path: str | Path) -> bool:
    # Old files lack the magic word; their suffix is all there is to go by.
    return dicom.has_magic(path) or Path(path).suffix.lower() in dicom.SUFFIXES


def _count(pixels: np.ndarray) -> int:
    return len(np.unique(pixels))
