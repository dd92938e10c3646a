"""Tables of results: pure functions of the recorded lines."""

from collections import Counter
from collections.abc import Iterable

from mln_flax.metrics import pixel
from mln_flax.results.statistics import finite_mean
from mln_flax.results.study import answering_score, is_labeled
from mln_flax.results.table_layout import Table, number
from mln_flax.types import Record, UserError

_USUAL = {  # of a score entry
    *("tp", "fp", "fn", "tpr", "precision", "dsc", "empty"),
    *(f"{name}_{unit}" for name in pixel.DISTANCES for unit in ("mm", "px")),
}


def results_table(records: Iterable[Record]) -> Table:
    """The headline: for the source and every target, the means of the maps that answer.

    Distances are in mm, or in pixels (the header says so) where any image's spacing is unknown.
    Raises UserError where there is no image.
    """
    domains = by_domain(records)
    unit = _unit(domains)
    several = any(len(record["scores"]) > 1 for group in domains.values() for record in group)
    rows = []
    for domain, group in domains.items():
        scores = [answering_score(record) for record in group]
        names = Counter(record["answered_by"] for record in group).most_common()
        rows.append(
            (
                domain_name(domain, group),
                str(len(group)),
                *(_mean(scores, key) for key in ("dsc", "tpr", "precision")),
                *(_mean(scores, f"{key}_{unit}", 2) for key in ("hausdorff", "average_distance")),
                "/".join(_empty_counts(scores)),
                *([", ".join(f"{name} {count}" for name, count in names)] if several else []),
            )
        )
    header = f"n,DSC,TPR,Pr,HD {unit},ASD {unit},empty b/p/r" + ",answered by" * several
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
    ways = {r["answer"] for group in domains.values() for r in group if "answer" in r}
    title = f"Results (answer: {', '.join(sorted(ways))})" if ways else "Results"
    unlabeled = {name for group in domains.values() for r in group for name in _unlabeled(r)}
    if unlabeled:
        note += (
            f" Training saw images of {', '.join(sorted(unlabeled))} without their labels: not "
            "unseen."
        )
    return Table(title, ("domain", *header.split(",")), tuple(rows), note)


def kinds_table(records: Iterable[Record]) -> Table:
    """How many images of each kind the headline's means hold, and the means of the plain kind."""
    domains = by_domain(records)
    unit = _unit(domains)
    rows = []
    for domain, group in domains.items():
        scores = [answering_score(record) for record in group]
        lesions = [score for score in scores if is_labeled(score)]
        plain = [score for score in scores if score["empty"] == "neither"]
        rows.append(
            (
                domain_name(domain, group),
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
    """Every boundary distance of the maps that answer, in millimeters and in pixels."""
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
    for domain, group in by_domain(records).items():
        scores = [answering_score(record) for record in group]
        cells = (_mean(scores, key, 2) for _, key in columns)
        rows.append((domain_name(domain, group), str(len(group)), *cells))
    header = ("domain", "n", *(name for name, _ in columns))
    note = "One-way: from the prediction's boundary to the reference (Eq. 24 of the paper)."
    return Table("Boundary distances", header, tuple(rows), note)


def further_table(records: Iterable[Record]) -> Table:
    """The means of what `evaluate.metrics` adds to the usual scores; without rows if nothing."""
    domains = by_domain(records)
    every = [answering_score(record) for group in domains.values() for record in group]
    names = [name for name in every[0] if name not in _USUAL]
    rows = tuple(
        (
            domain_name(domain, group),
            str(len(group)),
            *(_mean([answering_score(record) for record in group], name) for name in names),
        )
        for domain, group in (domains.items() if names else ())
    )
    return Table("Further metrics", ("domain", "n", *names), rows)


def by_domain(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The image records per domain, the source first, targets in the order of the records."""
    images = [record for record in records if record["kind"] == "image"]
    groups = grouped(images, "domain", "no image was recorded")
    return dict(sorted(groups.items(), key=lambda item: item[1][0]["role"] != "source"))


def grouped(records: list[Record], key: str, complaint: str) -> dict[str, list[Record]]:
    """The records by one of their fields; raises UserError with the complaint where none is."""
    if not records:
        raise UserError(f"{complaint}; --mode=evaluate records them")
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record[key], []).append(record)
    return groups


def domain_name(domain: str, group: list[Record]) -> str:
    """The domain as a table names it: the source is marked, and what was seen without labels."""
    if group[0]["role"] == "source":
        return f"{domain} (source)"
    return f"{domain} (seen without labels)" if domain in _unlabeled(group[0]) else domain


def _unlabeled(record: Record) -> list[str]:
    """The targets whose images training saw without labels."""
    return record.get("unlabeled", [])


def _unit(domains: dict[str, list[Record]]) -> str:
    """`mm`, or `px` where one image has no spacing: a mean of both would have no unit."""
    records = [record for group in domains.values() for record in group]
    return "px" if any(record["spacing_mm"] is None for record in records) else "mm"


def _empty_counts(scores: list[Record]) -> list[str]:
    kinds = Counter(score["empty"] for score in scores)
    return [str(kinds[kind]) for kind in ("both", "prediction", "reference")]


def _mean(scores: list[Record], key: str, digits: int = 3) -> str:
    return number(finite_mean(score[key] for score in scores), digits)
