"""The state before the first step: random, or with the parameters of what is trained already."""

from functools import partial
from typing import Any

import jax
import numpy as np

from mln_flax.config import NETWORKS
from mln_flax.engine.build import Run
from mln_flax.engine.warm_start import Start, from_trained
from mln_flax.registry import kind_of
from mln_flax.types import Batch, UserError


def random_state(run: Run) -> Any:
    """A state of the run's form with parameters drawn from the run's seed."""
    return jax.jit(run.method.init)(jax.random.key(run.config.train.seed), empty_batch(run))


def initial_state(run: Run) -> Any:
    """The state before the first step, as the settings ask for it."""
    return start(run).state


def start(run: Run) -> Start:
    """The state before the first step: random, a PyTorch checkpoint's, or a trained model's.

    Raises:
      UserError: what it starts from cannot be read, or does not fit.
    """
    return _started(run, random_state(run))


def refuse_unfit_start(run: Run) -> None:
    """Raises UserError where a run cannot start from what its settings name."""
    if pretrained_path(run) or run.config.model.init_from:
        _started(run, jax.eval_shape(partial(random_state, run)))


def _started(run: Run, state: Any) -> Start:
    pytorch, trained = pretrained_path(run), run.config.model.init_from
    if pytorch and trained:
        raise UserError(
            f"--config.model.init_from={trained}: a run starts from one thing, and "
            f"model.pretrained={pytorch} is another; leave one of them empty"
        )
    if pytorch:
        params, lines = pretrained(run)
        return Start(state._replace(params=params), lines)
    return from_trained(run, state) if trained else Start(state)


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
