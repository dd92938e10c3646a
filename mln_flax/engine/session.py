"""The work of `--mode=predict`: images one after the other, read ahead and written behind.

The first JSON file of an image is written last, so an answer that has it is whole. A file that
cannot be read is named and left out, and so is one that something goes wrong with: it loses no
other.
"""

import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mln_flax.data.core import Unusable
from mln_flax.data.readers.reader import Mammogram
from mln_flax.engine import answer_folder, answers, inputs
from mln_flax.engine.answers import Segments, Whole
from mln_flax.engine.clock import Pace, minutes
from mln_flax.engine.hashes import file_hash
from mln_flax.engine.inputs import Case, Inputs, NoImage
from mln_flax.engine.origin import Origin
from mln_flax.engine.predictor import Prediction, Predictor, Sized, looked_at
from mln_flax.engine.stop import Stopped, StopSignal
from mln_flax.metrics import clusters
from mln_flax.types import UserError

WRITE_BEHIND = 2  # tasks that wait to be written
SAID_EVERY = 10  # frames of a volume
LARGE = 30_000_000  # pixels of an image beside which no other is held


def counted(count: int) -> str:
    """`1 cluster`, `2 clusters`."""
    return f"{count} cluster{'' if count == 1 else 's'}"


def fault(error: Exception) -> str:
    """Where something unexpected went wrong, without its words: they may name a patient."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{type(error).__name__} at {Path(place.filename).name}, line {place.lineno}: a fault of "
        "this program or too little memory; nothing else is touched by it"
    )


class Decoded(NamedTuple):
    """A file that is being answered: its frames, decoded when asked for."""

    whole: Whole
    place: Path  # the folder of its answers
    frames: int
    size: int  # pixels of the first frame
    read: Callable[..., Mammogram]


class Session:
    """The work of one command: what it answers with, and what it could not answer."""

    def __init__(self, predictor: Predictor, origin: Origin, folder: Path, stop: StopSignal):
        self.predictor, self.origin, self.folder, self.stop = predictor, origin, folder, stop
        self.kind: Segments = predictor.run.config.predict.dicom  # type: ignore[assignment]
        self.left_out: list[tuple[str, str]] = []
        self.passed_over: list[tuple[str, str]] = []
        self.reading, self.writing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.behind: list[Future[None]] = []
        self.stale: dict[str, list[Path]] = {}

    def run(self, given: Inputs) -> None:
        """Answers what is not answered yet, until the stop signal comes."""
        self.left_out += given.absent
        self.passed_over += given.passed_over
        for name, reason in given.passed_over:
            print(f"predict: passed over {name}: {reason}", flush=True)
        self.stale = answer_folder.written(self.folder, [case.place for case in given.cases])
        try:
            self._all(given.cases)
            self._wait(0)
        finally:
            self.reading.shutdown(cancel_futures=True)
            self.writing.shutdown(cancel_futures=True)

    def _all(self, cases: Sequence[Case]) -> None:
        pace, total = Pace(), len(cases)
        ahead: Future[Decoded | None] | None = None
        for number, case in enumerate(cases, start=1):
            if self.stop.name:
                return
            future, ahead = ahead or self.reading.submit(self._decoded, case), None
            begun = time.monotonic()
            try:
                source = future.result()
                if number < total and (source is None or source.size < LARGE):
                    ahead = self.reading.submit(self._decoded, cases[number])
                count, notes = self._answer(case, source) if source else (0, "")
            except NoImage as reason:
                self.passed_over.append((case.image, str(reason)))
                print(f"predict: passed over {case.image}: {reason}", flush=True)
                answer_folder.clear(self.folder, [case.place])  # of an image in its place before
                continue
            except Stopped:
                return
            except Exception as error:
                self._leave_out(case, error)
                continue
            if source is None:
                print(f"predict: {number}/{total} {case.image}: done already", flush=True)
                continue
            seconds = time.monotonic() - begun
            print(
                f"predict: {number}/{total} {case.image}: {counted(count)}, {seconds:.1f} s"
                f"{notes}; {pace.left(total - number)} left",
                flush=True,
            )

    def _leave_out(self, case: Case, error: Exception) -> None:
        """Names a file that cannot be answered; raises what the disk refuses."""
        if isinstance(error, OSError) and error.errno is not None:
            raise error
        reason = str(error) if isinstance(error, Unusable | UserError) else fault(error)
        self.left_out.append((case.image, reason))
        print(f"predict: {case.image}: {reason}", flush=True)
        self._wait(0)  # what of it is being written
        answer_folder.clear(self.folder, [case.place])

    def _decoded(self, case: Case) -> Decoded | None:
        """A file with its first frame decoded; None where it is answered already.

        Raises:
          NoImage: it is none.
          Unusable: it cannot be read.
        """
        try:
            digest = file_hash(case.file)
        except OSError as error:
            raise Unusable(f"cannot be opened: {(error.strerror or '').lower()}") from None
        if answer_folder.answer_of(self.folder, case.place, self.origin.hashes(digest)):
            return None
        header = inputs.header(case.file)
        read = inputs.frames_of(case.file)
        size = read(0, again=True).image.size
        whole = Whole(case.file, case.image, case.stem, digest)
        return Decoded(whole, self.folder / case.folder, header.frames, size, read)

    def _answer(self, case: Case, source: Decoded) -> tuple[int, str]:
        """Answers all frames of a file and has the answers written.

        Returns the number of clusters, and what is to be said beside it.
        """
        for path in self.stale.get(case.place, ()):
            path.unlink(missing_ok=True)
        if source.size >= LARGE:
            self._wait(0)
        begun, count, common = time.monotonic(), source.frames, self._shared_look(source)
        predictions: list[Prediction] = []
        for frame in range(count):
            predictions.append(self._frame(case, source, frame, common))
            if self.stop.name and frame + 1 < count:
                raise Stopped  # what is written of the case counts for none
            if (frame + 1) % SAID_EVERY == 0 and frame + 1 < count:
                left = (time.monotonic() - begun) / (frame + 1) * (count - frame - 1)
                print(
                    f"predict: {case.image}: frame {frame + 1}/{count}; {minutes(left)} left",
                    flush=True,
                )
        numbers = clusters.linked([prediction.marks for prediction in predictions])
        seconds = (time.monotonic() - begun) / count
        arguments = (source.whole, predictions, numbers, self.origin, self.kind, seconds)
        self._write(case, answers.write, source.place, *arguments)
        if source.size >= LARGE:
            self._wait(0)
        is_assumed = any(prediction.spacing_from == "assumed" for prediction in predictions)
        found = {number for of_frame in numbers for number in of_frame.values()}
        return len(found), ", pixel size assumed" if is_assumed else ""

    def _frame(
        self, case: Case, source: Decoded, frame: int, common: np.ndarray | None
    ) -> Prediction:
        """The answer for one frame, whose maps are written; without them where they take much."""
        mammogram = source.read(frame)
        sized = self._sized(mammogram)
        own = self.predictor.look([sized]) if common is None else common
        prediction = self.predictor.answer(sized, own)
        prediction = prediction._replace(notes=(*mammogram.repaired, *prediction.notes))
        stem = source.whole.stem_of(frame, source.frames)
        self._write(case, answers.write_maps, source.place, stem, prediction)
        is_much = source.frames > 1 or source.size >= LARGE
        return answers.lighter(prediction, self.kind) if is_much else prediction

    def _shared_look(self, source: Decoded) -> np.ndarray | None:
        """What decides the branch of all frames of a volume; None where each has its own."""
        if source.frames == 1 or self.predictor.run.config.predict.choice != "case":
            return None
        read = (source.read(frame, again=True) for frame in looked_at(source.frames))
        return self.predictor.look(self._sized(mammogram) for mammogram in read)

    def _sized(self, mammogram: Mammogram) -> Sized:
        return self.predictor.sized(mammogram.image, mammogram.header.spacing_mm, "file")

    def _write(self, case: Case, task: Callable[..., None], *arguments: Any) -> None:
        """Has something written, after what is waiting; what goes wrong with it loses no other."""

        def written() -> None:
            if any(image == case.image for image, _ in self.left_out):
                return
            try:
                task(*arguments)
            except OSError as error:
                if error.errno is not None:
                    raise
                self._fail(case, error)
            except Exception as error:
                self._fail(case, error)

        self._wait(WRITE_BEHIND - 1)
        self.behind.append(self.writing.submit(written))

    def _fail(self, case: Case, error: Exception) -> None:
        """Names a file whose answer cannot be written, in the thread that writes."""
        self.left_out.append((case.image, fault(error)))
        print(f"predict: {case.image}: {fault(error)}", flush=True)
        answer_folder.clear(self.folder, [case.place])

    def _wait(self, waiting: int) -> None:
        """Returns when no more tasks than these wait; raises what the disk refused."""
        while len(self.behind) > waiting:
            self.behind.pop(0).result()
