"""MLN-net of a U-Net of one stage, a branch for each view, with drawn parameters, fitted once."""

import functools

import jax
import numpy as np
import optax

from mln_flax import config
from mln_flax.data.images import from_arrays
from mln_flax.methods.core import Ingredients
from mln_flax.methods.mln import method
from mln_flax.methods.mln.settings import MlnSettings
from mln_flax.models import unet
from mln_flax.types import Batch

SIDE, CHUNK = 16, 4
VIEWS = ("identity", "bezier(0.3)", "invert")
IMAGE = np.random.default_rng(0).random((5, SIDE, SIDE)).astype(np.float32) ** 3
SHOWN = np.concatenate([IMAGE[:3], 1 - IMAGE[3:]])  # two of them inverted


def built(norm="sample", **settings):
    """The method; what is fitted of one holds for all that differ in how they answer."""
    network = functools.partial(unet.build, config.network("unet", widths=(3,), norm=norm))
    of_run = Ingredients(network, optax.sgd(0.1), VIEWS, SIDE, CHUNK, seed=0)
    return method.build(MlnSettings(**settings), of_run)


def first_state(mln):
    """A state whose branches differ."""
    image, mask = np.zeros((1, SIDE, SIDE, 1), np.float32), np.zeros((1, SIDE, SIDE), np.int32)
    number, is_it = np.zeros(1, np.int32), np.ones(1, bool)
    state = jax.jit(mln.init)(jax.random.key(0), Batch(image, mask, number, number, is_it, is_it))
    rng = np.random.default_rng(2)

    def moved(p):
        return (p + rng.normal(scale=0.7, size=p.shape)).astype(np.float32)

    return state._replace(params=jax.tree.map(moved, state.params))


def source():
    """Images with masks of their bright parts."""
    return from_arrays(IMAGE, (IMAGE > 0.6).astype(np.uint8))


@functools.cache
def fitted():
    """What is kept of it."""
    mln = built()
    return mln.fit(first_state(mln), source(), source())
