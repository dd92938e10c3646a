"""Mammograms as DICOM: one frame's stored pixels, and its gray levels in [0, 1]."""

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mln_flax.data.core import Unusable
from mln_flax.data.prepare import borders
from mln_flax.data.readers import dicom_pixels, dicom_range, dicom_segments
from mln_flax.data.readers.dicom_fields import frames, header_of, spacing, text, whole
from mln_flax.data.readers.dicom_gray import gray
from mln_flax.data.readers.dicom_range import Extremes
from mln_flax.data.readers.header import Header, check, one_channel, opened
from mln_flax.data.readers.masks import SEVERAL_IMAGES, Page

SUFFIXES = frozenset({".dcm", ".dicom"})


class Stored(NamedTuple):
    """The pixels of one frame as its file has them, with the file's data set."""

    pixels: np.ndarray  # [H, W], integers, or floats
    moved: bool  # they are stored in the upper of their bits, and were moved down
    lossy: bool
    inverted: bool  # the largest value is black
    dataset: Any  # pydicom's, without the pixels


def has_magic(path: str | Path) -> bool:
    """Whether a file says at its beginning that it is DICOM (PS3.10, 7.1)."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def header(path: str | Path) -> Header:
    """What the file says of its image; raises Unusable as `stored` does, but for the decoding."""
    with opened(path, dicom_pixels.FAULT), open(path, "rb") as file:
        dataset = _open(file)
        dicom_pixels.require_pixels(file, dataset)
        return _checked_header(dataset, 0)


def stored(path: str | Path, frame: int = 0) -> Stored:
    """The pixels of one frame, as stored; no other frame is decoded.

    Raises:
      Unusable: damaged, cut short or not DICOM, no pixels, an absurd size, a transfer syntax that
        cannot be decoded, colors, more than 16 bits, or no such frame.
    """
    with opened(path, dicom_pixels.FAULT), open(path, "rb") as file:
        dataset = _open(file)
        _checked_header(dataset, frame)
        dicom_pixels.require_pixels(file, dataset)
        pixels, moved = dicom_range.lowered(
            dicom_pixels.decoded(file, dataset, frame), dataset, dicom_pixels.has_overlay(dataset)
        )
        if pixels.ndim == 3:
            pixels = one_channel(pixels)
        if pixels.shape != (whole(dataset, "Rows"), whole(dataset, "Columns")):
            raise Unusable(dicom_pixels.FAULT)
        lossy = dicom_pixels.syntax_of(dataset) in dicom_pixels.LOSSY
        lossy |= text(dataset, "LossyImageCompression") == "01"
        inverted = text(dataset, "PhotometricInterpretation").upper() == "MONOCHROME1"
        return Stored(pixels, moved, lossy, inverted, dataset)


def read(path: str | Path, frame: int = 0) -> tuple[np.ndarray, Header, tuple[str, ...]]:
    """Gray levels float32 [H, W] in [0, 1], the header, and what was mended.

    Raises:
      Unusable: as `stored`, or one gray level, numbers that are none, or half of it saturated.
    """
    pixels, moved, _, _, dataset = stored(path, frame)
    with opened(path, dicom_pixels.FAULT):
        image_header = header_of(dataset, frame)
        every = partial(_extremes, path, os.stat(path).st_mtime_ns, image_header.frames)
        image, notes = gray(pixels, dataset, frame, moved, every)
        notes += spacing(dataset, frame)[1]
        if text(dataset, "BurnedInAnnotation").upper() == "YES":
            image = borders.without_text(image, image_header.spacing_mm)
            notes += ("burnt-in text: everything outside the breast replaced by air",)
        return image, image_header, notes


def mask_pages(path: str | Path, volume: bool) -> Iterator[Page]:
    """The frames of a mask file, which all show one image.

    Args:
      path: of the file.
      volume: the mask is that of one frame of a volume: several frames must say which one.

    Raises:
      Unusable: as `stored`; frames that are not sure to show one image; segments of several kinds
        or of fractions.
    """
    number, count = 0, 1
    while number < count:
        pixels, _, lossy, inverted, dataset = stored(path, number)
        if not number:
            with opened(path, dicom_pixels.FAULT):
                count = frames(dataset)
                dicom_segments.require_one_image(dataset)
                if count > 1 and volume and not dicom_segments.refers_to_one_image(dataset):
                    raise Unusable(SEVERAL_IMAGES)
        if dicom_segments.is_segmentation(dataset):
            with opened(path, dicom_pixels.FAULT):
                pixels, inverted = dicom_segments.label(pixels, dataset, number), False
        yield Page(pixels, lossy, inverted)
        number += 1


@lru_cache(maxsize=8)  # else each frame of a volume would have all others decoded again
def _extremes(path: str | Path, stamp: int, count: int) -> Extremes:
    """The smallest and largest pixel of all frames that can be read; `stamp` tells files apart."""
    ranges = []
    for number in range(count):
        with suppress(Unusable):
            pixels, *_, dataset = stored(path, number)
            padding = dicom_range.padding(pixels, dataset)
            ranges.append(dicom_range.extremes(pixels, padding))
    ranges = [(low, high) for low, high in ranges if low <= high]  # not all padding
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _open(file: BinaryIO) -> Any:
    """The data set up to its pixels, where `file` is left."""
    from pydicom import dcmread
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    # Forced, as old files lack the magic word; those that are no DICOM have no rows.
    dataset = dcmread(file, stop_before_pixels=True, force=True)
    if dicom_pixels.syntax_of(dataset) == DeflatedExplicitVRLittleEndian:
        file.seek(0)
        dataset = dcmread(file, force=True)
    return dataset


def _checked_header(dataset: Any, frame: int) -> Header:
    """The header of a data set with an image of a possible size; raises Unusable for others."""
    if "Rows" not in dataset or "Columns" not in dataset:
        raise Unusable(dicom_pixels.NO_PIXELS if "SOPClassUID" in dataset else dicom_pixels.FAULT)
    image_header = header_of(dataset, frame)
    check(image_header.shape, image_header.frames, frame)
    return image_header
