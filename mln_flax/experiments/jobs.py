"""The runs of an experiment: what is trained once for all the rows that can share it."""

import re
from typing import NamedTuple

from mln_flax import settings
from mln_flax.config import Config
from mln_flax.experiments.core import Experiment, Row, Shard, config_of


class Job(NamedTuple):
    """One run: its folder's name, its settings, and the rows that take their numbers from it."""

    name: str
    config: Config
    rows: tuple[str, ...]

    @property
    def source(self) -> str:
        """The domain that it is trained on."""
        return self.config.data.source

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.config.train.seed


def jobs(experiment: Experiment) -> list[Job]:
    """Every run of an experiment once, those of one source and one seed beside each other.

    Rows whose settings differ only in how they answer (settings.after_training) share their runs. A
    run is named by its source, the first such row and its seed; the name depends on no choice of
    rows, sources or seeds, so that parts of an experiment may be put together.
    """
    groups = _groups(experiment)
    return [
        Job(f"{source}-{slug}-seed{seed}", config_of(experiment, rows[0], source, seed), names)
        for source in experiment.sources
        for seed in experiment.seeds
        for slug, rows in groups.items()
        if (names := _wanted(experiment, rows, source))
    ]


def part_of(all_jobs: list[Job], shard: Shard) -> list[Job]:
    """The runs that belong to one part.

    Every round of as many runs as there are parts begins one part later than the round before:
    rows that take longer than others, which come round as well, are not left to one part.
    """
    return [
        job
        for number, job in enumerate(all_jobs)
        if (number + number // shard.parts) % shard.parts == shard.first
    ]


def asked(whole: Experiment, experiment: Experiment) -> list[Job]:
    """The runs of a workdir's whole experiment that one command asks for."""
    wanted = {
        (row.name, source, seed)
        for row in experiment.shown()
        for source in experiment.sources_of(row)
        for seed in experiment.seeds
    }
    return [
        job
        for job in jobs(whole)
        if any((name, job.source, job.seed) in wanted for name in job.rows)
    ]


def _wanted(experiment: Experiment, rows: list[Row], source: str) -> tuple[str, ...]:
    shown = [row.name for row in experiment.shown()]
    return tuple(
        row.name for row in rows if row.name in shown and source in experiment.sources_of(row)
    )


def _groups(experiment: Experiment) -> dict[str, list[Row]]:
    """A slug for each distinct training -> the rows that share it, in their order."""
    by_settings: dict[str, list[Row]] = {}
    for row in experiment.rows:
        config = config_of(experiment, row, experiment.sources[0], experiment.seeds[0])
        by_settings.setdefault(recorded(config), []).append(row)
    groups: dict[str, list[Row]] = {}
    for rows in by_settings.values():
        slug = base = slug_of(rows[0].name)
        while slug in groups:
            number = int(slug.removeprefix(base).lstrip("-") or 1) + 1
            slug = f"{base}-{number}"
        groups[slug] = rows
    return groups


def recorded(config: Config) -> str:
    """The settings that the records of a run depend on, a line for each."""
    left_out = settings.after_training(config)
    values = settings.flat(settings.to_dict(config))
    return "\n".join(f"{path}: {value}" for path, value in values.items() if path not in left_out)


def slug_of(name: str) -> str:
    """A row's name as a part of a folder's: `MLN-net-E+` is `mln-net-e-plus`."""
    text = name.lower().replace("+", " plus ").replace("*", " star ")
    return re.sub("[^a-z0-9]+", "-", text).strip("-") or "row"
