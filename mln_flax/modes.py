"""What each --mode does with a workdir; what is done already is said, not done again."""

from pathlib import Path

from mln_flax import parallel
from mln_flax.benchmark import run as benchmark
from mln_flax.benchmark import summary
from mln_flax.config import Config
from mln_flax.engine import predict, stop
from mln_flax.engine import run as one_run
from mln_flax.engine import workdir as workdirs
from mln_flax.engine.build import build, is_drawn
from mln_flax.results import records, report, tables


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
        workdirs.cache_compiled(config)
        benchmark.benchmark(config, workdirs.commit())
        return 0
    if mode == "prepare" and not is_drawn(config):
        one_run.prepare_data(config, workdir, wanted=())
        return 0
    assert workdir is not None
    if mode == "report":
        print_results(workdir, report.write(workdir))
        return 0
    if mode != "predict":  # each process would write the same masks
        parallel.initialize(config.train.distributed)
    workdirs.cache_compiled(config)
    made = build(config)
    workdirs.refuse_other_settings(workdir, config)
    if mode == "predict":
        predict.predict(made, workdir, paths, output)
        return 0
    if mode == "prepare":
        with one_run.read_data(made, workdir):
            return 0
    if mode == "evaluate":
        one_run.evaluate_again(made, workdir)
    else:
        stop_signal = stop.StopSignal()
        try:
            one_run.train_all(made, workdir, stop_signal, command)
        except stop.Stopped as stopped:
            print(stopped, flush=True)
            return stop.EXIT_CODES[stop_signal.name]
    if not parallel.is_main_process():
        return 0
    print_results(workdir, report.write(workdir))
    return 0


def print_results(workdir: Path, page: Path) -> None:
    """The headline table and where the report lies."""
    lines = records.read_whole(workdir / "records.jsonl")
    print(f"\n{tables.results_table(lines).to_text()}\n")
    print(tables.view_accuracy_table(lines).to_text())
    print(f"\nreport: {page}")
