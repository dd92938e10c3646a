"""A PyTorch Swin-Unet from a user's file, doing the same work as ours."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mln_flax.benchmark.timing import Program, Spread
from mln_flax.config import Config
from mln_flax.engine import input_pipeline
from mln_flax.methods.losses import SMOOTH
from mln_flax.models.swin_unet import SwinUnet
from mln_flax.settings import from_python
from mln_flax.types import UserError

SAME_WORK = {  # settings that a plain PyTorch network and its step know in one value only
    "model.name": "swin_unet",
    "model.mlp_ratio": 4.0,
    "model.drop_path_rate": 0.0,
    "method.foreground_only": False,
    "method.cross_entropy": 0.0,
    "optim.name": "adam",
    "optim.clip_norm": 0.0,
}


class Yardstick(NamedTuple):
    """PyTorch, and what a file makes of it."""

    torch: Any
    swin_unet: Callable[..., Any]
    config: Config
    model: SwinUnet  # ours, whose sizes are taken
    device: str
    compiled: dict[int, Any]  # by the side of their images; compiling takes a minute and more

    def network(self, side: int) -> Any:
        """A network for square images of `side` pixels, through torch.compile if that is asked for.

        Raises:
          UserError: as from `plain_network`.
        """
        if not self.config.benchmark.against_compiled:
            return self.plain_network(side)
        if side not in self.compiled:
            plain = self.plain_network(side)
            self.compiled[side] = self.torch.compile(plain, dynamic=False)  # each batch its own
        return self.compiled[side]

    def plain_network(self, side: int) -> Any:
        """The network as the file has it.

        Raises:
          UserError: the file's class takes other arguments, or these sizes do not fit it.
        """
        model = self.model
        try:
            return self.swin_unet(
                img_size=side,
                patch_size=model.patch_size,
                window_size=model.window_size,
                embed_dim=model.embed_dim,
                num_heads=model.num_heads,
                depths=model.depths,
                in_chans=1,
                num_classes=model.num_classes,
            ).to(self.device)
        except Exception as error:  # whatever a user's file may do
            raise UserError(
                f"--config.benchmark.against={self.config.benchmark.against}: SwinUnet: "
                f"{type(error).__name__}: {error}"
            ) from error

    def precision(self) -> Any:
        """The context in which a network computes in the type that the settings say."""
        if self.config.model.dtype == "float32":
            return contextlib.nullcontext()
        return self.torch.autocast(self.device, dtype=self.torch.bfloat16)

    def wait(self) -> None:
        """Returns when an accelerator has done its work."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def tensor(self, image: np.ndarray) -> Any:
        """Images [B, H, W] as [B, 1, H, W] on the device."""
        return self.torch.from_numpy(image[:, None]).contiguous().to(self.device)


def load(config: Config, model: Any, on_gpu: bool = False) -> Yardstick:
    """What `benchmark.against` names, with the sizes of `model`, a SwinUnet.

    Raises:
      UserError: no such file, no PyTorch, no SwinUnet in the file or one that does not fit, or
        settings under which it would do other work than ours.
    """
    path = config.benchmark.against
    flag = f"--config.benchmark.against={path}"
    if not Path(path).is_file():
        problem = "is a folder; give the file" if Path(path).is_dir() else "no such file"
        raise UserError(f"{flag}: {problem}")
    for name, wanted in SAME_WORK.items():
        group, field = name.split(".")
        if getattr(getattr(config, group), field) != wanted:
            raise UserError(
                f"{flag}: does other work than this config; set --config.{name}={wanted}"
            )
    try:
        import torch
    except ImportError:
        raise UserError(f"{flag}: torch is not installed; pip install torch") from None
    module = from_python(path, flag, lambda module: module)
    if not hasattr(module, "SwinUnet"):
        raise UserError(f"{flag}: has no class SwinUnet")
    torch.set_num_threads(input_pipeline.threads())
    torch.manual_seed(0)
    device = "cuda" if on_gpu and torch.cuda.is_available() else "cpu"
    other = Yardstick(torch, module.SwinUnet, config, model, device, compiled={})
    size = config.data.size
    for side in {size, config.views.crop_side(size)}:
        _check(other, side, flag)
    return other


