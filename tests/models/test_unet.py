"""The U-Net against numpy and scipy, its sizes, branches and switches."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from networks import FAST, apply, draw, of_branch, shapes_of

from mln_flax.models import unet
from mln_flax.models.norm_kinds import DROPS_BIAS, FROM_STATISTICS, KINDS
from mln_flax.models.unet import PRESETS, UNet

# One channel, two classes; without the biases that "instance" and "batch" make useless.
PARAMETERS = {
    ("unet", "channel", 1): 31_042_434,
    ("unet", "sample", 2): 31_054_210,
    ("unet", "batch", 1): 31_036_546,
    ("unet_narrow", "channel", 1): 1_943_778,
    ("unet_narrow", "instance", 1): 1_942_306,
    ("unet_demo", "channel", 1): 121_394,
    ("unet_demo", "batch", 4): 123_154,
}
K = 3
MODEL = UNet(num_branches=K, widths=(3, 4, 5))
BRANCH = np.array([0, 2, 1, 0, 1, 2], np.int32)
# Neither side is whole at the last stage, which halves twice.
IMAGES = np.random.default_rng(0).random((6, 10, 7, 1)).astype(np.float32)


class ByHand:
    """The network in float64 on one image of a branch, an array operation at a time."""

    def __init__(self, variables, norm, branch):
        flat = flax.traverse_util.flatten_dict(variables, sep="/")
        self.of = {name: np.asarray(value, np.float64) for name, value in flat.items()}
        self.norm, self.branch, self.moments = norm, branch, {}

    def convolve(self, x, path):
        """A 3x3 convolution with zeros around: correlations summed over the channels."""
        kernel = self.of[f"params/{path}/kernel"]
        y = np.stack(
            [
                sum(
                    scipy.signal.correlate2d(x[..., c], kernel[..., c, d], mode="same")
                    for c in range(x.shape[-1])
                )
                for d in range(kernel.shape[-1])
            ],
            axis=-1,
        )
        return y + self.of.get(f"params/{path}/bias", 0)

    def normalize(self, x, path):
        self.moments[path] = x.mean(axis=(0, 1)), x.std(axis=(0, 1))
        axes = {"channel": 2, "sample": None, "instance": (0, 1)}
        if self.norm == "batch":
            mean, std = (self.of[f"domain_stats/{path}/{n}"][self.branch] for n in ("mean", "std"))
            variance = std**2
        else:
            mean = x.mean(axis=axes[self.norm], keepdims=True)
            variance = x.var(axis=axes[self.norm], keepdims=True)
        scale, bias = (self.of[f"params/{path}/{n}"][self.branch] for n in ("scale", "bias"))
        return (x - mean) / np.sqrt(variance + 1e-5) * scale + bias

    def stage(self, x, name):
        for i in (1, 2):
            x = np.maximum(
                self.normalize(self.convolve(x, f"{name}/conv{i}"), f"{name}/norm{i}"), 0
            )
        return x

    def upsample(self, x, name):
        """Each pixel times the kernel of each of its four places."""
        bias = self.of[f"params/{name}/bias"]
        kernel = self.of[f"params/{name}/expand/kernel"].reshape(x.shape[-1], 2, 2, -1)
        y = np.zeros((2 * x.shape[0], 2 * x.shape[1], len(bias)))
        for row, column in np.ndindex(2, 2):
            y[row::2, column::2] = x @ kernel[:, row, column] + bias
        return y

    def logits(self, image, levels):
        height, width = image.shape[:2]
        whole = 2 ** (levels - 1)
        x = np.pad(image, ((0, -height % whole), (0, -width % whole), (0, 0)), mode="edge")
        skips = []
        for i in range(levels):
            if i:
                corners = [x[row::2, column::2] for row, column in np.ndindex(2, 2)]
                x = np.max(corners, axis=0)
            skips.append(x := self.stage(x, f"down_{i}"))
        for i in reversed(range(levels - 1)):
            x = np.concatenate([skips[i], self.upsample(x, f"upsample_{i}")], axis=-1)
            x = self.stage(x, f"up_{i}")
        head = self.of["params/head/kernel"], self.of["params/head/bias"]
        return (x @ head[0] + head[1])[:height, :width]


@pytest.mark.parametrize("norm", KINDS)
def test_logits_and_moments_are_those_of_numpy_and_scipy(norm):
    """Of a batch that mixes branches; every image by hand and alone."""
    model = MODEL.clone(norm=norm)
    variables = draw(model)
    logits, out = apply(model)(variables, IMAGES, BRANCH)
    assert logits.shape == (6, 10, 7, 2) and logits.dtype == np.float32
    for i in (0, 1, 2):
        hand = ByHand(variables, norm, BRANCH[i])
        np.testing.assert_allclose(logits[i], hand.logits(IMAGES[i], 3), rtol=1e-3, atol=1e-3)
        assert set(out["moments"]) == set(hand.moments)
        for layer, pair in hand.moments.items():
            for found, expected in zip(out["moments"][layer], pair, strict=True):
                np.testing.assert_allclose(found[i], expected, rtol=1e-3, atol=1e-3)


def count_by_hand(widths, norm, k):
    """Kernels, biases, and a scale and a shift for each norm and branch."""
    bias = 0 if norm in DROPS_BIAS else 1

    def stage(channels, width):
        return 9 * (channels + width) * width + 2 * width * bias + 2 * 2 * width * k

    down = sum(map(stage, (1, *widths), widths))
    pairs = list(zip(widths, widths[1:], strict=False))
    up = sum(4 * below * w + w + stage(2 * w, w) for w, below in pairs)
    return down + up + 2 * widths[0] + 2


@pytest.mark.parametrize(("preset", "norm", "k"), list(PARAMETERS))
def test_parameter_counts(preset, norm, k):
    shapes = shapes_of(UNet(num_branches=k, norm=norm, **PRESETS[preset]._asdict()))["params"]
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert total == PARAMETERS[preset, norm, k] == count_by_hand(PRESETS[preset].widths, norm, k)


def test_the_moments_come_in_the_order_of_the_network_with_statistics_of_their_form():
    shapes = shapes_of(MODEL)
    image = jnp.asarray(IMAGES[:1])
    (_, out), _ = MODEL.init_with_output(jax.random.key(0), image, jnp.zeros(1, jnp.int32))
    stages = ("down_0", "down_1", "down_2", "up_1", "up_0")
    assert list(out["moments"]) == [f"{stage}/norm{i}" for stage in stages for i in (1, 2)]
    flat = flax.traverse_util.flatten_dict(shapes["domain_stats"], sep="/")
    for layer, (mean, std) in out["moments"].items():
        assert mean.shape == std.shape == (1, flat[f"{layer}/mean"].shape[1])


@pytest.mark.parametrize("norm", KINDS)
def test_a_branch_equals_a_plain_model_that_holds_its_variables(norm):
    model = MODEL.clone(norm=norm)
    variables = draw(model)
    answer = apply(model)(variables, IMAGES, BRANCH)
    for b in range(K):
        rows = np.flatnonzero(BRANCH == b)
        plain = model.clone(num_branches=1)
        part = apply(plain)(of_branch(variables, b), IMAGES[rows], np.zeros(2, np.int32))
        jax.tree.map(
            lambda a, b, rows=rows: np.testing.assert_allclose(a, b[rows], rtol=1e-4, atol=1e-4),
            part,
            answer,
        )


@pytest.mark.parametrize("norm", KINDS)
def test_parameters_alone_suffice_where_norms_read_no_statistics(norm):
    model = MODEL.clone(norm=norm)
    variables = draw(model)
    alone = {"params": variables["params"]}
    if norm in FROM_STATISTICS:
        with pytest.raises(ValueError, match="down_0/norm1: evaluation needs"):
            apply(model)(alone, IMAGES, BRANCH)
    else:
        jax.tree.map(
            np.testing.assert_array_equal,
            apply(model)(alone, IMAGES, BRANCH),
            apply(model)(variables, IMAGES, BRANCH),
        )


def test_padding_rows_stay_finite_and_move_nothing_in_training():
    """A branch without a sample too: what is infinite in padding would be no number in the loss."""
    model = MODEL.clone(norm="batch")
    variables = draw(model)
    branch = np.array([0, -1, 2, 0, -1, 2], np.int32)
    step = apply(model, train=True, mutable=("domain_stats",))
    (logits, _), state = step(variables, IMAGES, branch)
    assert np.isfinite(logits).all()
    company = np.where((branch < 0)[:, None, None, None], 50 * IMAGES - 3, IMAGES)
    (others, _), same = step(variables, company.astype(np.float32), branch)
    np.testing.assert_array_equal(others[branch >= 0], logits[branch >= 0])
    jax.tree.map(np.testing.assert_array_equal, state, same)
    flat = flax.traverse_util.flatten_dict(state["domain_stats"], sep="/")
    before = flax.traverse_util.flatten_dict(variables["domain_stats"], sep="/")
    for name, value in flat.items():
        np.testing.assert_array_equal(value[1], before[name][1])
        assert np.abs(value - before[name])[[0, 2]].min() > 0


@pytest.mark.parametrize("norm", KINDS)
def test_remat_changes_nothing(norm):
    """Not the loss, the moments, the statistics, the gradients, nor the parameters' names."""

    def results(model):
        def loss(params):
            given = {"params": params, "domain_stats": variables["domain_stats"]}
            (logits, out), state = model.apply(
                given, IMAGES, BRANCH, train=True, mutable=["domain_stats"]
            )
            return jnp.square(logits - 1).sum(), (out["moments"], state)

        call = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST)
        return jax.device_get(call(variables["params"]))

    plain = MODEL.clone(norm=norm, widths=(3, 4))
    again = plain.clone(remat=True)
    variables = draw(plain)
    assert jax.tree.structure(shapes_of(again)) == jax.tree.structure(shapes_of(plain))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max()),
        results(plain),
        results(again),
    )


