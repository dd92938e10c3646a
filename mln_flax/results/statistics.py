"""Means over seeds and paired differences over images: pure functions of numbers."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95  # of the interval
_AT_ONCE = 500  # resamples drawn together


class Comparison(NamedTuple):
    """A mean difference, its interval, and how surprising it were if there was none."""

    difference: float
    low: float
    high: float
    p: float  # two-sided


def finite_mean(values: Iterable[float | None]) -> float:
    """The mean over what is defined; nan where nothing is."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float]:
    """The mean and the sample standard deviation (n - 1); nan where there are too few values."""
    numbers = np.array([value for value in values if math.isfinite(value)], float)
    mean = float(numbers.mean()) if numbers.size else math.nan
    return mean, float(numbers.std(ddof=1)) if numbers.size > 1 else math.nan


def paired_bootstrap(
    differences: Sequence[np.ndarray], resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """The mean over groups of the mean difference, with an interval by resampling images.

    Each group (a target domain) is resampled within itself, with replacement. The interval has
    the 2.5th and the 97.5th percentile of the resampled means as its ends. p is twice the smaller
    share of resamples, the data itself counted in, on one side of zero, and at most 1.

    Args:
      differences: per group, the differences of the images that both sides have: float [n], n > 0.
      resamples: how many are drawn.
      seed: of the drawing; the answer is a function of the arguments.

    Raises:
      ValueError: there is no group, or an empty one.
    """
    groups = [np.asarray(group, float) for group in differences]
    if not groups or not all(group.size for group in groups):
        raise ValueError("paired_bootstrap: needs one or more groups, each with one image or more")
    rng = np.random.default_rng(seed)
    means = np.mean([_resampled(group, resamples, rng) for group in groups], axis=0)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    beyond = 1 + min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    return Comparison(
        float(np.mean([group.mean() for group in groups])),
        float(low),
        float(high),
        min(1.0, 2 * beyond / (resamples + 1)),
    )


def _resampled(group: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """The means of so many resamples of a group: float64 [resamples]."""
    parts = []
    for start in range(0, resamples, _AT_ONCE):  # a large group would not fit at once
        count = min(_AT_ONCE, resamples - start)
        parts.append(group[rng.integers(group.size, size=(count, group.size))].mean(axis=1))
    return np.concatenate(parts)