def _check(other: Yardstick, side: int, flag: str) -> None:
    """Raises UserError where a network cannot be made, or does not answer an image with logits."""
    network = other.plain_network(side)  # compiling for one image alone would not pay
    with other.torch.no_grad():
        try:
            shape = tuple(network(other.tensor(np.zeros((1, side, side), np.float32))).shape)
        except Exception as error:  # whatever a user's file may do
            raise UserError(
                f"{flag}: SwinUnet: {side} x {side} pixels, windows of {other.model.window_size}: "
                f"{type(error).__name__}: {error}"
            ) from error
    wanted = (1, other.model.num_classes, side, side)
    if shape != wanted:
        raise UserError(f"{flag}: SwinUnet: answers with an array {shape}; wanted is {wanted}")


def forward(other: Yardstick, image: np.ndarray, passes: int = 1) -> Program:
    """`passes` passes of the same images [B, H, W], without gradients."""
    network, batch = other.network(image.shape[-1]), other.tensor(image)

    def program() -> None:
        network.eval()
        with other.torch.no_grad(), other.precision():
            for _ in range(passes):
                network(batch)
        other.wait()

    return program


def train(other: Yardstick, image: np.ndarray, mask: np.ndarray, steps: int = 1) -> Program:
    """`steps` passes of images and masks [B, H, W], each with its optimizer step."""
    torch, optim = other.torch, other.config.optim
    network, batch = other.network(image.shape[-1]), other.tensor(image)
    truth = torch.from_numpy(mask.astype(np.int64)).to(other.device)
    optimizer = torch.optim.Adam(
        network.parameters(),
        lr=optim.learning_rate,
        betas=(optim.b1, optim.b2),
        weight_decay=optim.weight_decay,
    )

    def program() -> None:
        network.train()
        for _ in range(steps):
            optimizer.zero_grad()
            with other.precision():
                logits = network(batch)
            dice_loss(torch, logits.float(), truth).backward()
            optimizer.step()
        other.wait()

    return program


def dice_loss(torch: Any, logits: Any, mask: Any) -> Any:
    """1 minus the mean soft Dice of all classes, of logits [B, classes, H, W]: as our one branch's.

    Eq. 14-15 with k = 1, as `losses.group_dice` and `losses.dice_loss` make it.
    """
    probability = torch.softmax(logits, 1)
    truth = torch.nn.functional.one_hot(mask, logits.shape[1]).permute(0, 3, 1, 2)
    overlap = (probability * truth).sum((0, 2, 3))
    size = (probability + truth).sum((0, 2, 3))
    return 1 - ((2 * overlap + SMOOTH) / (size + SMOOTH)).mean()


def programs(
    other: Yardstick,
    wanted: Collection[str],
    whole: np.ndarray,
    cut: tuple[np.ndarray, np.ndarray],
    views: int,
    branches: int,
) -> dict[str, Program]:
    """The work of our programs: a pass for each view or branch, since it has one branch.

    Args:
      other: what makes the networks.
      wanted: names of ours.
      whole: images to predict, [B, H, W].
      cut: images and masks to train on.
      views: of each image in our train step.
      branches: k.
    """
    work: dict[str, Program] = {}
    if "forward" in wanted:
        work["forward"] = forward(other, whole)
    if "train" in wanted:
        work["train"] = train(other, *cut)
    if "train_views" in wanted:
        work["train_views"] = train(other, *cut, steps=views)
    if {"predict", "predict_all"} & set(wanted):
        work["k passes"] = forward(other, whole, passes=branches)
        work["one batch"] = forward(other, np.repeat(whole, branches, axis=0))
    return work


def as_ours(spent: dict[str, Spread], wanted: Collection[str]) -> dict[str, Spread]:
    """Seconds under the names of our programs: all branches in the faster of the two ways."""
    ways = [spent[way] for way in ("k passes", "one batch") if way in spent]
    fastest = dict.fromkeys(("predict", "predict_all"), min(ways)) if ways else {}
    both = spent | fastest
    return {name: both[name] for name in both if name in wanted}


def uncompiled(other: Yardstick) -> Yardstick:
    """The same without torch.compile, through which operations cannot be counted."""
    benchmark = dataclasses.replace(other.config.benchmark, against_compiled=False)
    return other._replace(config=dataclasses.replace(other.config, benchmark=benchmark))


def matrix_flops(other: Yardstick, program: Program) -> int:
    """Operations of a program's matrix products and convolutions, as PyTorch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        program()
    return counter.get_total_flops()


def peak(other: Yardstick) -> int | None:
    """The most bytes that PyTorch held on an accelerator; None without one."""
    return other.torch.cuda.max_memory_allocated() if other.device == "cuda" else None
