"""One step of the optimizer, for every method that has one network and one optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mln_flax.methods.core import TrainState
from mln_flax.types import AXIS


def first_state(variables: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, of a network's fresh variables."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        domain_stats=variables["domain_stats"],
        opt_state=optimizer.init(variables["params"]),
    )


def descend(
    optimizer: optax.GradientTransformation, state: TrainState, gradients: Any, domain_stats: Any
) -> TrainState:
    """The state behind a step.

    `gradients` are this device's, of a loss that holds sums over all devices: the transpose of
    such a sum adds the devices' cotangents up, and the mean undoes that while it adds their shares.
    """
    if jax.lax.axis_size(AXIS) > 1:  # alone, XLA would copy every gradient
        gradients = jax.lax.pmean(gradients, AXIS)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, domain_stats, opt_state)


def device_key(seed: int, step: Any) -> jax.Array:
    """The random key of this device at a step."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.random.fold_in(key, jax.lax.axis_index(AXIS))
