"""Why MLN-net answers as it does: which norms and numbers chose, and where branches disagree.

One pass in all branches gives all of it.
"""

from typing import Any

import numpy as np

from mln_flax.methods.core import Explanation
from mln_flax.methods.mln import branches
from mln_flax.methods.mln.answer import Seen, see
from mln_flax.methods.mln.bank import Fitted
from mln_flax.methods.mln.image_features import NAMES
from mln_flax.methods.mln.matching import Look
from mln_flax.methods.mln.passes import Programs
from mln_flax.metrics import decision
from mln_flax.types import Record

OUTSIDE = 3.0  # standard deviations of the source


def explain(
    programs: Programs, fitted: Fitted, image: np.ndarray, common: np.ndarray | None = None
) -> Explanation:
    """What chose the branch for an image, and where the branches disagree.

    Args:
      programs: of the run.
      fitted: what was kept.
      image: the tiles [n, H, W] of one image.
      common: distances [k], or [n, k] of which all are equal, that chose instead of the tiles' own.

    Returns:
      `why`: "branches"; "chosen", the nearest by what chooses, summed over the tiles where they do
      not share another choice; "shares", what each branch contributes where probabilities weigh
      them; "distances", rule -> [k], summed over the tiles; "by_norm", rule by
      moments -> what each of the "norms" adds to them, "distances" [norms][k]; "numbers", the mean
      of each number of the image beside the source's in the nearest view; "far", the squared
      Mahalanobis distance from that view and the farthest that is usual in the source (absent in
      models that did not measure it); "disagreement" between branches; "looked_at".

      `maps`: "branch NAME", the probability in each branch, and "disagreement", their standard
      deviation.
    """
    seen = see(programs, fitted, image)
    total = {rule: by_norms[:, -1].sum(axis=0) for rule, by_norms in seen.by_norms.items()}
    chooses = total[programs.settings.selection] if common is None else np.atleast_2d(common)[0]
    if common is not None and programs.settings.matching:
        chooses = Look.of(np.atleast_2d(common)).distances[0]
    squared = seen.compared.squared.mean(axis=0)
    why = {
        "branches": list(programs.branch_names),
        "chosen": programs.branch_names[branches.select(chooses)],
        "distances": {rule: of_rule.tolist() for rule, of_rule in total.items()},
        "by_norm": by_norm(seen, programs.order()),
        "numbers": numbers(fitted, seen, int(squared.argmin())),
        "disagreement": disagreement(fitted, seen),
        "looked_at": len(image),
    }
    if programs.settings.answer in branches.BY_PROBABILITIES:
        shares = programs.shares(np.atleast_2d(chooses))[0]
        why["shares"] = dict(zip(programs.branch_names, shares.tolist(), strict=True))
    if fitted.far is not None:
        distance, threshold = float(squared.min()), float(fitted.far)
        is_far = distance > threshold
        why["far"] = {"distance": distance, "threshold": threshold, "is_far": is_far}
    maps = {
        f"branch {name}": seen.probability[:, b] for b, name in enumerate(programs.branch_names)
    }
    return Explanation(why, maps | {"disagreement": seen.probability.std(axis=1)})


def by_norm(seen: Seen, norms: tuple[str, ...]) -> Record:
    """What each norm adds to the distances by each rule by moments, summed over the images."""
    added = {
        rule: np.diff(seen.by_norms[rule], axis=1, prepend=0).sum(axis=0)
        for rule in branches.BY_MOMENTS
    }
    return {rule: {"norms": list(norms), "distances": d.tolist()} for rule, d in added.items()}


def numbers(fitted: Fitted, seen: Seen, view: int) -> list[Record]:
    """The view numbers, their means over the images, beside those of the source in a view."""
    gaussian = fitted.bank.image.gaussian
    std = np.sqrt(np.diagonal(np.linalg.inv(np.asarray(gaussian.precision[view], np.float64))))
    rows: list[Record] = []
    means = seen.compared.numbers.mean(axis=0, dtype=np.float64)
    for name, value, mean, deviation in zip(NAMES, means, gaussian.mean[view], std, strict=True):
        z = (value - mean) / deviation
        row: dict[str, Any] = {"name": name, "value": value, "mean": mean, "std": deviation, "z": z}
        rows.append(
            {key: v if key == "name" else float(v) for key, v in row.items()}
            | {"outside": bool(abs(z) > OUTSIDE)}
        )
    return rows


def disagreement(fitted: Fitted, seen: Seen) -> Record:
    """How much the branches differ in probability, and where in what they mark."""
    deviation = seen.probability.std(axis=1)
    marked = np.array(
        [[decision.decide(p, fitted.point) for p in of_image] for of_image in seen.probability]
    )
    differs = marked.any(axis=1) & ~marked.all(axis=1)
    return {
        "mean": float(deviation.mean()),
        "largest": float(deviation.max()),
        "share": float(differs.mean()),
    }
