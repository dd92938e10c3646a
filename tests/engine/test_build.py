"""Which network a config describes, and what is refused before anything is made of it."""

import jax
import jax.numpy as jnp
import pytest
import tiny

from mln_flax.engine.build import build, networks
from mln_flax.models.swin_unet import SwinUnet
from mln_flax.models.unet import UNet
from mln_flax.types import AXIS, UserError

UNET = {"model__name": "unet", "model__preset": "unet_demo"}


def test_the_default_is_the_swin_unet():
    model = build(tiny.config()).model
    assert isinstance(model, SwinUnet) and model.embed_dim == 8 and model.axis_name == AXIS


def test_a_unet_takes_its_preset_and_the_settings_of_every_network():
    model = build(tiny.config(**UNET)).model
    assert isinstance(model, UNet)
    assert (model.widths, model.norm, model.num_branches) == ((8, 16, 32, 64), "channel", 3)
    changes = {
        "model__widths": "4,8",
        "model__norm": "batch",
        "model__dtype": "bfloat16",
        "model__remat": "true",
        "method__momentum": "0.5",
        "method__branch_map": "shared",
    }
    model = build(tiny.config(**UNET, **changes)).model
    assert model == UNet(
        num_branches=1,
        widths=(4, 8),
        norm="batch",
        dtype=jnp.dtype("bfloat16"),
        remat=True,
        momentum=0.5,
        axis_name=AXIS,
    )
    assert build(tiny.config(**UNET, model__statistics="layer")).model.statistics == "layer"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model__name": "unett"},
            "name=unett: unknown .did you mean 'unet'..; known: swin_unet, ",
        ),
        ({"model__name": "unet"}, "unknown preset 'demo'.*=unet: unet, unet_narrow, unet_demo$"),
        (
            {"model__preset": "unet_demo"},
            "unknown preset 'unet_demo'.*net: tiny, small, demo$",
        ),
        ({"model__norm": "batch"}, "norm=batch: swin_unet has .* only; allowed is channel"),
        (UNET | {"model__pretrained": "a.npz"}, "pretrained=a.npz: is for model.name=swin_unet"),
        (
            UNET | {"model__norm": "batch", "model__statistics": "layer"},
            "norm=batch: .* allowed is model.statistics=channel",
        ),
        (
            UNET | {"model__widths": "2,2,2,2,2,2,2"},
            "data.size=32: this network needs 64 pixels or more .7 stages",
        ),
        (
            UNET | {"model__widths": "2,2,2,2,2,2"},
            "views.crop=0.75 gives 24 pixels: this network needs 32 pixels or more",
        ),
    ],
)
def test_what_cannot_work_is_refused(changes, message):
    with pytest.raises(UserError, match=f"^--config.*{message}"):
        build(tiny.config(**changes))


@pytest.mark.parametrize("name", list(networks))
def test_every_network_keeps_the_contract(name):
    """Any height and width, a branch for each row, moments of every norm, float32 logits."""
    preset = {"swin_unet": "demo", "unet": "unet_demo"}[name]
    run = build(tiny.config(model__name=name, model__preset=preset))
    image = jax.ShapeDtypeStruct((5, 33, 50, 1), jnp.float32)
    branch = jax.ShapeDtypeStruct((5,), jnp.int32)
    variables = jax.eval_shape(run.model.init, jax.random.key(0), image, branch)
    logits, out = jax.eval_shape(run.model.apply, variables, image, branch)
    assert (logits.shape, logits.dtype) == ((5, 33, 50, 2), jnp.float32)
    flat = jax.tree_util.tree_leaves_with_path(variables["domain_stats"])
    assert len(flat) == 2 * len(out["moments"])
    assert all(leaf.shape[0] == 3 for _, leaf in flat)
