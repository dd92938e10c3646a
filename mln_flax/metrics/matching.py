"""Which marks find which references, by the rules that detection is counted with.

An object finds a reference calcification if they share a pixel, or if their centers are at most
0.5 mm apart: labels of single calcifications are drawn by hand, often as dots, and the smallest
are two or three pixels large, so that a shared pixel alone would call a mark beside them false.

A cluster finds a reference cluster if its center is at most 2.5 mm from the reference's convex
hull: readers' outlines of one cluster differ by about that much. A loose cluster may have its
center aside, so it also finds a reference whose center lies within its own hull, but only where
that hull's area is at most four times the reference's: one mark over the whole breast holds every
center and tells nobody where to look. (Its own center still may lie in a reference, by chance.)

Where the label is a region the region takes the place of the hull, as what is drawn there is the
outline itself and may be hollow; no single calcification is known. There an object is neither
found nor false within the region and 2.5 mm around it, and false elsewhere.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from mln_flax.metrics import clusters, polygons

CENTERS_MM = 0.5  # of an object and the calcification that it finds
MARGIN_MM = 2.5  # around a reference cluster
LARGEST = 4  # times the reference's area: a cluster that finds it by holding its center


class ReferenceCluster(NamedTuple):
    """One cluster of a label."""

    number: int
    center: np.ndarray  # [2] mm
    hull: np.ndarray  # [k, 2] mm
    area_mm2: float
    edge: cKDTree | None  # of a region: the centers of its edge's pixels, mm


class Reference(NamedTuple):
    """What one image's label holds."""

    labels: np.ndarray  # int32 [H, W]: number of the calcification or region, 0 none
    calcifications: np.ndarray  # [n, 2] mm, the centers in the order of their numbers
    clusters: tuple[ReferenceCluster, ...]
    spacing_mm: np.ndarray  # [2]


def reference(
    mask: np.ndarray, label_kind: str, spacing_mm: Sequence[float], rule: clusters.ClusterRule
) -> Reference:
    """What marks are matched with; arguments and errors as `clusters.reference_marks`."""
    labeled = clusters.reference_marks(mask, label_kind, spacing_mm, rule)
    spacing = np.asarray(spacing_mm, float)
    calcifications = [(c.row_px, c.column_px) for c in labeled.calcifications]
    found = []
    for cluster in labeled.clusters:
        pixels = cluster_pixels(labeled, cluster)
        edge = _edge(labeled.labels, cluster) * spacing if label_kind == "cluster" else None
        found.append(
            ReferenceCluster(
                number=cluster.number,
                center=np.array([cluster.row_px, cluster.column_px]) * spacing,
                hull=pixels_hull(pixels, spacing),
                area_mm2=cluster.area_mm2,
                edge=None if edge is None else cKDTree(edge),
            )
        )
    centers = np.array(calcifications, float).reshape(-1, 2) * spacing
    return Reference(labeled.labels, centers, tuple(found), spacing)


def object_pairs(known: Reference, centers_px: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Which object finds which calcification: int [m, 2], both from 0, a pair maybe twice.

    Args:
      known: the reference.
      centers_px: [n, 2], of the objects.
      shared: int [s, 2], the pairs that share a pixel.
    """
    if not len(centers_px) or not len(known.calcifications):
        return shared
    tree = cKDTree(known.calcifications)
    near = cKDTree(centers_px * known.spacing_mm).sparse_distance_matrix(
        tree, CENTERS_MM, output_type="ndarray"
    )
    return np.concatenate([shared, np.stack([near["i"], near["j"]], axis=1)])


def near_clusters(known: Reference, centers_px: np.ndarray) -> np.ndarray:
    """Whether each center is in a reference cluster or at most 2.5 mm from it: bool [n, r]."""
    near = np.zeros((len(centers_px), len(known.clusters)), bool)
    centers = centers_px * known.spacing_mm
    for j, cluster in enumerate(known.clusters if len(centers) else ()):
        if cluster.edge is None:
            near[:, j] = polygons.distances(centers, cluster.hull) <= MARGIN_MM
        else:
            inside = known.labels[tuple(np.rint(centers_px).astype(int).T)] == cluster.number
            near[:, j] = inside | (cluster.edge.query(centers)[0] <= MARGIN_MM)
    return near


def cluster_pairs(
    known: Reference,
    centers_px: np.ndarray,
    boxes: np.ndarray,
    pixels_of: Callable[[int], tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Which cluster finds which reference cluster: bool [n, r].

    Args:
      known: the reference.
      centers_px: [n, 2], of the clusters.
      boxes: int [n, 4], of their pixels, half open.
      pixels_of: the number of a cluster, from 0 -> rows and columns of its pixels; asked only
        where the answer hangs on its hull.
    """
    hits = near_clusters(known, centers_px)
    for j, cluster in enumerate(known.clusters):
        center = cluster.center / known.spacing_mm
        holds = ((boxes[:, :2] - 0.5 <= center) & (center <= boxes[:, 2:] - 0.5)).all(axis=1)
        for i in np.flatnonzero(holds & ~hits[:, j]):
            hull = pixels_hull(pixels_of(int(i)), known.spacing_mm)
            small = polygons.polygon_area(hull) <= LARGEST * cluster.area_mm2
            hits[i, j] = small and polygons.distances(cluster.center[None], hull)[0] == 0
    return hits


def mark_pairs(known: Reference, marks: clusters.Marks) -> np.ndarray:
    """Which marked cluster finds which reference cluster: bool [n, r], in the marks' order."""
    centers = np.array([(c.row_px, c.column_px) for c in marks.clusters]).reshape(-1, 2)
    boxes = np.array([c.box for c in marks.clusters], int).reshape(-1, 4)

    def pixels_of(i: int) -> tuple[np.ndarray, np.ndarray]:
        return cluster_pixels(marks, marks.clusters[i])

    return cluster_pairs(known, centers, boxes, pixels_of)


def pixels_hull(pixels: tuple[np.ndarray, np.ndarray], spacing_mm: np.ndarray) -> np.ndarray:
    """The corners [k, 2] in mm of the convex hull of pixels, given as rows and columns."""
    rows, columns = pixels
    # The ends of each row alone: a mark may have a million pixels.
    ends = np.array([np.iinfo(int).max, -1])[:, None].repeat(np.ptp(rows) + 1, axis=1)
    np.minimum.at(ends[0], rows - rows.min(), columns)
    np.maximum.at(ends[1], rows - rows.min(), columns)
    filled = np.flatnonzero(ends[1] >= 0)
    corners = [polygons.pixel_corners(filled + rows.min(), end[filled]) for end in ends]
    return polygons.hull(np.concatenate(corners).reshape(-1, 2) * spacing_mm)


def cluster_pixels(
    marks: clusters.Marks, cluster: clusters.Cluster
) -> tuple[np.ndarray, np.ndarray]:
    """The rows and columns of a cluster's pixels; of a region's where it has no calcification."""
    top, left, bottom, right = cluster.box
    numbers = [c.number for c in marks.calcifications if c.cluster == cluster.number]
    inside = np.isin(marks.labels[top:bottom, left:right], numbers or [cluster.number])
    rows, columns = np.nonzero(inside)
    return rows + top, columns + left


def _edge(labels: np.ndarray, cluster: clusters.Cluster) -> np.ndarray:
    """The pixels [k, 2] of a region that touch what is not it."""
    top, left, bottom, right = cluster.box
    region = labels[top:bottom, left:right] == cluster.number
    return np.argwhere(region & ~ndimage.binary_erosion(region)) + (top, left)
