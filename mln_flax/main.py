"""The one door: python -m mln_flax.main --config=configs/phantom.py --workdir=runs/demo."""

import argparse
import contextlib
import dataclasses
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from mln_flax import config as configs
from mln_flax import files, settings
from mln_flax.engine import large_pages, packed
from mln_flax.experiments import core
from mln_flax.registry import nearest
from mln_flax.types import UserError

MODES = tuple(
    "train prepare evaluate predict froc export export-phantoms pack report summary benchmark "
    "experiment".split()
)
# These take the weights in the box, and any packed model.
ANSWERING = ("predict", "froc", "export")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 2 what user or machine got wrong, else 128 and the signal's number."""
    with contextlib.suppress(AttributeError):  # a notebook's has no such method
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # what is left in it may meet a closed pipe
        return code
    except BrokenPipeError:  # who reads our lines has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as shells count SIGPIPE
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # of the machine: a full or read-only disk, a file that is gone
        print(f"error: {files.refusal(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command does what is left", file=sys.stderr)
        return 130


def run(argv: Sequence[str]) -> int:
    """Reads the command line and hands over to the mode's own file."""
    flags, overrides, paths = parse(argv)
    if flags.mode not in MODES:
        raise UserError(
            f"--mode={flags.mode}: unknown mode{nearest(flags.mode, MODES)}; "
            f"known: {', '.join(MODES)}"
        )
    if paths and flags.mode not in ("predict", "froc"):
        raise UserError(f"{paths[0]!r}: only --mode=predict and --mode=froc take paths")
    needs_none = flags.mode in ("summary", "benchmark", "export-phantoms") or (
        flags.mode == "prepare" and "data.prepared_dir" in overrides
    )
    if not flags.workdir and not needs_none and flags.mode not in ANSWERING:
        raise UserError("--workdir is missing: the folder for checkpoints, records and the report")
    workdir = folder_of(flags)
    command = f"python -m mln_flax.main {shlex.join(argv)}"
    if flags.mode in ("predict", "froc"):  # without paths: folders may be called as patients are
        given = f" --workdir={Path(flags.workdir).name}" if flags.workdir else ""
        own = f"--mode={flags.mode}{given}"
        command = f"python -m mln_flax.main {own} {shlex.join(changes_of(overrides))}".rstrip()
    if workdir and (flags.mode == "experiment" or (workdir / core.FILE).exists()):
        return run_experiment(flags, overrides, workdir, command)
    from mln_flax import modes

    if flags.mode == "export-phantoms" and not flags.config and not workdir:
        config = changed(configs.Config(), overrides)  # no file of settings is needed to draw
    else:
        choice = choose_measured if flags.mode == "froc" else choose
        config = choice(flags.config, overrides, workdir)
    files_given = [Path(path) for path in paths]
    return modes.run(
        flags.mode, config, workdir, files_given, flags.output, command, flags.overwrite
    )


def folder_of(flags: argparse.Namespace) -> Path | None:
    """The workdir or packed model that is meant; the weights in the box where answers need none."""
    folder = Path(flags.workdir) if flags.workdir else None
    if folder is None and flags.mode in ANSWERING:
        folder = packed.DETECTOR
    if folder is None or not packed.is_packed(folder):
        return folder
    if flags.mode not in ANSWERING:
        raise UserError(
            f"--workdir={flags.workdir}: holds a packed model, for --mode=predict and "
            f"--mode=export; a training starts from it by --config.model.init_from={flags.workdir}"
        )
    if flags.config and flags.mode != "froc":  # where it says which data set is measured
        raise UserError(
            f"--config={flags.config}: the {packed.title(folder)} have settings of their own; "
            "leave it out, or give the --workdir of a run with these"
        )
    return folder


def changes_of(overrides: Mapping[str, str]) -> list[str]:
    """The words that change settings, without those that name folders."""
    return [
        f"--config.{name}={value}"
        for name, value in overrides.items()
        if not name.startswith("data.")
    ]


def run_experiment(
    flags: argparse.Namespace, overrides: dict[str, str], workdir: Path, command: str
) -> int:
    """Hands over to an experiment: its runs, or its report alone."""
    if flags.mode not in ("experiment", "report"):
        raise UserError(
            f"--workdir={workdir} holds an experiment: allowed are --mode=experiment and "
            "--mode=report; each of its runs is a workdir of its own below runs/"
        )
    chosen = core.choose(flags.config, overrides, workdir)
    from mln_flax.experiments import run as experiment

    if flags.mode == "experiment":
        return experiment.run(chosen, workdir, command)
    whole = experiment.whole_of(chosen, workdir)
    experiment.report(core.narrowed(whole, overrides), workdir)
    return 0


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are UserErrors, as everybody else's are."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(message)


def choose(path: str, overrides: dict[str, str], workdir: Path | None) -> configs.Config:
    """The settings of a config file, or those that a workdir was made with, and the overrides."""
    if path:
        config = settings.load_file(path)
    elif workdir and (workdir / "config.json").exists():
        config = settings.read_json(workdir / "config.json")
    elif workdir and packed.is_packed(workdir):
        config = packed.config_of(workdir)
    elif workdir:
        raise UserError(
            f"--workdir={workdir} holds neither a run nor an experiment, and --config is missing: "
            "a file such as configs/phantom.py"
        )
    else:
        raise UserError("--config is missing: a file such as configs/phantom.py")
    return changed(config, overrides)


def changed(config: configs.Config, overrides: dict[str, str]) -> configs.Config:
    """The settings with those of the command line, which are checked."""
    config = settings.override_all(config, overrides)
    configs.validate(config)
    return config


def choose_measured(path: str, overrides: dict[str, str], workdir: Path | None) -> configs.Config:
    """The settings of a trained workdir, the data set of a config file, and the overrides."""
    config = choose("", {}, workdir)
    if path:
        data = settings.load_file(path).data
        chosen = {name: getattr(data, name) for name in configs.OF_THE_SET}
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, **chosen))
    config = settings.override_all(config, overrides)
    configs.validate(config)
    return config


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str], list[str]]:
    """The flags, the settings among them, and the paths after them."""
    parser = Parser(
        prog="python -m mln_flax.main",
        description="MLN-net: train on one kind of mammogram, measure on kinds never seen.",
        epilog="Any setting: --config.optim.learning_rate=3e-4. Research use only.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", default="", help="a file with get_config() or get_experiment()")
    parser.add_argument("--workdir", default="", help="folder for all that a run writes")
    parser.add_argument("--mode", default="train", help=", ".join(MODES))
    parser.add_argument(
        "--output",
        default="",
        help="predict, froc, export-phantoms, pack: folder for what is written; export: the file",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace answers of another model, or a file"
    )
    known, rest = parser.parse_known_args(list(argv))
    overrides, paths = {}, []
    for word in rest:
        if not word.startswith("--"):
            paths.append(word)
            continue
        name, equals, value = word.partition("=")
        if not name.startswith("--config."):
            flags = ["--config", "--workdir", "--mode", "--output", "--overwrite"]
            raise UserError(f"unknown flag {name}{nearest(name, flags)}")
        if not equals:
            raise UserError(f"{name}: give its value as {name}=VALUE")
        overrides[name.removeprefix("--config.")] = value
    return known, overrides, paths


if __name__ == "__main__":
    large_pages.use_large_pages()
    sys.exit(main())
