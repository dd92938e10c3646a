"""The size of the pixels that a network learns from."""

import numpy as np

from mln_flax.data.core import Part

_LOOKED_AT = 64  # examples; a part has few kinds of machines


def training_spacing(part: Part) -> tuple[float, float] | None:
    """The median (row, column) of the examples' `spacing_mm`; None where fewer than half know it.

    At most 64 examples are looked at, spread evenly over the part.

    Args:
      part: of tiles or phantoms, as a network sees them.
    """
    count = len(part.examples)
    places = np.unique(np.linspace(0, count - 1, min(count, _LOOKED_AT)).round().astype(int))
    known = [s for i in places if (s := part.examples[i].spacing_mm) is not None]
    if not known or 2 * len(known) < len(places):
        return None
    row, column = np.median(known, axis=0).tolist()
    return row, column
