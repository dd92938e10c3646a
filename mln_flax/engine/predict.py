"""Answers for a folder of a user's own images; what is answered already is not answered again.

Files are read ahead and answers written behind while the network works. An image's JSON file is
written last, so an answer that has one is whole. A file that cannot be read is named and left out.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mln_flax import files, locks
from mln_flax.config import Config
from mln_flax.data.core import Unusable
from mln_flax.data.readers.reader import Mammogram
from mln_flax.engine import answers, inputs
from mln_flax.engine import workdir as workdirs
from mln_flax.engine.answers import Origin, Whole
from mln_flax.engine.inputs import Case, Inputs
from mln_flax.engine.predictor import Prediction, Predictor
from mln_flax.metrics import clusters
from mln_flax.results import answer_tables, answers_page
from mln_flax.settings import after_training, flat, to_dict
from mln_flax.types import UserError

MANIFEST = "prediction.json"  # what a folder of answers was made with
READ_AHEAD = 1  # files that are decoded while another is answered
WRITE_BEHIND = 2  # images that wait to be written


def predict(
    config: Config,
    workdir: Path,
    paths: Sequence[Path],
    output: str,
    overwrite: bool = False,
    command: str = "",
) -> int:
    """Answers every image among the paths; returns 0, or 1 where one could not be read.

    Args:
      config: of the run.
      workdir: that holds its model.
      paths: image files, and folders, which are searched with all that is below them.
      output: the folder for the answers; they stand in it as the images stand in theirs.
      overwrite: answers of another model or other settings are replaced.
      command: is noted.

    Raises:
      UserError: no paths, no output, no image, or an output that holds something else.
    """
    if not paths:
        raise UserError("--mode=predict: give image files or folders after the flags")
    if not output:
        raise UserError("--output is missing: the folder for the answers")
    folder = Path(output)
    given = inputs.find(paths, folder)
    predictor = Predictor.of(config, workdir)
    origin = origin_of(predictor)
    with claimed(folder, origin, given, overwrite, config, command):
        unread = answer_all(predictor, origin, given, folder)
        lines = answer_tables.write(folder, [case_place(case) for case in given.cases], unread)
        page = answers_page.write(folder)
    for image, reason in unread:
        print(f"predict: left out {image}: {reason}", flush=True)
    count = sum(len(line["clusters"]) for line in lines)
    print(
        f"predict: {len(lines)} images answered, {count} clusters, {len(unread)} files left out",
        flush=True,
    )
    print(f"predict: page: {page}", flush=True)
    return 1 if unread else 0


def origin_of(predictor: Predictor) -> Origin:
    """What answers, by its hashes: of all that was kept, and of the settings that matter."""
    run = predictor.run
    kept = run.kind.to_tree(predictor.fitted)
    whole = predictor.whole
    settings = flat(to_dict(run.config))
    passing = after_training(run.config)
    matter = {
        name: value
        for name, value in settings.items()
        if name.startswith(("predict.", "method.")) or name not in passing
    }
    text = repr(sorted(matter.items())) + repr(whole)
    return Origin(
        answers.tree_hash(kept),
        answers.text_hash(text),
        whole.spacing_mm if whole else None,
        answers.versions(workdirs.commit()),
    )


@contextlib.contextmanager
def claimed(
    folder: Path, origin: Origin, given: Inputs, overwrite: bool, config: Config, command: str
) -> Iterator[None]:
    """Holds the output folder, made if there is none, for this command and these answers.

    Raises:
      UserError: it is a file, holds answers of another model, settings or images, or another
        process is at work in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"--output={folder}: is a file; give a folder") from None

    def busy() -> None:
        raise UserError(f"--output={folder}: another process is at work in it; take another")

    own = {"model": origin.model, "settings": origin.config, "images": str(given.root)}
    with locks.alone(folder, busy):
        path = folder / MANIFEST
        if path.exists():
            stored = files.read_json(path).get("of", {})
            other = [name for name in own if stored.get(name) != own[name]]
            if other and not overwrite:
                raise UserError(
                    f"--output={folder}: holds answers of another {', another '.join(other)}; take "
                    "another folder, or --overwrite"
                )
        elif not overwrite:
            refuse_foreign(folder, given)
        about = {"command": command, "versions": origin.versions, "config": to_dict(config)}
        files.write_json(path, {"of": own} | about)
        yield


def refuse_foreign(folder: Path, given: Inputs) -> None:
    """Raises UserError where answers would overwrite files that are none."""
    for case in given.cases:
        for path in (folder / case.folder).glob(f"{glob_safe(case.stem)}_*"):
            if path.name.removeprefix(case.stem) in answers.ENDINGS:
                raise UserError(
                    f"--output={folder}: holds {path.name}, which this command did not write; take "
                    "another folder, or --overwrite"
                )


