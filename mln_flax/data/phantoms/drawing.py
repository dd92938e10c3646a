"""Many phantoms at once: from the cache, else drawn, in several processes where that pays."""

import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from mln_flax.data import processes
from mln_flax.data.core import Example
from mln_flax.data.phantoms import store
from mln_flax.data.phantoms.store import Block

MOST_WORKERS = 8
# Seconds: of a block, which one process draws and one file keeps; and of what several processes
# draw at least, for each takes half a second of a core to start.
BLOCK_SECONDS, WORTH_SECONDS = 0.1, 1.0
WHOLE_SECONDS = 0.6  # of a whole view

# Of a seed, the domains, a patient, and height=, width=, spacing_mm=, whole= or windows=: the
# patient's phantoms.
Show = Callable[..., list[Example]]


def draw(wanted: Sequence[Block], show: Show, workers: int = 0) -> list[list[Example]]:
    """The phantoms of each block, patient by patient, as `show` draws them.

    Args:
      wanted: blocks of any length.
      show: a function at the top of a module, so that other processes know it.
      workers: processes that draw, this one among them; 0: as many as there are cores, up to 8.
    """
    parts = [_split(block) for block in wanted]
    blocks = [block for part in parts for block in part]
    folder = store.folder()
    known: dict[Block, list[Example]] = {}
    if folder:
        kept = ((block, store.read(folder, block)) for block in blocks)
        known = {block: examples for block, examples in kept if examples is not None}
    missing = [block for block in blocks if block not in known]
    if not _fit(blocks):
        folder = None
    for block, examples in _drawn(missing, show, workers):
        known[block] = examples
        folder = folder and _kept(folder, block, examples)
    if folder and missing:
        store.trim(folder)
    return [[example for block in part for example in known[block]] for part in parts]


def keep(blocks: Sequence[Block], show: Show, workers: int = 0) -> None:
    """Draws into the cache what it lacks of blocks that are too large to be held all at once.

    Each is then had by `draw`. Nothing is done where they do not fit, or nothing is kept.
    """
    folder = store.folder()
    if folder is None or not _fit(blocks):
        return
    missing = [block for block in blocks if not store.is_kept(folder, block)]
    if (seconds := sum(map(_seconds, missing))) > WORTH_SECONDS:
        print(
            f"phantoms: drawing {len(missing)} whole images, once, about {seconds:.0f} s of a core",
            flush=True,
        )
    for block, examples in _drawn(missing, show, workers):
        if _kept(folder, block, examples) is None:
            return
    if missing:
        store.trim(folder)


def _fit(blocks: Sequence[Block]) -> bool:
    """Whether the cache has room for all, or they would drive each other out."""
    return sum(block.most_bytes for block in blocks) <= store.MOST_BYTES


def _kept(folder: pathlib.Path, block: Block, examples: list[Example]) -> pathlib.Path | None:
    """The folder, or None where it takes nothing."""
    try:
        store.write(folder, block, examples)
    except OSError as error:
        print(f"phantoms: not kept for the next run ({error})", flush=True)
        return None
    return folder


def _split(block: Block) -> list[Block]:
    """The same phantoms in blocks of about BLOCK_SECONDS, at least one patient each."""
    length = max(1, int(BLOCK_SECONDS / _seconds(block._replace(stop=block.first + 1))))
    starts = range(block.first, block.stop, length)
    return [block._replace(first=i, stop=min(i + length, block.stop)) for i in starts]


def _seconds(block: Block) -> float:
    """About how long drawing takes on one core of 2025."""
    if block.windows:  # of a whole view each
        return WHOLE_SECONDS * block.phantoms / block.windows
    return 0.003 * block.phantoms + 2.2e-7 * block.pixels


def _drawn(
    blocks: Sequence[Block], show: Show, workers: int
) -> Iterator[tuple[Block, list[Example]]]:
    """Each block with its phantoms, as they become ready."""
    draw_block = partial(_draw_block, show, store.SOURCES)
    count = min(workers or min(processes.cores(), MOST_WORKERS), len(blocks))
    if sum(map(_seconds, blocks)) <= WORTH_SECONDS or not _may_start_processes():
        count = 1
    return processes.drawn(blocks, draw_block, count, (OSError, RuntimeError, ImportError))


def _draw_block(show: Show, sources: str, block: Block) -> list[Example]:
    if store.SOURCES != sources:  # in a process that has read the files later
        raise RuntimeError("its code has been changed meanwhile")
    _reuse_memory()
    return [
        example
        for index in range(block.first, block.stop)
        for example in show(
            block.seed,
            block.domains,
            index,
            height=block.height,
            width=block.width,
            spacing_mm=block.spacing_mm,
            **({"windows": block.windows} if block.windows else {"whole": block.whole}),
        )
    ]


@functools.cache
def _reuse_memory() -> None:
    """Lets arrays of up to 16 MB be made of memory that others were freed from.

    GNU's allocator gives larger pieces than it has seen freed back to the system, and a phantom's
    many short-lived arrays are then new pages each: a quarter of the time. Another allocator
    takes no notice.
    """
    np.empty(2**24, np.uint8)


def _may_start_processes() -> bool:
    """Whether other processes could be started, and would draw the same."""
    return processes.may_start() and store.is_as_imported()
