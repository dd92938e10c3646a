"""Kinds of image files that are whole, but not read: what they are called."""

import struct
from pathlib import Path
from typing import BinaryIO

# At which byte a file of a kind begins with what.
_MAGIC = (
    (8, b"WEBP", "a WebP file"),
    (4, b"jP  \r\n", "a JPEG 2000 file"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (4, b"JXL \r\n", "a JPEG XL file"),
    (0, b"\xff\x0a", "a JPEG XL file"),
    (0, b"II\xbc", "a JPEG XR file"),
    (4, b"ftyp", "a HEIF or AVIF file"),
    (0, b"GIF8", "a GIF file"),
    (0, b"P7", "a PAM file"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%PDF", "a PDF file"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR file"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\x93NUMPY", "a NumPy file"),
    (0, b"NRRD", "an NRRD file"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"PK\x03\x04", "a zip file"),
)
_NUMBERS = {1: "integers", 2: "signed integers", 3: "floating-point numbers"}  # TIFF 6.0, p. 80
# Of JPEG: what Pillow decodes (baseline, extended, progressive; Huffman or arithmetic, T.81 B.1).
_DECODED = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
_JPEG_LS = 0xF7
_NO_FRAME_HEADERS = (0xC4, 0xC8, 0xCC)


def unread(path: str | Path) -> str:
    """What a file is, where its kind is not read; "" where it is damaged or of no known kind."""
    with open(path, "rb") as file:
        head = file.read(64)
        for at, magic, name in _MAGIC:
            if head[at:].startswith(magic):
                return name
        if head.startswith(b"\xff\xd8"):
            return _jpeg(file)
        if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
            return _tiff(file, head)
        if head.startswith(b"BM"):
            return _bmp(file, head)
    return ""


def _jpeg(file: BinaryIO) -> str:
    """The kind of a JPEG by its frame header (ITU-T T.81 B.2, T.87 C.1)."""
    file.seek(2)
    while len(mark := file.read(4)) == 4:
        prefix, kind, length = struct.unpack(">BBH", mark)
        if prefix != 0xFF or length < 2:
            return ""
        if kind == _JPEG_LS:
            return "a JPEG-LS file"
        if 0xC0 <= kind <= 0xCF and kind not in _NO_FRAME_HEADERS:
            bits = file.read(1)[:1]
            if kind in _LOSSLESS:
                return "a lossless JPEG"
            if bits not in (b"", b"\x08"):
                return f"a JPEG of {bits[0]} bits"
            return "" if kind in _DECODED else "a hierarchical JPEG"
        file.seek(length - 2, 1)
    return ""


def _tiff(file: BinaryIO, head: bytes) -> str:
    """What the numbers of the first page of a TIFF are for which Pillow knows no mode."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

    tags = ImageFileDirectory_v2(head[: 16 if b"+" in head[2:4] else 8])
    page = 0
    try:
        with TiffImageFile(file.name) as image:
            while True:
                image.seek(page)
                page += 1
    except EOFError:
        return ""  # it knows all pages, so that it is their pixels that cannot be read
    except Exception:  # whatever it is, the page's own fields say whether they are whole
        for _ in range(page + 1):
            file.seek(tags.next)
            tags.load(file)
    offsets = tags.get(273) or tags.get(324)
    if not (tags.get(256) and tags.get(257) and offsets):
        return ""
    bits, kinds = tags.get(258, (1,)), tags.get(339, (1,))
    count = tags.get(277, 1)
    compression = tags.get(259, 1)
    return (
        f"a TIFF of {count} x {bits[0]}-bit {_NUMBERS.get(kinds[0], 'numbers')} "
        f"(photometric interpretation {tags.get(262, 0)}, compression {compression}, "
        f"planes {tags.get(284, 1)})"
    )


def _bmp(file: BinaryIO, head: bytes) -> str:
    """The depth of a BMP whose header Pillow does not understand."""
    from PIL.BmpImagePlugin import BmpImageFile

    try:
        BmpImageFile(file.name).close()
        return ""
    except Exception:  # as above
        if len(head) < 54:
            return ""
    bits, compression = struct.unpack("<HL", head[28:34])
    return f"a BMP of {bits} bits with compression {compression}"
