"""Views and geometry on the device: the host sends each image once, the step makes its rows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from mln_flax.engine.input_pipeline import Originals, Plan, crop_of
from mln_flax.types import Batch
from mln_flax.views import geometry


def of_originals(update: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
    """An update of `Originals`: their rows, cut and shown in all views, go through `update`.

    Args:
      update: (state, batch) -> (state, scalars).
      plan: how rows are made of images.
    """
    return lambda state, originals: update(state, rows(originals, plan))


def rows(originals: Originals, plan: Plan) -> Batch:
    """The rows of a device's images, in the order in which the host makes them.

    What is drawn at random came with the images, so the rows are those that the host would make,
    whatever devices there are. Grays differ by the rounding of places between pixels.
    """
    shape, count = originals.image.shape[1:], len(plan.views)
    crop = crop_of(shape, plan)
    cut = partial(geometry.warp_jax, window=(crop, crop) if crop else shape)
    image, mask = jax.vmap(cut)(originals.image, originals.mask, originals.place)
    shown = jnp.stack([view.jax(image) for view in plan.views], axis=1)
    of_image = partial(jnp.repeat, repeats=count, axis=0)
    return Batch(
        image=shown.reshape(-1, *image.shape[1:], 1),
        mask=of_image(mask.astype(jnp.int32)),
        view=jnp.tile(jnp.arange(count, dtype=jnp.int32), len(image)),
        domain=of_image(originals.domain),
        labeled=of_image(originals.labeled),
        valid=of_image(originals.valid),
    )
