"""What each --mode does with a workdir; what is done already is said, not done again."""

from pathlib import Path

from mln_flax import parallel
from mln_flax.benchmark import run as benchmark
from mln_flax.benchmark import summary
from mln_flax.config import Config
from mln_flax.data.phantom_files import export as phantom_export
from mln_flax.engine import export, froc_run, pack, predict, stop
from mln_flax.engine import run as one_run
from mln_flax.engine import workdir as workdirs
from mln_flax.engine.build import Run, build
from mln_flax.engine.load_data import is_drawn
from mln_flax.results import report, tables, whole_section


def run(
    mode: str,
    config: Config,
    workdir: Path | None,
    paths: list[Path],
    output: str,
    command: str = "",
    overwrite: bool = False,
) -> int:
    """Does what the mode asks; returns the exit code. `command` is noted with what it makes."""
    if mode == "summary":
        print(summary.summary(build(config)))
        return 0
    if mode == "benchmark":
        workdirs.cache_compiled(config)
        benchmark.benchmark(config, workdirs.commit())
        return 0
    if mode == "export-phantoms":
        return phantom_export.export(config, output, workdirs.commit())
    if mode == "prepare" and not is_drawn(config):
        one_run.prepare_data(config, workdir, wanted=())
        return 0
    assert workdir is not None
    # Each process would write the same.
    if mode not in ("report", "predict", "export", "froc", "pack"):
        parallel.initialize(config.train.distributed)
    workdirs.cache_compiled(config)
    if mode == "froc":  # whose data are not the model's
        return froc_run.measure(config, workdir, paths, output, overwrite, command)
    run_of_config = build(config)
    if mode == "report":
        report_of(run_of_config, workdir)
        return 0
    workdirs.refuse_other_settings(workdir, config)
    if mode == "predict":
        return predict.predict(config, workdir, paths, output, overwrite, command)
    if mode == "export":
        return export.export(config, workdir, output, overwrite)
    if mode == "pack":
        return pack.pack(config, workdir, output, overwrite)
    if mode == "prepare":
        with one_run.read_data(run_of_config, workdir):
            return 0
    if mode == "evaluate":
        one_run.evaluate_again(run_of_config, workdir)
    else:
        stop_signal = stop.StopSignal()
        try:
            one_run.train_all(run_of_config, workdir, stop_signal, command)
        except stop.Stopped as stopped:
            print(stopped, flush=True)
            return stop.EXIT_CODES[stop_signal.name]
    if parallel.is_main_process():
        report_of(run_of_config, workdir)
    return 0


def report_of(run: Run, workdir: Path) -> None:
    """Writes the report of a workdir, and prints its headline tables and where it lies."""
    study, settings = run.kind.study, run.config.method
    page = report.write(workdir, study, settings)
    lines = report.answered_records(workdir, study, settings)
    whole = whole_section.headline(lines)
    for table in (tables.results_table(lines), *study.headline(lines), *whole):
        print(f"\n{table.to_text()}")
    print(f"\nreport: {page}")
