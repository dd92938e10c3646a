"""Free-response ROC: what is found against false marks per image, from counts of each image.

Counts are taken at one fixed ladder of thresholds, so that curves, operating points and intervals
follow from recorded lines alone. What finds what stands in `metrics/matching.py`. Each reference
counts once, however many marks find it, and none of these is false; a mark is false if it finds
nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mln_flax.metrics import clusters, dbscan, ladder, matching
from mln_flax.types import Record, UserError

_LOW, _HIGH, _COUNT = 0.05, 0.9999, 40


def _ladder() -> tuple[float, ...]:
    low, high = (np.log(p / (1 - p)) for p in (_LOW, _HIGH))
    logits = np.linspace(low, high, _COUNT)
    return tuple(round(float(p), 6) for p in 1 / (1 + np.exp(-logits)))


THRESHOLDS = _ladder()  # evenly spaced in the logit: networks answer near 0 and near 1
RATES = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)  # false marks per image at which sensitivity is shown
UNITS = ("clusters", "objects")  # what is counted
_KEY = [_COUNT, _LOW, _HIGH]  # in each record: counts of another ladder cannot be added


class Curve(NamedTuple):
    """A FROC curve, one point for each threshold of the ladder."""

    rate: np.ndarray  # [T] false marks per image
    sensitivity: np.ndarray  # [T]; nan where there is no reference
    references: int
    images: int  # that false marks are counted on
    counted_on: str  # normal, all: which images these are


class Intervals(NamedTuple):
    """Percentile intervals of a curve's numbers: (low, high)."""

    sensitivity: np.ndarray  # [rates, 2]
    partial_area: np.ndarray  # [2]


class OperatingThreshold(NamedTuple):
    """The threshold that was chosen for whole images."""

    threshold: float
    reached: float  # false clusters per image there
    images: int  # normal images that it was chosen on; 0: on all, as there was none


def counts(
    probability: np.ndarray,
    mask: np.ndarray,
    label_kind: str,
    spacing_mm: Sequence[float],
    min_area_mm2: float,
    rule: clusters.ClusterRule = clusters.USUAL,
) -> Record:
    """What is found and what is false in one image at each threshold: plain numbers and lists.

    At each threshold the mask is `probability > threshold` without objects below `min_area_mm2`,
    and its objects and clusters are those of `clusters.marks`.

    Args:
      probability: float [H, W].
      mask: bool or {0, 1} [H, W], the label.
      label_kind: calcification, cluster or none.
      spacing_mm: (row, column).
      min_area_mm2: of an object.
      rule: what is a cluster, marked or labeled.

    Raises:
      ValueError: as `clusters.reference_marks`, or the shapes differ.
    """
    probability, mask = np.asarray(probability), np.asarray(mask)
    if probability.shape != mask.shape:
        raise ValueError(f"probability has shape {probability.shape}, mask {mask.shape}")
    known = matching.reference(mask, label_kind, spacing_mm, rule)
    columns: dict[str, list[int]] = {
        f"{unit}_{what}": [0] * _COUNT for unit in UNITS for what in ("found", "false")
    }
    least = clusters.least_pixels(min_area_mm2, spacing_mm)
    for step in ladder.steps(probability, THRESHOLDS, least):
        objects, groups = _count_objects(known, step), _count_clusters(known, step, rule)
        for unit, (found, false) in (("objects", objects), ("clusters", groups)):
            columns[f"{unit}_found"][step.level] = found
            columns[f"{unit}_false"][step.level] = false
    return {
        "ladder": _KEY,
        "min_area_mm2": float(min_area_mm2),
        "normal": not bool(np.any(mask)),
        "objects": len(known.calcifications),
        "clusters": len(known.clusters),
        **columns,
    }


def level(threshold: float) -> int | None:
    """The place of a threshold in the ladder, and so in the lists of a record, or None."""
    return THRESHOLDS.index(threshold) if threshold in THRESHOLDS else None


