"""Intensity versions of an image by name: Bezier curves, inversion (paper, section 3.1).

Each view exists in numpy (for prediction), as TensorFlow operations (for tf.data) and in jax (for
the device), from one table or one formula. TensorFlow and jax are imported only when called.
"""

import functools
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mln_flax.config import ViewsConfig
from mln_flax.registry import Registry, nearest
from mln_flax.types import UserError, View

SAMPLES = 4096  # nodes of a curve's table; the chords are then within 3e-7 of it for a <= 0.9
CELLS = 2**16  # equal steps of x: a power of two, so that float32 finds its cell without rounding
EVEN_ENOUGH = 1e-7  # how far equal steps may be from the curve's own nodes: float32's own precision
BACKGROUND = 0.02  # share of T up to which `invert` may take a pixel for background
GRID = 10_000  # drawn curves have a = n / GRID, so that names are short and exact
STRATEGIES = ("listed", "mean", "random")
BRANCH_MAPS = ("per_view", "grouped", "shared")


def bezier_curve(a: float, samples: int = SAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """The nodes (x, y) of the cubic Bezier curve from (0, 0) to (1, 1), float64 [samples] each.

    The control points are (a, 1-a) and (1-a, a); a = 0.5 is the straight line, and the curve of
    1-a has the same nodes with x and y exchanged, so it is the exact inverse. Both x and y grow
    strictly. (Eq. 3-4, whose exponent must read N-i.)

    Raises:
      UserError: a lies outside [0, 1].
    """
    if not 0 <= a <= 1:
        raise UserError(f"bezier({a}): a must lie in [0, 1]")
    # Near its ends the curve of a = 0 rises as the square root of x, and in its middle that of
    # a = 1 as the cube root. Nodes spaced along the curve follow both, which nodes spaced over x
    # cannot; those near the ends are closer together still.
    t = np.sin(np.linspace(0, np.pi / 2, samples)) ** 2
    outer, inner = 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t)
    return a * outer + (1 - a) * inner + t**3, (1 - a) * outer + a * inner + t**3


def even_table(a: float) -> np.ndarray | None:
    """The curve at equal steps of x: float32 [2, CELLS + 1], the values and how each goes on.

    A value is found by its index there, many times faster than among the curve's own nodes. None
    where the curve bends too sharply for it: for a below about 0.06 or above about 0.9.
    Raises UserError where a lies outside [0, 1].
    """
    x, y = bezier_curve(a)
    even = np.linspace(0, 1, CELLS + 1)
    values = np.interp(even, x, y)
    if np.abs(np.interp(x, even, values) - y).max() > EVEN_ENOUGH:
        return None
    start = values.astype(np.float32)
    return np.stack([start, np.append(np.diff(start), np.float32(0))])


def _at_equal_steps(xp: Any, table: Any, image: Any) -> Any:
    """The values of an even table at float32 grays; `xp` is numpy or jax.numpy."""
    place = xp.clip(image, 0, 1) * np.float32(CELLS)
    cell = place.astype(np.int32)
    start, rise = (xp.take(column, cell) for column in table)
    return start + rise * (place - cell.astype(np.float32))


def bezier_numpy(a: float) -> Callable[[Any], np.ndarray]:
    """The function that maps arrays of any shape through the curve of `a`.

    Values are clipped to [0, 1]; float64 stays float64, everything else becomes float32.
    Raises UserError where a lies outside [0, 1].
    """
    x, y = bezier_curve(a)
    table = even_table(a)

    def apply(image: Any) -> np.ndarray:
        image = np.asarray(image)
        if table is None or image.dtype != np.float32:
            return np.interp(image, x, y).astype(np.result_type(image.dtype, np.float32))
        return _at_equal_steps(np, table, image)

    return apply


