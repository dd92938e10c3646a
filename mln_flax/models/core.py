"""What a file in this room offers under its name: settings, and the network that they describe."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mln_flax.config import NetworkSettings
from mln_flax.models import anscombe, moments
from mln_flax.types import AXIS, Moments


class Kind(NamedTuple):
    """A kind of network; a file calls its own `KIND`, and `model.name` is the file's name."""

    settings: type  # a dataclass of its settings, with a `name`
    build: Callable[[Any, int], nn.Module]  # (settings, number of branches)
    least_side: Callable[[Any], tuple[int, str]]  # smallest image in pixels, and why, of settings
    # (path of a PyTorch checkpoint, network, [1, H, W, 1]) -> parameters, and what became of each
    read_pretrained: Callable[[str, nn.Module, tuple[int, ...]], tuple[Any, str]] | None = None


def sizes_of(settings: Any, presets: Mapping[str, Any]) -> dict[str, Any]:
    """The preset's sizes, with those that the settings give themselves."""
    preset = presets[settings.preset]._asdict()
    own = {name: getattr(settings, name) for name in preset}
    return preset | {name: value for name, value in own.items() if value is not None}


def common(settings: NetworkSettings, num_branches: int) -> dict[str, Any]:
    """What every network is told: all settings but where its first weights come from."""
    names = [entry.name for entry in dataclasses.fields(NetworkSettings)]
    shared = {name: getattr(settings, name) for name in names if name != "init_from"}
    return shared | {
        "dtype": jnp.dtype(settings.dtype),
        "num_branches": num_branches,
        "axis_name": AXIS,
    }


def on_whole_pixels(
    network: Any, side: int, logits_of: Callable[[jax.Array], jax.Array], image: jax.Array
) -> tuple[jax.Array, dict[str, Moments]]:
    """What a network returns for images of any size: logits, and the moments of its norms.

    Args:
      network: tells `equalize_noise` and `dtype`.
      side: of a pixel of its deepest stage, in pixels of the image, which is continued at its edges
        to a multiple of them; the logits are cut back.
      logits_of: the network itself.
      image: [B, H, W, channels].
    """
    height, width = image.shape[1:3]
    image = anscombe.equalized(image) if network.equalize_noise else image
    padding = ((0, 0), (0, -height % side), (0, -width % side), (0, 0))
    image = jnp.pad(image.astype(network.dtype), padding, mode="edge")
    with moments.collected() as norm_moments:
        logits = logits_of(image)
    return logits[:, :height, :width], {"moments": norm_moments}


def all_branches(model: Any, variables: Any, image: Any) -> tuple[Any, Any]:
    """All k branches of images [B, H, W, 1] in one pass of B * k rows.

    Returns:
      Logits [B, k, H, W, classes], and moments: layer -> (mean [B, k, C], std [B, k, C]).
    """
    batch, k = image.shape[0], model.num_branches
    branch = jnp.tile(jnp.arange(k, dtype=jnp.int32), batch)
    logits, out = model.apply(variables, jnp.repeat(image, k, axis=0), branch, train=False)

    def by_image(x):
        return x.reshape(batch, k, *x.shape[1:])

    return by_image(logits), jax.tree.map(by_image, out["moments"])


def parameters(params: Any) -> dict[str, int]:
    """How many parameters lie at each path; of a norm those of all branches together."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return {path: int(np.prod(leaf.shape)) for path, leaf in flat.items()}


def is_per_branch(path: str) -> bool:
    """Whether a parameter exists once per branch: scale and bias of a norm."""
    module, leaf = path.split("/")[-2:]
    return module.startswith("norm") and leaf in ("scale", "bias")


def shared_and_per_branch(model: Any, params: Any) -> tuple[int, int]:
    """How many parameters all branches share, and how many each branch adds."""
    counts = parameters(params)
    per_branch = sum(n // model.num_branches for path, n in counts.items() if is_per_branch(path))
    return sum(n for path, n in counts.items() if not is_per_branch(path)), per_branch
