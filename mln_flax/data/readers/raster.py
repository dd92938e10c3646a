"""Mammograms as PNG, TIFF, BMP, PGM or JPEG: stored pixels, and gray levels in [0, 1]."""

from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mln_flax.data.core import Unusable
from mln_flax.data.readers.header import (
    MAX_SIDE,
    ONE_LEVEL,
    Header,
    check,
    depth,
    one_channel,
    opened,
)

SUFFIXES = frozenset({".png", ".tif", ".tiff", ".bmp", ".pgm", ".jpg", ".jpeg"})
_FORMATS = ("PNG", "TIFF", "BMP", "JPEG", "PPM")
_FAULT = "cannot be read as an image: damaged, cut short or of another kind; fetch it again"
_WHITE_IS_ZERO, _PHOTOMETRIC = 0, 262  # TIFF 6.0, PhotometricInterpretation
# The other half of 16-bit colors: Pillow keeps one byte of each, and this raw mode the other one.
_OTHER_BYTE = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGB;16N": "RGB;16B"}


class Stored(NamedTuple):
    """The pixels of one image as its file has them."""

    pixels: np.ndarray  # [H, W], unsigned integers of 8 or 16 bits, or floats
    lossy: bool
    inverted: bool  # the largest value is black
    largest: int  # the largest value that the format can hold


def header(path: str | Path) -> Header:
    """The size and number of frames of an image file; raises Unusable as `stored` does."""
    with opened(path, _FAULT):
        gray_map = _gray_map(path)
        if gray_map is not None:
            shape, frames = gray_map.shape, 1
        else:
            with _image(path) as image:
                shape, frames = (image.height, image.width), getattr(image, "n_frames", 1)
        check(shape, frames)
        return Header(shape, frames)


def stored(path: str | Path, frame: int = 0) -> Stored:
    """The pixels of one frame; three equal colors become one.

    Raises:
      Unusable: damaged, cut short or no image, an absurd size, colors, transparency, NaN, values
        below 0 or beyond 16 bits, or no such frame.
    """
    with opened(path, _FAULT):
        gray_map = _gray_map(path)
        if gray_map is not None:
            check(gray_map.shape, 1, frame)
            return Stored(gray_map.pixels(), False, False, gray_map.largest)
        with _image(path) as image:
            check((image.height, image.width), getattr(image, "n_frames", 1), frame)
            image.seek(frame)
            check((image.height, image.width), 1)  # pages of a TIFF may differ
            return _stored(image)


def read(path: str | Path, frame: int = 0) -> tuple[np.ndarray, Header, tuple[str, ...]]:
    """Gray levels float32 [H, W] in [0, 1], the header, and what was mended; raises Unusable."""
    found = header(path)
    pixels, _, inverted, largest = stored(path, frame)
    top = int(pixels.max())
    if pixels.min() == pixels.max():
        raise Unusable(ONE_LEVEL)
    repaired: tuple[str, ...] = ()
    if largest == 2**16 - 1 and (bits := depth(top, 16)) < 16:
        largest = 2**bits - 1
        repaired = (f"{bits}-bit values in a 16-bit file: scaled by {largest}",)
    image = np.true_divide(pixels, np.float32(largest), dtype=np.float32)
    if inverted:
        np.subtract(1, image, out=image)
    return image, found._replace(shape=image.shape), repaired


def _image(path: str | Path) -> Any:
    from PIL import Image

    try:
        return Image.open(path, formats=_FORMATS)
    except Image.DecompressionBombError:
        raise Unusable(f"says it has too many pixels; allowed are {MAX_SIDE} a side") from None


