"""Windows against their definition, and a whole block against numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, softmax

from mln_flax.models import moments, swin
from mln_flax.models.norms import DomainLayerNorm

# height, width, window_size, shifted: whole and padded windows, along both axes or one, maps not
# larger than the window along both axes or one.
MAPS = [
    (8, 8, 4, False),
    (8, 8, 4, True),
    (10, 7, 4, True),
    (10, 7, 4, False),
    (9, 15, 7, True),
    (4, 9, 4, True),
    (3, 9, 4, True),
    (4, 4, 4, True),
    (2, 3, 4, True),
]


def cells(length, size, shift):
    """The window of each position: the cells of a grid that begins at the shift."""
    return (np.arange(length) - shift) // size


def may_attend(height, width, windows):
    """Which pairs of the map's own positions lie in one window: [H W, H W]."""
    lengths = zip((height, width), windows.size, windows.shift, strict=True)
    rows, columns = (cells(*axis) for axis in lengths)
    cell = rows[:, None] * 1000 + columns
    return cell.reshape(-1, 1) == cell.reshape(1, -1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((8, 8, 4, False), ((4, 4), (0, 0), (8, 8))),
        ((8, 8, 4, True), ((4, 4), (2, 2), (8, 8))),
        ((9, 7, 4, True), ((4, 4), (2, 2), (12, 8))),
        ((9, 15, 7, True), ((7, 7), (3, 3), (14, 21))),
        ((4, 4, 4, True), ((4, 4), (0, 0), (4, 4))),
        ((4, 9, 4, True), ((4, 4), (0, 2), (4, 12))),
        ((2, 3, 4, True), ((2, 3), (0, 0), (2, 3))),
    ],
)
def test_plan_windows(arguments, expected):
    assert swin.plan_windows(*arguments) == expected


@pytest.mark.parametrize("size", [(2, 3), (4, 4), (1, 12), (8, 1)])
def test_unpartition_undoes_partition(size):
    x = np.arange(2 * 8 * 12 * 3).reshape(2, 8, 12, 3)
    cut = swin.partition(x, size)
    assert cut.shape == (2, 96 // (size[0] * size[1]), size[0] * size[1], 3)
    np.testing.assert_array_equal(cut[1, 0], x[1, : size[0], : size[1]].reshape(-1, 3))
    np.testing.assert_array_equal(swin.unpartition(cut, size, 8, 12), x)


def test_depth_to_space_undoes_space_to_depth():
    x = np.arange(2 * 6 * 9 * 2).reshape(2, 6, 9, 2)
    deep = swin.space_to_depth(x, 3)
    assert deep.shape == (2, 2, 3, 18)
    np.testing.assert_array_equal(deep[0, 1, 2], x[0, 3:6, 6:9].reshape(-1))
    np.testing.assert_array_equal(swin.depth_to_space(deep.reshape(2, 2, 3, 9, 2)), x)


@pytest.mark.parametrize("arguments", MAPS)
def test_attention_mask_by_its_definition(arguments):
    """A pair may attend where both lie in one cell of the shifted grid; padding is seen by none."""
    height, width, *_ = arguments
    windows = swin.plan_windows(*arguments)
    positions = np.full(windows.padded, -1)
    positions[:height, :width] = np.arange(height * width).reshape(height, width)
    rolled = np.roll(positions, [-s for s in windows.shift], axis=(0, 1))
    tokens = swin.partition(rolled[None, :, :, None], windows.size)[0, :, :, 0]
    mask = swin.attention_mask(windows, height, width)
    if mask is None:
        assert windows.shift == (0, 0) and windows.padded == (height, width)
        mask = np.zeros((*tokens.shape, tokens.shape[1]), np.float32)
    assert mask.dtype == np.float32
    allowed = may_attend(height, width, windows)
    for window, own in zip(tokens, mask, strict=True):
        real = window >= 0
        seen = own == 0
        assert set(np.unique(own)) <= {0, swin.MASKED}
        np.testing.assert_array_equal(
            seen[np.ix_(real, real)], allowed[np.ix_(window[real], window[real])]
        )
        assert not seen[np.ix_(real, ~real)].any()


def make_norm(num_branches):
    return partial(DomainLayerNorm, num_branches=num_branches)


def random_like(tree, seed=0, scale=0.5):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: rng.normal(scale=scale, size=p.shape).astype(np.float32), tree)


