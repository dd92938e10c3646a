"""Which of the recorded scores a way to answer gives each image: pure functions of the records.

A way is named by a short text: a rule such as `cosine`, a rule over a whole case or domain such as
`cosine@domain`, an answer of all branches together such as `union`, a branch alone such as
`only invert`, or `oracle`, the best branch of each image, which nobody can know.
"""

from collections.abc import Sequence

import numpy as np

from mln_flax.config import MethodConfig
from mln_flax.types import Record, UserError

ORACLE = "oracle"  # also `oracle@domain`: the branch that is best for the whole domain
ONLY = "only "


def of_settings(method: MethodConfig) -> str:
    """The way in which the settings of a run answer."""
    if method.answer != "branch":
        return method.answer
    return method.selection if method.level == "image" else f"{method.selection}@{method.level}"


def scores(records: Sequence[Record], answer: str) -> list[Record]:
    """The score entry of each image record.

    Raises:
      UserError: nothing was recorded that the way could answer by.
    """
    records = list(records)
    if records and answer in records[0]["scores"] and answer != "branch":
        return [record["scores"][answer] for record in records]
    pairs = zip(records, branches(records, answer), strict=True)
    return [record["scores"]["branch"][branch] for record, branch in pairs]


def branches(records: Sequence[Record], answer: str) -> list[int]:
    """The branch that a rule, `only NAME` or `oracle` chooses for each image record.

    Raises:
      UserError: the rule was not recorded, or there is no such branch or level.
    """
    if answer.startswith(ONLY):
        name = answer.removeprefix(ONLY)
        for record in records:
            if name not in record["branches"]:
                known = ", ".join(record["branches"])
                raise UserError(f"answer {answer!r}: no such branch; known: {known}")
        return [record["branches"].index(name) for record in records]
    rule, _, level = answer.partition("@")
    costs = [_costs(record, rule) for record in records]
    groups = [_group(record, level or "image") for record in records]
    total: dict[object, np.ndarray] = {}
    for group, cost in zip(groups, costs, strict=True):
        total[group] = total.get(group, 0) + cost
    return [int(np.argmin(total[group])) for group in groups]


def is_labeled(score: Record) -> bool:
    """Whether the reference of a score entry holds anything."""
    return score["empty"] in ("neither", "prediction")


def _costs(record: Record, rule: str) -> np.ndarray:
    """What a rule makes smallest, [k]: its distances, or for `oracle` the DSC that is lost."""
    if rule == ORACLE:
        return -np.array([score["dsc"] for score in record["scores"]["branch"]])
    if rule not in record["distances"]:
        together = (name for name in record["scores"] if name != "branch")
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
