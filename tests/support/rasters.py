"""Small image files for tests that Pillow cannot write: PNG and TIFF with 16-bit samples."""

import struct
import zlib

import numpy as np

_COLOR_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}  # of PNG, by samples


def png(path, samples, late=b""):
    """The path of a 16-bit PNG of samples [H, W] or [H, W, n] (PNG, chapter 5).

    `late` are chunks that stand behind the pixels.
    """
    height, width, *count = samples.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in samples)
    kind = _COLOR_TYPES[count[0] if count else 1]
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + late
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))
    return path


def chunk(kind, data):
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(path, samples, order="<", big=False, **tags):
    """The path of an uncompressed TIFF of samples [H, W] or [H, W, n] (TIFF 6.0; big: BigTIFF).

    Tags are named t258 and so on, and are short numbers.
    """
    height, width, *count = samples.shape
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    data += bytes(len(data) % 2)
    first = 16 if big else 8
    known = {256: width, 257: height, 258: [8 * samples.itemsize] * (count[0] if count else 1)}
    known |= {259: 1, 262: 2 if count and count[0] > 2 else 1, 273: first, 278: height}
    known |= {277: count[0] if count else 1, 279: len(data)}
    known |= {int(name[1:]): value for name, value in tags.items()}
    fields = b""
    beyond = first + len(data)  # where values lie that do not fit into their field
    extra = b""
    space, long = (8, "Q") if big else (4, "L")
    for tag, value in sorted(known.items()):
        numbers = value if isinstance(value, list) else [value]
        short = tag not in (273, 279)
        raw = struct.pack(f"{order}{len(numbers)}{'H' if short else 'L'}", *numbers)
        if len(raw) > space:
            raw, extra = struct.pack(order + long, beyond + len(extra)), extra + raw
        fields += struct.pack(f"{order}HH{long}", tag, 3 if short else 4, len(numbers))
        fields += raw.ljust(space, b"\0")
    place = beyond + len(extra)
    magic = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", 43 if big else 42)
    head = magic + struct.pack(order + "HHQ", 8, 0, place) if big else magic
    head += b"" if big else struct.pack(order + "L", place)
    entries = struct.pack(order + ("Q" if big else "H"), len(known)) + fields
    path.write_bytes(head + data + extra + entries + bytes(space))
    return path


def jpeg_head(path, marker, bits):
    """The path of a file that begins as a JPEG of a kind (of its frame header) and a depth."""
    frame = struct.pack(">BBHBHHBBBB", 0xFF, marker, 11, bits, 8, 8, 1, 1, 0x11, 0)
    comment = struct.pack(">BBH", 0xFF, 0xFE, 4) + b"ab"
    path.write_bytes(b"\xff\xd8" + comment + frame + b"\xff\xda\0\2" + bytes(40))
    return path


def ramp(bits, shape=(60, 50)):
    """A noisy ramp over all values of so many bits."""
    levels = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) / (sum(shape) - 2)
    noise = np.random.default_rng(0).uniform(-0.02, 0.02, shape)
    levels = np.round((levels + noise).clip(0, 1) * (2**bits - 1))
    return levels.astype(np.uint8 if bits <= 8 else np.uint16)
