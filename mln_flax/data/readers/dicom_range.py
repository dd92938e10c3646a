"""Which values DICOM pixels may have, and which they use: what a header says of both may be wrong.

Sources: DICOM PS3.5 8.1.1 (bits allocated, bits stored, high bit).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mln_flax.data.core import Unusable
from mln_flax.data.readers.dicom_fields import frames, numbers, whole
from mln_flax.data.readers.header import depth

_WIDE = 16  # bits: what writers say that look at the words and not at the values in them

Extremes = tuple[int, int]  # the smallest and the largest value


class Range(NamedTuple):
    """The smallest and largest value that something may have, and what had to be mended."""

    low: float
    high: float
    notes: tuple[str, ...] = ()


def bits_stored(dataset: Any) -> int:
    """How many bits of a pixel hold its value."""
    return whole(dataset, "BitsStored") or whole(dataset, "BitsAllocated")


def lifted_by(dataset: Any) -> int:
    """How many bits the header lifts integers above the lowest one, as old files do; 0 for none."""
    allocated = whole(dataset, "BitsAllocated")
    return max(0, min(whole(dataset, "HighBit") + 1, allocated) - bits_stored(dataset))


def lowered(pixels: np.ndarray, dataset: Any, overlaid: bool) -> tuple[np.ndarray, bool]:
    """Pixels with their lowest bit at the bottom, and whether they had to be moved there.

    Some files say that they are lifted and are not: then something stands in the lowest bits.

    Args:
      pixels: [H, W] as stored.
      dataset: the pydicom Dataset.
      overlaid: drawings are stored in the bits beside the pixels.
    """
    by = lifted_by(dataset)
    if not by or pixels.dtype.kind == "f":
        return pixels, False
    if overlaid or not (pixels & (2**by - 1)).any():
        return pixels >> by, True
    bits = bits_stored(dataset)
    if pixels.dtype.kind == "i" and pixels.min() >= 0 and pixels.max() < 2**bits:
        above = 8 * pixels.itemsize - bits  # the sign is the highest of the stored bits alone
        return pixels << above >> above, False
    return pixels, False


def allowed(dataset: Any, moved: bool) -> tuple[int, Range]:
    """The bits of a value, and the range that they can hold, as the header says.

    Args:
      dataset: the pydicom Dataset.
      moved: the pixels were lifted, and are no more.
    """
    bits = bits_stored(dataset) + (0 if moved else lifted_by(dataset))
    if whole(dataset, "PixelRepresentation"):
        return bits, Range(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return bits, Range(0, 2**bits - 1)


def used(
    ends: Extremes, bits: int, limits: Range, dataset: Any, every: Callable[[], Extremes]
) -> Range:
    """The part of the allowed range that the pixels use, in steps of whole depths.

    Args:
      ends: the extremes of the frame.
      bits: of a value, as the header says.
      limits: the range that they can hold.
      dataset: the pydicom Dataset.
      every: gives the extremes of all frames; called only where it matters.
    """
    if bits == bits_stored(dataset) < _WIDE:
        return limits
    least = bits_stored(dataset) if bits > bits_stored(dataset) else 0
    fitted = max(least, _depth(ends, bits, limits.low < 0))
    if fitted < bits and frames(dataset) > 1:
        ends = min(ends[0], every()[0]), max(ends[1], every()[1])
        fitted = max(least, _depth(ends, bits, limits.low < 0))
    if fitted == bits:
        return limits
    note = f"{fitted}-bit values in {bits} bits stored: scaled "
    if ends[0] < 0:
        low, high = -(2 ** (fitted - 1)), 2 ** (fitted - 1) - 1
        return Range(low, high, (f"{note}from {low} to {high}",))
    return Range(0, 2**fitted - 1, (f"{note}by {2**fitted - 1}",))


def _depth(extremes: Extremes, bits: int, signed: bool) -> int:
    """The bits that the values need, the sign among them only where there is a negative one."""
    low, high = extremes
    if not signed or low >= 0:
        return depth(high, bits - signed)
    return depth(2 * max(high, -1 - low) + 1, bits)


def require_mostly_within(
    pixels: np.ndarray, valid: np.ndarray | None, limits: Range, bits: int
) -> None:
    """Raises Unusable where more than half of the pixels lie outside what the bits can hold."""
    beyond = (pixels < limits.low) | (pixels > limits.high)
    if valid is not None:
        beyond &= valid
    if 2 * np.count_nonzero(beyond) > (pixels.size if valid is None else valid.sum()):
        raise Unusable(
            f"more than half of its pixels lie outside the {bits} bits that its header says; "
            "correct BitsStored, or export it again"
        )


def padding(pixels: np.ndarray, dataset: Any) -> np.ndarray | None:
    """Where the file says that there is no image, bool [H, W], or None."""
    values = numbers(dataset, "PixelPaddingValue")[:1]
    if not values:
        return None
    values += numbers(dataset, "PixelPaddingRangeLimit")[:1]
    # Read with the wrong sign where the file leaves the field's type open.
    wrap = 2 ** (8 * pixels.itemsize)
    limits = np.iinfo(pixels.dtype)
    ends = [
        value - wrap if value > limits.max else value + wrap if value < limits.min else value
        for value in values
    ]
    padded = (pixels >= min(ends)) & (pixels <= max(ends))
    return padded if padded.any() else None


def extremes(pixels: np.ndarray, padded: np.ndarray | None) -> Extremes:
    """The smallest and largest pixel; of nothing but padding, the largest comes first."""
    if padded is None:
        return int(pixels.min()), int(pixels.max())
    limits = np.iinfo(pixels.dtype)
    return (
        int(pixels.min(where=~padded, initial=limits.max)),
        int(pixels.max(where=~padded, initial=limits.min)),
    )
