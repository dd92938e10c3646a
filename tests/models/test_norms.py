"""Domain layer norm: its formula, its branches, its statistics and its moments."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from mln_flax.models import layer_norm, moments
from mln_flax.models.norms import DomainLayerNorm, DomainNorm

B, H, W, C, K = 5, 3, 4, 6, 3
BRANCH = np.array([0, 2, 2, 0, -1], np.int32)  # branch 1 is absent, the last row is padding
REAL = BRANCH >= 0


@pytest.fixture
def x():
    rng = np.random.default_rng(0)
    return rng.normal(rng.normal(size=C), rng.uniform(0.5, 2, C), (B, H, W, C)).astype(np.float32)


@pytest.fixture
def variables():
    rng = np.random.default_rng(1)
    draw = {name: rng.uniform(0.5, 2, (K, C)).astype(np.float32) for name in ("scale", "bias")}
    stats = {name: rng.uniform(0.5, 2, (K, C)).astype(np.float32) for name in ("mean", "std")}
    return jax.tree.map(jnp.asarray, {"params": draw, "domain_stats": stats})


def by_hand(x, scale, bias):
    centered = x - x.mean(axis=-1, keepdims=True)
    return centered / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5) * np.asarray(
        scale
    ) + np.asarray(bias)


def test_each_sample_is_normalized_per_token_and_scaled_by_its_branch(x, variables):
    with moments.collected() as reported:
        y = DomainLayerNorm(K).apply(variables, x, BRANCH)
    params = variables["params"]
    for i in np.flatnonzero(REAL):
        b = BRANCH[i]
        expected = by_hand(x[i], params["scale"][b], params["bias"][b])
        np.testing.assert_allclose(y[i], expected, rtol=1e-5, atol=1e-5)
    mean, std = reported[""]
    np.testing.assert_allclose(mean, x.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std, x.std(axis=(1, 2)), rtol=1e-5)


def test_padding_gives_finite_rows(x, variables):
    y = DomainLayerNorm(K).apply(variables, x, np.full(B, -1, np.int32))
    assert np.isfinite(y).all()


@pytest.mark.parametrize("kind", ["channel", "sample", "instance", "batch"])
def test_a_mixture_of_one_branch_is_that_branch(x, variables, kind):
    norm, branch = DomainNorm(K, kind), np.array([0, 2, 2, 0, 1], np.int32)
    with moments.collected() as alone:
        wanted = norm.apply(variables, x, branch)
    with moments.collected() as mixed:
        found, state = norm.apply(variables, x, np.eye(K)[branch], mutable=["domain_stats"])
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, mixed, alone)
    before = variables["domain_stats"]  # it counts in no statistics
    jax.tree.map(np.testing.assert_array_equal, dict(state["domain_stats"]), before)


@pytest.mark.parametrize("kind", ["channel", "batch"])
def test_scales_shifts_and_statistics_are_mixed_by_weight(x, variables, kind):
    weights = np.random.default_rng(2).dirichlet(np.ones(K), B).astype(np.float32)
    found = DomainNorm(K, kind).apply(variables, x, weights)
    scale, bias = (weights @ np.asarray(variables["params"][n]) for n in ("scale", "bias"))
    mean, std = (np.asarray(variables["domain_stats"][name]) for name in ("mean", "std"))
    for i in range(B):
        if kind == "channel":
            wanted = by_hand(x[i], scale[i], bias[i])
        else:
            spread = np.sqrt(weights[i] @ std**2 + 1e-5)
            wanted = (x[i] - weights[i] @ mean) / spread * scale[i] + bias[i]
        np.testing.assert_allclose(found[i], wanted, rtol=1e-4, atol=1e-5)
    equal = jax.tree.map(lambda rows: jnp.tile(rows[:1], (K, 1)), variables)
    found = DomainNorm(K, kind).apply(equal, x, weights)
    wanted = DomainNorm(K, kind).apply(equal, x, np.zeros(B, np.int32))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_no_batch_is_of_a_mixture(x, variables):
    with pytest.raises(ValueError, match="train in branches"):
        DomainNorm(K, "batch").apply(variables, x, np.eye(K)[[0] * B], train=True)


def test_every_norm_draws_of_the_candidates(x, variables):
    """Each row's output is that of one of its candidates, and all of them come up."""
    norm = DomainLayerNorm(K)
    candidates = np.array([[0, 2], [1, 1], [0, 2], [2, 2], [-1, -1]], np.int32)
    alone = [np.asarray(norm.apply(variables, x, np.full(B, b, np.int32))) for b in range(K)]
    drawn = []
    for seed in range(8):
        y, state = norm.apply(
            variables,
            x,
            candidates,
            mutable=["domain_stats"],
            rngs={"dropout": jax.random.key(seed)},
        )
        of_row = [int(np.argmin([np.abs(y[i] - one[i]).max() for one in alone])) for i in range(B)]
        for i in range(B - 1):
            np.testing.assert_allclose(y[i], alone[of_row[i]][i], rtol=1e-6, atol=1e-6)
            assert of_row[i] in candidates[i]
        known = norm.apply(variables, x, np.int32([*of_row[:4], -1]), mutable=["domain_stats"])[1]
        jax.tree.map(np.testing.assert_array_equal, state, known)
        drawn.append(of_row)
    assert {row[0] for row in drawn} == {row[2] for row in drawn} == {0, 2}
    assert any(row[0] != row[2] for row in drawn)  # each row for itself


