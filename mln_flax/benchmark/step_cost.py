"""The compiled train step of a run: what it is given, and what it costs."""

from typing import Any

import jax
import jax.numpy as jnp

from mln_flax import parallel
from mln_flax.benchmark import cost
from mln_flax.benchmark.cost import Cost
from mln_flax.engine import states
from mln_flax.engine.build import Run
from mln_flax.types import Batch


def shapes(run: Run) -> tuple[Any, Batch]:
    """The state, and a batch in all views, spread over all local devices; no numbers in them."""
    side = run.config.views.crop_side(run.config.data.size)
    devices, rows = jax.local_device_count(), run.config.train.batch_size * len(run.view_names)
    here = -(-rows // devices)

    def of(*shape: int, dtype: type = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((devices, here, *shape), dtype)

    state = jax.eval_shape(run.method.init, jax.random.key(0), states.empty_batch(run))
    batch = Batch(
        image=of(side, side, 1),
        mask=of(side, side, dtype=jnp.int32),
        view=of(dtype=jnp.int32),
        domain=of(dtype=jnp.int32),
        labeled=of(dtype=jnp.bool_),
        valid=of(dtype=jnp.bool_),
    )
    return state, batch


def compiled(run: Run) -> Cost:
    """The step on all local devices, compiled without any cache, and what is known of it."""
    return cost.compiled(parallel.parallel_update(run.method.update), *shapes(run))
