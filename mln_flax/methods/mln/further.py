"""What MLN-net records beside the images: views of the source, norms, and what rules are worth."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mln_flax.data.images import Images, chunks
from mln_flax.methods.mln import branches
from mln_flax.methods.mln.answer import facts_of, see
from mln_flax.methods.mln.bank import Early, Fitted
from mln_flax.methods.mln.passes import Programs
from mln_flax.methods.mln.recorded import WEIGHTED
from mln_flax.types import Record

CHOICE = ("branches", "selection", "distances", "chosen", "chosen_early")


def further(
    programs: Programs,
    fitted: Fitted,
    images: Images,
    records: Sequence[Record],
    kept: Sequence[dict[str, np.ndarray]],
) -> list[Record]:
    """Lines on norms (for each domain and rule), on views of source images, and on rules.

    Args:
      programs: of the run.
      fitted: what was kept.
      images: of the source's test part.
      records: of all images that were evaluated, those of the source in the order of `images`.
      kept: of each of them, rule -> distances by the first 1, 2, ... norms, [M, k].
    """
    lines: list[Record] = []
    for domain in dict.fromkeys(record["domain"] for record in records):
        places = [i for i, record in enumerate(records) if record["domain"] == domain]
        lines += norm_records(programs, [records[i] for i in places], [kept[i] for i in places])
    of_source = [record for record in records if record["role"] == "source"]
    lines += view_records(programs, fitted, images, of_source)
    return lines + list(rule_records(fitted))


def norm_records(
    programs: Programs, records: Sequence[Record], kept: Sequence[dict[str, np.ndarray]]
) -> Iterator[Record]:
    """For each rule by moments a line on one domain's images: what every norm adds to the choice.

    "distance" [norms][k] is the mean over images of what the norm adds to the distance from each
    branch; "best" and "dsc" [norms] are the share of images for which the first norms up to this
    one choose a branch with the highest DSC, and the mean DSC of the chosen ones.
    """
    first = records[0]
    dsc = np.array([[r["scores"][name]["dsc"] for name in programs.branch_names] for r in records])
    for rule in branches.BY_MOMENTS:
        distances = np.stack([of_image[rule] for of_image in kept])  # [n, M, k]
        of_chosen = np.take_along_axis(dsc, branches.select(distances), axis=1)
        yield {
            "kind": "norms",
            "domain": first["domain"],
            "part": first["part"],
            "role": first["role"],
            "rule": rule,
            "branches": list(programs.branch_names),
            "norms": list(programs.order()),
            "distance": np.diff(distances, axis=1, prepend=0).mean(axis=0).tolist(),
            "best": (of_chosen == dsc.max(axis=1, keepdims=True)).mean(axis=0).tolist(),
            "dsc": of_chosen.mean(axis=0).tolist(),
        }


def view_records(
    programs: Programs, fitted: Fitted, images: Images, records: Sequence[Record]
) -> Iterator[Record]:
    """Source images passed through every view: which branch do they choose?

    `records` are the images' own, which say it of the view that leaves an image as it is.
    """
    views = programs.views
    for name, view, branch in zip(views.names, views.functions(), views.branch, strict=True):
        if name == "identity":
            choices = [{key: record[key] for key in CHOICE} for record in records]
        else:
            choices = list(_choices_through(programs, fitted, images, view))
        for record, choice in zip(records, choices, strict=True):
            yield {
                "kind": "view",
                "image_id": record["image_id"],
                "domain": record["domain"],
                "part": "test",
                "view": name,
                "branch": branch,
                **choice,
            }


def _choices_through(
    programs: Programs, fitted: Fitted, images: Images, view: Any
) -> Iterator[Record]:
    """The choices for every image seen through a view; few at a time, a part may be large."""
    for rows, _ in chunks(images.total, programs.chunk):
        seen = see(programs, fitted, view(images.stack(rows)[0]))
        for facts in facts_of(programs, fitted, seen):
            yield {key: facts[key] for key in CHOICE}


def rule_records(fitted: Fitted) -> Iterator[Record]:
    """What every rule is worth on source validation, of all norms and of the first ones."""
    for rule, early in fitted.early.items():
        by_norms = {"agreement": early.agreement, "view_accuracy": early.view_accuracy}
        by_norms |= {"dsc": early.dsc}
        yield {
            "kind": "rule",
            "rule": rule,
            "part": "validation",
            "dsc": float(early.dsc[-1]),
            "view_accuracy": float(early.view_accuracy[-1]),
            "norms": int(early.norms),
            "by_norms": {name: np.asarray(values).tolist() for name, values in by_norms.items()},
        }
    for name, of_answer in ({WEIGHTED: fitted.weighted} | fitted.mixtures).items():
        worth = {"dsc": float(of_answer.dsc)}
        yield {"kind": "rule", "rule": name, "part": "validation"} | worth


def worth_lines(early: dict[str, Early]) -> list[str]:
    """A line for each rule, for who watches."""
    return [_worth_line(rule, of_rule) for rule, of_rule in early.items()]


def _worth_line(rule: str, early: Early) -> str:
    full, at = f"DSC {early.dsc[-1]:.3f}, view accuracy {early.view_accuracy[-1]:.3f}", early.at
    line = f"selection on source validation: {rule}, {full}"
    if not int(early.norms):
        return f"{line}; no norm needed"
    return (
        f"{line}; {int(early.norms)} of {len(early.dsc)} norms: agreement "
        f"{early.agreement[at]:.3f}, DSC {early.dsc[at]:.3f}, "
        f"view accuracy {early.view_accuracy[at]:.3f}"
    )
