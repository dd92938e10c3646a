"""Which of the recorded scores a way to answer gives each image: pure functions of the records.

A way is named by a short text: a rule such as `cosine`, a rule over a whole case or domain such as
`cosine@domain`, an answer of all branches together such as `union`, a branch alone such as
`only invert`, or `oracle`, the best branch of each image, which nobody can know.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mln_flax.methods.mln.branches import MIXINGS
from mln_flax.types import Record, UserError

ORACLE = "oracle"  # also `oracle@domain`: the branch that is best for the whole domain
ONLY = "only "
UNION, WEIGHTED, ENTROPY = "union", "weighted", "entropy"  # maps of several branches
MIXED = {mixing: f"mixed by {mixing}" for mixing in MIXINGS}  # mixing -> the map of a mixture
FITTED = (WEIGHTED, ENTROPY, *MIXED.values())  # have an operating point of their own
MATCHED = "matched"  # the map of the nearest branch, of an image with the source's grays
TOGETHER = (UNION, *FITTED, MATCHED)


def of_settings(settings: Any) -> str:
    """The way in which the settings of MLN-net answer."""
    if settings.matching:
        return MATCHED
    if settings.answer == "mixed":
        return MIXED[settings.mixing]
    if settings.answer != "branch":
        return settings.answer
    return (
        settings.selection
        if settings.level == "image"
        else f"{settings.selection}@{settings.level}"
    )


def answering(records: Sequence[Record], settings: Any) -> list[str]:
    """The map that answers for each image record by the settings of MLN-net."""
    return maps(records, of_settings(settings))


def maps(records: Sequence[Record], way: str) -> list[str]:
    """The map by which a way answers for each image record.

    Raises:
      UserError: nothing was recorded that the way could answer by.
    """
    if records and way in TOGETHER and way in records[0]["scores"]:
        return [way] * len(records)
    pairs = zip(records, branches(records, way), strict=True)
    return [record["branches"][branch] for record, branch in pairs]


def scores(records: Sequence[Record], way: str) -> list[Record]:
    """The score entry of each image record; raises UserError as `maps` does."""
    pairs = zip(records, maps(records, way), strict=True)
    return [record["scores"][name] for record, name in pairs]


def of_branches(record: Record) -> list[Record]:
    """The score entries of an image in all branches, in their order."""
    return [record["scores"][name] for name in record["branches"]]


def branches(records: Sequence[Record], way: str) -> list[int]:
    """The branch that a rule, `only NAME` or `oracle` chooses for each image record.

    Raises:
      UserError: the rule was not recorded, or there is no such branch or level.
    """
    if way.startswith(ONLY):
        name = way.removeprefix(ONLY)
        for record in records:
            if name not in record["branches"]:
                known = ", ".join(record["branches"])
                raise UserError(f"answer {way!r}: no such branch; known: {known}")
        return [record["branches"].index(name) for record in records]
    rule, _, level = way.partition("@")
    costs = [_costs(record, rule) for record in records]
    groups = [_group(record, level or "image") for record in records]
    total: dict[object, np.ndarray] = {}
    for group, cost in zip(groups, costs, strict=True):
        total[group] = total.get(group, 0) + cost
    return [int(np.argmin(total[group])) for group in groups]


def _costs(record: Record, rule: str) -> np.ndarray:
    """What a rule makes smallest, [k]: its distances, or for `oracle` the DSC that is lost."""
    if rule == ORACLE:
        return -np.array([score["dsc"] for score in of_branches(record)])
    if rule not in record["distances"]:
        together = (name for name in TOGETHER if name in record["scores"])
        known = ", ".join((*record["distances"], *together))
        raise UserError(f"answer {rule!r}: not recorded; known: {known}; evaluate again")
    return np.array(record["distances"][rule], float)


def _group(record: Record, level: str) -> object:
    """What shares one choice with an image."""
    if level == "image":
        return record["domain"], record["image_id"]
    if level == "case":
        return record["domain"], record["patient_id"]
    if level == "domain":
        return record["domain"]
    raise UserError(f"level {level!r}: unknown; known: image, case, domain")
