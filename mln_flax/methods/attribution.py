"""Which pixels a marked cluster rests on, of any method that offers its `probability`."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from mln_flax.methods.core import Method
from mln_flax.types import Record

STEPS = 32  # between the filled image and the image itself
PART = 4  # steps that go through the network at once
BLUR_PX = 8.0  # wider than a calcification: what is left is the tissue around it
REMOVED = 0.1  # share of the box's pixels that the deletion check fills
DRAWS = 8  # random choices of as many pixels

Box = tuple[int, int, int, int]  # top, left, bottom, right; half open
Score = Callable[[Any, Any, Any], Any]  # `Method.probability`


class Deletion(NamedTuple):
    """What is lost of a cluster's score where a few pixels of its box are filled, 1: all of it."""

    drop: float  # of those with the largest attribution
    drop_random: float  # of as many that are drawn, the mean of several draws
    pixels: int  # how many


def filled(image: np.ndarray) -> np.ndarray:
    """A tile [H, W] in which every pixel has the gray of its surroundings: a strong blur of it."""
    return ndimage.gaussian_filter(np.asarray(image, np.float32), BLUR_PX, mode="reflect")


def attribution(
    method: Method, fitted: Any, facts: Record, image: np.ndarray, box: Box
) -> np.ndarray:
    """What each pixel adds to the probability that is summed over a box: float32 [H, W].

    Integrated gradients (Sundararajan, Taly and Yan 2017, Eq. 1) on the straight way from the
    `filled` image to the image itself, at Gauss-Legendre points. They add up to what the score
    of the image has more than that of the filled one. The branches that answered for the image
    answer all along the way.

    Args:
      method: one with `probability`.
      fitted: what it kept.
      facts: of the answer for this tile.
      image: the tile, [H, W] in [0, 1].
      box: of the cluster, in pixels of the tile.
    """
    image = np.asarray(image, np.float32)
    at, weight = np.polynomial.legendre.leggauss(STEPS)
    points = np.float32((at + 1) / 2), np.float32(weight / 2)
    start, inside = filled(image), _inside(image.shape, box)
    given = fitted, _shares(facts)
    return np.asarray(_integrated(_score(method), given, image, start, inside, *points))


@partial(jax.jit, static_argnums=0)
def _integrated(score: Score, given: Any, image, start, inside, at, weight) -> jax.Array:
    """The weighted mean of the gradients along the way, times the way: [H, W]."""
    fitted, shares = given

    def summed(images):
        rows = jnp.tile(shares, (len(images), 1))
        return (score(fitted, rows, images) * inside[None]).sum()

    def add(total, part):
        at, weight = (x[:, None, None] for x in part)
        gradient = jax.grad(summed)(start[None] + at * (image - start)[None])
        return total + (weight * gradient).sum(axis=0), None

    parts = at.reshape(-1, PART), weight.reshape(-1, PART)
    mean, _ = jax.lax.scan(add, jnp.zeros_like(image), parts)
    return mean * (image - start)


def score_of(
    method: Method, fitted: Any, facts: Record, images: np.ndarray, box: Box
) -> np.ndarray:
    """The probability of images [n, H, W] summed over a box, as one answer's branches give it: [n].

    About the number of pixels that are marked in it.
    """
    given, inside = (fitted, _shares(facts)), _inside(images.shape[1:], box)
    return np.asarray(_summed(_score(method), given, np.float32(images), inside))


@partial(jax.jit, static_argnums=0)
def _summed(score: Score, given: Any, images, inside) -> jax.Array:
    fitted, shares = given

    def of_one(image):
        return (score(fitted, shares, image[None])[0] * inside).sum()

    return jax.lax.map(of_one, images)  # one at a time, in the memory of a prediction


def deletion(
    method: Method,
    fitted: Any,
    facts: Record,
    image: np.ndarray,
    box: Box,
    attributed: np.ndarray,
) -> Deletion:
    """How much of a cluster's score rests on the pixels of its box that `attributed` marks most.

    A tenth of the box is filled from the blurred tile: those with the largest attribution, and,
    to compare, as many that are drawn in the same box.

    Args:
      method: as in `attribution`, like what follows.
      fitted: what it kept.
      facts: of the answer for this tile.
      image: the tile, [H, W].
      box: of the cluster.
      attributed: what `attribution` returned.
    """
    places = np.flatnonzero(_inside(image.shape, box))
    count = max(1, round(REMOVED * len(places)))
    rng = np.random.default_rng(0)
    most = places[np.argsort(-attributed.ravel()[places], kind="stable")[:count]]
    removed = [most, *(rng.choice(places, count, replace=False) for _ in range(DRAWS))]
    images = np.stack([image] * (1 + len(removed))).reshape(1 + len(removed), -1)
    start = filled(image).ravel()
    for row, pixels in zip(images[1:], removed, strict=True):
        row[pixels] = start[pixels]
    score = score_of(method, fitted, facts, images.reshape(-1, *image.shape), box)
    drop = 1 - score[1:] / max(score[0], np.finfo(np.float32).tiny)
    return Deletion(float(drop[0]), float(drop[1:].mean()), count)


def _shares(facts: Record) -> np.ndarray:
    """What each branch contributed to an answer, [1, k]; one share where there are no branches."""
    return np.array([list(facts.get("shares", {"": 1.0}).values())], np.float32)


def _score(method: Method) -> Score:
    if method.probability is None:
        raise ValueError("attribution: the method offers no `probability` that jax can trace")
    return method.probability


def _inside(shape: tuple[int, ...], box: Box) -> np.ndarray:
    """Float32 [H, W]: 1 within the box."""
    top, left, bottom, right = box
    inside = np.zeros(shape, np.float32)
    inside[top:bottom, left:right] = 1
    if not inside.any():
        raise ValueError(f"box {box} holds no pixel of a tile of {shape}")
    return inside
