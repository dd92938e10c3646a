"""What only MLN-net's records show of one run: tables and pictures of its choice of branches."""

from collections.abc import Iterable, Sequence

import numpy as np

from mln_flax.methods.mln import comparison, plots, recorded
from mln_flax.methods.mln.branches import SELECTIONS
from mln_flax.methods.mln.plots import Matrix
from mln_flax.results.statistics import finite_mean
from mln_flax.results.study import Picture, Section, Study
from mln_flax.results.table_layout import Table, number
from mln_flax.results.tables import by_domain, domain_name, grouped
from mln_flax.types import Record, UserError


def sections(records: Sequence[Record]) -> list[Section]:
    """Of a run's page: which branches are chosen, and what every way to answer is worth."""
    text = (
        "Left: source test images seen through each view; the frame marks the branch of that view. "
        "Right: the test images of each domain as they are. Numbers are images."
    )
    pictures: dict[str, Picture] = {}
    for rule in _shown_rules(records):
        caption = f"The same by the rule {rule}." if pictures else text
        png = plots.choice_matrices(*choice_matrix(records, rule), rule)
        pictures[f"choices-{rule}"] = Picture(png, caption)
    shown = [view_accuracy_table(records), early_table(records)]
    return [
        Section("Branch choice", pictures, [table for table in shown if table.rows]),
        Section("All selections", {}, [selection_table(records)]),
    ]


def headline(records: Sequence[Record]) -> list[Table]:
    """How often every rule chooses the right branch of the source, and early as by all norms."""
    return [view_accuracy_table(records), early_table(records)]


def selection_table(records: Iterable[Record]) -> Table:
    """Mean DSC of each way to answer: every rule, the union, each branch alone, the best branch.

    Raises UserError where there is no image, or the images do not share their branches.
    """
    domains = by_domain(records)
    every = [record for group in domains.values() for record in group]
    _branches(every)  # refuses records of different models
    ways = _ways(every)
    rows = []
    for domain, group in domains.items():
        means = (
            finite_mean(score["dsc"] for score in recorded.scores(group, way))
            for way in ways.values()
        )
        rows.append((domain_name(domain, group), str(len(group)), *map(number, means)))
    note = (
        "* the shipped answer. Union: a pixel that any branch marks. Weighted: the mean of the "
        "branches, weighted by the probabilities of polarity. Entropy: weighted by how sure each "
        "branch is. Mixed: one pass with the branches' scales and shifts mixed by probabilities, "
        "or those of the right polarity alike. Matched: the nearest branch, of the image "
        "with the grays of the source. Best branch: the best for each image "
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
    domains = by_domain(records)
    every = [record for group in domains.values() for record in group]
    if not all("chosen_early" in record for record in every):
        return {}
    return {
        rule: {
            domain_name(domain, group): float(
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
    views, domains = _by_view(records), by_domain(records)
    every = [record for group in (*views.values(), *domains.values()) for record in group]
    if rule not in _rules(every):
        raise UserError(f"no choices of {rule!r} were recorded; known: {', '.join(_rules(every))}")
    branches = _branches(every)

    def counts(groups: Iterable[list[Record]]) -> np.ndarray:
        chosen = ([record["chosen"][rule] for record in group] for group in groups)
        return np.array([np.bincount(row, minlength=len(branches)) for row in chosen])

    expected = tuple(group[0]["branch"] for group in views.values())
    names = tuple(domain_name(domain, group) for domain, group in domains.items())
    return (
        Matrix(tuple(views), branches, counts(views.values()), expected),
        Matrix(names, branches, counts(domains.values())),
    )


def _by_view(records: Iterable[Record]) -> dict[str, list[Record]]:
    views = [record for record in records if record["kind"] == "view"]
    return grouped(views, "view", "no view of a source image was recorded")


def _branches(records: list[Record]) -> tuple[str, ...]:
    branches = {tuple(record["branches"]) for record in records}
    if len(branches) > 1:
        raise UserError(f"records of different models: branches {' and '.join(map(str, branches))}")
    return branches.pop()


def _rules(records: list[Record]) -> list[str]:
    """The rules that every record has, in the order of branches.SELECTIONS, others after them."""
    shared = set.intersection(*(set(record["chosen"]) for record in records))
    return [rule for rule in SELECTIONS if rule in shared] + sorted(shared - set(SELECTIONS))


def _ways(records: list[Record]) -> dict[str, str]:
    """Column -> way to answer; `*` marks the shipped one."""
    together = [name for name in recorded.TOGETHER if all(name in r["scores"] for r in records)]
    shipped = records[0]["answer"]
    rules = [*_rules(records), *together]
    if shipped not in rules:  # a rule for whole cases or domains
        rules.append(shipped)
    return {
        **{f"{way}*" if way == shipped else way: way for way in rules},
        **{f"{recorded.ONLY}{name}": f"{recorded.ONLY}{name}" for name in records[0]["branches"]},
        "best branch": recorded.ORACLE,
        "best of domain": f"{recorded.ORACLE}@domain",
    }


def _marked(record: Record, rule: str) -> str:
    return f"{rule}*" if rule == record["selection"] else rule


def _shown_rules(records: Sequence[Record]) -> list[str]:
    """The shipped rule, and beside it the two of the paper."""
    first = records[0] if records else {}
    rules = dict.fromkeys([first.get("selection", ""), "cosine", "euclidean"])
    recorded = first.get("chosen", {})
    return [rule for rule in rules if rule in recorded] or [first.get("selection", "")]


STUDY = Study(recorded.answering, headline, sections, comparison.tables)
