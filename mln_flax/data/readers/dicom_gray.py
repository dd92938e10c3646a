"""Stored DICOM pixels to gray levels in [0, 1]: scaling by tables and windows, inversion."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mln_flax.data.core import Unusable
from mln_flax.data.prepare import borders
from mln_flax.data.readers import dicom_range
from mln_flax.data.readers.dicom_fields import for_processing, text
from mln_flax.data.readers.dicom_range import Extremes, Range
from mln_flax.data.readers.dicom_tables import Scale, modality, shown
from mln_flax.data.readers.header import ONE_LEVEL

_SAMPLES = 500  # of a side that are looked at for a percentile
_ROWS = 256  # looked up at a time: indices take four times the memory of 16-bit pixels


def gray(
    pixels: np.ndarray, dataset: Any, frame: int, moved: bool, every: Callable[[], Extremes]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Gray levels float32 [H, W] in [0, 1], tissue bright as on a screen, and what was mended.

    Sources: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT and windows), C.7.6.3.1.2
    (photometric interpretation), C.7.5.1.1.2 (padding).

    Args:
      pixels: [H, W] integers or floats as stored.
      dataset: the pydicom Dataset.
      frame: which of its frames this is.
      moved: as `dicom_range.lowered` says.
      every: gives the extremes of all frames; called only where it matters.

    Raises:
      Unusable: one gray level, numbers that are none, or more than half of the pixels saturated.
    """
    if pixels.dtype.kind == "f":
        return _of_floats(pixels, dataset, frame)
    padding = dicom_range.padding(pixels, dataset)
    valid = None if padding is None else ~padding
    ends = dicom_range.extremes(pixels, padding)
    bits, allowed = dicom_range.allowed(dataset, moved)
    first, last = np.clip(ends, allowed.low, allowed.high).astype(int).tolist()
    if first >= last:
        raise Unusable(ONE_LEVEL)
    notes: tuple[str, ...] = ("pixels in the upper of their bits: moved down",) if moved else ()
    if ends[0] < allowed.low or ends[1] > allowed.high:
        dicom_range.require_mostly_within(pixels, valid, allowed, bits)
        notes += (f"values outside the {bits} bits stored: clipped",)
    scale = Scale(
        np.arange(first, last + 1),
        allowed.low,
        allowed.high,
        lambda: dicom_range.used((first, last), bits, allowed, dataset, every),
    )
    # All transformations are of single values, so a table of them is all that is computed.
    table, is_windowed, level_notes = _levels(scale, dataset, frame)
    image, turned = _upright(_looked_up(pixels, table, first, last), dataset)
    if is_windowed:
        _require_levels(image, pixels, valid, for_processing(dataset))
    if valid is not None:
        image[~valid] = _beside(image, valid, for_processing(dataset))
    return image, notes + level_notes + turned


def _of_floats(pixels: np.ndarray, dataset: Any, frame: int) -> tuple[np.ndarray, tuple[str, ...]]:
    if not np.isfinite(pixels).all():
        raise Unusable("has pixels that are no numbers (NaN or infinite); export integers")
    if pixels.min() == pixels.max():
        raise Unusable(ONE_LEVEL)
    unknown = Range(-np.inf, np.inf)
    scale, rescaled = modality(Scale(pixels, *unknown[:2], lambda: unknown), dataset, frame)
    image, notes = shown(scale, dataset, frame)
    is_windowed = image is not None
    if image is None:
        if pixels.min() < 0 or pixels.max() > 1:
            raise Unusable("floating-point pixels outside 0 to 1 without a window; export integers")
        image = pixels
    image, turned = _upright(image.astype(np.float32), dataset)
    if is_windowed:
        _require_levels(image, pixels, None, for_processing(dataset))
    return image, rescaled + notes + turned


def _levels(scale: Scale, dataset: Any, frame: int) -> tuple[np.ndarray, bool, tuple[str, ...]]:
    """What each value looks like before inversion, float32 in [0, 1].

    With it, whether a window or a VOI LUT says so, and what was mended.
    """
    scale, rescaled = modality(scale, dataset, frame)
    image, notes = shown(scale, dataset, frame)
    if image is not None:
        return image.astype(np.float32), True, rescaled + notes
    low, high, fitted = scale.used()
    image = np.clip((scale.values - low) / (high - low), 0, 1)
    return image.astype(np.float32), False, rescaled + notes + fitted


def _looked_up(pixels: np.ndarray, table: np.ndarray, first: int, last: int) -> np.ndarray:
    """The entries of a table that stands for the values `first` to `last`, of each pixel [H, W]."""
    image = np.empty(pixels.shape, np.float32)
    for top in range(0, len(pixels), _ROWS):
        rows = slice(top, top + _ROWS)
        image[rows] = table[np.clip(pixels[rows], first, last).astype(np.int32) - first]
    return image


def _upright(image: np.ndarray, dataset: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """The image as a screen shows it: inverted, in place, where small values mean white."""
    photometric = text(dataset, "PhotometricInterpretation").upper()
    shape = text(dataset, "PresentationLUTShape").upper()
    inverted = photometric == "MONOCHROME1"
    notes: tuple[str, ...] = ()
    if shape in ("IDENTITY", "INVERSE") and inverted != (shape == "INVERSE"):
        # DICOM PS3.3 C.8.11.3 forbids it, and which of the two is wrong differs by maker.
        inverted = borders.air_level(image) > 0.5
        notes = (
            f"{photometric} with presentation shape {shape}, which disagree: shown with dark air",
        )
    if inverted:
        np.subtract(1, image, out=image)
    return image, notes


_LEAST_BETWEEN = 0.01  # of the pixels, between black and white


def _require_levels(
    image: np.ndarray, pixels: np.ndarray, valid: np.ndarray | None, raw: bool
) -> None:
    """Raises Unusable where most of an image ends up white, or all black and white, by its window.

    In raw images white may be air; there the other end counts.
    """
    end = 0.0 if raw and borders.air_level(image, valid) > 0.5 else 1.0
    valid = np.ones(image.shape, bool) if valid is None else valid
    gone = (image == end) & valid
    count = np.count_nonzero(valid)
    if 2 * np.count_nonzero(gone) > count and np.ptp(pixels[gone]):
        raise Unusable(
            f"more than half of it is {'white' if end else 'black'} through its window or lookup "
            "table; correct that, or export it without"
        )
    dark, bright = (image == 0) & valid, (image == 1) & valid
    between = count - np.count_nonzero(dark) - np.count_nonzero(bright)
    if between < _LEAST_BETWEEN * count and any(
        np.ptp(pixels[e]) for e in (dark, bright) if e.any()
    ):
        raise Unusable(
            "its window or lookup table leaves little but black and white; correct that, or export "
            "it without"
        )


def _beside(image: np.ndarray, valid: np.ndarray, raw: bool) -> float:
    """The gray level of padding: that of the darkest air, which only in raw images may be bright.

    Not the margin's level, as all that is not breast may be padding.
    """
    thin = (slice(None, None, 1 + len(image) // _SAMPLES),) * 2
    seen = image[thin][valid[thin]]
    dark, bright = np.percentile(seen if seen.size else image[valid], (1, 99))
    if raw and abs(borders.air_level(image, valid) - bright) < (bright - dark) / 2:
        return float(bright)
    return float(dark)
