"""The whole network: sizes, branches, independence of samples, and its switches."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mln_flax.models.swin_unet import PRESETS, SwinUnet

# One channel, two classes. The paper states its own network's size as 84.0M.
PARAMETERS = {
    ("tiny", 1): 27_165_156,
    ("tiny", 2): 27_190_884,
    ("small", 1): 84_041_796,
    ("small", 2): 84_116_676,
}
PER_BRANCH = {"tiny": 25_728, "small": 74_880}

SMALL = SwinUnet(embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4, drop_path_rate=0.5)
FAST = {"xla_backend_optimization_level": 0}  # compiling is most of what these tests do
K = 3
MODEL = SMALL.clone(num_branches=K)
BRANCH = np.array([0, 2, 1, 0, 1, 2], np.int32)
# Tokens 9 x 7: padded to whole windows along both axes, and to an even number of tokens.
IMAGES = np.random.default_rng(0).random((6, 36, 28, 1)).astype(np.float32)


def shapes_of(model, side=32):
    image = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
    branch = jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), image, branch)


@functools.cache
def apply(model, train=False):
    """The jitted network; its answer lies in numpy, which indexes without compiling."""
    call = jax.jit(functools.partial(model.apply, train=train), compiler_options=FAST)
    return lambda *arrays, **more: jax.device_get(call(*arrays, **more))


@pytest.fixture(scope="module")
def params():
    """Random parameters; scale and bias differ between branches."""
    rng = np.random.default_rng(1)
    flat = flax.traverse_util.flatten_dict(shapes_of(MODEL)["params"])
    drawn = {}
    for path, leaf in flat.items():
        value = rng.normal(scale=0.02 if path[-1] == "kernel" else 0.3, size=leaf.shape)
        if path[-1] == "kernel":
            value *= 50 / np.sqrt(leaf.shape[0])
        drawn[path] = jnp.asarray(value + (path[-1] == "scale"), jnp.float32)
    return flax.traverse_util.unflatten_dict(drawn)


@pytest.fixture(scope="module")
def answer(params):
    return apply(MODEL)({"params": params}, IMAGES, BRANCH)


def of_branch(params, b):
    """The parameters of a plain model: row b of every scale and bias of a norm."""
    flat = flax.traverse_util.flatten_dict(params)
    rows = {p: v[b : b + 1] if p[-2].startswith("norm") else v for p, v in flat.items()}
    return flax.traverse_util.unflatten_dict(rows)


def assert_rows_equal(part, whole, rows, atol=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b[rows], rtol=1e-5, atol=atol), part, whole
    )


@pytest.mark.parametrize(("preset", "num_branches"), list(PARAMETERS))
def test_parameter_counts(preset, num_branches):
    model = SwinUnet(num_branches=num_branches, **PRESETS[preset]._asdict())
    shapes = shapes_of(model, 224)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PARAMETERS[preset, num_branches]


def test_a_branch_costs_its_scales_and_biases():
    for preset, cost in PER_BRANCH.items():
        assert PARAMETERS[preset, 2] - PARAMETERS[preset, 1] == cost


def test_logits_and_moments_of_every_norm(params, answer):
    logits, out = answer
    assert logits.shape == (6, 36, 28, 2)
    assert logits.dtype == jnp.float32
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    norms = {path.removesuffix("/scale"): v for path, v in flat.items() if path.endswith("/scale")}
    assert set(out["moments"]) == set(norms)
    for layer, (mean, std) in out["moments"].items():
        assert mean.shape == std.shape == (6, norms[layer].shape[1])
        assert np.isfinite(mean).all() and (np.asarray(std) > 0).all()
    stats = shapes_of(MODEL)["domain_stats"]
    own = {path.rsplit("/", 1)[0] for path in flax.traverse_util.flatten_dict(stats, sep="/")}
    assert own == set(norms)


@pytest.mark.parametrize("remat", [False, True])
def test_the_moments_come_in_the_order_of_the_network(remat):
    order = []

    def note(params, image, branch):
        order.extend(
            MODEL.clone(remat=remat).apply({"params": params}, image, branch)[1]["moments"]
        )

    image, branch = IMAGES[:1], np.zeros(1, np.int32)
    jax.eval_shape(note, shapes_of(MODEL)["params"], image, branch)
    down, up = (
        [f"{name}_{j}/norm{i}" for j in (0, 1) for i in (1, 2)]
        for name in ("layers_0_blocks", "layers_up_1_blocks")
    )
    bottom = [name.replace("layers_0", "layers_1") for name in down]
    path = ["patch_embed/norm", *down, "layers_0_downsample/norm", *bottom, "norm"]
    assert order == [*path, "layers_up_0/norm", *up, "norm_up", "up/norm"]


def test_branches_answer_differently(params, answer):
    other = apply(MODEL)({"params": params}, IMAGES, (BRANCH + 1) % K)
    assert np.abs(other[0] - answer[0]).mean() > 0.05


def test_a_mixed_batch_equals_one_branch_at_a_time(params, answer):
    for b in range(K):
        rows = np.flatnonzero(BRANCH == b)
        part = apply(MODEL)({"params": params}, IMAGES[rows], BRANCH[rows])
        assert_rows_equal(part, answer, rows)


def test_a_branch_equals_a_plain_model_that_holds_its_parameters(params, answer):
    for b in range(K):
        rows = np.flatnonzero(BRANCH == b)
        plain = {"params": of_branch(params, b)}
        part = apply(SMALL)(plain, IMAGES[rows], np.zeros(2, np.int32))
        assert_rows_equal(part, answer, rows)


def test_an_answer_does_not_depend_on_order_or_company(params, answer):
    order = np.array([3, 5, 0, 1, 4, 2])
    permuted = apply(MODEL)({"params": params}, IMAGES[order], BRANCH[order])
    assert_rows_equal(permuted, answer, order)
    company = IMAGES.copy()
    company[1:] = 7 * company[1:, ::-1] - 3
    branch = np.array([0, 1, -1, 1, 1, 1], np.int32)
    first = jax.tree.map(lambda a: a[:1], apply(MODEL)({"params": params}, company, branch))
    assert_rows_equal(first, answer, slice(0, 1))


def test_parameters_alone_suffice_and_statistics_move_only_where_mutable(params, answer):
    stats = jax.tree.map(lambda s: jnp.full(s.shape, 0.5), shapes_of(MODEL)["domain_stats"])
    both = {"params": params, "domain_stats": stats}

    update = functools.partial(MODEL.apply, train=False, mutable=["domain_stats"])
    again, state = jax.device_get(jax.jit(update, compiler_options=FAST)(both, IMAGES, BRANCH))
    assert_rows_equal(again, answer, slice(None))
    assert set(state) == {"domain_stats"}
    momentum, moments = MODEL.momentum, answer[1]["moments"]
    flat = flax.traverse_util.flatten_dict(state["domain_stats"], sep="/")
    for layer, (mean, _) in moments.items():
        for b in range(K):
            expected = momentum * 0.5 + (1 - momentum) * mean[b == BRANCH].mean(axis=0)
            np.testing.assert_allclose(flat[f"{layer}/mean"][b], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(50, 70), (33, 129)])
def test_any_height_and_width(params, size):
    """Finite logits of the image's size: those of the image continued to whole tokens, cut."""
    images = np.random.default_rng(2).random((1, *size, 1)).astype(np.float32)
    zero = np.zeros(1, np.int32)
    logits, _ = apply(MODEL)({"params": params}, images, zero)
    assert logits.shape == (1, *size, 2)
    assert np.isfinite(logits).all()
    if size == (50, 70):
        whole = np.pad(images, ((0, 0), (0, 6), (0, 2), (0, 0)), mode="edge")
        expected, _ = apply(MODEL)({"params": params}, whole, zero)
        np.testing.assert_allclose(logits, expected[:, :50, :70], rtol=1e-5, atol=1e-5)


