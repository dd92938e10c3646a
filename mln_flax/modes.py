"""What each --mode does with a workdir; what is done already is said, not done again."""

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from mln_flax import files, parallel
from mln_flax.benchmark import run as benchmark
from mln_flax.benchmark import summary
from mln_flax.config import Config
from mln_flax.data.core import DataSet
from mln_flax.data.prepare import prepare, prepared_set
from mln_flax.engine import evaluate, predict, train
from mln_flax.engine.build import Run, build, is_drawn, load_data
from mln_flax.results import prepare_report, records, report, tables
from mln_flax.settings import AFTERWARDS, differences, read_json, to_dict
from mln_flax.types import UserError

STOPPED = {"SIGTERM": 143, "SIGINT": 130}  # exit codes, as shells count signals


def run(
    mode: str,
    config: Config,
    workdir: Path | None,
    paths: list[Path],
    output: str,
    command: str = "",
) -> int:
    """Does what the mode asks; returns the exit code. `command` is noted with what is trained."""
    if mode == "summary":
        print(summary.summary(build(config)))
        return 0
    if mode == "benchmark":
        cache_compiled(config)
        benchmark.benchmark(config, commit())
        return 0
    if mode == "prepare" and not is_drawn(config):
        prepare_data(config, workdir, wanted=())
        return 0
    assert workdir is not None
    if mode == "report":
        print_results(workdir, report.write(workdir))
        return 0
    parallel.initialize(config.train.distributed)
    cache_compiled(config)
    made = build(config)
    refuse_other_settings(workdir, config)
    if mode == "predict":
        predict.predict(made, workdir, paths, output)
        return 0
    if mode == "prepare":
        read_data(made, workdir)
        return 0
    if mode == "evaluate":
        evaluate_again(made, workdir)
    else:
        stop = train.StopSignal()
        try:
            train_all(made, workdir, stop, command)
        except train.Stopped as stopped:
            print(stopped, flush=True)
            return STOPPED[stop.name]
    if not parallel.is_main_process():
        return 0
    print_results(workdir, report.write(workdir))
    return 0


def train_all(
    made: Run,
    workdir: Path,
    stop: train.StopSignal,
    command: str,
    data: DataSet | None = None,
) -> None:
    """Trains and evaluates, or says that it is done. `data` is what is read already."""
    model, lines = workdir / train.MODEL, workdir / "records.jsonl"
    if model.exists():
        print(f"training: done already ({made.config.train.steps} steps, {model})")
    if lines.exists():
        print(f"evaluation: done already ({lines}); --mode=evaluate does it again")
    if model.exists() and lines.exists():
        return
    if made.config.model.pretrained and not model.exists():
        train.pretrained(made)  # what is wrong with it is said before anything is written
    data = read_data(made, workdir, data)
    if not model.exists():
        write_environment(workdir, command)
        train.train(made, data, workdir, stop)
        if stop.name:
            raise train.Stopped(f"stopped by {stop.name}: trained, not yet evaluated")
    evaluate.evaluate(made, data, workdir)


def evaluate_again(made: Run, workdir: Path) -> None:
    """Evaluates the trained model, over older records."""
    evaluate.load_model(made, workdir)  # before anything is written
    evaluate.evaluate(made, read_data(made, workdir), workdir)


def read_data(made: Run, workdir: Path, data: DataSet | None = None) -> DataSet:
    """The data, described in the workdir, which belongs to these settings from here on.

    Not sooner: after a mistyped data folder, the right one is no other setting.
    """
    data = load(made, workdir) if data is None else data
    claim(workdir, made.config)
    evaluate.describe_data(made, data, workdir)
    return data


def load(made: Run, workdir: Path) -> DataSet:
    """The data, with a line on each thing that the user should know."""
    started = time.monotonic()
    print(f"data: reading {made.config.data.name} ...", flush=True)
    config, folder = made.config.data, None
    if not is_drawn(made.config):
        prepared_set.check_also(config)
        own = (config.source, *(() if config.also else config.targets))
        folder = prepare_data(made.config, workdir, own)
    data = load_data(made.config, folder)
    for note in data.notes:
        print(f"data: {note}")
    print(f"data: ready after {time.monotonic() - started:.0f} s", flush=True)
    return data


def prepare_data(config: Config, workdir: Path | None, wanted: Sequence[str]) -> Path:
    """The prepared folder of a config, prepared now unless it is, with its report.

    `wanted` are domains that must be in it.
    """
    if not workdir and not config.data.prepared_dir:
        raise UserError("--workdir is missing; or say where with --config.data.prepared_dir=FOLDER")
    folder = Path(
        config.data.prepared_dir or prepare.default_folder(config.data, workdir or Path())
    )
    done = (folder / prepare.REPORT).exists()
    said = prepare.prepare(config.data, folder, wanted)
    if done:
        print(f"data: prepared already in {folder}", flush=True)
        if prepare.has_changed(config.data, said):
            print(f"data: other files than then are in data.dir now; remove {folder} to use them")
    page = folder / prepare_report.PAGE
    if not page.exists():
        prepare_report.write(folder)
        print(f"\n{prepare_report.table(said).to_text()}\n")
        for line in prepare_report.lines(said):
            print(line)
    print(f"data: report: {page}", flush=True)
    return folder


def refuse_other_settings(workdir: Path, config: Config) -> None:
    """Raises UserError for a workdir that was made with other settings, or is no folder.

    Settings of what comes after training may change.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir}: is a file; give a folder, or a name not yet taken")
    if (workdir / "config.json").exists():
        old = to_dict(read_json(workdir / "config.json"))
        found = differences(old, to_dict(config))
        changed = [line for line in found if not line.startswith(AFTERWARDS)]
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


def print_results(workdir: Path, page: Path) -> None:
    """The headline table and where the report lies."""
    lines = records.read_whole(workdir / "records.jsonl")
    print(f"\n{tables.results_table(lines).to_text()}\n")
    print(tables.view_accuracy_table(lines).to_text())
    print(f"\nreport: {page}")
