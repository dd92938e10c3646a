"""The state before the first step: random, or with the parameters of a PyTorch checkpoint."""

from typing import Any

import jax
import numpy as np

from mln_flax.config import NETWORKS
from mln_flax.engine.build import Run
from mln_flax.registry import kind_of
from mln_flax.types import Batch


def random_state(run: Run) -> Any:
    """A state of the run's form with parameters drawn from the run's seed."""
    return jax.jit(run.method.init)(jax.random.key(run.config.train.seed), empty_batch(run))


def initial_state(run: Run) -> Any:
    """The state before the first step: random, or with a PyTorch checkpoint's parameters."""
    state = random_state(run)
    if pretrained_path(run):
        params, report = pretrained(run)
        print(report)
        state = state._replace(params=params)
    return state


def pretrained_path(run: Run) -> str:
    """The PyTorch checkpoint that a run starts from, or nothing."""
    return getattr(run.config.model, "pretrained", "")


def pretrained(run: Run) -> tuple[Any, str]:
    """A PyTorch checkpoint's parameters, and lines that say what became of each of them.

    Raises:
      UserError: the file cannot be read, or does not fit the network.
    """
    read = kind_of(NETWORKS, run.config.model.name).read_pretrained
    return read(pretrained_path(run), run.model, empty_batch(run).image.shape)


def empty_batch(run: Run) -> Batch:
    """One black row of the size that a step sees: what a state is made for."""
    side = run.config.views.crop_side(run.config.data.size)
    return Batch(
        image=np.zeros((1, side, side, 1), np.float32),
        mask=np.zeros((1, side, side), np.int32),
        view=np.zeros(1, np.int32),
        domain=np.zeros(1, np.int32),
        labeled=np.ones(1, bool),
        valid=np.ones(1, bool),
    )