ONE = SwinUnet(embed_dim=8, depths=(2,), num_heads=(2,), window_size=4, drop_path_rate=0.5)


@pytest.fixture(scope="module")
def one():
    """A network of one stage, with its parameters and a batch."""
    image, branch = IMAGES[:4, :24, :20], np.zeros(4, np.int32)
    return (
        jax.jit(ONE.init, compiler_options=FAST)(jax.random.key(0), image, branch)["params"],
        image,
        branch,
    )


def loss_and_gradient(model, params, image, branch, key):
    def loss(params):
        rngs = {"dropout": key}
        logits, out = model.apply({"params": params}, image, branch, train=True, rngs=rngs)
        return jnp.square(logits - 1).sum(), out["moments"]

    call = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST)
    return jax.device_get(call(params))


def test_remat_changes_nothing(one):
    """Not the loss, the moments, the gradients, nor the parameters' names.

    Stochastic depth is off: its draws come from another stream.
    """
    plain = ONE.clone(drop_path_rate=0.0)
    again = plain.clone(remat=True)
    assert jax.tree.structure(shapes_of(again)) == jax.tree.structure(shapes_of(ONE))
    results = [loss_and_gradient(m, *one, jax.random.key(3)) for m in (plain, again)]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max()),
        *results,
    )


