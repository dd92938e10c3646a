"""A PyTorch network from a user's file, doing the same work as ours."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mln_flax.benchmark import counterparts
from mln_flax.benchmark.counterparts import Counterpart
from mln_flax.benchmark.timing import Program, Spread
from mln_flax.config import Config
from mln_flax.engine import input_pipeline
from mln_flax.methods.losses import SMOOTH
from mln_flax.models import core
from mln_flax.settings import from_python
from mln_flax.types import UserError


class Yardstick(NamedTuple):
    """PyTorch, and what a file makes of it."""

    torch: Any
    network_class: Callable[..., Any]
    config: Config
    model: Any  # ours, whose sizes are taken
    device: str
    compiled: dict[int, Any]  # by the side of their images; compiling takes a minute and more

    @property
    def counterpart(self) -> Counterpart:
        """What the class is told."""
        return counterparts.COUNTERPARTS[self.config.model.name]

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
        """The network as the file has it, in the memory format that the settings say.

        Raises:
          UserError: the file's class takes other arguments, or these sizes do not fit it.
        """
        sizes = self.counterpart.sizes(self.model, side)
        try:
            network = self.network_class(**sizes).to(self.device)
            if self.config.benchmark.against_channels_last:
                network = network.to(memory_format=self.torch.channels_last)
            return network
        except Exception as error:  # whatever a user's file may do
            raise UserError(
                f"--config.benchmark.against={self.config.benchmark.against}: "
                f"{self.counterpart.class_name}: {type(error).__name__}: {error}"
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
        images = self.torch.from_numpy(image[:, None]).contiguous().to(self.device)
        if self.config.benchmark.against_channels_last:
            images = images.to(memory_format=self.torch.channels_last)
        return images


def load(config: Config, model: Any, on_gpu: bool = False) -> Yardstick:
    """What `benchmark.against` names, with the sizes of `model`, the config's network.

    Raises:
      UserError: no such file, no PyTorch, no class for this network in the file or one that does
        not fit, or settings under which it would do other work than ours.
    """
    path = config.benchmark.against
    flag = f"--config.benchmark.against={path}"
    if not Path(path).is_file():
        problem = "is a folder; give the file" if Path(path).is_dir() else "no such file"
        raise UserError(f"{flag}: {problem}")
    class_name = counterparts.of(config, flag).class_name
    try:
        import torch
    except ImportError:
        raise UserError(f"{flag}: torch is not installed; pip install torch") from None
    module = from_python(path, flag, lambda module: module)
    if not hasattr(module, class_name):
        raise UserError(f"{flag}: has no class {class_name}")
    torch.set_num_threads(input_pipeline.threads())
    torch.manual_seed(0)
    device = "cuda" if on_gpu and torch.cuda.is_available() else "cpu"
    other = Yardstick(torch, getattr(module, class_name), config, model, device, compiled={})
    size = config.data.size
    for side in {size, config.views.crop_side(size)}:
        _check(other, side, f"{flag}: {class_name}")
    return other


def _check(other: Yardstick, side: int, where: str) -> None:
    """Raises UserError where a network cannot be made, or is another than ours by what it shows.

    It must answer an image with logits, and have as many parameters to train.
    """
    network = other.plain_network(side)  # compiling for one image alone would not pay
    with other.torch.no_grad():
        try:
            shape = tuple(network(other.tensor(np.zeros((1, side, side), np.float32))).shape)
            count = sum(each.numel() for each in network.parameters() if each.requires_grad)
        except Exception as error:  # whatever a user's file may do
            name = other.counterpart.side_fits
            raise UserError(
                f"{where}: {side} x {side} pixels, {name} {getattr(other.model, name)}: "
                f"{type(error).__name__}: {error}"
            ) from error
    wanted = (1, other.model.num_classes, side, side)
    if shape != wanted:
        raise UserError(f"{where}: answers with an array {shape}; wanted is {wanted}")
    ours = parameters(other.model, side)
    allowed = sorted({ours, ours - other.counterpart.unread(other.model, side)})
    if count not in allowed:
        raise UserError(
            f"{where}: another network, of {count:,} parameters to train for {side} x {side} "
            f"pixels; ours has {' or '.join(f'{number:,}' for number in allowed)} in one branch"
        )


def parameters(model: Any, side: int) -> int:
    """How many parameters of our network one branch trains, for images of `side` pixels."""
    image = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
    branch = jax.ShapeDtypeStruct((1,), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), image, branch)["params"]
    return sum(core.shared_and_per_branch(model, params))


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
