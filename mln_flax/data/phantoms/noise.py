"""Power-law noise and fine curves as functions of millimeters: any window at any pixel size."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LATTICE = 64  # the lattice of one octave repeats after so many periods; no two octaves agree


class Curves(NamedTuple):
    """Polylines with round cross-section."""

    points: np.ndarray  # [curves, points, (x, y)] mm
    width: np.ndarray  # [curves, points] mm
    strength: np.ndarray  # [curves, points] the value on the middle line


def power_law(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    periods_mm: Sequence[float],
    exponent: float,
) -> np.ndarray:
    """Noise [y, x] float32 whose power falls as frequency to the -`exponent`, variance about 1.

    A sum of octaves: white noise on a lattice of each period, interpolated by cubic B-splines. An
    octave of period p adds power p^2 times its variance below 1 / p, so a variance of
    p^(exponent - 2) gives the power law between 1 / (longest) and 1 / (shortest period).
    Octaves finer than the pixels are drawn but left out, so that all pixel sizes show one breast.

    Args:
      rng: draws the lattices and nothing else.
      x: regular coordinates in mm, [W].
      y: likewise, [H].
      periods_mm: lattice constants, the longest first.
      exponent: of the power spectrum.
    """
    pixel = abs(x[1] - x[0]) if len(x) > 1 else abs(y[1] - y[0]) if len(y) > 1 else 0.0
    periods = np.asarray(periods_mm)
    weight = periods ** (exponent / 2 - 1)
    # A cubic B-spline of white noise keeps 0.479 of its variance along each axis.
    weight = weight / (0.479 * np.sqrt(np.sum(weight**2)))
    total = np.zeros((len(y), len(x)), np.float32)
    for period, scale in zip(periods, weight, strict=True):
        side = int(min(LATTICE, np.ceil(512 / period)))
        lattice = rng.standard_normal((side, side), np.float32) * np.float32(scale)
        shift = rng.random(2) * side
        if period >= pixel:
            rows, columns = y / period + shift[0], x / period + shift[1]
            base = int(np.floor(columns[0]))
            if np.floor(columns[-1]) + 4 - base < side:  # leave out what the window cannot see
                lattice = lattice.take(range(base, int(columns[-1]) + 4), axis=1, mode="wrap")
                columns = columns - base
            total += _spline(_spline(lattice, rows).T, columns).T
    return total


def _spline(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Cubic B-spline through the rows of `values` (which repeat), at the given positions."""
    base = np.floor(at).astype(int)
    t = (at - base).astype(np.float32)[:, None]
    weights = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    total = weights[0] * values.take(base, axis=0, mode="wrap")
    for k, weight in enumerate(weights[1:], 1):
        total += weight * values.take(base + k, axis=0, mode="wrap")
    return total


def curves(lines: Curves, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The curves' values [y, x] float32: strength times the chord of a round cross-section.

    Where curves cross, the larger value counts, so joints of segments do not show. A curve
    thinner than a pixel is drawn a pixel wide with its strength reduced as much.
    """
    canvas = np.zeros((len(y), len(x)), np.float32)
    pixel = abs(x[1] - x[0]) if len(x) > 1 else 0.1
    start, end = lines.points[:, :-1].reshape(-1, 2), lines.points[:, 1:].reshape(-1, 2)
    thin = lines.width[:, :-1].ravel()
    width = np.maximum(thin, 1.5 * pixel)
    strength = lines.strength[:, :-1].ravel() * thin / width
    reach = width[:, None] / 2
    low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
    first = np.array([x[0], y[0]])
    corner = np.ceil((low - first) / pixel).astype(int).clip(0)
    stop = np.floor((high - first) / pixel).astype(int) + 1
    stop = np.minimum(stop, [len(x), len(y)])
    for k in np.flatnonzero(np.all(stop > corner, axis=1) & (strength > 0)):
        columns, rows = (slice(corner[k, i], stop[k, i]) for i in (0, 1))
        px, py = x[None, columns] - start[k, 0], y[rows, None] - start[k, 1]
        dx, dy = end[k] - start[k]
        t = ((px * dx + py * dy) / (dx * dx + dy * dy + 1e-9)).clip(0, 1)
        squared = ((px - t * dx) ** 2 + (py - t * dy) ** 2) * (4 / width[k] ** 2)
        patch = canvas[rows, columns]
        np.maximum(patch, strength[k] * np.sqrt((1 - squared).clip(0)), out=patch)
    return canvas
