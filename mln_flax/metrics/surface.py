"""Distances between the boundaries of two masks: Hausdorff and average, in the unit of spacing."""

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

Spacing = tuple[float, float]  # of pixels: (row, column)
# A search tree finds nearest pixels faster than a distance transform where an image has more
# pixels than this for each on a boundary: measured, they are even at 10 to 20.
AREA_FOR_TREE = 32


class SurfaceScores(NamedTuple):
    """The four boundary distances of one image; smaller is nearer."""

    hausdorff: float
    hausdorff95: float
    average_distance: float
    one_way_distance: float


def binary_pair(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks as bool [H, W].

    Raises:
      ValueError: a mask is not 2-D, holds anything but 0 and 1, or the shapes differ.
    """
    pair = np.asarray(prediction), np.asarray(reference)
    for name, mask in zip(("prediction", "reference"), pair, strict=True):
        if mask.ndim != 2:
            raise ValueError(f"{name} has shape {mask.shape}; allowed: two dimensions (H, W)")
        if mask.dtype == bool:
            continue
        strange = mask[(mask != 0) & (mask != 1)]
        if strange.size:
            raise ValueError(f"{name} holds {strange.flat[0]}; allowed: 0 and 1")
    if pair[0].shape != pair[1].shape:
        raise ValueError(
            f"prediction has shape {pair[0].shape}, reference {pair[1].shape}; they must be equal"
        )
    return pair[0].astype(bool), pair[1].astype(bool)


def hausdorff(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Spacing = (1, 1),
    percentile: float = 100,
) -> float:
    """The symmetric Hausdorff distance of two masks' boundaries (Eq. 25 of the paper).

    It is the larger of the two directed values. With `percentile` below 100 each direction is cut
    at its own percentile (linear between samples) before the larger is taken: pooling both sets
    first would let a large mask's many boundary pixels hide what a small mask missed.

    Args:
      prediction: bool or {0, 1} [H, W].
      reference: the same.
      spacing_mm: (row, column) pixel spacing; (1, 1) answers in pixels.
      percentile: 0 to 100; 95 is the usual HD95.

    Returns:
      0 where both masks are empty, the image's diagonal where one is.

    Raises:
      ValueError: masks that are not two equal binary images, a spacing or percentile out of range.
    """
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile is {percentile}; allowed: 0 to 100")
    (directed,) = _directed_distances(prediction, reference, spacing_mm)
    return _hausdorff(directed, percentile)


def average_distance(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Spacing = (1, 1),
    symmetric: bool = True,
) -> float:
    """The mean distance between two masks' boundaries, in the unit of `spacing_mm`.

    Symmetric: the mean over the boundary pixels of both masks, each to the other's boundary.
    One-way (Eq. 24 of the paper): from the prediction's boundary pixels to the reference only, so
    what the prediction misses costs nothing. Empty masks and errors as in `hausdorff`.
    """
    (directed,) = _directed_distances(prediction, reference, spacing_mm)
    return _average(directed, symmetric)


def surface_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing = (1, 1)
) -> SurfaceScores:
    """HD, HD95, symmetric and one-way average distance from one pass over the boundaries."""
    (directed,) = _directed_distances(prediction, reference, spacing_mm)
    return _scores(directed)


def scores_in_pixels_and_mm(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing
) -> tuple[SurfaceScores, SurfaceScores]:
    """The scores in pixels, then in mm: from one pass where pixels are square.

    Empty masks and errors as in `hausdorff`.
    """
    if spacing_mm[0] == spacing_mm[1]:
        pixels, mm = _directed_distances(prediction, reference, (1, 1), spacing_mm)
        return _scores(pixels), _scores(mm)
    return surface_scores(prediction, reference), surface_scores(prediction, reference, spacing_mm)


def _scores(directed: tuple[np.ndarray, np.ndarray]) -> SurfaceScores:
    return SurfaceScores(
        hausdorff=_hausdorff(directed, 100),
        hausdorff95=_hausdorff(directed, 95),
        average_distance=_average(directed, symmetric=True),
        one_way_distance=_average(directed, symmetric=False),
    )


def _hausdorff(directed: tuple[np.ndarray, np.ndarray], percentile: float) -> float:
    if percentile == 100:
        return float(max(distances.max() for distances in directed))
    return float(max(np.percentile(distances, percentile) for distances in directed))


def _average(directed: tuple[np.ndarray, np.ndarray], symmetric: bool) -> float:
    return float(np.mean(np.concatenate(directed) if symmetric else directed[0]))


def _directed_distances(
    prediction: np.ndarray, reference: np.ndarray, *spacings: Spacing
) -> list[tuple[np.ndarray, np.ndarray]]:
    """From each boundary pixel of one mask to the other mask's boundary, both ways.

    Once in each of the spacings, which are multiples of the first: the nearest pixels are the same.
    """
    prediction, reference = binary_pair(prediction, reference)
    spacings = tuple(_checked_spacing(spacing) for spacing in spacings)
    empty = not prediction.any(), not reference.any()
    if any(empty):
        rows, columns = prediction.shape
        factor = 0.0 if all(empty) else 1.0
        ends = [factor * math.hypot(rows * s[0], columns * s[1]) for s in spacings]
        return [(np.array([value]), np.array([value])) for value in ends]
    # Every boundary pixel lies in the joint box, and just outside it both masks are background,
    # so the crop changes no boundary and no distance.
    box = _box(prediction | reference)
    forth, back = _to_nearest((_boundary(prediction[box]), _boundary(reference[box])), spacings[0])
    return [(_lengths(forth, spacing), _lengths(back, spacing)) for spacing in spacings]


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _to_nearest(
    edges: tuple[np.ndarray, np.ndarray], spacing: Spacing
) -> tuple[np.ndarray, np.ndarray]:
    """From each pixel of one edge the (rows, columns) to the nearest of the other, both ways."""
    shape, size = edges[0].shape, edges[0].size
    # Each [pixels, 2]. Faster than np.argwhere where pixels are few.
    points = [np.column_stack(np.unravel_index(np.flatnonzero(e), shape)) for e in edges]
    few = AREA_FOR_TREE * (len(points[0]) + len(points[1])) < size

    def nearest(start: np.ndarray, goal: np.ndarray, goal_edge: np.ndarray) -> np.ndarray:
        if few:
            return goal[KDTree(goal * spacing).query(start * spacing)[1]]
        return ndimage.distance_transform_edt(
            ~goal_edge, sampling=spacing, return_distances=False, return_indices=True
        )[:, start[:, 0], start[:, 1]].T

    forth = nearest(points[0], points[1], edges[1]) - points[0]
    return forth, nearest(points[1], points[0], edges[0]) - points[1]


def _lengths(offsets: np.ndarray, spacing: Spacing) -> np.ndarray:
    return np.sqrt((offsets[:, 0] * spacing[0]) ** 2 + (offsets[:, 1] * spacing[1]) ** 2)


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Mask pixels with a 4-neighbor outside the mask; beyond the image is outside."""
    inner = np.zeros_like(mask)
    beside = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    inner[1:-1, 1:-1] = mask[1:-1, 1:-1] & beside
    return mask & ~inner


def _checked_spacing(spacing_mm: Spacing) -> Spacing:
    values = tuple(float(value) for value in spacing_mm)
    if len(values) != 2 or not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"spacing_mm is {spacing_mm}; allowed: (row, column), both positive")
    return values[0], values[1]
