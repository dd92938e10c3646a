"""What surrounds the breast: the level of the air, burnt-in frames and burnt-in text."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from mln_flax.data.core import Unusable
from mln_flax.data.prepare import tiles

# All chosen; gray levels are shares of the range.
_MARGIN = 0.1  # of a side: where mostly air is, as `tiles.breast_mask` takes it
_SAMPLES = 500  # of a side that are looked at for a median
_SEARCH_SIDE = 1000  # pixels of a copy in which the breast is looked for
_DEEPEST = 0.15  # of a side: a frame reaches no deeper
_CONSTANT = 0.04  # spread of gray levels along a line of a frame, scanner noise included
_STEP = 0.1  # between a frame and what lies inside
_LIGHT = 0.04  # of a side: the uneven light edge of a film reaches no deeper
_EDGE_LINES = 3  # a resampled frame ends in a blurred edge of at most so many lines
_AROUND_MM, _AROUND = 5.0, 0.01  # kept around the breast: mm, or where unknown of the longer side


def air_level(image: np.ndarray, valid: np.ndarray | None = None) -> float:
    """The gray level of the air, which fills most of an image's margin.

    Args:
      image: [H, W].
      valid: bool [H, W], the pixels that count (padding does not); None for all.
    """
    height, width = image.shape
    margin = np.ones((height, width), bool)
    top, left = max(1, int(height * _MARGIN)), max(1, int(width * _MARGIN))
    margin[top:-top, left:-left] = False
    thin = (slice(None, None, 1 + height // _SAMPLES), slice(None, None, 1 + width // _SAMPLES))
    counted = margin[thin] if valid is None else margin[thin] & valid[thin]
    if not counted.any():
        counted = np.ones_like(counted) if valid is None else valid[thin]
    return float(np.median(image[thin][counted])) if counted.any() else 0.0


def without_frame(image: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The image with frames at its edges replaced by air, and a note for each kind found.

    A burnt-in border is a strip along a whole edge that is nearly constant, is not air, and ends
    in a step. The light edge of a digitized film is uneven, but all along bright, and behind most
    of it lies air. Breast that touches the edge is neither. The image keeps its size.

    Args:
      image: float32 [H, W] in [0, 1].
    """
    image, border = _without_border(image)
    image, light = _without_light(image)
    notes = (("burnt-in border", border), ("light edge of a film", light))
    return image, tuple(f"{name}: {where} replaced by air" for name, where in notes if where)


def _without_border(image: np.ndarray) -> tuple[np.ndarray, str]:
    """The image with constant strips replaced by air, and where they were."""
    height, width = image.shape
    inside = [0, height, 0, width]
    # Corners belong to two sides, so each side found may uncover another.
    for side in (*range(4), *range(4)):
        lines = _from_side(image[inside[0] : inside[1], inside[2] : inside[3]], side)
        inside[side] += _border_depth(lines) * (1 if side in (0, 2) else -1)
    depths = (inside[0], height - inside[1], inside[2], width - inside[3])
    if not any(depths):
        return image, ""
    core = image[inside[0] : inside[1], inside[2] : inside[3]]
    clean = np.full_like(image, air_level(core))
    clean[inside[0] : inside[1], inside[2] : inside[3]] = core
    return clean, _where(depths)


def _without_light(image: np.ndarray) -> tuple[np.ndarray, str]:
    """The image with the light edges of a film replaced by air, and where they were."""
    air = air_level(image)
    depths = [_light_depth(_from_side(image, side), air) for side in range(4)]
    if not any(depth.any() for depth in depths):
        return image, ""
    clean = image.copy()
    for side, depth in enumerate(depths):
        lines = _from_side(clean, side)[: depth.max()]
        lines[np.arange(len(lines))[:, None] < depth] = air
    return clean, _where([int(np.median(depth)) for depth in depths])


def _where(depths: Sequence[int]) -> str:
    """For example: top 12 px, left 3 px."""
    sides = zip(("top", "bottom", "left", "right"), depths, strict=True)
    return ", ".join(f"{name} {depth} px" for name, depth in sides if depth)


