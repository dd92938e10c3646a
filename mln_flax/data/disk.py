"""What on a disk counts as a file, and how its name is spelled: one rule for all that look."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mln_flax.data.core import LeftOut

ABSENT = "a link whose file is not here; fetch its content (as with git annex get), or take it away"
# What systems leave beside data, in lower case: folders with pictures of their own among them.
_CLUTTER = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"}
)


class Listing(NamedTuple):
    """The files below a folder, sorted, and what is there by its name alone."""

    files: tuple[Path, ...]
    absent: tuple[LeftOut, ...]  # links to nowhere and folders that cannot be opened

    def ending(self, suffix: str) -> "Listing":
        """What of it has a name that ends so, in whatever case of letters."""
        files = tuple(path for path in self.files if path.name.lower().endswith(suffix))
        return Listing(files, tuple(a for a in self.absent if a.item.lower().endswith(suffix)))


def listing(root: str | Path, below: bool = True) -> Listing:
    """What lies in a folder: files, and what cannot be had, with the reason.

    Hidden files, locks of office programs and what systems leave behind count for nothing, nor do
    the folders of such names. Links count as what they lead to; a folder is entered once.

    Args:
      root: the folder; its own name does not matter.
      below: its folders are entered too.
    """
    files: list[Path] = []
    absent: list[LeftOut] = []
    entered: set[str] = set()

    def closed(error: OSError) -> None:
        why = os.strerror(error.errno or 0).lower()
        reason = f"a folder that cannot be opened ({why}); see to its permissions"
        absent.append(LeftOut(str(error.filename), reason))

    for place, folders, names in os.walk(root, onerror=closed, followlinks=True):
        real = os.path.realpath(place)
        is_new = real not in entered  # not by a link that leads back up
        entered.add(real)
        folders[:] = sorted(n for n in folders if below and is_new and not is_clutter(n))
        for path in (Path(place, name) for name in names if is_new and not is_clutter(name)):
            if os.path.isfile(path):
                files.append(path)
            elif os.path.islink(path):
                absent.append(LeftOut(str(path), ABSENT))
    return Listing(tuple(sorted(files)), tuple(sorted(absent)))


def is_clutter(name: str) -> bool:
    """Whether a name is that of no data: hidden, a lock, or what a system leaves behind."""
    return name.startswith((".", "~$")) or name.lower() in _CLUTTER


def and_absent(absent: Sequence[LeftOut]) -> str:
    """What to add where something was looked for in vain; "" where nothing is absent."""
    return f"; not counted ({len(absent)}): {absent[0].reason}" if absent else ""


def spelled(text: str) -> str:
    """The text with each letter as one character (NFC): systems store names either way."""
    return unicodedata.normalize("NFC", text)
