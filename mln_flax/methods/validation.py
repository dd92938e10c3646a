"""Source validation: the mean DSC over all views, at the operating point that suits them best."""

from collections.abc import Callable, Sequence

import numpy as np

from mln_flax.data.images import Images, chunks
from mln_flax.methods.core import SCORE
from mln_flax.metrics import decision
from mln_flax.metrics.decision import OperatingPoint
from mln_flax.types import Record
from mln_flax.views.intensity import make_view


def of_views(
    probability: Callable[[np.ndarray, int], np.ndarray],
    view_names: Sequence[str],
    images: Images,
    chunk: int,
) -> tuple[Record, OperatingPoint]:
    """Scores, and the operating point at which they were measured.

    Args:
      probability: (images [n, H, W] as a view shows them, its number) -> [n, H, W].
      view_names: of the run.
      images: of the source's validation part.
      chunk: images that are asked for at once.
    """
    on_grid: list[list[float]] = []
    for number, name in enumerate(view_names):
        view = make_view(name).numpy
        for rows, _ in chunks(images.total, chunk):
            image, mask = images.stack(rows)
            pairs = zip(probability(view(image), number), mask.astype(bool), strict=True)
            on_grid += [decision.dsc_on_grid(p, m) for p, m in pairs]
    point, dsc = decision.best(np.array(on_grid))
    per_view = dsc.reshape(len(view_names), -1).mean(axis=1)
    scores = {
        SCORE: float(dsc.mean()),
        "validation_dsc_per_view": dict(zip(view_names, per_view.tolist(), strict=True)),
        "threshold": point.threshold,
        "min_pixels": point.min_pixels,
    }
    return scores, point