def without_text(image: np.ndarray, spacing_mm: tuple[float, float] | None) -> np.ndarray:
    """The image with everything replaced by air that is not breast or close to it.

    Args:
      image: float32 [H, W] in [0, 1].
      spacing_mm: (row, column), or None.

    Raises:
      Unusable: no breast is found, so that text could not be told from it.
    """
    thin = 1 + max(image.shape) // _SEARCH_SIDE
    breast = tiles.breast_mask(image[::thin, ::thin])
    if not breast.any():
        raise Unusable("burnt-in text and no breast to be found; export it without annotations")
    if spacing_mm is None:
        around = [_AROUND * max(image.shape)] * 2
    else:
        around = [_AROUND_MM / spacing for spacing in spacing_mm]
    kept = ndimage.maximum_filter(breast, size=[1 + 2 * math.ceil(px / thin) for px in around])
    kept = kept.repeat(thin, 0).repeat(thin, 1)[: image.shape[0], : image.shape[1]]
    clean = image.copy()
    if not kept.all():
        clean[~kept] = np.median(image[~kept])
    return clean


def _from_side(image: np.ndarray, side: int) -> np.ndarray:
    """The image turned so that its top, bottom, left or right edge is the first row."""
    lines = image if side < 2 else image.T
    return lines if side in (0, 2) else lines[::-1]


def _border_depth(lines: np.ndarray) -> int:
    """How many lines from the first one on are a border, its blurred edge included; 0 for none.

    Of some films a bright line is left, and outside of it all is as black as air.
    """
    black = _black_lines(lines)
    depth = _strip_depth(lines[black:])
    return black + depth if depth else 0


def _black_lines(lines: np.ndarray) -> int:
    """How many lines from the first one on are air alone, as far as a border may reach."""
    deepest = int(len(lines) * _DEEPEST)
    if deepest < 1:
        return 0
    low, _, high = _levels(lines[:deepest])
    middle, air = (low + high) / 2, air_level(lines[deepest:])
    other = (high - low >= _CONSTANT) | (np.abs(middle - air) >= _STEP)
    return int(np.argmax(other)) if other.any() else 0


def _strip_depth(lines: np.ndarray) -> int:
    """How many lines from the first one on are a constant strip, and its blurred edge."""
    deepest = int(len(lines) * _DEEPEST)
    if deepest < 1:
        return 0
    low, middle, high = _levels(lines[: deepest + 1])
    level = float(middle[0])
    constant = (high - low < _CONSTANT) & (np.abs(middle - level) < _CONSTANT)
    depth = int(np.argmin(constant))  # the first line that is not
    if constant.all() or not depth or depth + 2 * _EDGE_LINES >= len(lines):
        return 0
    if abs(level - air_level(lines[depth:])) < _STEP:
        return 0
    # Pectoral muscle may be white all along an edge too, but fades without a step. A film's grain
    # changes from line to line, and has no direction.
    settled, further = lines[depth + _EDGE_LINES], lines[depth + 2 * _EDGE_LINES]
    stepped = np.abs(settled - level) > _STEP
    if np.mean(stepped) <= 0.5 or abs(np.median((further - settled)[stepped])) > _STEP:
        return 0
    for line in lines[depth : depth + _EDGE_LINES]:
        left = np.abs(line - settled)[stepped] / np.abs(settled - level)[stepped]
        depth += int(np.median(left) > _STEP)
    return depth


def _levels(lines: np.ndarray) -> np.ndarray:
    """The lowest, the middle and the highest gray level of each line but for outliers: [3, n]."""
    return np.percentile(lines[:, :: 1 + lines.shape[1] // _SAMPLES], (2.5, 50, 97.5), axis=1)


def _light_depth(lines: np.ndarray, air: float) -> np.ndarray:
    """How many pixels from the first line on are lit, int [places]; all 0 without a light edge."""
    reach = max(1, int(len(lines) * _LIGHT))
    none = np.zeros(lines.shape[1], int)
    if np.mean(np.abs(lines[0] - air) > _STEP) < 0.95:
        return none
    dark = np.abs(lines[:reach] - air) < _STEP / 2
    ends = dark.any(axis=0)
    if np.mean(ends) < 0.6:
        return none
    depth = np.argmax(dark, axis=0)
    # Where breast reaches the edge there is no end to be seen; it is as deep as elsewhere.
    usual = int(np.median(depth[ends]))
    depth[~ends] = usual
    # A slanting outline of the breast, which ends late, must not be taken along.
    depth = np.minimum(depth, 2 * usual)
    return ndimage.maximum_filter1d(depth, 1 + lines.shape[1] // 50)
