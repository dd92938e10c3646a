"""The network of convolutions and Swin blocks: sizes, branches, reach and switches."""

import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import FAST, apply, draw, of_branch, shapes_of

from mln_flax.config import network
from mln_flax.models import conv_swin_unet
from mln_flax.models.conv_swin_unet import PRESETS
from mln_flax.models.unet import UNet
from mln_flax.types import UserError

# One channel, two classes.
PARAMETERS = {("dots", 1): 249_470, ("dots", 4): 253_886, ("dots_wide", 1): 985_082}
K = 3
MODEL = UNet(
    num_branches=K, norm="sample", widths=(3, 4, 6), depths=(2, 1), num_heads=(2, 3), window_size=3
)
BRANCH = np.array([0, 2, 1, 0], np.int32)
# Neither side is whole at the last scale, nor a number of whole windows.
IMAGES = np.random.default_rng(0).random((4, 18, 23, 1)).astype(np.float32)


@pytest.mark.parametrize(("preset", "k"), list(PARAMETERS))
def test_parameter_counts(preset, k):
    """Those of the U-Net of these widths, and those of the blocks by hand."""
    sizes = PRESETS[preset]
    params = shapes_of(UNet(num_branches=k, norm="sample", **sizes._asdict()))["params"]
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    plain = shapes_of(UNet(num_branches=k, widths=sizes.widths, norm="sample"))["params"]
    blocks = 0
    for width, depth, heads in zip(sizes.widths[-2:], sizes.depths, sizes.num_heads, strict=True):
        attention = 4 * width**2 + 4 * width + heads * (2 * sizes.window_size - 1) ** 2
        blocks += depth * (attention + 8 * width**2 + 5 * width + 4 * width * k)
    assert total == PARAMETERS[preset, k]
    assert total == blocks + sum(leaf.size for leaf in jax.tree.leaves(plain))


def test_with_blocks_that_add_nothing_it_is_the_plain_network():
    variables = draw(MODEL)
    flat = flax.traverse_util.flatten_dict(variables)
    silent = {p: 0 * v if {"proj", "fc2"} & set(p) else v for p, v in flat.items()}
    silent = flax.traverse_util.unflatten_dict(silent)
    plain, _ = apply(MODEL.clone(depths=(), num_heads=()))(variables, IMAGES, BRANCH)
    np.testing.assert_array_equal(apply(MODEL)(silent, IMAGES, BRANCH)[0], plain)
    assert np.abs(apply(MODEL)(variables, IMAGES, BRANCH)[0] - plain).max() > 1e-2


def test_the_moments_come_in_the_order_of_the_network():
    _, out = apply(MODEL)(draw(MODEL), IMAGES, BRANCH)
    deep = [
        f"down_{i}{part}/norm{n}"
        for i, blocks in ((1, 2), (2, 1))
        for part in ("", *(f"_blocks_{j}" for j in range(blocks)))
        for n in (1, 2)
    ]
    first, up = (
        [f"down_0/norm{n}" for n in (1, 2)],
        [f"up_{i}/norm{n}" for i in (1, 0) for n in (1, 2)],
    )
    assert sorted(out["moments"]) == sorted(first + deep + up)
    for mean, std in out["moments"].values():
        assert mean.shape == std.shape and len(mean) == len(IMAGES)


def test_a_branch_equals_a_plain_model_that_holds_its_variables():
    variables = draw(MODEL)
    logits, _ = apply(MODEL)(variables, IMAGES, BRANCH)
    assert logits.shape == (*IMAGES.shape[:3], 2) and logits.dtype == np.float32
    for b in range(K):
        plain = apply(MODEL.clone(num_branches=1))
        asked = np.flatnonzero(BRANCH == b)
        alone, _ = plain(of_branch(variables, b), IMAGES[asked], np.zeros(len(asked), np.int32))
        np.testing.assert_allclose(alone, logits[asked], rtol=1e-4, atol=1e-4)
    by_branch = [apply(MODEL)(variables, IMAGES[:1], np.int32([b]))[0] for b in range(K)]
    assert np.abs(by_branch[0] - by_branch[1]).max() > 1e-2


def test_blocks_see_beyond_the_convolutions():
    """A pixel reaches farther than in the U-Net of these widths, not only by the sample's norm."""
    image = jnp.zeros((1, 48, 48, 1))

    def reach(model):
        variables = jax.tree.map(jnp.asarray, draw(model))

        def logit(image):
            return model.apply(variables, image, jnp.zeros(1, jnp.int32))[0][0, 0, 0, 1]

        gradient = jax.jit(jax.grad(logit), compiler_options=FAST)(image)[0, ..., 0]
        return int(np.max(np.nonzero(np.abs(gradient))[0]))

    sizes = {"widths": (3, 4, 6), "norm": "channel"}
    far = reach(UNet(depths=(2,), num_heads=(2,), window_size=4, **sizes))
    assert far > reach(UNet(**sizes))


def test_remat_changes_nothing():
    variables = draw(MODEL)

    def results(model):
        def loss(params):
            given = {"params": params, "domain_stats": variables["domain_stats"]}
            (logits, out), state = model.apply(
                given, IMAGES, BRANCH, train=True, mutable=["domain_stats"]
            )
            return jnp.square(logits - 1).sum(), (out["moments"], state)

        call = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST)
        return jax.device_get(call(variables["params"]))

    again = MODEL.clone(remat=True)
    assert jax.tree.structure(shapes_of(again)) == jax.tree.structure(shapes_of(MODEL))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max()),
        results(MODEL),
        results(again),
    )


def test_bfloat16_is_near_float32():
    variables = draw(MODEL)
    logits, out = apply(MODEL.clone(dtype=jnp.bfloat16))(variables, IMAGES, BRANCH)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, out))} == {jnp.dtype("float32")}
    exact, _ = apply(MODEL)(variables, IMAGES, BRANCH)
    assert np.sqrt(np.mean(np.square(logits - exact))) < 0.05 * np.std(exact)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"depths": (2,)}, r"depths \(2,\) and num_heads \(2, 4\)"),
        ({"widths": (8,)}, r"which widths \(8,\) makes 1"),
        ({"num_heads": (3, 4)}, "3 heads do not divide the 32 channels"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(given, complaint):
    with pytest.raises(UserError, match=complaint):
        conv_swin_unet.build(network("conv_swin_unet", **given), 1)


def test_statistics_of_whole_layers_are_refused_for_batch_norms():
    settings = dataclasses.replace(network("conv_swin_unet"), norm="batch", statistics="layer")
    with pytest.raises(UserError, match="norm=batch"):
        settings.check()


def test_the_least_side_is_a_pixel_of_the_last_scale():
    side, why = conv_swin_unet.least_side(network("conv_swin_unet"))
    assert (side, why) == (8, "4 scales")
    model = UNet(norm="sample", **PRESETS["dots"]._asdict())
    logits, _ = jax.eval_shape(
        model.apply,
        shapes_of(model),
        jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
    )
    assert logits.shape == (1, side, side, 2)
