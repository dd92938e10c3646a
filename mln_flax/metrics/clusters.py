"""Calcifications and clusters in a mask: where they lie, how large they are, what is together."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mln_flax.metrics import dbscan, polygons

EIGHT_NEIGHBORS = np.ones((3, 3), bool)


class ClusterRule(NamedTuple):
    """What calcifications are a cluster: so many within a circle of such an area."""

    min_count: int = 3
    area_mm2: float = 100.0  # 1 cm2
    margin_mm: float = 1.0  # of a cluster's outline around its pixels

    @property
    def radius_mm(self) -> float:
        """The radius of the circle."""
        return math.sqrt(self.area_mm2 / math.pi)


USUAL = ClusterRule()  # three within a square centimeter


class Calcification(NamedTuple):
    """An object of the mask: pixels that touch at a side or a corner."""

    number: int  # from 1, in reading order of the centers
    row_px: float  # center of mass of the mask's pixels
    column_px: float
    box: tuple[int, int, int, int]  # top, left, bottom, right; half open
    length_mm: float  # largest distance between outer edges of its pixels
    area_mm2: float
    mean: float  # of the probability over its pixels
    peak: float
    cluster: int  # number of its cluster, 0: none


class Cluster(NamedTuple):
    """Calcifications that lie together."""

    number: int  # from 1, highest score first
    row_px: float  # mean of its calcifications' centers
    column_px: float
    outline: tuple[tuple[float, float], ...]  # (row, column); may reach beyond the image
    box: tuple[int, int, int, int]  # of its calcifications' pixels
    count: int  # type: ignore[assignment]  # hides a method of tuples
    score: float  # the `min_count`-th highest peak among its calcifications
    area_mm2: float  # of the convex hull of its pixels, without margin
    extent_mm: float  # largest distance between outer edges of its pixels


class Marks(NamedTuple):
    """What is marked in one image."""

    calcifications: tuple[Calcification, ...]
    clusters: tuple[Cluster, ...]
    labels: np.ndarray  # int32 [H, W]: number of the calcification, 0 none


class _Objects(NamedTuple):
    """The connected pieces of a mask, in reading order of their centers."""

    labels: np.ndarray  # int32 [H, W], from 1
    pixels: np.ndarray  # [N] positions in the flat image, piece after piece
    starts: np.ndarray  # [n + 1] of each piece in `pixels`
    centers: np.ndarray  # [n, 2] px
    boxes: np.ndarray  # [n, 4]
    corners: list[np.ndarray]  # of each piece, [k, 2] px: its pixels' corners at the ends of rows


def marks(
    probability: np.ndarray,
    mask: np.ndarray,
    spacing_mm: Sequence[float],
    rule: ClusterRule = USUAL,
) -> Marks:
    """The calcifications and clusters of a mask, numbered.

    A cluster is a component of DBSCAN (Ester et al., KDD 1996) over the calcifications' centers.
    With a `min_count` above 3 two clusters may reach for one calcification that is no core: the
    nearer gets it, the other may keep fewer than `min_count`, and its lowest peak is its score.

    Args:
      probability: [H, W].
      mask: bool or {0, 1} [H, W]; small objects are gone already (see `least_pixels`).
      spacing_mm: (row, column).
      rule: what is a cluster.

    Raises:
      ValueError: the shapes differ, or the spacing is not two positive numbers.
    """
    if np.ndim(mask) != 2 or np.shape(probability) != np.shape(mask):
        raise ValueError(
            f"probability has shape {np.shape(probability)}, mask {np.shape(mask)}; allowed: two "
            "equal shapes (H, W)"
        )
    spacing = checked_spacing(spacing_mm)
    objects = _objects(np.asarray(mask, bool))
    if not objects.corners:
        return Marks((), (), objects.labels)
    heights = np.asarray(probability).reshape(-1)[objects.pixels].astype(np.float64)
    peaks = np.maximum.reduceat(heights, objects.starts[:-1])
    group = dbscan.groups(objects.centers * spacing, rule.radius_mm, rule.min_count)
    members = [np.flatnonzero(group == g) for g in range(group.max() + 1)]
    # Groups are in reading order of their first cores: it decides where scores tie.
    members.sort(key=lambda some: -_score(peaks[some], rule))
    cluster_of = np.zeros(len(peaks), int)
    for number, some in enumerate(members, start=1):
        cluster_of[some] = number
    clusters = [
        _cluster(objects, some, number, _score(peaks[some], rule), spacing, rule)
        for number, some in enumerate(members, start=1)
    ]
    calcifications = _calcifications(objects, heights, peaks, cluster_of, spacing)
    return Marks(tuple(calcifications), tuple(clusters), objects.labels)


def reference_marks(
    mask: np.ndarray,
    label_kind: str,
    spacing_mm: Sequence[float],
    rule: ClusterRule = USUAL,
) -> Marks:
    """The reference calcifications and clusters of a labeled mask.

    Of the kind `calcification` they are those of `marks`, by the same rule. Of the kind `cluster`
    the mask holds regions: each connected piece is a cluster of 0 calcifications, none of which
    is known, and `labels` holds the piece's number.

    Args:
      mask: bool or {0, 1} [H, W].
      label_kind: calcification, cluster or none.
      spacing_mm: (row, column).
      rule: what is a cluster.

    Raises:
      ValueError: as `marks`, another kind, or a mask with pixels that is labeled `none`.
    """
    if label_kind == "calcification":
        return marks(np.asarray(mask, np.float32), mask, spacing_mm, rule)
    if label_kind not in ("cluster", "none"):
        raise ValueError(
            f"label_kind is {label_kind!r}; allowed: 'calcification', 'cluster', 'none'"
        )
    objects = _objects(np.asarray(mask, bool))
    if label_kind == "none" and objects.corners:
        raise ValueError("label_kind is 'none', and the mask is not empty")
    spacing = checked_spacing(spacing_mm)
    regions = [
        _cluster(objects, np.array([i]), i + 1, 1.0, spacing, rule)._replace(count=0)
        for i in range(len(objects.corners))
    ]
    return Marks((), tuple(regions), objects.labels)


def linked(frames: Sequence[Marks]) -> list[dict[int, int]]:
    """Per frame: number of a cluster in the frame -> its number in the volume.

    Clusters of neighboring frames whose outlines overlap are the same, and so are all that are
    linked by others. The volume's clusters are numbered from 1, highest score first.
    """
    nodes = [(f, cluster) for f, frame in enumerate(frames) for cluster in frame.clusters]
    place = {(f, cluster.number): i for i, (f, cluster) in enumerate(nodes)}
    edges = [
        (place[f, one.number], place[f + 1, other.number])
        for f, (this, following) in enumerate(itertools.pairwise(frames))
        for one, other in itertools.product(this.clusters, following.clusters)
        if polygons.overlap(np.array(one.outline), np.array(other.outline))
    ]
    groups = dbscan.components(len(nodes), np.array(edges, int).reshape(-1, 2))
    best: dict[int, float] = {}
    for group, (_, cluster) in zip(groups, nodes, strict=True):
        best[group] = max(best.get(group, 0.0), cluster.score)
    # Sorting is stable: where scores tie the earlier frame comes first.
    number = {group: i for i, group in enumerate(sorted(best, key=lambda g: -best[g]), start=1)}
    links: list[dict[int, int]] = [{} for _ in frames]
    for group, (f, cluster) in zip(groups, nodes, strict=True):
        links[f][cluster.number] = number[group]
    return links


def least_pixels(min_area_mm2: float, spacing_mm: Sequence[float]) -> int:
    """How many pixels an object of at least such an area has: 1 or more.

    An area that is a whole number of pixels but for rounding is that number.
    """
    return max(1, math.ceil(min_area_mm2 / (spacing_mm[0] * spacing_mm[1]) - 1e-6))


def checked_spacing(spacing_mm: Sequence[float]) -> np.ndarray:
    """The spacing as float [2]; raises ValueError where it is not two positive numbers."""
    spacing = np.asarray(spacing_mm, float)
    if spacing.shape != (2,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ValueError(f"spacing_mm is {spacing_mm}; allowed: (row, column), both positive")
    return spacing


def _objects(mask: np.ndarray) -> _Objects:
    labels = np.zeros(mask.shape, np.int32)
    count = ndimage.label(mask, EIGHT_NEIGHBORS, output=labels)
    pixels = np.flatnonzero(mask)
    flat = labels.reshape(-1)
    number = flat[pixels] - 1
    rows, columns = np.divmod(pixels, mask.shape[1])
    size = np.bincount(number, minlength=count)
    centers = np.stack([np.bincount(number, x, count) / size for x in (rows, columns)], axis=1)
    order = np.lexsort(centers.T[::-1])
    rank = np.empty(count, np.int32)
    rank[order] = np.arange(count)
    flat[pixels] = rank[number] + 1
    # Piece after piece, and in each row after row, so that the ends of rows are neighbors.
    by_piece = np.argsort(rank[number], kind="stable")
    pixels, number = pixels[by_piece], rank[number][by_piece]
    starts = np.concatenate([[0], np.cumsum(size[order])])
    if not count:
        return _Objects(labels, pixels, starts, centers, np.zeros((0, 4), int), [])
    rows, columns = rows[by_piece], columns[by_piece]
    new_row = (np.diff(number) != 0) | (np.diff(rows) != 0)
    first, last = np.concatenate([[True], new_row]), np.concatenate([new_row, [True]])
    ends = [polygons.pixel_corners(rows[end], columns[end]) for end in (first, last)]
    corners = np.concatenate(ends, axis=1)
    run_starts = np.searchsorted(number[first], np.arange(count))
    box = (
        np.minimum.reduceat(rows[first], run_starts),
        np.minimum.reduceat(columns[first], run_starts),
        np.maximum.reduceat(rows[last], run_starts) + 1,
        np.maximum.reduceat(columns[last], run_starts) + 1,
    )
    pieces = [piece.reshape(-1, 2) for piece in np.split(corners, run_starts[1:])]
    return _Objects(labels, pixels, starts, centers[order], np.stack(box, axis=1), pieces)


def _calcifications(
    objects: _Objects,
    heights: np.ndarray,
    peaks: np.ndarray,
    cluster_of: np.ndarray,
    spacing: np.ndarray,
) -> list[Calcification]:
    sizes = np.diff(objects.starts)
    means = np.add.reduceat(heights, objects.starts[:-1]) / sizes
    return [
        Calcification(
            number=i + 1,
            row_px=float(objects.centers[i, 0]),
            column_px=float(objects.centers[i, 1]),
            box=_box(objects.boxes[i]),
            length_mm=polygons.longest(objects.corners[i] * spacing),
            area_mm2=float(sizes[i] * spacing[0] * spacing[1]),
            mean=float(means[i]),
            peak=float(peaks[i]),
            cluster=int(cluster_of[i]),
        )
        for i in range(len(sizes))
    ]


def _cluster(
    objects: _Objects,
    members: np.ndarray,
    number: int,
    score: float,
    spacing: np.ndarray,
    rule: ClusterRule,
) -> Cluster:
    corners = polygons.hull(np.concatenate([objects.corners[i] for i in members]) * spacing)
    row, column = objects.centers[members].mean(axis=0)
    boxes = objects.boxes[members]
    outline = polygons.grown(corners, rule.margin_mm) / spacing
    return Cluster(
        number=number,
        row_px=float(row),
        column_px=float(column),
        outline=tuple((float(r), float(c)) for r, c in outline),
        box=_box([*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]),
        count=len(members),
        score=score,
        area_mm2=polygons.polygon_area(corners),
        extent_mm=polygons.longest(corners),
    )


def _score(peaks: np.ndarray, rule: ClusterRule) -> float:
    return float(np.sort(peaks)[-min(rule.min_count, len(peaks))])


def _box(values: Iterable[int]) -> tuple[int, int, int, int]:
    top, left, bottom, right = (int(value) for value in values)
    return top, left, bottom, right
