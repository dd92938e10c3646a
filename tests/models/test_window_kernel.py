"""Attention in one kernel, by Pallas's interpreter: against plain attention and its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mln_flax import settings
from mln_flax.config import network
from mln_flax.models import attention, swin, swin_unet, window_kernel
from mln_flax.models.norms import DomainLayerNorm
from mln_flax.types import UserError

FAST = {"xla_backend_optimization_level": 0}
ON_GPU = jax.default_backend() == "gpu"
pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")


def case(height, width, window_size, shifted, heads, channels, batch=2, dtype=jnp.float32):
    """(The two functions of qkv's factors and the bias, these arguments, weights of the sum.)"""
    windows = swin.plan_windows(height, width, window_size, shifted)
    mask = swin.attention_mask(windows, height, width)
    tokens = windows.size[0] * windows.size[1]
    count = windows.padded[0] * windows.padded[1] // tokens
    parts = swin.parts_of(mask, count, tokens)

    def plain(x, kernel, bias, position_bias):
        qkv = jnp.dot(x.reshape(-1, channels), kernel) + bias[None]
        qkv = qkv.reshape(*x.shape[:-1], -1)
        return attention.attend(qkv, position_bias, attention.frozen(mask), heads)

    def fused(*arguments, interpret=True):
        return window_kernel.attend(*arguments, parts, heads, interpret)

    random = np.random.default_rng(0)
    x = random.normal(size=(batch, count, tokens, channels))
    kernel = random.normal(size=(channels, 3 * channels)) / channels**0.5
    half = (jnp.asarray(v, dtype) for v in (x, kernel, random.normal(size=3 * channels)))
    position_bias = jnp.asarray(random.normal(size=(heads, tokens, tokens)), jnp.float32)
    weight = random.normal(size=x.shape).astype(np.float32)
    return plain, fused, (*half, position_bias), weight


def output_and_gradients(function, arguments, weight):
    """What a function gives, and the gradients of a weighted sum of it."""

    def loss(*arguments):
        out = function(*arguments)
        return (out * weight).sum(), out

    call = jax.value_and_grad(loss, range(4), has_aux=True)
    (_, out), gradients = jax.jit(call, compiler_options=None if ON_GPU else FAST)(*arguments)
    return [out, *gradients]


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((10, 7, 4, True, 2, 8), id="4-shifted-padded"),
        pytest.param((9, 14, 7, False, 3, 9), id="7-padded"),
        pytest.param((14, 21, 7, True, 2, 40, 1), id="7-shifted-channels-in-two-chunks"),
        pytest.param((16, 16, 8, False, 1, 16, 1), id="8-unshifted"),
        pytest.param((3, 2, 4, True, 1, 4), id="smaller-than-a-window"),
    ],
)
def test_the_kernel_is_plain_attention_in_both_directions(sizes, monkeypatch):
    """Programs take up to four windows here, in the first case across the edge of an image."""
    monkeypatch.setattr(window_kernel, "BACKWARD_PROGRAMS", 3)
    plain, fused, arguments, weight = case(*sizes)
    wanted = output_and_gradients(plain, arguments, weight)
    for ours, other in zip(output_and_gradients(fused, arguments, weight), wanted, strict=True):
        scale = np.abs(other).max()
        assert scale > 0.5
        np.testing.assert_allclose(ours / scale, other / scale, atol=2e-6)


@pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
@pytest.mark.parametrize(
    "sizes", [(32, 24, 8, True, 3, 96), (20, 14, 7, True, 6, 192), (64, 64, 4, False, 1, 24)]
)
def test_on_a_gpu_the_kernel_itself_is_plain_attention(sizes):
    """Both take the first bits alone of float32 factors, each in its own way."""
    plain, fused, arguments, weight = case(*sizes)
    wanted = output_and_gradients(plain, arguments, weight)
    compiled = functools.partial(fused, interpret=False)
    ours = output_and_gradients(compiled, arguments, weight)
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-2 * np.abs(b).max())


