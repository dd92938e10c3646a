"""Which branch answers for an image: bank, distances, selection, combination (Eq. 16-20).

Pure functions of arrays. Permuting images permutes answers, and nothing is learned at test time.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mln_flax.methods.mln.image_rules import ImageBank
from mln_flax.registry import nearest
from mln_flax.types import Moments, UserError

METRICS = ("cosine", "euclidean", "standardized", "literal")
# A rule with the paper's "+" -> its metric.
WITH_FOREGROUND = {"cosine+": "cosine", "euclidean+": "euclidean"}
BY_MOMENTS = (*METRICS, *WITH_FOREGROUND)
BY_IMAGE = ("image", "polarity")  # before the network has run
SELECTIONS = (*BY_MOMENTS, *BY_IMAGE)
ANSWERS = ("branch", "weighted", "mixed", "entropy", "union")
BY_PROBABILITIES = ("weighted", "mixed")  # answers that only `polarity` can give
BY_MAPS = ("entropy", "union")  # answers that need the maps of all branches
MIXINGS = ("probabilities", "polarity")
SUREST = 10.0  # minus the log of a probability: the most that one image says against a branch
TINY = 1e-12
NEGLIGIBLE = 0.05  # a smaller share of a branch is none


class Bank(NamedTuple):
    """What the source's training images look like in each branch."""

    mean: Moments  # layer -> (mean [k, C], std [k, C]): averages of the images' own moments
    spread: Moments  # the same form: their standard deviation over images
    image: ImageBank


def check_metric(metric: str, known: tuple[str, ...] = METRICS) -> None:
    """Raises UserError for an unknown metric, naming the nearest known one."""
    if metric not in known:
        raise UserError(
            f"unknown selection {metric!r}{nearest(metric, known)}; known: {', '.join(known)}"
        )


def distances(
    bank: Mapping[str, tuple[Any, Any]],
    moments: Mapping[str, tuple[Any, Any]],
    metric: str = "cosine",
    spread: Mapping[str, tuple[Any, Any]] | None = None,
) -> jax.Array:
    """How far each image is from each branch: [B, k], smaller is nearer.

    - "cosine": 1 - cosine similarity, summed over layers and over mean and deviation. Eq. 18-20
      read as they must be meant: the smallest *distance* wins.
    - "literal": Eq. 18-20 as they are printed, the smallest *similarity* wins; for study.
    - "euclidean": the length of the difference, summed likewise (the paper's -E).
    - "standardized": the squared difference over the source images' own spread, averaged over
      the channels of all layers.

    Args:
      bank: layer -> (mean [k, C], std [k, C]).
      moments: layer -> (mean [B, k, C], std [B, k, C]), of B images in all k branches.
      metric: one of METRICS.
      spread: for "standardized", in the form of the bank.

    Raises:
      UserError: the metric is unknown.
      ValueError: "standardized" without a spread, or layers that differ.
    """
    return layer_distances(bank, moments, metric, spread).sum(axis=1)


def layer_distances(
    bank: Mapping[str, tuple[Any, Any]],
    moments: Mapping[str, tuple[Any, Any]],
    metric: str = "cosine",
    spread: Mapping[str, tuple[Any, Any]] | None = None,
    order: Sequence[str] = (),
) -> jax.Array:
    """What each layer adds to `distances`: [B, layers, k].

    The sum over the first m layers chooses as `distances` of those layers alone would:
    "standardized" divides by the channels of all of them, which moves no minimum.

    Args:
      bank: as in `distances`, like what follows.
      moments: of B images in all k branches.
      metric: one of METRICS.
      spread: for "standardized".
      order: of the layers; without it they are sorted by name.
    """
    check_metric(metric)
    if set(bank) != set(moments):
        raise ValueError(f"layers differ: {sorted(set(bank) ^ set(moments))}")
    if metric == "standardized" and spread is None:
        raise ValueError("metric 'standardized' needs the spread of the source images")
    shares, channels = [], 0
    for layer in order or sorted(bank):
        share = jnp.zeros(())
        for i, (center, value) in enumerate(zip(bank[layer], moments[layer], strict=True)):
            center = jnp.asarray(center)[None]
            if metric == "standardized":
                deviation = jnp.maximum(jnp.asarray(spread[layer][i]), TINY)[None]  # type: ignore[index]
                share = share + jnp.square((value - center) / deviation).sum(axis=-1)
                channels += value.shape[-1]
            elif metric == "euclidean":
                share = share + jnp.linalg.norm(value - center, axis=-1)
            else:
                similarity = _cosine(center, jnp.asarray(value))
                share = share + (similarity if metric == "literal" else 1 - similarity)
        shares.append(share)
    stacked = jnp.stack(shares, axis=1)
    return stacked / channels if metric == "standardized" else stacked


