"""MLN-net's training: all views of a batch in one step, a Dice loss per branch."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mln_flax.methods.core import TrainState
from mln_flax.methods.losses import LossSettings, segmentation_loss
from mln_flax.methods.mln.parts import Rows, in_parts
from mln_flax.methods.optimize import descend, device_key, first_state
from mln_flax.types import Batch


def init(
    model: nn.Module, optimizer: optax.GradientTransformation, key: jax.Array, batch: Batch
) -> TrainState:
    """The state before the first step; of the batch the images' shape alone counts."""
    branch = jnp.zeros(len(batch.image), jnp.int32)
    return first_state(model.init(key, batch.image, branch, train=False), optimizer)


def update(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    settings: LossSettings,
    branch_of_view: tuple[int, ...],
    seed: int,
    accumulate: int,
    state: TrainState,
    batch: Batch,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step on this device's rows; the sums run over all devices.

    Args:
      model: takes (image, branch, train) and returns (logits, {"moments": ...}); built with
        axis_name="batch" so that its running statistics are summed over devices.
      optimizer: of the parameters.
      settings: the loss and its options.
      branch_of_view: of each of the run's views.
      seed: of stochastic depth.
      accumulate: parts that a step's rows go through one after the other, to save memory. Rows
        of one branch stay together: with as many parts as views the loss is that of one part. A
        branch that is cut has a Dice (and for batch norms a batch) in each part, and the mean
        counts.
      state: of the training.
      batch: this device's rows.

    Returns:
      The state behind the step, and {"loss": 1 + loss / k (Eq. 14-15), "dice": soft Dice of the
      calcifications, mean over branches}.
    """
    num_branches = max(branch_of_view) + 1
    branch = jnp.asarray(branch_of_view, jnp.int32)[batch.view]
    rows = Rows(batch.image, batch.mask, jnp.where(batch.valid & batch.labeled, branch, -1))
    key = device_key(seed, state.step)
    differentiate = jax.value_and_grad(
        partial(_loss, model, settings, num_branches, state.step), has_aux=True
    )
    if accumulate == 1:
        (loss, (dice, domain_stats)), gradients = differentiate(
            state.params, state.domain_stats, rows, jnp.ones(num_branches), key
        )
    else:
        dice_shape = (num_branches, model.num_classes)
        loss, dice, domain_stats, gradients = in_parts(
            differentiate, accumulate, dice_shape, state, rows, key
        )
    scalars = {"loss": 1 + loss / num_branches, "dice": dice[:, 1:].mean()}
    return descend(optimizer, state, gradients, domain_stats), scalars


def _loss(model, settings, num_branches, step, params, domain_stats, rows: Rows, share, key):
    """The loss of some rows, with their Dice [k, classes] and the statistics moved on.

    `share` [k] is the weight of each branch's Dice.
    """
    (logits, _), updated = model.apply(
        {"params": params, "domain_stats": domain_stats},
        rows.image,
        rows.branch,
        train=True,
        mutable=["domain_stats"],
        rngs={"dropout": key},
    )
    loss, dice = segmentation_loss(
        settings, step, logits, rows.mask, rows.branch, num_branches, share
    )
    return loss, (dice, updated["domain_stats"])
