"""Runs an experiment: its runs one after another, then its tables and figures."""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from mln_flax import files, parallel, settings
from mln_flax.config import Config, DataConfig
from mln_flax.data.core import DataSet
from mln_flax.data.phantoms import phantom
from mln_flax.engine import run as one_run
from mln_flax.engine import states
from mln_flax.engine import stop as stopping
from mln_flax.engine import workdir as workdirs
from mln_flax.engine.build import build
from mln_flax.experiments import core
from mln_flax.experiments import jobs as experiment_jobs
from mln_flax.experiments import report as experiment_report
from mln_flax.experiments.core import FILE, Experiment
from mln_flax.experiments.jobs import Job
from mln_flax.experiments.tables import Network
from mln_flax.models.core import shared_and_per_branch
from mln_flax.results import records
from mln_flax.types import Record, UserError

RUNS = "runs"  # the folder of a workdir that holds the runs' own workdirs


def run(experiment: Experiment, workdir: Path, command: str) -> int:
    """Does the runs of the shard that are left, then writes the report; returns the exit code.

    The code is 0 when all that were to do are done, 2 where one failed, 143 after SIGTERM.

    Raises:
      UserError: a row cannot be built, or the workdir belongs to something else; nothing is
        written then.
    """
    whole = whole_of(experiment, workdir)
    wanted = experiment_jobs.asked(whole, experiment)
    parallel.initialize(experiment.base.train.distributed)
    workdirs.cache_compiled(experiment.base)
    check(whole, workdir)
    parallel.on_main(lambda: write_experiment(whole, workdir))
    shard = core.shard_of(experiment.shard)
    stop = stopping.StopSignal()
    try:
        with stopped_by_sigterm(stop):
            failed = run_jobs(
                experiment_jobs.part_of(wanted, shard), workdir, stop, command, experiment.shard
            )
    except stopping.Stopped as stopped:
        print(stopped, flush=True)
        return stopping.EXIT_CODES[stop.name]
    if parallel.is_main_process() and any(
        is_done(workdir, job) for job in experiment_jobs.jobs(whole)
    ):
        report(whole, workdir)
    for name in failed:
        print(f"error: {name} failed, for the reason above", file=sys.stderr)
    return 2 if failed else 0


