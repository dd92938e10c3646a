"""Tables of a folder of answers: a line for each image, each calcification and each cluster."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mln_flax import files
from mln_flax.results import records
from mln_flax.types import Record, UserError

LINES, OBJECTS, CLUSTERS = "predictions.jsonl", "objects.csv", "clusters.csv"
OBJECT_COLUMNS = tuple(
    "image frame object cluster row_px column_px top left bottom right length_mm area_mm2 mean "
    "peak branch".split()
)
CLUSTER_COLUMNS = tuple(
    "image frame cluster row_px column_px top left bottom right count score area_mm2 extent_mm "
    "branch".split()
)


def write(folder: Path, places: Sequence[str], left_out: Sequence[tuple[str, str]]) -> list[Record]:
    """Writes the three tables from the images' JSON files; returns the lines of the images.

    Args:
      folder: of the answers.
      places: where the answers of each file begin, below the folder.
      left_out: names and reasons of files without an answer.
    """
    answers = [record for place in places for record in of_file(folder, place)]
    lines = [without(record, "calcifications") for record in answers]
    unread = [{"kind": "left out", "image": name, "reason": reason} for name, reason in left_out]
    records.write_whole(folder / LINES, [*lines, *unread])
    write_csv(folder / OBJECTS, OBJECT_COLUMNS, (o for r in answers for o in object_rows(r)))
    write_csv(folder / CLUSTERS, CLUSTER_COLUMNS, (c for r in answers for c in cluster_rows(r)))
    return lines


def of_file(folder: Path, place: str) -> list[Record]:
    """The records of a file's frames, in their order; none of a file without an answer."""
    alone, first = folder / f"{place}.json", folder / f"{place}_0001.json"
    if alone.exists():
        return [files.read_json(alone)]
    if not first.exists():
        return []
    record = files.read_json(first)
    return [
        record,
        *(
            files.read_json(folder / f"{place}_{n:04d}.json")
            for n in range(2, record["frames"] + 1)
        ),
    ]


def without(record: Record, *names: str) -> Record:
    """The record without some of its fields."""
    return {name: value for name, value in record.items() if name not in names}


def object_rows(record: Record) -> Iterable[list[Any]]:
    """A row for each calcification of an image, in the order of OBJECT_COLUMNS."""
    for item in record["calcifications"]:
        yield [
            *(safe(record["image"]), record["frame"], item["number"], item["cluster"]),
            *(item["row_px"], item["column_px"], *item["box"]),
            *(item[name] for name in ("length_mm", "area_mm2", "mean", "peak")),
            record["branch"],
        ]


def cluster_rows(record: Record) -> Iterable[list[Any]]:
    """A row for each cluster of an image, in the order of CLUSTER_COLUMNS."""
    for item in record["clusters"]:
        yield [
            *(safe(record["image"]), record["frame"], item["number"]),
            *(item["row_px"], item["column_px"], *item["box"]),
            *(item[name] for name in ("count", "score", "area_mm2", "extent_mm")),
            record["branch"],
        ]


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows below their columns, numbers with six digits; there in full or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([shown(cell) for cell in row] for row in rows)
    files.write_bytes(path, text.getvalue().encode(errors="backslashreplace"))


def safe(path: str) -> str:
    """A path as spreadsheets keep it: what begins as a formula does is the same path from `.`."""
    return f"./{path}" if path[:1] in tuple("=+-@\t\r") else path


def shown(cell: Any) -> Any:
    """A number as it is read in a table."""
    return f"{cell:.6g}" if isinstance(cell, float) else cell


def read(folder: Path) -> tuple[list[Record], list[Record]]:
    """The lines of answered images, and those of files left out.

    Raises:
      UserError: there are none, or they were cut short.
    """
    path = folder / LINES
    if not path.exists():
        raise UserError(f"{path} is missing: --mode=predict makes it")
    lines = records.read_whole(path)
    answered = [line for line in lines if line["kind"] == "answer"]
    return answered, [line for line in lines if line["kind"] == "left out"]
