"""Files of a workdir: strict JSON, one record a line, written whole or not at all."""

import json
import math
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from mln_flax.types import Record, UserError

# A path as the caller has it.
PathLike = str | os.PathLike[str]


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
    lines = _text(path).split("\n")  # the last is what follows the last line's end: nothing
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


def append(path: PathLike, record: Record) -> None:
    """One more line at the end of a file, which is made if there is none.

    What a killed process left of a last line is cut off first: the next line would otherwise be
    glued to it, and the file could not be read any more.
    """
    with open(path, "ab+") as file:
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


def write_json(path: PathLike, value: Any) -> None:
    """A file with one JSON value, indented to be read, there in full or not at all."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def read_json(path: PathLike) -> Any:
    """The JSON value of a file; raises UserError where it is missing or broken."""
    try:
        return json.loads(_text(path), parse_constant=_refuse)
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not JSON ({error})") from None


def write_bytes(path: PathLike, content: bytes) -> None:
    """A file with this content: a reader sees the old file or the new one, nothing between."""
    path = pathlib.Path(path)
    # Beside the target: os.replace is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _line(record: Record) -> str:
    # ASCII only, so that a line cut short at any byte is still text.
    return json.dumps(_plain(record), allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """The value in JSON's own kinds; nan and infinities are None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _text(path: PathLike) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file") from None


def _object(line: str) -> Record:
    value = json.loads(line, parse_constant=_refuse)
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _ends_open(file: Any) -> bool:
    """Whether the last byte of a file is something but a line's end."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
    ends_open = bool(size) and file.read(1) != b"\n"
    file.seek(0)
    return ends_open
