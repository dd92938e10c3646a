"""Moments of a norm's input, and how they reach the network past the blocks between (Eq. 16-17).

A norm reports its moments, and a network returns what was reported while it ran:

    with moments.collected() as norm_moments:
        logits = ...
    return logits, {"moments": norm_moments}

Whatever traces norms apart from the network around them, as `recompute` does, collects for itself
and reports what came out: values of one trace must not be used in another.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp

from mln_flax.types import Moments

STATISTICS = ("channel", "layer")
MANY_CHANNELS, ROWS = 16, 8  # from which on so many rows are added up first

# What the innermost `collected` of this thread has gathered; None where nobody asks.
_collection: ContextVar[Moments | None] = ContextVar("moments", default=None)


@contextmanager
def collected() -> Iterator[Moments]:
    """The moments of the norms that run within, by their paths, in the order in which they run.

    A norm that runs twice leaves its last moments. Norms within another `collected` inside this
    one report to that one alone, and those of other threads to none.
    """
    collection: Moments = {}
    token = _collection.set(collection)
    try:
        yield collection
    finally:
        _collection.reset(token)


def report(path: tuple[str, ...], mean: jax.Array, std: jax.Array) -> None:
    """Hands the moments of the norm at `path`, [B, C] each, to whoever collects them, if any."""
    collection = _collection.get()
    if collection is not None:
        collection["/".join(path)] = mean, std


@jax.custom_vjp
def of_positions(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each sample and channel of x [B, ..., C]: float32 [B, C] each.

    Two passes: E[x^2] - E[x]^2 loses all digits where the mean is large. The gradient is written
    out, for it is a line through x: (d_mean + 2 (x - mean) d_variance) / positions.
    """
    x = x.astype(jnp.float32)
    axes = tuple(range(1, x.ndim - 1))
    mean = x.mean(axis=axes)
    return mean, jnp.square(x - aligned(mean, x.ndim)).mean(axis=axes)


def _of_positions_forward(x):
    mean, variance = of_positions(x)
    return (mean, variance), (x, mean)


def _of_positions_backward(saved, gradients):
    x, mean = saved
    positions = math.prod(x.shape[1:-1])
    d_mean, d_variance = (aligned(gradient / positions, x.ndim) for gradient in gradients)
    centered = x.astype(jnp.float32) - aligned(mean, x.ndim)
    return ((d_mean + 2 * d_variance * centered).astype(x.dtype),)


of_positions.defvjp(_of_positions_forward, _of_positions_backward)


def position_sums(*arrays: jax.Array) -> list[jax.Array]:
    """The sums over positions of float32 arrays [B, ..., C], in one pass over all: [B, C] each."""
    batch, *positions, channels = arrays[0].shape
    axes = tuple(range(1, 1 + len(positions)))
    if channels >= MANY_CHANNELS and len(positions) == 2:
        # XLA for CPUs adds up rows of pixels, as long vectors, faster.
        height, width = positions
        rows = math.gcd(height, ROWS)
        shape = (batch, height // rows, rows, width * channels)
        arrays, axes = tuple(x.reshape(shape) for x in arrays), (2,)
    zeros = tuple(jnp.float32(0) for _ in arrays)
    sums = jax.lax.reduce(arrays, zeros, lambda a, b: tuple(map(jnp.add, a, b)), axes)
    return [total.reshape(batch, -1, channels).sum(axis=1) for total in sums]


def aligned(values: jax.Array, ndim: int) -> jax.Array:
    """[B, C] -> [B, 1, ..., 1, C]."""
    return values.reshape(values.shape[0], *(1,) * (ndim - 2), values.shape[1])


def reported(mean: jax.Array, variance: jax.Array, statistics: str) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation [B, C], or those of all channels together, [B, 1].

    The gradient does not pass: moments describe the input, they are not trained.
    """
    mean, variance = jax.lax.stop_gradient((mean, variance))
    if statistics == "layer":
        mean, variance = of_channels(mean, variance)
    return mean, jnp.sqrt(variance)


def of_channels(mean: jax.Array, variance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of everything in a sample, [B, 1], from those [B, C] of its channels."""
    center = mean.mean(axis=-1, keepdims=True)
    # The variance of everything is that within the channels and that between them.
    return center, (variance + jnp.square(mean - center)).mean(axis=-1, keepdims=True)


def expanded_moments(
    x: jax.Array, expand: jax.Array, statistics: str
) -> tuple[jax.Array, jax.Array]:
    """What is `reported` of x @ expand, from the mean and covariance of x: no wide array.

    x is [B, H, W, C], expand [C, pixels, D]; positions are H, W and pixels.
    """
    x, expand = jax.lax.stop_gradient((x.astype(jnp.float32), expand))
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    center = x.mean(axis=1)
    deviation = x - center[:, None]
    product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    covariance = product("btc,bte->bce", deviation, deviation) / x.shape[1]
    pixel_mean = product("bc,cpd->bpd", center, expand)
    within = product("cpd,bce,epd->bd", expand, covariance, expand) / expand.shape[1]
    mean, variance = pixel_mean.mean(axis=1), within + pixel_mean.var(axis=1)
    return reported(mean, jnp.maximum(variance, 0), statistics)
