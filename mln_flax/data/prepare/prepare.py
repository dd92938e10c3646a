"""From a folder of mammograms to prepared tiles: every image once, by patient, restartable.

First every image is staged by itself, in several processes (`data.prepare.staging`). Then the
patients of what could be read are split into parts, and the tiles are stored
(`data.prepare.prepared`). `prepare.json` is written last: without it nothing counts as prepared.
"""

import contextlib
import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mln_flax import files, locks
from mln_flax.config import DataConfig
from mln_flax.data import disk, enter_all
from mln_flax.data.core import Index, collections
from mln_flax.data.prepare import identity, inventory, prepared, splits, staging, workers
from mln_flax.data.prepare.inventory import Staged
from mln_flax.registry import nearest
from mln_flax.types import UserError

FORMAT = 1  # of the prepared folder: another number means that it must be prepared again
REPORT = "prepare.json"
SETTINGS = "settings.json"
SPLITS = "splits.json"
SHEET = "sheet.npz"
STAGING = "staging"
LONGEST_DOMAIN = 200  # bytes: TFDS adds 55 to it in the names of its files


def settings_of(data: DataConfig) -> dict[str, Any]:
    """The settings that prepared data depends on."""
    return {
        "format": FORMAT,
        "name": data.name,
        "size": data.size,
        "rows": data.tiles.rows,
        "columns": data.tiles.columns,
        "label": data.label,
        "point_radius_mm": data.point_radius_mm,
        "hide_names": data.hide_names,
        "validation": data.split.validation,
        "test": data.split.test,
        "split_seed": data.split.seed,
        "folder": _which(data.dir),
    }


def _settings_text(data: DataConfig) -> str:
    """The settings in one line that is the same for equal ones."""
    return json.dumps(settings_of(data), sort_keys=True)


def _which(folder: str) -> str:
    """A word for a data folder that does not tell its path; "" for none."""
    path = str(Path(folder).resolve())
    return hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:12] if folder else ""


def default_folder(data: DataConfig, workdir: Path) -> Path:
    """Where prepared data lies unless the settings say it: beside the workdir, shared by runs."""
    digest = hashlib.sha256(_settings_text(data).encode()).hexdigest()[:8]
    return workdir.parent / "prepared" / f"{data.name}_{data.size}_{digest}"


def prepare(data: DataConfig, folder: Path, wanted: Sequence[str] = ()) -> dict[str, Any]:
    """Prepares the images of `data.dir` into a folder; returns what `prepare.json` says.

    What is done already is not done again, also after a kill at any moment. Where another process
    is preparing the same folder, this one waits for it.

    Args:
      data: the data settings.
      folder: of the prepared data.
      wanted: domains that must be in `data.dir`; a missing one is refused before the work begins.

    Raises:
      UserError: the data folder is not what `data.name` needs, the prepared folder belongs to
        other settings, nothing can be used, a patient is in two parts, the disk is full; or
        something must be left out and `data.on_error` is "stop".
    """
    if min(data.tiles.rows, data.tiles.columns) < 1:
        raise UserError(
            f"--config.data.tiles: rows={data.tiles.rows}, columns={data.tiles.columns}; images of "
            "files are cut into 1 x 1 tiles or more"
        )
    try:
        if folder.exists():
            refuse_other_settings(data, folder)
        if not (folder / REPORT).exists():
            index = _index(data, folder, wanted)  # nothing is written for a folder that is not one
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder):
                refuse_other_settings(data, folder)  # another process may have begun meanwhile
                if not (folder / REPORT).exists():
                    _prepare(data, index, folder)
        if (folder / STAGING).exists():
            with _alone(folder):  # it was killed after its last word
                shutil.rmtree(folder / STAGING, ignore_errors=True)
    except OSError as error:
        raise UserError(_about(error, data, folder)) from None
    except MemoryError:
        raise UserError(
            "the memory is full; the same command goes on where it stopped, with "
            "--config.data.workers=1 it needs least"
        ) from None
    report = files.read_json(folder / REPORT)
    _stop_at(report["left_out"], data)
    return report


def refuse_other_settings(data: DataConfig, folder: Path) -> None:
    """Raises UserError for a folder with other things in it, or prepared with other settings."""
    if (folder / SETTINGS).exists():
        stored, wanted = files.read_json(folder / SETTINGS), settings_of(data)
        if not data.dir or _has_moved(data, folder):  # it is used as it is, wherever it came from
            wanted["folder"] = stored.get("folder")
        different = [
            f"{key} {stored.get(key)!r} instead of {wanted.get(key)!r}"
            for key in sorted({*stored, *wanted})
            if stored.get(key) != wanted.get(key)
        ]
        if different:
            raise UserError(
                f"--config.data.prepared_dir={folder} was prepared with other settings "
                f"({'; '.join(different)}); take another folder, or remove it"
            )
        return
    strange = sorted(path.name for path in folder.iterdir() if not disk.is_clutter(path.name))
    if strange:
        raise UserError(
            f"--config.data.prepared_dir={folder} holds other files; give a folder of its own"
        )


def _has_moved(data: DataConfig, folder: Path) -> bool:
    """Whether the data folder holds the files that were prepared, by their names and sizes."""
    if not (folder / REPORT).exists() or not Path(data.dir).is_dir():
        return False
    return not has_changed(data, files.read_json(folder / REPORT))


def has_changed(data: DataConfig, report: dict[str, Any]) -> bool:
    """Whether the data folder holds other files than when it was prepared."""
    root = Path(data.dir)
    return bool(data.dir) and root.is_dir() and report["listing"] != _listing(root)


