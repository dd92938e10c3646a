"""Fresh processes that compute for this one and end with it."""

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import multiprocessing.context
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any


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


def cores() -> int:
    """Those that this process may use."""
    known = getattr(os, "sched_getaffinity", None)
    return len(known(0)) if known else os.cpu_count() or 1


def may_start() -> bool:
    """Whether this process may have others; one of a pool may not."""
    return not multiprocessing.current_process().daemon


def drawn(
    items: Sequence[Any],
    draw: Callable[[Any], Any],
    workers: int,
    faults: tuple[type[Exception], ...],
) -> Iterator[tuple[Any, Any]]:
    """Each item with what `draw` makes of it, as they become ready; all here if others fail.

    Args:
      items: no two are equal.
      draw: known to other processes by its name.
      workers: processes that draw, this one among them: it need not wait for the others' start.
      faults: of processes, which `draw` itself raises nowhere.
    """
    left = dict.fromkeys(items)
    if workers > 1:
        try:
            with pool(workers - 1, with_main=False) as others:
                for item, result in _with_others(tuple(left), draw, others, workers - 1):
                    yield item, result
                    del left[item]
        except faults as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:100]
            print(f"phantoms: drawn in this process alone ({reason})", flush=True)
    for item in left:
        yield item, draw(item)


def _with_others(
    items: Sequence[Any],
    draw: Callable[[Any], Any],
    others: concurrent.futures.Executor,
    workers: int,
) -> Iterator[tuple[Any, Any]]:
    """Draws here while others do, so many of them."""
    waiting: dict[concurrent.futures.Future[Any], Any] = {}
    following = iter(items)
    own = items[0]
    while own is not None or waiting:
        # One that a process draws and one that it finds when it has done so.
        for item in itertools.islice(following, 2 * workers - len(waiting)):
            waiting[others.submit(draw, item)] = item
        own = next(following, None)
        if own is not None:
            yield own, draw(own)
        timeout = None if own is None else 0
        ready = concurrent.futures.wait(waiting, timeout, concurrent.futures.FIRST_COMPLETED).done
        for future in ready:
            yield waiting.pop(future), future.result()


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
