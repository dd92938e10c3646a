"""How many bits of a gray PNG matter, which Pillow does not tell."""

import struct
from pathlib import Path

_MAGIC = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS = 64  # before the pixels; files have a handful


def uses_all(path: str | Path) -> bool:
    """Whether a file is a gray PNG of 16 bits that says that all of them matter.

    Source: PNG 5.3 (chunks), 11.2.1 (IHDR), 11.3.2.7 (sBIT).
    """
    with open(path, "rb") as file:
        if file.read(8) != _MAGIC:
            return False
        for _ in range(_MOST_CHUNKS):
            head = file.read(8)
            if len(head) < 8:
                return False
            length, kind = struct.unpack(">I4s", head)
            if kind == b"sBIT":
                return length == 1 and file.read(1) == b"\x10"
            if kind in (b"PLTE", b"IDAT"):  # it would stand before them
                return False
            file.seek(length + 4, 1)
    return False
