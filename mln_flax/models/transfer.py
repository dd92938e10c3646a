"""Parameters of a trained network -> those of a network of the same kind, with a report."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import numpy as np

from mln_flax.models.core import is_per_branch

HEADS = ("head", "output")  # modules that may differ: what they say is learned anew


class Report(NamedTuple):
    """What became of every array, by paths: nothing is dropped silently."""

    taken: tuple[str, ...] = ()  # as they are
    copied: tuple[str, ...] = ()  # of norms: those of the first branch, to every branch
    new: tuple[str, ...] = ()  # of the new network: still at their initial values
    unused: tuple[str, ...] = ()  # of the trained one
    misfits: tuple[str, ...] = ()  # both have them, in shapes that do not fit: with both shapes

    def to_dict(self) -> dict[str, list[str]]:
        """The paths by what became of them."""
        return {name: list(paths) for name, paths in self._asdict().items() if paths}


def transferred(
    own: Mapping[str, Any],
    trained: Mapping[str, Any],
    by_branch: bool,
    all_per_branch: bool = False,
) -> tuple[dict[str, Any], Report]:
    """The nested arrays of `own` with those of `trained` in their place, and the report.

    Scale and bias of a norm are [k, C]. Where both networks have the same branches, each takes its
    own; else all take those of the first, that of the first view, which were trained with the rest:
    a mean over branches was never part of any network that answered.

    Args:
      own: nested arrays of the new network, or their shapes.
      trained: nested arrays.
      by_branch: both have the same branches, in the same order.
      all_per_branch: every array is [k, ...], as running statistics are, not only those of norms.
    """
    before, after = (dict(flax.traverse_util.flatten_dict(t, sep="/")) for t in (trained, own))
    fates: dict[str, list[str]] = {name: [] for name in Report._fields}
    fates["unused"] = sorted(set(before) - set(after))
    result = dict(after)
    for path, array in after.items():
        stored, shape = before.get(path), tuple(array.shape)
        per_branch = all_per_branch or is_per_branch(path)
        if stored is None:
            fates["new"].append(path)
        elif per_branch and stored.shape[1:] == shape[1:]:
            as_it_is = stored.shape == shape and (by_branch or shape[0] == 1)
            fates["taken" if as_it_is else "copied"].append(path)
            result[path] = stored if as_it_is else np.repeat(stored[:1], shape[0], axis=0)
        elif stored.shape == shape:
            fates["taken"].append(path)
            result[path] = stored
        elif set(HEADS) & set(path.split("/")):
            fates["new"].append(path)
            fates["unused"].append(path)
        else:
            fates["misfits"].append(f"{path} is {stored.shape} there and {shape} here")
    report = Report(**{name: tuple(paths) for name, paths in fates.items()})
    return flax.traverse_util.unflatten_dict(result, sep="/"), report


def describe(report: Report, what: str) -> str:
    """Lines that say what became of the arrays of one kind (`what`)."""
    lines = [f"{what}: {len(report.taken)} arrays taken as they are"]
    if report.copied:
        lines.append(f"{what}: {len(report.copied)} of norms, from the first branch to each")
    for paths, fate in (
        (report.new, "new, at their initial values"),
        (report.unused, "not used"),
    ):
        if paths:
            lines.append(f"{what}: {fate}: {', '.join(paths)}")
    return "\n".join(lines)
