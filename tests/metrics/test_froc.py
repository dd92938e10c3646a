import json
import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import ConvexHull
from whole_records import record_of

from mln_flax.metrics import clusters, froc
from mln_flax.metrics.clusters import ClusterRule
from mln_flax.types import UserError

RULE = ClusterRule(min_count=3, area_mm2=3.0)
EIGHT = np.ones((3, 3))


def grown(pixels, center, margin):
    """Whether a center lies in the hull of pixels' corners in mm or so near, by dense sampling."""
    hull = ConvexHull(pixels)
    if (hull.equations @ [*center, 1] <= 1e-9).all():
        return True
    corners = pixels[hull.vertices]
    share = np.linspace(0, 1, 500)[:, None, None]
    edge = corners * (1 - share) + np.roll(corners, -1, axis=0) * share
    return np.sqrt(((edge - center) ** 2).sum(axis=-1)).min() <= margin


def corners_mm(mask, spacing):
    corners = [
        (r + a, c + b) for r, c in np.argwhere(mask) for a in (-0.5, 0.5) for b in (-0.5, 0.5)
    ]
    return np.array(corners) * spacing


def pieces(marks, spacing):
    """Of each cluster its center in mm and its mask."""
    for cluster in marks.clusters:
        numbers = [c.number for c in marks.calcifications if c.cluster == cluster.number]
        center = np.array([cluster.row_px, cluster.column_px]) * spacing
        yield center, np.isin(marks.labels, numbers or [cluster.number]), cluster.area_mm2


def naive_counts(probability, mask, kind, spacing, min_area, rule):
    """Every threshold anew: decided, labeled, matched one by one."""
    spacing = np.array(spacing)
    known = clusters.reference_marks(mask, kind, spacing, rule)
    rows = []
    for threshold in froc.THRESHOLDS:
        labels, n = ndimage.label(probability > threshold, EIGHT)
        large = [
            i for i in range(1, n + 1) if (labels == i).sum() * spacing.prod() > min_area - 1e-9
        ]
        found = clusters.marks(probability, np.isin(labels, large), spacing, rule)
        hits, objects_false = set(), 0
        for one in found.calcifications:
            center = np.array([one.row_px, one.column_px]) * spacing
            own = set(known.labels[found.labels == one.number]) - {0}
            if kind == "cluster":
                near = np.argwhere(known.labels) * spacing - center
                objects_false += not (np.hypot(*near.T) <= 2.5).any()
                continue
            for other in known.calcifications:
                if math.dist(center, np.array([other.row_px, other.column_px]) * spacing) <= 0.5:
                    own.add(other.number)
            hits |= own
            objects_false += not own
        matches = np.zeros((len(found.clusters), len(known.clusters)), bool)
        for i, (center, own, area) in enumerate(pieces(found, spacing)):
            for j, (goal, region, size) in enumerate(pieces(known, spacing)):
                if kind == "cluster":
                    near = np.argwhere(region) * spacing - center
                    first = (np.hypot(*near.T) <= 2.5).any()
                else:
                    first = grown(corners_mm(region, spacing), center, 2.5)
                second = area <= 4 * size and grown(corners_mm(own, spacing), goal, 0)
                matches[i, j] = first or second
        rows.append(
            (len(hits), objects_false, matches.any(axis=0).sum(), (~matches.any(axis=1)).sum())
        )
    return np.array(rows).T


def scene(seed, kind):
    """A view with noise of every height and, unless `none`, two labeled clusters, half seen."""
    rng = np.random.default_rng(seed)
    shape = (90, 110)
    seeds = rng.random(shape) * (rng.random(shape) < 0.012)
    probability = ndimage.gaussian_filter(seeds, 0.8)
    probability = probability / probability.max() + 0.02 * rng.random(shape)
    mask = np.zeros(shape, np.uint8)
    for center in ((25, 25), (60, 80)) if kind != "none" else ():
        for row, column in center + rng.integers(-7, 8, (6, 2)):
            mask[row : row + 2, column : column + 2] = 1
            shift = rng.integers(-3, 4)
            if rng.random() < 0.7:
                place = np.s_[row + shift : row + shift + 2, column : column + 2]
                probability[place] = 0.6 + 0.4 * rng.random()
    if kind == "cluster":
        mask = ndimage.binary_closing(mask, EIGHT, 6).astype(np.uint8)
    probability = np.where(
        probability > 0.3, 1 - (1 - np.minimum(probability, 1)) ** 4, probability
    )
    return probability.astype(np.float32), mask


