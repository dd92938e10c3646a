"""Losses of segmentation: sums first over pixels, samples and devices, ratios last."""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from mln_flax.config import not_negative, share
from mln_flax.types import AXIS, UserError

SMOOTH = 1e-5


@dataclass(frozen=True)
class LossSettings:
    """Dice and cross-entropy, for every method that is trained by masks."""

    foreground_only: bool = False  # Dice of the calcifications alone
    cross_entropy: Annotated[float, not_negative] = 0.0  # weight of an added cross-entropy
    # It is nothing up to this step, and whole from twice this step on.
    cross_entropy_from_step: Annotated[int, not_negative] = 0
    class_weights: tuple[float, ...] = ()  # of the cross-entropy: background, calcification
    # Share of the background pixels, hardest first, that the cross-entropy counts.
    hard_negatives: Annotated[float, share] = 1.0
    # Side in pixels of a square; above 0 a labeled pixel weighs the less the more are labeled in
    # the square around it, so that a small calcification counts as much as a large one.
    object_px: Annotated[int, not_negative] = 0

    def check(self) -> None:
        """Raises UserError for weights that are not one for each class."""
        weights = self.class_weights
        if weights and (len(weights) != 2 or not all(weight > 0 for weight in weights)):
            raise UserError(
                f"--config.method.class_weights={weights}: allowed are none, or one above 0 for "
                "each of 2 classes"
            )