def test_stochastic_depth_is_on_in_training_alone(one):
    params, image, branch = one
    params = jax.tree.map(lambda p: p + 0.1, params)
    train = apply(ONE, train=True)
    keys = [jax.random.key(i) for i in (0, 0, 1)]
    a, same, other = (
        train({"params": params}, image, branch, rngs={"dropout": k})[0] for k in keys
    )
    np.testing.assert_array_equal(a, same)
    assert np.abs(a - other).max() > 1e-3
    apply(ONE)({"params": params}, image, branch)  # needs no random stream


def test_bfloat16_is_near_float32(params, answer):
    half = MODEL.clone(dtype=jnp.bfloat16)
    types = {leaf.dtype for leaf in jax.tree.leaves(shapes_of(half))}
    assert types == {jnp.dtype("float32")}
    logits, out = apply(half)({"params": params}, IMAGES, BRANCH)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype("float32")}
    spread = float(np.std(answer[0]))
    assert np.sqrt(np.mean(np.square(logits - answer[0]))) < 0.05 * spread
    for layer, pair in out["moments"].items():
        for a, b in zip(pair, answer[1]["moments"][layer], strict=True):
            np.testing.assert_allclose(a, b, atol=0.1 * np.abs(b).max(), err_msg=layer)


def test_statistics_of_whole_layers(one):
    params, image, branch = one
    model = ONE.clone(statistics="layer")
    logits, out = apply(model)({"params": params}, image, branch)
    assert {m.shape for pair in out["moments"].values() for m in pair} == {(4, 1)}
    expected = apply(ONE)({"params": params}, image, branch)[0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_remat_writes_the_running_statistics_too(one):
    params, image, branch = one
    plain = ONE.clone(drop_path_rate=0.0)
    stats = plain.init(jax.random.key(0), image, branch)["domain_stats"]
    variables = {"params": params, "domain_stats": stats}
    written = [
        m.apply(variables, image, branch, train=True, mutable=["domain_stats"])[1]["domain_stats"]
        for m in (plain, plain.clone(remat=True))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *written)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), stats, written[1])
    assert min(jax.tree.leaves(moved)) > 0


def test_remat_needs_less_memory(one):
    """In the compiler's plan of a step of a deeper network than the tests' usual one."""
    deep = ONE.clone(drop_path_rate=0.0, depths=(6,) * len(ONE.depths))
    image, branch = jnp.zeros((4, 64, 64, 1)), jnp.zeros(4, jnp.int32)
    params = jax.eval_shape(deep.init, jax.random.key(0), image, branch)["params"]
    planned = []
    for model in (deep, deep.clone(remat=True)):

        def loss(params, image, model=model):
            return model.apply({"params": params}, image, branch)[0].sum()

        compiled = jax.jit(jax.grad(loss)).lower(params, image).compile()
        planned.append(compiled.memory_analysis().temp_size_in_bytes)
    assert planned[1] < 0.6 * planned[0]
