"""Crops of marked places for a contact sheet: as it is, with its marks, and where it lies."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage

from mln_flax.results.overlay import CALCIFICATION, CLUSTER

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE_PX = 300  # of a crop
_GAP_PX = 4
_LEAST_MM, _AROUND_MM = 20.0, 5.0  # of a crop: its side, and what is left around a cluster
_INNER = 0.2  # of a side: what is left of each edge where gray levels are taken: air may lie there
_DARKEST, _BRIGHTEST = 1.0, 99.9  # percentiles of those gray levels that are black and white
_BAR_MM = 5.0

_Outline = Sequence[tuple[float, float]]  # (row, column), pixels of the image


class Place(NamedTuple):
    """Where a crop is taken."""

    row_px: float
    column_px: float
    extent_mm: float  # of what it shows


def picture(
    image: np.ndarray,
    mask: np.ndarray,
    outlines: Sequence[_Outline],
    place: Place,
    spacing_mm: tuple[float, float],
) -> bytes:
    """A JPEG of three panels: the crop, the crop with its marks, the image with the crop's frame.

    Found clusters are outlined in orange; what the label holds is outlined in blue. The bar is
    5 mm long. Gray levels are stretched by those in the middle of the crop.

    Args:
      image: float32 [H, W] in [0, 1].
      mask: bool or {0, 1} [H, W], the label.
      outlines: of the found clusters.
      place: what is in the middle.
      spacing_mm: (row, column).
    """
    from PIL import Image, ImageDraw

    side_mm = max(_LEAST_MM, place.extent_mm + 2 * _AROUND_MM)
    window = _window(place, side_mm, spacing_mm)
    plain = _gray(image, window)
    marked = Image.composite(
        Image.new("RGB", plain.size, CALCIFICATION), plain, _edges(mask, window)
    )
    pen = ImageDraw.Draw(marked)
    top, left, bottom, right = window
    down, across = SIDE_PX / (bottom - top), SIDE_PX / (right - left)
    for outline in outlines:
        corners = [((c + 0.5 - left) * across, (r + 0.5 - top) * down) for r, c in outline]
        pen.line([*corners, corners[0]], fill=CLUSTER, width=2, joint="curve")
    bar = round(SIDE_PX * _BAR_MM / side_mm)
    ImageDraw.Draw(plain).line(
        [(8, SIDE_PX - 8), (8 + bar, SIDE_PX - 8)], fill=(255, 255, 255), width=3
    )
    whole = _located(image, window)
    size = (2 * (SIDE_PX + _GAP_PX) + whole.width, SIDE_PX)
    sheet = Image.new("RGB", size, (255, 255, 255))
    for number, panel in enumerate((plain, marked, whole)):
        sheet.paste(panel, (number * (SIDE_PX + _GAP_PX), 0))
    buffer = io.BytesIO()
    sheet.save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()


def _window(
    place: Place, side_mm: float, spacing_mm: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Top, left, bottom, right in pixels; it may reach beyond the image."""
    height, width = (max(2, round(side_mm / spacing)) for spacing in spacing_mm)
    top, left = round(place.row_px + 0.5 - height / 2), round(place.column_px + 0.5 - width / 2)
    return top, left, top + height, left + width


def _cut(values: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """The window of an array, with zeros beyond it."""
    top, left, bottom, right = window
    cut = np.zeros((bottom - top, right - left), values.dtype)
    inner = values[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    row, column = max(0, -top), max(0, -left)
    cut[row : row + inner.shape[0], column : column + inner.shape[1]] = inner
    return cut


def _gray(image: np.ndarray, window: tuple[int, int, int, int]) -> "Image":
    """The window in gray, as RGB."""
    from PIL import Image

    cut = _cut(image, window)
    above, beside = (round(_INNER * side) for side in cut.shape)
    inner = cut[above : cut.shape[0] - above, beside : cut.shape[1] - beside]
    seen = inner[inner > 0]
    dark, bright = np.percentile(seen, [_DARKEST, _BRIGHTEST]) if seen.size else (0.0, 1.0)
    gray = np.clip((cut - dark) / max(float(bright - dark), 1e-3), 0, 1)
    shown = Image.fromarray((gray * 255 + 0.5).astype(np.uint8))
    return shown.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC).convert("RGB")


def _edges(mask: np.ndarray, window: tuple[int, int, int, int]) -> "Image":
    """Opacity of a line just outside of what the label holds."""
    from PIL import Image

    held = Image.fromarray(_cut(np.asarray(mask, bool), window) * np.uint8(255))
    shown = np.asarray(held.resize((SIDE_PX, SIDE_PX), Image.Resampling.NEAREST)) > 0
    inner = ndimage.binary_dilation(shown, iterations=2)
    ring = ndimage.binary_dilation(inner, iterations=2) & ~inner
    return Image.fromarray(ring * np.uint8(255))


def _located(image: np.ndarray, window: tuple[int, int, int, int]) -> "Image":
    """The whole image as high as a crop, with the crop's frame."""
    from PIL import Image, ImageDraw

    height, width = image.shape
    shape = (max(1, round(width * SIDE_PX / height)), SIDE_PX)
    gray = Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))
    small = gray.resize(shape, Image.Resampling.BOX).convert("RGB")
    top, left, bottom, right = window
    factor = SIDE_PX / height
    box = [left * factor, top * factor, right * factor, bottom * factor]
    ImageDraw.Draw(small).rectangle(box, outline=CLUSTER, width=2)
    return small
