"""Attention in windows: against the plain formula and its autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mln_flax.models import attention


@pytest.mark.parametrize("size", [(4, 4), (2, 2), (2, 4), (3, 1)])
def test_bias_of_full_and_smaller_windows_by_its_definition(size):
    table = np.random.default_rng(0).normal(size=(49, 3)).astype(np.float32)
    bias = attention.relative_position_bias(jnp.asarray(table), size, 4)
    tokens = [(i, j) for i in range(size[0]) for j in range(size[1])]
    assert bias.shape == (3, len(tokens), len(tokens))
    for p, (i, j) in enumerate(tokens):
        for q, (m, n) in enumerate(tokens):
            np.testing.assert_array_equal(bias[:, p, q], table[(i - m + 3) * 7 + j - n + 3])


def plain(qkv, bias, mask, heads):
    """Softmax(q k^T / sqrt(d) + bias + mask) v, one head after the other."""
    parts = jnp.split(qkv, 3, axis=-1)
    outs = []
    for h, (q, k, v) in enumerate(zip(*(jnp.split(x, heads, axis=-1) for x in parts), strict=True)):
        logits = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]) + bias[h][None, None]
        outs.append(jax.nn.softmax(logits + (0 if mask is None else mask[None])) @ v)
    return jnp.concatenate(outs, axis=-1)


def inputs(masked):
    random = np.random.default_rng(1)
    qkv = random.normal(size=(2, 3, 5, 24)).astype(np.float32)
    bias = random.normal(size=(4, 5, 5)).astype(np.float32)
    mask = np.where(random.random((3, 5, 5)) < 0.3, -100, 0) * (1 - np.eye(5))
    weight = random.normal(size=(2, 3, 5, 8)).astype(np.float32)
    return jnp.asarray(qkv), jnp.asarray(bias), mask.astype(np.float32) if masked else None, weight


@pytest.mark.parametrize("masked", [True, False])
def test_attend_is_the_plain_formula(masked):
    qkv, bias, mask, _ = inputs(masked)
    ours = attention.attend(qkv, bias, attention.frozen(mask), 4)
    np.testing.assert_allclose(ours, plain(qkv, bias, mask, 4), atol=1e-6)


@pytest.mark.parametrize("masked", [True, False])
def test_attend_has_the_gradients_of_the_plain_formula(masked):
    qkv, bias, mask, weight = inputs(masked)
    ours = jax.grad(
        lambda *a: (attention.attend(*a, attention.frozen(mask), 4) * weight).sum(), (0, 1)
    )(qkv, bias)
    wanted = jax.grad(lambda *a: (plain(*a, mask, 4) * weight).sum(), (0, 1))(qkv, bias)
    for one, other in zip(ours, wanted, strict=True):
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_large_logits_stay_finite():
    qkv, bias, _, _ = inputs(False)
    out = attention.attend(100 * qkv, bias, None, 4)
    np.testing.assert_allclose(out, plain(100 * qkv, bias, None, 4), rtol=1e-4, atol=1e-4)


def test_bfloat16_stays_bfloat16_in_both_directions():
    qkv, bias, mask, weight = inputs(True)
    half = qkv.astype(jnp.bfloat16)
    out = attention.attend(half, bias, attention.frozen(mask), 4)
    gradient = jax.grad(
        lambda *a: (attention.attend(*a, attention.frozen(mask), 4) * weight).sum(), (0, 1)
    )(half, bias)
    assert out.dtype == gradient[0].dtype == jnp.bfloat16 and gradient[1].dtype == jnp.float32
    np.testing.assert_allclose(out.astype(np.float32), plain(qkv, bias, mask, 4), atol=0.05)
