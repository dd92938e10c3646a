"""Where the cluster of a breast lies, how it spreads there and what it is made of."""

import bisect
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mln_flax.data.phantoms import anatomy, morphology
from mln_flax.data.phantoms.coverage import Spot

EMPTY_SHARE = 0.3  # of breasts have no cluster. Chosen: normal images are most of any screening
# Share of foci at the skin, of breasts with a cluster and of others: windows must show air. Chosen.
SKIN_SHARE, EMPTY_SKIN_SHARE = 0.06, 0.25
FAT = 0.06  # how often a place in fat is taken, where one in the gland always is. Chosen
COUNT = (3, 50)  # of the calcifications of a cluster
EXTENT_MM = (2.0, 40.0)  # the largest distance in it
# Counts grow with the extent: the median is COUNT_AT_1 extent^COUNT_POWER. Chosen, as its spread.
COUNT_AT_1, COUNT_POWER, COUNT_SPREAD = 3.2, 0.7, 0.45
GAP_MM = 0.25  # free tissue between two calcifications, so that each is one object. Chosen
CHEST_MM, SKIN_MM = 1.0, 0.8  # all of them lie this far from the image's edge and the skin. Chosen
LEAST_ROOM_MM = 2.1  # around the focus, for a small cluster at least
TRIES = 5  # before a cluster that finds no room becomes a small one of punctate calcifications


class Distribution(NamedTuple):
    """How a cluster spreads. The words are the atlas's, all numbers are chosen."""

    share: float  # of clusters
    extent_mm: tuple[float, float]  # all logarithms are as likely
    # Shares of punctate, round, amorphous, coarse, pleomorphic and linear ones.
    morphologies: tuple[float, float, float, float, float, float]
    mixed: float  # share of punctate ones among the others


DISTRIBUTIONS = {
    "grouped": Distribution(0.65, (2.0, 15.0), (0.25, 0.12, 0.17, 0.17, 0.25, 0.04), 0.15),
    "linear": Distribution(0.20, (4.0, 25.0), (0.15, 0.0, 0.05, 0.0, 0.30, 0.50), 0.25),
    "segmental": Distribution(0.15, (12.0, 40.0), (0.20, 0.05, 0.25, 0.0, 0.30, 0.20), 0.25),
}

_FOCUS, _CLUSTER = 11, 12  # random streams


class Focus(NamedTuple):
    """What a small window looks at, and whether a cluster lies there."""

    x: float
    y: float
    radius_mm: float  # half of the cluster's extent
    lesion: bool
    distribution: str = "grouped"


def focus(body: anatomy.Breast) -> Focus:
    """Where the cluster of a breast lies, or where that of a breast without one would.

    A cluster lies mostly in the gland, whose ducts and lobules calcify, and seldom in fat or at the
    skin. What is looked at where there is none lies anywhere.
    """
    rng = np.random.default_rng([body.seed, _FOCUS, body.patient])
    lesion = bool(rng.random() >= EMPTY_SHARE)
    name = _pick(rng, {name: kind.share for name, kind in DISTRIBUTIONS.items()})
    low, high = np.log(DISTRIBUTIONS[name].extent_mm)
    radius = math.exp(rng.uniform(low, high)) / 2
    at_skin = rng.random() < (SKIN_SHARE if lesion else EMPTY_SKIN_SHARE)
    if at_skin:
        name, radius = "grouped", min(radius, 3.0)
    while True:
        angle = rng.uniform(-0.9, 0.9)
        reach = np.interp(angle, body.angle, body.radius) * np.interp(angle, body.angle, body.slant)
        nearest = max(radius, 2.0) + 1.0 if at_skin else min(radius + 3.0, 15.0)
        deep = rng.uniform(nearest, max(nearest + 1.0, 0.8 * reach if not at_skin else 0.0))
        x, y = anatomy.outline_mm(body, angle, deep)
        room = min(x - CHEST_MM, y - body.top - CHEST_MM, body.bottom - y, deep - SKIN_MM)
        if room < LEAST_ROOM_MM:
            continue
        anywhere = at_skin or not lesion
        if anywhere or rng.random() < FAT + (1 - FAT) * anatomy.gland_at(body, x, y):
            return Focus(float(x), float(y), radius, lesion, name)


def cluster(body: anatomy.Breast, at: Focus) -> list[Spot]:
    """The calcifications of the cluster: 3 to 50, of one morphology with punctate ones among them.

    The largest distance between two is twice the focus's radius, or less where the breast ends.
    Empty where the focus has no lesion.
    """
    if not at.lesion:
        return []
    rng = np.random.default_rng([body.seed, _CLUSTER, body.patient])
    shares = DISTRIBUTIONS[at.distribution].morphologies
    name = _pick(rng, dict(zip(morphology.MORPHOLOGIES, shares, strict=True)))
    mixed = DISTRIBUTIONS[at.distribution].mixed
    tries = 0
    while True:
        spots, extent = _members(rng, body, at, name, mixed)
        if len(spots) >= COUNT[0] and EXTENT_MM[0] <= extent <= EXTENT_MM[1]:
            return spots
        tries += 1
        if tries == TRIES:
            name = "punctate"
            at = at._replace(distribution="grouped", radius_mm=min(at.radius_mm, 2.0))