def block_by_hand(params, x, branch, heads, window_size, shifted):
    """A block on one [H, W, C] map with global attention among the pairs that may attend."""
    height, width, c = x.shape
    windows = swin.plan_windows(height, width, window_size, shifted)

    def norm(p, x):
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return y * p["scale"][branch] + p["bias"][branch]

    def dense(p, x):
        return x @ p["kernel"] + p["bias"]

    tokens = x.reshape(-1, c)
    query, key, value = np.split(dense(params["attn"]["qkv"], norm(params["norm1"], tokens)), 3, -1)
    y, x = np.divmod(np.arange(height * width), width)
    offsets = [np.clip(p[:, None] - p[None], 1 - window_size, window_size - 1) for p in (y, x)]
    rows = (offsets[0] + window_size - 1) * (2 * window_size - 1) + offsets[1] + window_size - 1
    out, depth = np.zeros_like(tokens), c // heads
    for head in range(heads):
        part = slice(head * depth, (head + 1) * depth)
        logits = query[:, part] @ key[:, part].T / np.sqrt(depth)
        logits += params["attn"]["relative_position_bias_table"][rows, head]
        logits[~may_attend(height, width, windows)] = -np.inf
        out[:, part] = softmax(logits, axis=-1) @ value[:, part]
    tokens = tokens + dense(params["attn"]["proj"], out)
    hidden = dense(params["mlp"]["fc1"], norm(params["norm2"], tokens))
    hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
    return (tokens + dense(params["mlp"]["fc2"], hidden)).reshape(height, width, c)


@pytest.mark.parametrize("arguments", [MAPS[2], MAPS[5], MAPS[8]])
def test_a_block_is_attention_among_neighbors_whatever_the_padding(arguments):
    height, width, window_size, shifted = arguments
    block = swin.SwinBlock(2, window_size, shifted, make_norm(2))
    x = np.random.default_rng(1).normal(size=(2, height, width, 8)).astype(np.float32)
    branch = np.array([1, 0], np.int32)
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x, branch, False))
    params = random_like(shapes["params"])

    @jax.jit
    def call(params, x, branch):
        with moments.collected() as reported:
            return block.apply({"params": params}, x, branch, False), reported

    y, reported = call(params, x, branch)
    assert sorted(reported) == ["norm1", "norm2"]
    for i in range(2):
        expected = block_by_hand(params, x[i], branch[i], 2, window_size, shifted)
        np.testing.assert_allclose(y[i], expected, rtol=1e-4, atol=2e-4)


def test_what_the_padding_holds_changes_no_real_token():
    height, width, window_size = 10, 7, 4
    windows = swin.plan_windows(height, width, window_size, True)
    mask = swin.attention_mask(windows, height, width)
    real = np.zeros(windows.padded, bool)
    real[:height, :width] = True
    real = np.roll(real, [-s for s in windows.shift], axis=(0, 1))[None, :, :, None]
    real = swin.partition(real, windows.size)[0, :, :, 0]
    attention = swin.WindowAttention(2, window_size)
    x = np.random.default_rng(2).normal(size=(1, *real.shape, 4)).astype(np.float32)
    variables = attention.init(jax.random.key(0), x, windows.size, mask)
    variables = random_like(variables, seed=3)
    other = np.where(real[None, :, :, None], x, 5 - 3 * x)
    y, y_other = (attention.apply(variables, v, windows.size, mask) for v in (x, other))
    np.testing.assert_array_equal(y[0][real], y_other[0][real])
    assert np.abs(y - y_other)[0][~real].max() > 0.1


