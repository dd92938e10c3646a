"""Which network a config describes, and what is refused before anything is made of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mln_flax.config import METHODS, NETWORKS
from mln_flax.engine.augment import augmented
from mln_flax.engine.build import build
from mln_flax.engine.states import empty_batch
from mln_flax.models.swin_unet import SwinUnet
from mln_flax.models.unet import UNet
from mln_flax.registry import kinds
from mln_flax.types import AXIS, Batch, UserError

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
        "model__momentum": "0.5",
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
        ({"model__heads": "3"}, ".model.heads: unknown setting 'heads'"),
        ({"model__norm": "batch"}, ".model.norm: unknown setting 'norm'; known here: num_cl"),
        (UNET | {"model__pretrained": "a.npz"}, ".model.pretrained: unknown setting 'pretr"),
        (
            UNET | {"model__preset": "demo"},
            ".model.preset=demo: unknown .did you mean 'unet_demo'..; known: unet, unet_narrow, ",
        ),
        ({"model__preset": "unet"}, ".model.preset=unet: unknown; known: tiny, small, demo$"),
        (
            UNET | {"model__norm": "batch", "model__statistics": "layer"},
            ".model.norm=batch: .* allowed is model.statistics=channel",
        ),
        (
            UNET | {"model__widths": "2,2,2,2,2,2,2"},
            ".data.size=32: this network needs 64 pixels or more .7 stages",
        ),
        (
            UNET | {"model__widths": "2,2,2,2,2,2"},
            ".views.crop=0.75 gives 24 pixels: this network needs 32 pixels or more",
        ),
        (
            {"method__name": "supervised", "train__accumulate": "2"},
            ".train.accumulate=2: method.name=supervised takes a batch in one part; allowed is 1",
        ),
        ({"train__accumulate": "4"}, ".train.accumulate=4: must divide the 6 rows of a batch, 2 i"),
        (
            {"data__unlabeled": "film,dbt"},
            ".data.unlabeled=film,dbt: method.name=mln trains on the source alone; leave it empty$",
        ),
        ({"views__augment": "jitter(2)"}, "jitter.2.: the strength must lie between 0 and 1"),
        ({"views__augment": "jitter(0.5, 1)"}, "augmentation 'jitter.0.5, 1.': wrong number"),
    ],
)
def test_what_cannot_work_is_refused(changes, message):
    with pytest.raises(UserError, match=message) as refused:
        build(tiny.config(**changes))
    assert "\n" not in str(refused.value)


PRESETS = {"swin_unet": "demo", "unet": "unet_demo"}  # small ones; others are taken as they are


def named_network(name):
    preset = {"model__preset": PRESETS[name]} if name in PRESETS else {}
    return {"model__name": name} | preset


@pytest.mark.parametrize("name", sorted(kinds(NETWORKS)))
def test_every_network_keeps_the_contract(name):
    """Any height and width, a branch for each row, moments of every norm, float32 logits."""
    run = build(tiny.config(**named_network(name)))
    image = jax.ShapeDtypeStruct((5, 33, 50, 1), jnp.float32)
    branch = jax.ShapeDtypeStruct((5,), jnp.int32)
    variables = jax.eval_shape(run.model.init, jax.random.key(0), image, branch)
    logits, out = jax.eval_shape(run.model.apply, variables, image, branch)
    assert (logits.shape, logits.dtype) == ((5, 33, 50, 2), jnp.float32)
    flat = jax.tree_util.tree_leaves_with_path(variables["domain_stats"])
    assert len(flat) == 2 * len(out["moments"])
    assert all(leaf.shape[0] == 3 for _, leaf in flat)


@pytest.mark.parametrize("network", sorted(kinds(NETWORKS)))
@pytest.mark.parametrize("method", sorted(kinds(METHODS)))
def test_every_method_steps_with_every_network(method, network):
    """A step keeps the state's form and gives numbers, on as many devices as there are."""
    names = {"method__name": method} | named_network(network)
    run = build(tiny.config(**names, views__augment="jitter(0.5),jitter(1)"))
    state = jax.eval_shape(run.method.init, jax.random.key(0), empty_batch(run))
    rows = Batch(*(np.repeat(field, 3, axis=0)[None] for field in empty_batch(run)))
    update = jax.pmap(run.method.update, AXIS, in_axes=(None, 0), out_axes=None)
    after, scalars = jax.eval_shape(update, state, rows)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert "loss" in scalars and all(s.shape == () for s in scalars.values())


def test_augmentation_changes_images_alone_and_by_step_and_seed():
    """The same at the same step, whenever a run began; of another step or seed another."""
    batch = Batch(
        image=np.full((2, 16, 16, 1), 0.5, np.float32),
        mask=np.ones((2, 16, 16), np.int32),
        view=np.zeros(2, np.int32),
        domain=np.array([0, 1], np.int32),
        labeled=np.array([True, False]),
        valid=np.array([True, True]),
    )

    class State(NamedTuple):
        step: Any

    def seen(step, seed, *names):
        update = augmented(lambda state, rows: (state, {"batch": rows}), names, seed)
        mapped = jax.pmap(update, AXIS, in_axes=(None, 0), out_axes=(None, 0))
        rows = Batch(*(field[None] for field in batch))
        return jax.tree.map(lambda x: x[0], mapped(State(np.int32(step)), rows)[1]["batch"])

    one, again = seen(3, 0, "jitter(0.5)"), seen(3, 0, "jitter(0.5)")
    assert one.image.shape == batch.image.shape and one.image.dtype == np.float32
    for name in ("mask", "view", "domain", "labeled", "valid"):
        np.testing.assert_array_equal(getattr(one, name), getattr(batch, name))
    np.testing.assert_array_equal(one.image, again.image)
    others = [one, batch, seen(4, 0, "jitter(0.5)"), seen(3, 1, "jitter(0.5)")]
    images = [np.asarray(other.image) for other in others]
    assert len({image.tobytes() for image in images}) == len(images)
    assert not np.array_equal(one.image[0], one.image[1])  # a draw for each row
    function = object()
    assert augmented(function, (), 0) is function
