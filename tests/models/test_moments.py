"""How moments reach whoever asks, and that they cost nothing where nobody does."""

import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mln_flax.models import moments
from mln_flax.models.norms import DomainLayerNorm
from mln_flax.models.recompute import recomputed
from mln_flax.models.swin_unet import SwinUnet
from mln_flax.models.unet import UNet

X = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
BRANCH = np.array([0, 1], np.int32)
FAST = {"xla_backend_optimization_level": 0}
UNET = UNet(num_branches=2, widths=(3, 4))
SWIN = SwinUnet(num_branches=2, embed_dim=4, depths=(1, 1), num_heads=(1, 1), window_size=2)
IMAGE = jax.ShapeDtypeStruct((2, 16, 16, 1), jnp.float32)


class Block(nn.Module):
    """Two norms in another order than that of their names."""

    @nn.compact
    def __call__(self, x, branch, train):
        x = DomainLayerNorm(2, name="norm_b")(x, branch)
        return DomainLayerNorm(2, name="norm_a")(2 * x + 1, branch)


class Network(nn.Module):
    """A norm and two blocks, which may be recomputed."""

    remat: bool = False

    @nn.compact
    def __call__(self, x, branch):
        with moments.collected() as norm_moments:
            x = DomainLayerNorm(2, name="stem")(x, branch)
            for name in ("second", "first"):
                if self.remat and not self.is_initializing():
                    x = recomputed(self, Block, name, x, branch, False)
                else:
                    x = Block(name=name)(x, branch, False)
        return x, norm_moments


PATHS = ["stem", "second/norm_b", "second/norm_a", "first/norm_b", "first/norm_a"]


@pytest.mark.parametrize("remat", [False, True])
def test_a_network_gathers_the_moments_of_its_blocks_in_the_order_of_the_network(remat):
    variables = Network().init(jax.random.key(0), X, BRANCH)
    paths = []

    @jax.jit
    @jax.grad
    def gradient(x):
        y, norm_moments = Network(remat).apply(variables, x, BRANCH)
        paths.extend(norm_moments)
        return jnp.square(y).sum() + sum(mean.sum() for mean, _ in norm_moments.values())

    assert np.isfinite(gradient(X)).all() and paths == PATHS
    _, norm_moments = Network(remat).apply({"params": variables["params"]}, X, BRANCH)
    assert list(norm_moments) == PATHS
    np.testing.assert_allclose(norm_moments["stem"][0], X.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    again = Network(remat).apply(variables, 3 * X, BRANCH)[1]
    np.testing.assert_allclose(again["stem"][1], 3 * norm_moments["stem"][1], rtol=1e-5)


def test_the_innermost_collection_has_it_and_the_outer_goes_on_behind_it():
    with moments.collected() as outer:
        moments.report(("a",), 1, 2)
        with pytest.raises(KeyError), moments.collected() as inner:
            moments.report(("b", "c"), 3, 4)
            raise KeyError
        moments.report(("d",), 5, 6)
    moments.report(("e",), 7, 8)  # to nobody
    assert outer == {"a": (1, 2), "d": (5, 6)} and inner == {"b/c": (3, 4)}


def test_each_thread_has_a_collection_of_its_own():
    """Two collect at the same time, a third that collects nothing reports in between."""
    barrier = threading.Barrier(3, timeout=60)
    seen = {}

    def collect(name):
        with moments.collected() as reported:
            barrier.wait()
            moments.report((name,), name, name)
            barrier.wait()
        seen[name] = reported

    threads = [threading.Thread(target=collect, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    barrier.wait()
    moments.report(("nobody",), 0, 0)
    barrier.wait()
    for thread in threads:
        thread.join()
    assert seen == {name: {name: (name, name)} for name in "ab"}


def flops(model, answer):
    """Of a compiled forward pass that returns a part of the network's answer."""
    branch = jax.ShapeDtypeStruct((2,), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), IMAGE, branch)["params"]
    call = jax.jit(lambda p, x, b: answer(*model.apply({"params": p}, x, b)), compiler_options=FAST)
    return call.lower(params, IMAGE, branch).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("model", [UNET, SWIN], ids=["unet", "swin_unet"])
def test_moments_that_nobody_asks_for_are_not_computed(model, monkeypatch):
    logits_alone = flops(model, lambda logits, out: logits)
    assert flops(model, lambda logits, out: (logits, out)) > logits_alone

    def nothing(x, *_):
        return jnp.zeros((2, 1)), jnp.zeros((2, 1))

    monkeypatch.setattr(moments, "reported", nothing)
    monkeypatch.setattr(moments, "expanded_moments", nothing)
    assert flops(model, lambda logits, out: logits) == logits_alone


@pytest.mark.parametrize("shape", [(2, 6, 5, 3), (3, 7, 16), (2, 12, 5, 16), (2, 5, 4, 20)])
def test_position_sums_are_sums(shape):
    """Of few and of many channels, in rows that come in eights, in fours, and alone."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    axes = tuple(range(1, len(shape) - 1))
    found = moments.position_sums(jnp.asarray(x), jnp.asarray(2 * x + 1))
    for total, array in zip(found, (x, 2 * x + 1), strict=True):
        np.testing.assert_allclose(total, array.sum(axis=axes), rtol=1e-5, atol=1e-5)


def test_the_gradient_of_mean_and_variance_is_that_of_their_definition():
    weights = np.random.default_rng(1).normal(size=(2, 2, 5)).astype(np.float32)

    def defined(x):
        return x.mean(axis=(1, 2)), x.var(axis=(1, 2))

    found, expected = (
        jax.grad(lambda x, f=f: sum((w * m).sum() for w, m in zip(weights, f(x), strict=True)))(X)
        for f in (moments.of_positions, defined)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
