import itertools
import math
import tracemalloc

import numpy as np
import pytest
from scipy import ndimage
from scipy.optimize import linprog
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist

from mln_flax.metrics import clusters, dbscan, polygons
from mln_flax.metrics.clusters import ClusterRule, marks

SPACING = (0.1, 0.07)
EIGHT = np.ones((3, 3))


def speckle(seed, shape=(120, 150), share=0.01):
    """A probability map with some hundred objects, and its mask."""
    rng = np.random.default_rng(seed)
    probability = ndimage.maximum_filter(rng.random(shape) * (rng.random(shape) < share), (2, 3))
    return probability, probability > 0.2


def all_corners(mask, spacing):
    """Every corner of every pixel in mm: [n, 2]."""
    corners = [
        (r + a, c + b) for r, c in np.argwhere(mask) for a in (-0.5, 0.5) for b in (-0.5, 0.5)
    ]
    return np.array(corners) * spacing


def naive_dbscan(points, radius, min_count):
    """Groups as sets, by the definition and all distances."""
    near = cdist(points, points) <= radius
    cores = [i for i in range(len(points)) if near[i].sum() >= min_count]
    groups, left = [], set(cores)
    while left:
        group, fresh = set(), {left.pop()}
        while fresh:
            group |= fresh
            fresh = {j for i in fresh for j in left if near[i, j]}
            left -= fresh
        groups.append(group)
    for i in set(range(len(points))) - set(cores):
        nearest = min(cores, key=lambda j: math.dist(points[i], points[j]), default=None)
        if nearest is not None and near[i, nearest]:
            next(group for group in groups if nearest in group).add(i)
    return sorted(map(sorted, groups))


def as_sets(groups):
    return sorted(np.flatnonzero(groups == g).tolist() for g in range(groups.max(initial=-1) + 1))


def test_calcifications_are_those_of_scipy_in_reading_order():
    probability, mask = speckle(0)
    found = marks(probability, mask, SPACING)
    labels, count = ndimage.label(mask, EIGHT)
    assert len(found.calcifications) == count > 50
    numbers = range(1, count + 1)
    centers = ndimage.center_of_mass(mask, labels, numbers)
    order = sorted(range(count), key=lambda i: centers[i])
    boxes = ndimage.find_objects(labels)
    for one, i in zip(found.calcifications, order, strict=True):
        own = labels == i + 1
        np.testing.assert_array_equal(found.labels == one.number, own)
        assert (one.row_px, one.column_px) == pytest.approx(centers[i])
        assert one.box == (*(s.start for s in boxes[i]), *(s.stop for s in boxes[i]))
        assert one.area_mm2 == pytest.approx(own.sum() * 0.007)
        assert one.mean == pytest.approx(probability[own].mean())
        assert one.peak == probability[own].max()
        corners = all_corners(own, SPACING)
        assert one.length_mm == pytest.approx(cdist(corners, corners).max())
    assert [one.number for one in found.calcifications] == list(numbers)
    assert found.labels.dtype == np.int32


def test_clusters_are_those_of_brute_force():
    probability, mask = speckle(1)
    rule = ClusterRule(min_count=3, area_mm2=0.8, margin_mm=0.3)
    found = marks(probability, mask, SPACING, rule)
    centers = np.array([(c.row_px, c.column_px) for c in found.calcifications])
    groups = naive_dbscan(centers * SPACING, rule.radius_mm, 3)
    assert len(groups) == len(found.clusters) > 3
    assert {c.cluster for c in found.calcifications} == set(range(len(groups) + 1))
    for cluster in found.clusters:
        members = [c for c in found.calcifications if c.cluster == cluster.number]
        assert sorted(c.number - 1 for c in members) in groups
        assert cluster.count == len(members) >= 3
        assert cluster.score == sorted(c.peak for c in members)[-3]
        center = centers[[c.number - 1 for c in members]].mean(axis=0)
        assert (cluster.row_px, cluster.column_px) == pytest.approx(center)
        own = np.isin(found.labels, [c.number for c in members])
        rows, columns = np.nonzero(own)
        box = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
        assert cluster.box == box and all(type(side) is int for side in cluster.box)
        corners = all_corners(own, SPACING)
        assert cluster.area_mm2 == pytest.approx(ConvexHull(corners).volume)
        assert cluster.extent_mm == pytest.approx(cdist(corners, corners).max())
        outline = np.array(cluster.outline) * SPACING
        nearest = polygons.distances(outline, corners[ConvexHull(corners).vertices])
        assert 0.3 < nearest.min() and nearest.max() < 0.3 * 1.02
        turn = np.linspace(0, 2 * np.pi, 50)[:, None, None] + [0, np.pi / 2]
        circles = (corners + 0.2999 * np.sin(turn)).reshape(-1, 2)
        assert polygons.distances(circles, outline).max() == 0
    scores = [cluster.score for cluster in found.clusters]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("seed", range(6))
