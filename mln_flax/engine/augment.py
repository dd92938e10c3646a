"""Augmentation on the device, at the head of a method's update."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from mln_flax.methods.optimize import device_key
from mln_flax.registry import Room, call_named, kinds
from mln_flax.types import Augmentation, Batch, UserError

AUGMENTATIONS = Room("mln_flax.views", "augmentation")
STREAM = 1  # folded into the step's key: other numbers than the network's own


def augmented(update: Callable[..., Any], names: Sequence[str], seed: int) -> Callable[..., Any]:
    """An update whose batches go through augmentations first, in their order.

    Args:
      update: (state, batch) -> (state, scalars); the state has a `step`.
      names: such as `jitter(0.5)`: files of `views/` that call an augmentation their `KIND`.
      seed: of the run; with the step and the device it decides all that is random.

    Raises:
      UserError: an unknown name, or arguments that do not fit.
    """
    augmentations = [named(name) for name in names]
    if not augmentations:
        return update

    def of_augmented(state: Any, batch: Batch) -> Any:
        key = jax.random.fold_in(device_key(seed, state.step), STREAM)
        image, mask = batch.image[..., 0], batch.mask
        for augmentation, subkey in zip(
            augmentations, jax.random.split(key, len(augmentations)), strict=True
        ):
            image, mask = augmentation(subkey, image, mask, batch.view)
        return update(state, batch._replace(image=image[..., None], mask=mask))

    return of_augmented


def named(text: str) -> Augmentation:
    """The augmentation that a text such as `jitter(0.5)` names; raises UserError."""
    try:
        return call_named(kinds(AUGMENTATIONS), text, AUGMENTATIONS.word)
    except UserError as error:
        raise UserError(f"--config.views.augment={text}: {error}") from None
