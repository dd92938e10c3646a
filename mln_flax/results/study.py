"""What a method adds to tables and pages: functions of records that it hands in."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mln_flax.results.table_layout import Table
from mln_flax.types import Record


class Picture(NamedTuple):
    """A picture and what it shows."""

    png: bytes
    caption: str


class Section(NamedTuple):
    """A part of a run's page: pictures by the names of their files, then tables."""

    title: str
    pictures: dict[str, Picture]
    tables: Sequence[Table]


class Training(NamedTuple):
    """The runs of one source and one set of rows of an experiment: records, a list per seed."""

    source: str
    rows: tuple[str, ...]
    seeds: list[list[Record]]

    @property
    def name(self) -> str:
        """What heads a table of it."""
        return f"{', '.join(self.rows)}; trained on {self.source}"

    def domains(self) -> list[str]:
        """The source, then its targets."""
        images = (line for line in self.seeds[0] if line["kind"] == "image")
        return list(dict.fromkeys(line["domain"] for line in images))


class Study(NamedTuple):
    """What only the records of one method show."""

    # (image records of one run, the method's settings) -> the map that answers for each image,
    # where images share a choice, or where other settings answer than those they were recorded by
    answering: Callable[[Sequence[Record], Any], list[str]]
    headline: Callable[[Sequence[Record]], list[Table]]  # printed behind the results of a run
    sections: Callable[[Sequence[Record]], list[Section]]  # of a run's page
    comparison: Callable[[Sequence[Training]], list[Table]]  # of an experiment's page


def _as_recorded(records: Sequence[Record], settings: Any) -> list[str]:
    del settings
    return [record["answered_by"] for record in records]


def _nothing(records: Sequence[Any]) -> list[Any]:
    del records
    return []


# Of a method that answers as it is recorded, and shows nothing beside what all show.
PLAIN = Study(_as_recorded, _nothing, _nothing, _nothing)


def settled(records: Sequence[Record], study: Study, settings: Any) -> list[Record]:
    """The records, each of an image with `answered_by`, the map that answers by these settings."""
    images = [record for record in records if record["kind"] == "image"]
    names = iter(study.answering(images, settings) if images else ())
    return [
        record | {"answered_by": next(names)} if record["kind"] == "image" else record
        for record in records
    ]


def answering_score(record: Record) -> Record:
    """The score entry of the map that answers for an image."""
    return record["scores"][record["answered_by"]]


def is_labeled(score: Record) -> bool:
    """Whether the reference of a score entry holds anything."""
    return score["empty"] in ("neither", "prediction")
