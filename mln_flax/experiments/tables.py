"""Tables of an experiment: pure functions of the records of its runs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mln_flax.config import METHODS
from mln_flax.experiments.core import Experiment, Row, config_of
from mln_flax.experiments.jobs import Job
from mln_flax.metrics import pixel
from mln_flax.registry import kind_of
from mln_flax.results.statistics import Comparison, finite_mean, paired_bootstrap
from mln_flax.results.study import is_labeled
from mln_flax.results.table_layout import Table, number, spread
from mln_flax.types import Record, UserError

# (row, source, seed) -> domain -> image_id -> the score entry of the row's answer, with `LABELED`.
Outcome = Mapping[tuple[str, str, int], Mapping[str, Mapping[str, Record]]]
LABELED = "dsc_labeled"  # the DSC of an image that holds a lesion; of others there is none
METRICS = (
    "dsc",
    LABELED,
    "tpr",
    "precision",
    *(f"{name}_{unit}" for unit in ("mm", "px") for name in pixel.DISTANCES),
)


class Network(NamedTuple):
    """What a network is made of, and the rows that use it."""

    rows: tuple[str, ...]
    branches: int
    shared: int  # parameters
    per_branch: int  # parameters


def outcome(
    experiment: Experiment, jobs: Sequence[Job], records: Mapping[str, Sequence[Record]]
) -> Outcome:
    """What every row got from the runs that are done, by row, source and seed.

    Args:
      experiment: the whole of it.
      jobs: its runs.
      records: those of each run that is done, by the run's name.

    Raises:
      UserError: a row asks for an answer that was not recorded.
    """
    scores: dict[tuple[str, str, int], dict[str, dict[str, Record]]] = {}
    for job in jobs:
        images = [line for line in records.get(job.name, ()) if line["kind"] == "image"]
        for row in experiment.shown() if images else ():
            if row.name not in job.rows:
                continue
            method = config_of(experiment, row, job.source, job.seed).method
            study = kind_of(METHODS, method.name).study
            try:
                names = study.answering(images, method)
            except UserError as error:
                raise UserError(f"row {row.name!r}, run {job.name}: {error}") from None
            by_domain = scores.setdefault((row.name, job.source, job.seed), {})
            for line, name in zip(images, names, strict=True):
                score = line["scores"][name]
                labeled = {LABELED: score["dsc"] if is_labeled(score) else None}
                by_domain.setdefault(line["domain"], {})[line["image_id"]] = score | labeled
    return scores


def means(outcome: Outcome, row: str, source: str, domain: str, metric: str) -> dict[int, float]:
    """Seed -> a row's mean over the images of a domain; nan where the metric has no meaning."""
    return {
        seed: finite_mean(score[metric] for score in domains[domain].values())
        for (name, trained_on, seed), domains in outcome.items()
        if (name, trained_on) == (row, source) and domain in domains
    }


def unseen_means(
    outcome: Outcome, experiment: Experiment, row: str, source: str, metric: str
) -> dict[int, float]:
    """Seed -> the mean over the targets of a source of a row's means over their images."""
    per_target = [
        means(outcome, row, source, domain, metric) for domain in targets(experiment, source)
    ]
    seeds = set.intersection(*map(set, per_target))
    return {
        seed: float(np.mean([by_seed[seed] for by_seed in per_target])) for seed in sorted(seeds)
    }


def targets(experiment: Experiment, source: str) -> tuple[str, ...]:
    """The domains that training on a source never sees."""
    return tuple(domain for domain in experiment.domains if domain != source)


def compared(
    outcome: Outcome, experiment: Experiment, row: str, other: str, source: str
) -> Comparison | None:
    """How much the mean DSC over unseen targets of one row exceeds another's; None: no run shared.

    An image counts with its mean over the seeds that both rows have.
    """
    seeds = sorted(
        seed
        for name, trained_on, seed in outcome
        if (name, trained_on) == (row, source) and (other, source, seed) in outcome
    )
    if not seeds:
        return None
    differences = []
    for domain in targets(experiment, source):
        per_seed = []
        for seed in seeds:
            a, b = (outcome[name, source, seed].get(domain, {}) for name in (row, other))
            per_seed.append({image: a[image]["dsc"] - b[image]["dsc"] for image in a if image in b})
        images = [image for image in per_seed[0] if all(image in by_image for by_image in per_seed)]
        if not images:
            return None
        differences.append(
            np.array([np.mean([by_image[image] for by_image in per_seed]) for image in images])
        )
    return paired_bootstrap(differences)


def source_table(experiment: Experiment, outcome: Outcome, source: str) -> Table:
    """Every row trained on one source: DSC of each domain, and of the unseen ones together."""
    unit = unit_of(outcome)
    unseen = targets(experiment, source)
    header = (
        "row",
        "seeds",
        f"{source} (source)",
        *unseen,
        "unseen DSC",
        "with lesions",
        f"unseen HD {unit}",
        *_comparison_header(experiment),
    )
    rows = []
    for row in experiment.shown():
        if source not in experiment.sources_of(row):
            continue
        dsc = unseen_means(outcome, experiment, row.name, source, "dsc")
        labeled = unseen_means(outcome, experiment, row.name, source, LABELED)
        distance = unseen_means(outcome, experiment, row.name, source, f"hausdorff_{unit}")
        rows.append(
            (
                row.name,
                _seeds(experiment, dsc),
                *(
                    spread(means(outcome, row.name, source, domain, "dsc").values())
                    for domain in (source, *unseen)
                ),
                spread(dsc.values()),
                spread(labeled.values()),
                spread(distance.values(), 2),
                *_comparison(experiment, outcome, row, source),
            )
        )
    note = _source_note(experiment, outcome, source)
    return Table(f"Trained on {source}", header, tuple(rows), note)


