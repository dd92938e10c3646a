"""From probabilities to masks: the operating point, chosen on source validation alone."""

from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

THRESHOLDS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
SIZES = (1, 2, 3, 4, 5, 6)  # pixels
EIGHT_NEIGHBORS = np.ones((3, 3), bool)


class OperatingPoint(NamedTuple):
    """What counts as a calcification."""

    threshold: Any = 0.5  # of the probability
    min_pixels: Any = 1  # of an object: smaller ones are taken for noise


class WholePoint(NamedTuple):
    """What is marked in a whole image, and how it was chosen."""

    threshold: float  # of the probability
    min_area_mm2: float  # of an object
    asked: float  # false clusters per normal image
    reached: float  # and how many there were in source validation
    images: int  # whole images that it was chosen on; 0: it is the point of tiles
    counted_on: str  # which these are: "normal" ones, or, where there is none, "all"


def decide(probability: np.ndarray, point: OperatingPoint) -> np.ndarray:
    """The mask bool [H, W] of probabilities [H, W]."""
    mask = probability > float(point.threshold)
    if int(point.min_pixels) <= 1:
        return mask
    objects, count = ndimage.label(mask, EIGHT_NEIGHBORS)
    # The background's number, zero, is not among the marked pixels: it stays too small.
    large = np.bincount(objects[mask], minlength=count + 1) >= int(point.min_pixels)
    return large[objects]


GRID = tuple(OperatingPoint(t, s) for t in THRESHOLDS for s in SIZES)


def best(scores: np.ndarray) -> tuple[OperatingPoint, np.ndarray]:
    """The point of the grid with the highest mean DSC, and the DSC of each image there: [N].

    The first point wins where two tie.

    Args:
      scores: [N, points], of the source's validation images, each from `dsc_on_grid`.
    """
    highest = int(np.argmax(scores.mean(axis=0)))
    return GRID[highest], scores[:, highest]


def dsc_on_grid(probability: np.ndarray, mask: np.ndarray) -> list[float]:
    """The DSC of one image at every point of the grid; objects are found once per threshold.

    Args:
      probability: [H, W].
      mask: bool [H, W], its label.
    """
    scores, labeled = [], int(np.count_nonzero(mask))
    for threshold in THRESHOLDS:
        marked = probability > threshold
        objects, count = ndimage.label(marked, EIGHT_NEIGHBORS)
        pixels = np.bincount(objects[marked], minlength=count + 1)[1:]
        hits = np.bincount(objects[mask], minlength=count + 1)[1:]
        for size in SIZES:
            kept = pixels >= size
            total = int(pixels[kept].sum()) + labeled
            scores.append(2 * int(hits[kept].sum()) / total if total else 1.0)
    return scores
