"""Every kind of normalization against loops in numpy, in training and in evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mln_flax.models import moments
from mln_flax.models.norm_kinds import FROM_STATISTICS, KINDS
from mln_flax.models.norms import DomainNorm

B, H, W, C, K = 6, 3, 4, 5, 4
BRANCH = np.array([0, 2, 2, 0, 3, -1], np.int32)  # branch 1 is absent, the last row is padding
REAL = BRANCH >= 0
EPSILON = 1e-5


@pytest.fixture
def x():
    rng = np.random.default_rng(0)
    return rng.normal(rng.normal(size=C), rng.uniform(0.5, 2, C), (B, H, W, C)).astype(np.float32)


@pytest.fixture
def variables():
    rng = np.random.default_rng(1)
    params = {name: rng.uniform(0.5, 2, (K, C)) for name in ("scale", "bias")}
    stats = {name: rng.uniform(0.5, 2, (K, C)) for name in ("mean", "std")}
    return jax.tree.map(jnp.float32, {"params": params, "domain_stats": stats})


def pool(x, kind, i, h, w, c):
    """The numbers over which pixel (h, w) of channel c of sample i is normalized in training."""
    return {
        "channel": x[i, h, w],
        "sample": x[i],
        "instance": x[i, :, :, c],
        "batch": x[BRANCH[i] == BRANCH][..., c],
    }[kind]


def by_hand(x, kind, params, stats=None):
    """Float64 [real rows, H, W, C]; "batch" by statistics where they are given."""
    x, y = x.astype(np.float64), np.zeros(x.shape)
    for i, h, w, c in np.ndindex(x.shape):
        b = BRANCH[i]
        if stats is not None and kind == "batch":
            mean, variance = float(stats["mean"][b, c]), float(stats["std"][b, c]) ** 2
        else:
            values = pool(x, kind, i, h, w, c)
            mean, variance = values.mean(), values.var()
        standard = (x[i, h, w, c] - mean) / np.sqrt(variance + EPSILON)
        y[i, h, w, c] = standard * float(params["scale"][b, c]) + float(params["bias"][b, c])
    return y[REAL]


@pytest.mark.parametrize("kind", KINDS)
def test_training_by_hand(kind, x, variables):
    """The output and, the same for every kind, moments and running statistics of the input."""
    norm = DomainNorm(K, kind=kind, momentum=0.9)
    with moments.collected() as reported:
        y, state = norm.apply(variables, x, BRANCH, train=True, mutable=["domain_stats"])
    expected = by_hand(x, kind, variables["params"])
    np.testing.assert_allclose(y[REAL], expected, rtol=1e-4, atol=1e-5)
    assert np.isfinite(y).all()
    mean, std = reported[""]
    np.testing.assert_allclose(mean, x.mean(axis=(1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(std, x.std(axis=(1, 2)), rtol=1e-4)
    for b in range(K):
        old = {name: np.asarray(value[b]) for name, value in variables["domain_stats"].items()}
        new = dict(old)
        if values := x[b == BRANCH].reshape(-1, C).tolist():
            new["mean"] = 0.9 * old["mean"] + 0.1 * np.mean(values, axis=0)
            new["std"] = np.sqrt(0.9 * old["std"] ** 2 + 0.1 * np.var(values, axis=0))
        for name, value in new.items():
            np.testing.assert_allclose(state["domain_stats"][name][b], value, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_by_hand(kind, x, variables):
    y = DomainNorm(K, kind=kind).apply(variables, x, BRANCH)
    expected = by_hand(x, kind, variables["params"], variables["domain_stats"])
    np.testing.assert_allclose(y[REAL], expected, rtol=1e-4, atol=1e-5)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_needed_by_those_kinds_alone_that_say_so(kind, x, variables):
    norm, alone = DomainNorm(K, kind=kind), {"params": variables["params"]}
    norm.apply(alone, x, BRANCH, train=True)
    if kind in FROM_STATISTICS:
        with pytest.raises(ValueError, match="evaluation needs the running statistics, the"):
            norm.apply(alone, x, BRANCH)
    else:
        np.testing.assert_array_equal(
            norm.apply(alone, x, BRANCH), norm.apply(variables, x, BRANCH)
        )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kind": "layer"}, "kind of a norm: 'layer'; allowed: channel, sample, instance, batch"),
        ({"statistics": "layers"}, "statistics of a norm: 'layers'; allowed: channel, layer"),
        ({"kind": "batch", "statistics": "layer"}, "batch norm: reads the statistics of each"),
    ],
)
def test_a_norm_that_there_is_not_is_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        DomainNorm(K, **fields)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_batch_equals_one_branch_at_a_time(kind, train, x, variables):
    norm = DomainNorm(K, kind=kind)
    mixed = norm.apply(variables, x, BRANCH, train=train)
    for b in set(BRANCH[REAL].tolist()):
        rows = b == BRANCH
        y = norm.apply(variables, x[rows], BRANCH[rows], train=train)
        np.testing.assert_allclose(y, mixed[rows], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_counts_nowhere(kind, x, variables):
    norm = DomainNorm(K, kind=kind)
    other = x.copy()
    other[~REAL] = 1e3 - 7 * other[~REAL]
    a, old = norm.apply(variables, x, BRANCH, train=True, mutable=["domain_stats"])
    b, new = norm.apply(variables, other, BRANCH, train=True, mutable=["domain_stats"])
    np.testing.assert_array_equal(a[REAL], b[REAL])
    jax.tree.map(np.testing.assert_array_equal, old, new)
    nobody = np.full(B, -1, np.int32)
    y, state = norm.apply(variables, x, nobody, train=True, mutable=["domain_stats"])
    # Of ordinary size, for it goes through many layers, and infinity times nothing is no number.
    assert np.abs(y).max() < 50
    jax.tree.map(np.testing.assert_array_equal, state, {"domain_stats": variables["domain_stats"]})


def test_the_gradient_passes_through_the_statistics_of_the_batch(x, variables):
    """dx = (g - mean(g) - standard mean(g standard)) / deviation over a branch, g = scale dy."""
    norm = DomainNorm(K, kind="batch")
    weight = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)  # of padding too
    found = jax.grad(lambda x: (norm.apply(variables, x, BRANCH, train=True) * weight).sum())(x)
    for b in set(BRANCH[REAL].tolist()):
        rows = b == BRANCH
        values = x[rows].astype(np.float64)
        deviation = np.sqrt(values.var(axis=(0, 1, 2)) + EPSILON)
        standard = (values - values.mean(axis=(0, 1, 2))) / deviation
        g = weight[rows] * np.asarray(variables["params"]["scale"][b])
        along = (g * standard).mean(axis=(0, 1, 2))
        expected = (g - g.mean(axis=(0, 1, 2)) - standard * along) / deviation
        np.testing.assert_allclose(found[rows], expected, rtol=1e-4, atol=1e-5)


def test_batch_keeps_its_digits_where_the_mean_is_large(x, variables):
    norm = DomainNorm(K, kind="batch")
    y = norm.apply(variables, x, BRANCH, train=True)
    shifted = norm.apply(variables, x + 1e3, BRANCH, train=True)
    np.testing.assert_allclose(shifted[REAL], y[REAL], atol=5e-3)


def test_the_batch_is_that_of_all_devices(x, variables):
    """Two unequal shards, one with two rows of padding, give output and gradient of one batch."""
    branch = np.array([0, 2, 2, 0, -1, -1], np.int32)
    whole, split = (DomainNorm(K, kind="batch", axis_name=axis) for axis in (None, "batch"))
    weight = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)

    def answer(norm, x, branch, weight):
        def weighted(x):
            y, state = norm.apply(variables, x, branch, train=True, mutable=["domain_stats"])
            return (y * weight).sum(), (y, state)

        gradient, out = jax.grad(weighted, has_aux=True)(x)
        return gradient, *out

    parts = [a.reshape(2, 3, *a.shape[1:]) for a in (x, branch, weight)]
    gradient, y, state = jax.vmap(lambda *a: answer(split, *a), axis_name="batch")(*parts)
    wanted = answer(whole, x, branch, weight)
    for found, expected in zip((gradient, y), wanted, strict=False):
        np.testing.assert_allclose(found.reshape(x.shape), expected, rtol=1e-4, atol=1e-5)
    for device in range(2):
        jax.tree.map(
            lambda a, b, d=device: np.testing.assert_allclose(a[d], b, rtol=1e-5), state, wanted[2]
        )


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_normalized_in_float32(kind, x, variables):
    norm = DomainNorm(K, kind=kind)
    exact = norm.apply(variables, x, BRANCH, train=True)
    with moments.collected() as reported:
        y = norm.apply(variables, jnp.asarray(x, jnp.bfloat16), BRANCH, train=True)
    assert y.dtype == jnp.bfloat16
    assert {m.dtype for m in reported[""]} == {jnp.dtype("float32")}
    np.testing.assert_allclose(y[REAL].astype(jnp.float32), exact[REAL], atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_around_a_norm_may_be_done_in_it(kind, x, variables):
    """An offset before it and a ReLU behind it: output, moments, statistics and all gradients."""
    norm = DomainNorm(K, kind=kind)
    offset = jnp.asarray(np.random.default_rng(3).normal(size=C).astype(np.float32))
    weight = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)

    def apart(variables, x, offset):
        x = x + offset[None, None, None]
        y, state = norm.apply(variables, x, BRANCH, train=True, mutable=["domain_stats"])
        return jax.nn.relu(y), state

    def inside(variables, x, offset):
        more = {"train": True, "offset": offset, "relu": True}
        return norm.apply(variables, x, BRANCH, mutable=["domain_stats"], **more)

    def results(function):
        def weighted(params, x, offset):
            with moments.collected() as reported:
                y, state = function(variables | {"params": params}, x, offset)
            return (y * weight).sum(), (y, state, reported[""])

        gradient = jax.grad(weighted, argnums=(0, 1, 2), has_aux=True)
        return jax.jit(gradient)(variables["params"], x, offset)

    (_, (y, *_)) = results(apart)
    assert 0.1 < (y == 0).mean() < 0.9  # the ReLU has something to do
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
        results(inside),
        results(apart),
    )
