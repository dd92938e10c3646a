"""MLN-net's training: all views of a batch in one step, a Dice loss per branch."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mln_flax.methods.core import TrainState
from mln_flax.methods.losses import segmentation_loss
from mln_flax.methods.mln import normaug
from mln_flax.methods.mln.parts import Rows, in_parts
from mln_flax.methods.mln.settings import MlnSettings
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
    settings: MlnSettings,
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
      settings: the loss and its options; with `normaug` the network has a main branch and one
        for each view, and every row goes through both.
      branch_of_view: of each of the run's views.
      seed: of what is random in the network.
      accumulate: parts that a step's rows go through one after the other, to save memory. Rows
        of one branch stay together: with as many parts as views the loss is that of one part. A
        branch that is cut has a Dice (and for batch norms a batch) in each part, and the mean
        counts.
      state: of the training.
      batch: this device's rows.

    Returns:
      The state behind the step, and {"loss": 1 + loss / k (Eq. 14-15), or over the sum of the
      weights of main and auxiliary branches, "dice": soft Dice of the calcifications, mean over
      branches}.
    """
    branch = jnp.asarray(branch_of_view, jnp.int32)[batch.view]
    branch = jnp.where(batch.valid & batch.labeled, branch, -1)
    if settings.normaug:
        rows = normaug.rows(batch, branch, len(branch_of_view))
        weights = np.array([1.0, settings.normaug])
    else:
        rows = Rows(batch.image, batch.mask, branch)
        weights = np.ones(max(branch_of_view) + 1)
    num_branches = len(weights)
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
    scalars = {"loss": 1 + loss / weights.sum(), "dice": dice[:, 1:].mean()}
    return descend(optimizer, state, gradients, domain_stats), scalars


def _loss(model, settings, num_branches, step, params, domain_stats, rows: Rows, share, key):
    """The loss of some rows, with their Dice [k, classes] and the statistics moved on.

    `share` [k] is the weight of each branch's Dice; with `normaug` of main and auxiliary ones.
    """
    (logits, _), updated = model.apply(
        {"params": params, "domain_stats": domain_stats},
        rows.image,
        rows.branch if rows.candidates is None else rows.candidates,
        train=True,
        mutable=["domain_stats"],
        rngs={"dropout": key},
    )
    loss_of = partial(segmentation_loss, settings, step, logits, rows.mask)
    if rows.candidates is None:
        loss, dice = loss_of(rows.branch, num_branches, share)
    else:  # two losses, each whole, of which the second has a weight
        groups = [jnp.where(rows.branch == group, 0, -1) for group in range(num_branches)]
        parts = [loss_of(of_group, 1, share[g : g + 1]) for g, of_group in enumerate(groups)]
        (main, of_main), (auxiliary, of_auxiliary) = parts
        loss = main + settings.normaug * auxiliary
        dice = jnp.concatenate([of_main, of_auxiliary])
    return loss, (dice, updated["domain_stats"])