def test_initial_values():
    x = jnp.zeros((2, 4, C))
    variables = DomainLayerNorm(K).init(jax.random.key(0), x, jnp.zeros(2, jnp.int32))
    expected = {
        "params": {"scale": np.ones((K, C)), "bias": np.zeros((K, C))},
        "domain_stats": {"mean": np.zeros((K, C)), "std": np.ones((K, C))},
    }
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


def test_layer_norm_is_the_norm_over_channels_and_of_no_other_kind(x, variables):
    alike = DomainNorm(K, kind="channel").apply(variables, x, BRANCH)
    np.testing.assert_array_equal(DomainLayerNorm(K).apply(variables, x, BRANCH), alike)
    with pytest.raises(TypeError, match="kind"):
        DomainLayerNorm(K, kind="batch")


def test_a_network_of_ones_own_gets_the_output_alone_and_names_of_the_class(x):
    class Outside(nn.Module):
        @nn.compact
        def __call__(self, x, branch):
            return DomainLayerNorm(num_branches=K)(x, branch) + 1

    y, variables = Outside().init_with_output(jax.random.key(0), x, np.maximum(BRANCH, 0))
    np.testing.assert_allclose(y, by_hand(x, 1, 1), rtol=1e-4, atol=1e-5)
    shapes = jax.tree.map(np.shape, variables["params"])
    assert shapes == {"DomainLayerNorm_0": {"scale": (K, C), "bias": (K, C)}}


def test_statistics_are_touched_only_where_they_are_mutable(x, variables):
    norm = DomainLayerNorm(K)
    with moments.collected() as alone:
        y = norm.apply({"params": variables["params"]}, x, BRANCH)  # parameters alone
    with moments.collected() as beside:
        also, state = norm.apply(variables, x, BRANCH, mutable=["domain_stats"])
    assert set(state) == {"domain_stats"}
    np.testing.assert_array_equal(y, also)
    jax.tree.map(np.testing.assert_array_equal, alone, beside)
    before = variables["domain_stats"]["mean"]
    assert np.abs(state["domain_stats"]["mean"] - before).max() > 0.01


def running_by_hand(x, stats, momentum, layer=False):
    mean, std = np.array(stats["mean"]), np.array(stats["std"])
    for b in set(BRANCH[REAL].tolist()):
        values = x[b == BRANCH]
        axes = None if layer else (0, 1, 2)
        mean[b] = momentum * mean[b] + (1 - momentum) * values.mean(axis=axes)
        variance = momentum * std[b] ** 2 + (1 - momentum) * values.var(axis=axes)
        std[b] = np.sqrt(variance)
    return {"mean": mean, "std": std}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_running_statistics_of_mixed_branches_by_hand(x, variables, momentum):
    """Over positions and images; absent branches stay, padding counts nowhere."""
    norm = DomainLayerNorm(K, momentum=momentum)
    _, state = norm.apply(variables, x, BRANCH, mutable=["domain_stats"])
    expected = running_by_hand(x, variables["domain_stats"], momentum)
    for name, value in expected.items():
        np.testing.assert_allclose(state["domain_stats"][name], value, rtol=1e-5)
        np.testing.assert_array_equal(
            state["domain_stats"][name][1], variables["domain_stats"][name][1]
        )
    x[~REAL] = 1e3
    _, other = norm.apply(variables, x, BRANCH, mutable=["domain_stats"])
    jax.tree.map(np.testing.assert_array_equal, state, other)