def with_foreground(
    moments: Mapping[str, tuple[Any, Any]], foreground: Any
) -> dict[str, tuple[Any, Any]]:
    """The moments with the foreground's mean gray as one more number in the mean of every layer.

    The paper's correctional mean (section 5.1.2). Of a bank [k, C] with foreground [k], or of
    moments [B, k, C] with foreground [B], which is the same in all branches.
    """
    first = next(iter(moments.values()))[0]
    gray = jnp.asarray(foreground, jnp.float32).reshape((-1,) + (1,) * (first.ndim - 1))
    gray = jnp.broadcast_to(gray, (*first.shape[:-1], 1))
    return {
        layer: (jnp.concatenate([jnp.asarray(mean), gray], axis=-1), std)
        for layer, (mean, std) in moments.items()
    }


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    lengths = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return (a * b).sum(axis=-1) / jnp.maximum(lengths, TINY)


def pooled(distances: Any, rule: str) -> Any:
    """What images add to a choice that they share with others: distances [N, k] to be summed.

    `polarity` gives logarithms of probabilities, and Gaussians are surest where they know least:
    one tile of an edge or a label could outvote a whole breast. So no image takes a branch for
    less probable than e^-SUREST.
    """
    return distances.clip(max=SUREST) if rule == "polarity" else distances


def select(distances: Any) -> Any:
    """The nearest branch of each image: [..., k] -> int32 [...]; the first one where two tie.

    Of numpy arrays in numpy: jax would round float64 first.
    """
    return distances.argmin(axis=-1).astype(np.int32)


def weights(distances: Any, temperature: float = 1.0) -> Any:
    """Shares of the branches in a weighted answer: [B, k] -> float32 [B, k], their sums 1.

    softmax(-distance / temperature), which for distances that are minus the log of a probability
    and temperature 1 is that probability. Branches below NEGLIGIBLE have no share, but for the
    nearest: they need not be run. Of numpy arrays in numpy, of jax arrays in jax.
    """
    xp = distances.__array_namespace__()
    likeness = xp.exp((distances.min(axis=1, keepdims=True) - distances) / temperature)
    every = likeness / likeness.sum(axis=1, keepdims=True)
    least = xp.minimum(every.max(axis=1, keepdims=True), NEGLIGIBLE)  # of many, all may be small
    shares = xp.where(every < least, 0, every)
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def mixing_weights(
    distances: Any, mixing: str, temperature: float, inverted: Sequence[bool]
) -> Any:
    """Weights of the branches in a mixture of their affines: [B, k] -> float32 [B, k], sums 1.

    "probabilities": see `weights`; "polarity": the branches of the likelier polarity alike, whose
    probabilities are added up on either side.

    Args:
      distances: minus the logs of the branches' probabilities; of numpy arrays in numpy, of jax
        arrays in jax.
      mixing: one of MIXINGS.
      temperature: of "probabilities".
      inverted: whether each branch is of inverted views.
    """
    if mixing == "probabilities":
        return weights(distances, temperature)
    xp = distances.__array_namespace__()
    likeness = xp.exp(distances.min(axis=1, keepdims=True) - distances)
    side = np.asarray(inverted, np.float32)
    of_inverted = (likeness * side[None]).sum(axis=1, keepdims=True)
    of_upright = (likeness * (1 - side)[None]).sum(axis=1, keepdims=True)
    right = xp.where(of_inverted > of_upright, side[None], 1 - side[None])
    return (right / right.sum(axis=1, keepdims=True)).astype(np.float32)


