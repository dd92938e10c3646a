"""A clean stop: SIGTERM and SIGINT are noted, and the loop looks between two steps."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

EXIT_CODES = {"SIGTERM": 143, "SIGINT": 130}  # exit codes, as shells count signals


class Stopped(Exception):
    """Training was asked to stop and has saved its state."""


class StopSignal:
    """Whether SIGTERM or SIGINT has come; the loop looks between two steps."""

    def __init__(self) -> None:
        self.name = ""

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