def _listing(root: Path) -> str:
    listed = identity.listing(root).encode(errors="surrogateescape")
    return hashlib.sha256(listed).hexdigest()[:16]


def _index(data: DataConfig, folder: Path, wanted: Sequence[str]) -> Index:
    if data.dir and folder.resolve().is_relative_to(Path(data.dir).resolve()):
        raise UserError(
            f"--config.data.prepared_dir={folder} lies inside --config.data.dir; take a folder "
            "outside of it"
        )
    enter_all()
    index = collections[data.name]().index(data)
    # One patient, however the places that name her spell it: she may be in one part only.
    entries = (entry._replace(patient=disk.spelled(entry.patient)) for entry in index.entries)
    index = index._replace(entries=tuple(entries))
    domains = sorted({entry.domain for entry in index.entries})
    if longest := [len(name) for name in domains if len(name) > LONGEST_DOMAIN]:
        raise UserError(
            f"--config.data.dir: a domain has a name of {max(longest)} letters; files are named "
            f"after it, so at most {LONGEST_DOMAIN}: rename its folder, or mend cases.csv"
        )
    for name in wanted if domains else ():
        if name not in domains:
            raise UserError(
                f"--config.data: no domain {name!r}{nearest(name, domains)} in data.dir; it has: "
                f"{', '.join(domains)}"
            )
    return index


def _prepare(data: DataConfig, index: Index, folder: Path) -> None:
    files.write_json(folder / SETTINGS, settings_of(data))
    names = identity.names(Path(data.dir), index.secrets, data.hide_names)
    left_out = [{"file": names.file(file), "reason": why} for file, why in sorted(index.left_out)]
    paths = {file for entry in index.entries for file in entry.files}
    keys = {(names.image(entry.key), entry.files[0]) for entry in index.entries}
    called = {(names.file(path), path) for path in paths | {path for path, _ in index.left_out}}
    identity.keep_names(Path(data.dir), called | keys)
    _stop_at(left_out, data)
    scratch = folder / STAGING
    scratch.mkdir(exist_ok=True)
    staging.forget_reading(scratch)
    for half in folder.glob(".*.tmp"):  # of a preparation that was killed while it wrote
        half.unlink()
    settings = _settings_text(data)
    tasks = [staging.task(entry, names, scratch, settings) for entry in index.entries]
    staged = []
    for task, facts in workers.stage_all(tasks, names, data):
        if "left_out" in facts:
            file = task.entry.files[facts["file"]]
            left_out.append({"file": names.file(file), "reason": facts["left_out"]})
            _stop_at(left_out[-1:], data)
        else:
            staged.append(Staged(task.entry, task.path, facts))
    order = {task.path: place for place, task in enumerate(tasks)}  # not that of the processes
    staged.sort(key=lambda image: order[image.path])
    left_out.sort(key=lambda item: (item["file"], item["reason"]))
    if not staged:
        shown = "; ".join(f"{item['file']}: {item['reason']}" for item in left_out[:3])
        raise UserError(f"--config.data.dir: no image in it can be used. {shown}")
    part_of = inventory.parts(staged, data)
    _store(staged, part_of, data.size, folder)
    shown_parts = {names.patient(patient): part for patient, part in part_of.items()}
    archive = splits.manifest(part_of, data.split)["sha256"]
    manifest = splits.manifest(shown_parts, data.split) | {"archive_sha256": archive}
    files.write_json(folder / SPLITS, manifest)
    inventory.write_sheet(staged, part_of, folder / SHEET)
    report = inventory.report(staged, left_out, part_of)
    files.write_json(folder / REPORT, report | {"listing": _listing(Path(data.dir))})
    shutil.rmtree(scratch)


def _stop_at(left_out: Sequence[dict[str, str]], data: DataConfig) -> None:
    if left_out and data.on_error == "stop":
        raise UserError(
            f"{left_out[0]['file']}: {left_out[0]['reason']}. "
            "--config.data.on_error=report leaves it out and goes on; which file it is stands in "
            f"{identity.NAMES_FILE} in the data folder"
        )


def _store(staged: Sequence[Staged], part_of: dict[str, str], size: int, folder: Path) -> None:
    """The tiles of all staged images, split by split, in the order of the collection."""
    home = folder / prepared.BUILDER
    if home.exists():  # of a preparation that was killed at this point
        shutil.rmtree(home)
    splits_of: dict[str, list[Staged]] = {}
    for image in staged:
        name = prepared.split_name(image.facts["domain"], part_of[image.entry.patient])
        splits_of.setdefault(name, []).append(image)
    per_shard = max(1, prepared.TILES_PER_SHARD // max(image.facts["tiles"] for image in staged))

    def shard(group: Sequence[Staged]) -> Iterator[prepared.Fields]:
        for image in group:
            yield from staging.read_tiles(image.path, part_of[image.entry.patient])

    shards = {
        name: [partial(shard, group[i : i + per_shard]) for i in range(0, len(group), per_shard)]
        for name, group in splits_of.items()
    }
    prepared.write(folder, size, shards)


def _alone(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Holds the folder's lock; waits where another process prepares it."""
    message = f"data: another process is preparing {folder}; waiting for it"
    return locks.alone(folder, lambda: print(message, flush=True))


def _about(error: OSError, data: DataConfig, folder: Path) -> str:
    if data.dir and error.filename and Path(str(error.filename)).is_relative_to(data.dir):
        return (
            f"--config.data.dir={data.dir}: something in it cannot be read ({error.strerror}); see "
            "to its permissions"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"--config.data.prepared_dir={folder}: the disk is full; free space and give the same "
            "command: it goes on where it stopped"
        )
    return f"--config.data.prepared_dir={folder}: {error.strerror or type(error).__name__}"
