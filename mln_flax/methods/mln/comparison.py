"""How branches are chosen, over the runs of an experiment: pure functions of the records."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from mln_flax.methods.mln import recorded
from mln_flax.results.statistics import finite_mean
from mln_flax.results.study import Training
from mln_flax.results.table_layout import Table, number, spread
from mln_flax.types import Record

LEVELS = ("image", "case", "domain")


def tables(trainings: Sequence[Training]) -> list[Table]:
    """All of the tables below, for what was trained with several branches."""
    branched = [training for training in trainings if len(training.seeds[0][0]["branches"]) > 1]
    shown: list[Table] = [view_accuracy_table(branched)] if branched else []
    for training in branched:
        shown += [worth_table(training), level_table(training), share_table(training)]
        if any(line["kind"] == "norms" for line in training.seeds[0]):
            shown += [prefix_table(training), distance_table(training)]
    return shown


def view_accuracy_table(trainings: Iterable[Training]) -> Table:
    """How often every rule chooses the branch of the view that a source image is seen through."""
    shares = {
        (training.source, ", ".join(training.rows)): [
            _view_accuracy(lines) for lines in training.seeds
        ]
        for training in trainings
    }
    rules = list(dict.fromkeys(rule for seeds in shares.values() for rule in seeds[0]))
    rows = tuple(
        (*names, *(spread(seed[rule] for seed in seeds if rule in seed) for rule in rules))
        for names, seeds in shares.items()
    )
    note = (
        "The share of source test images, seen through a view, for which a rule chooses the branch "
        "of that view: mean over views, then over seeds, ± standard deviation over seeds."
    )
    return Table("View accuracy of the rules", ("source", "rows", *rules), rows, note)


def worth_table(training: Training) -> Table:
    """Per rule and domain: how often the best branch is chosen, and the DSC that is lost."""
    domains = training.domains()
    rows = []
    for rule in _rules(training):
        cells = []
        for domain in domains:
            best = _per_seed(training, domain, _share_of_best(rule))
            lost = _per_seed(training, domain, _lost(rule, recorded.ORACLE))
            of_domain = _per_seed(training, domain, _lost(rule, f"{recorded.ORACLE}@domain"))
            cells += [spread(best, 2), number(finite_mean(lost)), number(finite_mean(of_domain))]
        rows.append((rule, *cells))
    header = [
        f"{domain} {name}"
        for domain in domains
        for name in ("best", "lost to the image's", "lost to the domain's")
    ]
    note = (
        "Best: the share of images whose chosen branch has the highest DSC of all (± standard "
        "deviation over seeds); where all branches have the same DSC (share of the images: "
        f"{_tied(training)}) each is best. Lost: DSC below that of the best branch of each image, "
        "and below that of the branch that is best for the whole domain (above it where negative). "
        "Weighted answers and the union choose no branch."
    )
    return Table(
        f"What the rules are worth ({training.name})", ("rule", *header), tuple(rows), note
    )


def level_table(training: Training) -> Table:
    """Per rule: DSC of every domain where each image, each case, or the domain has one choice."""
    domains = training.domains()
    rows = []
    for rule in _rules(training):
        if rule in recorded.TOGETHER:
            continue
        for level in LEVELS:
            way = rule if level == "image" else f"{rule}@{level}"
            dsc = (spread(_per_seed(training, domain, _dsc(way))) for domain in domains)
            rows.append((rule, level, *dsc))
    note = "A phantom is a case of one image, so there image and case agree."
    title = f"DSC by what shares a choice ({training.name})"
    return Table(title, ("rule", "level", *domains), tuple(rows), note)


def share_table(training: Training) -> Table:
    """How often each branch is chosen by each rule, and how often it is the best, per domain."""
    names = training.seeds[0][0]["branches"]
    rows = []
    for domain in training.domains():
        for rule in (*_by_distance(training), recorded.ORACLE):
            counts = [
                np.bincount(recorded.branches(images(lines, domain), rule), minlength=len(names))
                for lines in training.seeds
            ]
            total = np.sum(counts, axis=0)
            shown = "best branch" if rule == recorded.ORACLE else rule
            rows.append((domain, shown, *(f"{share:.2f}" for share in total / total.sum())))
    note = "Shares of the images of all seeds. Where several branches are best the first counts."
    title = f"Which branch is chosen ({training.name})"
    return Table(title, ("domain", "rule", *names), tuple(rows), note)


def prefix_table(training: Training) -> Table:
    """Per rule and domain: DSC of the choice by some of the first norms of the network."""
    norms = next(line["norms"] for line in training.seeds[0] if line["kind"] == "norms")
    places = sorted({*(round(share * len(norms)) for share in (0.07, 0.25, 0.5, 0.75, 1.0))} - {0})
    rows = []
    for (domain, rule), lines in _norm_lines(training).items():
        dsc = (spread(line["dsc"][place - 1] for line in lines) for place in places)
        rows.append((domain, rule, *dsc))
    header = ("domain", "rule", *(f"first {place} of {len(norms)}" for place in places))
    note = "Mean DSC where the first norms alone choose, ± standard deviation over seeds."
    return Table(f"Choice by the first norms ({training.name})", header, tuple(rows), note)


def distance_table(training: Training) -> Table:
    """Per norm: which branch it alone is nearest to, with the share of its distance, by domain."""
    by_domain = {
        domain: lines for (domain, rule), lines in _norm_lines(training).items() if rule == "cosine"
    }
    first = next(iter(by_domain.values()))[0]
    rows = []
    for place, norm in enumerate(first["norms"]):
        cells = []
        for lines in by_domain.values():
            distance = np.mean([line["distance"][place] for line in lines], axis=0)
            cells.append("/".join(number(value) for value in distance))
        rows.append((norm, *cells))
    note = (
        "Cosine distance of every norm, mean over images and seeds, from each branch: "
        f"{'/'.join(first['branches'])}."
    )
    return Table(f"Distance by norm ({training.name})", ("norm", *by_domain), tuple(rows), note)


def images(lines: Sequence[Record], domain: str) -> list[Record]:
    """The image records of one domain."""
    return [line for line in lines if _is_image(line) and line["domain"] == domain]


def _per_seed(
    training: Training, domain: str, measure: Callable[[list[Record]], float]
) -> list[float]:
    return [measure(images(lines, domain)) for lines in training.seeds]


def _dsc(way: str) -> Callable[[list[Record]], float]:
    return lambda lines: float(np.mean([score["dsc"] for score in recorded.scores(lines, way)]))


def _lost(way: str, oracle: str) -> Callable[[list[Record]], float]:
    return lambda lines: _dsc(oracle)(lines) - _dsc(way)(lines)


def _share_of_best(way: str) -> Callable[[list[Record]], float]:
    """The share of images that get the DSC of their best branch, or more."""

    def share(lines: list[Record]) -> float:
        best = recorded.scores(lines, recorded.ORACLE)
        pairs = zip(recorded.scores(lines, way), best, strict=True)
        return float(np.mean([score["dsc"] >= highest["dsc"] for score, highest in pairs]))

    return share


def _tied(training: Training) -> str:
    """`dbt 0.23, film 0.55`: the shares of images that all branches answer equally well."""
    shares = {
        domain: finite_mean(
            float(len({score["dsc"] for score in recorded.of_branches(line)}) == 1)
            for lines in training.seeds
            for line in images(lines, domain)
        )
        for domain in training.domains()
    }
    return ", ".join(f"{domain} {share:.2f}" for domain, share in shares.items())


def _view_accuracy(lines: Sequence[Record]) -> dict[str, float]:
    views: dict[str, list[Record]] = {}
    for line in lines:
        if line["kind"] == "view":
            views.setdefault(line["view"], []).append(line)
    rules = next(iter(views.values()))[0]["chosen"] if views else ()
    return {
        rule: float(
            np.mean(
                [
                    np.mean([line["chosen"][rule] == line["branch"] for line in group])
                    for group in views.values()
                ]
            )
        )
        for rule in rules
    }


def _by_distance(training: Training) -> list[str]:
    return list(training.seeds[0][0]["distances"])


def _rules(training: Training) -> list[str]:
    """Rules that choose a branch, then the answers of several branches."""
    together = (name for name in recorded.TOGETHER if name in training.seeds[0][0]["scores"])
    return [*_by_distance(training), *together]


def _norm_lines(training: Training) -> dict[tuple[str, str], list[Record]]:
    """(domain, rule) -> the lines about norms, one for each seed."""
    by_rule: dict[tuple[str, str], list[Record]] = {}
    for lines in training.seeds:
        for line in lines:
            if line["kind"] == "norms":
                by_rule.setdefault((line["domain"], line["rule"]), []).append(line)
    return by_rule


def _is_image(line: Record) -> bool:
    return line["kind"] == "image"
