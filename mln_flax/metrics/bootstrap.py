"""Percentile intervals of a ratio of sums, by resampling patients."""

from collections.abc import Sequence

import numpy as np


def ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    patients: Sequence[str],
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """(low, high) of sum(numerators) / sum(denominators); nan where no resample has a denominator.

    All images of a patient go together. A resample whose denominators add up to 0 is left out.
    The order of the images does not matter.

    Args:
      numerators: of each image.
      denominators: of each image.
      patients: of each image.
      resamples: how many are drawn.
      level: share of the resamples inside.
      seed: of the drawing.
    """
    names, place = np.unique(np.asarray(patients, str), return_inverse=True)
    sums = np.zeros((len(names), 2))
    np.add.at(sums, place, np.stack([numerators, denominators], axis=1))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples) @ sums
    drawn = drawn[drawn[:, 1] > 0]
    if not len(drawn):
        return float("nan"), float("nan")
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