@pytest.mark.parametrize("kind", ["calcification", "cluster", "none"])
@pytest.mark.parametrize(("seed", "spacing"), [(0, (0.1, 0.1)), (1, (0.1, 0.07)), (2, (0.2, 0.15))])
def test_counts_are_those_of_every_threshold_anew(seed, spacing, kind):
    probability, mask = scene(seed, kind)
    record = froc.counts(probability, mask, kind, spacing, 0.035, RULE)
    columns = ("objects_found", "objects_false", "clusters_found", "clusters_false")
    expected = naive_counts(probability, mask, kind, spacing, 0.035, RULE)
    for name, numbers in zip(columns, expected, strict=True):
        assert record[name] == numbers.tolist(), name
    assert record == json.loads(json.dumps(record))
    known = clusters.reference_marks(mask, kind, spacing, RULE)
    assert record["objects"] == len(known.calcifications)
    assert record["clusters"] == len(known.clusters)
    assert record["normal"] == (kind == "none")
    assert expected[3].max() > 0 and (kind == "none" or expected[2].max() > 0)


@pytest.mark.parametrize("kind", ["calcification", "cluster"])
def test_scored_clusters_hit_what_the_counts_say(kind):
    false = 0
    for seed, level in ((0, 5), (1, 12), (2, 20)):
        probability, mask = scene(seed, kind)
        marks = clusters.marks(probability, probability > froc.THRESHOLDS[level], (0.1, 0.1), RULE)
        scored = froc.scored_clusters(marks, mask, kind, (0.1, 0.1), RULE)
        assert [s["score"] for s in scored] == [c.score for c in marks.clusters]
        record = froc.counts(probability, mask, kind, (0.1, 0.1), 0, RULE)
        assert sum(not s["hit"] for s in scored) == record["clusters_false"][level]
        false += record["clusters_false"][level]
        assert froc.level(froc.THRESHOLDS[level]) == level
    assert false > 0 and froc.level(0.123) is None
    nothing = clusters.marks(probability * 0, mask * 0, (0.1, 0.1), RULE)
    assert froc.scored_clusters(nothing, mask, kind, (0.1, 0.1), RULE) == []


def dots(shape, places):
    mask = np.zeros(shape, bool)
    for row, column in places:
        mask[row, column] = True
    return mask


@pytest.mark.parametrize(("step", "found"), [(0, 1), (25, 1), (26, 0)])  # of 0.1 mm
def test_a_cluster_beside_its_reference(step, found):
    # The reference's outer edge is at 20.5, the center of what is marked at 20 + step.
    reference = dots((60, 90), [(30, 10), (30, 15), (30, 20)])
    marked = dots((60, 90), [(30, 20 + step + d) for d in (-5, 0, 5)])
    record = froc.counts(marked * np.float32(1), reference, "calcification", (0.1, 0.1), 0)
    assert record["clusters_found"] == [found] * 40
    assert record["clusters_false"] == [1 - found] * 40


def test_one_giant_mark_finds_nothing():
    reference = dots((300, 300), [(20, 20), (20, 60), (60, 40), (60, 60)])
    giant = dots((300, 300), [(r, c) for r in range(5, 300, 40) for c in range(5, 300, 40)])
    record = froc.counts(giant * np.float32(1), reference, "calcification", (0.1, 0.1), 0)
    assert record["clusters_found"][0] == 0 and record["clusters_false"][0] == 1


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ([(20, 20), (20, 60), (60, 40), (60, 60)], 1),  # 12 mm2, as large as the mark
        ([(40, 43), (40, 45), (40, 47)], 0),  # 0.05 mm2
    ],
)
def test_a_loose_mark_finds_what_lies_in_its_hull(reference, found):
    # A triangle that holds the reference's center; its own lies more than 2.5 mm below.
    marked = dots((150, 100), [(20, 45), (65, 45), *((100, c) for c in range(30, 61, 5))])
    mask = dots((150, 100), reference)
    record = froc.counts(marked * np.float32(1), mask, "calcification", (0.1, 0.1), 0)
    assert record["clusters_found"][0] == found and record["clusters_false"][0] == 1 - found


