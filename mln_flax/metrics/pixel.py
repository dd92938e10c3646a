"""How well one predicted mask agrees with its reference: pixel counts, ratios, distances."""

import math

import numpy as np

from mln_flax.metrics.surface import binary_pair, scores_in_pixels_and_mm, surface_scores
from mln_flax.types import Record

DISTANCES = ("hausdorff", "hausdorff95", "average_distance", "one_way_distance")


def pixel_scores(prediction: np.ndarray, reference: np.ndarray) -> tuple[float, float, float]:
    """True positive rate, precision and Dice coefficient of two masks (Eq. 21-23 of the paper).

    Args:
      prediction: bool or {0, 1} [H, W].
      reference: the same.

    Returns:
      Three numbers in [0, 1]. A ratio without a denominator is undefined and nan: the rate where
      the reference is empty, the precision where the prediction is. DSC is 1 where both are empty
      and 0 where one is.

    Raises:
      ValueError: the masks are not two equal binary images.
    """
    return _ratios(*_counts(*binary_pair(prediction, reference)))


def image_scores(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: tuple[float, float] | list[float] | None,
) -> Record:
    """The score entry of a record: counts, ratios, and boundary distances in pixels and mm.

    Undefined ratios are None, and so are the `_mm` distances where `spacing_mm`, (row, column), is
    None. `empty` says which mask holds no pixel: neither, both, prediction (alone), reference.
    Raises ValueError as `pixel_scores` and `surface.hausdorff` do.
    """
    prediction, reference = binary_pair(prediction, reference)
    tp, fp, fn = _counts(prediction, reference)
    tpr, precision, dsc = _ratios(tp, fp, fn)
    if spacing_mm is None:
        pixels = surface_scores(prediction, reference)._asdict()
        millimeters = dict.fromkeys(DISTANCES)
    else:
        spacing = spacing_mm[0], spacing_mm[1]
        both = scores_in_pixels_and_mm(prediction, reference, spacing)
        pixels, millimeters = (scores._asdict() for scores in both)
    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tpr": None if math.isnan(tpr) else tpr,
        "precision": None if math.isnan(precision) else precision,
        "dsc": dsc,
        **{f"{name}_px": pixels[name] for name in DISTANCES},
        **{f"{name}_mm": millimeters[name] for name in DISTANCES},
        "empty": _empty_kind(tp, fp, fn),
    }


def _counts(prediction: np.ndarray, reference: np.ndarray) -> tuple[int, int, int]:
    """True positive, false positive and missed pixels."""
    tp = int(np.count_nonzero(prediction & reference))
    marked, labeled = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    return tp, marked - tp, labeled - tp


def _ratios(tp: int, fp: int, fn: int) -> tuple[float, float, float]:
    tpr = tp / (tp + fn) if tp + fn else math.nan
    precision = tp / (tp + fp) if tp + fp else math.nan
    dsc = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0
    return tpr, precision, dsc


def _empty_kind(tp: int, fp: int, fn: int) -> str:
    return {
        (False, False): "neither",
        (True, True): "both",
        (True, False): "prediction",
        (False, True): "reference",
    }[tp + fp == 0, tp + fn == 0]
