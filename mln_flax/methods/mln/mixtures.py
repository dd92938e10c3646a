"""Answers in one pass that are of no single branch as it is: mixed branches, matched grays."""

import numpy as np

from mln_flax import parallel
from mln_flax.data.images import chunks
from mln_flax.methods.mln import recorded
from mln_flax.methods.mln.bank import Fitted
from mln_flax.methods.mln.passes import Programs
from mln_flax.methods.mln.recorded import MATCHED, WEIGHTED
from mln_flax.metrics.decision import OperatingPoint
from mln_flax.types import UserError


def mixed(programs: Programs, fitted: Fitted, image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Probability [N, H, W] in one pass with scales and shifts mixed by weights [N, k]."""
    parts = []
    for rows, count in chunks(len(image), programs.chunk):
        of_rows = parallel.pad_rows(weights[rows], programs.chunk)
        batch = programs.padded(image[rows])
        parts.append(programs.single(fitted.variables, batch, of_rows)[:count])
    return np.concatenate(parts)


def matched(
    programs: Programs, fitted: Fitted, image: np.ndarray, packed: np.ndarray
) -> np.ndarray:
    """Probability [N, H, W] of images whose grays are moved to the source's, by a packed `Look`."""
    known, parts = (fitted.variables, fitted.grays), []
    for rows, count in chunks(len(image), programs.chunk):
        of_rows = parallel.pad_rows(np.asarray(packed[rows], np.float32), programs.chunk)
        parts.append(programs.in_matched(known, programs.padded(image[rows]), of_rows)[:count])
    return np.concatenate(parts)


def point(fitted: Fitted, way: str) -> OperatingPoint:
    """What is marked in the map by which a way answers.

    Raises:
      UserError: the model was fitted before there was such an answer.
    """
    if way == WEIGHTED:
        return fitted.weighted.point
    if way in fitted.mixtures:
        return fitted.mixtures[way].point
    if way in (*recorded.FITTED, MATCHED):
        raise UserError(
            f"answer {way!r}: this model was fitted without it and has no operating point for it; "
            "train it anew, or answer by method.answer=branch, weighted or union"
        )
    return fitted.point
