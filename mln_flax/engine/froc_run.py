"""`--mode=froc`: a trained model measured on all whole images of a data set.

Nothing is trained, prepared or chosen on them. The JSON file of an image is written last, so an
image that has it is not answered again. An image that cannot be used is named, and loses no other.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mln_flax import files, locks
from mln_flax.config import OF_THE_SET, Config
from mln_flax.data.core import Example, Unusable
from mln_flax.engine import froc_record, froc_set, stored, whole_records
from mln_flax.engine import workdir as workdirs
from mln_flax.engine.clock import Pace
from mln_flax.engine.froc_set import MeasuredImage, MeasuredSet
from mln_flax.engine.hashes import text_hash
from mln_flax.engine.origin import Origin, origin_of
from mln_flax.engine.predictor import Prediction, Predictor
from mln_flax.engine.session import LARGE, fault
from mln_flax.engine.stop import EXIT_CODES, StopSignal
from mln_flax.results import froc_page, froc_tables
from mln_flax.types import Record, UserError

MANIFEST = "measured.json"
ANSWERS = "images"  # folder of one JSON file for each image


def measure(
    config: Config,
    workdir: Path,
    paths: Sequence[Path],
    output: str,
    overwrite: bool = False,
    command: str = "",
) -> int:
    """Measures the model of a workdir or a packed one; all else as `measure_with`."""
    of_run = stored.config_of(workdir).data
    own = {name: getattr(of_run, name) for name in OF_THE_SET}
    of_model = dataclasses.replace(config, data=dataclasses.replace(config.data, **own))
    workdirs.refuse_other_settings(workdir, of_model)
    predictor = Predictor.of(whole_records.without_reasons(of_model), workdir)
    return measure_with(predictor, config, paths, output, overwrite, command)


def measure_with(
    predictor: Predictor,
    config: Config,
    paths: Sequence[Path],
    output: str,
    overwrite: bool = False,
    command: str = "",
) -> int:
    """Answers every image of the set, counts, and writes tables and page; returns 0.

    After SIGTERM or SIGINT it ends with the image that is being answered, and returns their code.

    Args:
      predictor: of the model, without reasons.
      config: `data` says of which data set the images are, `evaluate.part` which of them.
      paths: further folders of the same data set, beside `data.dir`.
      output: the folder for what is written.
      overwrite: what another model, other settings or images gave gives way.
      command: is noted.

    Raises:
      UserError: no output, one that holds something else, no image, or, with `data.on_error=stop`,
        one that cannot be used.
      OSError: something cannot be written.
    """
    if not output:
        raise UserError("--output is missing: the folder for tables, page and records")
    folders = [*([Path(config.data.dir)] if config.data.dir else []), *paths]
    part = config.evaluate.part
    images = froc_set.images(config.data, folders, part)
    folder, origin, stop = Path(output), origin_of(predictor), StopSignal()
    about = {"command": command, "warnings": list(predictor.warnings)}
    for warning in predictor.warnings:
        print(f"froc: {warning}", flush=True)
    for line in froc_tables.by_reason(_named(images.left_out)):
        print(f"froc: {line}", flush=True)
    if images.left_out and config.data.on_error == "stop":
        raise UserError(f"{images.left_out[0].item}: {images.left_out[0].reason}")
    own = {
        "model": origin.model,
        "settings": origin.config,
        "data set": text_hash(repr(_identity(config, folders))),
    }
    with _claimed(folder, own, overwrite, {**about, "versions": origin.versions}):
        session = Session(predictor, origin, images, folder, stop, config)
        with stop.watched():
            session.run()
        if stop.name:
            print(f"froc: stopped by {stop.name}; the same command does what is left")
            return EXIT_CODES[stop.name]
        lines = [session.lines[i.image_id] for i in images.images if i.image_id in session.lines]
        if not lines:
            raise UserError("--mode=froc: no image could be measured; the lines above say why")
        left_out = _named([*images.left_out, *session.left_out])
        page = froc_page.write(folder, lines, left_out, about)
    for table in froc_tables.tables(lines).values():
        print(f"\n{table.to_text()}")
    print()
    for line in froc_tables.by_reason(left_out):
        print(f"froc: {line}")
    print(f"froc: {len(lines)} images counted, {len(left_out)} not; page: {page}", flush=True)
    return 0


class Loaded(NamedTuple):
    """An image on its way: read, or answered already."""

    digest: str
    answered: Record | None
    example: Example | None = None
    notes: tuple[str, ...] = ()


class Session:
    """The images of one command, one after the other: read ahead and counted behind."""

    def __init__(
        self,
        predictor: Predictor,
        origin: Origin,
        images: MeasuredSet,
        folder: Path,
        stop: StopSignal,
        config: Config,
    ):
        self.predictor, self.images, self.folder, self.stop = predictor, images, folder, stop
        self.part, self.stops = config.evaluate.part, config.data.on_error == "stop"
        self.hashes = {"model": origin.model, "config": origin.config}
        self.lines: dict[str, Record] = {}
        self.left_out: list[tuple[str, str]] = []
        self.seen: dict[str, MeasuredImage] = {}
        self.reading, self.counting = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.behind: Future[None] | None = None

    def run(self) -> None:
        """Answers what is not answered yet, until the stop signal comes."""
        (self.folder / ANSWERS).mkdir(exist_ok=True)
        try:
            self._all(self.images.images)
            self._wait()
        finally:
            self.reading.shutdown(cancel_futures=True)
            self.counting.shutdown(cancel_futures=True)

    def _all(self, images: Sequence[MeasuredImage]) -> None:
        pace, total = Pace(), len(images)
        ahead: Future[Loaded] | None = None
        for number, image in enumerate(images, start=1):
            if self.stop.name:
                return
            future, ahead = ahead or self.reading.submit(self._loaded, image), None
            try:
                loaded = future.result()
                is_large = loaded.example is not None and loaded.example.image.size >= LARGE
                if number < total and not is_large:
                    ahead = self.reading.submit(self._loaded, images[number])
                self._refuse_copy(image, loaded.digest)
                if loaded.answered is not None:
                    self.lines[image.image_id] = loaded.answered
                    print(f"froc: {number}/{total} {image.name}: done already", flush=True)
                    continue
                prediction = self._answer(loaded)
            except Exception as error:
                self._leave_out(image, error)
                continue
            left = pace.left(total - number)
            self._wait()
            words = f"{number}/{total} {image.name}"
            self.behind = self.counting.submit(
                self._count, image, loaded, prediction, words, f"{left} left"
            )
            if is_large:
                self._wait()

    def _loaded(self, image: MeasuredImage) -> Loaded:
        """An image, read where it is not answered yet; raises Unusable where it cannot be."""
        digest = image.digest()
        if answered := self._answered(image, digest):
            return Loaded(digest, answered)
        example, notes = image.read()
        return Loaded(digest, None, example, notes)

    def _answered(self, image: MeasuredImage, digest: str) -> Record | None:
        path = self._path(image)
        if not path.exists():
            return None
        try:
            line = files.read_json(path)
        except UserError:
            return None
        is_own = isinstance(line, dict) and line.get("hashes") == self._hashes(digest)
        if is_own and all((self.folder / name).exists() for name in froc_record.crop_names(line)):
            return dict(line) | {"image": image.name}
        return None

    def _refuse_copy(self, image: MeasuredImage, digest: str) -> None:
        """Raises Unusable where the same files lie in another folder as well."""
        first = self.seen.setdefault(digest, image)
        if first.data.dir != image.data.dir:
            raise Unusable(f"the same file as {first.name}, which is counted")

    def _answer(self, loaded: Loaded) -> Prediction:
        assert loaded.example is not None
        example = loaded.example
        sized = self.predictor.sized(example.image, example.spacing_mm, "file")
        return self.predictor.answer(sized, self.predictor.look([sized]))

    def _count(
        self, image: MeasuredImage, loaded: Loaded, prediction: Prediction, words: str, left: str
    ) -> None:
        """Counts an answered image and writes its crops, then its JSON."""
        assert loaded.example is not None
        try:
            line = froc_record.record_of(
                self.predictor, image, loaded.example, prediction, self.part
            )
            line |= {
                "notes": [*loaded.notes, *prediction.notes],
                "hashes": self._hashes(loaded.digest),
            }
            froc_record.write_crops(self.folder, line, loaded.example, prediction)
            files.write_json(self._path(image), line)
        except Exception as error:
            self._leave_out(image, error)
            return
        self.lines[image.image_id] = files.plain(line)
        found = sum(truth["hit"] for truth in line["truths"])
        false = sum(not mark["hit"] for mark in line["clusters"])
        labeled = f"{found} of {len(line['truths'])} clusters found, " if line["truths"] else ""
        print(f"froc: {words}: {labeled}{false} false; {left}", flush=True)

    def _leave_out(self, image: MeasuredImage, error: Exception) -> None:
        """Names an image that cannot be used; raises what the disk refuses, or where all stops."""
        if isinstance(error, OSError) and error.errno is not None:
            raise error
        reason = str(error) if isinstance(error, Unusable | UserError) else fault(error)
        reason = self.images.names.text(reason)
        if isinstance(error, Unusable) and error.file:
            names = self.images.names._replace(root=image.data.dir)
            reason += f" ({names.file(error.file)})"
        if self.stops:
            raise UserError(f"{image.name}: {reason}") from None
        self.left_out.append((image.name, reason))
        self._path(image).unlink(missing_ok=True)
        print(f"froc: {image.name}: not counted: {reason}", flush=True)

    def _wait(self) -> None:
        """Returns when nothing is being counted; raises what the disk refused."""
        if self.behind is not None:
            self.behind.result()
            self.behind = None

    def _hashes(self, digest: str) -> dict[str, str]:
        return {"image": digest, **self.hashes}

    def _path(self, image: MeasuredImage) -> Path:
        return self.folder / ANSWERS / f"{image.image_id}.json"


@contextlib.contextmanager
def _claimed(
    folder: Path, own: Mapping[str, str], overwrite: bool, about: Mapping[str, Any]
) -> Iterator[None]:
    """Holds the folder for this command; raises UserError where it holds something else."""
    path = folder / MANIFEST
    if (
        folder.is_dir()
        and not path.exists()
        and any(each.name != locks.LOCK for each in folder.iterdir())
    ):
        raise UserError(f"--output={folder}: holds files of something else; take another folder")
    with locks.output(folder):
        claimed_by = files.read_json(path)["of"] if path.exists() else own
        if other := [name for name in own if claimed_by.get(name) != own[name]]:
            if not overwrite:
                raise UserError(
                    f"--output={folder}: was measured with another {', another '.join(other)}; "
                    "take another folder, or --overwrite"
                )
            for name in (ANSWERS, froc_record.CROPS):
                shutil.rmtree(folder / name, ignore_errors=True)
        files.write_json(path, {"of": own, **about})
        yield


def _identity(config: Config, folders: Sequence[Path]) -> Any:
    """What makes images those of one measurement; folders in any order would be others."""
    values = {name: getattr(config.data, name) for name in OF_THE_SET if name != "dir"}
    values.pop("on_error")
    return sorted(values.items()), config.evaluate.part, [str(f.resolve()) for f in folders]


def _named(left_out: Sequence[tuple[str, str]]) -> list[Record]:
    return [{"image": item, "reason": reason} for item, reason in left_out]
