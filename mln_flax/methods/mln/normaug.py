"""NormAUG: one main branch that answers, and auxiliary ones that disturb training.

After Qi et al., 2023, "NormAUG: Normalization-guided augmentation for domain generalization":
beside the main path, in which all views share one norm, an auxiliary path normalizes a view now as
its own group, now as others do. There that is by batch norms of drawn combinations of domains,
here by drawing at every norm, for each row, its own view's branch or that of any view. The own one
comes with at least half the chance: drawn evenly, all branches would be trained by all views alike
and would end up alike.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp

from mln_flax.methods.mln.parts import Rows
from mln_flax.models.core import is_per_branch
from mln_flax.types import Batch

MAIN, AUXILIARY = 0, 1  # the groups of a step's rows, each with a loss of its own


def rows(batch: Batch, branch: jax.Array, num_views: int) -> Rows:
    """A device's rows twice, in the main branch and in the auxiliary ones.

    Args:
      batch: of this device.
      branch: int32 [B], 0, or -1 where the row counts nowhere.
      num_views: k. Branch 0 is the main one, 1 + v that of view v.

    Returns:
      `branch` [2 B] is the group; `candidates` int32 [2 B, 2 k] are the branches of which every
      norm draws: the main one alone, or k times the view's own and once that of every view.
    """
    every = jnp.arange(1, num_views + 1, dtype=jnp.int32)
    own = jnp.broadcast_to(1 + batch.view[:, None], (len(branch), num_views))
    auxiliary = jnp.concatenate([own, jnp.broadcast_to(every, own.shape)], axis=1)
    candidates = jnp.concatenate([jnp.full_like(auxiliary, MAIN), auxiliary])
    group = jnp.concatenate([branch, jnp.where(branch < 0, -1, AUXILIARY)])
    image, mask = (jnp.concatenate([x, x]) for x in (batch.image, batch.mask))
    return Rows(image, mask, group, jnp.where(group[:, None] < 0, -1, candidates))


def main_branch(variables: Any) -> Any:
    """What the network needs to answer: parameters and statistics without the auxiliary rows."""
    params = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    params = {
        path: leaf[: MAIN + 1] if is_per_branch(path) else leaf for path, leaf in params.items()
    }
    return {
        "params": flax.traverse_util.unflatten_dict(params, sep="/"),
        "domain_stats": jax.tree.map(lambda x: x[: MAIN + 1], variables["domain_stats"]),
    }
