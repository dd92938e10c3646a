"""Moments of a norm's input, and how they reach the network past the blocks between (Eq. 16-17).

A norm reports its moments, and a network returns what was reported while it ran:

    with moments.collected() as norm_moments:
        logits = ...
    return logits, {"moments": norm_moments}

Whatever traces norms apart from the network around them, as `recompute` does, collects for itself
and reports what came out: values of one trace must not be used in another.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp

from mln_flax.types import Moments

STATISTICS = ("channel", "layer")

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


def input_moments(x: jax.Array, statistics: str) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of x [B, ..., C] over positions: [B, C] each, or [B, 1].

    The gradient does not pass: moments describe the input, they are not trained.
    """
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    axes = tuple(range(1, x.ndim if statistics == "layer" else x.ndim - 1))
    mean = x.mean(axis=axes)
    # The two-pass form: E[x^2] - E[x]^2 loses all digits where the mean is large.
    aligned = mean.reshape(mean.shape[:1] + (1,) * len(axes) + mean.shape[1:])
    std = jnp.sqrt(jnp.square(x - aligned).mean(axis=axes))
    return (mean[:, None], std[:, None]) if statistics == "layer" else (mean, std)


def expanded_moments(
    x: jax.Array, expand: jax.Array, statistics: str
) -> tuple[jax.Array, jax.Array]:
    """`input_moments` of x @ expand, from the mean and covariance of x: no wide array.

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
    if statistics == "layer":
        between = mean.var(axis=-1, keepdims=True)
        mean, variance = (v.mean(axis=-1, keepdims=True) for v in (mean, variance))
        variance += between
    return mean, jnp.sqrt(jnp.maximum(variance, 0))
