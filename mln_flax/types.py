"""The words that every room of the package shares: Batch, Moments, Record, View."""

from collections.abc import Callable
from typing import Any, NamedTuple

AXIS = "batch"  # the name of the device axis in a train step

# Per norm (its path in the model): mean and standard deviation of its input over the positions
# of one image, one value per channel. Shapes: ([B, C], [B, C]) from one branch,
# ([B, k, C], [B, k, C]) where the same images went through all k branches.
Moments = dict[str, tuple[Any, Any]]

# One line of records.jsonl: plain strings, numbers, lists and dicts only.
Record = dict[str, Any]

# On the device: (key, image float32 [B, H, W], mask int32 [B, H, W], view int32 [B]) -> the two.
Augmentation = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


class Batch(NamedTuple):
    """Rows on their way to the device; a row is one view of one image.

    A row with `valid` False is padding and counts nowhere. One with `labeled` False is an image
    of a target without its label: its mask is zero and means nothing.
    """

    image: Any  # float32 [B, H, W, 1]
    mask: Any  # int32 [B, H, W]
    view: Any  # int32 [B]: the number of the view among the run's views
    domain: Any  # int32 [B]: 0 is the source, i the i-th of `data.unlabeled`
    labeled: Any  # bool [B]
    valid: Any  # bool [B]


class View(NamedTuple):
    """An intensity version: its exact name, and the same map in numpy, TensorFlow and jax.

    All take float32 [..., H, W] in [0, 1] and return the same shape and type; what depends on
    an image's own numbers is taken per image, over the last two axes.
    """

    name: str
    numpy: Callable[[Any], Any]
    tf: Callable[[Any], Any]
    jax: Callable[[Any], Any]


class UserError(ValueError):
    """What the user got wrong, in one or two lines; the door prints it and leaves with code 2."""
