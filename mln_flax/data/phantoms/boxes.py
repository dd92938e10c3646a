"""The pixels of many small boxes in one list: marks of a whole image are computed at once."""

from typing import NamedTuple

import numpy as np


class Pixels(NamedTuple):
    """Pixels of boxes, box after box, each row by row; all int [n]."""

    box: np.ndarray  # whose pixel
    row: np.ndarray
    column: np.ndarray


def pixels(first: np.ndarray, stop: np.ndarray) -> Pixels:
    """All pixels of boxes from `first` to before `stop`, each [boxes, (row, column)]."""
    tall, wide = (stop - first).T
    area = tall * wide
    box = np.repeat(np.arange(len(area)), area)
    inside = np.arange(len(box)) - np.repeat(np.cumsum(area) - area, area)
    down, across = np.divmod(inside, wide[box])
    return Pixels(box, first[box, 0] + down, first[box, 1] + across)
