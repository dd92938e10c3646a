"""Records: one line of strict JSON each, written whole or not at all."""

import json
import os
from collections.abc import Iterable
from typing import Any

from mln_flax.files import PathLike, naming, plain, read_text, refuse_constant, write_bytes
from mln_flax.types import Record, UserError

END = "end"  # the kind of the last line of a file that is written whole


def write(path: PathLike, records: Iterable[Record]) -> None:
    """A file with one line of JSON for each record, there in full or not at all.

    Numbers that JSON has no word for (nan, infinities) become null; numpy scalars and arrays
    become numbers and lists. Raises TypeError for anything else that JSON cannot hold.
    """
    write_bytes(path, "".join(_line(record) for record in records).encode())


def read(path: PathLike, tolerant: bool = False) -> list[Record]:
    """The records of a file, in its order; empty lines are passed over.

    Args:
      path: a file that `write` or `append` made.
      tolerant: drop a last line that a kill cut short, instead of refusing it.

    Raises:
      UserError: the file is missing, or a line is not a JSON object; says which line.
    """
    lines = read_text(path).split("\n")  # the last is what follows the last line's end: nothing
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(_object(line))
        except ValueError as error:
            if tolerant and number == len(lines):
                break
            raise UserError(f"{path}, line {number}: not a JSON object ({error})") from None
    return records


def write_whole(path: PathLike, records: Iterable[Record]) -> None:
    """As `write`, with a last line that counts the others: `read_whole` asks for it."""
    lines = list(records)
    write(path, [*lines, {"kind": END, "records": len(lines)}])


def read_whole(path: PathLike) -> list[Record]:
    """The records of a file of `write_whole`, without its last line.

    Raises:
      UserError: as `read`, or the file is not whole: a copy that was cut short at a line's end
        still reads well.
    """
    *lines, last = read(path) or [{}]
    if last != {"kind": END, "records": len(lines)}:
        raise UserError(
            f"{path}: cut short: the last line, which counts the others, is missing or wrong; copy "
            "the file again, or remove it and have it made again"
        )
    return [_renewed(line) for line in lines]


def _renewed(record: Record) -> Record:
    """A record as it is now, where the first release wrote it: branches' scores were a list."""
    scores = record.get("scores", {})
    if not isinstance(scores.get("branch"), list):
        return record
    by_name = dict(zip(record["branches"], scores["branch"], strict=True))
    others = {name: score for name, score in scores.items() if name != "branch"}
    answer = record.get("answer", record["selection"])
    return record | {"scores": by_name | others, "answer": answer}


def append(path: PathLike, record: Record) -> None:
    """One more line at the end of a file, which is made if there is none.

    What a killed process left of a last line is cut off first: the next line would otherwise be
    glued to it, and the file could not be read any more.
    """
    with naming(path), open(path, "ab+") as file:
        file.seek(0)
        content = file.read() if _ends_open(file) else b""
        if content:
            last = content.rpartition(b"\n")[2]
            try:
                _object(last.decode())
                file.write(b"\n")  # only the line's end was missing
            except ValueError:
                file.truncate(len(content) - len(last))
        file.write(_line(record).encode())


def _line(record: Record) -> str:
    # ASCII only, so that a line cut short at any byte is still text.
    return json.dumps(plain(record), allow_nan=False) + "\n"


def _object(line: str) -> Record:
    value = json.loads(line, parse_constant=refuse_constant)
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}")
    return value


def _ends_open(file: Any) -> bool:
    """Whether the last byte of a file is something but a line's end."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
    ends_open = bool(size) and file.read(1) != b"\n"
    file.seek(0)
    return ends_open
