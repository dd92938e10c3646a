"""Calibration: whether clusters of one score are right as often as the score says."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mln_flax.types import Record

_Z = 1.959964  # of the normal distribution, two-sided 95%


class Bin(NamedTuple):
    """Cluster scores that are near each other, and how many of these clusters are right."""

    low: float
    high: float
    clusters: int
    mean_score: float
    hits: int

    @property
    def share(self) -> float:
        """The share of hits."""
        return self.hits / self.clusters

    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the share (J. Am. Stat. Assoc. 22, 1927)."""
        n, p = self.clusters, self.share
        middle, spread = p + _Z**2 / (2 * n), _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
        return (middle - spread) / (1 + _Z**2 / n), (middle + spread) / (1 + _Z**2 / n)


def reliability(scored: Sequence[Record], bins: int = 5) -> list[Bin]:
    """Marked clusters in groups of near scores, about equally many in each, lowest first.

    The groups are cut between different scores, and so do not hang on the order of the clusters.
    Scores lie above the operating point's threshold, often near 1: bins of equal width would be
    empty but for the last.

    Args:
      scored: `score` and `hit` of each cluster.
      bins: at most so many groups.
    """
    if not scored:
        return []
    pairs = sorted((cluster["score"], cluster["hit"]) for cluster in scored)
    scores, hits = (np.array(column) for column in zip(*pairs, strict=True))
    cuts = np.quantile(scores, np.arange(1, bins) / bins)
    place = np.searchsorted(cuts, scores, side="right")
    return [
        Bin(
            float(scores[place == i].min()),
            float(scores[place == i].max()),
            int(np.count_nonzero(place == i)),
            float(scores[place == i].mean()),
            int(np.count_nonzero(hits[place == i])),
        )
        for i in np.unique(place)
    ]
