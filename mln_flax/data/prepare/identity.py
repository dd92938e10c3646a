"""What may be said of a patient, an image or a file: salted hashes, and paths without names."""

import contextlib
import csv
import hashlib
import io
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mln_flax import files
from mln_flax.data import disk
from mln_flax.data.readers import reader

_BEGINNING = ".mln_flax"  # begins the names of the two files that are kept in a data folder
SALT_FILE = f"{_BEGINNING}_salt"
NAMES_FILE = f"{_BEGINNING}_names.csv"  # what is called how: for the owner of the data alone
# What a hidden path still shows: of which kind the file is.
SUFFIXES = reader.SUFFIXES | {".csv", ".npz", ".xml"}
# A date in a path, in whatever order of year, month and day.
_MONTH, _DAY, _YEAR = "(?:0[1-9]|1[0-2])", "(?:0[1-9]|[12][0-9]|3[01])", "(?:19|20)[0-9]{2}"
_ORDERS = ((_YEAR, _MONTH, _DAY), (_MONTH, _DAY, _YEAR), (_DAY, _MONTH, _YEAR))
DATE = re.compile(
    "(?<![0-9])(?:" + "|".join("[-_.]".join(order) for order in _ORDERS)
    + f"|{_YEAR}{_MONTH}{_DAY})(?![0-9])"
)  # fmt: skip
SHORTEST_NAME = 3  # letters; shorter pieces of a name would hide every "L" and "CC"


class Names(NamedTuple):
    """Turns a collection's own words into what may be shown; the same ones for one salt."""

    salt: bytes
    secrets: tuple[str, ...]  # hidden wherever they stand in a path, longest first
    root: str  # the data folder, whose own path is never shown
    hide: bool  # hash every file name

    def patient(self, patient: str) -> str:
        """The id of a patient in records."""
        return f"p{self._hash('patient', disk.spelled(patient))}"

    def image(self, key: str) -> str:
        """The id of an image in records."""
        return f"i{self._hash('image', key)}"

    def file(self, path: str) -> str:
        """A path below the data folder without any patient's id or name.

        Every secret in it, or with `hide` every part of it, is replaced by its hash; a secret
        counts where no letter or digit stands beside it.
        """
        inside = Path(path)
        if inside.is_relative_to(self.root):
            inside = inside.relative_to(self.root)
        if self.hide:
            return "/".join([*map(self._part, inside.parts[:-1]), self._last(inside)])
        return self.text(inside.as_posix())

    def text(self, text: str) -> str:
        """A text in which every secret is replaced by its hash, and every date by that word.

        Bytes that are no UTF-8 are shown by their numbers.
        """
        text = disk.spelled(text)
        for secret in self.secrets:
            word = rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])"
            text = re.sub(word, f"p{self._hash('patient', secret)}", text, flags=re.IGNORECASE)
        text = DATE.sub("date", text)
        return text.encode(errors="surrogateescape").decode(errors="backslashreplace")

    def _hash(self, kind: str, word: str) -> str:
        message = f"{kind}:{word}".encode(errors="surrogateescape")
        return hashlib.blake2b(message, key=self.salt, digest_size=6).hexdigest()

    def _part(self, part: str) -> str:
        return f"f{self._hash('file', part)}"

    def _last(self, path: Path) -> str:
        suffix = path.suffix.lower()
        return self._part(path.name) + (suffix if suffix in SUFFIXES else "")


def names(root: Path, known_secrets: Iterable[str], hide: bool) -> Names:
    """The names of a data folder, with the secrets that were found in its files and tables."""
    pieces: set[str] = set()
    for secret in known_secrets:
        whole = disk.spelled(secret.strip())
        words = [word for word in re.split(r"[\^=,;\s]+", whole) if len(word) >= SHORTEST_NAME]
        pieces.update([whole, *words] if len(whole) >= SHORTEST_NAME else words)
    ordered = sorted(pieces, key=lambda piece: (-len(piece), piece))
    return Names(salt_of(root), tuple(ordered), str(root), hide)


def keep_names(root: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Writes into the data folder, beside the names themselves, which shown word is which file.

    Nothing is written where the folder is not to be written.

    Args:
      root: the data folder.
      rows: what is shown, and the path below the folder that it stands for.
    """
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(("shown", "file"))
    writer.writerows(sorted(set(rows)))
    if is_writable(root):
        with contextlib.suppress(OSError):
            files.write_bytes(root / NAMES_FILE, table.getvalue().encode(errors="surrogateescape"))


def is_writable(root: Path) -> bool:
    """Whether a folder is meant to be written; the superuser could write even if it is not."""
    return bool(root.stat().st_mode & 0o222)


def salt_of(root: Path) -> bytes:
    """The secret of a data folder that keeps its hashes from being guessed.

    It is drawn once and kept in the data folder, beside the names that it hides, so that ids stay
    the same when files are added and for everyone who works on that folder. Where the folder
    cannot be written, it is made of the names and sizes of the files in it.
    """
    path = root / SALT_FILE
    if not path.exists() and not is_writable(root):
        return _from_listing(root)
    if not path.exists():
        drawn = root / f"{SALT_FILE}.{secrets.token_hex(8)}.tmp"
        try:
            drawn.write_text(secrets.token_hex(16), encoding="ascii")
            _name(drawn, path)
        except OSError:
            return _from_listing(root)
        finally:
            with contextlib.suppress(OSError):
                drawn.unlink(missing_ok=True)
    return path.read_text(encoding="ascii").strip().encode()


def kept_salt(root: Path) -> bytes:
    """The salt of a data folder as `salt_of` gives it, but none is drawn where it is missing."""
    path = root / SALT_FILE
    return salt_of(root) if path.exists() else _from_listing(root)


def _name(drawn: Path, path: Path) -> None:
    """Gives the drawn salt its name: whole or not at all, and never over another one."""
    try:
        os.link(drawn, path)
    except FileExistsError:  # somebody else was faster
        pass
    except OSError:  # a file system without links
        os.replace(drawn, path)


def _from_listing(root: Path) -> bytes:
    return hashlib.sha256(listing(root).encode(errors="surrogateescape")).digest()


def listing(root: Path) -> str:
    """One line per file below a folder: its path and size."""
    paths = disk.listing(root).files  # the salt and the names are hidden
    return "\n".join(f"{p.relative_to(root).as_posix()} {p.stat().st_size}" for p in paths)
