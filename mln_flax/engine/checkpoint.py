"""Checkpoints through Orbax: the latest and the best, written whole or not at all."""

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from mln_flax import parallel
from mln_flax.methods.core import SCORE
from mln_flax.types import UserError


def manager(workdir: Path) -> ocp.CheckpointManager:
    """Keeps the newest state and the one with the best source validation.

    Raises:
      UserError: a checkpoint's own validation cannot be read.
    """
    folder = (workdir / "checkpoints").absolute()
    for metrics in sorted(folder.glob("*/metrics/metrics")):
        _check_json(metrics, metrics.parents[1])

    def best(metrics: Any) -> float:
        return float(metrics[SCORE])

    keep = policies.AnyPreservationPolicy(
        [
            policies.LatestN(1),
            policies.BestN(get_metric_fn=best, n=1, keep_checkpoints_without_metrics=False),
        ]
    )
    options = ocp.CheckpointManagerOptions(preservation_policy=keep, best_fn=best)
    return ocp.CheckpointManager(folder, options=options)


def is_begun(workdir: Path) -> bool:
    """Whether a workdir holds a state that training goes on from."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(path.name.isdecimal() for path in folder.iterdir())


def save(
    checkpoints: ocp.CheckpointManager, step: int, state: Any, validation_dsc: float | None
) -> None:
    """Writes a state, with its source validation where measured; returns when it is on the disk.

    Raises:
      UserError: a number of the state is not finite; what was saved before stays the newest.
      OSError: the disk is full, or refuses it.
    """
    if not is_finite(state):
        latest = checkpoints.latest_step()
        kept = "" if latest is None else f", the checkpoint of step {latest} stays the newest"
        raise UserError(
            f"the state after step {step} holds numbers that are not finite: it is not saved{kept};"
            " a smaller --config.optim.learning_rate may help"
        )
    metrics = None if validation_dsc is None else {SCORE: validation_dsc}
    with _written(Path(checkpoints.directory)):
        args = ocp.args.StandardSave(parallel.as_global(state))
        checkpoints.save(step, args=args, metrics=metrics)
        checkpoints.wait_until_finished()


def is_finite(state: Any) -> bool:
    """Whether a state holds neither nan nor infinity; whole numbers and keys are not asked."""
    numbers = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return bool(_all_finite(numbers))


@jax.jit
def _all_finite(numbers: list[Any]) -> Any:
    return jnp.all(jnp.array([jnp.isfinite(x).all() for x in numbers]))


def restore(checkpoints: ocp.CheckpointManager, like: Any, step: int | None = None) -> Any:
    """The state of a step (default: the newest), in the form of `like`; None where there is none.

    `like` is a state or its shapes (`jax.eval_shape`).

    Raises:
      UserError: the checkpoint is damaged, or not finite: says what there is without it.
    """
    step = checkpoints.latest_step() if step is None else step
    if step is None:
        return None
    folder = Path(checkpoints.directory) / str(step)
    check_whole(folder / "default", folder)
    # Restored as numpy: every process gets its own copy, whatever devices it has.
    arrays = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
    try:
        state = checkpoints.restore(step, args=ocp.args.StandardRestore(arrays))
    except (ValueError, OSError) as error:
        raise _damaged(folder, error) from None
    if not is_finite(state):
        raise _damaged(folder, "it holds numbers that are not finite")
    return state


def save_tree(path: Path, tree: Any) -> None:
    """Writes arrays as one folder, over an older one.

    Raises:
      OSError: the disk is full, or refuses it.
    """
    with _written(path), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), tree, force=True)


def load_tree(path: Path) -> dict[str, Any]:
    """The nested dicts of arrays that `save_tree` wrote, in numpy.

    Raises:
      UserError: the folder is damaged.
    """
    check_whole(path, path)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            stored = checkpointer.metadata(path.absolute()).item_metadata.tree
            like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), stored)
            return checkpointer.restore(path.absolute(), like)
    except (ValueError, KeyError, AttributeError) as error:
        raise _damaged(path, error) from None


def check_whole(folder: Path, named: Path) -> None:
    """Raises UserError unless every byte of a folder of arrays can be read.

    Orbax finds damage while it reads many arrays at once, and then writes pages of tracebacks.
    `named` is what the user is told of.
    """
    import tensorstore

    for text in (folder / "_METADATA", *sorted(folder.glob("array_metadatas/*"))):
        _check_json(text, named)
    try:
        arrays = tensorstore.KvStore.open(
            {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder.absolute()}/"}}
        ).result()
        keys = arrays.list().result()
        for key in keys:
            arrays.read(key).result()
    except ValueError as error:
        raise _damaged(named, error) from None
    if not keys:
        raise _damaged(named, "it holds no arrays")


def _check_json(path: Path, named: Path) -> None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise _damaged(named, f"{path.name}: {error}") from None


def _damaged(folder: Path, why: object) -> UserError:
    """What is said of a folder that cannot be used, in one line."""
    reason = " ".join(str(why).partition(' "')[0].split())[:100]  # tensorstore then says it twice
    if folder.parent.name == "checkpoints":
        others = [
            int(p.name) for p in folder.parent.iterdir() if p.name.isdecimal() and p != folder
        ]
        left = f"goes on from step {max(others)}" if others else "begins anew"
    else:
        left = "of --mode=train writes it again"
    return UserError(f"{folder}: is damaged ({reason}); remove it, then the command {left}")


@contextlib.contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Makes an OSError that names the folder of what Orbax raises where it cannot write."""
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.CRITICAL)  # Orbax also logs what it raises: pages of tracebacks
    try:
        yield
    except (ValueError, OSError) as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))  # of tensorstore
        number = int(code[1]) if code else getattr(error, "errno", None)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(folder)) from error
    finally:
        log.setLevel(before)
