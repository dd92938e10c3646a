"""Distances between the boundaries of two masks: Hausdorff and average, in the unit of spacing."""

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage


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
    spacing_mm: tuple[float, float] = (1, 1),
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
    return _hausdorff(_directed_distances(prediction, reference, spacing_mm), percentile)


def average_distance(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: tuple[float, float] = (1, 1),
    symmetric: bool = True,
) -> float:
    """The mean distance between two masks' boundaries, in the unit of `spacing_mm`.

    Symmetric: the mean over the boundary pixels of both masks, each to the other's boundary.
    One-way (Eq. 24 of the paper): from the prediction's boundary pixels to the reference only, so
    what the prediction misses costs nothing. Empty masks and errors as in `hausdorff`.
    """
    return _average(_directed_distances(prediction, reference, spacing_mm), symmetric)


def surface_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, float] = (1, 1)
) -> SurfaceScores:
    """HD, HD95, symmetric and one-way average distance from one pass over the boundaries."""
    directed = _directed_distances(prediction, reference, spacing_mm)
    return SurfaceScores(
        hausdorff=_hausdorff(directed, 100),
        hausdorff95=_hausdorff(directed, 95),
        average_distance=_average(directed, symmetric=True),
        one_way_distance=_average(directed, symmetric=False),
    )


def _hausdorff(directed: tuple[np.ndarray, np.ndarray], percentile: float) -> float:
    return float(max(np.percentile(distances, percentile) for distances in directed))


def _average(directed: tuple[np.ndarray, np.ndarray], symmetric: bool) -> float:
    return float(np.mean(np.concatenate(directed) if symmetric else directed[0]))


def _directed_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """From each boundary pixel of one mask to the other mask's boundary, both ways."""
    prediction, reference = binary_pair(prediction, reference)
    spacing = _checked_spacing(spacing_mm)
    empty = not prediction.any(), not reference.any()
    if any(empty):
        rows, columns = prediction.shape
        value = 0.0 if all(empty) else math.hypot(rows * spacing[0], columns * spacing[1])
        return np.array([value]), np.array([value])
    # Every boundary pixel lies in the joint box, and just outside it both masks are background,
    # so the crop changes no boundary and no distance.
    box = ndimage.find_objects((prediction | reference).astype(np.uint8))[0]
    edges = _boundary(prediction[box]), _boundary(reference[box])
    return _to_nearest(*edges, spacing), _to_nearest(*edges[::-1], spacing)


def _to_nearest(start: np.ndarray, goal: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """The distance from each pixel of `start` to the nearest of `goal`: [pixels].

    Of scipy's distance transform we need the nearest pixels only: distances over the whole image
    would take half as long again.
    """
    nearest = ndimage.distance_transform_edt(
        ~goal, sampling=spacing, return_distances=False, return_indices=True
    )
    rows, columns = np.nonzero(start)
    down, across = nearest[:, rows, columns] - (rows, columns)
    return np.sqrt((down * spacing[0]) ** 2 + (across * spacing[1]) ** 2)


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Mask pixels with a 4-neighbor outside the mask; beyond the image is outside."""
    inner = np.zeros_like(mask)
    beside = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    inner[1:-1, 1:-1] = mask[1:-1, 1:-1] & beside
    return mask & ~inner


def _checked_spacing(spacing_mm: tuple[float, float]) -> tuple[float, float]:
    values = tuple(float(value) for value in spacing_mm)
    if len(values) != 2 or not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"spacing_mm is {spacing_mm}; allowed: (row, column), both positive")
    return values[0], values[1]
