"""Several processes that stage images at once, and end when they should."""

import concurrent.futures
import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from mln_flax.config import DataConfig
from mln_flax.data import processes
from mln_flax.data.prepare import staging
from mln_flax.data.prepare.identity import Names
from mln_flax.types import UserError

MOST_WORKERS = 4  # more would mostly wait for the disk, and each needs its memory


def stage_all(
    tasks: Sequence[staging.Task], names: Names, data: DataConfig
) -> Iterator[tuple[staging.Task, dict[str, Any]]]:
    """Stages what is not staged yet, with a progress bar; gives every task and its facts."""
    from tqdm import tqdm

    todo = []
    for task in tasks:
        facts = staging.read_facts(task.path)
        if facts is None:
            todo.append(task)
        else:
            yield task, facts
    if not todo:
        return
    count = min(data.workers or min(os.cpu_count() or 1, MOST_WORKERS), len(todo))
    stage = partial(staging.stage, data=data)
    with tqdm(
        desc="preparing",
        unit=" images",
        total=len(tasks),
        initial=len(tasks) - len(todo),
        mininterval=1,
    ) as bar:
        if count <= 1:
            for task in todo:
                facts = stage(task)
                bar.update()
                yield task, facts
            return
        with _pool(count, todo, names) as pool:
            futures = {pool.submit(stage, task): task for task in todo}
            for future in concurrent.futures.as_completed(futures):
                facts = future.result()
                bar.update()
                yield futures[future], facts


@contextlib.contextmanager
def _pool(
    workers: int, todo: Sequence[staging.Task], names: Names
) -> Iterator[concurrent.futures.Executor]:
    """Processes that stage; UserError names the files that were being read when one is killed."""
    try:
        # The main file may have registered the collection.
        with processes.pool(workers, with_main=True) as pool:
            yield pool
    except BrokenProcessPool:
        at = ", ".join(names.file(task.entry.files[0]) for task in staging.being_read(todo))
        raise UserError(
            f"a process that read images was killed at {at or 'its start'}: for want of memory, or "
            "by a damaged file. The same command goes on where it stopped, with "
            "--config.data.workers=1 it needs least; if it ends there again, take the file away"
        ) from None
