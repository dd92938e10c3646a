"""Blocks that keep nothing for the backward pass but their input, and run again there."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from mln_flax.models import moments


def recomputed_if_asked(
    network: nn.Module,
    make_block: Callable[..., nn.Module],
    name: str,
    x: jax.Array,
    branch: jax.Array,
    train: bool,
) -> jax.Array:
    """A block of a network that says by `remat` whether it is `recomputed`; arguments as there."""
    if network.remat and not network.is_initializing():  # type: ignore[attr-defined]
        return recomputed(network, make_block, name, x, branch, train)
    return make_block(name=name)(x, branch, train)


def recomputed(
    parent: nn.Module,
    make_block: Callable[..., nn.Module],
    name: str,
    x: jax.Array,
    branch: jax.Array,
    train: bool,
) -> jax.Array:
    """`make_block(name=name)(x, branch, train)`, a child of `parent`, run again on the way back.

    The block is traced apart from its parent, so the moments of its norms come out as values, and
    are reported again here under their whole paths; variables that may be written are written.

    Args:
      parent: the module whose child the block is; it is not initializing.
      make_block: makes the block, given its name (or `parent=None`).
      name: of the child.
      x: [B, H, W, C].
      branch: int32 [B].
      train: whether stochastic depth is on.
    """
    # Compilers for accelerators keep the order that jax.checkpoint wants; that for CPUs does not.
    run_again = by_gradient if jax.default_backend() == "cpu" else by_checkpoint
    return run_again(parent, make_block, name, x, branch, train)


def by_checkpoint(
    parent: nn.Module,
    make_block: Callable[..., nn.Module],
    name: str,
    x: jax.Array,
    branch: jax.Array,
    train: bool,
) -> jax.Array:
    """`recomputed` by jax.checkpoint."""

    def run(block, x, branch):
        with moments.collected() as block_moments:
            y = block(x, branch, train)
        return y, OrderedDict(block_moments)  # jax would sort the names of a plain dict

    y, block_moments = nn.remat(run)(make_block(name=name), x, branch)
    for path, (mean, std) in block_moments.items():
        moments.report((path,), mean, std)
    return y


def by_gradient(
    parent: nn.Module,
    make_block: Callable[..., nn.Module],
    name: str,
    x: jax.Array,
    branch: jax.Array,
    train: bool,
) -> jax.Array:
    """`recomputed` so that the second run cannot begin before the gradient is there.

    It may with jax.checkpoint: the compiler for CPUs then runs all blocks again at once, and no
    memory is saved. Stochastic depth is drawn from a stream of its own here.
    """
    variables = {kind: tree[name] for kind, tree in parent.variables.items() if name in tree}
    params = variables.pop("params")
    mutable = [kind for kind in variables if parent.is_mutable_collection(kind)]
    key = parent.make_rng("dropout") if parent.has_rng("dropout") else None
    block = make_block(parent=None)

    def run(params, x, rest):
        variables, branch, key = rest
        rngs = {} if key is None else {"dropout": key}
        with moments.collected() as block_moments:
            y, written = block.apply(
                {"params": params} | variables, x, branch, train, mutable=mutable, rngs=rngs
            )
        return y, OrderedDict(block_moments), written

    y, block_moments, written = _run_again(run, params, x, (variables, branch, key))
    for path, (mean, std) in block_moments.items():
        moments.report((*parent.path, name, path), mean, std)
    for kind, tree in written.items():
        parent.put_variable(kind, name, tree)
    return y


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run_again(run, params, x, rest):
    return run(params, x, rest)


def _forward(run, params, x, rest):
    return run(params, x, rest), (params, x, rest)


def _backward(run, saved, gradient):
    params, x, rest = saved
    # A sum with nothing, which no compiler may leave out: the gradient might be infinite. So the
    # second run waits for it; a barrier would not do, it is gone when the order is decided.
    d_y = gradient[0]
    x = x + (0 * (d_y if d_y.shape == x.shape else d_y.max())).astype(x.dtype)
    _, transposed = jax.vjp(lambda params, x: run(params, x, rest), params, x)
    return (*transposed(gradient), None)


_run_again.defvjp(_forward, _backward)
