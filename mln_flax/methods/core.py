"""What a method is: pure functions of a state that training carries and of what is kept of it.

A file of this room, or `method.py` in a folder of it, offers its method as `KIND`; `method.name`
is the name of the file or the folder.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
import optax

from mln_flax.data.images import Images
from mln_flax.metrics.decision import OperatingPoint, decide
from mln_flax.results.study import PLAIN, Study
from mln_flax.types import Batch, Record

SCORE = "validation_dsc"  # what every validation holds: the higher, the better the state


class TrainState(NamedTuple):
    """All that training needs to go on, for methods of one network and one optimizer.

    Others may have any pytree with a `step`. One with `params` can start from a PyTorch
    checkpoint or a trained model, and its `to_tree` keeps them under that name.
    """

    step: Any  # int32 scalar: optimizer steps done
    params: Any
    domain_stats: Any  # running statistics of the norms
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What the network is applied with."""
        return {"params": self.params, "domain_stats": self.domain_stats}


class Answers(NamedTuple):
    """What a method says of N images: maps by name, and which of them answers for each image."""

    maps: dict[str, np.ndarray]  # name -> float32 [N, H, W]: probability of a calcification
    points: dict[str, OperatingPoint]  # name -> what of that map is marked
    chosen: Sequence[str]  # [N]: the name of the map that answers
    facts: Sequence[Record]  # [N]: what the record of each image holds beside its scores
    kept: Sequence[Any] = ()  # [N] or nothing: what `further` is given, beside the records

    def mask(self, i: int, name: str = "") -> np.ndarray:
        """The mask bool [H, W] of image i by a map; without a name by the one that answers."""
        name = name or self.chosen[i]
        return decide(self.maps[name][i], self.points[name])


class Explanation(NamedTuple):
    """Why a method answered as it did for the tiles of one image."""

    why: Record  # plain numbers and names
    maps: dict[str, np.ndarray]  # name -> float32 [n, H, W], of each tile


class Method(NamedTuple):
    """What is trained and how it answers, all of it pure functions.

    `update` is written for one device of several, with the device axis named 'batch'; it gives
    the same result on every device. Its scalars hold a "loss". Images to answer are float32
    [N, H, W] in [0, 1]; the answer for one depends on no other, but where several share what
    `look` saw of them.
    """

    model: nn.Module
    init: Callable[[Any, Batch], Any]  # (random key, batch) -> state
    update: Callable[[Any, Batch], tuple[Any, dict[str, Any]]]  # (state, batch) -> state, scalars
    validate: Callable[[Any, Images], Record]  # (state, source validation) -> scalars with SCORE
    # (state, source training images, source validation) -> what is kept for answering
    fit: Callable[[Any, Images, Images], Any]
    # (fitted, images) -> the maps that answer. Of a method with `look` also (fitted, images,
    # common): `common` [N, ...] is what it saw, summed over the images that share a choice.
    answer: Callable[..., Answers]
    answer_all: Callable[[Any, np.ndarray], Answers]  # (fitted, images) -> every map, for records
    # (fitted, images) -> [N, ...]: what decides how an image is answered; None: nothing does
    look: Callable[[Any, np.ndarray], np.ndarray] | None = None
    level: str = "image"  # what shares a choice in prediction: an "image", a "case", the "domain"
    # Of each of the k that `look` weighs: whether it is for inverted images (None: for both), so
    # that the air of a whole image may leave some out; () where nothing but `look` may choose.
    inverted: tuple[bool | None, ...] = ()
    # (fitted, source test images, image records, their `kept`) -> more lines for the records
    further: Callable[[Any, Images, Sequence[Record], Sequence[Any]], list[Record]] | None = None
    # fitted -> a function that jax can trace, of images [B, H, W] each by itself, which answers by
    # the run's settings -> {"probability": [B, H, W], "branch": int32 [B], ...}. Of a method with
    # `look` also of (images, common), and "look": what that gives of the images.
    traced: Callable[[Any], Callable[..., dict[str, Any]]] | None = None
    # (fitted, shares [B, k], images [B, H, W]) -> probability [B, H, W] in an answer to which the
    # branches contribute so (one share 1 where there are none); jax can trace it
    probability: Callable[[Any, Any, Any], Any] | None = None
    # (fitted, tiles [n, H, W] of one image, what `look` saw for all that share its choice, [k], or
    # None for the tiles' own) -> why it answers so
    explain: Callable[[Any, np.ndarray, np.ndarray | None], Explanation] | None = None


class Ingredients(NamedTuple):
    """What a method is built from, beside its own settings."""

    network: Callable[[int], nn.Module]  # number of branches -> the network
    optimizer: optax.GradientTransformation
    view_names: tuple[str, ...]
    side: int  # height and width of the images it answers for, pixels
    chunk: int  # images that go through the network in one pass
    seed: int
    accumulate: int = 1  # parts in which a step's rows go through the network
    devices: Any = None  # on which images are answered for; None: all local ones


class Kind(NamedTuple):
    """A kind of method, as its file offers it."""

    settings: type  # a dataclass of its settings, with a `name`
    build: Callable[[Any, Ingredients], Method]  # of settings and ingredients
    to_tree: Callable[[Any], dict[str, Any]]  # what is kept, as nested dicts of arrays
    from_tree: Callable[[dict[str, Any]], Any]  # and back; KeyError where something is missing
    study: Study = PLAIN  # what only its records show
    takes_unlabeled: bool = False  # whether `update` knows rows without a label
    takes_parts: bool = False  # whether `update` can go through a batch in parts


def point_tree(point: OperatingPoint) -> dict[str, Any]:
    """An operating point as arrays; `OperatingPoint(**tree)` is the way back."""
    return {name: np.float64(value) for name, value in point._asdict().items()}
