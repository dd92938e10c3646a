"""Stored DICOM pixels to gray levels in [0, 1]: modality LUT, VOI LUT or window, inversion."""

from typing import Any, NamedTuple

import numpy as np

from mln_flax.data.core import Unusable
from mln_flax.data.prepare import borders
from mln_flax.data.readers.dicom_fields import for_processing, frames, holder, numbers, text, whole
from mln_flax.data.readers.header import ONE_LEVEL, depth

_SAMPLES = 500  # of a side that are looked at for a percentile
_ROWS = 256  # looked up at a time: indices take four times the memory of 16-bit pixels


class Scale(NamedTuple):
    """Values on their way to the screen, and the range that they may have."""

    values: np.ndarray  # float64
    low: float
    high: float


def gray(pixels: np.ndarray, dataset: Any, frame: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Gray levels float32 [H, W] in [0, 1], tissue bright as on a screen, and what was mended.

    Sources: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT and windows), C.7.6.3.1.2
    (photometric interpretation), C.7.5.1.1.2 (padding).

    Args:
      pixels: [H, W] integers or floats as stored.
      dataset: the pydicom Dataset.
      frame: which of its frames this is.

    Raises:
      Unusable: one gray level, or numbers that are none.
    """
    if pixels.dtype.kind == "f":
        return _of_floats(pixels, dataset, frame)
    padding = _padding(pixels, dataset)
    darkest, brightest = _extremes(pixels, padding)
    low, high, notes = _stored_range(darkest, brightest, dataset)
    first, last = np.clip((darkest, brightest), low, high).tolist()
    if first >= last:
        raise Unusable(ONE_LEVEL)
    # All transformations are of single values, so a table of them is all that is computed.
    table, found = _levels(np.arange(first, last + 1), (low, high), dataset, frame)
    image = np.empty(pixels.shape, np.float32)
    for top in range(0, len(pixels), _ROWS):
        rows = slice(top, top + _ROWS)
        image[rows] = table[np.clip(pixels[rows], first, last).astype(np.int32) - first]
    image, turned = _upright(image, dataset)
    if padding is not None:
        image[padding] = _beside(image, ~padding, for_processing(dataset))
    return image, notes + found + turned


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


def _of_floats(pixels: np.ndarray, dataset: Any, frame: int) -> tuple[np.ndarray, tuple[str, ...]]:
    if not np.isfinite(pixels).all():
        raise Unusable("has pixels that are no numbers (NaN or infinite); export integers")
    if pixels.min() == pixels.max():
        raise Unusable(ONE_LEVEL)
    shown, notes = _windowed(_modality(Scale(pixels, 0.0, 1.0), dataset, frame)[0], dataset, frame)
    if shown is None:
        if pixels.min() < 0 or pixels.max() > 1:
            raise Unusable("floating-point pixels outside 0 to 1 without a window; export integers")
        shown = pixels
    image, turned = _upright(shown.astype(np.float32), dataset)
    return image, notes + turned


def _levels(
    values: np.ndarray, stored_range: tuple[int, int], dataset: Any, frame: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """What each stored value looks like before inversion, float32 in [0, 1]."""
    scale, notes = _modality(Scale(values, *stored_range), dataset, frame)
    shown, found = _windowed(scale, dataset, frame)
    if shown is None:
        shown = np.clip((scale.values - scale.low) / (scale.high - scale.low), 0, 1)
    return shown.astype(np.float32), notes + found


def _modality(scale: Scale, dataset: Any, frame: int) -> tuple[Scale, tuple[str, ...]]:
    """The values after the modality LUT or the rescaling, with their possible range."""
    if dataset.get("ModalityLUTSequence"):
        return _looked_up(scale.values, dataset.ModalityLUTSequence[0], dataset), ()
    at = holder(dataset, frame, "RescaleSlope")
    slope = next(iter(numbers(at, "RescaleSlope")), 1.0)
    intercept = next(iter(numbers(at, "RescaleIntercept")), 0.0)
    if not slope or not np.isfinite([slope, intercept]).all():
        return scale, ("rescale slope and intercept that make no sense: ignored",)
    low, high = sorted(slope * value + intercept for value in scale[1:])
    return Scale(slope * scale.values + intercept, low, high), ()


def _windowed(scale: Scale, dataset: Any, frame: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The values after the first VOI LUT or else the first window, in [0, 1]; None without."""
    at = holder(dataset, frame, "VOILUTSequence")
    if at.get("VOILUTSequence"):
        found = _looked_up(scale.values, at.VOILUTSequence[0], dataset)
        if found.values.min() == found.values.max():
            return None, ("a VOI lookup table that shows nothing: ignored",)
        return found.values / found.high, ()
    at = holder(dataset, frame, "WindowWidth")
    centers, widths = numbers(at, "WindowCenter"), numbers(at, "WindowWidth")
    if not centers or not widths:
        return None, ()
    function = text(at, "VOILUTFunction").upper()
    narrowest = 0 if function in ("SIGMOID", "LINEAR_EXACT") else 1
    shown = None
    if np.isfinite([centers[0], widths[0]]).all() and widths[0] >= max(narrowest, 1e-12):
        shown = window(scale.values, centers[0], widths[0], function)
    if shown is None or shown.min() == shown.max():
        return None, ("a window that shows nothing: ignored",)
    return shown, ()


