"""Noise on channel statistics: what it does to mean and deviation, when, and in which networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mln_flax import config
from mln_flax.models import swin_unet, unet
from mln_flax.models.perturbation import Perturbation, perturbed

X = np.random.default_rng(0).gamma(2.0, 1.5, (64, 5, 4, 3)).astype(np.float32)


def test_a_channel_gets_another_mean_and_deviation_and_nothing_else():
    y = np.asarray(perturbed(X, jax.random.key(0), 0.75))
    mean, std = X.mean(axis=(1, 2)), X.std(axis=(1, 2))
    a = ((y[:, 1, 2] - y[:, 0, 0]) / (X[:, 1, 2] - X[:, 0, 0]))[:, None, None]
    b = (y.mean(axis=(1, 2)) / mean)[:, None, None]
    wanted = a * (X - mean[:, None, None]) + b * mean[:, None, None]
    np.testing.assert_allclose(y, wanted, atol=1e-3)
    np.testing.assert_allclose(y.std(axis=(1, 2)), np.abs(a[:, 0, 0]) * std, rtol=1e-2, atol=1e-3)
    moved = (np.abs(y - X) > 1e-5).any(axis=(1, 2))
    assert (moved.all(axis=1) | ~moved.any(axis=1)).all()  # all channels of an image, or none
    assert 0.3 < moved.mean() < 0.7
    for factor in (a[moved[:, 0]], b[moved[:, 0]]):
        assert abs(factor.mean() - 1) < 0.3 and 0.55 < factor.std() < 0.95


def test_it_is_drawn_anew_by_key_and_off_in_evaluation():
    key = jax.random.key(1)
    module = Perturbation(0.75)
    drawn = [module.apply({}, X, True, rngs={"dropout": k}) for k in (key, key, jax.random.key(2))]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 0.1
    assert module.apply({}, X, False) is X and Perturbation(0.0).apply({}, X, True) is X
    half = perturbed(jnp.asarray(X, jnp.bfloat16), key, 0.75)
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("room", "sizes"),
    [
        (unet, {"widths": (4, 5, 6), "norm": "sample"}),
        (swin_unet, {"embed_dim": 4, "depths": (1, 1), "num_heads": (1, 1), "window_size": 2}),
    ],
)
def test_networks_are_disturbed_in_training_alone(room, sizes):
    name = room.__name__.rsplit(".", 1)[1]
    plain, noisy = (
        room.build(config.network(name, **sizes, perturbation=spread), 2) for spread in (0.0, 0.75)
    )
    image, branch = X[:6, :4, :4, :1], np.zeros(6, np.int32)
    shapes = [
        jax.eval_shape(model.init, jax.random.key(0), image, branch) for model in (plain, noisy)
    ]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes[0]["params"])

    @jax.jit
    def logits(params):
        rngs = {"dropout": jax.random.key(0)}
        return [
            noisy.apply({"params": params}, image, branch, train=train, rngs=rngs)[0]
            for train in (False, True)
        ] + [plain.apply({"params": params}, image, branch, train=False)[0]]

    steady, disturbed, without = logits(params)
    np.testing.assert_allclose(steady, without, atol=1e-5)
    assert np.isfinite(disturbed).all() and np.abs(disturbed - steady).max() > 1e-2
