"""Power-law noise and fine curves as functions of millimeters: any window at any pixel size."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from mln_flax.data.phantoms import boxes

CHUNK = 2**15  # pixels of curves that are computed at once: few enough for a cache
LATTICE = 64  # the lattice of one octave repeats after so many periods; no two octaves agree

# Cubic B-spline: the weights of the lattice points -1, 0, 1, 2 at t in [0, 1] as polynomials of t,
# [power, point].
CUBIC = np.array([[1, 4, 1, 0], [-3, 0, 3, 0], [3, -6, 3, 0], [-1, 3, -3, 1]], np.float32) / 6


class Curves(NamedTuple):
    """Polylines with round cross-section."""

    points: np.ndarray  # [curves, points, (x, y)] mm
    width: np.ndarray  # [curves, points] mm
    strength: np.ndarray  # [curves, points] the value on the middle line


class PowerLaw(NamedTuple):
    """White noise on the lattice of each octave of a field, and what a field is made of it."""

    lattices: np.ndarray  # float32 [octaves, LATTICE, LATTICE], [column, row], as high as its power
    side: np.ndarray  # [octaves] after how many points each repeats; the rest of its array is 0
    shift: np.ndarray  # [octaves, (y, x)] periods
    period_mm: np.ndarray  # [octaves]


def power_law(rng: np.random.Generator, periods_mm: Sequence[float], exponent: float) -> PowerLaw:
    """Noise whose power falls as frequency to the -`exponent`, variance about 1, for `fields`.

    A sum of octaves: white noise on a lattice of each period, interpolated by cubic B-splines. An
    octave of period p adds power p^2 times its variance below 1 / p, so a variance of
    p^(exponent - 2) gives the power law between 1 / (longest) and 1 / (shortest period).

    Args:
      rng: draws the lattices and nothing else.
      periods_mm: lattice constants, the longest first.
      exponent: of the power spectrum.
    """
    periods = np.array(periods_mm)
    weight = periods ** (exponent / 2 - 1)
    # A cubic B-spline of white noise keeps 0.479 of its variance along each axis.
    weight = (weight / (0.479 * np.sqrt(np.sum(weight**2)))).astype(np.float32)
    sides = np.minimum(LATTICE, np.ceil(512 / periods)).astype(int)
    lattices = np.zeros((len(periods), LATTICE, LATTICE), np.float32)
    shifts = np.empty((len(periods), 2))
    for k, side in enumerate(sides):
        values = rng.standard_normal((side, side), np.float32)
        np.multiply(values.T, weight[k], out=lattices[k, :side, :side])
        shifts[k] = rng.random(2) * side
    return PowerLaw(lattices, sides, shifts, periods)


def fields(laws: Sequence[PowerLaw], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Each law's noise, float32 [laws, y, x].

    Octaves finer than the pixels are left out, so that all pixel sizes show one breast. All is
    two products of sparse matrices with what the lattices hold: along x, then along y.

    Args:
      laws: of any periods.
      x: regular coordinates in mm, [W].
      y: likewise, [H].
    """
    pixel = abs(x[1] - x[0]) if len(x) > 1 else abs(y[1] - y[0]) if len(y) > 1 else 0.0
    lattices, side, shift, period = map(np.concatenate, zip(*laws, strict=True))
    law = np.repeat(np.arange(len(laws)), [len(each.side) for each in laws])
    seen = np.flatnonzero(period >= pixel)
    if len(seen) < len(period):
        lattices, side, shift, period = (a[seen] for a in (lattices, side, shift, period))
    count = np.bincount(law[seen], minlength=len(laws))  # of a law's octaves
    weights, points = _taps(x, period, shift[:, 1], side)
    columns = _sparse(weights, points, np.full(len(seen) * len(x), 4), LATTICE * len(seen))
    along = (columns @ lattices.reshape(-1, LATTICE)).reshape(-1, len(x), LATTICE)
    weights, points = _taps(y, period, shift[:, 0], side)
    seen_rows = np.zeros(LATTICE * len(seen), bool)
    seen_rows[points] = True
    octave, row = np.divmod(np.flatnonzero(seen_rows), LATTICE)
    along = along[octave, :, row]
    points = (np.cumsum(seen_rows, dtype=np.int32) - 1)[points]
    # Here a law's octaves add up: a pixel's row holds the taps of all of them.
    parts = np.cumsum(count)[:-1]
    weights, points = (
        np.concatenate([part.swapaxes(0, 1).ravel() for part in np.split(taps, parts)])
        for taps in (weights, points)
    )
    rows = _sparse(weights, points, np.repeat(4 * count, len(y)), len(along))
    return (rows @ along).reshape(len(laws), len(y), len(x))


def _taps(
    at_mm: np.ndarray, period_mm: np.ndarray, shift: np.ndarray, side: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each octave and place four weights, and which points of all lattices these are for."""
    at = at_mm / period_mm[:, None] + shift[:, None]
    base = np.floor(at)
    t = (at - base).astype(np.float32)
    powers = CUBIC[..., None, None]
    weights = np.stack(((powers[3] * t + powers[2]) * t + powers[1]) * t + powers[0], axis=-1)
    points = base.astype(np.int32) + np.arange(4, dtype=np.int32)[:, None, None]
    points %= side[:, None].astype(np.int32)
    points += LATTICE * np.arange(len(side), dtype=np.int32)[:, None]
    return weights, np.stack(points, axis=-1)


def _sparse(
    weights: np.ndarray, points: np.ndarray, taps: np.ndarray, width: int
) -> sparse.csr_array:
    """A matrix of `width` columns with so many weights in each of its rows."""
    starts = np.concatenate([[0], np.cumsum(taps)]).astype(np.int32)
    return sparse.csr_array((weights.ravel(), points.ravel(), starts), shape=(len(taps), width))


def spline(lattice: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Cubic B-spline of a lattice that repeats, at any places: shaped as those.

    Args:
      lattice: float32 [h, w].
      rows: places in steps of the lattice, of any shape.
      columns: likewise, of the same shape.
    """
    row, column = np.floor(rows), np.floor(columns)
    top, left = row.min(), column.min()
    cells = lattice.take(range(int(top) - 1, int(row.max()) + 3), axis=0, mode="wrap")
    cells = cells.take(range(int(left) - 1, int(column.max()) + 3), axis=1, mode="wrap")
    cells = np.lib.stride_tricks.sliding_window_view(cells, (4, 4))
    # In a cell the spline is a polynomial of the place within: coefficients [4, 4, cells].
    powers = np.einsum("ai,bj,rcij->abrc", CUBIC, CUBIC, cells).reshape(4, 4, -1)
    cell = ((row - top) * cells.shape[1] + (column - left)).astype(int)
    down, across = rows - row, columns - column
    total = np.zeros(rows.shape, np.float32)
    for i in (3, 2, 1, 0):
        line = powers[i, 3].take(cell)
        for j in (2, 1, 0):
            line *= across
            line += powers[i, j].take(cell)
        total *= down
        total += line
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
    near = np.all((high >= [x[0], y[0]]) & (low <= [x[-1], y[-1]]), axis=1) & (strength > 0)
    start, end, low, high = start[near], end[near], low[near], high[near]
    width, strength = width[near], strength[near]
    origin = np.array([x[0], y[0]])
    first = np.ceil((low - origin) / pixel).astype(int).clip(0)
    stop = np.floor((high - origin) / pixel).astype(int) + 1
    stop = np.minimum(stop, [len(x), len(y)])
    seen = np.flatnonzero(np.all(stop > first, axis=1))
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