def _stored(image: Any) -> Stored:
    """The pixels of an open Pillow image at its present frame."""
    lossy = image.format == "JPEG"
    mode = image.mode
    if mode == "F":
        return Stored(_floats(np.asarray(image)), lossy, _white_is_zero(image), 1)
    if mode == "1":
        return Stored(np.asarray(image).astype(np.uint8), lossy, False, 1)
    if mode in ("I", "I;16", "I;16B", "I;16L"):
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() >= 2**16:
            raise Unusable("values below 0 or beyond 16 bits; store them as 0 to 65535")
        return Stored(pixels.astype(np.uint16), lossy, _white_is_zero(image), 2**16 - 1)
    if mode in ("LA", "PA", "RGBA"):
        if image.getchannel("A").getextrema()[0] < 255:
            raise Unusable("has transparent pixels; store it without an alpha channel")
        image = image.convert({"LA": "L"}.get(mode, "RGB"))
    elif mode == "P":
        image = image.convert("RGB")
    if image.mode == "L":
        return Stored(np.array(image), lossy, False, 255)
    if image.mode != "RGB":
        raise Unusable("has colors; a mammogram is gray: store it with one channel")
    if mode == "RGB" and (wide := _wide_colors(image)) is not None:
        return Stored(one_channel(wide), lossy, False, 2**16 - 1)
    return Stored(one_channel(np.asarray(image)), lossy, False, 255)


def _white_is_zero(image: Any) -> bool:
    # Pillow turns such images of up to 8 bits around itself.
    return getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _floats(pixels: np.ndarray) -> np.ndarray:
    if not np.isfinite(pixels).all():
        raise Unusable("has pixels that are no numbers (NaN or infinite); store integers")
    if pixels.min() < 0 or pixels.max() > 1:
        raise Unusable("floating-point values outside 0 to 1; scale them, or store integers")
    return pixels


def _wide_colors(image: Any) -> np.ndarray | None:
    """The colors [H, W, 3] of an unloaded image with 16 bits for each; None where it has 8."""
    tiles = list(image.tile)
    modes = [args if isinstance(args, str) else args[0] for *_, args in tiles]
    if not modes or not set(modes) <= set(_OTHER_BYTE):
        return None
    kept = np.array(image)
    from PIL import Image

    with Image.open(image.filename) as again:
        again.seek(image.tell())
        again.tile = [type(tile)(*tile[:3], _other(tile[3])) for tile in tiles]
        other = np.array(again)
    return kept.astype(np.uint16) << 8 | other


def _other(args: Any) -> Any:
    return _OTHER_BYTE[args] if isinstance(args, str) else (_OTHER_BYTE[args[0]], *args[1:])


class _GrayMap(NamedTuple):
    """A PGM file; Pillow would stretch 10- or 12-bit values to 16 bits, slowly."""

    path: str | Path
    shape: tuple[int, int]
    largest: int
    offset: int
    plain: bool

    def pixels(self) -> np.ndarray:
        """The pixels [H, W]; raises Unusable where some are missing or too large."""
        height, width = self.shape
        count = height * width
        kind = np.dtype(">u2" if self.largest > 255 else "u1")
        if self.plain:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                flat = np.array(file.read().split()[:count]).astype(np.int64)
        else:
            flat = np.fromfile(self.path, kind, count, offset=self.offset)
        if flat.size < count:
            raise Unusable(f"cut short: {flat.size} of {count} pixels are there; fetch it again")
        if flat.max() > self.largest or flat.min() < 0:
            raise Unusable("values beyond the largest one that its header allows; write it anew")
        return flat.astype(kind.newbyteorder("=")).reshape(self.shape)


def _gray_map(path: str | Path) -> _GrayMap | None:
    """The header of a PGM file (plain or binary); None for other kinds of files."""
    with open(path, "rb") as file:
        magic = file.read(2)
        if magic not in (b"P2", b"P5"):
            return None
        width, height, largest = (_number(file) for _ in range(3))
        if not 0 < largest < 2**16:
            raise Unusable("its header has an impossible largest value; write it anew")
        return _GrayMap(path, (height, width), largest, file.tell(), magic == b"P2")


def _number(file: BinaryIO) -> int:
    """The next number of a PGM header; `file` is left behind the one space after it."""
    digits = b""
    while True:
        letter = file.read(1)
        if letter == b"#":  # a comment, up to the end of its line
            file.readline()
            letter = b" "
        if letter.isdigit():
            digits += letter
        elif letter.isspace() and not digits:
            continue
        elif letter.isspace():
            return int(digits)
        else:
            raise Unusable(_FAULT)