def scored_clusters(
    marks: clusters.Marks,
    mask: np.ndarray,
    label_kind: str,
    spacing_mm: Sequence[float],
    rule: clusters.ClusterRule = clusters.USUAL,
) -> list[Record]:
    """Of each marked cluster its `score`, and `hit`: whether it finds a reference cluster."""
    known = matching.reference(mask, label_kind, spacing_mm, rule)
    hits = matching.mark_pairs(known, marks)
    return [
        {"score": cluster.score, "hit": bool(found.any())}
        for cluster, found in zip(marks.clusters, hits, strict=True)
    ]


def curve(records: Sequence[Record], unit: str = "clusters", counted_on: str = "normal") -> Curve:
    """The FROC curve of images' counts.

    Args:
      records: one or more, from `counts`.
      unit: clusters, objects.
      counted_on: the images on which false marks are counted: `normal`, the usual convention, as
        a mark beside a lesion may be a lesion that nobody drew; `all`. Where no image is normal
        they are counted on all, and the curve's `counted_on` says so.

    Raises:
      ValueError: there is no record, or another unit or other images.
      UserError: records of another ladder of thresholds.
    """
    sums, counted_on = _sums(records, unit, counted_on)
    rate, sensitivity = _points(sums.sum(axis=0))
    return Curve(rate, sensitivity, int(sums[:, -2].sum()), int(sums[:, -1].sum()), counted_on)


def sensitivity_at(points: Curve, rates: Sequence[float] | np.ndarray = RATES) -> np.ndarray:
    """The highest sensitivity at a threshold with at most so many false marks: [rates].

    Exact steps: nothing is interpolated between thresholds. Where every threshold marks more, it
    is 0: nothing is found without a mark. nan where there is no reference.
    """
    return _sensitivity_at(points.rate, points.sensitivity, rates)


def partial_area(points: Curve, limit: float = 1.0) -> float:
    """The mean of `sensitivity_at` over rates from 0 to the limit, evenly: 0 to 1.

    It is the area under the curve's steps up to so many false marks, divided by the limit.
    """
    return float(_partial_area(points.rate, points.sensitivity, limit))


