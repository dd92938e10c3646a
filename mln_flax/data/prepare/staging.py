"""One image of a collection on its way to prepared tiles: read, cut, and kept on the disk.

Every image is staged by itself, whole or not at all, in whatever process: what a killed
preparation has staged is not done again.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mln_flax import files
from mln_flax.config import DataConfig
from mln_flax.data import enter_all
from mln_flax.data.core import Entry, Example, Unusable, collections
from mln_flax.data.prepare import prepared, tiles
from mln_flax.data.prepare.identity import Names
from mln_flax.types import UserError

READING = ".reading"  # ends the mark of an image that is being read
THUMBNAIL_SIDE = 320  # pixels, of the contact sheet


class Task(NamedTuple):
    """One entry to stage, with the names under which it may be shown."""

    entry: Entry
    image_id: str
    patient_id: str
    path: Path  # of the staged file


def task(entry: Entry, names: Names, folder: Path, settings: str) -> Task:
    """The task of an entry; its place is another one when anything that is stored has changed."""
    image_id, patient_id = names.image(entry.key), names.patient(entry.patient)
    stamps = [(file, *_stamp(Path(file))) for file in entry.files]
    known = (image_id, patient_id, entry._replace(part=""), stamps, settings)
    digest = hashlib.sha256(repr(known).encode(errors="surrogateescape")).hexdigest()
    return Task(entry, image_id, patient_id, folder / f"{digest[:24]}.npz")


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def stage(task: Task, data: DataConfig) -> dict[str, Any]:
    """Writes the staged file of a task, its tiles or the reason why it has none; returns the facts.

    The file at fault is told by its place among the entry's: a path may name a patient.
    """
    reading = task.path.with_suffix(READING)
    reading.touch()
    try:
        return _stage(task, data)
    finally:
        reading.unlink(missing_ok=True)


def being_read(tasks: Iterable[Task]) -> list[Task]:
    """The tasks at which a process is, or was when it was killed."""
    return [task for task in tasks if task.path.with_suffix(READING).exists()]


def forget_reading(folder: Path) -> None:
    """Takes away the marks of processes that are gone."""
    for mark in folder.glob(f"*{READING}"):
        mark.unlink(missing_ok=True)


def _stage(task: Task, data: DataConfig) -> dict[str, Any]:
    try:
        facts, arrays = _tiles_of(task, data)
    except Unusable as reason:
        at = task.entry.files.index(reason.file) if reason.file in task.entry.files else 0
        facts, arrays = {"left_out": str(reason), "file": at}, {}
    except (OSError, MemoryError):  # of this machine, not of the image
        raise
    except Exception as error:  # one odd file must not end the preparation of a thousand others
        why = f"{type(error).__name__} while reading: a fault of this program, please report it"
        facts, arrays = {"left_out": why, "file": 0}, {}
    text = np.frombuffer(json.dumps(files.plain(facts)).encode(), np.uint8)
    files.write_npz(task.path, {"facts": text, **arrays})
    return facts


def _tiles_of(task: Task, data: DataConfig) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    enter_all()  # this may be a fresh process
    whole, repaired = read(task.entry, data, task.image_id, task.patient_id)
    breast = tiles.breast_mask(whole.image)
    if not breast.any():
        raise Unusable("no breast found in the image; is it a mammogram?")
    try:
        cut = tiles.cut(whole, data.tiles.rows, data.tiles.columns, data.size)
    except UserError:
        raise Unusable(
            f"an image of {whole.image.shape[0]}x{whole.image.shape[1]} pixels is too small to cut"
        ) from None
    shares = [tiles.breast_share(breast, tile) for tile in cut]
    arrays: dict[str, Any] = {}
    for number, (tile, share) in enumerate(zip(cut, shares, strict=True)):
        stored = prepared.fields_of(tile, "", share)
        arrays.update({f"{number}/{name}": np.asarray(value) for name, value in stored.items()})
    thumbnail, outline = tiles.thumbnail(whole, THUMBNAIL_SIDE)
    facts = {
        **facts_of(whole),
        "tiles": len(cut),
        "tile_breast": [round(share, 4) for share in shares],
        "tile_label_pixels": [int(np.count_nonzero(tile.mask)) for tile in cut],
        "repaired": [*task.entry.repaired, *repaired],
    }
    return facts, {**arrays, "thumbnail": thumbnail, "outline": outline}


def read(
    entry: Entry, data: DataConfig, image_id: str, patient_id: str
) -> tuple[Example, tuple[str, ...]]:
    """The whole image of an entry with its objects, under these names, and what was repaired.

    Raises:
      Unusable: as the `read` of its collection.
    """
    reading = collections[data.name]().read(entry, data)
    whole = reading.example._replace(image_id=image_id, patient_id=patient_id)
    if whole.objects is None:
        whole = whole._replace(objects=whole.mask.astype(np.uint16))
    return whole, reading.repaired


def facts_of(whole: Example) -> dict[str, Any]:
    """What is known of a whole image with its objects, however it is cut."""
    assert whole.objects is not None
    return {
        "image_id": whole.image_id,
        "domain": whole.domain,
        "patient": whole.patient_id,
        "laterality": whole.laterality,
        "view_position": whole.view_position,
        "height": whole.image.shape[0],
        "width": whole.image.shape[1],
        "spacing_mm": whole.spacing_mm,
        "label_kind": whole.label_kind,
        "label_pixels": int(np.count_nonzero(whole.mask)),
        # Tells copies of an image in other folders, where all ids are other ones.
        "pixels": hashlib.sha256(prepared.to_bits(whole.image).tobytes()).hexdigest()[:16],
        "masks": hashlib.sha256(whole.mask.tobytes() + whole.objects.tobytes()).hexdigest()[:16],
        "objects": int(np.bitwise_or.reduce(whole.objects, axis=None)).bit_count(),
    }


def read_facts(path: Path) -> dict[str, Any] | None:
    """What is staged in a file, without its tiles; None where nothing whole is staged."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            for name in stored.files:  # all of it: a damaged tile would be found too late
                stored[name]
            return json.loads(stored["facts"].tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def read_tiles(path: Path, part: str) -> Iterator[prepared.Fields]:
    """The fields of the staged tiles, in order, now that their part is known."""
    with np.load(path, allow_pickle=False) as stored:
        count = json.loads(stored["facts"].tobytes())["tiles"]
        for number in range(count):
            names = [name for name in stored.files if name.startswith(f"{number}/")]
            fields = {name.partition("/")[2]: _value(stored[name]) for name in names}
            yield fields | {"part": part}


def read_thumbnail(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The small copy uint8 [h, w] of a staged image, and of its mask."""
    with np.load(path, allow_pickle=False) as stored:
        return stored["thumbnail"], stored["outline"]


def _value(array: np.ndarray) -> Any:
    """An array, or the text that it holds."""
    return str(array) if array.dtype.kind == "U" else array