@pytest.mark.parametrize(("columns", "found"), [(5, 1), (6, 0)])
def test_objects_find_by_centers_half_a_millimeter_apart(columns, found):
    reference, marked = dots((20, 20), [(5, 5)]), dots((20, 20), [(5, 5 + columns)])
    record = froc.counts(marked * np.float32(1), reference, "calcification", (0.1, 0.1), 0)
    assert record["objects_found"] == [found] * 40
    assert record["objects_false"] == [1 - found] * 40


def test_each_reference_counts_once():
    reference = dots((20, 20), [(5, c) for c in range(5, 15)])  # one object
    marked = dots((20, 20), [(5, 5), (5, 9), (5, 13)])
    record = froc.counts(marked * np.float32(1), reference, "calcification", (0.1, 0.1), 0)
    assert record["objects_found"][0] == 1 and record["objects_false"][0] == 0
    assert record["objects"] == 1


def test_what_is_not_above_the_lowest_threshold():
    record = froc.counts(np.full((4, 4), np.nan), np.zeros((4, 4)), "none", (0.1, 0.1), 0)
    assert record["objects_false"] == record["clusters_false"] == [0] * 40
    assert record["normal"]
    with pytest.raises(ValueError, match="mask"):
        froc.counts(np.zeros((4, 4)), np.zeros((4, 5)), "none", (0.1, 0.1), 0)


def test_the_ladder():
    logits = [math.log(t / (1 - t)) for t in froc.THRESHOLDS]
    assert len(logits) == 40 and froc.THRESHOLDS[0] == 0.05 and froc.THRESHOLDS[-1] == 0.9999
    np.testing.assert_allclose(np.diff(logits), np.diff(logits).mean(), rtol=0.05)


def random_records(seed, images):
    rng = np.random.default_rng(seed)
    records = []
    for normal in rng.random(images) < 0.5:
        found = np.sort(rng.integers(0, 4, 40))[::-1] * (not normal)
        false = np.sort(rng.poisson(2, 40))[::-1]
        records.append(record_of(found.tolist(), false.tolist(), 0 if normal else 3, bool(normal)))
    return records


@pytest.mark.parametrize("counted_on", ["normal", "all"])
def test_a_curve_by_hand(counted_on):
    records = [
        record_of([2, 1, 1, 0], [5, 0, 0, 0]),
        record_of([2, 2, 0, 0], [7, 0, 0, 0]),
        record_of([0], [4, 1, 0, 0], references=0, normal=True),
        record_of([0], [2, 0, 0, 0], references=0, normal=True),
    ]
    curve = froc.curve(records, counted_on=counted_on)
    np.testing.assert_allclose(curve.sensitivity[:5], [1, 0.75, 0.25, 0, 0])
    rates = [3, 0.5, 0, 0, 0] if counted_on == "normal" else [4.5, 0.25, 0, 0, 0]
    np.testing.assert_allclose(curve.rate[:5], rates)
    assert curve[2:] == (4, 2 if counted_on == "normal" else 4, counted_on)
    at = froc.sensitivity_at(curve, (0.1, 0.25, 0.5, 2.9, 3, 5))
    if counted_on == "normal":
        np.testing.assert_allclose(at, [0.25, 0.25, 0.75, 0.75, 1, 1])
        assert froc.partial_area(curve) == pytest.approx((0.25 + 0.75) / 2)
        assert froc.partial_area(curve, 4) == pytest.approx((0.125 + 0.75 * 2.5 + 1) / 4)
    else:
        np.testing.assert_allclose(at, [0.25, 0.75, 0.75, 0.75, 0.75, 1])


