"""A step's rows in parts, one after the other: less memory for the same loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mln_flax.methods.core import TrainState
from mln_flax.types import AXIS, UserError


class Rows(NamedTuple):
    """The rows of a device as the network takes them."""

    image: Any  # float32 [B, H, W, 1]
    mask: Any  # int32 [B, H, W]
    branch: Any  # int32 [B], in whose Dice the row counts; -1: nowhere
    # Int32 [B, n], of which every norm draws its branch; None: that above.
    candidates: Any = None


def in_parts(
    differentiate: Callable[..., Any],
    count: int,
    dice_shape: tuple[int, int],
    state: TrainState,
    rows: Rows,
    key: jax.Array,
):
    """Loss, Dice, statistics and gradients of a batch that goes through the network in parts.

    The rows are sorted by branch, so that a branch is in as few parts as may be; one that is whole
    in its part has the Dice of the whole batch.

    Args:
      differentiate: `(params, domain_stats, rows, share, key)` -> ((loss, (dice, domain_stats)),
        gradients), where share [k] is the weight of each branch's Dice.
      count: parts, which divide the rows of this device.
      dice_shape: (k, classes).
      state: of the training.
      rows: of this device.
      key: of stochastic depth; each part draws for itself.

    Raises:
      UserError: the parts do not divide the rows.
    """
    total = len(rows.branch)
    if total % count:
        raise UserError(
            f"--config.train.accumulate={count}: must divide the {total} rows of each device"
        )
    together = by_branch(rows)
    parts = jax.tree.map(lambda x: x.reshape(count, total // count, *x.shape[1:]), together)
    weights = shares(parts, dice_shape[0])

    def add(carry, part):
        sums, domain_stats = carry
        number, rows_of_part, share = part
        (loss, (dice, domain_stats)), gradients = differentiate(
            state.params, domain_stats, rows_of_part, share, jax.random.fold_in(key, number)
        )
        new = loss, share[:, None] * dice, gradients
        return (jax.tree.map(jnp.add, sums, new), domain_stats), None

    nothing = jnp.zeros(()), jnp.zeros(dice_shape), jax.tree.map(jnp.zeros_like, state.params)
    (sums, domain_stats), _ = jax.lax.scan(
        add, (nothing, state.domain_stats), (jnp.arange(count), parts, weights)
    )
    loss, dice, gradients = jax.tree.map(lambda x: x / count, sums)
    return loss, dice, domain_stats, gradients


def by_branch(rows: Rows) -> Rows:
    """The rows in the order of their branches, those that count nowhere last."""
    order = jnp.argsort(jnp.where(rows.branch < 0, jnp.iinfo(jnp.int32).max, rows.branch))
    return jax.tree.map(lambda x: x[order], rows)


def shares(parts: Rows, num_branches: int) -> jax.Array:
    """The weight of each branch's Dice in each part, [parts, k].

    The mean over the parts of share x Dice is then the mean Dice of the parts that hold rows of
    the branch, on any device. A branch without rows counts as in a batch that is not parted.
    """
    members = jax.nn.one_hot(parts.branch, num_branches)
    present = jax.lax.pmax(members.max(axis=1), AXIS)
    times = present.sum(axis=0, keepdims=True)
    return jnp.where(times > 0, present * len(present) / jnp.maximum(times, 1), 1.0)