def test_bfloat16_is_as_near_to_float32_as_that_of_plain_attention():
    sizes = (6, 8, 4, True, 2, 8)
    exact = output_and_gradients(case(*sizes)[0], *case(*sizes)[2:])
    plain, fused, arguments, weight = case(*sizes, dtype=jnp.bfloat16)
    ours, other = (output_and_gradients(f, arguments, weight) for f in (fused, plain))
    assert [leaf.dtype for leaf in ours] == [leaf.dtype for leaf in other]
    assert ours[0].dtype == jnp.bfloat16 and ours[-1].dtype == jnp.float32
    for a, b, wanted in zip(ours, other, exact, strict=True):
        distance, usual = (np.abs(v.astype(np.float32) - wanted).mean() for v in (a, b))
        assert 0 < distance < 1.5 * usual


def test_a_block_of_either_kind_has_the_same_parameters_and_answers():
    norm = functools.partial(DomainLayerNorm, num_branches=2)
    x = np.random.default_rng(1).normal(size=(2, 6, 7, 8)).astype(np.float32)
    branch = np.array([1, 0], np.int32)
    plain, fused = (
        swin.SwinBlock(2, 4, True, norm, attention=kind) for kind in ("plain", "interpreted")
    )
    shapes, others = (
        jax.eval_shape(lambda b=b: b.init(jax.random.key(0), x, branch, False))["params"]
        for b in (plain, fused)
    )
    assert shapes == others

    def loss(params, block):
        return jnp.square(block.apply({"params": params}, x, branch, False) - 1).sum()

    random = np.random.default_rng(2)
    params = jax.tree.map(lambda s: random.normal(size=s.shape).astype(np.float32) / 2, shapes)
    results = [
        jax.jit(jax.value_and_grad(functools.partial(loss, block=b)), compiler_options=FAST)(params)
        for b in (plain, fused)
    ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max()),
        *results,
    )
    key_bias = results[1][1]["attn"]["qkv"]["bias"][8:16]
    np.testing.assert_array_equal(key_bias, 0)


@pytest.mark.parametrize("arguments", [(10, 7, 4, True), (8, 8, 4, True), (9, 8, 4, False)])
def test_tokens_of_a_part_are_those_that_see_each_other(arguments):
    windows = swin.plan_windows(*arguments)
    mask = swin.attention_mask(windows, *arguments[:2])
    parts = swin.parts_of(mask, *mask.shape[:2])
    same = parts[:, :, None] == parts[:, None, :]
    np.testing.assert_array_equal(np.where(same, 0, window_kernel.APART), mask)
    assert window_kernel.APART == swin.MASKED


@pytest.mark.skipif(
    jax.__version_info__ >= (0, 11) and not ON_GPU, reason="lowered where there is a GPU"
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_program_for_gpus_has_no_array_of_windows_and_pairs(dtype):
    """It can be lowered here, so all sizes within it are such as Triton takes."""
    plain, fused, arguments, weight = case(14, 21, 7, True, 3, 24, dtype=dtype)
    fused = functools.partial(fused, interpret=False)
    array = "12x3x49x49x"  # [windows, heads, tokens, tokens]
    for function, is_there in ((plain, True), (fused, False)):
        step = jax.jit(jax.value_and_grad(lambda *a, f=function: (f(*a) * weight).sum(), range(4)))
        text = step.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
        assert (array in text or "2x6x3x49x49x" in text) == is_there
        assert text.count("__gpu$xla.gpu.triton") == (0 if is_there else 2)


def test_the_setting_needs_a_gpu_and_windows_that_fit(monkeypatch):
    fused = network("swin_unet", preset="demo", attention="fused")
    assert swin_unet.build(network("swin_unet", preset="demo"), 1).attention == "plain"
    with pytest.raises(UserError, match="model.attention=fused: needs an accelerator"):
        swin_unet.build(fused, 1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert swin_unet.build(fused, 1).attention == "fused"
    with pytest.raises(UserError, match="a window_size up to 8"):
        swin_unet.build(network("swin_unet", attention="fused", window_size=9), 1)


def test_a_run_from_before_the_setting_is_a_plain_one():
    values = settings.to_dict(network("swin_unet"))
    del values["attention"]
    config = settings.from_dict({"model": values})
    assert config.model == network("swin_unet", attention="plain")
    # A run of a GPU may be answered elsewhere: it is the same network.
    assert "model.attention" in settings.after_training(config)
