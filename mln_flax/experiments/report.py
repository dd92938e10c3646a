"""The report of an experiment: tables as HTML, Markdown, LaTeX and CSV, and the page with all."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mln_flax import files, settings
from mln_flax.config import METHODS, Config
from mln_flax.experiments import plots
from mln_flax.experiments import tables as experiment_tables
from mln_flax.experiments.core import Experiment
from mln_flax.experiments.jobs import Job
from mln_flax.experiments.tables import Network, Outcome
from mln_flax.registry import kind_of
from mln_flax.results import page
from mln_flax.results.study import Training
from mln_flax.results.table_layout import Table
from mln_flax.types import Record, UserError

_READING = (
    "DSC is the Dice coefficient, TPR the share of labeled pixels that were found, Pr the share of "
    "marked pixels that are labeled: 1 is best. HD is the largest distance from one boundary to "
    "the other: 0 is best. Empty masks count as in the report of a single run.",
    "A row is a training and a way to answer. Rows that differ in the answer alone share their "
    "trainings: their differences hold no luck of training, and their seeds are the same.",
    "The interval is about images: what other images of the same kinds would have given with these "
    "trained networks. The standard deviation is about seeds.",
    "Many rows are compared with one: of twenty differences that are none, one is expected to have "
    "a p below 0.05.",
)
_LIMITS = (
    "Research use. This is not a medical device: nothing here may be used to diagnose, to screen "
    "or to decide about a patient.",
)
_PHANTOMS = (
    "Phantoms are drawn, not acquired. Results on them compare methods on a known shift; they say "
    "nothing about a clinic."
)


class Report(NamedTuple):
    """The page and the tables that were written."""

    page: Path
    tables: tuple[Table, ...]
    missing: str  # a line that says how many runs are there and which are not


def write(
    workdir: Path,
    experiment: Experiment,
    jobs: Sequence[Job],
    records: Mapping[str, Sequence[Record]],
    networks: Sequence[Network],
    environments: Mapping[str, Mapping[str, str]],
) -> Report:
    """Writes `report/` of an experiment's workdir: index.html, table.md, .tex, .csv and pictures.

    Args:
      workdir: of the experiment.
      experiment: the whole of it.
      jobs: its runs.
      records: those of each run that is done, by its name.
      networks: what its networks are made of.
      environments: what each run that is done ran on.

    Raises:
      UserError: a record lacks what a table needs, or a row's answer was not recorded.
    """
    missing = missing_line(jobs, records)
    try:
        outcome = experiment_tables.outcome(experiment, jobs, records)
        shown = tables(experiment, outcome, missing if len(records) < len(jobs) else "")
        further = comparison(jobs, records)
        pictures = plots.pictures(experiment, outcome)
        raw = experiment_tables.raw_table(experiment, outcome)
    except KeyError as error:
        raise UserError(f"{workdir}: a record lacks the field {error}") from None
    except TypeError as error:
        raise UserError(f"{workdir}: a record holds a value of another kind ({error})") from None
    parameters = experiment_tables.network_table(networks)
    every = (*shown, parameters, *further)
    content = _page(experiment, missing, shown, [parameters], further, pictures, environments)
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("*.png"):
        if stale.stem not in pictures:
            stale.unlink()
    for name, picture in pictures.items():
        files.write_bytes(folder / f"{name}.png", picture.png)
    for name, text in (
        ("table.md", "\n\n".join(table.to_markdown() for table in every) + "\n"),
        ("table.tex", "\n".join(table.to_latex() for table in every)),
        ("table.csv", raw.to_csv()),
        ("index.html", content),
    ):
        files.write_bytes(folder / name, text.encode())
    return Report(folder / "index.html", (*shown, parameters), missing)


def tables(experiment: Experiment, outcome: Outcome, missing: str = "") -> list[Table]:
    """A table for each source, and one over all where there are several; notes say what misses."""
    shown = [
        experiment_tables.source_table(experiment, outcome, source) for source in experiment.sources
    ]
    if len(experiment.sources) > 1:
        shown.append(experiment_tables.overall_table(experiment, outcome))
    return [table._replace(note=f"{missing} {table.note}".strip()) for table in shown]


def comparison(jobs: Sequence[Job], records: Mapping[str, Sequence[Record]]) -> list[Table]:
    """What the methods of the runs that are done show of themselves."""
    trainings: dict[str, dict[tuple[str, tuple[str, ...]], list[list[Record]]]] = {}
    for job in jobs:
        lines = list(records.get(job.name, ()))
        if lines:
            of_method = trainings.setdefault(job.config.method.name, {})
            of_method.setdefault((job.source, job.rows), []).append(lines)
    return [
        table
        for name, of_method in trainings.items()
        for table in kind_of(METHODS, name).study.comparison(
            [Training(*names, seeds) for names, seeds in of_method.items()]
        )
    ]


def missing_line(jobs: Sequence[Job], records: Mapping[str, Sequence[Record]]) -> str:
    """`10 of 12 runs are done; missing: ffdm-basenet-seed2, ...`."""
    missing = [job.name for job in jobs if job.name not in records]
    if not missing:
        return f"All {len(jobs)} runs are done."
    return (
        f"{len(jobs) - len(missing)} of {len(jobs)} runs are done; missing: {', '.join(missing)}."
    )


def _page(
    experiment: Experiment,
    missing: str,
    shown: Sequence[Table],
    parameters: Sequence[Table],
    further: Sequence[Table],
    pictures: Mapping[str, plots.Picture],
    environments: Mapping[str, Mapping[str, str]],
) -> str:
    figures = "".join(page.figure(picture.png, picture.caption) for picture in pictures.values())
    lead = (
        f"{missing} {len(experiment.shown())} rows, seeds {', '.join(map(str, experiment.seeds))}."
    )
    sections = [
        ("Results", "".join(table.to_html() for table in shown)),
        ("Figures", figures or page.paragraph("No run is done.")),
        ("Parameters", "".join(table.to_html() for table in parameters)),
        *([("Further analysis", "".join(table.to_html() for table in further))] if further else []),
        ("What was run", _described(experiment, environments)),
        ("How to read it", page.bullets(_READING)),
        ("Limits", page.bullets(_limits(experiment))),
    ]
    return page.page(experiment.title, lead, sections)


def _described(experiment: Experiment, environments: Mapping[str, Mapping[str, str]]) -> str:
    """Rows, the base's settings, and the machines and commits that the runs were made with."""
    rows = {
        row.name: ", ".join(f"{path}={text}" for path, text in row.settings.items()) or "the base"
        for row in experiment.shown()
    }
    defaults = settings.flat(settings.to_dict(Config()))
    changed = {
        name: str(value)
        for name, value in settings.flat(settings.to_dict(experiment.base)).items()
        if value != defaults.get(name)  # another network or method has settings of its own
    }
    ran = Counter(
        f"commit {environment.get('commit', '?')}, jax {environment.get('jax', '?')}, "
        f"{environment.get('devices', '?')}, {environment.get('machine', '?')}"
        for environment in environments.values()
    )
    return "\n".join(
        [
            page.heading("Rows"),
            page.definitions(rows),
            page.heading("Settings of the base that differ from the defaults"),
            page.definitions(changed),
            page.heading("Runs were made with"),
            page.bullets(f"{where}: {count} runs" for where, count in ran.items()),
        ]
    )


def _limits(experiment: Experiment) -> list[str]:
    return [*_LIMITS, *([_PHANTOMS] if experiment.base.data.name == "phantom" else [])]
