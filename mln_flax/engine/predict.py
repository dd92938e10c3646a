"""Answers for a folder of a user's own images; what is answered already is not answered again."""

from collections.abc import Sequence
from pathlib import Path

from mln_flax import files
from mln_flax.config import Config
from mln_flax.engine import answer_folder, inputs
from mln_flax.engine.inputs import MANIFEST
from mln_flax.engine.origin import origin_of, without_places
from mln_flax.engine.predictor import Predictor
from mln_flax.engine.session import Session, counted
from mln_flax.engine.stop import EXIT_CODES, StopSignal
from mln_flax.results import answer_tables, answers_page, whole_section
from mln_flax.types import UserError


def predict(
    config: Config,
    workdir: Path,
    paths: Sequence[Path],
    output: str,
    overwrite: bool = False,
    command: str = "",
) -> int:
    """Answers every image among the paths; returns 0, or 1 where one was left out.

    After SIGTERM or SIGINT it ends with the image that is being answered, and returns their code.

    Args:
      config: of the run.
      workdir: that holds its model, or a packed model.
      paths: image files, and folders, which are searched with all that is below them.
      output: the folder for the answers; they stand in it as the images stand in theirs.
      overwrite: answers of another model, other settings or images give way.
      command: is noted.

    Raises:
      UserError: no paths, no output, no image, or an output that holds something else.
      OSError: an answer cannot be written.
    """
    if not paths:
        raise UserError("--mode=predict: give image files or folders after the flags")
    if not output:
        raise UserError("--output is missing: the folder for the answers")
    folder = Path(output)
    given = inputs.find(paths, folder)
    predictor = Predictor.of(config, workdir)
    origin = origin_of(predictor)
    about = {
        "weights": predictor.weights,
        "command": command,
        "versions": origin.versions,
        "config": without_places(config),
    }
    print(f"predict: {predictor.weights}, model {origin.model[:12]}", flush=True)
    for warning in predictor.warnings:
        print(f"predict: {warning}", flush=True)
    stop = StopSignal()
    with answer_folder.claimed(folder, origin, given, overwrite, about) as places:
        with stop.watched():
            session = Session(predictor, origin, folder, stop)
            session.run(given)
        if stop.name:
            print(f"predict: stopped by {stop.name}; the same command does what is left")
            return EXIT_CODES[stop.name]
        if session.passed_over:
            noted = [{"image": name, "reason": reason} for name, reason in session.passed_over]
            stored = files.read_json(folder / MANIFEST)
            files.write_json(folder / MANIFEST, stored | {"passed_over": noted})
        lines = answer_tables.write(folder, places, session.left_out)
        page = answers_page.write(folder, whole_section.of_workdir(workdir))
    for image, reason in session.left_out:
        print(f"predict: left out {image}: {reason}")
    found = {(line["image"], c["number"]) for line in lines for c in line["clusters"]}
    print(
        f"predict: {len(lines)} images answered, {counted(len(found))}, "
        f"left out: {len(session.left_out)}, passed over: {len(session.passed_over)}"
    )
    print(f"predict: page: {page}", flush=True)
    return 1 if session.left_out else 0