def intervals(
    records: Sequence[Record],
    patients: Sequence[str],
    unit: str = "clusters",
    counted_on: str = "normal",
    rates: Sequence[float] = RATES,
    limit: float = 1.0,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Percentile intervals of sensitivities and partial area, by resampling patients.

    All images of a patient go together; of each resample both sensitivities and rates are taken
    anew, so the threshold for a rate is as well. A resample without a reference, or without an
    image to count false marks on, is left out; nan where none is left. The order of the records
    does not matter.

    Args:
      records: as `curve`.
      patients: of each record.
      unit: as `curve`.
      counted_on: as `curve`.
      rates: of `sensitivity_at`.
      limit: of `partial_area`.
      resamples: how many are drawn.
      level: share of the resamples inside.
      seed: of the drawing.
    """
    sums, _ = _sums(records, unit, counted_on)
    names, place = np.unique(np.asarray(patients, str), return_inverse=True)
    of_patient = np.zeros((len(names), sums.shape[1]))
    np.add.at(of_patient, place, sums)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    rate, sensitivity = _points(times @ of_patient)
    usable = ~np.isnan(rate).any(axis=1) & ~np.isnan(sensitivity).any(axis=1)
    ends = [(1 - level) / 2, (1 + level) / 2]
    if not usable.any():
        return Intervals(np.full((len(rates), 2), np.nan), np.full(2, np.nan))
    drawn = rate[usable], sensitivity[usable]
    return Intervals(
        np.quantile(_sensitivity_at(*drawn, rates), ends, axis=0).T,
        np.quantile(_partial_area(*drawn, limit), ends),
    )


def operating_threshold(records: Sequence[Record], asked: float = 0.5) -> OperatingThreshold:
    """The lowest threshold from which on false clusters per normal image are at most `asked`.

    From which on: at every higher threshold of the ladder too, as their number may rise again
    where a large cluster falls apart. Where the highest threshold does not reach it either, it is
    the highest, and `reached` tells. Where no image is normal all images are taken, and `images`
    is 0.

    Raises:
      ValueError: there is no record.
      UserError: records of another ladder of thresholds.
    """
    points = curve(records, "clusters", "normal")
    above = np.flatnonzero(points.rate > asked)
    index = min(above[-1] + 1, _COUNT - 1) if above.size else 0
    images = points.images if points.counted_on == "normal" else 0
    return OperatingThreshold(THRESHOLDS[index], float(points.rate[index]), images)


def _count_objects(known: matching.Reference, step: ladder.Step) -> tuple[int, int]:
    """Calcifications found, false objects."""
    if known.clusters and not len(known.calcifications):  # regions
        near = matching.near_clusters(known, step.centers).any(axis=1)
        return 0, int(np.count_nonzero(~near))
    labels = known.labels.reshape(-1)[step.pixels]
    both = np.stack([step.numbers, labels - 1], axis=1)[(labels > 0) & (step.numbers >= 0)]
    pairs = matching.object_pairs(known, step.centers, both)
    objects, found = (len(np.unique(column)) for column in pairs.T)
    return found, len(step.centers) - objects


def _count_clusters(
    known: matching.Reference, step: ladder.Step, rule: clusters.ClusterRule
) -> tuple[int, int]:
    """Reference clusters found, false clusters."""
    group = dbscan.groups(step.centers * known.spacing_mm, rule.radius_mm, rule.min_count)
    count = group.max(initial=-1) + 1
    if not count or not known.clusters:
        return 0, int(count)
    members = [np.flatnonzero(group == g) for g in range(count)]
    centers = np.array([step.centers[some].mean(axis=0) for some in members])
    boxes = [[*step.boxes[m, :2].min(axis=0), *step.boxes[m, 2:].max(axis=0)] for m in members]

    def pixels_of(i: int) -> tuple[np.ndarray, np.ndarray]:
        pixels = step.pixels[np.isin(step.numbers, members[i])]
        return np.divmod(pixels, known.labels.shape[1])

    hits = matching.cluster_pairs(known, centers, np.array(boxes), pixels_of)
    return int(hits.any(axis=0).sum()), int((~hits.any(axis=1)).sum())


def _sums(records: Sequence[Record], unit: str, counted_on: str) -> tuple[np.ndarray, str]:
    """Per image found [T], false [T] where it counts, references and 1 where it counts."""
    if unit not in UNITS or counted_on not in ("normal", "all"):
        raise ValueError(f"{unit!r}, {counted_on!r}; allowed: {UNITS}, ('normal', 'all')")
    if not records:
        raise ValueError("a curve of 0 images; allowed: 1 or more")
    if any(record["ladder"] != _KEY for record in records):
        raise UserError(
            "images were counted at other thresholds than these of today; evaluate the run again"
        )
    if not any(record["normal"] for record in records):
        counted_on = "all"
    counts_on = [record["normal"] or counted_on == "all" for record in records]
    rows = [
        [
            *record[f"{unit}_found"],
            *(counted * n for n in record[f"{unit}_false"]),
            record[unit],
            counted,
        ]
        for record, counted in zip(records, counts_on, strict=True)
    ]
    return np.array(rows, float), counted_on


def _points(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rate and sensitivity [..., T] of sums [..., 2 T + 2]; nan for what has no denominator."""
    found, false, references, images = np.split(sums, [_COUNT, 2 * _COUNT, 2 * _COUNT + 1], axis=-1)
    with np.errstate(invalid="ignore"):
        return false / images, found / references


def _sensitivity_at(
    rate: np.ndarray, sensitivity: np.ndarray, rates: Sequence[float] | np.ndarray
) -> np.ndarray:
    columns = [
        np.where(rate <= limit, sensitivity, 0 * sensitivity).max(axis=-1) for limit in rates
    ]
    return np.stack(columns, axis=-1)


def _partial_area(rate: np.ndarray, sensitivity: np.ndarray, limit: float) -> np.ndarray:
    order = np.argsort(rate, axis=-1)
    steps = np.minimum(np.take_along_axis(rate, order, -1), limit)
    highest = np.maximum.accumulate(np.take_along_axis(sensitivity, order, -1), axis=-1)
    widths = np.diff(steps, axis=-1, append=np.full_like(steps[..., :1], limit))
    return (widths * highest).sum(axis=-1) / limit
