"""Files that are there in full or not at all, strict JSON, and what the machine refuses."""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import pathlib
import re
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np

from mln_flax.types import UserError

# A path as the caller has it.
PathLike = str | os.PathLike[str]

# A list of numbers alone over several lines; no text holds a line's end.
_NUMBERS = re.compile(r"\[\n([-+.,\deE\s]+)\n *\]")

MOST_BYTES = 230  # of a file's name: usual file systems take 255, a temporary name is longer


def write_json(path: PathLike, value: Any) -> None:
    """A file with one JSON value, there in full or not at all: indented, numbers on one line."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    text = _NUMBERS.sub(lambda numbers: f"[{' '.join(numbers[1].split())}]", text)
    # Bytes of a path that are no UTF-8 become escapes of JSON, which are read back as they were.
    write_bytes(path, f"{text}\n".encode(errors="backslashreplace"))


def read_json(path: PathLike) -> Any:
    """The JSON value of a file; raises UserError where it is missing or broken."""
    try:
        return json.loads(read_text(path), parse_constant=refuse_constant)
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not JSON ({error})") from None


def write_bytes(path: PathLike, content: bytes) -> None:
    """A file with this content: a reader sees the old file or the new one, nothing between."""
    path = pathlib.Path(path)
    # Beside the target: os.replace is atomic only within one file system. Drawn, since processes
    # of two machines or containers that share the folder may have one number.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with naming(path):
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: PathLike) -> Iterator[None]:
    """Gives the file's name to an OSError inside the block, which may have none or a lesser one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # without a number Python would print nothing but the name
            error.filename = str(path)
        raise


def refusal(error: OSError) -> str:
    """What the machine refused, in one line: where, why, and what to do."""
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    why = error.strerror or str(error) or type(error).__name__
    return f"{where}{' '.join(why.split())}{_REMEDIES.get(error.errno or 0, '')}"


_ROOM = "; free space and give the same command again"
_RIGHTS = "; see to its permissions, or take another folder"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: _RIGHTS,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
}


def user_cache() -> pathlib.Path | None:
    """The folder that this package keeps for the user; None where a user has no home."""
    try:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    except RuntimeError:  # what pathlib says where there is none
        return None
    return cache / "mln_flax"


def write_npz(path: PathLike, arrays: dict[str, np.ndarray]) -> None:
    """A compressed file of named arrays, there in full or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def fitting(stem: str, ending: str) -> str:
    """The name of a file that a file system takes; a stem that is too long ends in its hash."""
    whole, room = os.fsencode(stem), MOST_BYTES - len(os.fsencode(ending))
    if len(whole) > room:
        digest = hashlib.blake2b(whole, digest_size=6).hexdigest()
        # A letter of several bytes is not kept by half.
        stem = f"{whole[: room - len(digest) - 1].decode(errors='ignore')}-{digest}"
    return stem + ending


def plain(value: Any) -> Any:
    """The value in JSON's own kinds; nan and infinities are None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_text(path: PathLike) -> str:
    """The text of a file; raises UserError where it is missing or not text."""
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file") from None


def refuse_constant(constant: str) -> None:
    """Raises ValueError: `NaN` and `Infinity` are words of Python, not of JSON."""
    raise ValueError(f"{constant} is not JSON")