def test_drop_path_keeps_whole_samples_and_the_mean():
    x = jnp.ones((4000, 2, 3))
    drop = swin.DropPath(0.25)
    y = drop.apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    per_sample = np.asarray(y).reshape(4000, -1)
    assert (per_sample == per_sample[:, :1]).all()
    np.testing.assert_allclose(np.unique(per_sample), [0, 4 / 3], rtol=1e-6)
    assert np.mean(per_sample) == pytest.approx(1, abs=0.03)
    again = drop.apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(y, again)


@pytest.mark.parametrize(("rate", "train"), [(0.5, False), (0.0, True)])
def test_drop_path_is_off_without_a_random_stream(rate, train):
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_array_equal(swin.DropPath(rate).apply({}, x, train), x)


def test_patch_embed_is_a_strided_convolution():
    embed = swin.PatchEmbed(5, 4, make_norm(1))
    image = np.random.default_rng(4).random((2, 8, 12, 1)).astype(np.float32)
    branch = np.zeros(2, np.int32)
    variables = embed.init(jax.random.key(0), image, branch)
    with moments.collected() as reported:
        y = embed.apply(variables, image, branch)
    assert y.shape == (2, 2, 3, 5)
    proj = variables["params"]["proj"]
    token = image[1, 4:8, 8:12, 0].ravel() @ proj["kernel"] + proj["bias"]
    expected = (token - token.mean()) / np.sqrt(token.var() + 1e-5)
    np.testing.assert_allclose(y[1, 1, 2], expected, rtol=1e-4, atol=1e-5)
    assert reported["norm"][0].shape == (2, 5)


def test_merging_halves_and_expanding_doubles_the_map():
    x = np.random.default_rng(5).normal(size=(2, 4, 6, 8)).astype(np.float32)
    branch = np.zeros(2, np.int32)
    merge, expand = swin.PatchMerging(make_norm(1)), swin.PatchExpanding(make_norm(1))
    variables = merge.init(jax.random.key(0), x, branch)
    y = merge.apply(variables, x, branch)
    assert y.shape == (2, 2, 3, 16)
    # The four neighbors column by column, as the public weights expect.
    token = np.concatenate([x[0, 2, 4], x[0, 3, 4], x[0, 2, 5], x[0, 3, 5]])
    token = (token - token.mean()) / np.sqrt(token.var() + 1e-5)
    kernel = variables["params"]["reduction"]["kernel"]
    np.testing.assert_allclose(y[0, 1, 2], token @ kernel, rtol=1e-4, atol=1e-5)

    variables = expand.init(jax.random.key(0), x, branch)
    y = expand.apply(variables, x, branch)
    assert y.shape == (2, 8, 12, 4)
    four = (x[0, 1, 2] @ variables["params"]["expand"]["kernel"]).reshape(4, 4)
    for place, token in enumerate(four):
        expected = (token - token.mean()) / np.sqrt(token.var() + 1e-5)
        own = y[0, 2 + place // 2, 4 + place % 2]
        np.testing.assert_allclose(own, expected, rtol=1e-3, atol=1e-4)


def test_final_expansion_is_expansion_norm_and_head():
    x = np.random.default_rng(6).normal(size=(2, 3, 2, 4)).astype(np.float32)
    branch = np.array([1, 0], np.int32)
    final = swin.FinalExpansion(2, 3, make_norm(2))
    shapes = jax.eval_shape(lambda: final.init(jax.random.key(0), x, branch))
    params = random_like(shapes["params"])
    with moments.collected() as reported:
        y = final.apply({"params": params}, x, branch)
    assert y.shape == (2, 6, 4, 3)
    assert reported["norm"][0].shape == (2, 4)
    wide = (x[0, 2, 1] @ params["expand"]["kernel"]).reshape(4, 4)
    wide = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    wide = wide * params["norm"]["scale"][1] + params["norm"]["bias"][1]
    expected = (wide @ params["output"]["kernel"]).reshape(2, 2, 3)
    np.testing.assert_allclose(y[0, 4:6, 2:4], expected, rtol=1e-4, atol=1e-4)
