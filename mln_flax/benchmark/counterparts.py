"""What the PyTorch network that does the work of one of ours is called, and is made of."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mln_flax.config import Config
from mln_flax.models.swin_unet import SwinUnet
from mln_flax.models.unet import UNet
from mln_flax.types import UserError


class Counterpart(NamedTuple):
    """A class of a user's PyTorch file, for one kind of network of ours."""

    class_name: str
    sizes: Callable[[Any, int], dict[str, Any]]  # (our model, side of images) -> its arguments
    same_work: Mapping[str, tuple[Any, ...]]  # the values of settings that both know
    side_fits: str  # the size of ours to which an image's side must fit
    unread: Callable[[Any, int], int]  # how many of our parameters images of that side do not read


def of(config: Config, flag: str) -> Counterpart:
    """What a config's network is timed against.

    Raises:
      UserError: nothing is known for such a network, or the settings ask for work that a plain
        PyTorch network and its train step do not do; `flag` says what asked for one.
    """
    name = config.model.name
    if name not in COUNTERPARTS:
        raise UserError(
            f"{flag}: model.name={name} has no PyTorch counterpart; allowed is "
            f"model.name={' or '.join(COUNTERPARTS)}"
        )
    counterpart = COUNTERPARTS[name]
    for path, allowed in {**counterpart.same_work, **TRAIN_STEP}.items():
        group, field = path.split(".")
        value = getattr(getattr(config, group), field)
        if value not in allowed:
            raise UserError(
                f"{flag}: does other work than {path}={value}; "
                f"set --config.{path}={' or '.join(map(str, allowed))}"
            )
    return counterpart


def swin_unet_sizes(model: SwinUnet, side: int) -> dict[str, Any]:
    """The arguments of a PyTorch Swin-Unet."""
    return {
        "img_size": side,
        "patch_size": model.patch_size,
        "window_size": model.window_size,
        "embed_dim": model.embed_dim,
        "num_heads": model.num_heads,
        "depths": model.depths,
        "in_chans": 1,
        "num_classes": model.num_classes,
    }


def unread_positions(model: SwinUnet, side: int) -> int:
    """Entries of position tables for distances that do not occur in images of `side` pixels.

    A window no smaller than the map is cut to it. Ours keeps the table of the whole window, so
    that weights fit images of any size; public PyTorch code makes a smaller one.
    """
    last, count = len(model.depths) - 1, 0
    deepest = -(-side // (model.patch_size * 2**last))  # images are continued to whole tokens there
    for stage, (depth, heads) in enumerate(zip(model.depths, model.num_heads, strict=True)):
        window = min(model.window_size, deepest * 2 ** (last - stage))
        rows = (2 * model.window_size - 1) ** 2 - (2 * window - 1) ** 2
        passes = 1 if stage == last else 2  # on the way down, and up again
        count += rows * heads * depth * passes
    return count


def unet_sizes(model: UNet, side: int) -> dict[str, Any]:
    """The arguments of a PyTorch U-Net, which takes any image that can be halved at every stage."""
    return {
        "in_chans": 1,
        "num_classes": model.num_classes,
        "widths": model.widths,
        "norm": model.norm,
    }


TRAIN_STEP: dict[str, tuple[Any, ...]] = {  # as `yardstick.train` makes it
    "method.foreground_only": (False,),
    "method.cross_entropy": (0.0,),
    "optim.name": ("adam",),
    "optim.clip_norm": (0.0,),
}
COUNTERPARTS = {  # by model.name
    "swin_unet": Counterpart(
        "SwinUnet",
        swin_unet_sizes,
        {"model.mlp_ratio": (4.0,), "model.drop_path_rate": (0.0,)},
        "window_size",
        unread_positions,
    ),
    "unet": Counterpart(
        "UNet",
        unet_sizes,
        {"model.norm": ("sample", "instance", "batch")},  # of one call of torch.nn each
        "widths",
        lambda model, side: 0,
    ),
}
