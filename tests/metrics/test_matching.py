"""Which marked cluster finds which region, against every pixel looked at one by one."""

import numpy as np
import pytest
from scipy.spatial import Delaunay

from mln_flax.metrics import clusters, matching
from mln_flax.metrics.clusters import ClusterRule

RULE = ClusterRule(min_count=3, area_mm2=80.0)
SPACING = np.array([0.5, 0.4])
SHAPE = (90, 100)


def discs(random):
    """Regions that do not touch: bool [H, W] each."""
    row, column = np.mgrid[: SHAPE[0], : SHAPE[1]]
    each = []
    for top, left in ((22, 25), (65, 28), (44, 72)):
        radius = random.integers(2, 12)
        each.append(np.hypot(row - top, column - left) <= radius)
    return each


def dots(random):
    """A mask of single pixels in a few loose groups."""
    mask = np.zeros(SHAPE, bool)
    for _ in range(5):
        middle, reach = random.integers(10, 80, 2), random.integers(2, 9)
        for place in random.normal(middle, reach, (6, 2)).round().astype(int):
            mask[tuple(place.clip(0, np.array(SHAPE) - 1))] = True
    return mask


def corners(mask):
    halves = [(a, b) for a in (-0.5, 0.5) for b in (-0.5, 0.5)]
    return np.array([(place + half) * SPACING for place in np.argwhere(mask) for half in halves])


def finds(cluster, pixels, region):
    """The rule as `matching` states it, by each pixel of the region and by triangles."""
    center = np.array([cluster.row_px, cluster.column_px]) * SPACING
    places = np.argwhere(region) * SPACING
    inside = region[tuple(np.rint([cluster.row_px, cluster.column_px]).astype(int))]
    if inside or np.sqrt(((places - center) ** 2).sum(axis=1)).min() <= 2.5:
        return True
    holds = Delaunay(corners(pixels)).find_simplex(places.mean(axis=0)) >= 0
    return bool(holds and cluster.area_mm2 <= 4 * hull_area(region))


def hull_area(region):
    triangles = Delaunay(corners(region))
    a, b, c = (triangles.points[triangles.simplices[:, i]] for i in range(3))
    u, v = b - a, c - a
    return np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).sum() / 2


@pytest.mark.parametrize("seed", range(12))
def test_marks_find_regions_as_stated(seed):
    random = np.random.default_rng(seed)
    regions, mask = discs(random), dots(random)
    marks = clusters.marks(mask.astype(np.float32), mask, SPACING, RULE)
    known = matching.reference(np.any(regions, axis=0), "cluster", SPACING, RULE)
    order = [known.labels[tuple(np.argwhere(region)[0])] - 1 for region in regions]
    pairs = matching.mark_pairs(known, marks)
    assert pairs.shape == (len(marks.clusters), 3) and marks.clusters
    for cluster, row in zip(marks.clusters, pairs, strict=True):
        own = [c.number for c in marks.calcifications if c.cluster == cluster.number]
        pixels = np.isin(marks.labels, own)
        assert [bool(row[j]) for j in order] == [finds(cluster, pixels, r) for r in regions]


def test_nothing_marked_or_nothing_labeled():
    nothing, mask = np.zeros(SHAPE, bool), dots(np.random.default_rng(0))
    marks = clusters.marks(mask.astype(np.float32), mask, SPACING, RULE)
    none = clusters.marks(nothing.astype(np.float32), nothing, SPACING, RULE)
    known = matching.reference(nothing, "none", SPACING, RULE)
    assert matching.mark_pairs(known, marks).shape == (len(marks.clusters), 0)
    region = matching.reference(mask, "cluster", SPACING, RULE)
    assert matching.mark_pairs(region, none).shape == (0, len(region.clusters))
