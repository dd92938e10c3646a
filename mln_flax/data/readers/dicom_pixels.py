"""The stored pixels of DICOM files: decoded by whatever can, and refused where some are missing."""

import os
import struct
from typing import Any, BinaryIO

import numpy as np

from mln_flax.data.core import Unusable
from mln_flax.data.readers import dicom_range, dicom_segments
from mln_flax.data.readers.dicom_fields import frames, text, whole

FAULT = "cannot be read as DICOM: damaged, cut short or of another kind; fetch it again"
_CUT_SHORT = "cut short: pixels are missing at its end; fetch it again"
NO_PIXELS = "a DICOM file without pixels, or cut short before them; fetch it again"
_PIXELS = {(0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010)}  # float, double, integer
_ITEM = (0xFFFE, 0xE000)  # DICOM PS3.5 A.4
# Damaged JPEG 2000, baseline JPEG and JPEG-LS can make gdcm end the whole process, so it is last.
_SAFEST = ("pydicom", "pillow", "pyjpegls", "pylibjpeg", "gdcm")
_UNTIL_END = 0xFFFFFFFF
LOSSY = frozenset(
    f"1.2.840.10008.1.2.4.{number}" for number in ("50", "51", "81", "91", "93", "203")
)
# Of JPEG: the markers of a frame header, JPEG-LS's last.
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}


def require_pixels(file: BinaryIO, dataset: Any) -> None:
    """Raises Unusable where pixels are missing; `file` goes from its data set to their value.

    Decoders fill up what is missing, some of them silently.
    """
    from pydicom.pixels.utils import get_expected_length

    if "PixelData" in dataset:  # read whole, as a deflated file must be
        return
    little, explicit = _encoding(dataset)
    order = "<" if little else ">"
    head = file.read(12 if explicit else 8)
    if len(head) < (12 if explicit else 8) or struct.unpack(f"{order}HH", head[:4]) not in _PIXELS:
        raise Unusable(NO_PIXELS)
    length = struct.unpack(f"{order}L", head[-4:])[0]
    start, size = file.tell(), os.fstat(file.fileno()).st_size
    if length == _UNTIL_END:
        _require_fragments(file, size, frames(dataset))
        file.seek(start)
    elif min(length, size - file.tell()) < get_expected_length(dataset):
        raise Unusable(_CUT_SHORT)


def _require_fragments(file: BinaryIO, size: int, least: int) -> None:
    """Raises Unusable where compressed pixels end too early (DICOM PS3.5 A.4)."""
    count = -1  # the first item is the table of offsets
    while len(head := file.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", head)
        if (group, element) != _ITEM:
            break
        count += 1
        if file.tell() + length > size:
            raise Unusable(_CUT_SHORT)
        file.seek(length, os.SEEK_CUR)
    if count < least:
        raise Unusable(_CUT_SHORT)


def decoded(file: BinaryIO, dataset: Any, frame: int) -> np.ndarray:
    """The pixels of one frame: [H, W], or [H, W, 3] for colors."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import pixel_array

    syntax = syntax_of(dataset)
    decoder = _decoder(syntax)
    if decoder == "gdcm":
        _require_jpeg(get_frame(file, frame, number_of_frames=frames(dataset)), dataset)
    palette = text(dataset, "PhotometricInterpretation").upper() == "PALETTE COLOR"
    if palette and not dicom_segments.is_segmentation(dataset):  # theirs colors the segments
        raise Unusable("has palette colors; a mammogram is gray: export it as MONOCHROME2")
    # Values beyond the stored bits are clipped later, unless other things are stored there.
    cut = bool(whole(dataset, "PixelRepresentation")) or has_overlay(dataset)
    cut &= not dicom_range.lifted_by(dataset)
    source = dataset if "PixelData" in dataset else file
    # pydicom 3.0 loses the last bits of a frame that begins within a byte.
    apart = whole(dataset, "BitsAllocated") > 1 or frames(dataset) == 1
    try:
        pixels = pixel_array(
            source,
            index=frame if apart else None,
            decoding_plugin=decoder,
            transfer_syntax_uid=syntax,
            correct_unused_bits=cut,
        )
    except Exception:  # each decoder has its own; none is for the user
        raise Unusable(
            f"pixels in {syntax.name} that cannot be decoded: damaged, or of a kind that the "
            "decoder lacks; fetch it again or export it uncompressed"
        ) from None
    if not apart:
        pixels = pixels[frame]
    if pixels.dtype.kind != "f" and pixels.itemsize > 2:
        raise Unusable(f"{8 * pixels.itemsize} bits a pixel; allowed are up to 16")
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _decoder(syntax: Any) -> str:
    """The name of pydicom's plugin for a transfer syntax, empty where none is needed.

    Raises:
      Unusable: there is none, for the transfer syntax by its standard name.
    """
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        name = syntax.name if syntax.is_transfer_syntax else "a transfer syntax of its maker's own"
        raise Unusable(
            f"pixels in {name}, which cannot be decoded; export it uncompressed or as JPEG 2000"
        ) from None
    if not decoder.is_available:
        raise Unusable(f"pixels in {syntax.name}; to decode it: pip install python-gdcm")
    if not syntax.is_encapsulated:
        return ""
    _silence_gdcm()
    return min(decoder.available_plugins, key=_SAFEST.index)


def _require_jpeg(stream: bytes, dataset: Any) -> None:
    """Raises Unusable for a JPEG whose header is damaged or of another size than the image.

    At some of them gdcm ends the whole process. Other kinds of streams pass.

    Sources: ITU-T T.81, B.2; T.87, C.1 (JPEG-LS).
    """
    if stream[:2] != b"\xff\xd8":
        return
    at, sized = 2, False
    wanted = (whole(dataset, "Rows"), whole(dataset, "Columns"), whole(dataset, "SamplesPerPixel"))
    while True:
        mark, kind, length = struct.unpack_from(">BBH", stream, at)
        if mark != 0xFF or length < 2:
            raise Unusable(FAULT)
        if kind == 0xDA:  # the pixels begin
            break
        if kind in _FRAME_HEADERS:
            bits, *size = struct.unpack_from(">BHHB", stream, at + 4)
            sized = tuple(size) == wanted and bits <= whole(dataset, "BitsAllocated")
        at += 2 + length
    if not sized:
        raise Unusable(FAULT)


def _silence_gdcm() -> None:
    """What gdcm prints goes past the streams of Python, so it is told not to."""
    try:
        import gdcm
    except ImportError:
        return
    gdcm.Trace.DebugOff()
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()


def has_overlay(dataset: Any) -> bool:
    """Whether drawings are stored in the bits above the pixels, as in old files."""
    return any(
        0x6000 <= tag.group < 0x6100 and tag.elem == 0x0102 and bool(dataset[tag].value)
        for tag in dataset.keys()
    )


def _encoding(dataset: Any) -> tuple[bool, bool]:
    """Whether the data set is little endian, and whether it names the types of its fields."""
    implicit, little = dataset.original_encoding
    return bool(little), not implicit


def syntax_of(dataset: Any) -> Any:
    """The transfer syntax; of a file that names none, the one that it was read by."""
    from pydicom import uid

    named = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if named:
        return uid.UID(named)
    little, explicit = _encoding(dataset)
    if not explicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
