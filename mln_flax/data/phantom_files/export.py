"""--mode=export-phantoms: phantoms drawn into a folder, in several processes; goes on after a kill.

`.phantoms.jsonl` notes the settings, then each image once its files are there, with their hashes.
What is not noted, or is not what was noted, is drawn again. `dataset.json` is written last.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mln_flax import files, locks
from mln_flax.config import Config
from mln_flax.data import processes
from mln_flax.data.phantom_files import plan
from mln_flax.data.phantom_files.layouts import LAYOUTS, write_table
from mln_flax.data.phantom_files.plan import Task
from mln_flax.data.phantoms.store import SOURCES
from mln_flax.types import UserError

JOURNAL = ".phantoms.jsonl"
DATASET = "dataset.json"
MOST_WORKERS = 8
WORTH_PIXELS = 10**7  # other processes take longer to start than fewer pixels to draw. Chosen.
EVERY_SECONDS = 10.0  # a line of progress


class Written(NamedTuple):
    """An image whose files are there."""

    row: dict[str, Any]  # by plan.IMAGE_COLUMNS
    objects: list[dict[str, Any]]  # by plan.OBJECT_COLUMNS


def export(config: Config, output: str, commit: str) -> int:
    """Writes the phantoms that the settings `phantoms` ask for into a folder; returns 0.

    Args:
      config: the settings.
      output: the folder; one that a killed export left, or a finished one, is completed.
      commit: of this package, to be noted.

    Raises:
      UserError: no folder, one with other settings or files in it, or an unknown domain.
      OSError: the disk is full, or refuses it.
    """
    if not output:
        raise UserError("--output is missing: the folder for the phantoms")
    todo, folder = plan.tasks(config), Path(output)
    about = settings_of(config)
    with _claimed(folder, about):
        known = _noted(folder)
        left = [task for task in todo if not _holds(folder, known.get(_name(task)))]
        if known:
            print(f"phantoms: {len(todo) - len(left)} of {len(todo)} images are there", flush=True)
        if left:
            (folder / DATASET).unlink(missing_ok=True)
        with open(folder / JOURNAL, "a", encoding="utf-8") as journal:
            for name, written in _all_written(left, folder, config):
                known[name] = written
                journal.write(json.dumps([name, *written]) + "\n")
                journal.flush()
        _finish(folder, [known[_name(task)] for task in todo], about, commit)
    print(f"phantoms: {folder}: {len(todo)} images, {config.phantoms.format}", flush=True)
    return 0


def settings_of(config: Config) -> dict[str, Any]:
    """All that the phantoms of a folder depend on, but for the machine that computes them."""
    group, drawn = config.phantoms, config.data.phantom
    return {
        "format": group.format,
        "count": group.count,
        "domains": list(group.domains),
        "whole": group.whole,
        "normal": group.normal,
        "validation": group.validation,
        "test": group.test,
        "seed": drawn.seed,
        "spacing_mm": drawn.spacing_mm,
        "size": None if group.whole else config.data.size,
        "drawing_code": SOURCES,
    }


@contextlib.contextmanager
def _claimed(folder: Path, about: dict[str, Any]) -> Iterator[None]:
    """Holds the folder, made if there is none, for these settings."""
    with locks.output(folder):
        journal = folder / JOURNAL
        if journal.exists():
            stored = _lines(journal)[:1]
            if not stored or not isinstance(stored[0], dict):
                raise UserError(f"{journal}: no export wrote it; take another folder")
            other = [name for name in about if stored[0].get(name) != about[name]]
            if other:
                raise UserError(
                    f"--output={folder}: holds phantoms of other settings ({', '.join(other)}); "
                    "take another folder"
                )
        else:
            foreign = sorted({path.name for path in folder.iterdir()} - {locks.LOCK})
            foreign = [name for name in foreign if not name.startswith(f".{JOURNAL}.")]
            if foreign:
                raise UserError(
                    f"--output={folder}: holds {foreign[0]}, which no export of phantoms wrote; "
                    "take another folder"
                )
            files.write_bytes(journal, f"{json.dumps(about)}\n".encode())
        for path in folder.rglob(".*.tmp"):  # what a killed export was about to write
            path.unlink(missing_ok=True)
        yield


def _lines(journal: Path) -> list[Any]:
    """What the journal says; lines that a kill cut short are left out."""
    values = []
    for line in files.read_text(journal).splitlines():
        with contextlib.suppress(ValueError):
            values.append(json.loads(line))
    return values


def _noted(folder: Path) -> dict[str, Written]:
    """The images that the journal notes, by the names of their tasks."""
    _end_line(folder / JOURNAL)
    return {name: Written(row, objects) for name, row, objects in _lines(folder / JOURNAL)[1:]}


def _end_line(journal: Path) -> None:
    """Ends a last line that a kill cut short, so that the next one is read."""
    if not journal.read_bytes().endswith(b"\n"):
        with open(journal, "a", encoding="utf-8") as file:
            file.write("\n")


def _holds(folder: Path, written: Written | None) -> bool:
    """Whether an image's files are there as they were written."""
    if written is None:
        return False
    try:
        return all(
            _sha256(folder / written.row[f"{what}_file"]) == written.row[f"{what}_sha256"]
            for what in ("image", "mask")
        )
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name(task: Task) -> str:
    """What the journal calls an image."""
    return f"{task.domain}-{task.seed}-{task.patient}"