def test_statistics_of_the_whole_layer(x):
    """Eq. 10-11: one mean and deviation over positions and channels."""
    norm = DomainLayerNorm(K, statistics="layer", momentum=0.5)
    variables = norm.init(jax.random.key(0), x, BRANCH)
    assert variables["domain_stats"]["mean"].shape == (K, 1)
    with moments.collected() as reported:
        _, state = norm.apply(variables, x, BRANCH, mutable=["domain_stats"])
    mean, std = reported[""]
    assert mean.shape == std.shape == (B, 1)
    np.testing.assert_allclose(mean[:, 0], x.mean(axis=(1, 2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(std[:, 0], x.std(axis=(1, 2, 3)), rtol=1e-5)
    start = {"mean": np.zeros((K, 1)), "std": np.ones((K, 1))}
    expected = running_by_hand(x, start, 0.5, layer=True)
    for name, value in expected.items():
        np.testing.assert_allclose(state["domain_stats"][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mapped", ["vmap", "pmap"])
def test_statistics_are_summed_over_devices(x, variables, mapped):
    """Two unequal shards (4 rows, and 1 row with 3 of padding) give what one batch gives."""
    x, branch = np.concatenate([x, x[:3]]), np.array([0, 2, 2, 0, 2, -1, -1, -1], np.int32)
    whole = DomainLayerNorm(K).apply(variables, x, branch, mutable=["domain_stats"])[1]
    norm = DomainLayerNorm(K, axis_name="batch")
    shards = 2 if mapped == "vmap" else 1  # pmap with as many devices as every machine has

    def update(x, branch):
        return norm.apply(variables, x, branch, mutable=["domain_stats"])[1]

    parts = (a.reshape(shards, len(a) // shards, *a.shape[1:]) for a in (x, branch))
    state = getattr(jax, mapped)(update, axis_name="batch")(*parts)
    for device in range(shards):
        jax.tree.map(
            lambda a, b, d=device: np.testing.assert_allclose(a[d], b, rtol=1e-6), state, whole
        )


def test_bfloat16_stays_bfloat16_and_is_normalized_in_float32(x, variables):
    exact = DomainLayerNorm(K).apply(variables, x, BRANCH)
    with moments.collected() as reported:
        y = DomainLayerNorm(K).apply(variables, jnp.asarray(x, jnp.bfloat16), BRANCH)
    assert y.dtype == jnp.bfloat16
    assert {m.dtype for m in reported[""]} == {jnp.dtype("float32")}
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.1)


def test_moments_keep_their_digits_where_the_mean_is_large(x):
    mean, std = moments.reported(*moments.of_positions(x + 1e4), "channel")
    np.testing.assert_allclose(mean, x.mean(axis=(1, 2)) + 1e4, rtol=1e-6)
    np.testing.assert_allclose(std, x.std(axis=(1, 2)), rtol=2e-3)


def test_moments_have_no_gradient_and_parameters_only_that_of_their_branch(x, variables):
    def of_moments(x):
        with moments.collected() as reported:
            DomainLayerNorm(K).apply(variables, x, BRANCH)
        return sum(m.sum() for m in reported[""])

    np.testing.assert_array_equal(jax.grad(of_moments)(x), 0)

    def of_output(params):
        y = DomainLayerNorm(K).apply({"params": params}, x, BRANCH)
        return jnp.square(y[REAL]).sum()

    gradient = jax.grad(of_output)(variables["params"])
    for name in ("scale", "bias"):
        np.testing.assert_array_equal(gradient[name][1], 0)
        assert (np.abs(gradient[name][np.array([0, 2])]) > 0).all()


PIXELS, D, CLASSES = 4, 5, 2


@pytest.fixture
def projection(x):
    rng = np.random.default_rng(2)
    draw = {
        "expand": rng.normal(size=(C, PIXELS, D)),
        "head": rng.normal(size=(D, CLASSES)),
        "scale": rng.uniform(0.5, 2, (B, D)),
        "bias": rng.normal(size=(B, D)),
    }
    return {"x": x} | {name: value.astype(np.float32) for name, value in draw.items()}


def straightforward(x, expand, head, scale, bias):
    wide = jnp.einsum("bhwc,cnd->bhwnd", x, expand, precision="highest")
    return layer_norm.normalize(wide, scale, bias, 1e-5) @ head


def folded(x, expand, head, scale, bias):
    return layer_norm.normalized_projection(x, expand, head, scale, bias, 1e-5)


def test_normalized_projection_is_norm_of_the_product_times_head(projection):
    y = folded(**projection)
    assert y.shape == (B, H, W, PIXELS, CLASSES)
    np.testing.assert_allclose(y, straightforward(**projection), rtol=1e-4, atol=1e-5)


def test_normalized_projection_has_the_same_gradients(projection):
    weights = np.random.default_rng(3).normal(size=(B, H, W, PIXELS, CLASSES))

    def gradient(function):
        return jax.grad(lambda p: (function(**p) * weights).sum())(projection)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max()),
        gradient(folded),
        gradient(straightforward),
    )


@pytest.mark.parametrize("statistics", moments.STATISTICS)
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_expanded_moments_are_those_of_the_product(projection, statistics, offset):
    x = projection["x"] + np.float32(offset)
    wide = np.einsum("bhwc,cnd->bhwnd", x.astype(np.float64), projection["expand"])
    wide = wide.reshape(B, -1, D)
    axes = (1, 2) if statistics == "layer" else 1
    shape = (B, 1) if statistics == "layer" else (B, D)
    mean, std = moments.expanded_moments(x, projection["expand"], statistics)
    np.testing.assert_allclose(mean, wide.mean(axis=axes).reshape(shape), rtol=2e-4, atol=1e-3)
    np.testing.assert_allclose(std, wide.std(axis=axes).reshape(shape), rtol=2e-4)
    if not offset:
        direct = moments.reported(*moments.of_positions(wide.astype(np.float32)), statistics)
        np.testing.assert_allclose(std, direct[1], rtol=1e-4)


def test_a_norm_with_a_head_uses_the_branch_of_each_sample(projection, x):
    norm = DomainLayerNorm(K, momentum=0.0)
    expand, head = projection["expand"], projection["head"]
    variables = norm.init(jax.random.key(0), x, BRANCH, projection=(expand, head))
    rng = np.random.default_rng(4)
    params = jax.tree.map(lambda p: rng.uniform(0.5, 2, p.shape), variables["params"])
    variables = {"params": params, "domain_stats": variables["domain_stats"]}
    with moments.collected() as reported:
        y, state = norm.apply(
            variables, x, BRANCH, projection=(expand, head), mutable=["domain_stats"]
        )
    own = np.maximum(BRANCH, 0)
    expected = straightforward(x, expand, head, params["scale"][own], params["bias"][own])
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    wide = np.einsum("bhwc,cnd->bhwnd", x, expand)
    pooled = wide[BRANCH == 2].reshape(-1, D)
    np.testing.assert_allclose(state["domain_stats"]["mean"][2], pooled.mean(0), rtol=1e-3)
    np.testing.assert_allclose(state["domain_stats"]["std"][2], pooled.std(0), rtol=1e-3)
    assert reported[""][0].shape == (B, D)


def plain_norm(x, scale, bias, epsilon):
    centered = x - x.mean(axis=-1, keepdims=True)
    y = centered / jnp.sqrt(jnp.square(centered).mean(axis=-1, keepdims=True) + epsilon)
    return y * scale[:, None, None] + bias[:, None, None]


def test_normalize_has_the_gradients_of_the_plain_formula():
    random = np.random.default_rng(3)
    x, weight = (jnp.asarray(random.normal(size=(3, 4, 5, 6)) + 1, jnp.float32) for _ in "ab")
    scale, bias = (jnp.asarray(random.normal(size=(3, 6)), jnp.float32) for _ in "ab")
    ours, wanted = (
        jax.grad(lambda *a, f=f: (f(*a, 1e-5) * weight).sum(), (0, 1, 2))(x, scale, bias)
        for f in (layer_norm.normalize, plain_norm)
    )
    for one, other in zip(ours, wanted, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)


def test_the_variance_is_exported_for_any_number_of_tokens():
    random = np.random.default_rng(5)
    tokens, expand = (random.normal(size=s).astype(np.float32) for s in ((6, 3), (3, 4, 2)))
    (count,) = export.symbolic_shape("count")
    of_any = export.export(jax.jit(lambda t: layer_norm.expanded_variance(t, expand)))(
        jax.ShapeDtypeStruct((count, 3), np.float32)
    )
    expected = np.square(np.einsum("tc,cnd->tnd", tokens, expand)).mean(axis=-1)
    for rows in (6, 1):
        np.testing.assert_allclose(of_any.call(tokens[:rows]), expected[:rows], rtol=1e-5)


@pytest.mark.parametrize("chunk", [2**24, 100, 12])
def test_variance_of_the_product_in_chunks_of_any_size(monkeypatch, chunk):
    monkeypatch.setattr(layer_norm, "CHUNK", chunk)
    random = np.random.default_rng(4)
    tokens = jnp.asarray(random.normal(size=(30, 3)), jnp.float32)
    expand = jnp.asarray(random.normal(size=(3, 4, 3)), jnp.float32)
    weight = random.normal(size=(30, 4)).astype(np.float32)

    def plain(tokens, expand):
        return jnp.square(jnp.einsum("tc,cnd->tnd", tokens, expand)).mean(axis=-1)

    np.testing.assert_allclose(
        layer_norm.expanded_variance(tokens, expand), plain(tokens, expand), rtol=1e-5
    )
    ours, wanted = (
        jax.grad(lambda *a, f=f: (f(*a) * weight).sum(), (0, 1))(tokens, expand)
        for f in (layer_norm.expanded_variance, plain)
    )
    for one, other in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
