"""Tables of results: pure functions of the recorded lines."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mln_flax.methods.mln import choice
from mln_flax.methods.mln.branches import SELECTIONS
from mln_flax.results.statistics import finite_mean
from mln_flax.results.table_layout import Table, number
from mln_flax.types import Record, UserError

TOGETHER = ("union", "weighted")  # answers of several branches, not of one


class Matrix(NamedTuple):
    """How often each branch (column) was chosen for each kind of image (row)."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: np.ndarray  # int [rows, columns]
    expected: tuple[int, ...] = ()  # per row: the branch that is right, where one is


def results_table(records: Iterable[Record]) -> Table:
    """The headline: for the source and every target, the means of the shipped selection.

    Distances are in mm, or in pixels (the header says so) where any image's spacing is unknown.
    Raises UserError where there is no image.
    """
    domains = _by_domain(records)
    unit = _unit(domains)
    rows = []
    for domain, group in domains.items():
        scores = choice.scores(group, _answer(group[0]))
        names = Counter(_chosen_names(group)).most_common()
        rows.append(
            (
                _domain_name(domain, group),
                str(len(group)),
                *(_mean(scores, key) for key in ("dsc", "tpr", "precision")),
                *(_mean(scores, f"{key}_{unit}", 2) for key in ("hausdorff", "average_distance")),
                "/".join(_empty_counts(scores)),
                ", ".join(f"{name} {count}" for name, count in names),
            )
        )
    header = f"n,DSC,TPR,Pr,HD {unit},ASD {unit},empty b/p/r,chosen branch"
    note = (
        "Empty b/p/r: images where both masks, only the prediction, only the reference are empty. "
        "They count in DSC (1, 0, 0) and in the distances (0, image diagonal, image diagonal). "
        "TPR leaves out images with an empty reference, Pr those with an empty prediction."
    )
    points = {
        (record["threshold"], record["min_pixels"])
        for group in domains.values()
        for record in group
        if "threshold" in record
    }
    for threshold, pixels in sorted(points):
        note += (
            f" Marked is what has a probability above {threshold:g}, in objects of {pixels} pixels "
            "or more: both chosen on source validation."
        )
    shipped = {_answer(record) for group in domains.values() for record in group}
    title = f"Results (answer: {', '.join(sorted(shipped))})"
    return Table(title, ("domain", *header.split(",")), tuple(rows), note)


def kinds_table(records: Iterable[Record]) -> Table:
    """How many images of each kind the headline's means hold, and the means of the plain kind."""
    domains = _by_domain(records)
    unit = _unit(domains)
    rows = []
    for domain, group in domains.items():
        scores = choice.scores(group, _answer(group[0]))
        lesions = [score for score in scores if choice.is_labeled(score)]
        plain = [score for score in scores if score["empty"] == "neither"]
        rows.append(
            (
                _domain_name(domain, group),
                str(len(group)),
                str(len(plain)),
                *_empty_counts(scores),
                _mean(lesions, "dsc"),
                _mean(plain, "dsc"),
                _mean(plain, f"hausdorff_{unit}", 2),
                _mean(plain, f"average_distance_{unit}", 2),
            )
        )
    header = (
        "n,neither empty,both empty,prediction empty,reference empty,"
        f"DSC with label,DSC neither,HD {unit} neither,ASD {unit} neither"
    )
    note = "With label: reference not empty. Neither: only images where neither mask is empty."
    return Table("Empty masks", ("domain", *header.split(",")), tuple(rows), note)


def distance_table(records: Iterable[Record]) -> Table:
    """Every boundary distance of the shipped selection, in millimeters and in pixels."""
    names = {
        "HD": "hausdorff",
        "HD95": "hausdorff95",
        "ASD": "average_distance",
        "one-way": "one_way_distance",
    }
    columns = [
        (f"{name} {unit}", f"{key}_{unit}") for unit in ("mm", "px") for name, key in names.items()
    ]
    rows = []
    for domain, group in _by_domain(records).items():
        scores = choice.scores(group, _answer(group[0]))
        cells = (_mean(scores, key, 2) for _, key in columns)
        rows.append((_domain_name(domain, group), str(len(group)), *cells))
    header = ("domain", "n", *(name for name, _ in columns))
    note = "One-way: from the prediction's boundary to the reference (Eq. 24 of the paper)."
    return Table("Boundary distances", header, tuple(rows), note)


def selection_table(records: Iterable[Record]) -> Table:
    """Mean DSC of each way to answer: every rule, the union, each branch alone, the best branch.

    Raises UserError where there is no image, or the images do not share their branches.
    """
    domains = _by_domain(records)
    every = [record for group in domains.values() for record in group]
    _branches(every)  # refuses records of different models
    ways = _ways(every)
    rows = []
    for domain, group in domains.items():
        found = (
            finite_mean(score["dsc"] for score in choice.scores(group, way))
            for way in ways.values()
        )
        rows.append((_domain_name(domain, group), str(len(group)), *map(number, found)))
    note = (
        "* the shipped answer. Union: a pixel that any branch marks. Weighted: the mean of the "
        "branches, weighted by the probabilities of polarity. Best branch: the best for each image "
        "or for the whole domain, found with the references; only reported."
    )
    return Table("Mean DSC of every selection", ("domain", "n", *ways), tuple(rows), note)


def view_accuracy_table(records: Iterable[Record]) -> Table:
    """Per rule: the share of source images seen through a view that choose that view's branch.

    The mean is over views. Raises UserError where there is no view.
    """
    views = _by_view(records)
    every = [record for group in views.values() for record in group]
    rows = []
    for rule in _rules(every):
        shares = [
            float(np.mean([record["chosen"][rule] == record["branch"] for record in group]))
            for group in views.values()
        ]
        rows.append((_marked(every[0], rule), *map(number, (*shares, finite_mean(shares)))))
    counts = ", ".join(f"{view} {len(group)}" for view, group in views.items())
    note = f"* the shipped selection. Images: {counts}."
    return Table("View accuracy", ("rule", *views, "mean"), tuple(rows), note)