def _looked_up(values: np.ndarray, item: Any, dataset: Any) -> Scale:
    """The values after a lookup table, with its possible range (DICOM PS3.3 C.11.1.1, C.11.2.1.1).

    Args:
      values: [n].
      item: of the modality LUT or VOI LUT sequence.
      dataset: to which it belongs.
    """
    count, first, bits = (int(number) for number in numbers(item, "LUTDescriptor"))
    count = count % 2**16 or 2**16
    if whole(dataset, "PixelRepresentation") and first >= 2**15:
        first -= 2**16  # read with the wrong sign, as files may leave the field's type open
    data = item.LUTData
    if isinstance(data, bytes):
        little = dataset.original_encoding[1] is not False
        wide = np.dtype("<u2" if little else ">u2")
        data = np.frombuffer(data, wide if len(data) >= 2 * count else np.uint8)
    table = np.asarray(data, np.float64)[:count]
    found = table[np.clip(np.round(values).astype(np.int64) - first, 0, len(table) - 1)]
    # Some tables hold more than the bits that they name.
    return Scale(found, 0, max(2**bits - 1, table.max()))


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


def _beside(image: np.ndarray, valid: np.ndarray, raw: bool) -> float:
    """The gray level of padding: that of the darkest air, which only in raw images may be bright.

    Not the margin's level, as all that is not breast may be padding.
    """
    thin = (slice(None, None, 1 + len(image) // _SAMPLES),) * 2
    dark, bright = np.percentile(image[thin][valid[thin]], (1, 99))
    if raw and abs(borders.air_level(image, valid) - bright) < (bright - dark) / 2:
        return float(bright)
    return float(dark)


def _extremes(pixels: np.ndarray, padding: np.ndarray | None) -> tuple[int, int]:
    """The smallest and largest pixel; of nothing but padding, the largest comes first."""
    if padding is None:
        return int(pixels.min()), int(pixels.max())
    limits = np.iinfo(pixels.dtype)
    return (
        int(pixels.min(where=~padding, initial=limits.max)),
        int(pixels.max(where=~padding, initial=limits.min)),
    )


def _stored_range(darkest: int, brightest: int, dataset: Any) -> tuple[int, int, tuple[str, ...]]:
    """The smallest and largest value that the stored bits can hold."""
    bits = whole(dataset, "BitsStored") or whole(dataset, "BitsAllocated")
    if whole(dataset, "PixelRepresentation"):
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    else:
        low, high = 0, 2**bits - 1
    notes: tuple[str, ...] = ()
    if darkest < low or brightest > high:
        notes = (f"values outside the {bits} bits stored: clipped",)
    elif bits == 16 and low == 0 and frames(dataset) == 1:
        found = depth(brightest, bits)
        if found < bits:
            high = 2**found - 1
            notes = (f"{found}-bit values in 16 bits stored: scaled by {high}",)
    return low, high, notes


def _padding(pixels: np.ndarray, dataset: Any) -> np.ndarray | None:
    """Where the file says that there is no image, or None."""
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
    padding = (pixels >= min(ends)) & (pixels <= max(ends))
    return padding if padding.any() else None
