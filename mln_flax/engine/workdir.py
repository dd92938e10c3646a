"""The folder that a run writes to: whose it is, what it ran on, its log of training."""

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from mln_flax import files, parallel
from mln_flax.config import Config
from mln_flax.engine import input_pipeline
from mln_flax.results import records
from mln_flax.settings import after_training, differences, read_json, to_dict
from mln_flax.types import UserError

MODEL = "model"  # the folder of a workdir that holds the trained model: there when training is done


def refuse_other_settings(workdir: Path, config: Config) -> None:
    """Raises UserError for a workdir that was made with other settings, or is no folder.

    Settings of what comes after training may change.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir}: is a file; give a folder, or a name not yet taken")
    if (workdir / "config.json").exists():
        old = to_dict(read_json(workdir / "config.json"))
        may_change = after_training(config)
        changed = [
            line
            for line in differences(old, to_dict(config))
            if line.partition(":")[0] not in may_change
        ]
        if changed:
            raise UserError(
                f"--workdir={workdir} belongs to other settings ({'; '.join(changed[:3])}"
                + (f"; {len(changed) - 3} more" if len(changed) > 3 else "")
                + "); take another workdir"
            )


def claim(workdir: Path, config: Config) -> None:
    """Makes the workdir and notes its settings."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        files.write_json(workdir / "config.json", to_dict(config))
    except OSError as error:
        raise UserError(f"--workdir={workdir}: {error.strerror}") from None


def write_environment(workdir: Path, command: str) -> None:
    """Notes what the run runs on."""
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
    """The repository's commit, with a + where files were changed; or "unknown"."""
    folder = Path(__file__).parent
    words = ["git", "-C", str(folder), "describe", "--always", "--abbrev=10", "--dirty=+"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def cache_compiled(config: Config) -> None:
    """Keeps compiled programs in the user's cache, so that the next start is quick."""
    if config.train.cache_compiled:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mln_flax"
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
        records.append(workdir / "train.jsonl", row)
        if board is not None:
            scalars = {k: v for k, v in row.items() if k != "step" and isinstance(v, float)}
            board.write_scalars(row["step"], scalars)

    try:
        yield write
    finally:
        if board is not None:
            board.close()