def _source_note(experiment: Experiment, outcome: Outcome, source: str) -> str:
    note = (
        "DSC and HD: mean over images, then over seeds, ± standard deviation over seeds "
        "where there are several. Unseen: the mean over the targets. With lesions: unseen DSC over "
        "the images whose reference is not empty."
    )
    floor = nothing_marked(outcome, experiment, source)
    if math.isfinite(floor):
        note += f" Who marks nothing anywhere has an unseen DSC of {number(floor)}."
    if experiment.against:
        note += (
            f" Difference: unseen DSC against {experiment.against}, on the same images with the "
            "same seeds; 95% interval and two-sided p by paired bootstrap over images "
            "(10,000 resamples within each target). It holds for these seeds: how much another "
            "seed would change is the standard deviation's matter."
        )
    return note


def nothing_marked(outcome: Outcome, experiment: Experiment, source: str) -> float:
    """The unseen DSC of empty masks: the mean over the targets of the share without a lesion."""
    unseen = targets(experiment, source)
    for (_, trained_on, _), domains in outcome.items():
        if trained_on == source and all(target in domains for target in unseen):
            shares = [
                np.mean([not is_labeled(score) for score in domains[target].values()])
                for target in unseen
            ]
            return float(np.mean(shares))
    return math.nan


def overall_table(experiment: Experiment, outcome: Outcome) -> Table:
    """The rows that were trained on every source: means over all (source, target) pairs."""
    unit = unit_of(outcome)
    rows = []
    for row in experiment.shown():
        if experiment.sources_of(row) != experiment.sources:
            continue
        cells: list[str] = []
        for metric, digits in (("dsc", 3), (f"hausdorff_{unit}", 2)):
            over = [
                unseen_means(outcome, experiment, row.name, source, metric)
                for source in experiment.sources
            ]
            # Every source has as many targets: the mean of means is that over all pairs.
            seeds = sorted(set.intersection(*map(set, over)))
            values = [float(np.mean([by_seed[seed] for by_seed in over])) for seed in seeds]
            cells += [spread(values, digits)] if cells else [f"{len(values)}", spread(values)]
        rows.append((row.name, *cells))
    pairs = len(experiment.sources) * (len(experiment.domains) - 1)
    note = (
        f"Mean over {pairs} pairs of a source and an unseen target, then over the seeds with which "
        "every source is done, ± standard deviation over seeds. Rows that were trained on some "
        "sources only are not here."
    )
    header = ("row", "seeds", "unseen DSC", f"unseen HD {unit}")
    return Table("All sources together", header, tuple(rows), note)


def raw_table(experiment: Experiment, outcome: Outcome) -> Table:
    """One line per row, source, seed, domain and metric: the mean over images, not rounded."""
    rows = []
    for row in experiment.shown():
        for source in experiment.sources_of(row):
            for seed in experiment.seeds:
                domains = outcome.get((row.name, source, seed), {})
                for domain, images in domains.items():
                    role = "source" if domain == source else "target"
                    for metric in METRICS:
                        values = [score[metric] for score in images.values()]
                        defined = [value for value in values if value is not None]
                        mean = finite_mean(defined)
                        rows.append(
                            (
                                *(row.name, source, str(seed), domain, role, metric),
                                str(len(defined)),
                                repr(mean) if math.isfinite(mean) else "",
                            )
                        )
    header = ("row", "source", "seed", "domain", "role", "metric", "images", "mean")
    return Table("Means over images", header, tuple(rows))


def network_table(networks: Iterable[Network]) -> Table:
    """Parameters of each distinct network: in all, shared, and what a branch adds (section 5.2)."""
    rows = []
    for network in networks:
        of_branches = network.branches * network.per_branch
        total = network.shared + of_branches
        rows.append(
            (
                ", ".join(network.rows),
                str(network.branches),
                f"{total:,}",
                f"{network.shared:,}",
                f"{network.per_branch:,}",
                f"{of_branches / total:.1%}",
            )
        )
    header = ("rows", "branches", "parameters", "shared", "per branch", "all branches' share")
    return Table("Parameters of the networks", header, tuple(rows))


def unit_of(outcome: Outcome) -> str:
    """`mm`, or `px` where one image has no spacing."""
    scores = (
        score
        for domains in outcome.values()
        for images in domains.values()
        for score in images.values()
    )
    return "px" if any(score["hausdorff_mm"] is None for score in scores) else "mm"


def _seeds(experiment: Experiment, by_seed: Mapping[int, float]) -> str:
    here, all_seeds = len(by_seed), len(experiment.seeds)
    return str(here) if here == all_seeds else f"{here}/{all_seeds}"


def _comparison_header(experiment: Experiment) -> tuple[str, ...]:
    if not experiment.against:
        return ()
    return (f"against {experiment.against}", "95% interval", "p")


def _comparison(experiment: Experiment, outcome: Outcome, row: Row, source: str) -> tuple[str, ...]:
    if not experiment.against:
        return ()
    comparison = compared(outcome, experiment, row.name, experiment.against, source)
    if row.name == experiment.against or comparison is None:
        return ("-", "-", "-")
    return (
        f"{comparison.difference:+.3f}",
        f"{comparison.low:+.3f} to {comparison.high:+.3f}",
        "<0.001" if comparison.p < 0.001 else f"{comparison.p:.3f}",
    )
