"""Power-law noise and fine curves as functions of millimeters: any window at any pixel size."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from mln_flax.data.phantoms import boxes

CHUNK = 2**15  # pixels of curves that are computed at once: few enough for a cache
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
    weight = (weight / (0.479 * np.sqrt(np.sum(weight**2)))).astype(np.float32)
    sides = np.minimum(LATTICE, np.ceil(512 / periods)).astype(int)
    lattices = np.zeros((len(periods), LATTICE, LATTICE), np.float32)  # [octave, column, row]
    shifts = np.empty((len(periods), 2))
    for k, side in enumerate(sides):
        lattices[k, :side, :side] = rng.standard_normal((side, side), np.float32).T * weight[k]
        shifts[k] = rng.random(2) * side
    seen = periods >= pixel
    periods, sides, shifts = periods[seen, None], sides[seen], shifts[seen]
    columns = _basis(x / periods + shifts[:, 1:], sides, apart=True)
    rows = _basis(y / periods + shifts[:, :1], sides, apart=False)
    along = (columns @ lattices[seen].reshape(-1, LATTICE)).reshape(-1, len(x), LATTICE)
    return rows @ along.transpose(0, 2, 1).reshape(-1, len(x))


def spline_weights(t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What a cubic B-spline gives to the lattice points -1, 0, 1, 2 at `t` in [0, 1], each as t."""
    u, square = 1 - t, t * t
    cube = square * t
    return u * u * u / 6, (3 * cube - 6 * square + 4) / 6, (3 * (t + square - cube) + 1) / 6, cube / 6


def spline(lattice: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Cubic B-spline of a lattice that repeats, at any places: shaped as those.

    Args:
      lattice: float32 [h, w].
      rows: places in steps of the lattice, of any shape.
      columns: likewise, of the same shape.
    """
    row, column = np.floor(rows), np.floor(columns)
    down, across = spline_weights(rows - row), spline_weights(columns - column)
    top, left = int(row.min()) - 1, int(column.min()) - 1
    lattice = lattice.take(range(top, int(row.max()) + 3), axis=0, mode="wrap")
    lattice = lattice.take(range(left, int(column.max()) + 3), axis=1, mode="wrap")
    # In what is left each neighbor is at a fixed distance from a place's first.
    width = lattice.shape[1]
    first = (row.astype(int) - (top + 1)) * width + (column.astype(int) - (left + 1))
    flat = lattice.ravel()
    total = np.zeros(rows.shape, np.float32)
    for i, vertical in enumerate(down):
        line = across[0] * flat[i * width :].take(first)
        for j in (1, 2, 3):
            line += across[j] * flat[i * width + j :].take(first)
        line *= vertical
        total += line
    return total


def _basis(at: np.ndarray, sides: np.ndarray, apart: bool) -> sparse.csr_array:
    """The spline's weights for a stack of lattices of LATTICE points, as a matrix.

    Args:
      at: positions [octaves, n] in lattice steps; base and the 3 points after it count.
      sides: [octaves], after how many points each lattice repeats.
      apart: whether each octave has its own rows, [octaves n, octaves LATTICE], or all add up in
        the same ones, [n, octaves LATTICE].
    """
    octaves, n = at.shape
    base = np.floor(at)
    weights = np.stack(spline_weights((at - base).astype(np.float32)), axis=-1)
    points = (base.astype(int)[..., None] + np.arange(4)) % sides[:, None, None]
    points += LATTICE * np.arange(octaves)[:, None, None]
    if not apart:
        weights, points = weights.swapaxes(0, 1), points.swapaxes(0, 1)
    count = octaves * n if apart else n
    starts = np.arange(count + 1) * (weights.size // count)
    shape = count, octaves * LATTICE
    return sparse.csr_array((weights.ravel(), points.ravel(), starts), shape=shape)


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
    origin = np.array([x[0], y[0]])
    first = np.ceil((low - origin) / pixel).astype(int).clip(0)
    stop = np.floor((high - origin) / pixel).astype(int) + 1
    stop = np.minimum(stop, [len(x), len(y)])
    seen = np.flatnonzero(np.all(stop > first, axis=1) & (strength > 0))
    area = np.prod(stop[seen] - first[seen], axis=1)
    for k in np.split(seen, np.flatnonzero(np.diff(np.cumsum(area) // CHUNK)) + 1):
        box, row, column = boxes.pixels(first[k, ::-1], stop[k, ::-1])
        px, py = x[column] - start[k, 0][box], y[row] - start[k, 1][box]
        dx, dy = (end[k] - start[k]).T
        per_square = 1 / (dx * dx + dy * dy + 1e-9)
        dx, dy, per_square = dx[box], dy[box], per_square[box]
        t = ((px * dx + py * dy) * per_square).clip(0, 1)
        px -= t * dx
        py -= t * dy
        squared = (px * px + py * py) * (4 / width[k] ** 2)[box]
        value = strength[k][box] * np.sqrt((1 - squared).clip(0))
        np.maximum.at(canvas.ravel(), row * len(x) + column, value.astype(np.float32))
    return canvas
