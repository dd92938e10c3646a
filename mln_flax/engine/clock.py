"""How fast training runs, how long it waits for input, and how long it will take."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple


class Progress(NamedTuple):
    """When this process began, and at which step."""

    started: float
    first_step: int

    def line(self, step: int, steps: int) -> str:
        """`step 200/1200   4.1 steps/s   4:04 left`."""
        speed = (step - self.first_step) / max(time.monotonic() - self.started, 1e-9)
        left = int((steps - step) / speed) if speed else 0
        return f"step {step}/{steps}  {speed:.2f} steps/s  {left // 60}:{left % 60:02d} left"


class Stopwatch:
    """Times the steps of an interval: how many, how long, and how long they waited for input.

    It stands still for what is not a step: compiling, writing, validation.
    """

    def __init__(self, batches: Iterator[Any]):
        self._batches = batches
        self._started: float | None = None
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0

    def __iter__(self) -> "Stopwatch":
        return self

    def __next__(self) -> Any:
        before = time.monotonic()
        batch = next(self._batches)
        self.waited += time.monotonic() - before
        if self._started is None:
            self._started = before
        self.steps += 1
        return batch

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
