"""A folder of answers: whose it is, what lies in it, what of it holds, and what is taken away."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mln_flax import files, locks
from mln_flax.engine.hashes import text_hash
from mln_flax.engine.inputs import MANIFEST, Inputs
from mln_flax.engine.origin import Origin
from mln_flax.results import answer_tables, answers_page
from mln_flax.types import Record, UserError

PLACES = ".places.json"  # where answers may begin: those of a command that was killed too
TABLES = (
    *(answer_tables.LINES, answer_tables.OBJECTS, answer_tables.CLUSTERS),
    answers_page.PAGE,
)
# What follows a stem in the name of a file that prediction writes.
_ENDING = re.compile(
    r"(_(probability|mask|overlay|view|marks|disagreement|attribution|branch-[A-Za-z0-9.-]+)\.png"
    r"|_thumbnail\.jpg|_page\.html|_(seg|sr)\.dcm|\.json)"
)
_FRAME = re.compile(r"_\d{4,}")
_UNFINISHED = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp")  # as `files.write_bytes` calls them


@contextlib.contextmanager
def claimed(
    folder: Path, origin: Origin, given: Inputs, overwrite: bool, about: Mapping[str, Any]
) -> Iterator[list[str]]:
    """Holds the folder for this command, made if there is none; gives the places of all answers.

    Those of earlier commands with the same model, settings and images' folder are among them.
    Others are taken away with `overwrite`; nothing is that prediction has not written.

    Args:
      folder: for the answers.
      origin: of them.
      given: the images.
      overwrite: answers of another origin give way.
      about: is noted.

    Raises:
      UserError: it is a file, holds answers of another origin or files that no prediction wrote
        where answers belong, or another process is at work in it.
    """
    images = text_hash(str(given.root))
    own = {"model": origin.model, "settings": origin.config, "folder of images": images}
    with locks.output(folder):
        stored = _manifest(folder)
        places = [str(place) for place in _stored_places(folder)] if stored else []
        if stored and (other := [name for name in own if stored.get(name) != own[name]]):
            if not overwrite:
                raise UserError(
                    f"--output={folder}: holds answers of other origin ({', '.join(other)}); take "
                    "another folder, or --overwrite"
                )
            clear(folder, places)
            for name in TABLES:
                (folder / name).unlink(missing_ok=True)
            places = []
        new = [case.place for case in given.cases]
        _refuse_foreign(folder, set(new) - set(places), () if stored else TABLES)
        places = list(dict.fromkeys([*new, *places]))
        files.write_json(folder / PLACES, places)
        files.write_json(folder / MANIFEST, {"of": own, **about})
        yield places


def _manifest(folder: Path) -> dict[str, Any]:
    """Whose answers the folder holds; nothing where it holds none."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    stored = files.read_json(path)
    of = stored.get("of") if isinstance(stored, dict) else None
    if not isinstance(of, dict) or not of:
        raise UserError(f"{path}: no prediction wrote it; take another folder")
    return of


def _stored_places(folder: Path) -> list[Any]:
    path = folder / PLACES
    stored = files.read_json(path) if path.exists() else []
    return stored if isinstance(stored, list) else []


def _refuse_foreign(folder: Path, places: Iterable[str], tables: Iterable[str]) -> None:
    foreign = [
        path
        for of_place in written(folder, places).values()
        for path in of_place
        if not _UNFINISHED.fullmatch(path.name)
    ]
    foreign += [folder / name for name in tables if (folder / name).exists()]
    if foreign:
        raise UserError(
            f"--output={folder}: holds {foreign[0].relative_to(folder)}, which no prediction "
            "wrote, where an answer belongs; move it, or take another folder"
        )


def written(folder: Path, places: Iterable[str]) -> dict[str, list[Path]]:
    """The files of answers that lie at places, those of the first frame's JSON first."""
    wanted, found = set(places), dict[str, list[Path]]()
    for parent in {str(Path(place).parent) for place in wanted}:
        directory = folder / parent
        names = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
        for name in names:
            whole = unfinished[1] if (unfinished := _UNFINISHED.fullmatch(name)) else name
            if place := _place(whole, "" if parent == "." else f"{parent}/", wanted):
                found.setdefault(place, []).append(directory / name)
    return {place: sorted(f, key=lambda path: path.suffix != ".json") for place, f in found.items()}


def _place(name: str, parent: str, places: set[str]) -> str:
    """At which of the places an answer of this name lies; "" at none."""
    for at in (match.start() for match in re.finditer(r"[_.]", name)):
        if not _ENDING.fullmatch(name, at):
            continue
        stem = name[:at]
        if parent + stem in places:
            return parent + stem
        if (frame := stem.rpartition("_")[0]) and _FRAME.fullmatch(stem, len(frame)):
            if parent + frame in places:
                return parent + frame
    return ""


def clear(folder: Path, places: Iterable[str]) -> None:
    """Takes away the answers at places, their JSON first: what is without one counts for none."""
    for paths in written(folder, places).values():
        for path in paths:
            path.unlink(missing_ok=True)


def answer_of(folder: Path, place: str, hashes: Mapping[str, str]) -> list[Record]:
    """The records of a file's frames; none where they are not whole, or of another origin."""
    try:
        records = answer_tables.of_file(folder, place)
    except UserError:
        return []
    parent = (folder / place).parent
    for record in records:
        if not isinstance(record, dict) or record.get("hashes") != hashes:
            return []
        if not all((parent / name).exists() for name in record["files"].values()):
            return []
    return records