def bezier_jax(a: float) -> Callable[[Any], Any]:
    """The function that maps float32 arrays of any shape through the curve of `a`, in jax.

    The same tables as in `bezier_numpy`. A curve that is too sharp for the even one has its nodes
    in float32 here, which does not tell them apart where the curve is steepest: at its ends for a
    small `a`, in the middle for a large one. So x is counted from there, and one half of the
    curve, which is the other turned around the middle, serves both.
    Raises UserError where a lies outside [0, 1].
    """
    table = even_table(a)
    nodes, values = bezier_curve(a)
    half = slice(SAMPLES // 2)  # up to the middle, where the two halves meet
    lower = [np.append(column[half], 0.5) for column in (nodes, values)]
    if a > 0.5:
        lower = [0.5 - column[::-1] for column in lower]
    x, y = (column.astype(np.float32) for column in lower)

    def at_own_nodes(image: Any) -> Any:
        import jax.numpy as jnp

        image = jnp.clip(image, 0, 1)
        if a > 0.5:
            away = jnp.interp(abs(image - 0.5), x, y)
            return jnp.where(image < 0.5, 0.5 - away, 0.5 + away)
        below = jnp.interp(jnp.minimum(image, 1 - image), x, y)
        return jnp.where(image < 0.5, below, 1 - below)

    def apply(image: Any) -> Any:
        import jax.numpy as jnp

        return at_own_nodes(image) if table is None else _at_equal_steps(jnp, table, image)

    return apply


def bezier_tf(a: float) -> Callable[[Any], Any]:
    """The function that maps float tensors of any shape through the curve of `a`.

    The same tables and the same arithmetic as in `bezier_numpy`.
    Raises UserError where a lies outside [0, 1].
    """
    x, y = bezier_curve(a)
    chords = np.stack([x[:-1], y[:-1], np.diff(y) / np.diff(x)], axis=1)  # start and slope
    table = even_table(a)
    pairs = None if table is None else np.ascontiguousarray(table.T)

    def at_equal_steps(image: Any) -> Any:
        import tensorflow as tf

        place = tf.clip_by_value(image, 0.0, 1.0) * float(CELLS)
        cell = tf.cast(place, tf.int32)
        start, rise = tf.unstack(tf.gather(tf.constant(pairs), cell), axis=-1)
        return start + rise * (place - tf.cast(cell, tf.float32))

    def at_own_nodes(image: Any) -> Any:
        import tensorflow as tf

        flat = tf.clip_by_value(tf.cast(tf.reshape(image, [-1]), tf.float64), 0.0, 1.0)
        # Among the inner nodes alone, so that x = 1 still belongs to the last chord.
        chord = tf.searchsorted(tf.constant(x[1:-1]), flat, side="right")
        start_x, start_y, slope = tf.unstack(tf.gather(tf.constant(chords), chord), axis=1)
        mapped = tf.cast(start_y + slope * (flat - start_x), image.dtype)
        return tf.ensure_shape(tf.reshape(mapped, tf.shape(image)), image.shape)

    return at_own_nodes if table is None else at_equal_steps


views = Registry("view")


@views.register("identity")
def identity() -> View:
    """The image as it is."""
    return View("identity", *(lambda image: image,) * 3)


@views.register("bezier")
def bezier(a: float) -> View:
    """The image through a monotone curve: brighter grays below the middle for a < 0.5.

    The paper uses a = 0.3 and 0.7; `bezier(1-a)` undoes `bezier(a)`.
    Raises UserError where a lies outside [0, 1].
    """
    return View(f"bezier({float(a)})", bezier_numpy(a), bezier_tf(a), bezier_jax(a))


@views.register("invert")
def invert(maximum: float | None = None, keep_background: bool = False) -> View:
    """T minus the image (Eq. 5), where T is the image's own maximum, or `maximum`.

    With `keep_background`, pixels of at most 0.02 T stay as they are: a black background stays
    black, and so do equally black pixels inside the breast. Pixels above a fixed T become 0.

    Raises:
      UserError: `maximum` lies outside (0, 1], or `keep_background` is not True or False.
    """
    if maximum is not None and not 0 < maximum <= 1:
        raise UserError(f"invert({maximum}): the fixed maximum must lie in (0, 1], or be None")
    if not isinstance(keep_background, bool):
        raise UserError(f"invert: keep_background must be True or False, not {keep_background!r}")
    fixed = None if maximum is None else float(maximum)
    shown = (fixed, True) if keep_background else (fixed,) if fixed is not None else ()
    name = f"invert({', '.join(map(str, shown))})" if shown else "invert"

    def inverted_in(xp: Any, image: Any) -> Any:
        top = image.max(axis=(-2, -1), keepdims=True) if fixed is None else image.dtype.type(fixed)
        inverted = xp.maximum(top - image, 0)
        return xp.where(image <= BACKGROUND * top, image, inverted) if keep_background else inverted

    def in_numpy(image: Any) -> np.ndarray:
        return inverted_in(np, np.asarray(image))

    def in_jax(image: Any) -> Any:
        import jax.numpy as jnp

        return inverted_in(jnp, jnp.asarray(image))

    def in_tf(image: Any) -> Any:
        import tensorflow as tf

        if fixed is None:
            top = tf.reduce_max(image, [-2, -1], keepdims=True)
        else:
            top = tf.cast(fixed, image.dtype)
        inverted = tf.maximum(top - image, 0)
        return tf.where(image <= BACKGROUND * top, image, inverted) if keep_background else inverted

    return View(name, in_numpy, in_tf, in_jax)


def _chain(functions: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    return lambda image: functools.reduce(lambda value, function: function(value), functions, image)


def make_view(text: str) -> View:
    """The view that a text names; names joined with `+` are applied from left to right.

    Arguments are literals in order: `bezier(0.3)+invert`, `invert(None, True)`. The view's own
    name is the canonical one: equal views that are spelled differently get one name.

    Raises:
      UserError: a name is unknown (with the nearest known one), or its arguments do not fit.
    """
    parts = [part.strip() for part in re.split(r"\+(?![^(]*\))", text)]
    if not all(parts):
        raise UserError(f"view {text!r}: a name is missing; known: {', '.join(views)}")
    steps = [view for view in map(views.make, parts) if view.name != "identity"]
    if len(steps) < 2:
        return steps[0] if steps else identity()
    name = "+".join(view.name for view in steps)
    kinds = [[v.numpy for v in steps], [v.tf for v in steps], [v.jax for v in steps]]
    return View(name, *map(_chain, kinds))


def _listed(names: Iterable[str]) -> tuple[str, ...]:
    spellings: dict[str, str] = {}
    for text in names:
        name = make_view(text).name
        if name in spellings:
            raise UserError(f"views.names: {text!r} is listed twice (first as {spellings[name]!r})")
        spellings[name] = text
    if not spellings:
        raise UserError(f"views.names: empty; allowed are one or more of {', '.join(views)}")
    return tuple(spellings)


def view_names(config: ViewsConfig, seed: int) -> tuple[str, ...]:
    """The canonical names of the views, in order and without repetition.

    "listed" takes `config.names`. "mean" and "random" give the original, `config.pairs` curves
    and the inversion of the original, or with `config.invert_all` of each of them. "mean" takes
    a = 0.5 n / N for n = 1 ... N; its last curve is the straight line, so it warns. "random"
    draws a in [0, 0.5) from `seed`, each value once. (Paper, Fig. 8.) Both keep four digits.

    Raises:
      UserError: the strategy or a name is unknown, a view is listed twice or none is,
        or `pairs` is not from 1 to 5000.
    """
    if config.strategy not in STRATEGIES:
        raise UserError(
            f"unknown views.strategy {config.strategy!r}{nearest(config.strategy, STRATEGIES)}; "
            f"known: {', '.join(STRATEGIES)}"
        )
    if config.strategy == "listed":
        return _listed(config.names)
    if not 1 <= config.pairs <= GRID // 2:
        raise UserError(f"views.pairs={config.pairs}: allowed are 1 to {GRID // 2}")
    if config.strategy == "mean":
        steps = np.rint(np.arange(1, config.pairs + 1) / config.pairs * GRID / 2).astype(int)
        warnings.warn(
            "views.strategy='mean': its last curve, bezier(0.5), repeats the original",
            stacklevel=2,
        )
    else:
        steps = np.random.default_rng(seed).choice(GRID // 2, size=config.pairs, replace=False)
    curves = tuple(f"bezier({float(step) / GRID})" for step in steps)
    inverted = tuple(f"{curve}+invert" for curve in curves) if config.invert_all else ()
    return ("identity", *curves, "invert", *inverted)


def is_inverted(name: str) -> bool:
    """Whether a view turns dark and bright around."""
    return re.search(r"(^|\+)\s*invert\b", name) is not None


def branch_map(names: Sequence[str], kind: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The branch of each view, and the branches' names.

    "per_view": a branch for each view. "grouped": "similar" for views without an inversion and
    "dissimilar" for those with one; a group without views has no branch. "shared": one branch.

    Raises:
      UserError: the kind is unknown.
    """
    if kind == "per_view":
        groups, order = tuple(names), tuple(names)
    elif kind == "grouped":
        groups = tuple("dissimilar" if is_inverted(name) else "similar" for name in names)
        order = ("similar", "dissimilar")
    elif kind == "shared":
        groups, order = ("shared",) * len(names), ("shared",)
    else:
        raise UserError(
            f"unknown method.branch_map {kind!r}{nearest(kind, BRANCH_MAPS)}; "
            f"known: {', '.join(BRANCH_MAPS)}"
        )
    branches = tuple(branch for branch in order if branch in groups)
    return tuple(branches.index(group) for group in groups), branches
