"""The pixels of an open Pillow image as its file has them, whatever Pillow's mode for it."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mln_flax.data.core import Unusable
from mln_flax.data.readers.header import one_channel

NOT_READ = "{}, a kind that is not read; store it as PNG or TIFF of 8- or 16-bit integers"
_BITS, _PHOTOMETRIC, _PLANES, _FORMAT = 258, 262, 284, 339  # of TIFF 6.0
_WHITE_IS_ZERO, _SIGNED = 0, 2
_LOSSY_TIFF = frozenset({"jpeg", "tiff_jpeg", "webp"})
# Pillow keeps the high byte of 16-bit samples if there are several, and the raw mode of the other
# byte order the low one. Alpha that is multiplied in ("a") is harmless where all is opaque.
_HIGH_FIRST = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_WIDE = frozenset(f"{bands};16" for bands in ("RGB", "RGBA", "RGBa", "RGBX"))
_GRAY_ALPHA = "LA;16B"  # of PNG; its four bytes are read as four 8-bit samples
# EXIF 2.3, table 6: what the first row and column of the pixels are, and how they are turned.
_ORIENTATION = 274
_TURNS: dict[int, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    2: ("mirrored", lambda pixels: pixels[:, ::-1]),
    3: ("turned by 180 degrees", lambda pixels: pixels[::-1, ::-1]),
    4: ("flipped", lambda pixels: pixels[::-1]),
    5: ("transposed", lambda pixels: pixels.T),
    6: ("turned by 90 degrees", lambda pixels: pixels[::-1].T),
    7: ("transposed the other way", lambda pixels: pixels[::-1, ::-1].T),
    8: ("turned by 270 degrees", lambda pixels: pixels.T[::-1]),
}


class Stored(NamedTuple):
    """The pixels of one image as its file has them."""

    pixels: np.ndarray  # [H, W], unsigned integers of 8 or 16 bits, or floats
    lossy: bool
    inverted: bool  # the largest value is black
    largest: int  # the largest value that the format can hold
    turned: tuple[str, ...] = ()  # what its orientation made of it


def shape(image: Any) -> tuple[int, int]:
    """(height, width) of an open image once it is turned; nothing is decoded."""
    size = (image.height, image.width)
    # Pillow gives TIFF the turned size from the beginning.
    return size[::-1] if image.format != "TIFF" and _orientation(image) > 4 else size


def stored(image: Any) -> Stored:
    """The pixels of an open image at its present frame, turned as its EXIF orientation says.

    Raises:
      Unusable: a kind that is not read, colors, transparency, numbers below 0 or beyond 16 bits.
    """
    turn = _orientation(image)  # of TIFF, Pillow turns the pixels and forgets it
    if image.format == "TIFF" and turn > 4:
        # Pillow 13 maps such a file into memory with its sides exchanged, unless it has no name.
        image.filename = ""
    frame = _pixels(image)
    if image.format == "PNG":
        image.load()
        image._exif = None  # it may stand behind the pixels
        turn = _orientation(image)
    if turn == 1:
        return frame
    word, turned = _TURNS[turn]
    if image.format != "TIFF":
        frame = frame._replace(pixels=np.ascontiguousarray(turned(frame.pixels)))
    return frame._replace(turned=(f"{word}, as its EXIF orientation says",))


def _orientation(image: Any) -> int:
    """The EXIF orientation of an open image, 1 (upright) where it has none or none that counts."""
    from PIL import Image

    try:
        # Not image.getexif(), which for PNG decodes the pixels.
        orientation = Image.Image.getexif(image).get(_ORIENTATION)
    except Exception:  # what stands beside pixels may be damaged without any harm to them
        return 1
    return orientation if orientation in _TURNS else 1


def _pixels(image: Any) -> Stored:
    """The pixels of an open image at its present frame, not turned unless Pillow does it."""
    mode, tags = image.mode, getattr(image, "tag_v2", {})
    lossy = image.format in ("JPEG", "MPO") or image.info.get("compression") in _LOSSY_TIFF
    # Pillow turns the values of images of up to 8 bits around itself.
    inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    signed = tags.get(_FORMAT, (1,))[0] == _SIGNED
    if mode == "F":
        return Stored(_floats(np.asarray(image)), lossy, inverted, 1)
    if mode == "1":
        return Stored(np.asarray(image).astype(np.uint8), lossy, False, 1)
    if mode in ("I", "I;16", "I;16B", "I;16L"):
        bits = min(tags.get(_BITS, (16,))[0], 16) - signed
        return Stored(_unsigned(np.asarray(image)), lossy, inverted, 2**bits - 1)
    if mode == "L":
        pixels = np.array(image)
        if signed:  # Pillow passes over the sign
            return Stored(_unsigned(pixels.view(np.int8)).astype(np.uint8), lossy, False, 127)
        return Stored(pixels, lossy, False, 255)
    samples = _wide(image)
    largest = 255 if samples is None else 2**16 - 1
    if samples is None:
        plain = {"La": "LA", "PA": "RGBA", "P": "RGB", "YCbCr": "RGB"}.get(mode, mode)
        if plain not in ("LA", "RGB", "RGBA"):
            raise Unusable("has colors; a mammogram is gray: store it with one channel")
        samples = np.asarray(image if plain == mode else image.convert(plain))
    if samples.shape[-1] in (2, 4) and samples[..., -1].min() < largest:
        raise Unusable("has transparent pixels; store it without an alpha channel")
    gray = samples[..., 0].copy() if samples.shape[-1] == 2 else one_channel(samples)
    return Stored(gray, lossy, False, largest)


def _unsigned(pixels: np.ndarray) -> np.ndarray:
    if pixels.min() < 0 or pixels.max() >= 2**16:
        raise Unusable("values below 0 or beyond 16 bits; store them as 0 to 65535")
    return pixels.astype(np.uint16)


def _floats(pixels: np.ndarray) -> np.ndarray:
    if not np.isfinite(pixels).all():
        raise Unusable("has pixels that are no numbers (NaN or infinite); store integers")
    if pixels.min() < 0 or pixels.max() > 1:
        raise Unusable("floating-point values outside 0 to 1; scale them, or store integers")
    return pixels


def _wide(image: Any) -> np.ndarray | None:
    """The 16-bit samples [H, W, 2, 3 or 4] of an image that is not loaded; None where it has 8.

    Raises:
      Unusable: 16 bits, laid out in a way that Pillow does not tell.
    """
    tags = getattr(image, "tag_v2", {})
    tiles = list(image.tile)
    modes = {args if isinstance(args, str) else args[0] for *_, args in tiles}
    raw = modes.pop() if len(modes) == 1 else ""
    if raw == _GRAY_ALPHA:
        halves = _decoded(image, tiles, "RGBA").astype(np.uint16)
        return halves[..., 0::2] << 8 | halves[..., 1::2]
    if raw[:-1] not in _WIDE or tags.get(_PLANES, 1) != 1:
        if image.mode != "CMYK" and max(tags.get(_BITS, (8,))) > 8:
            raise Unusable(NOT_READ.format("a TIFF of 16-bit samples in separate planes"))
        return None
    low = _decoded(image, tiles, raw[:-1] + _HIGH_FIRST[raw[-1]])
    return np.array(image).astype(np.uint16) << 8 | low


def _decoded(image: Any, tiles: Any, raw: str) -> np.ndarray:
    """An image decoded once more, by another of Pillow's raw modes."""
    from PIL import Image

    with Image.open(image.fp.name) as again:
        again.seek(image.tell())
        again.tile = [
            type(tile)(*tile[:3], raw if isinstance(tile[3], str) else (raw, *tile[3][1:]))
            for tile in tiles
        ]
        return np.array(again)
