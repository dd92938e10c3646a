"""What DICOM puts between stored values and the screen: modality LUT, VOI LUT, windows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mln_flax.data.readers.dicom_fields import commas, holder, numbers, stated, text
from mln_flax.data.readers.dicom_range import Range
from mln_flax.data.readers.header import depth

_WORD = 2**16
_IDLE = 2.0  # times what the values use: a window wider than that, and than all allowed, is none


class Scale(NamedTuple):
    """Values on their way to the screen, and the ranges that they may have and do use."""

    values: np.ndarray
    low: float
    high: float
    used: Callable[[], Range]  # asked for only where it matters, as it may decode other frames


class _Table(NamedTuple):
    first: int  # the value that the first entry stands for
    entries: np.ndarray  # float64
    bits: int


def modality(scale: Scale, dataset: Any, frame: int) -> tuple[Scale, tuple[str, ...]]:
    """The values after the modality LUT or the rescaling, with their ranges, and what was mended.

    Source: DICOM PS3.3 C.11.1.
    """
    notes: tuple[str, ...] = ()
    for item in dataset.get("ModalityLUTSequence") or ():
        table = _table(item, dataset)
        if table is not None:
            return _through(scale, table), notes
        notes = ("an empty modality lookup table: ignored",)
    at = holder(dataset, frame, "RescaleSlope")
    slope = next(iter(numbers(at, "RescaleSlope")), np.nan if stated(at, "RescaleSlope") else 1.0)
    intercept = next(
        iter(numbers(at, "RescaleIntercept")), np.nan if stated(at, "RescaleIntercept") else 0.0
    )
    if not slope or not np.isfinite([slope, intercept]).all():
        return scale, (*notes, "rescale slope and intercept that make no sense: ignored")
    notes += commas(at, "RescaleSlope", "RescaleIntercept")

    def rescaled(limits: Range) -> Range:
        ends = slope * limits.low + intercept, slope * limits.high + intercept
        return Range(min(ends), max(ends), limits.notes)

    low, high, _ = rescaled(Range(scale.low, scale.high))
    return Scale(slope * scale.values + intercept, low, high, lambda: rescaled(scale.used())), notes


def _through(scale: Scale, table: _Table) -> Scale:
    """The values after a modality LUT, with the ranges of its entries."""
    used = _used(table, "modality")
    largest = max(2**table.bits - 1, used.high)  # some hold more than the bits that they name
    return Scale(_looked_up(scale.values, table), 0, largest, lambda: used)


def shown(scale: Scale, dataset: Any, frame: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The values after the first good VOI LUT or else window, in [0, 1], and what was mended.

    None stands for values without either.

    Source: DICOM PS3.3 C.11.2.
    """
    notes: tuple[str, ...] = ()
    at = holder(dataset, frame, "VOILUTSequence")
    for item in at.get("VOILUTSequence") or ():
        table = _table(item, dataset)
        if table is None:
            notes += ("an empty VOI lookup table: ignored",)
            continue
        levels = _looked_up(scale.values, table)
        if levels.min() < levels.max():
            used = _used(table, "VOI")
            return levels / used.high, notes + used.notes
        notes += ("a VOI lookup table that shows nothing: ignored",)
    image, windowed = _windowed(scale, holder(dataset, frame, "WindowWidth"))
    return image, notes + windowed


def _windowed(scale: Scale, at: Any) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The values through the first good window of a data set, and what was mended."""
    centers, widths = numbers(at, "WindowCenter"), numbers(at, "WindowWidth")
    notes = commas(at, "WindowCenter", "WindowWidth")
    if not centers or not widths:
        is_there = stated(at, "WindowCenter") and stated(at, "WindowWidth")
        return None, ("a window that cannot be understood: ignored",) if is_there else ()
    function = text(at, "VOILUTFunction").upper()
    narrowest = 0 if function in ("SIGMOID", "LINEAR_EXACT") else 1
    for center, width in zip(centers, widths, strict=False):
        if np.isfinite([center, width]).all() and width >= max(narrowest, 1e-12):
            image = window(scale.values, center, width, function)
            if image.min() < image.max():
                if not _is_idle(scale, center, width):
                    return image, tuple(dict.fromkeys(notes))
                notes += ("a window that spans far more than the values: ignored",)
                continue
        notes += ("a window that shows nothing: ignored",)
    return None, tuple(dict.fromkeys(notes))


def window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Values seen through a window, as shares of the output range: float64 in [0, 1].

    Source: DICOM PS3.3 C.11.2.1.2 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT).
    """
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if width == 1:  # a step between two stored values
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _is_idle(scale: Scale, center: float, width: float) -> bool:
    """Whether a window only repeats what the header allows, which is far more than is used."""
    slack = 0.01 * width
    if center - width / 2 > scale.low + slack or center + width / 2 < scale.high - slack:
        return False
    low, high, _ = scale.used()
    return width > _IDLE * (high - low)


def _table(item: Any, dataset: Any) -> _Table | None:
    """The lookup table of an item, None for an empty one (DICOM PS3.3 C.11.1.1, C.11.2.1.1)."""
    descriptor, data = numbers(item, "LUTDescriptor"), item.get("LUTData")
    if len(descriptor) != 3 or data is None or data in (b"", ""):
        return None
    count, first, bits = (int(number) for number in descriptor)
    count = count % _WORD or _WORD
    if isinstance(data, bytes):
        little = dataset.original_encoding[1] is not False
        words = np.dtype("<u2" if little else ">u2")
        data = np.frombuffer(data, words if len(data) >= 2 * count else np.uint8)
    # Entries have no sign, whatever the file says of their type.
    entries = np.atleast_1d(np.asarray(data, np.int64))[:count] % _WORD
    if not entries.size:
        return None
    return _Table(first, entries.astype(np.float64), min(max(bits, 0), 16))


def _looked_up(values: np.ndarray, table: _Table) -> np.ndarray:
    """The entries of a lookup table for values; those beyond it get its first or last entry."""
    low, high = float(values.min()), float(values.max())
    last = len(table.entries) - 1
    # Read with the wrong sign where the file leaves the type of the first value open.
    signs = (table.first, table.first - _WORD, table.first + _WORD)
    first = next((f for f in signs if f <= high and f + last >= low), table.first)
    index = np.round(values).astype(np.int64) - first
    return table.entries[np.clip(index, 0, last)]


def _used(table: _Table, kind: str) -> Range:
    """From 0 to the largest value that the entries of a table may be meant to reach."""
    largest = int(table.entries.max())
    bits = depth(largest, 16) if table.bits == 16 else table.bits
    note = f"a {kind} lookup table of 16 bits with {bits}-bit entries: scaled by {2**bits - 1}"
    return Range(0, max(2**bits - 1, largest), (note,) if bits < table.bits else ())