def early_agreement(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """Rule -> domain -> the share of test images whose early choice is that of all norms.

    Empty where no early choice was recorded, as in older records.
    """
    domains = _by_domain(records)
    every = [record for group in domains.values() for record in group]
    if not all("chosen_early" in record for record in every):
        return {}
    return {
        rule: {
            _domain_name(domain, group): float(
                np.mean([r["chosen_early"][rule] == r["chosen"][rule] for r in group])
            )
            for domain, group in domains.items()
        }
        for rule in _rules(every)
    }


def early_table(records: Iterable[Record]) -> Table:
    """Per rule and domain: how often the first norms choose as all of them do."""
    records = list(records)
    agreement = early_agreement(records)
    rows = tuple(
        (_marked(records[0], rule), *map(number, shares.values()))
        for rule, shares in agreement.items()
    )
    note = (
        "* the shipped selection. Share of test images for which the first norms of the network, "
        "as many as source validation asks for, choose the branch that all norms choose. The rules "
        "that look at the image alone need none."
    )
    domains = next(iter(agreement.values()), {})
    return Table("Early choice: agreement with the full one", ("rule", *domains), rows, note)


def choice_matrix(records: Iterable[Record], rule: str) -> tuple[Matrix, Matrix]:
    """How often `rule` chose each branch: per view of the source's test images, and per domain.

    Raises UserError where there is no image, no view, or the rule was not recorded.
    """
    records = list(records)
    views, domains = _by_view(records), _by_domain(records)
    every = [record for group in (*views.values(), *domains.values()) for record in group]
    if rule not in _rules(every):
        raise UserError(f"no choices of {rule!r} were recorded; known: {', '.join(_rules(every))}")
    branches = _branches(every)

    def counts(groups: Iterable[list[Record]]) -> np.ndarray:
        chosen = ([record["chosen"][rule] for record in group] for group in groups)
        return np.array([np.bincount(row, minlength=len(branches)) for row in chosen])

    expected = tuple(group[0]["branch"] for group in views.values())
    names = tuple(_domain_name(domain, group) for domain, group in domains.items())
    return (
        Matrix(tuple(views), branches, counts(views.values()), expected),
        Matrix(names, branches, counts(domains.values())),
    )


def _by_domain(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The image records per domain, the source first, targets in the order of the records."""
    images = [record for record in records if record["kind"] == "image"]
    groups = _grouped(images, "domain", "no image was recorded")
    return dict(sorted(groups.items(), key=lambda item: item[1][0]["role"] != "source"))


def _by_view(records: Iterable[Record]) -> dict[str, list[Record]]:
    views = [record for record in records if record["kind"] == "view"]
    return _grouped(views, "view", "no view of a source image was recorded")


def _grouped(records: list[Record], key: str, complaint: str) -> dict[str, list[Record]]:
    if not records:
        raise UserError(f"{complaint}; --mode=evaluate records them")
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record[key], []).append(record)
    return groups


def _branches(records: list[Record]) -> tuple[str, ...]:
    found = {tuple(record["branches"]) for record in records}
    if len(found) > 1:
        raise UserError(f"records of different models: branches {' and '.join(map(str, found))}")
    return found.pop()


def _rules(records: list[Record]) -> list[str]:
    """The rules that every record has, in the order of branches.SELECTIONS, others after them."""
    shared = set.intersection(*(set(record["chosen"]) for record in records))
    return [rule for rule in SELECTIONS if rule in shared] + sorted(shared - set(SELECTIONS))


def _answer(record: Record) -> str:
    """How the run answers, as `answers` names it; older records name the rule alone."""
    return record["answer"] if "answer" in record else record["selection"]


def _ways(records: list[Record]) -> dict[str, str]:
    """Column -> way to answer; `*` marks the shipped one."""
    together = [name for name in TOGETHER if all(name in r["scores"] for r in records)]
    shipped = _answer(records[0])
    rules = [*_rules(records), *together]
    if shipped not in rules:  # a rule for whole cases or domains
        rules.append(shipped)
    return {
        **{f"{way}*" if way == shipped else way: way for way in rules},
        **{f"{choice.ONLY}{name}": f"{choice.ONLY}{name}" for name in records[0]["branches"]},
        "best branch": choice.ORACLE,
        "best of domain": f"{choice.ORACLE}@domain",
    }


def _marked(record: Record, rule: str) -> str:
    return f"{rule}*" if rule == record["selection"] else rule


def _chosen_names(group: list[Record]) -> list[str]:
    """The name of the branch that answers for each image, or of the answer of several."""
    way = _answer(group[0])
    if way in TOGETHER:
        return [way] * len(group)
    pairs = zip(group, choice.branches(group, way), strict=True)
    return [record["branches"][branch] for record, branch in pairs]


def _domain_name(domain: str, group: list[Record]) -> str:
    return f"{domain} (source)" if group[0]["role"] == "source" else domain


def _unit(domains: dict[str, list[Record]]) -> str:
    """`mm`, or `px` where one image has no spacing: a mean of both would have no unit."""
    records = [record for group in domains.values() for record in group]
    return "px" if any(record["spacing_mm"] is None for record in records) else "mm"


def _empty_counts(scores: list[Record]) -> list[str]:
    kinds = Counter(score["empty"] for score in scores)
    return [str(kinds[kind]) for kind in ("both", "prediction", "reference")]


def _mean(scores: list[Record], key: str, digits: int = 3) -> str:
    return number(finite_mean(score[key] for score in scores), digits)
