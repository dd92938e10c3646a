"""Blocks that keep nothing for the backward pass but their input, and run again there."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax


def recomputed(parent: nn.Module, make: Any, name: str, x: Any, branch: Any, train: bool) -> Any:
    """`make(name=name)(x, branch, train)` as a child of `parent`, run again in the backward pass.

    `jax.checkpoint` does this too, but its second run may begin before the gradient is there. The
    compiler for CPUs then runs all blocks again at once, and no memory is saved.

    Args:
      parent: the module whose child the block is; it is not initializing.
      make: makes the block, given its name (or `parent=None`).
      name: of the child.
      x: [B, H, W, C].
      branch: int32 [B].
      train: whether stochastic depth is on; it is drawn from a stream of its own here.

    Returns:
      What the block returns, (y, moments), the moments under the child's path. Its variables other
      than parameters are written as usual.
    """
    own = {kind: tree[name] for kind, tree in parent.variables.items() if name in tree}
    params = own.pop("params")
    mutable = [kind for kind in own if parent.is_mutable_collection(kind)]
    key = parent.make_rng("dropout") if parent.has_rng("dropout") else None
    block = make(parent=None)

    def run(params, x, rest):
        own, branch, key = rest
        rngs = {} if key is None else {"dropout": key}
        return block.apply({"params": params} | own, x, branch, train, mutable=mutable, rngs=rngs)

    (y, moments), written = _run_again(run, params, x, (own, branch, key))
    for kind, tree in written.items():
        parent.put_variable(kind, name, tree)
    return y, {"/".join((*parent.path, name, layer)): m for layer, m in moments.items()}


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run_again(run, params, x, rest):
    return run(params, x, rest)


def _forward(run, params, x, rest):
    return run(params, x, rest), (params, x, rest)


def _backward(run, saved, gradient):
    params, x, rest = saved
    # A sum with nothing, which no compiler may leave out: the gradient might be infinite. So the
    # second run waits for it; a barrier would not do, it is gone when the order is decided.
    of_y = gradient[0][0]
    x = x + (0 * (of_y if of_y.shape == x.shape else of_y.max())).astype(x.dtype)
    _, transposed = jax.vjp(lambda params, x: run(params, x, rest), params, x)
    return (*transposed(gradient), None)


_run_again.defvjp(_forward, _backward)
