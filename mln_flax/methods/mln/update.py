"""MLN-net: all views of a batch in one step, a Dice loss per branch, all branches at test time."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mln_flax.config import MethodConfig
from mln_flax.methods import losses
from mln_flax.methods.core import Method, TrainState
from mln_flax.methods.mln.parts import in_parts
from mln_flax.types import AXIS, Batch, Prediction


def mln(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    config: MethodConfig,
    num_branches: int,
    seed: int = 0,
    accumulate: int = 1,
) -> Method:
    """The method of the paper for a model with `num_branches` branches.

    Args:
      model: takes (image, branch, train) and returns (logits, {"moments": ...}); built with
        axis_name="batch" so that its running statistics are summed over devices.
      optimizer: of the parameters.
      config: the loss and its options.
      num_branches: k.
      seed: of stochastic depth.
      accumulate: parts that a step's rows go through one after the other, to save memory. Rows
        of one branch stay together: with as many parts as views the loss is that of one part. A
        branch that is cut has a Dice (and for batch norms a batch) in each part, and the mean
        counts.
    """
    return Method(
        init=partial(_init, model, optimizer),
        update=partial(_update, model, optimizer, config, num_branches, seed, accumulate),
        predict=partial(_predict, model, num_branches),
    )


def _init(model, optimizer, key, image) -> TrainState:
    branch = jnp.zeros(image.shape[0], jnp.int32)
    variables = model.init(key, image, branch, train=False)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        domain_stats=variables["domain_stats"],
        opt_state=optimizer.init(variables["params"]),
    )


def _update(
    model,
    optimizer,
    config,
    num_branches,
    seed,
    accumulate,
    state: TrainState,
    batch: Batch,
):
    """One optimizer step on this device's rows; the sums run over all devices."""
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
    differentiate = jax.value_and_grad(
        partial(_loss, model, config, num_branches, state.step), has_aux=True
    )
    if accumulate == 1:
        (loss, (dice, domain_stats)), gradients = differentiate(
            state.params, state.domain_stats, batch, jnp.ones(num_branches), key
        )
    else:
        dice_shape = (num_branches, model.num_classes)
        loss, dice, domain_stats, gradients = in_parts(
            differentiate, accumulate, dice_shape, state, batch, key
        )
    # The loss holds a psum, whose transpose sums the devices' cotangents: the mean undoes that
    # and adds the devices' shares at the same time.
    if jax.lax.axis_size(AXIS) > 1:  # alone, XLA would copy every gradient
        gradients = jax.lax.pmean(gradients, AXIS)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": 1 + loss / num_branches, "dice": dice[:, 1:].mean()}
    return TrainState(state.step + 1, params, domain_stats, opt_state), metrics


def _loss(model, config, num_branches, step, params, domain_stats, batch: Batch, share, key):
    """The loss of some rows, with their Dice [k, classes] and the statistics moved on.

    `share` [k] is the weight of each branch's Dice.
    """
    branch = jnp.where(batch.valid, batch.branch, -1)  # padding belongs to no branch
    (logits, _), updated = model.apply(
        {"params": params, "domain_stats": domain_stats},
        batch.image,
        branch,
        train=True,
        mutable=["domain_stats"],
        rngs={"dropout": key},
    )
    probabilities = jax.nn.softmax(logits)
    dice = losses.branch_dice(probabilities, batch.mask, branch, num_branches, AXIS)
    loss = losses.dice_loss(share[:, None] * dice, config.foreground_only)
    if config.cross_entropy:
        added = losses.cross_entropy(
            logits, batch.mask, batch.valid, config.class_weights, config.hard_negatives, AXIS
        )
        loss += config.cross_entropy * ramp(step, config) * added
    return loss, (dice, updated["domain_stats"])


def ramp(step, config: MethodConfig):
    """The share of the cross-entropy that counts at a step: 0 at first, then linearly up to 1.

    Hard negatives before the first lesions are found teach the network to find nothing.
    """
    start = config.cross_entropy_from_step
    return jnp.clip((step - start) / start, 0, 1) if start else 1.0


def _predict(model, num_branches, variables: Any, image) -> Prediction:
    """All branches of all images in one batch of B * k rows."""
    batch = image.shape[0]
    rows = jnp.repeat(image, num_branches, axis=0)
    branch = jnp.tile(jnp.arange(num_branches, dtype=jnp.int32), batch)
    logits, out = model.apply(variables, rows, branch, train=False)

    def by_image(x):
        return x.reshape(batch, num_branches, *x.shape[1:])

    return Prediction(by_image(logits), jax.tree.map(by_image, out["moments"]))