def test_groups_are_those_of_brute_force(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    points = rng.random((80, 2)) * (rng.integers(4, 20), rng.integers(0, 20))  # on a line as well
    min_count = int(rng.integers(1, 5))
    groups = dbscan.groups(points, 1.3, min_count)
    assert as_sets(groups) == naive_dbscan(points, 1.3, min_count)
    order = rng.permutation(80)
    shuffled = as_sets(dbscan.groups(points[order], 1.3, min_count))
    assert sorted(sorted(order[some].tolist()) for some in shuffled) == as_sets(groups)
    monkeypatch.setattr(dbscan, "_PAIRS", 7)  # in many parts
    np.testing.assert_array_equal(dbscan.groups(points, 1.3, min_count), groups)


def test_twenty_thousand_objects_need_no_matrix_of_distances():
    points = np.random.default_rng(0).random((20_000, 2)) * 60
    tracemalloc.start()
    groups = dbscan.groups(points, ClusterRule().radius_mm, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (groups == 0).all()
    assert peak < 0.4e9  # all distances: 3.2e9


def test_a_circle_holds_its_edge_and_the_center_itself():
    rule = ClusterRule(min_count=3, area_mm2=math.pi)  # radius 1
    line = np.array([[0.0, 0], [0, 1], [0, 2], [0, 3.1]])
    np.testing.assert_array_equal(dbscan.groups(line, rule.radius_mm, 3), [0, 0, 0, -1])
    assert ClusterRule().radius_mm == pytest.approx(5.6419, abs=1e-4)
    assert (dbscan.groups(line[:2], 5, 3) == -1).all()
    assert dbscan.groups(np.zeros((0, 2)), 5, 3).shape == (0,)


def test_the_score_is_the_highest_threshold_at_which_it_is_a_cluster():
    probability = np.zeros((20, 20), np.float32)
    for i, height in enumerate((0.95, 0.6, 0.9, 0.7)):
        probability[3 * i, 3 * i] = height
    (cluster,) = marks(probability, probability > 0.5, (0.1, 0.1)).clusters
    assert cluster.score == np.float32(0.7)
    assert marks(probability, probability > 0.69, (0.1, 0.1)).clusters
    assert not marks(probability, probability > 0.7, (0.1, 0.1)).clusters


@pytest.mark.parametrize("turn", [np.transpose, np.flipud, np.fliplr])
def test_a_turned_image_has_the_same_marks(turn):
    probability, mask = speckle(2)
    spacing = SPACING[::-1] if turn is np.transpose else SPACING
    rule = ClusterRule(area_mm2=0.8)
    one, other = (
        marks(probability, mask, SPACING, rule),
        marks(turn(probability), turn(mask), spacing, rule),
    )
    for field in ("count", "score", "area_mm2", "extent_mm"):
        a, b = (sorted(getattr(c, field) for c in m.clusters) for m in (one, other))
        assert a == pytest.approx(b)
    for field in ("length_mm", "area_mm2", "mean", "peak"):
        a, b = (sorted(getattr(c, field) for c in m.calcifications) for m in (one, other))
        assert a == pytest.approx(b)


def test_the_smallest_masks():
    empty = marks(np.zeros((5, 6)), np.zeros((5, 6)), (1, 1))
    assert empty.calcifications == empty.clusters == () and not empty.labels.any()
    assert empty.labels.shape == (5, 6) and empty.labels.dtype == np.int32
    (pixel,) = marks(np.full((1, 1), 0.8), np.ones((1, 1)), (0.3, 0.4)).calcifications
    assert pixel == (
        1,
        0.0,
        0.0,
        (0, 0, 1, 1),
        pytest.approx(0.5),
        pytest.approx(0.12),
        0.8,
        0.8,
        0,
    )
    row = np.zeros((1, 9))
    row[0, ::4] = 1  # three single pixels in a line
    (cluster,) = marks(row, row, (0.3, 0.4)).clusters
    assert cluster.area_mm2 == pytest.approx(9 * 0.12)
    assert cluster.extent_mm == pytest.approx(math.hypot(0.3, 3.6))


@pytest.mark.parametrize("spacing", [(0.1,), (0.1, 0), (0.1, math.nan), (1, 1, 1)])
def test_a_spacing_that_is_none_is_refused(spacing):
    with pytest.raises(ValueError, match="spacing_mm is"):
        marks(np.zeros((3, 3)), np.zeros((3, 3)), spacing)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="two equal shapes"):
        marks(np.zeros((3, 3)), np.zeros((3, 4)), (1, 1))


def test_the_least_number_of_pixels():
    assert clusters.least_pixels(0.0, (0.1, 0.1)) == 1
    for n, side in itertools.product(range(1, 30), (0.1, 0.07, 0.05, 0.0495)):
        assert clusters.least_pixels(n * side * side, (side, side)) == n
        assert clusters.least_pixels((n + 0.01) * side**2, (side, side)) == n + 1


def test_references_of_each_kind():
    mask = np.zeros((60, 60), np.uint8)
    mask[10:40, 10:30] = 1
    mask[15:35, 15:25] = 0  # a ring
    mask[50:52, 50:52] = 1
    regions = clusters.reference_marks(mask, "cluster", (0.1, 0.1))
    assert regions.calcifications == () and [c.count for c in regions.clusters] == [0, 0]
    assert regions.clusters[0].area_mm2 == pytest.approx(6)
    assert regions.clusters[1].box == (50, 50, 52, 52)
    assert set(np.unique(regions.labels)) == {0, 1, 2}
    same = clusters.reference_marks(mask, "calcification", (0.1, 0.1))
    assert len(same.calcifications) == 2 and same.clusters == ()
    assert clusters.reference_marks(mask * 0, "none", (0.1, 0.1)).clusters == ()
    with pytest.raises(ValueError, match="not empty"):
        clusters.reference_marks(mask, "none", (0.1, 0.1))
    with pytest.raises(ValueError, match="label_kind is 'mass'"):
        clusters.reference_marks(mask, "mass", (0.1, 0.1))


def frame(*places):
    """One image with a cluster at each (row, column, peak)."""
    probability = np.zeros((100, 100))
    for row, column, peak in places:
        for d in (0, 4, 8):
            probability[row + d, column + (d * d) % 7] = peak
    return marks(probability, probability > 0, (0.1, 0.1), ClusterRule(area_mm2=2, margin_mm=0.2))


def test_clusters_of_neighboring_frames_are_linked():
    frames = [
        frame((10, 10, 0.7), (10, 60, 0.8)),
        frame((12, 13, 0.6)),
        frame(),
        frame((10, 10, 0.9)),
        frame((12, 12, 0.5), (70, 70, 0.8)),
    ]
    assert [len(f.clusters) for f in frames] == [2, 1, 0, 1, 2]
    # The third frame parts the volume: beyond it a cluster at the same place is another.
    assert clusters.linked(frames) == [{1: 2, 2: 4}, {1: 4}, {}, {1: 1}, {1: 3, 2: 1}]
    assert clusters.linked([]) == []


@pytest.mark.parametrize("seed", range(40))
def test_polygons_overlap_where_one_point_is_in_both(seed):
    rng = np.random.default_rng(seed)
    one, other = (polygons.hull(rng.random((6, 2)) + rng.random(2)) for _ in range(2))
    # A point as a mixture of the corners of each: the linear program has an answer or has none.
    equal = np.zeros((4, len(one) + len(other)))
    equal[:2] = np.concatenate([one, -other]).T
    equal[2, : len(one)] = equal[3, len(one) :] = 1
    feasible = linprog(np.zeros(equal.shape[1]), A_eq=equal, b_eq=[0, 0, 1, 1]).status == 0
    assert polygons.overlap(one, other) == feasible


def test_distances_to_a_polygon():
    rng = np.random.default_rng(3)
    corners = polygons.hull(rng.random((9, 2)))
    points = rng.random((200, 2)) * 2 - 0.5
    share = np.linspace(0, 1, 2000)[:, None, None]
    edge = (corners * (1 - share) + np.roll(corners, -1, axis=0) * share).reshape(-1, 2)
    inside = (ConvexHull(corners).equations @ np.c_[points, np.ones(200)].T <= 0).all(axis=0)
    expected = np.where(inside, 0, cdist(points, edge).min(axis=1))
    assert 5 < inside.sum() < 195
    np.testing.assert_allclose(polygons.distances(points, corners), expected, atol=1e-3)
    np.testing.assert_allclose(polygons.distances(points, corners[::-1]), expected, atol=1e-3)
