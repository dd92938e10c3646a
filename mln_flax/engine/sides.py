"""The two polarities of images: which branches are for which, and what told it of an image."""

from collections.abc import Sequence

import numpy as np

from mln_flax.types import Record


def of_side(
    distances: np.ndarray, sides: Sequence[bool | None], inverted: bool | None
) -> np.ndarray:
    """Distances with those of the other polarity infinite; as they are if none is known.

    So too where all are for the other one.

    Args:
      distances: of the k branches, smaller is nearer; what else was looked at may stand behind.
      sides: of each branch, whether it is for inverted images; None: for both.
      inverted: whether the image is.
    """
    other = np.array([side is not None and side != inverted for side in sides], bool)
    if inverted is None or other.all():
        return distances
    chosen = distances.copy()
    chosen[: len(sides)][other] = np.inf
    return chosen


def polarity(common: np.ndarray | None, sides: Sequence[bool | None]) -> Record:
    """For which polarity an image is answered, and what told it: its air, or the tissue of tiles.

    Args:
      common: what chose, the distances of the k branches first; None where each tile chose.
      sides: as in `of_side`.
    """
    side = sides[int(common[: len(sides)].argmin())] if common is not None and sides else None
    if common is None or side is None:
        return {}
    by = "tissue" if np.isfinite(common).all() else "air"
    return {"polarity": "inverted" if side else "upright", "polarity_by": by}
