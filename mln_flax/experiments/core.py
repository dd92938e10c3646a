"""An experiment: rows of settings, sources and seeds; where it comes from and what is refused."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mln_flax import config as configs
from mln_flax import files, settings
from mln_flax.config import Config
from mln_flax.registry import nearest
from mln_flax.types import UserError

FILE = "experiment.json"  # what a workdir holds of its experiment
# Of rows of the first release.
_RENAMED = {"method.momentum": "model.momentum"}
_SIZES = {
    f"model.{name}" for name in "patch_size embed_dim depths num_heads window_size widths".split()
}
FIGURES = ("", "pairs", "augmentation")
# What the sources, the domains and the seeds of an experiment decide.
RESERVED = ("data.source", "data.targets", "train.seed")


@dataclass(frozen=True)
class Row:
    """A row of the table: a name, and settings by which it differs from the base."""

    name: str
    settings: Mapping[str, str] = field(default_factory=dict)  # as on the command line
    sources: tuple[str, ...] = ()  # the sources that it is trained on; () is all


@dataclass(frozen=True)
class Experiment:
    """Rows x sources x seeds: every row is trained on every source with every seed."""

    title: str
    base: Config
    rows: tuple[Row, ...]
    sources: tuple[str, ...]  # each is the source once; the other domains are its targets
    domains: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    against: str = ""  # the row that the others are compared with
    figure: str = ""  # one of FIGURES, beside the dot plot
    only: tuple[str, ...] = ()  # names of the rows that are run and shown; () is all
    shard: str = "1/1"  # "2/3": the second of three parts of the runs

    def shown(self) -> tuple[Row, ...]:
        """The rows that are run and shown."""
        return tuple(row for row in self.rows if not self.only or row.name in self.only)

    def sources_of(self, row: Row) -> tuple[str, ...]:
        """The sources that a row is trained on."""
        return tuple(source for source in self.sources if not row.sources or source in row.sources)


class Shard(NamedTuple):
    """One part of the runs (jobs.part_of)."""

    first: int
    parts: int


def load(path: str) -> Experiment:
    """What `get_experiment()` of a Python file returns; raises UserError as settings.load does."""
    experiment = settings.load(path, "get_experiment")
    if not isinstance(experiment, Experiment):
        raise UserError(
            f"--config={path}: get_experiment() must return a mln_flax.experiments.core.Experiment"
        )
    return experiment


def read(workdir: Path) -> Experiment:
    """The experiment of a workdir; raises UserError where its file is none."""
    path = workdir / FILE
    try:
        return settings.from_dict(of_first_release(files.read_json(path)), Experiment, str(path))
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path}: not an experiment ({error})") from None


def of_first_release(values: Any) -> Any:
    """The values of an experiment as they are now: a row's momentum is the network's.

    A row's sizes were 0 or () where the preset decides. The base is renewed as any settings are.
    """
    if not isinstance(values, dict) or "momentum" not in values.get("base", {}).get("method", {}):
        return values
    rows = [
        row
        | {
            "settings": {
                _RENAMED.get(path, path): "none" if path in _SIZES and text in ("0", "()") else text
                for path, text in row.get("settings", {}).items()
            }
        }
        for row in values.get("rows", ())
    ]
    return values | {"rows": rows}


def choose(path: str, overrides: Mapping[str, str], workdir: Path) -> Experiment:
    """The experiment of a file, or that of a workdir, with the overrides of the command line.

    Raises:
      UserError: there is neither, or something in it cannot work.
    """
    if path:
        experiment = load(path)
    elif (workdir / FILE).exists():
        experiment = read(workdir)
    else:
        raise UserError(
            f"--workdir={workdir} holds no experiment yet, and --config is missing: a file such as "
            "configs/experiments/table3.py"
        )
    for path in settings.choices_first(overrides):
        experiment = override(experiment, path, overrides[path])
    validate(experiment)
    return experiment


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """Plain nested values of the whole experiment, without the shard."""
    values = settings.to_dict(experiment)
    return {name: value for name, value in values.items() if name != "shard"}


def override(experiment: Experiment, path: str, text: str) -> Experiment:
    """The experiment with one setting changed: `seeds`, `base.train.steps`, `rows` (a choice).

    Raises:
      UserError: no such setting, or a value of another type.
    """
    return settings.override(experiment, "only" if path == "rows" else path, text)


def config_of(experiment: Experiment, row: Row, source: str, seed: int) -> Config:
    """The settings of one run of a row; raises UserError as settings.override_all does."""
    try:
        config = settings.override_all(experiment.base, row.settings)
    except UserError as error:
        raise UserError(f"row {row.name!r}: {error}") from None
    targets = tuple(domain for domain in experiment.domains if domain != source)
    data = dataclasses.replace(config.data, source=source, targets=targets)
    return dataclasses.replace(
        config, data=data, train=dataclasses.replace(config.train, seed=seed)
    )


def shard_of(text: str) -> Shard:
    """The part that a text such as `2/3` means; raises UserError where it means none."""
    index, slash, parts = text.partition("/")
    if not (slash and index.isdecimal() and parts.isdecimal() and 1 <= int(index) <= int(parts)):
        raise UserError(f"--config.shard={text}: must be I/N with I from 1 to N, as in 2/3")
    return Shard(int(index) - 1, int(parts))


_PLACES = {f"base.{path}" for path in settings.PLACES}  # its runs compare the content


def merged(stored: Experiment, added: Experiment, where: str) -> Experiment:
    """The experiment of a workdir to which another command adds rows, sources and seeds.

    The stored ones come first, so that what was begun keeps its name.

    Raises:
      UserError: it is another experiment: a base, domains or a row of other settings.
    """
    before, after = _compared(stored), _compared(added)
    changed = [
        line
        for line in settings.differences(before, after)
        if not line.startswith(("base.evaluate.", "base.benchmark."))
        and line.partition(":")[0] not in _PLACES
    ]
    known = {row.name: row for row in stored.rows}
    for row in added.rows:
        if row.name in known:
            a, b = dict(known[row.name].settings), dict(row.settings)
            # A path holds dots itself: as a level below the row it is named in full.
            changed += settings.differences({"rows": {row.name: a}}, {"rows": {row.name: b}})
    if changed:
        raise UserError(
            f"{where} belongs to another experiment ({'; '.join(changed[:3])}"
            + (f"; {len(changed) - 3} more" if len(changed) > 3 else "")
            + "); take another workdir"
        )
    rows = [_joined(row, added.rows) for row in stored.rows]
    rows += [row for row in added.rows if row.name not in known]
    all_shown = not stored.only or not added.only
    return dataclasses.replace(
        added,
        rows=tuple(rows),
        domains=stored.domains,  # the targets of a run that is there already stand in this order
        sources=_union(stored.sources, added.sources),
        seeds=_union(stored.seeds, added.seeds),
        only=() if all_shown else _union(stored.only, added.only),
    )


def narrowed(whole: Experiment, overrides: Mapping[str, str]) -> Experiment:
    """The experiment of a workdir with no more rows, sources and seeds than a report asks for."""
    for name in ("rows", "sources", "seeds"):
        if name in overrides:
            whole = override(whole, name, overrides[name])
    return whole


def _compared(experiment: Experiment) -> dict[str, Any]:
    values = to_dict(experiment)
    return {"base": values["base"], "domains": sorted(values["domains"])}


def _joined(row: Row, others: Sequence[Row]) -> Row:
    """The row on all the sources that it or its namesake is trained on."""
    for other in others:
        if other.name == row.name:
            both = row.sources and other.sources
            sources = _union(row.sources, other.sources) if both else ()
            return dataclasses.replace(row, sources=sources)
    return row


def _union(first: Iterable[Any], second: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def validate(experiment: Experiment) -> None:
    """Raises UserError for what cannot work, each with what is allowed."""
    configs.validate(experiment.base)
    names = [row.name for row in experiment.rows]
    for where, values in (
        ("rows", names),
        ("sources", experiment.sources),
        ("domains", experiment.domains),
        ("seeds", experiment.seeds),
    ):
        _distinct(where, values)
    if len(experiment.domains) < 2:
        raise UserError("--config.domains: needs a source and at least one other domain")
    _known("sources", experiment.sources, experiment.domains)
    _known("rows", experiment.only, names)
    if experiment.only:
        _distinct("rows", experiment.only)
    _known("against", (experiment.against,) if experiment.against else (), names)
    _known("figure", (experiment.figure,), FIGURES)
    shard_of(experiment.shard)
    for row in experiment.rows:
        if settings.split_outside_brackets(row.name) != [row.name]:
            raise UserError(
                f"row {row.name!r}: a comma stands between rows in --config.rows, so a name can "
                "have none"
            )
        _known(f"rows: {row.name}: sources", row.sources, experiment.domains)
        for path, text in row.settings.items():
            if not isinstance(text, str):
                raise UserError(
                    f"row {row.name!r}: {path}: {text!r} must be a text, as on the command line: "
                    f"{str(text)!r}"
                )
        for path in RESERVED:
            if path in row.settings:
                raise UserError(
                    f"row {row.name!r}: {path} is no setting of a row; the experiment's sources, "
                    "domains and seeds decide it"
                )
        for source in experiment.sources_of(row):
            for seed in experiment.seeds:
                _valid(experiment, row, source, seed)


def _valid(experiment: Experiment, row: Row, source: str, seed: int) -> None:
    config = config_of(experiment, row, source, seed)
    try:
        configs.validate(config)
    except UserError as error:
        raise UserError(f"row {row.name!r}: {error}") from None


def _distinct(where: str, values: Sequence[Any]) -> None:
    if not values:
        raise UserError(f"--config.{where}: is empty; needs one or more")
    for value in values:
        if list(values).count(value) > 1:
            raise UserError(f"--config.{where}: {value!r} is there twice")


def _known(where: str, values: Iterable[str], known: Sequence[str]) -> None:
    for value in values:
        if value not in known:
            names = ", ".join(name or "nothing" for name in known)
            raise UserError(
                f"--config.{where}={value}: unknown{nearest(value, known)}; known: {names}"
            )
