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
from mln_flax.data.readers import dicom, masks, raster
from mln_flax.data.readers.header import Header
from mln_flax.data.readers.masks import two_valued as two_valued

SUFFIXES = raster.SUFFIXES | dicom.SUFFIXES
# What lies beside images in the archives; not opened in the search for files without a suffix.
_NEVER = frozenset({".csv", ".xml", ".txt", ".json", ".md", ".pdf", ".zip", ".npz", ".py"})
_FAINT = 0.1  # of the range of gray levels: an image that uses less is noted. Chosen.
_SAMPLES = 500  # of a side that are looked at for it


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
    return dicom.header(path) if is_dicom(path) else raster.header(path)


def read(path: str | Path, frame: int = 0) -> Mammogram:
    """One image with its header and with what had to be mended.

    Args:
      path: of the file.
      frame: of a volume, from 0; only this one is decoded.

    Raises:
      Unusable: as `header`, or the pixels cannot be decoded, are cut short, have colors, one gray
        level, or no number (NaN); or there is no such frame.
    """
    mammogram = dicom.read(path, frame) if is_dicom(path) else raster.read(path, frame)
    image, image_header, repaired = mammogram
    image, framed = borders.without_frame(image)
    return Mammogram(image, image_header, repaired + framed + _faint(image))


def read_gray(path: str | Path, frame: int | None = None) -> np.ndarray:
    """The stored pixels of one image [H, W], without lookup tables or inversion.

    Args:
      path: of the file.
      frame: from 0; None for the only one.

    Raises:
      Unusable: as `read`, but one gray level is allowed; several frames, and `frame` is None.
    """
    if frame is None and (frames := header(path).frames) > 1:
        raise Unusable(f"has {frames} frames where one image is expected; store it alone")
    if is_dicom(path):
        return dicom.stored(path, frame or 0).pixels
    return raster.stored(path, frame or 0).pixels


def read_mask(path: str | Path, frames: int = 1) -> np.ndarray:
    """The label of a mask file, bool [H, W]: True where the brighter of its two values is.

    Its pages, frames or segments are united; what one value alone says stands at `masks.union`.
    The values of a lossy JPEG are cut halfway.

    Args:
      path: of the file.
      frames: of the image that the mask belongs to.

    Raises:
      Unusable: it cannot be read, has other than two values, or it is not sure that its pages,
        frames or segments belong to one image, or to one frame of a volume.
    """
    pages = dicom.mask_pages if is_dicom(path) else raster.mask_pages
    return masks.union(pages(path, frames > 1))


def find(folder: str | Path) -> list[Path]:
    """All image files below a folder, by suffix or as DICOM by content, sorted by their path."""
    root = Path(folder)
    paths = [path for path in disk.listing(root).files if is_image(path)]
    return sorted(paths, key=lambda path: path.relative_to(root).as_posix())


def may_be_image(name: str) -> bool:
    """Whether a file of this name can be an image: by its suffix, or by a content not looked at."""
    path = Path(name)
    return path.name.upper() != "DICOMDIR" and path.suffix.lower() not in _NEVER


def is_image(path: Path) -> bool:
    """Whether a file is taken for an image: by its suffix, or as DICOM by its content."""
    if not may_be_image(path.name):
        return False
    return path.suffix.lower() in SUFFIXES or dicom.has_magic(path)


def is_dicom(path: str | Path) -> bool:
    """Whether a file is DICOM, by its content or its suffix."""
    # Old files lack the magic word; their suffix is all there is to go by.
    return dicom.has_magic(path) or Path(path).suffix.lower() in dicom.SUFFIXES


def _faint(image: np.ndarray) -> tuple[str, ...]:
    """What to note of an image that uses little of its range, as one scaled wrongly does."""
    thin = tuple(slice(None, None, 1 + side // _SAMPLES) for side in image.shape)
    low, high = np.percentile(image[thin], (0.5, 99.5))
    if high - low >= _FAINT:
        return ()
    return (f"only {100 * (high - low):.1f}% of the range of gray levels used: check its depth",)