def test_the_partial_area_is_the_mean_of_the_steps():
    curve = froc.curve(random_records(3, 30))
    rates = (np.arange(20_000) + 0.5) / 20_000 * 2.5
    mean = froc.sensitivity_at(curve, rates).mean()
    assert froc.partial_area(curve, 2.5) == pytest.approx(mean, abs=1e-3)
    assert 0 < mean < 1


def test_a_rate_that_no_threshold_keeps_finds_nothing():
    curve = froc.curve([record_of([2], [3]), record_of([0], [3], 0, True)])
    np.testing.assert_array_equal(froc.sensitivity_at(curve), [0, 0, 0, 0, 0, 1])
    assert froc.partial_area(curve) == 0


def test_without_normal_images_or_references():
    curve = froc.curve([record_of([2], [3]), record_of([1], [0])])
    assert curve.counted_on == "all" and curve.images == 2 and curve.rate[0] == 1.5
    nothing = froc.curve([record_of([0], [3], 0, True)])
    assert np.isnan(froc.sensitivity_at(nothing)).all() and math.isnan(froc.partial_area(nothing))
    assert np.isnan(froc.intervals([record_of([0], [3], 0, True)], ["a"]).sensitivity).all()


def test_what_is_refused():
    with pytest.raises(ValueError, match="0 images"):
        froc.curve([])
    with pytest.raises(ValueError, match="allowed"):
        froc.curve([record_of([1], [1])], unit="masses")
    with pytest.raises(ValueError, match="allowed"):
        froc.curve([record_of([1], [1])], counted_on="none")
    with pytest.raises(UserError, match="other thresholds"):
        froc.curve([record_of([1], [1]) | {"ladder": [30, 0.05, 0.9999]}])


def test_intervals_are_those_of_patients_drawn_again():
    records = random_records(5, 24)
    patients = [f"p{i // 2}" for i in range(24)]
    spread = froc.intervals(records, patients, resamples=200, seed=7)
    names = sorted(set(patients))
    drawn = np.random.default_rng(7).multinomial(12, [1 / 12] * 12, size=200)
    at, areas = [], []
    for times in drawn:
        chosen = [
            record
            for name, n in zip(names, times, strict=True)
            for _ in range(n)
            for record, patient in zip(records, patients, strict=True)
            if patient == name
        ]
        curve = froc.curve(chosen)
        if curve.counted_on == "normal" and curve.references:
            at.append(froc.sensitivity_at(curve))
            areas.append(froc.partial_area(curve))
    np.testing.assert_allclose(spread.sensitivity, np.quantile(at, (0.025, 0.975), axis=0).T)
    np.testing.assert_allclose(spread.partial_area, np.quantile(areas, (0.025, 0.975)))
    assert (spread.sensitivity[:, 0] < spread.sensitivity[:, 1]).any()
    order = np.random.default_rng(0).permutation(24)
    again = froc.intervals(
        [records[i] for i in order], [patients[i] for i in order], resamples=200, seed=7
    )
    np.testing.assert_allclose(again.sensitivity, spread.sensitivity)
    other = froc.intervals(records, patients, resamples=200, seed=8)
    assert not np.array_equal(other.partial_area, spread.partial_area)


@pytest.mark.parametrize(
    ("false", "level", "reached"),
    [
        ([4, 2, 1, 0], 2, 0.5),  # of two normal images
        ([1, 0], 0, 0.5),
        ([4, 0, 2, 1, 0], 3, 0.5),  # it rises again above the second
        ([2], 39, 1.0),  # none reaches it
    ],
)
def test_the_operating_threshold(false, level, reached):
    records = [
        record_of([2], [9]),  # not normal: its false clusters do not count
        record_of([0], false, 0, True),
        record_of([0], [0], 0, True),
    ]
    chosen = froc.operating_threshold(records, 0.5)
    assert chosen == (froc.THRESHOLDS[level], reached, 2)
    assert froc.operating_threshold(records[::-1], 0.5) == chosen


def test_an_operating_threshold_without_normal_images_says_so():
    chosen = froc.operating_threshold([record_of([2], [4, 1, 0]), record_of([2], [0])], 0.5)
    assert chosen == (froc.THRESHOLDS[1], 0.5, 0)
