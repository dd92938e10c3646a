"""The objects of a probability map at every threshold of a ladder, each pixel looked at once."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mln_flax.metrics import dbscan

_LATER_NEIGHBORS = ((0, 1), (1, -1), (1, 0), (1, 1))  # half of the eight: each pair once


class Step(NamedTuple):
    """The objects above one threshold that are large enough, in reading order of their centers."""

    level: int  # number of the threshold, from 0, the lowest
    centers: np.ndarray  # [n, 2] px
    boxes: np.ndarray  # [n, 4], half open
    pixels: np.ndarray  # [N] positions in the flat image that are above the threshold
    numbers: np.ndarray  # int [N]: of each pixel's object, from 0; -1: its object is too small


def steps(
    probability: np.ndarray, thresholds: Sequence[float], min_pixels: int = 1
) -> Iterator[Step]:
    """The steps of the ladder, from the highest threshold to the lowest.

    At each the objects are those of the mask `probability > threshold`, its pixels linked at
    sides and corners, as if it were labeled anew. On the way down objects only grow and merge:
    each is kept as one node with its sums, and a step links the nodes and the new pixels by the
    pairs of neighbors whose lower one is new.

    Args:
      probability: float [H, W].
      thresholds: ascending.
      min_pixels: smaller objects are left out.
    """
    heights = probability.reshape(-1)
    limits = np.asarray(thresholds, probability.dtype)  # as numpy compares an array and a float
    pixels = np.flatnonzero(heights > limits[0])
    below = np.searchsorted(limits, heights[pixels])  # how many thresholds a pixel is above
    order = np.argsort(-below, kind="stable")
    pixels, below = pixels[order], below[order]
    pairs = _neighbors(pixels, probability.shape)
    ends = np.searchsorted(-below, -np.arange(len(limits)), side="left")  # pixels above each
    pair_ends = np.searchsorted(pairs.max(axis=1), ends)
    rows, columns = np.divmod(pixels, probability.shape[1])
    own = np.stack([np.ones(len(pixels)), rows, columns])
    own_box = np.stack([rows, columns, -1 - rows, -1 - columns])  # minima all: top, left, -bottom
    node = np.arange(len(pixels))
    sums, boxes = np.zeros((3, 0)), np.zeros((4, 0), int)
    start = pair_start = 0
    for level in reversed(range(len(limits))):
        end, pair_end = ends[level], pair_ends[level]
        before = sums.shape[1] + end - start
        node[start:end] = np.arange(sums.shape[1], before)
        merged = dbscan.components(before, node[pairs[pair_start:pair_end]])
        node[:end] = merged[node[:end]]
        count = merged.max(initial=-1) + 1
        grown = np.concatenate([sums, own[:, start:end]], axis=1)
        sums = np.stack([np.bincount(merged, values, count) for values in grown])
        minima = np.concatenate([boxes, own_box[:, start:end]], axis=1)
        boxes = np.full((4, count), np.iinfo(int).max)
        for least, values in zip(boxes, minima, strict=True):
            np.minimum.at(least, merged, values)
        start, pair_start = end, pair_end
        yield _step(level, sums, boxes, pixels[:end], node[:end], min_pixels)


def _step(
    level: int,
    sums: np.ndarray,
    boxes: np.ndarray,
    pixels: np.ndarray,
    node: np.ndarray,
    min_pixels: int,
) -> Step:
    centers = (sums[1:] / sums[0]).T
    order = np.lexsort(centers.T[::-1])
    order = order[sums[0, order] >= min_pixels]
    number = np.full(len(centers), -1)
    number[order] = np.arange(len(order))
    box = np.concatenate([boxes[:2], -boxes[2:]]).T[order]
    return Step(level, centers[order], box, pixels, number[node])


def _neighbors(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pairs of places in `pixels` that touch: [m, 2], sorted by the later place of each."""
    place = np.full(shape, -1, np.int32)
    place.reshape(-1)[pixels] = np.arange(len(pixels), dtype=np.int32)
    rows, columns = np.divmod(pixels, shape[1])
    found = []
    for down, right in _LATER_NEIGHBORS:
        inside = (rows + down < shape[0]) & (columns + right < shape[1]) & (columns + right >= 0)
        one = np.flatnonzero(inside)
        other = place[rows[one] + down, columns[one] + right]
        found.append(np.stack([one, other], axis=1)[other >= 0])
    pairs = np.concatenate(found)
    return pairs[np.argsort(pairs.max(axis=1), kind="stable")]
