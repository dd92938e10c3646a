"""What normalization subtracts and divides by, where that is one number per sample and channel.

The remaining kind, "channel", has numbers for each position: `layer_norm.normalize`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from mln_flax.models import moments

KINDS = ("channel", "sample", "instance", "batch")
FROM_STATISTICS = ("batch",)  # read the running statistics in evaluation
# A constant added to a channel of their input changes nothing, so a bias there would be trained
# by rounding noise, which Adam turns into full steps.
DROPS_BIAS = ("instance", "batch")


def of_sample(mean: jax.Array, variance: jax.Array, kind: str) -> tuple[jax.Array, jax.Array]:
    """Mean and variance by which every sample is normalized alone: float32 [B, C] each.

    Args:
      mean: [B, C] of each channel over its positions.
      variance: [B, C].
      kind: "instance" takes just them (Ulyanov et al., 2016), "sample" those over all positions
        and channels together, so that a row holds one number C times.
    """
    if kind == "instance":
        return mean, variance
    center, spread = moments.of_channels(mean, variance)
    return jnp.broadcast_to(center, mean.shape), jnp.broadcast_to(spread, mean.shape)


def of_batch(
    mean: jax.Array,
    variance: jax.Array,
    branch: jax.Array,
    num_branches: int,
    axis_name: str | None,
) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each sample's branch in the batch: float32 [B, C] each.

    They are taken per branch and channel over positions, samples and devices (Ioffe and Szegedy,
    2015, for each branch alone); the gradient passes through them.

    Args:
      mean: [B, C] of each sample's channels over positions.
      variance: [B, C].
      branch: int32 [B]. A negative one is padding: it counts nowhere, and has its own mean and
        variance, for its branch may have no sample.
      num_branches: k.
      axis_name: the device axis, or None.
    """
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
    relu: bool = False,
) -> jax.Array:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, in the type of x [B, ..., C].

    All others are [B, C], per sample. With `relu` what is below 0 becomes 0, in the same pass.
    """
    return _scaled(x, mean, jax.lax.rsqrt(variance + epsilon) * scale, bias, relu)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _scaled(x, mean, factor, bias, relu):
    """(x - mean) * factor + bias; backward in two passes over x and the gradient, by hand."""
    y = _centered(x, mean) * moments.aligned(factor, x.ndim) + moments.aligned(bias, x.ndim)
    return (jnp.maximum(y, 0) if relu else y).astype(x.dtype)


def _centered(x, mean):
    return x.astype(jnp.float32) - moments.aligned(mean, x.ndim)


def _scaled_forward(x, mean, factor, bias, relu):
    return _scaled(x, mean, factor, bias, relu), (x, mean, factor, bias)


def _scaled_backward(relu, saved, gradient):
    x, mean, factor, bias = saved
    centered, gradient = _centered(x, mean), gradient.astype(jnp.float32)
    by_channel = moments.aligned(factor, x.ndim)
    if relu:
        y = centered * by_channel + moments.aligned(bias, x.ndim)
        gradient = jnp.where(y > 0, gradient, 0)
    d_bias, d_factor = moments.position_sums(gradient, gradient * centered)
    return (gradient * by_channel).astype(x.dtype), -d_bias * factor, d_factor, d_bias


_scaled.defvjp(_scaled_forward, _scaled_backward)


def per_branch(members: jax.Array, values: jax.Array) -> jax.Array:
    """Sums of values [B, C] over the members [B, k] of each branch: [k, C]."""
    return jnp.einsum("bk,bc->kc", members, values, precision=jax.lax.Precision.HIGHEST)


def over_devices(sums: Any, axis_name: str | None) -> Any:
    """The sums of all devices together."""
    return jax.lax.psum(sums, axis_name) if axis_name else sums