def _write(folder: Path, kind: str, sources: str, task: Task) -> Written:
    """Draws a phantom and writes its files, in whatever process."""
    example = plan.draw(task, sources)
    marks = plan.marks_of(example)
    image, mask = LAYOUTS[kind].write(folder, example, task.part)
    row = plan.image_row(example, task.part, marks) | {
        "image_file": image,
        "mask_file": mask,
        "image_sha256": _sha256(folder / image),
        "mask_sha256": _sha256(folder / mask),
    }
    return Written(row, plan.object_rows(example.image_id, marks.calcifications))


def _all_written(
    tasks: Sequence[Task], folder: Path, config: Config
) -> Iterator[tuple[str, Written]]:
    """Writes every image; gives its name and what is noted of it, as they become ready."""
    begun = shown = time.monotonic()
    write = partial(_write, folder, config.phantoms.format, SOURCES)
    for count, (task, written) in enumerate(_results(tasks, write, config.data.workers), 1):
        yield _name(task), written
        now = time.monotonic()
        if now - shown >= EVERY_SECONDS:
            shown = now
            seconds = (now - begun) / count * (len(tasks) - count)
            print(
                f"phantoms: {count}/{len(tasks)} images, {_duration(seconds)} left",
                flush=True,
            )


def _duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _results(tasks: Sequence[Task], write: Any, workers: int) -> Iterator[tuple[Task, Written]]:
    """What `write` returns for each task; one image at a time in each process."""
    count = min(workers or min(processes.cores(), MOST_WORKERS), len(tasks))
    pixels = sum(task.size**2 or _WHOLE_MM2 / task.spacing_mm**2 for task in tasks)
    if pixels <= WORTH_PIXELS or not processes.may_start():
        count = 1
    # What the disk refuses is no fault of a process.
    return processes.drawn(tasks, write, count, (RuntimeError, ImportError))


_WHOLE_MM2 = 30_000.0  # about what a whole view shows


def _finish(
    folder: Path, all_written: Sequence[Written], about: dict[str, Any], commit: str
) -> None:
    """Writes the tables, what the layout wants, and last `dataset.json`."""
    rows = [written.row for written in all_written]
    objects = [spot for written in all_written for spot in written.objects]
    layout = LAYOUTS[about["format"]]
    write_table(folder / "images.csv", plan.IMAGE_COLUMNS, rows)
    write_table(folder / "objects.csv", plan.OBJECT_COLUMNS, objects)
    layout.finish(folder, rows)
    normal = sum(row["kind"] == "normal" for row in rows)
    files.write_json(
        folder / DATASET,
        {
            "name": "mln_flax mammogram phantoms",
            "images": len(rows),
            "normal": normal,
            "lesions": len(rows) - normal,
            "gray": layout.gray,
            "mask": layout.mask,
            "commit": commit,
            "settings": about,
        },
    )
