"""PGM files, plain and binary; Pillow would stretch 10- or 12-bit values to 16 bits, slowly."""

from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from mln_flax.data.core import Unusable

_FAULT = "a PGM file whose header cannot be understood: damaged or cut short; fetch it again"


class GrayMap(NamedTuple):
    """A PGM file, of which the header is read."""

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


def open_gray_map(path: str | Path) -> GrayMap | None:
    """The header of a PGM file (plain or binary); None for other kinds of files."""
    with open(path, "rb") as file:
        magic = file.read(2)
        if magic not in (b"P2", b"P5"):
            return None
        width, height, largest = (_number(file) for _ in range(3))
        if not 0 < largest < 2**16:
            raise Unusable("its header has an impossible largest value; write it anew")
        return GrayMap(path, (height, width), largest, file.tell(), magic == b"P2")


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
