"""Fresh processes that compute for this one and end with it."""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.context
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool


@contextlib.contextmanager
def pool(workers: int, *, with_main: bool) -> Iterator[concurrent.futures.Executor]:
    """An executor of processes that know nothing of accelerators and end with this one.

    Args:
      workers: how many processes.
      with_main: whether each imports the program's main file first, for what that registers. A
        script that starts its work without asking for `__name__` cannot be imported so.

    Raises:
      BrokenProcessPool: one was killed or could not start; none is left then.
    """
    others = multiprocessing.active_children()
    context = multiprocessing.get_context("spawn") if with_main else _ContextWithoutMain()
    executor = concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_end_with_parent
    )
    try:
        yield executor
    except BrokenProcessPool:
        # The pool ends the processes that it had when one was killed, and would wait forever for
        # one that it started meanwhile.
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


class _ProcessWithoutMain(multiprocessing.context.SpawnProcess):
    """A process that starts as those of a notebook do, where there is no main file to import."""

    def start(self) -> None:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")  # of no file
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main


class _ContextWithoutMain(multiprocessing.context.SpawnContext):
    Process = _ProcessWithoutMain


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)  # the parent was killed, and nobody would take the results

    threading.Thread(target=watch, daemon=True).start()
