"""Noise on the channel statistics of shallow features, in training: style that nobody drew."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mln_flax.models import moments

STAGES = 2  # the first ones of a network, behind each of which features are perturbed
SHARE = 0.5  # of the images, drawn anew at each place


class Perturbation(nn.Module):
    """Normalization perturbation (Fan et al., 2022, "Towards robust object detection invariant to
    real-world domain shifts"): an image's channels get other means and deviations.

    Attributes:
      spread: standard deviation of the factors about 1; 0 leaves everything as it is.
    """

    spread: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, ..., C] -> the same shape and type; itself unless `train`.

        Needs the random stream "dropout" where it does something.
        """
        if not train or not self.spread:
            return x
        return perturbed(x, self.make_rng("dropout"), self.spread)


def perturbed(x: jax.Array, key: jax.Array, spread: float) -> jax.Array:
    """Images as a (x - mean) + b mean, with the mean over positions and drawn a, b: [B, C] each.

    a and b are normal about 1 with the deviation `spread`, for SHARE of the images; both are 1 for
    the others. So a channel's deviation becomes |a| times what it was, its mean b times.
    """
    mean, _ = moments.of_positions(x)
    of_image, of_factors = jax.random.split(key)
    chosen = jax.random.bernoulli(of_image, SHARE, (mean.shape[0], 1))
    noise = spread * jax.random.normal(of_factors, (2, *mean.shape))
    a, b = 1 + jnp.where(chosen[None], noise, 0)
    shift = (b - a) * mean
    y = x.astype(jnp.float32) * moments.aligned(a, x.ndim) + moments.aligned(shift, x.ndim)
    return y.astype(x.dtype)
