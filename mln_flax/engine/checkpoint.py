"""Checkpoints through Orbax: the latest and the best, written whole or not at all."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from mln_flax import parallel

METRIC = "validation_dsc"


def manager(workdir: Path) -> ocp.CheckpointManager:
    """Keeps the newest state and the one with the best source validation."""

    def best(metrics: Any) -> float:
        return float(metrics[METRIC])

    keep = policies.AnyPreservationPolicy(
        [
            policies.LatestN(1),
            policies.BestN(get_metric_fn=best, n=1, keep_checkpoints_without_metrics=False),
        ]
    )
    options = ocp.CheckpointManagerOptions(preservation_policy=keep, best_fn=best)
    return ocp.CheckpointManager((workdir / "checkpoints").absolute(), options=options)


def save(
    checkpoints: ocp.CheckpointManager, step: int, state: Any, validation_dsc: float | None
) -> None:
    """Writes a state, with its source validation where measured; returns when it is on the disk."""
    metrics = None if validation_dsc is None else {METRIC: validation_dsc}
    checkpoints.save(step, args=ocp.args.StandardSave(parallel.as_global(state)), metrics=metrics)
    checkpoints.wait_until_finished()


def restore(checkpoints: ocp.CheckpointManager, like: Any, step: int | None = None) -> Any:
    """The state of a step (default: the newest), in the form of `like`; None where there is none.

    `like` is a state or its shapes (`jax.eval_shape`).
    """
    step = checkpoints.latest_step() if step is None else step
    if step is None:
        return None
    # Restored as numpy: every process gets its own copy, whatever devices it has.
    arrays = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
    return checkpoints.restore(step, args=ocp.args.StandardRestore(arrays))


def save_tree(path: Path, tree: Any) -> None:
    """Writes arrays as one folder, over an older one."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), tree, force=True)


def load_tree(path: Path) -> dict[str, Any]:
    """The nested dicts of arrays that `save_tree` wrote, in numpy."""
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.metadata(path.absolute()).item_metadata.tree
        like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), stored)
        return checkpointer.restore(path.absolute(), like)
