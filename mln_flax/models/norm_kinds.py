"""What normalization subtracts and divides by, where that is one number per sample and channel.

The remaining kind, "channel", has numbers for each position: `layer_norm.normalize`.
"""

from typing import Any

import jax
import jax.numpy as jnp

KINDS = ("channel", "sample", "instance", "batch")
FROM_STATISTICS = ("batch",)  # read the running statistics in evaluation
# A constant added to a channel of their input changes nothing, so a bias there would be trained
# by rounding noise, which Adam turns into full steps.
DROPS_BIAS = ("instance", "batch")


def of_sample(x: jax.Array, kind: str) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of every sample alone: float32 [B, C] each.

    Args:
      x: [B, ..., C].
      kind: "instance" takes them over the positions of a channel (Ulyanov et al., 2016), "sample"
        over all positions and channels together, so that a row holds one number C times.
    """
    x = x.astype(jnp.float32)
    axes = tuple(range(1, x.ndim - 1))
    mean = x.mean(axis=axes)
    variance = jnp.square(x - _aligned(mean, x.ndim)).mean(axis=axes)
    if kind == "instance":
        return mean, variance
    center = mean.mean(axis=-1, keepdims=True)
    # The variance of everything is that within the channels and that between them.
    spread = (variance + jnp.square(mean - center)).mean(axis=-1, keepdims=True)
    return jnp.broadcast_to(center, mean.shape), jnp.broadcast_to(spread, mean.shape)


def of_batch(
    x: jax.Array, branch: jax.Array, num_branches: int, axis_name: str | None
) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each sample's branch in the batch: float32 [B, C] each.

    They are taken per branch and channel over positions, samples and devices (Ioffe and Szegedy,
    2015, for each branch alone); the gradient passes through them.

    Args:
      x: [B, ..., C].
      branch: int32 [B]. A negative one is padding: it counts nowhere, and has its own mean and
        variance, for its branch may have no sample.
      num_branches: k.
      axis_name: the device axis, or None.
    """
    mean, variance = of_sample(x, "instance")
    members, row = jax.nn.one_hot(branch, num_branches), jnp.maximum(branch, 0)
    sums = members.sum(axis=0)[:, None], per_branch(members, mean)
    count, total = over_devices(sums, axis_name)
    count = jnp.maximum(count, 1)
    center = (total / count)[row]
    # About the common mean, in a second sum: E[x^2] - E[x]^2 loses digits where it is large.
    squares = per_branch(members, variance + jnp.square(mean - center))
    spread = (over_devices(squares, axis_name) / count)[row]
    real = (branch >= 0)[:, None]
    return jnp.where(real, center, mean), jnp.where(real, spread, variance)


def standardize(
    x: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
) -> jax.Array:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, in the type of x [B, ..., C].

    All others are [B, C], per sample.
    """
    factor = jax.lax.rsqrt(variance + epsilon) * scale
    mean, factor, bias = (_aligned(value, x.ndim) for value in (mean, factor, bias))
    return ((x.astype(jnp.float32) - mean) * factor + bias).astype(x.dtype)


def per_branch(members: jax.Array, values: jax.Array) -> jax.Array:
    """Sums of values [B, C] over the members [B, k] of each branch: [k, C]."""
    return jnp.einsum("bk,bc->kc", members, values, precision=jax.lax.Precision.HIGHEST)


def over_devices(sums: Any, axis_name: str | None) -> Any:
    """The sums of all devices together."""
    return jax.lax.psum(sums, axis_name) if axis_name else sums


def _aligned(values: jax.Array, ndim: int) -> jax.Array:
    """[B, C] -> [B, 1, ..., 1, C]."""
    return values.reshape(values.shape[0], *(1,) * (ndim - 2), values.shape[1])