def balanced_entropy(probability: Any) -> Any:
    """How unsure maps are, [..., H, W] -> [...], in [0, ln 2].

    The mean entropy of the pixels with p >= 0.5 and that of the others, each counted half: else
    the few pixels of a lesion would count nothing beside the background. A side without a pixel
    counts as wholly unsure: a branch that finds nothing is not the surest one for it.
    """
    xp = probability.__array_namespace__()
    p = xp.clip(probability, TINY, 1.0)
    q = xp.clip(1 - probability, TINY, 1.0)
    entropy = -(p * xp.log(p) + q * xp.log(q))
    inside = (probability >= 0.5).astype(np.float32)
    halves = []
    for side in (inside, 1 - inside):
        count = side.sum(axis=(-2, -1))
        mean = (entropy * side).sum(axis=(-2, -1)) / xp.maximum(count, 1)
        halves.append(xp.where(count > 0, mean, np.float32(np.log(2))))
    return (halves[0] + halves[1]) / 2


def entropy_weights(probability: Any, temperature: float) -> Any:
    """Weights of the branches by how sure their maps are: [B, k, H, W] -> float32 [B, k], sums 1.

    softmax(-balanced entropy / temperature). It needs the maps of all k branches, so all k passes.
    """
    return _softmax(-balanced_entropy(probability) / temperature).astype(np.float32)


def _softmax(values: Any) -> Any:
    """Along the last axis, in numpy or jax."""
    likeness = values.__array_namespace__().exp(values - values.max(axis=-1, keepdims=True))
    return likeness / likeness.sum(axis=-1, keepdims=True)


def shares(
    distances: Any,
    answer: str,
    temperature: float = 1.0,
    mixing: str = "probabilities",
    inverted: Sequence[bool] = (),
) -> Any:
    """What each branch contributes to an answer by its distances: [B, k] -> float32 [B, k].

    "branch": the nearest alone; "weighted": see `weights`; "mixed": see `mixing_weights`;
    "union" and "entropy": all branches, whose maps say the rest in `merged`.

    Args:
      distances: [B, k].
      answer: one of ANSWERS.
      temperature: of "weighted" and "mixed".
      mixing: of "mixed".
      inverted: likewise: whether each branch is of inverted views.
    """
    if answer == "weighted":
        return weights(distances, temperature)
    if answer == "mixed":
        return mixing_weights(distances, mixing, temperature, inverted)
    xp = distances.__array_namespace__()
    if answer in BY_MAPS:
        return xp.ones_like(distances, dtype=np.float32)
    return xp.eye(distances.shape[1], dtype=np.float32)[select(distances)]


def merged(
    probabilities: Any, shares: Any, answer: str, entropy_temperature: float
) -> tuple[Any, Any]:
    """The shares [B, k] of the branches, and one answer [B, ...] out of their maps [B, k, ...].

    Given are the shares by the distances. Not for "mixed", which has no maps of branches.
    """
    if answer == "union":
        return shares, combine(probabilities)
    if answer == "entropy":
        shares = entropy_weights(probabilities, entropy_temperature)
    return shares, combine(probabilities, shares)


def combine(probabilities: Any, shares: Any = None) -> Any:
    """One answer out of all branches: [B, k, ...] -> [B, ...].

    Without shares the union of the branches (the paper's -R): the largest probability. With
    shares [B, k] their mean weighted by them.
    """
    if shares is None:
        return probabilities.max(axis=1)
    return (shares.reshape(shares.shape + (1,) * (probabilities.ndim - 2)) * probabilities).sum(1)