def segmentation_loss(
    settings: LossSettings,
    step: Any,
    logits: jax.Array,
    mask: jax.Array,
    group: jax.Array,
    num_groups: int,
    shares: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The loss of some rows over all devices, with the soft Dice [groups, classes] of each group.

    Args:
      settings: which terms count, and how much.
      step: of the optimizer.
      logits: [B, H, W, classes].
      mask: int [B, H, W].
      group: int [B], such as the branch, in whose Dice a row counts; negative: in none.
      num_groups: how many there are; the Dice loss is their sum, in [-groups, 0].
      shares: weight of each group's Dice, [groups]; None weighs all with 1.
    """
    weight = object_weight(mask, settings.object_px) if settings.object_px else None
    dice = group_dice(jax.nn.softmax(logits), mask, group, num_groups, AXIS, weight)
    loss = dice_loss(dice if shares is None else shares[:, None] * dice, settings.foreground_only)
    if settings.cross_entropy:
        added = cross_entropy(
            logits,
            mask,
            group >= 0,
            settings.class_weights,
            settings.hard_negatives,
            AXIS,
            weight,
        )
        loss += settings.cross_entropy * ramp(step, settings.cross_entropy_from_step) * added
    return loss, dice


def ramp(step: Any, start: int) -> Any:
    """The share of a loss that counts at a step: 0 up to `start`, 1 from 2 `start` on.

    Between them it grows linearly. Hard negatives that count before the first lesions are found
    teach the network to find nothing.
    """
    return jnp.clip((step - start) / start, 0, 1) if start else 1.0


def object_weight(mask: jax.Array, side: int) -> jax.Array:
    """The weight of each pixel, float32 [B, H, W]: 1 in the background, a mean of 1 in labels.

    A labeled pixel weighs inversely to how many are labeled in the square of `side` pixels around
    it: where that holds one calcification, all of its pixels together weigh the same whatever its
    area (as in the loss for each lesion of Kofler et al. 2023, without connected components).
    """
    labeled = (mask > 0).astype(jnp.float32)
    near = labeled
    for window in ((1, side, 1), (1, 1, side)):
        near = jax.lax.reduce_window(near, 0.0, jax.lax.add, window, (1, 1, 1), "SAME")
    each = labeled / jnp.maximum(near, 1)
    total, count = (x.sum(axis=(1, 2), keepdims=True) for x in (each, labeled))
    return jnp.where(labeled > 0, each * count / jnp.maximum(total, SMOOTH), 1.0)


def group_dice(
    probabilities: jax.Array,
    mask: jax.Array,
    group: jax.Array,
    num_groups: int,
    axis_name: str | None = None,
    weight: jax.Array | None = None,
) -> jax.Array:
    """Soft Dice of each class in each group over the whole batch: [groups, classes] (Eq. 14).

    Args:
      probabilities: softmax, [B, H, W, classes].
      mask: int [B, H, W], the true class of each pixel.
      group: int [B], such as the branch; a negative one counts nowhere.
      num_groups: how many there are.
      axis_name: the device axis; numerators and denominators are summed over it, since a mean
        of Dice values per device would be another loss.
      weight: of each pixel, [B, H, W]; None weighs all with 1.
    """
    truth = jax.nn.one_hot(mask, probabilities.shape[-1])
    both, either = probabilities * truth, probabilities + truth
    if weight is not None:
        both, either = (weight[..., None] * x for x in (both, either))
    overlap, size = (x.sum(axis=(1, 2)) for x in (both, either))
    members = jax.nn.one_hot(group, num_groups).T
    sums = (
        jnp.matmul(members, overlap, precision=jax.lax.Precision.HIGHEST),
        jnp.matmul(members, size, precision=jax.lax.Precision.HIGHEST),
    )
    overlap, size = jax.lax.psum(sums, axis_name) if axis_name else sums
    return (2 * overlap + SMOOTH) / (size + SMOOTH)


def dice_loss(dice: jax.Array, foreground_only: bool = False) -> jax.Array:
    """The sum over groups of minus the mean Dice of the classes (Eq. 14-15), in [-groups, 0]."""
    return -(dice[:, 1:] if foreground_only else dice).mean(axis=-1).sum()


def cross_entropy(
    logits: jax.Array,
    mask: jax.Array,
    valid: jax.Array,
    class_weights: tuple[float, ...] = (),
    hard_negatives: float = 1.0,
    axis_name: str | None = None,
    pixel_weight: jax.Array | None = None,
) -> jax.Array:
    """The mean cross-entropy over pixels: a scalar.

    Args:
      logits: [B, H, W, classes].
      mask: int [B, H, W].
      valid: bool [B]; rows that are False count nowhere.
      class_weights: one per class; () weighs all alike.
      hard_negatives: share of each image's background pixels that count, the worst first.
      axis_name: the device axis over which numerator and denominator are summed.
      pixel_weight: of each pixel, [B, H, W]; None weighs all with 1.
    """
    truth = jax.nn.one_hot(mask, logits.shape[-1])
    loss = -(truth * jax.nn.log_softmax(logits)).sum(axis=-1)
    weight = jnp.asarray(class_weights)[mask] if class_weights else 1.0
    weight = weight * jnp.broadcast_to(valid[:, None, None], loss.shape)
    if pixel_weight is not None:
        weight = weight * pixel_weight
    if hard_negatives < 1:
        kept = jnp.round(hard_negatives * (mask == 0).sum(axis=(1, 2))).astype(jnp.int32)
        worst = _largest(jnp.where(mask == 0, jax.lax.stop_gradient(loss), -1.0), kept)
        weight = weight * ((mask > 0) | (loss >= worst[:, None, None]))
    sums = ((loss * weight).sum(), weight.sum())
    total, count = jax.lax.psum(sums, axis_name) if axis_name else sums
    return total / jnp.maximum(count, SMOOTH)


def _largest(values: jax.Array, rank: jax.Array) -> jax.Array:
    """The value of that rank, 1 for the largest, of each image [B, H, W], if it is 0 or more: [B].

    Floats from 0 on are ordered as their bits are, so the answer is found bit by bit, in 31 counts.
    To sort an image takes as long as half a small network.
    """
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)

    def with_bit(place, found):
        tried = found | jnp.left_shift(jnp.int32(1), 30 - place)
        enough = (bits >= tried[:, None, None]).sum(axis=(1, 2)) >= jnp.maximum(rank, 1)
        return jnp.where(enough, tried, found)

    found = jax.lax.fori_loop(0, 31, with_bit, jnp.zeros(len(values), jnp.int32))
    return jax.lax.bitcast_convert_type(found, jnp.float32)
