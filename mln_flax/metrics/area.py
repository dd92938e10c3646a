"""How much area is marked, and how far it is from what is labeled."""

import numpy as np

from mln_flax.types import Record


def area_scores(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: tuple[float, float] | list[float] | None,
) -> Record:
    """The marked area, and the marked minus the labeled one, in mm2; None where mm are unknown.

    Args:
      prediction: bool or {0, 1} [H, W].
      reference: the same.
      spacing_mm: (row, column) of a pixel, or None.
    """
    if spacing_mm is None:
        return {"area_mm2": None, "area_error_mm2": None}
    pixel_mm2 = spacing_mm[0] * spacing_mm[1]
    marked, labeled = (
        float(np.count_nonzero(mask) * pixel_mm2) for mask in (prediction, reference)
    )
    return {"area_mm2": marked, "area_error_mm2": marked - labeled}


KIND = area_scores
