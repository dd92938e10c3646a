"""The schedule, and the optimizers against their formulas."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mln_flax.config import OptimConfig
from mln_flax.engine import optim
from mln_flax.types import UserError

CONFIG = OptimConfig(learning_rate=0.1, warmup_steps=4, weight_decay=0.2, b1=0.8, b2=0.9)
STEPS = 20


def rate_by_hand(step, peak=0.1, warmup=4, steps=STEPS):
    if step < warmup:
        return peak * step / warmup
    return peak * (1 + np.cos(np.pi * min(1, (step - warmup) / (steps - warmup)))) / 2


def test_schedule_warms_up_and_falls_as_a_cosine_to_zero():
    rate = optim.schedule(CONFIG, STEPS)
    for step in range(STEPS + 3):
        assert rate(step) == pytest.approx(rate_by_hand(step), abs=1e-8)


@pytest.mark.parametrize("steps", [1, 2, 3, 9])
def test_a_short_run_shortens_the_warm_up(steps):
    rate = optim.schedule(dataclasses.replace(CONFIG, warmup_steps=50), steps)
    values = np.array([rate(step) for step in range(steps + 1)])
    assert np.isfinite(values).all()
    assert values.max() == pytest.approx(0.1)
    assert np.argmax(values) <= max(steps // 2, 1)


def test_without_warm_up_the_first_rate_is_the_highest():
    rate = optim.schedule(dataclasses.replace(CONFIG, warmup_steps=0), STEPS)
    assert rate(0) == pytest.approx(0.1)
    assert rate(1) < rate(0)


def adam_by_hand(parameter, gradients, coupled, clip=np.inf):
    """PyTorch's Adam (decay in the gradient) or AdamW (decay beside it)."""
    m = v = np.zeros_like(parameter)
    for step, gradient in enumerate(gradients):
        gradient = gradient * min(1, clip / np.linalg.norm(gradient))
        if coupled:
            gradient = gradient + CONFIG.weight_decay * parameter
        m = CONFIG.b1 * m + (1 - CONFIG.b1) * gradient
        v = CONFIG.b2 * v + (1 - CONFIG.b2) * gradient**2
        m_hat, v_hat = m / (1 - CONFIG.b1 ** (step + 1)), v / (1 - CONFIG.b2 ** (step + 1))
        update = m_hat / (np.sqrt(v_hat) + 1e-8)
        if not coupled:
            update = update + CONFIG.weight_decay * parameter
        parameter = parameter - rate_by_hand(step) * update
    return parameter


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_optimizer(name, clip_norm):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=3), rng.normal(size=(6, 3))
    config = dataclasses.replace(CONFIG, name=name, clip_norm=clip_norm)
    optimizer = optim.optimizer(config, STEPS)
    parameter = start.astype(np.float32)
    state = optimizer.init(parameter)
    for gradient in gradients.astype(np.float32):
        updates, state = optimizer.update(gradient, state, parameter)
        parameter = optax.apply_updates(parameter, updates)
    expected = adam_by_hand(start, gradients, name == "adam", clip_norm or np.inf)
    np.testing.assert_allclose(parameter, expected, rtol=2e-5)


def test_an_unknown_name_gives_the_nearest():
    with pytest.raises(UserError, match="unknown optimizer 'adamm' .did you mean 'adamw?'"):
        optim.optimizer(dataclasses.replace(CONFIG, name="adamm"), STEPS)


def some_steps(config, params, gradients, compiled):
    """The parameters behind some steps, and the optimizer's state."""
    optimizer = optim.optimizer(config, STEPS)

    def step(state, params, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return state, optax.apply_updates(params, updates)

    with contextlib.nullcontext() if compiled else jax.disable_jit():
        state, compiled_step = optimizer.init(params), jax.jit(step)
        for gradient in gradients:
            state, params = compiled_step(state, params, gradient)
    return params, state


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
@pytest.mark.parametrize("compiled", [False, True])
def test_one_vector_of_all_arrays_gives_the_same_numbers(name, clip_norm, compiled):
    """Operation by operation to the last bit, but for the order in which a norm is summed.

    Compiled, some products and sums are joined and rounded once, in either form where it suits.
    """
    rng = np.random.default_rng(1)
    shapes = {"a": (3, 5), "b": (7,), "c": {"d": (), "e": (2, 3, 4)}}

    def drawn():
        return jax.tree.map(
            lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
            shapes,
            is_leaf=lambda node: isinstance(node, tuple),
        )

    params, gradients = drawn(), [drawn() for _ in range(4)]
    config = dataclasses.replace(CONFIG, name=name, clip_norm=clip_norm)
    by_array, of_arrays = some_steps(config, params, gradients, compiled)
    flat = dataclasses.replace(config, flat=True)
    as_vector, of_vector = some_steps(flat, params, gradients, compiled)
    tolerance = 1e-6 if clip_norm or compiled else 0.0
    for a, b in zip(jax.tree.leaves(by_array), jax.tree.leaves(as_vector), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    numbers = sum(x.size for x in jax.tree.leaves(params))
    assert max(x.size for x in jax.tree.leaves(of_arrays)) < numbers
    assert max(x.shape for x in jax.tree.leaves(of_vector)) == (numbers,)
