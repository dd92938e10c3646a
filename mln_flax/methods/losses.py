"""Losses of the branches: sums first over pixels, samples and devices, ratios last."""

import jax
import jax.numpy as jnp

SMOOTH = 1e-5


def branch_dice(
    probabilities: jax.Array,
    mask: jax.Array,
    branch: jax.Array,
    num_branches: int,
    axis_name: str | None = None,
) -> jax.Array:
    """Soft Dice of each class in each branch over the whole batch: [k, classes] (Eq. 14).

    Args:
      probabilities: softmax, [B, H, W, classes].
      mask: int [B, H, W], the true class of each pixel.
      branch: int [B]; a negative one marks padding, which counts nowhere.
      num_branches: k.
      axis_name: the device axis; numerators and denominators are summed over it, since a mean
        of Dice values per device would be another loss.
    """
    truth = jax.nn.one_hot(mask, probabilities.shape[-1])
    overlap = (probabilities * truth).sum(axis=(1, 2))
    size = (probabilities + truth).sum(axis=(1, 2))
    members = jax.nn.one_hot(branch, num_branches).T
    sums = (
        jnp.matmul(members, overlap, precision=jax.lax.Precision.HIGHEST),
        jnp.matmul(members, size, precision=jax.lax.Precision.HIGHEST),
    )
    overlap, size = jax.lax.psum(sums, axis_name) if axis_name else sums
    return (2 * overlap + SMOOTH) / (size + SMOOTH)


def dice_loss(dice: jax.Array, foreground_only: bool = False) -> jax.Array:
    """The sum over branches of minus the mean Dice of the classes (Eq. 14-15), in [-k, 0]."""
    return -(dice[:, 1:] if foreground_only else dice).mean(axis=-1).sum()


def cross_entropy(
    logits: jax.Array,
    mask: jax.Array,
    valid: jax.Array,
    class_weights: tuple[float, ...] = (),
    hard_negatives: float = 1.0,
    axis_name: str | None = None,
) -> jax.Array:
    """The mean cross-entropy over pixels: a scalar.

    Args:
      logits: [B, H, W, classes].
      mask: int [B, H, W].
      valid: bool [B]; rows that are False count nowhere.
      class_weights: one per class; () weighs all alike.
      hard_negatives: share of each image's background pixels that count, the worst first.
      axis_name: the device axis over which numerator and denominator are summed.
    """
    truth = jax.nn.one_hot(mask, logits.shape[-1])
    loss = -(truth * jax.nn.log_softmax(logits)).sum(axis=-1)
    weight = jnp.asarray(class_weights)[mask] if class_weights else 1.0
    weight = weight * jnp.broadcast_to(valid[:, None, None], loss.shape)
    if hard_negatives < 1:
        of_background = jnp.where(mask == 0, jax.lax.stop_gradient(loss), -jnp.inf)
        ordered = jnp.sort(of_background.reshape(loss.shape[0], -1), axis=-1, descending=True)
        kept = jnp.round(hard_negatives * (mask == 0).sum(axis=(1, 2))).astype(jnp.int32)
        worst = jnp.take_along_axis(ordered, jnp.maximum(kept - 1, 0)[:, None], axis=-1)
        weight = weight * ((mask > 0) | (loss >= worst[:, :, None]))
    sums = ((loss * weight).sum(), weight.sum())
    total, count = jax.lax.psum(sums, axis_name) if axis_name else sums
    return total / jnp.maximum(count, SMOOTH)
