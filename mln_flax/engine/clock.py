"""How fast training runs, how long it waits for input, and how long it will take."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple


def minutes(seconds: float) -> str:
    """`1:05`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Pace:
    """How long the rest of many pieces will take.

    The first one waits for the compiler, so it says little of the others.
    """

    def __init__(self) -> None:
        self._started = self._first = time.monotonic()
        self._pieces = 0

    def left(self, pieces: int) -> str:
        """Of so many more, when one has just been finished: `1:05`."""
        self._pieces, now = self._pieces + 1, time.monotonic()
        if self._pieces == 1:
            self._first, each = now, now - self._started
        else:
            each = (now - self._first) / (self._pieces - 1)
        return minutes(each * pieces)


class Progress(NamedTuple):
    """When this process began, and at which step."""

    started: float
    first_step: int

    def line(self, step: int, steps: int) -> str:
        """`step 200/1200   4.1 steps/s   4:04 left`."""
        speed = (step - self.first_step) / max(time.monotonic() - self.started, 1e-9)
        left = (steps - step) / speed if speed else 0
        return f"step {step}/{steps}  {speed:.2f} steps/s  {minutes(left)} left"


class Stopwatch:
    """Times the steps of an interval: how many, how long, and how long they waited for input.

    It stands still for what is not a step: compiling, writing, validation. Batches come to it
    twice: from the pipeline, where waiting is waiting for input, and to a step. Between the two
    they are sent to the device ahead of it; the time that it takes to ask for that is none of
    waiting.
    """

    def __init__(self) -> None:
        self._started: float | None = None
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0

    def of_input(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches of the pipeline; notes how long each is waited for, whenever that is."""
        while True:
            before = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.waited += time.monotonic() - before
            yield batch

    def of_steps(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches that steps are given, each counted."""
        while True:
            if self._started is None:
                self._started = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.steps += 1
            yield batch

    def stop(self) -> None:
        """Stands still until the next batch is asked for."""
        if self._started is not None:
            self.seconds += time.monotonic() - self._started
        self._started = None

    def reset(self) -> None:
        """Begins a new interval."""
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0

    def rates(self, batch_size: int) -> dict[str, float | None]:
        """Of the interval: seconds, images per second, and the share of waiting; None of no time.

        Args:
          batch_size: images of a step.
        """
        timed = self.seconds > 0
        return {
            "seconds": self.seconds,
            "images_per_s": self.steps * batch_size / self.seconds if timed else None,
            "input_wait": self.waited / self.seconds if timed else None,
        }
