"""The one place that knows devices and hosts: pmap, shards of a batch, several processes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mln_flax.types import AXIS, Batch, UserError


def initialize(distributed: bool) -> None:
    """Joins the processes of one run where there are several.

    Raises:
      UserError: this process is part of no cluster that jax recognizes.
    """
    if not distributed:
        return
    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise UserError(
            "--config.train.distributed=true: no cluster found "
            f"({str(error).splitlines()[0]}); start one process per host through its launcher"
        ) from None


def is_main_process() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


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


def shard(batch: Batch, count: int | None = None) -> Batch:
    """[rows, ...] -> [devices, rows per device, ...]; added rows have valid False."""
    count = count or jax.local_device_count()
    length = -(-len(batch.valid) // count) * count
    return Batch(*(_split(pad_rows(np.asarray(x), length), count) for x in batch))


def _split(x: np.ndarray, count: int) -> np.ndarray:
    return x.reshape(count, len(x) // count, *x.shape[1:])
