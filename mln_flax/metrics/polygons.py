"""Convex polygons: the hull of pixels, its size, its distance from a point."""

import math

import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

_FEW = 64  # points: a hull first would take longer than all their distances
_SIDES = 16  # of the polygon that stands for a circle


def hull(points: np.ndarray) -> np.ndarray:
    """The corners [k, 2] of the convex hull of points [n, 2] that are not all on one line."""
    return points[ConvexHull(points).vertices]


def polygon_area(corners: np.ndarray) -> float:
    """The area inside a polygon [k, 2] that does not cross itself."""
    x, y = corners.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def pixel_corners(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The corners [n, 4, 2] of pixels whose centers are integers, in px."""
    corner = np.array([(-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)])
    return np.stack([rows, columns], axis=-1)[:, None] + corner


def longest(corners: np.ndarray) -> float:
    """The largest distance between two of the points."""
    return float(pdist(corners if len(corners) < _FEW else hull(corners)).max())


def grown(corners: np.ndarray, margin: float) -> np.ndarray:
    """A convex polygon with at least such a margin around it, at most 2% more."""
    angles = np.arange(_SIDES) * 2 * math.pi / _SIDES
    circle = np.stack([np.sin(angles), np.cos(angles)], axis=1) / math.cos(math.pi / _SIDES)
    return hull((corners[:, None] + margin * circle).reshape(-1, 2))


def overlap(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two convex polygons share a point: no line along a side has them on its two sides."""
    if (one.max(axis=0) < other.min(axis=0)).any() or (other.max(axis=0) < one.min(axis=0)).any():
        return False
    sides = np.concatenate([np.roll(polygon, -1, axis=0) - polygon for polygon in (one, other)])
    normals = np.stack([-sides[:, 1], sides[:, 0]])
    a, b = one @ normals, other @ normals
    return bool(((a.max(axis=0) >= b.min(axis=0)) & (b.max(axis=0) >= a.min(axis=0))).all())


def distances(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The distance of each point [n, 2] to a convex polygon [k, 2], zero inside: [n]."""
    sides = np.roll(corners, -1, axis=0) - corners
    offsets = points[:, None] - corners  # [n, k, 2]
    along = (offsets * sides).sum(axis=-1) / (sides**2).sum(axis=-1)
    nearest = offsets - np.clip(along, 0, 1)[..., None] * sides
    # Inside is left of all sides, or right of all where the corners go the other way round.
    turns = sides[:, 0] * offsets[..., 1] - sides[:, 1] * offsets[..., 0]
    inside = (turns >= 0).all(axis=1) | (turns <= 0).all(axis=1)
    return np.where(inside, 0.0, np.sqrt((nearest**2).sum(axis=-1).min(axis=1)))
