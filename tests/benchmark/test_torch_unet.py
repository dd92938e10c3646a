"""The PyTorch U-Net beside the tests is ours: the same parameters, the same logits."""

import pathlib

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mln_flax.models import core
from mln_flax.models.unet import PRESETS, UNet
from mln_flax.settings import from_python

torch = pytest.importorskip("torch")

FILE = pathlib.Path(__file__).with_name("torch_unet.py")
FAST = {"xla_backend_optimization_level": 0}
NORMS = ("sample", "instance", "batch")
WIDTHS = (4, 6, 8)
IMAGES = np.random.default_rng(0).random((3, 16, 24, 1), np.float32)


def torch_unet(widths, norm):
    network = from_python(str(FILE), "the file", lambda module: module.UNet)
    return network(in_chans=1, num_classes=2, widths=widths, norm=norm)


def shapes(model):
    image, branch = IMAGES, np.zeros(len(IMAGES), np.int32)
    return jax.eval_shape(model.init, jax.random.key(0), image, branch)["params"]


def drawn(model):
    """Random parameters, none of them at its start: by the paths of ours."""
    rng = np.random.default_rng(1)
    flat = flax.traverse_util.flatten_dict(shapes(model), sep="/")
    return {path: rng.normal(scale=0.5, size=leaf.shape) for path, leaf in flat.items()}


def in_torch(path, value):
    """The name and the array by which PyTorch knows a parameter of ours."""
    *parents, module, leaf = path.split("/")
    name = {"kernel": "weight", "scale": "weight", "bias": "bias"}[leaf]
    if module == "head":
        return f"head.{name}", value.T[..., None, None] if leaf == "kernel" else value
    if "upsample" in path:
        level = (parents or [module])[0].removeprefix("upsample_")
        if leaf == "kernel":  # four kernels in the order of the pixels that they make
            value = value.reshape(len(value), 2, 2, -1).transpose(0, 3, 1, 2)
        return f"upsample.{level}.{name}", value
    side, level = parents[0].split("_")
    # A convolution, a norm and a ReLU, twice.
    layer = {"conv1": 0, "norm1": 1, "conv2": 3, "norm2": 4}[module]
    first = side == "down" and level == "0"
    place = "first" if first else f"{side}.{int(level) - (side == 'down')}"
    if module.startswith("norm"):
        value = value[0]  # of the one branch
    elif leaf == "kernel":
        value = value.transpose(3, 2, 0, 1)
    return f"{place}.{layer}.{name}", value


@pytest.mark.parametrize("norm", NORMS)
def test_equal_parameters_have_equal_logits(norm):
    model = UNet(widths=WIDTHS, norm=norm)
    params = drawn(model)
    network = torch_unet(WIDTHS, norm).train()  # by which "batch" takes the batch's own moments
    theirs = dict(in_torch(path, value) for path, value in params.items())
    own = dict(network.named_parameters())
    assert set(theirs) == set(own) and len(theirs) == len(params)
    with torch.no_grad():
        for name, value in theirs.items():
            assert own[name].shape == value.shape
            own[name].copy_(torch.from_numpy(value))
        found = network(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2)))

    def logits(params):
        return model.apply({"params": params}, IMAGES, jnp.zeros(len(IMAGES), int), train=True)[0]

    tree = flax.traverse_util.unflatten_dict(
        {path: value.astype(np.float32) for path, value in params.items()}, sep="/"
    )
    wanted = np.asarray(jax.jit(logits, compiler_options=FAST)(tree))
    assert wanted.std() > 0.1
    np.testing.assert_allclose(found.numpy().transpose(0, 2, 3, 1), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_the_published_widths_have_as_many_parameters(norm):
    model = UNet(widths=PRESETS["unet"].widths, norm=norm)
    with torch.device("meta"):
        network = torch_unet(model.widths, norm)
    ours = sum(core.parameters(shapes(model)).values())
    assert sum(each.numel() for each in network.parameters()) == ours
