"""A trained model, as its method kept it."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mln_flax.engine import packed, stored
from mln_flax.engine.build import Run
from mln_flax.engine.states import random_state
from mln_flax.types import UserError


def load_model(run: Run, workdir: Path) -> Any:
    """What the run's method kept of its training, as it lies in a workdir or packed.

    Raises:
      UserError: there is none yet, or one of another form.
    """
    tree = stored.tree_of(workdir)
    state = jax.eval_shape(partial(random_state, run))
    try:
        fitted = run.kind.from_tree(tree)
        if hasattr(state, "params") and _shapes(tree.get("params")) != _shapes(state.params):
            raise KeyError("params")  # of another network
        return fitted
    except (KeyError, TypeError):
        if packed.is_packed(workdir):
            raise UserError(
                f"{workdir}: packed by another version, whose method kept other things"
            ) from None
        raise UserError(
            f"--workdir={workdir}: its model was written by another version, which kept other "
            "things; train again in another workdir"
        ) from None


def _shapes(tree: Any) -> Any:
    return jax.tree.map(np.shape, tree)