def whole_of(experiment: Experiment, workdir: Path) -> Experiment:
    """The experiment of a workdir with what a command adds to it.

    Raises:
      UserError: the workdir is a file, holds a run or belongs to another experiment.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir}: is a file; give a folder, or a name not yet taken")
    if (workdir / "config.json").exists():
        raise UserError(
            f"--workdir={workdir} holds a single run; an experiment needs a workdir of its own"
        )
    if not (workdir / FILE).exists():
        return experiment
    return core.merged(core.read(workdir), experiment, f"--workdir={workdir}")


def check(whole: Experiment, workdir: Path) -> None:
    """Raises UserError for what no run should be begun with.

    That is a domain that is not there, a row that cannot be built, a run's folder of other
    settings, records cut short.
    """
    if whole.base.data.name == "phantom":  # others know their domains when they are prepared
        for domain in whole.domains:
            phantom.check_domain(domain)
    for row in whole.shown():
        for source in whole.sources_of(row):
            try:
                build(core.config_of(whole, row, source, whole.seeds[0]))
            except UserError as error:
                raise UserError(f"row {row.name!r}: {error}") from None
    for job in experiment_jobs.jobs(whole):
        workdirs.refuse_other_settings(folder_of(workdir, job), job.config)
        if is_done(workdir, job):
            records.read_whole(records_of(workdir, job))


def write_experiment(whole: Experiment, workdir: Path) -> None:
    """Makes the workdir and notes its experiment."""
    try:
        (workdir / RUNS).mkdir(parents=True, exist_ok=True)
        files.write_json(workdir / FILE, core.to_dict(whole))
    except OSError as error:
        raise UserError(f"--workdir={workdir}: {error.strerror}") from None


def run_jobs(
    jobs: Sequence[Job], workdir: Path, stop: stopping.StopSignal, command: str, shard: str
) -> list[str]:
    """Trains and evaluates what is not done yet; returns the names of the runs that failed.

    Raises:
      Stopped: a signal came.
    """
    left = [job for job in jobs if not is_done(workdir, job)]
    print(
        f"experiment: {len(jobs)} runs in shard {shard}, {len(jobs) - len(left)} of them done "
        "already",
        flush=True,
    )
    data: tuple[DataConfig, DataSet] | None = None
    failed: list[str] = []
    started = time.monotonic()
    for number, job in enumerate(left):
        print(f"\n{progress(number, len(left), time.monotonic() - started)}: {job.name}")
        print(f"rows: {', '.join(job.rows)}", flush=True)
        try:
            run_of_job, folder = build(job.config), folder_of(workdir, job)
            if data is None or data[0] != job.config.data:
                data = None  # before the next is drawn: there may be no room for both
                read = one_run.load(run_of_job, folder)
                check_content(job.config, read.content, workdir)
                data = job.config.data, read
            whole = run_of_job.config.evaluate.whole
            one_run.train_all(run_of_job, folder, stop, command, data[1], whole)
        except UserError as error:
            print(f"error: {job.name}: {error}; going on", file=sys.stderr, flush=True)
            failed.append(job.name)
        if stop.agreed(now=True):
            raise stopping.Stopped(_stopped(stop))
        jax.clear_caches()  # programs of one network are of no use to the next
    return failed


def check_content(config: Config, content: str, workdir: Path) -> None:
    """Raises UserError where a run with these data settings has read data of another content.

    Rows would be compared with each other on different images.
    """
    present = {"data": settings.to_dict(config)["data"]}
    # Sources and targets are the same domains in an experiment.
    may_differ = {*settings.PLACES, "data.source", "data.targets"}
    for folder in sorted((workdir / RUNS).glob("*")):
        if workdirs.content_of(folder) in (None, content):
            continue
        recorded = {"data": files.read_json(folder / "config.json")["data"]}
        lines = settings.differences(recorded, present)
        if all(line.partition(":")[0] in may_differ for line in lines):
            raise UserError(
                f"{folder} has read data of another content than there is now in "
                "--config.base.data.dir; take another workdir"
            )


def progress(finished: int, total: int, seconds: float) -> str:
    """`run 3 of 12, 9 after it, about 1:20:00 left`, from the mean time of those that are done."""
    line = f"run {finished + 1} of {total}, {total - finished - 1} after it"
    if not finished:
        return line
    left = int(seconds / finished * (total - finished))
    return f"{line}, about {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"


@contextlib.contextmanager
def stopped_by_sigterm(stop: stopping.StopSignal) -> Iterator[None]:
    """Raises Stopped inside the block when SIGTERM comes, wherever training does not catch it.

    One of several processes notes it, for all to stop together after the run; a second ends it.
    """

    def end(number: int, _frame: Any) -> None:
        stop.name = signal.Signals(number).name
        if jax.process_count() > 1:
            signal.signal(signal.SIGTERM, old)
            return
        raise stopping.Stopped(_stopped(stop))

    old: Any = signal.SIG_DFL
    with contextlib.suppress(ValueError):  # not in the main thread, as in a notebook's
        old = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, old)


def _stopped(stop: stopping.StopSignal) -> str:
    return f"stopped by {stop.name}; the same command does what is left"


def report(whole: Experiment, workdir: Path) -> None:
    """Writes the tables and figures of what is done, prints the tables, and says what is missing.

    Raises:
      UserError: no run is done, or a run's folder belongs to other settings.
    """
    all_jobs = experiment_jobs.jobs(whole)
    recorded = recorded_of(all_jobs, workdir)
    if not recorded:
        raise UserError(f"--workdir={workdir}: no run is done yet; --mode=experiment does them")
    environments = {
        name: files.read_json(path)
        for name in recorded
        if (path := workdir / RUNS / name / "environment.json").exists()
    }
    written = experiment_report.write(
        workdir, whole, all_jobs, recorded, networks(all_jobs), environments
    )
    for table in written.tables:
        print(f"\n{table.to_text()}")
    print(f"\n{written.missing}\nreport: {written.page}")


def recorded_of(all_jobs: Sequence[Job], workdir: Path) -> dict[str, list[Record]]:
    """The records of every run that is done, by its name.

    Raises:
      UserError: a file is broken, or a run's folder belongs to other settings.
    """
    by_run = {}
    for job in all_jobs:
        if is_done(workdir, job):
            workdirs.refuse_other_settings(folder_of(workdir, job), job.config)
            by_run[job.name] = records.read_whole(records_of(workdir, job))
    return by_run


def networks(all_jobs: Sequence[Job]) -> list[Network]:
    """The parameters of each distinct network, with the rows that use it."""
    rows: dict[str, list[str]] = {}
    counts: dict[str, tuple[int, int, int]] = {}
    for job in all_jobs:
        if job.seed != all_jobs[0].seed:
            continue
        run = build(job.config)
        network = str(run.model)
        rows.setdefault(network, []).extend(job.rows)
        if network not in counts:
            state = jax.eval_shape(lambda run=run: states.random_state(run))
            shared, per_branch = shared_and_per_branch(run.model, state.params)
            counts[network] = run.model.num_branches, shared, per_branch
    return [Network(tuple(dict.fromkeys(rows[network])), *counts[network]) for network in counts]


def is_done(workdir: Path, job: Job) -> bool:
    """Whether a run is trained and evaluated."""
    return records_of(workdir, job).exists()


def records_of(workdir: Path, job: Job) -> Path:
    """The file that a run writes last."""
    return folder_of(workdir, job) / workdirs.RECORDS


def folder_of(workdir: Path, job: Job) -> Path:
    """The workdir of one run."""
    return workdir / RUNS / job.name