def glob_safe(name: str) -> str:
    """The name for `glob`, which would take its brackets and stars for patterns."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def case_place(case: Case) -> str:
    """Where the answers of a case begin, below the output."""
    return f"{case.folder}/{case.stem}".lstrip("/")


class Decoded(NamedTuple):
    """A file that is being answered: its frames, decoded when asked for."""

    whole: Whole
    folder: str  # of its answers, below the output
    frames: int
    read: Callable[[int], Mammogram]


def answer_all(
    predictor: Predictor, origin: Origin, given: Inputs, folder: Path
) -> list[tuple[str, str]]:
    """Answers what is not answered yet; returns the files that could not be, with the reason."""
    unread = list(given.absent)
    started, fresh = time.monotonic(), 0
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as writing:
        ahead: list[Future[Decoded | None]] = []
        behind: list[Future[None]] = []
        queue = iter(given.cases)

        def fill() -> None:
            while len(ahead) <= READ_AHEAD and (case := next(queue, None)) is not None:
                ahead.append(reading.submit(decoded, case, origin, folder))

        try:
            fill()
            for number, case in enumerate(given.cases, start=1):
                future = ahead.pop(0)
                try:
                    source = future.result()
                    fill()
                    if source is None:
                        print(f"predict: {number}/{len(given.cases)} {case.image}: done already")
                        continue
                    begun = time.monotonic()
                    count = answer(predictor, origin, source, folder, writing, behind)
                    fresh += 1
                except Unusable as reason:
                    fill()
                    unread.append((case.image, str(reason)))
                    print(f"predict: {case.image}: {reason}", flush=True)
                    continue
                total, now = len(given.cases), time.monotonic()
                left = int((now - started) / fresh * (total - number))
                print(
                    f"predict: {number}/{total} {case.image}: {counted(count)}, {now - begun:.1f} "
                    f"s; {left // 60}:{left % 60:02d} left",
                    flush=True,
                )
            for written in behind:
                written.result()
        except BaseException:
            for future in ahead:
                future.cancel()
            for written in behind:
                written.cancel()
            raise
    return unread


def counted(count: int) -> str:
    """`1 cluster`, `2 clusters`."""
    return f"{count} cluster{'' if count == 1 else 's'}"


def decoded(case: Case, origin: Origin, folder: Path) -> Decoded | None:
    """A file with its first frame decoded; None where it is answered already.

    Raises:
      Unusable: it cannot be read.
    """
    try:
        digest = answers.file_hash(case.file)
    except OSError as error:
        raise Unusable(f"cannot be opened: {(error.strerror or '').lower()}") from None
    if is_done(folder / case.folder, case.stem, digest, origin):
        return None
    header = inputs.header(case.file)
    read = inputs.frames_of(case.file, header.frames)
    read(0)
    whole = Whole(case.file, case.image, case.stem, digest)
    return Decoded(whole, case.folder, header.frames, read)


def is_done(folder: Path, stem: str, digest: str, origin: Origin) -> bool:
    """Whether a folder holds the whole answer for a file of this hash."""
    hashes = {"file": digest, "model": origin.model, "config": origin.config}
    for name in (f"{stem}.json", f"{stem}_0001.json"):  # of a volume the first is written last
        if (folder / name).exists():
            with contextlib.suppress(UserError):
                return files.read_json(folder / name).get("hashes") == hashes
    return False


def answer(
    predictor: Predictor,
    origin: Origin,
    source: Decoded,
    folder: Path,
    writing: ThreadPoolExecutor,
    behind: list[Future[None]],
) -> int:
    """Answers all frames of a file and has the answers written; returns the number of clusters."""
    place, whole, count = folder / source.folder, source.whole, source.frames
    begun = time.monotonic()
    common = shared_look(predictor, source)
    predictions: list[Prediction] = []
    for frame in range(count):
        mammogram = source.read(frame)
        sized = predictor.sized(mammogram.image, mammogram.header.spacing_mm, "file")
        own = predictor.look([sized]) if common is None else common
        prediction = predictor.answer(sized, own)
        prediction = prediction._replace(notes=(*mammogram.repaired, *prediction.notes))
        submit(writing, behind, answers.write_maps, place, whole.stem_of(frame, count), prediction)
        predictions.append(prediction if count == 1 else answers.lighter(prediction))
    numbers = clusters.linked([prediction.marks for prediction in predictions])
    seconds = (time.monotonic() - begun) / count
    kind = predictor.run.config.predict.dicom
    submit(
        writing, behind, answers.write, place, whole, predictions, numbers, origin, kind, seconds
    )
    return len({number for of_frame in numbers for number in of_frame.values()})


def shared_look(predictor: Predictor, source: Decoded) -> np.ndarray | None:
    """What decides the branch of all frames of a volume; None where each decides for itself."""
    if source.frames == 1 or predictor.run.config.predict.choice != "case":
        return None
    total: Any = None
    for frame in range(source.frames):
        mammogram = source.read(frame)
        look = predictor.look(
            [predictor.sized(mammogram.image, mammogram.header.spacing_mm, "file")]
        )
        if look is not None:
            total = look if total is None else total + look
    return total


def submit(
    writing: ThreadPoolExecutor, behind: list[Future[None]], task: Any, *arguments: Any
) -> None:
    """Has something written, after what is waiting; raises what went wrong with what is done."""
    while len(behind) >= WRITE_BEHIND:
        behind.pop(0).result()
    behind.append(writing.submit(task, *arguments))
