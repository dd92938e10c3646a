"""Mammograms as PNG, TIFF, BMP, PGM or JPEG: stored pixels, and gray levels in [0, 1]."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mln_flax.data.core import Unusable
from mln_flax.data.readers import kinds, pgm, png_bits, raster_modes
from mln_flax.data.readers.header import MAX_SIDE, ONE_LEVEL, Header, check, depth, opened
from mln_flax.data.readers.masks import SEVERAL_IMAGES, Page
from mln_flax.data.readers.raster_modes import Stored

SUFFIXES = frozenset({".png", ".tif", ".tiff", ".bmp", ".pgm", ".jpg", ".jpeg"})
_FORMATS = ("PNG", "TIFF", "BMP", "JPEG", "PPM")
_FAULT = "cannot be read as an image: damaged, cut short or of another kind; fetch it again"
_SUBFILE, _REDUCED = 254, 1  # TIFF 6.0, NewSubfileType: a smaller copy of another page


def header(path: str | Path) -> Header:
    """The size and number of frames of an image file; raises Unusable as `stored` does."""
    with _reading(path):
        gray_map = pgm.open_gray_map(path)
        if gray_map is not None:
            shape, frames = gray_map.shape, 1
        else:
            with _image(path) as image:
                shape, frames = raster_modes.shape(image), getattr(image, "n_frames", 1)
        check(shape, frames)
        return Header(shape, frames)


def stored(path: str | Path, frame: int = 0) -> Stored:
    """The pixels of one frame, turned as they are to be seen; three equal colors become one.

    Raises:
      Unusable: damaged, cut short or no image, a kind that is not read, an absurd size, colors,
        transparency, NaN, values below 0 or beyond 16 bits, or no such frame.
    """
    with _reading(path):
        gray_map = pgm.open_gray_map(path)
        if gray_map is not None:
            check(gray_map.shape, 1, frame)
            return Stored(gray_map.pixels(), False, False, gray_map.largest)
        with _image(path) as image:
            check((image.height, image.width), getattr(image, "n_frames", 1), frame)
            image.seek(frame)
            check((image.height, image.width), 1)  # pages of a TIFF may differ
            return raster_modes.stored(image)


def read(path: str | Path, frame: int = 0) -> tuple[np.ndarray, Header, tuple[str, ...]]:
    """Gray levels float32 [H, W] in [0, 1], the header, and what was mended; raises Unusable."""
    image_header = header(path)
    pixels, _, inverted, largest, repaired = stored(path, frame)
    top = int(pixels.max())
    if pixels.min() == pixels.max():
        raise Unusable(ONE_LEVEL)
    # All that 16 bits hold, with a sign or without, where the file does not say that it uses them.
    if largest in (2**15 - 1, 2**16 - 1) and not png_bits.uses_all(path):
        wide = largest.bit_length()
        if depth(top, wide) < wide and image_header.frames > 1:
            top = max(top, _top(path, os.stat(path).st_mtime_ns, image_header.frames))
        if (bits := depth(top, wide)) < wide:
            largest = 2**bits - 1
            repaired += (f"{bits}-bit values in a 16-bit file: scaled by {largest}",)
    image = np.true_divide(pixels, np.float32(largest), dtype=np.float32)
    if inverted:
        np.subtract(1, image, out=image)
    return image, image_header._replace(shape=image.shape), repaired


def mask_pages(path: str | Path, volume: bool) -> Iterator[Page]:
    """The pages of a mask file; smaller copies of the first one (thumbnails) are left out.

    Args:
      path: of the file.
      volume: the mask is that of one frame of a volume: then several pages may be of others.

    Raises:
      Unusable: as `stored`, or several pages and `volume`.
    """
    pages = _pages(path)
    if volume and len(pages) > 1:
        raise Unusable(SEVERAL_IMAGES)
    for number in pages:
        yield Page(*stored(path, number)[:3])


def _pages(path: str | Path) -> list[int]:
    """The numbers of the pages that are no smaller copies of the first one."""
    with _reading(path):
        if pgm.open_gray_map(path) is not None:
            return [0]
        with _image(path) as image:
            size, pages = image.size, [0]
            for number in range(1, getattr(image, "n_frames", 1)):
                image.seek(number)
                reduced = getattr(image, "tag_v2", {}).get(_SUBFILE, 0) & _REDUCED
                if not reduced or image.size == size:
                    pages.append(number)
            return pages


@lru_cache(maxsize=8)  # else each page would have all others decoded again
def _top(path: str | Path, stamp: int, count: int) -> int:
    """The largest pixel of all pages that can be read; `stamp` tells files apart."""
    top = 0
    for number in range(count):
        with suppress(Unusable):
            top = max(top, int(stored(path, number).pixels.max()))
    return top


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """A block that reads a file; what is whole but of another kind is Unusable by its name."""
    with opened(path, _FAULT):
        try:
            yield
        except (Unusable, MemoryError):
            raise
        except Exception:
            if name := kinds.unread(path):
                raise Unusable(raster_modes.NOT_READ.format(name)) from None
            raise


def _image(path: str | Path) -> Any:
    from PIL import Image

    try:
        return Image.open(path, formats=_FORMATS)
    except Image.DecompressionBombError:
        raise Unusable(f"says it has too many pixels; allowed are {MAX_SIDE} a side") from None