def test_remat_needs_less_memory():
    """In the compiler's plan of the gradient."""
    plain = MODEL.clone(norm="sample", widths=(8, 8, 8))
    params, image = shapes_of(plain)["params"], jnp.zeros((4, 64, 64, 1))
    planned = []
    for model in (plain, plain.clone(remat=True)):

        def loss(params, image, model=model):
            return model.apply({"params": params}, image, jnp.zeros(4, jnp.int32))[0].sum()

        compiled = jax.jit(jax.grad(loss)).lower(params, image).compile()
        planned.append(compiled.memory_analysis().temp_size_in_bytes)
    assert planned[1] < 0.8 * planned[0]


def test_bfloat16_is_near_float32():
    half = MODEL.clone(dtype=jnp.bfloat16, norm="sample")
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes_of(half))} == {jnp.dtype("float32")}
    variables = draw(half)
    logits, out = apply(half)(variables, IMAGES, BRANCH)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, out))} == {jnp.dtype("float32")}
    exact, _ = apply(MODEL.clone(norm="sample"))(variables, IMAGES, BRANCH)
    assert np.sqrt(np.mean(np.square(logits - exact))) < 0.05 * np.std(exact)


def test_statistics_of_whole_layers():
    variables = draw(MODEL)
    model = MODEL.clone(statistics="layer")
    alone = {"params": variables["params"]}
    logits, out = apply(model)(alone, IMAGES, BRANCH)
    assert {m.shape for pair in out["moments"].values() for m in pair} == {(6, 1)}
    np.testing.assert_array_equal(logits, apply(MODEL)(alone, IMAGES, BRANCH)[0])


def test_max_pool_gives_the_gradient_to_the_largest():
    x = np.random.default_rng(0).permutation(32.0 * np.arange(2 * 4 * 6 * 3)).reshape(2, 4, 6, 3)
    x = x.astype(np.float32)
    found = unet.max_pool(x)
    gradient = jax.grad(lambda x: unet.max_pool(x).sum())(x)
    for i, h, w, c in np.ndindex(found.shape):
        block = x[i, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2, c]
        assert found[i, h, w, c] == block.max()
        share = gradient[i, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2, c]
        np.testing.assert_array_equal(share, block == block.max())


@pytest.mark.parametrize("place", list(np.ndindex(2, 2)))
def test_max_pool_hands_on_what_is_no_number(place):
    x = np.ones((1, 2, 2, 1), np.float32)
    x[0, place[0], place[1], 0] = np.nan
    assert np.isnan(unet.max_pool(x)).all()
