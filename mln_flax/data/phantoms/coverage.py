"""How much of each pixel lies in a spot: many spots of an image at once."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mln_flax.data.phantoms import anatomy, boxes

MOST_SAMPLES = 2**15  # at once: few enough for a cache


class Spot(NamedTuple):
    """A calcification or a distractor: a capsule with a wavy edge."""

    x: float  # mm, breast coordinates
    y: float
    length: float  # mm, largest extent
    width: float  # mm; equal to the length for what is round
    angle: float  # of its length
    wave: tuple[float, float, float]  # amplitudes of the edge's harmonics 2, 3 and 5
    phase: float
    contrast: float  # attenuation where it covers a pixel
    labeled: bool


def shares(
    spots: list[Spot], grid: anatomy.Grid
) -> Iterator[tuple[Spot, tuple[slice, slice], np.ndarray]]:
    """Each spot that may be seen, rows and columns of its pixels, and the share of each, float32.

    Sampled at 4 x 4 to 24 x 24 points in each pixel, 0.017 mm apart where that is enough. Only
    pixels that the edge may cross are sampled: the rest is all in or all out.
    """
    middle = np.array([(spot.y, spot.x) for spot in spots]).reshape(-1, 2)
    reach = np.array([spot.length for spot in spots])[:, None] / 2 + grid.spacing_mm / 2
    origin = np.array([grid.y[0], grid.x[0]])
    first = np.ceil((middle - reach - origin) / grid.spacing_mm).astype(int).clip(0)
    stop = np.floor((middle + reach - origin) / grid.spacing_mm).astype(int) + 1
    stop = np.minimum(stop, [len(grid.y), len(grid.x)])
    seen = np.flatnonzero(np.all(first < stop, axis=1))
    if not len(seen):
        return
    spots, first, stop = [spots[i] for i in seen], first[seen], stop[seen]
    values, at = _shares(_Shapes.of(spots), boxes.pixels(first, stop), grid), 0
    for spot, (top, left), (bottom, right) in zip(
        spots, first.tolist(), stop.tolist(), strict=True
    ):
        height, width = bottom - top, right - left
        share = values[at : at + height * width].reshape(height, width)
        yield spot, (slice(top, bottom), slice(left, right)), share
        at += height * width


class _Shapes(NamedTuple):
    """What the outlines of spots depend on, float64 arrays [spots]."""

    x: np.ndarray
    y: np.ndarray
    cos: np.ndarray  # of the angle
    sin: np.ndarray
    half: np.ndarray  # length of the middle line, halved
    width: np.ndarray
    least: np.ndarray  # the least radius along the edge, over half the width
    waves: np.ndarray  # [3, spots]
    phase: np.ndarray

    @classmethod
    def of(cls, spots: list[Spot]) -> "_Shapes":
        x, y, length, width, angle, phase = np.array(
            [(s.x, s.y, s.length, s.width, s.angle, s.phase) for s in spots]
        ).T
        waves = np.array([spot.wave for spot in spots]).T
        total = waves.sum(axis=0)
        least = (1 - total) / (1 + total)
        half = (length - width) / 2
        return cls(x, y, np.cos(angle), np.sin(angle), half, width, least, waves, phase)

    def at(self, index: np.ndarray) -> "_Shapes":
        """Those of some spots."""
        return _Shapes(*(values[..., index] for values in self))


def _from_middle_line(
    spots: _Shapes, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """From the nearest point of a spot's middle line to a point, along it and across it, mm."""
    x, y = x - spots.x, y - spots.y
    u, v = x * spots.cos + y * spots.sin, y * spots.cos - x * spots.sin
    return u - u.clip(-spots.half, spots.half), v


def _inside(spots: _Shapes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie in spots."""
    u, v = _from_middle_line(spots, x, y)
    square = u * u + v * v
    # The cosines of 2, 3 and 5 times the direction, from its own.
    away = np.sqrt(square).clip(1e-300)
    c1, s1 = u / away, v / away
    c2, s2 = 2 * c1 * c1 - 1, 2 * s1 * c1
    c3, s3 = c1 * c2 - s1 * s2, s1 * c2 + c1 * s2
    c5, s5 = c3 * c2 - s3 * s2, s3 * c2 + c3 * s2
    cosine, sine = spots.waves * np.cos(spots.phase), spots.waves * np.sin(spots.phase)
    wave = cosine[0] * c2 + cosine[1] * c3 + cosine[2] * c5
    wave -= sine[0] * s2 + sine[1] * s3 + sine[2] * s5
    radius = spots.width / 2 * (1 + wave) / (1 + spots.waves.sum(axis=0))
    return square <= radius * radius


def _shares(shapes: _Shapes, pixels: boxes.Pixels, grid: anatomy.Grid) -> np.ndarray:
    """The share of each of the pixels that lies in its spot, float32."""
    x, y = grid.x[pixels.column], grid.y[pixels.row]
    away = np.hypot(*_from_middle_line(shapes.at(pixels.box), x, y))
    most, least = (shapes.width / 2)[pixels.box], (shapes.width / 2 * shapes.least)[pixels.box]
    corner = grid.spacing_mm * (math.sqrt(0.5) + 1e-6)
    values = (away < most).astype(np.float32)
    edge = np.flatnonzero((away < most + corner) & (away > least - corner))
    n = min(max(math.ceil(grid.spacing_mm / 0.017), 4), 24)
    offsets = (((np.arange(n) + 0.5) / n - 0.5) * grid.spacing_mm)[:, None]
    length = max(1, MOST_SAMPLES // n**2)
    for begin in range(0, len(edge), length):
        at = edge[begin : begin + length]
        inside = _inside(shapes.at(pixels.box[at]), x[at] + offsets, (y[at] + offsets)[:, None])
        values[at] = inside.mean(axis=(0, 1), dtype=np.float32)
    return values
