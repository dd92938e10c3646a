"""One run from its data to its records; what is done already is said, not done again."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mln_flax import parallel
from mln_flax.config import Config
from mln_flax.data.core import DataSet
from mln_flax.data.prepare import prepare, prepared_set
from mln_flax.engine import checkpoint, evaluate, states, stop, train, whole_model, whole_records
from mln_flax.engine import workdir as workdirs
from mln_flax.engine.build import Run
from mln_flax.engine.load_data import is_drawn, load_data, prepared_folder
from mln_flax.engine.model import load_model
from mln_flax.results import prepare_report
from mln_flax.types import UserError


def train_all(
    run: Run,
    workdir: Path,
    stop_signal: stop.StopSignal,
    command: str,
    data: DataSet | None = None,
    whole: bool = True,
) -> None:
    """Trains and evaluates, or says that it is done.

    Args:
      run: what a config describes.
      workdir: its folder.
      stop_signal: that ends it early.
      command: is noted.
      data: what is read already.
      whole: the operating point of whole images is wanted.
    """
    model, lines = workdir / workdirs.MODEL, workdir / workdirs.RECORDS
    if model.exists():
        print(f"training: done already ({run.config.train.steps} steps, {model})")
    if lines.exists():
        print(f"evaluation: done already ({lines}); --mode=evaluate does it again")
    whole = whole and not (workdir / whole_model.FILE).exists()
    if model.exists() and lines.exists() and not whole:
        return
    if not model.exists() and not checkpoint.is_begun(workdir):
        states.refuse_unfit_start(run)  # what is wrong with it is said before anything is written
    with read_data(run, workdir, data) as read:
        if not model.exists():
            workdirs.write_environment(workdir, command)
            train.train(run, read, workdir, stop_signal)
            if stop_signal.agreed(now=True):
                raise stop.Stopped(f"stopped by {stop_signal.name}: trained, not yet evaluated")
        if whole:
            whole_records.fit(run, read, workdir)
        if not lines.exists():
            evaluate.evaluate(run, read, workdir)


def evaluate_again(run: Run, workdir: Path) -> None:
    """Evaluates the trained model, over older records."""
    load_model(run, workdir)  # before anything is written
    with read_data(run, workdir) as data:
        if whole_model.doubt(whole_model.read(workdir), run.config):
            whole_records.fit(run, data, workdir)
        evaluate.evaluate(run, data, workdir)


@contextlib.contextmanager
def read_data(run: Run, workdir: Path, data: DataSet | None = None) -> Iterator[DataSet]:
    """The data, described in the workdir, which is this run's alone inside the block.

    It belongs to these settings from here on. Not sooner: after a mistyped data folder, the right
    one is no other setting.
    """
    if data is None:
        parallel.on_main(lambda: workdirs.refuse_held(workdir))
    read = load(run, workdir) if data is None else data
    with workdirs.claimed(workdir, run.config, read.content):
        parallel.on_main(lambda: evaluate.describe_data(run, read, workdir))
        yield read


def load(run: Run, workdir: Path) -> DataSet:
    """The data, with a line on each thing that the user should know."""
    started = time.monotonic()
    print(f"data: reading {run.config.data.name} ...", flush=True)
    config, folder = run.config.data, None
    if not is_drawn(run.config):
        prepared_set.check_also(config)
        domains = (config.source, *(() if config.also else config.targets))
        folder = prepare_data(run.config, workdir, domains)
    data = load_data(run.config, folder)
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
    folder = prepared_folder(config, workdir or Path())
    is_prepared = (folder / prepare.REPORT).exists()
    summary = prepare.prepare(config.data, folder, wanted)
    if is_prepared:
        print(f"data: prepared already in {folder}", flush=True)
        if prepare.has_changed(config.data, summary):
            print(f"data: other files than then are in data.dir now; remove {folder} to use them")
    page = folder / prepare_report.PAGE
    if not page.exists():
        prepare_report.write(folder)
        print(f"\n{prepare_report.table(summary).to_text()}\n")
        for line in prepare_report.lines(summary):
            print(line)
    print(f"data: report: {page}", flush=True)
    return folder
