"""The folder that a run writes to: whose it is, what it ran on, its log of training."""

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any

import jax

from mln_flax import files, locks, parallel
from mln_flax.config import Config
from mln_flax.engine import input_pipeline, packed
from mln_flax.results import records
from mln_flax.settings import PLACES, after_training, differences, read_json, to_dict
from mln_flax.types import UserError

# Files of a workdir.
DATA = "data.json"  # what was read, with a hash of its content
LOG = "train.jsonl"  # a line for some steps and for every validation
START = "start.json"  # of `model.init_from`: whose weights, and what became of each
RECORDS = "records.jsonl"  # a line for each image: there when all is evaluated
MODEL = "model"  # the folder of a workdir that holds the trained model: there when training is done


def refuse_other_settings(workdir: Path, config: Config) -> None:
    """Raises UserError for a workdir that was made with other settings, or is no folder.

    Settings of what comes after training may change, and where the data lies, if its content is
    known: `claimed` compares it, as soon as it is read. Of a packed model, its settings.
    """
    if packed.is_packed(workdir):
        changed = changes(packed.config_of(workdir), config, after_training(config))
        if changed:
            raise UserError(
                f"{packed.title(workdir)}: belong to other settings ({shortened(changed)}); those "
                "that come after training may change, as predict.false_clusters"
            )
        return
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir}: is a file; give a folder, or a name not yet taken")
    if (workdir / "config.json").exists():
        may_change = after_training(config)
        if content_of(workdir) is not None:
            may_change |= PLACES
        changed = changes(read_json(workdir / "config.json"), config, may_change)
        if changed:
            raise UserError(
                f"--workdir={workdir} belongs to other settings ({shortened(changed)}); take "
                "another workdir"
            )


def changes(before: Config, after: Config, may_change: Set[str]) -> list[str]:
    """Lines such as `optim.b1: 0.9 -> 0.8` for settings that changed and may not."""
    lines = differences(to_dict(before), to_dict(after))
    return [line for line in lines if line.partition(":")[0] not in may_change]


def shortened(lines: Sequence[str]) -> str:
    """The first of some lines in one, and how many more there are."""
    more = f"; {len(lines) - 3} more" if len(lines) > 3 else ""
    return "; ".join(lines[:3]) + more


def content_of(workdir: Path) -> str | None:
    """The hash of the data that a workdir's run read; None where it is not known."""
    path = workdir / DATA
    return files.read_json(path).get("content") if path.exists() else None


@contextlib.contextmanager
def claimed(workdir: Path, config: Config, content: str) -> Iterator[None]:
    """Holds the workdir, made if there is none, for this run alone, with its settings noted.

    Of several processes the main one holds it and writes.

    Args:
      workdir: the folder.
      config: the run's settings.
      content: the hash of its data (`DataSet.content`).

    Raises:
      UserError: another run is at work in it, or it belongs to other data.
      OSError: it cannot be written.
    """

    def take() -> None:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.enter_context(locks.alone(workdir, partial(_busy, workdir)))
        if content_of(workdir) not in (None, content):
            raise UserError(
                f"--workdir={workdir} belongs to data of another content than that in "
                f"--config.data.dir={config.data.dir}; take another workdir"
            )
        files.write_json(workdir / "config.json", to_dict(config))

    with contextlib.ExitStack() as lock:
        parallel.on_main(take)
        yield


def refuse_held(workdir: Path) -> None:
    """Raises UserError where another run is at work in a workdir, before its data is read."""
    if (workdir / locks.LOCK).exists():
        with locks.alone(workdir, partial(_busy, workdir)):
            pass


def _busy(workdir: Path) -> None:
    raise UserError(
        f"--workdir={workdir}: another process is at work in it; wait for its end, or take "
        "another workdir"
    )


def write_environment(workdir: Path, command: str) -> None:
    """Notes what the run runs on."""
    if not parallel.is_main_process():
        return
    device = jax.devices()[0]
    files.write_json(
        workdir / "environment.json",
        {
            "command": command,
            "commit": commit(),
            "python": platform.python_version(),
            "jax": jax.__version__,
            "devices": f"{jax.device_count()} x {device.device_kind}",
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        },
    )


def commit() -> str:
    """The repository's commit, with a + where files were changed; or "unknown".

    It is that of a repository whose top level holds this package, and knows its files: a package
    that lies unpacked inside another repository has no commit.
    """
    package = Path(__file__).resolve().parents[1]
    this_file = f"{package.name}/{Path(__file__).resolve().relative_to(package).as_posix()}"
    if _git(package.parent, "rev-parse", "--show-prefix") != "":
        return "unknown"
    if _git(package.parent, "ls-files", "--error-unmatch", this_file) != this_file:
        return "unknown"
    return _git(package.parent, "describe", "--always", "--abbrev=10", "--dirty=+") or "unknown"


def _git(folder: Path, *words: str) -> str | None:
    """What git says of a folder, without the line's end; None where it cannot."""
    command = ["git", "-C", str(folder), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def cache_compiled(config: Config) -> None:
    """Keeps compiled programs in the user's cache, so that the next start is quick."""
    folder = files.user_cache()
    if config.train.cache_compiled and folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of train.jsonl, without a last one that a kill cut short."""
    return records.read(path, tolerant=True) if path.exists() else []


@contextlib.contextmanager
def writers(workdir: Path) -> Iterator[Any]:
    """A function that adds one row to train.jsonl and, where TensorFlow is, to TensorBoard."""
    board: Any = None
    if parallel.is_main_process() and input_pipeline.have_tensorflow():
        with contextlib.suppress(ImportError):
            from clu import metric_writers

            board = metric_writers.SummaryWriter(str(workdir / "tensorboard"))

    def write(row: dict[str, Any]) -> None:
        if not parallel.is_main_process():
            return
        records.append(workdir / LOG, row)
        if board is not None:
            scalars = {k: v for k, v in row.items() if k != "step" and isinstance(v, float)}
            board.write_scalars(row["step"], scalars)

    try:
        yield write
    finally:
        if board is not None:
            board.close()
