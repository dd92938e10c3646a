"""Times of programs that take turns, as medians with quartiles; and the memory that one takes."""

import ctypes
import gc
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Program = Callable[[], Any]  # returns when its work is done, whatever it returns
WARM_UPS = 2  # calls that compile, and fill caches
PAUSE_S = 0.02  # threads of one program that wait busily for more work would slow the next one
PROCESS = Path("/proc/self")  # where Linux tells of this process


class Spread(NamedTuple):
    """The middle of several measurements."""

    median: float
    low: float  # the first quartile
    high: float  # the third

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """That of some values."""
        low, median, high = np.quantile(np.asarray(list(values)), (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high))

    @classmethod
    def once(cls, value: float) -> "Spread":
        """Of what was measured once, or is exact."""
        return cls(value, value, value)

    def rate(self, count: float) -> "Spread":
        """Of seconds for `count` things: things per second."""
        return Spread(count / self.median, count / self.high, count / self.low)

    def times(self, factor: float) -> "Spread":
        """In another unit."""
        return Spread(*(factor * value for value in self))


def alternate(programs: Mapping[str, Program], runs: int) -> dict[str, Spread]:
    """Seconds of each program, which take turns, so that a machine's noise meets all of them.

    In its turn a program runs twice and the second run counts: as in training, where step follows
    step, it finds caches and memory as it left them, not as another program did.
    """
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        for _ in range(WARM_UPS):
            program()
    for _ in range(runs):
        for name, program in programs.items():
            time.sleep(PAUSE_S)
            program()
            started = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - started)
    return {name: Spread.of(values) for name, values in seconds.items()}


def risen_bytes(program: Program) -> int | None:
    """How far this process's resident memory rises while a program runs; None if not on Linux."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that is kept would be used without a rise
        (PROCESS / "clear_refs").write_text("5")  # the peak is counted from here on
        before = _status_bytes("VmRSS")
        program()
        return max(_status_bytes("VmHWM") - before, 0)
    except (OSError, AttributeError, TypeError):
        return None


def _status_bytes(name: str) -> int:
    lines = (PROCESS / "status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
