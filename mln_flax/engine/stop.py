"""A clean stop: SIGTERM and SIGINT are noted, and the loop looks between two steps."""

import collections
import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import jax

from mln_flax import parallel

# Of several processes, how many steps later an answer is looked at: by then it has come, and the
# host runs that far ahead of its devices, which so never wait for it.
LATER_STEPS = 2
EXIT_CODES = {"SIGTERM": 143, "SIGINT": 130}  # exit codes, as shells count signals


class Stopped(Exception):
    """Training was asked to stop and has saved its state."""


class StopSignal:
    """Whether SIGTERM or SIGINT has come; the loop looks between two steps."""

    def __init__(self) -> None:
        self.name = ""
        self._asked: collections.deque[Any] = collections.deque()

    def agreed(self, now: bool = False) -> str:
        """The name of the signal that has come to any process of the run, or "": in all the same.

        All processes must ask at the same steps. A signal that came to one of several is answered
        LATER_STEPS questions later, in all; with `now` at once, which waits for all of them.
        """
        if jax.process_count() == 1:
            return self.name
        number = signal.Signals[self.name].value if self.name else 0
        self._asked.append(parallel.largest(number))
        answer = 0
        while len(self._asked) > (0 if now else LATER_STEPS):
            answer = max(answer, int(self._asked.popleft()))
        if answer:
            self.name = signal.Signals(answer).name
        return self.name if answer else ""

    @contextlib.contextmanager
    def watched(self) -> Iterator["StopSignal"]:
        """Catches the signals inside the block; a second one ends the program at once."""
        old: dict[int, Any] = {}

        def note(number: int, _frame: Any) -> None:
            self.name = signal.Signals(number).name
            for caught, handler in old.items():
                signal.signal(caught, handler)

        for wanted in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not in the main thread, as in a notebook's
                old[wanted] = signal.signal(wanted, note)
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
