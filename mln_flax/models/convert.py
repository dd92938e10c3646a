"""PyTorch Swin-Unet checkpoints -> parameters of our SwinUnet, with a report."""

import re
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

from mln_flax.types import UserError


class Report(NamedTuple):
    """What became of every name: nothing is dropped silently."""

    converted: dict[str, str]  # PyTorch name -> our path
    unused: tuple[str, ...]  # of the checkpoint
    missing: tuple[str, ...]  # of the model: still at their initial values
    summed: tuple[str, ...] = ()  # of the checkpoint: over its three input channels


# Buffers that public checkpoints carry and that follow from the architecture.
DERIVED = ("relative_position_index", "attn_mask")
PATCH_KERNEL = "patch_embed/proj/kernel"


def swin_unet_params(
    state_dict: Mapping[str, Any], model: Any, image_shape: tuple[int, ...], rng: Any = None
) -> tuple[dict[str, Any], Report]:
    """The parameters of `model` that a PyTorch Swin-Unet's state dict holds.

    Layer-norm weights are copied to every branch. A bias table of a smaller window (the public
    code shrinks windows that are larger than the map) goes to the middle of ours. The public code
    repeats a gray image to three channels; where the images here have one, the patch embedding is
    summed over its three inputs, which gives the same tokens.

    Args:
      state_dict: PyTorch names -> arrays, as in the public Swin-Unet code.
      model: a SwinUnet.
      image_shape: [B, H, W, channels] or [H, W, channels] of the images.
      rng: a jax key for what the checkpoint lacks; default PRNGKey(0).

    Raises:
      UserError: a stored array does not fit the model; the message names both.
    """
    image = jnp.zeros((1, *image_shape[-3:]), jnp.float32)
    rng = jax.random.PRNGKey(0) if rng is None else rng
    arguments = (rng, image, jnp.zeros(1, jnp.int32))
    shapes = _flat_params(jax.eval_shape(model.init, *arguments))
    params: dict[str, jax.Array] = {}
    converted, unused, summed = {}, [], []
    for name, value in state_dict.items():
        path = our_path(name)
        if path is None or path not in shapes:
            if name.rsplit(".", 1)[-1] not in DERIVED:
                unused.append(name)
            continue
        stored = np.asarray(value, np.float32)
        if path == PATCH_KERNEL and stored.ndim == 4:
            array = fit_patch_kernel(stored, model.patch_size, image.shape[-1])
        else:
            array = fit(stored, path, shapes[path].shape)
        if array is None or array.shape != shapes[path].shape:
            raise UserError(
                f"checkpoint: {name} of shape {tuple(np.shape(value))} does not fit {path} "
                f"of shape {shapes[path].shape}"
            )
        params[path] = jnp.asarray(array)
        converted[name] = path
        if stored.size != array.size and path == PATCH_KERNEL:
            summed.append(name)
    if not converted:
        raise UserError(
            f"checkpoint: none of its {len(state_dict)} names is one of a PyTorch Swin-Unet"
        )
    missing = tuple(sorted(set(shapes) - set(params)))
    if missing:
        params = _flat_params(jax.jit(model.init)(*arguments)) | params
    ordered = {path: params[path] for path in shapes}
    nested = flax.traverse_util.unflatten_dict(ordered, sep="/")
    return nested, Report(converted, tuple(unused), missing, tuple(summed))


def _flat_params(variables: Any) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(variables["params"], sep="/")


def describe(report: Report) -> str:
    """Lines that say what became of a checkpoint's names."""
    lines = [f"checkpoint: {len(report.converted)} arrays converted"]
    if report.summed:
        lines.append(f"summed over three equal input channels: {', '.join(report.summed)}")
    if report.unused:
        lines.append(f"not used: {', '.join(report.unused)}")
    if report.missing:
        lines.append(f"still at their initial values: {', '.join(report.missing)}")
    return "\n".join(lines)


def read_state_dict(path: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file whose keys are PyTorch names, with or without `param:`.

    Raises:
      UserError: the file is not there or holds no arrays.
    """
    try:
        # Opened here: np.load leaves its own file open where the zip is broken.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it holds other things than arrays")
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"--config.model.pretrained={path}: cannot be read ({error}); allowed is an .npz "
            "file whose keys are the PyTorch names"
        ) from None
    marked = {k.removeprefix("param:"): v for k, v in arrays.items() if k.startswith("param:")}
    return marked or arrays


def our_path(name: str) -> str | None:
    """`layers.0.blocks.1.attn.qkv.weight` -> `layers_0_blocks_1/attn/qkv/kernel`."""
    name = name.removeprefix("module.").removeprefix("swin_unet.")
    *parts, leaf = re.sub(r"\.(\d+)", r"_\1", name).split(".")
    if not parts:
        return None
    is_norm = parts[-1].startswith("norm")
    leaf = {"weight": "scale" if is_norm else "kernel"}.get(leaf, leaf)
    path = "/".join([*parts, leaf])
    path = path.replace("output/kernel", "up/output/kernel")  # our last expansion holds the head
    # A stage is no module of ours: its blocks and scale changes stand beside each other.
    return re.sub(r"^(layers(?:_up)?_\d+)/(blocks_\d+|downsample|upsample)", r"\1_\2", path)


def fit(value: np.ndarray, path: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array in our layout, or None where it cannot be."""
    leaf = path.rsplit("/", 1)[-1]
    if leaf == "kernel" and value.ndim == 4:  # convolution [out, in, height, width]
        value = value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
    elif leaf == "kernel":
        value = value.T
    elif leaf == "relative_position_bias_table":
        value = middle_of_table(value, shape)
    elif value.ndim == 1 and len(shape) == 2:  # layer norm: the same for every branch
        value = np.broadcast_to(value, (shape[0], *value.shape))
    return value if value.shape == shape else None


def fit_patch_kernel(value: np.ndarray, patch: int, channels: int) -> np.ndarray | None:
    """The kernel [out, in, patch, patch] in our layout, [patch * patch * channels, out], or None.

    A kernel of three inputs, for images of one channel, is summed over them: on one image three
    times this is the same product.
    """
    if value.shape[1] == 3 and channels == 1:
        value = value.sum(axis=1, keepdims=True)
    if value.shape[1:] != (channels, patch, patch):
        return None  # by its sides too: the same number of inputs may be other pixels
    return value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])


def middle_of_table(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A smaller window's bias table in the middle of a larger one; rows outside stay zero."""
    stored, ours = (round(rows**0.5) for rows in (value.shape[0], shape[0]))
    if stored >= ours or stored**2 != value.shape[0]:
        return value
    edge = (ours - stored) // 2
    grid = value.reshape(stored, stored, -1)
    return np.pad(grid, ((edge, edge), (edge, edge), (0, 0))).reshape(ours * ours, -1)