def _members(
    rng: np.random.Generator, body: anatomy.Breast, at: Focus, name: str, mixed: float
) -> tuple[list[Spot], float]:
    """Calcifications that keep apart and inside the breast, and the largest distance, mm."""
    extent = max(2 * at.radius_mm, 1.002 * EXTENT_MM[0])  # of which 0.999 are taken
    count = COUNT_AT_1 * extent**COUNT_POWER * math.exp(COUNT_SPREAD * rng.standard_normal())
    count = min(max(round(count), COUNT[0]), COUNT[1])
    n = (4 if at.distribution == "linear" else 2) * count + 6
    heading = math.atan2(body.nipple[1] - at.y, body.nipple[0] - at.x)
    x, y, along = _PLACES[at.distribution](rng, n, heading)
    bodies = morphology.bodies(rng, name, n, mixed=mixed)
    apart = _distances(x, y)
    scale = 0.999 * extent / apart.max()
    near = apart * scale < GAP_MM + (bodies.length[:, None] + bodies.length) / 2
    kept = _first(near, count)
    # Those left may lie closer together than all: they are drawn apart again.
    scale = 0.999 * extent / max(apart[np.ix_(kept, kept)].max(), 1e-9)
    x, y = x[kept] * scale, y[kept] * scale
    x, y = x - (x.min() + x.max()) / 2 + at.x, y - (y.min() + y.max()) / 2 + at.y
    deep = anatomy.depth_mm(body, x, y) - SKIN_MM
    inside = (np.minimum(deep, x - CHEST_MM) > 0) & (y > body.top + CHEST_MM)
    x, y, kept = x[inside], y[inside], kept[inside]
    if len(kept) < COUNT[0]:
        return [], 0.0
    chosen = morphology.Bodies(*(values[kept] for values in bodies))
    spots = morphology.spots(chosen, x, y, along[kept], labeled=True)
    return spots, float(_distances(x, y).max())


def _first(near: np.ndarray, count: int) -> np.ndarray:
    """Indices of the first so many that are not near [n, n] to one before them that counts."""
    free, kept = np.ones(len(near), bool), []
    for i in range(len(near)):
        if free[i]:
            kept.append(i)
            if len(kept) == count:
                break
            free &= ~near[i]
    return np.array(kept)


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x[:, None] - x, y[:, None] - y)


Places = tuple[np.ndarray, np.ndarray, np.ndarray]


def _grouped(rng: np.random.Generator, n: int, _heading: float) -> Places:
    """Places [n] in an ellipse, denser in its middle, of any scale, and angles."""
    turn, tilt = rng.uniform(0, 2 * math.pi, n), rng.uniform(0, math.pi)
    r = rng.random(n) ** 0.6
    u, v = r * np.cos(turn), rng.uniform(0.45, 1.0) * r * np.sin(turn)
    c, s = math.cos(tilt), math.sin(tilt)
    return c * u - s * v, s * u + c * v, rng.uniform(0, math.pi, n)


def _linear(rng: np.random.Generator, n: int, heading: float) -> Places:
    """Places along a bent duct that runs towards the nipple, and along two branches of it."""
    heading += rng.normal(0, 0.5)
    branch = rng.choice(3, n, p=(0.5, 0.25, 0.25))
    side = np.array([0.0, 1.0, -1.0]) * rng.uniform(0.35, 0.8, 3)
    root = np.array([-1.0, *rng.uniform(-0.5, 0.4, 2)])
    reach = np.array([2.0, *rng.uniform(0.4, 0.9, 2)])[branch]
    t = reach * rng.random(n)  # of a branch, away from the nipple
    bend = rng.normal(0, 0.25, 3)[branch] * t
    along = side[branch] + bend
    u = root[branch] + t * np.cos(side[branch] + bend / 2)
    v = t * np.sin(side[branch] + bend / 2) + rng.normal(0, 0.02, n)
    angle = heading + math.pi
    c, s = math.cos(angle), math.sin(angle)
    return c * u - s * v, s * u + c * v, along + angle + rng.normal(0, 0.15, n)


def _segmental(rng: np.random.Generator, n: int, heading: float) -> Places:
    """Places in a wedge with its tip towards the nipple, most of them along a few ducts in it."""
    half = rng.uniform(0.2, 0.4)
    ducts = rng.uniform(-half, half, 5)
    turn = np.where(
        rng.random(n) < 0.6, ducts[rng.integers(5, size=n)], rng.uniform(-half, half, n)
    )
    angle = heading + math.pi + turn + rng.normal(0, 0.02, n)
    r = 0.25 + 0.75 * rng.random(n) ** 0.7
    return r * np.cos(angle), r * np.sin(angle), angle + rng.normal(0, 0.2, n)


_PLACES: dict[str, Callable[[np.random.Generator, int, float], Places]] = {
    "grouped": _grouped,
    "linear": _linear,
    "segmental": _segmental,
}


def _pick(rng: np.random.Generator, shares: dict[str, float]) -> str:
    """One of the names, by their shares, which add up to 1."""
    up_to = list(itertools.accumulate(shares.values()))
    return list(shares)[min(bisect.bisect_right(up_to, rng.random()), len(shares) - 1)]
