"""Blocks that run again on the way back: by either way the same as when they run once."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mln_flax.models import moments, recompute
from mln_flax.models.norms import DomainLayerNorm
from mln_flax.models.swin import DropPath

X = np.random.default_rng(0).normal(size=(4, 3, 2, 5)).astype(np.float32)
WEIGHT = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
BRANCH = np.array([0, 1, 1, -1], np.int32)
KEY = jax.random.key(1)
FAST = {"xla_backend_optimization_level": 0}


class Block(nn.Module):
    """Two norms in another order than that of their names, and a part that may be left out."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x, branch, train):
        y = DomainLayerNorm(2, name="norm_b")(x, branch)
        y = nn.Dense(5, name="dense")(nn.relu(y))
        y = DropPath(self.rate)(y, train)
        return DomainLayerNorm(2, name="norm_a")(x + y, branch)


class Network(nn.Module):
    """Two blocks and what is beside them, run by `way`, or once where it is None."""

    way: object = None
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, branch, train=False):
        with moments.collected() as norm_moments:
            for name in ("second", "first"):
                if self.way is None or self.is_initializing():
                    x = Block(self.rate, name=name)(x, branch, train)
                else:

                    def make_block(**where):
                        return Block(self.rate, **where)

                    x = self.way(self, make_block, name, x, branch, train)
        return x, norm_moments


VARIABLES = jax.jit(Network().init, compiler_options=FAST)(jax.random.key(0), X, BRANCH)


def results(way, rate=0.0):
    """Output, moments with their order, written statistics, and gradients of all of it."""
    order = []

    def loss(params, x):
        variables = {"params": params, "domain_stats": VARIABLES["domain_stats"]}
        (y, norm_moments), written = Network(way, rate).apply(
            variables, x, BRANCH, True, mutable=["domain_stats"], rngs={"dropout": KEY}
        )
        order[:] = norm_moments
        return (y * WEIGHT).sum(), (y, dict(norm_moments), written["domain_stats"])

    call = jax.value_and_grad(loss, (0, 1), has_aux=True)
    return jax.jit(call, compiler_options=FAST)(VARIABLES["params"], X), order


@pytest.mark.parametrize(
    ("way", "rate"), [(recompute.by_checkpoint, 0.5), (recompute.by_gradient, 0)]
)
def test_values_gradients_moments_and_statistics_are_those_of_one_run(way, rate):
    """With jax.checkpoint also what stochastic depth draws; the other way has its own stream."""
    (wanted, order), (ours, own_order) = (results(kind, rate) for kind in (None, way))
    assert own_order == order == [f"{b}/norm_{n}" for b in ("second", "first") for n in "ba"]
    assert jax.tree.structure(ours) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, wanted)
    written = wanted[0][1][2]
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), dict(written), dict(VARIABLES["domain_stats"])
    )
    assert min(jax.tree.leaves(moved)) > 1e-4
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(ours[1]))


def test_both_runs_leave_out_the_same_parts_in_a_stream_of_their_own():
    """A gradient of another draw than the value's would not be that of the differences."""
    direction = np.random.default_rng(2).normal(size=X.shape).astype(np.float32)

    @functools.partial(jax.jit, compiler_options=FAST)
    @jax.value_and_grad
    def loss(x, key=KEY):
        network = Network(recompute.by_gradient, 0.5)
        return (network.apply(VARIABLES, x, BRANCH, True, rngs={"dropout": key})[0] * WEIGHT).sum()

    slope = (loss(X)[1] * direction).sum()
    ahead, behind = (loss(X + step * direction)[0] for step in (2e-3, -2e-3))
    np.testing.assert_allclose(slope, (ahead - behind) / 4e-3, rtol=1e-2)
    assert len({float(loss(X, jax.random.key(i))[0]) for i in range(4)}) > 1  # some were left out


@pytest.mark.parametrize(
    ("backend", "is_checkpoint"), [("cpu", False), ("gpu", True), ("tpu", True)]
)
def test_the_backend_chooses(backend, is_checkpoint, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)

    def loss(x):
        return Network(recompute.recomputed).apply(VARIABLES, x, BRANCH)[0].sum()

    text = str(jax.make_jaxpr(jax.grad(loss))(X))
    assert ("checkpoint" in text or "remat" in text) == is_checkpoint


def test_what_jax_checkpoint_keeps_is_the_input_of_a_block():
    """Of arrays as large as it: the inputs of both blocks, and what the loss squares."""

    def kept(way):
        def loss(x):
            return jnp.square(Network(way).apply(VARIABLES, x, BRANCH)[0]).sum()

        leaves = jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(loss, x)[1], X))
        return sum(leaf.shape == X.shape for leaf in leaves)

    assert kept(recompute.by_checkpoint) == 3 < kept(None)
