"""How much of each pixel lies in a spot, and how thick that is: many spots of an image at once."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mln_flax.data.phantoms import anatomy, boxes

MOST_SAMPLES = 2**15  # at once: few enough for a cache
# Where a spot's thickness has no edge near a pixel, two Gauss points along each side will do.
SMOOTH = 0.8  # of the radius
_GAUSS = np.array([-0.5, 0.5]) / math.sqrt(3)


class Spot(NamedTuple):
    """A calcification or a look-alike: a body around a line, with a wavy edge, maybe hollow.

    Along the beam it is `thickness` times as thick as it is wide, so 1 is a sphere or a capsule
    with a round cross-section. A hollow in it has its shape, `hole` times its size; moved
    `aside` radii across its direction it leaves a crescent.
    """

    x: float  # mm, breast coordinates
    y: float
    length: float  # mm, largest extent
    width: float  # mm; equal to the length for what is round
    angle: float  # of its length
    wave: tuple[float, float, float]  # amplitudes of the edge's harmonics 2, 3 and 5
    phase: float
    density: float  # over that of calcium oxalate
    labeled: bool
    thickness: float = 1.0
    hole: float = 0.0
    aside: float = 0.0


class Part(NamedTuple):
    """What of a spot lies in an image."""

    spot: Spot
    pixels: tuple[slice, slice]  # rows and columns
    share: np.ndarray  # of each pixel that lies in the outline, float32
    chord_mm: np.ndarray  # path through the spot, mean of each pixel, float32


def parts(spots: list[Spot], grid: anatomy.Grid) -> Iterator[Part]:
    """Each spot that may be seen, with its shares of pixels and its thickness in them.

    Sampled at 4 x 4 to 24 x 24 points in each pixel, 0.017 mm apart where that is enough; at 2 x 2
    well inside of a solid spot.
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
    shares, chords = _sampled(_Shapes.of(spots), boxes.pixels(first, stop), grid)
    at = 0
    for spot, (top, left), (bottom, right) in zip(
        spots, first.tolist(), stop.tolist(), strict=True
    ):
        shape = bottom - top, right - left
        area = slice(at, at + shape[0] * shape[1])
        pixels = slice(top, bottom), slice(left, right)
        yield Part(spot, pixels, shares[area].reshape(shape), chords[area].reshape(shape))
        at = area.stop


class _Shapes(NamedTuple):
    """What the bodies of spots depend on, arrays [spots]."""

    x: np.ndarray
    y: np.ndarray
    cos: np.ndarray  # of the angle
    sin: np.ndarray
    half: np.ndarray  # length of the middle line, halved
    most: np.ndarray  # the largest radius along the edge: half the width
    mean: np.ndarray  # the mean one over the largest
    waves: np.ndarray  # [6, spots], of cosines and sines of the harmonics 2, 3 and 5, likewise
    depth: np.ndarray  # mm along the beam in the middle
    hole: np.ndarray
    aside: np.ndarray

    @classmethod
    def of(cls, spots: list[Spot]) -> "_Shapes":
        waves = np.array([spot.wave for spot in spots]).T
        x, y, length, width, angle, phase, thickness, hole, aside = np.array(
            [
                (s.x, s.y, s.length, s.width, s.angle, s.phase, s.thickness, s.hole, s.aside)
                for s in spots
            ]
        ).T
        mean = 1 / (1 + waves.sum(axis=0))
        waves = np.concatenate([waves * np.cos(phase), waves * np.sin(phase)]) * mean
        half, most, depth = (length - width) / 2, width / 2, width * thickness
        return cls(x, y, np.cos(angle), np.sin(angle), half, most, mean, waves, depth, hole, aside)

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


def _chord(spots: _Shapes, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether points lie in spots, and the path through the spots there, mm."""
    u, v = _from_middle_line(spots, x, y)
    away = np.sqrt(u * u + v * v).clip(1e-9)
    c1, s1 = u / away, v / away
    # The cosines of 2, 3 and 5 times the direction, from its own.
    c2, s2 = 2 * c1 * c1 - 1, 2 * s1 * c1
    c3, s3 = c1 * c2 - s1 * s2, s1 * c2 + c1 * s2
    a, b = spots.waves[:3], spots.waves[3:]
    edge = spots.mean + a[0] * c2 - b[0] * s2 + a[1] * c3 - b[1] * s3
    edge += a[2] * (c3 * c2 - s3 * s2) - b[2] * (s3 * c2 + c3 * s2)
    away /= spots.most * edge  # 1 on the edge
    square = away * away
    path = spots.depth * np.sqrt((1 - square).clip(0))
    if spots.hole.any():
        hole = spots.hole**2 - square + spots.aside * (2 * away * s1 - spots.aside)
        path = (path - spots.depth * np.sqrt(hole.clip(0)) * (spots.hole > 0)).clip(0)
    return square <= 1, path


def _sampled(
    shapes: _Shapes, pixels: boxes.Pixels, grid: anatomy.Grid
) -> tuple[np.ndarray, np.ndarray]:
    """Of each pixel the share that lies in its spot, and the mean path there, float32."""
    x, y = grid.x[pixels.column], grid.y[pixels.row]
    away = np.hypot(*_from_middle_line(shapes.at(pixels.box), x, y))
    least = shapes.most * (2 * shapes.mean - 1)
    smooth = np.where(shapes.hole > 0, 0.0, SMOOTH * least)[pixels.box]
    corner = grid.spacing_mm * (math.sqrt(0.5) + 1e-6)
    shares, paths = np.zeros((2, len(x)), np.float32)
    within = away + corner < smooth
    n = min(max(math.ceil(grid.spacing_mm / 0.017), 4), 24)
    points = (np.arange(n) + 0.5) / n - 0.5
    edge = ~within & (away < shapes.most[pixels.box] + corner)
    for among, offsets in ((within, _GAUSS), (edge, points)):
        across = (offsets * grid.spacing_mm)[:, None]
        down = across[:, None]
        index = np.flatnonzero(among)
        step = max(1, MOST_SAMPLES // len(offsets) ** 2)
        for begin in range(0, len(index), step):
            at = index[begin : begin + step]
            inside, path = _chord(shapes.at(pixels.box[at]), x[at] + across, y[at] + down)
            shares[at] = inside.mean(axis=(0, 1), dtype=np.float32)
            paths[at] = path.mean(axis=(0, 1))
    return shares, paths
