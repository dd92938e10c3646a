"""The one place that knows devices and hosts: pmap, shards of a batch, several processes."""

import collections
import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mln_flax.types import AXIS, UserError

# Where no cluster is that jax recognizes, a plain shell says who the processes are. jax itself
# reads the first; the others are numbers.
ADDRESS, PROCESSES, PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
BATCHES_SENT = 1  # ahead of the one that a step is given


def initialize(distributed: bool) -> None:
    """Joins the processes of one run where there are several.

    Who they are is said by the launcher of a cluster that jax recognizes, or by the environment:
    ADDRESS (HOST:PORT of process 0), PROCESSES (how many) and PROCESS (which this one is, from 0).

    Raises:
      UserError: neither says it, or not in full.
    """
    if not distributed:
        return
    address = os.environ.get(ADDRESS)
    if address is not None and not address.rpartition(":")[2].isdecimal():
        raise UserError(f"{ADDRESS}={address}: must be HOST:PORT of process 0")
    try:
        jax.distributed.initialize(num_processes=_number(PROCESSES), process_id=_number(PROCESS))
    except UserError:
        raise
    except (ValueError, RuntimeError) as error:
        raise UserError(
            "--config.train.distributed=true: the processes do not find each other "
            f"({str(error).splitlines()[0]}); start one process per host through the launcher of "
            f"the cluster, or set {ADDRESS}, {PROCESSES} and {PROCESS} for each"
        ) from None
    # jax has put a handler of its own in the place of SIGTERM's, which would swallow the signal
    # wherever nobody asks jax for it.
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)


def _number(name: str) -> int | None:
    """The whole number that the environment has under a name; None where it has nothing."""
    text = os.environ.get(name)
    if text is not None and not text.isdecimal():
        raise UserError(f"{name}={text}: must be a whole number, 0 or more")
    return None if text is None else int(text)


def is_main_process() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def on_main(work: Callable[[], object]) -> None:
    """Does the work in the main process alone; all processes go on when it is done.

    Raises:
      UserError: in all of them, where the main one cannot do it (there: whatever went wrong).
    """
    error: Exception | None = None
    if is_main_process():
        try:
            work()
        except Exception as caught:
            error = caught
    if jax.process_count() > 1:
        failed = multihost_utils.broadcast_one_to_all(np.int32(error is not None))
        if failed and not is_main_process():
            raise UserError("the main process of this run cannot go on; it says why")
    if error is not None:
        raise error


def largest(number: int) -> Any:
    """The largest of all processes' numbers, on its way from the devices: int() waits for it."""
    return _largest()(np.full(jax.local_device_count(), number, np.int32))


@functools.cache
def _largest() -> Any:
    return jax.pmap(lambda x: jax.lax.pmax(x, AXIS), axis_name=AXIS, out_axes=None)


def host_share() -> tuple[int, int]:
    """The number of this host and how many hosts there are."""
    return jax.process_index(), jax.process_count()


def parallel_update(update: Callable[..., Any], devices: list[Any] | None = None) -> Any:
    """`update(state, batch)` on all devices: state whole and donated, batch by device.

    The state goes in and comes out without a device axis: every device holds the same.
    """
    return jax.pmap(
        update,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
        donate_argnums=0,
        devices=devices,
    )


def replicate(state: Any, devices: list[Any] | None = None) -> Any:
    """The state on all devices, where `parallel_update` leaves it: so the step compiles once.

    The arrays are copies: a donated state deletes nothing of the caller's.
    """
    mesh = jax.sharding.Mesh(np.asarray(devices or jax.local_devices()), (AXIS,))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.device_put(state, whole, may_alias=False)


def as_global(tree: Any) -> Any:
    """The same arrays as all processes hold together: what a checkpoint of several can store."""
    if jax.process_count() == 1:
        return tree
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), (AXIS,))
    return multihost_utils.host_local_array_to_global_array(
        tree, mesh, jax.sharding.PartitionSpec()
    )


def parallel_map(function: Callable[..., Any], devices: list[Any] | None = None) -> Any:
    """`function(variables, *rows)` on all local devices, returning rows in their order."""
    count = len(devices) if devices else jax.local_device_count()
    mapped = jax.pmap(
        lambda variables, rows: function(variables, *rows), in_axes=(None, 0), devices=devices
    )

    def call(variables: Any, *rows: np.ndarray) -> Any:
        length = len(rows[0])
        sharded = tuple(_split(pad_rows(x, -(-length // count) * count), count) for x in rows)
        out = jax.device_get(mapped(variables, sharded))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:length], out)

    return call


def pad_rows(x: np.ndarray, length: int) -> np.ndarray:
    """X with zero rows added up to `length`."""
    return np.pad(x, [(0, length - len(x))] + [(0, 0)] * (x.ndim - 1))


def shard(batch: Any, count: int | None = None) -> Any:
    """[rows, ...] -> [devices, rows per device, ...]; added rows have `valid` False."""
    count = count or jax.local_device_count()
    length = -(-len(batch.valid) // count) * count
    return jax.tree.map(lambda x: _split(pad_rows(np.asarray(x), length), count), batch)


def sent(batches: Iterator[Any], devices: list[Any] | None = None) -> Iterator[Any]:
    """The batches by device, as `shard` cuts them, on their way there ahead of their step.

    While a step works on one, the next is sent. What goes wrong with a batch is raised in its
    place, behind the steps of those before it.
    """
    devices = devices or jax.local_devices()
    mesh = jax.sharding.Mesh(np.asarray(devices), (AXIS,))
    by_device = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
    waiting: collections.deque[Any] = collections.deque()
    error: Exception | None = None
    is_open = True
    while is_open or waiting:
        while is_open and len(waiting) <= BATCHES_SENT:
            try:
                waiting.append(jax.device_put(shard(next(batches), len(devices)), by_device))
            except StopIteration:
                is_open = False
            except Exception as caught:
                error, is_open = caught, False
        if waiting:
            yield waiting.popleft()
    if error is not None:
        raise error


def _split(x: np.ndarray, count: int) -> np.ndarray:
    return x.reshape(count, len(x) // count, *x.shape[1:])
