"""What looks like calcifications of a cluster and is none: benign ones, and dust.

Shapes follow the "typically benign" ones of the BI-RADS atlas (fifth edition): vascular, large
rod-like, rim and lucent-centered, milk of calcium, suture, skin, coarse ("popcorn"). Sizes and
frequencies are chosen unless a source is given.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mln_flax.data.phantoms import anatomy, morphology
from mln_flax.data.phantoms.clusters import Focus, cluster
from mln_flax.data.phantoms.coverage import Spot

CLEAR_MM = 1.5  # from the edge of any of these to a calcification of the cluster, at least
# One or two punctate ones are no cluster: this far from the next ones, and from a cluster's.
SINGLE_MM, MEMBER_MM = 10.0, 5.5
PAIR_MM = 2.0  # from the middle of two of them to either, at most
NEAR_MM = 9.0  # what lies near the focus is at most so far outside of the cluster's extent
TRIES = 4  # to find such a place
_DISTRACTORS = 13  # a random stream


class Groups(NamedTuple):
    """How often something is there: in so many breasts, and how many groups of it in one."""

    breasts: float  # share
    most: int  # groups: from 1 to this many
    near: float  # share of groups that lie near the focus


FREQUENCIES = {
    "single": Groups(0.85, 8, 0.5),  # one or two punctate or round calcifications
    "dust": Groups(0.50, 5, 0.5),
    # 13% of women in screening (Hendriks et al. 2015: 12.7%); more here, so that windows have them.
    "vessel": Groups(0.22, 3, 0.7),
    "rods": Groups(0.08, 3, 0.7),
    "ring": Groups(0.30, 3, 0.6),
    "milk": Groups(0.10, 3, 0.7),
    "suture": Groups(0.07, 2, 0.7),
    "skin": Groups(0.30, 5, 0.6),
    "popcorn": Groups(0.08, 2, 0.7),
}


def distractors(body: anatomy.Breast, at: Focus, calcifications: list[Spot]) -> list[Spot]:
    """Bright things that are no cluster and not labeled, over the breast and around the focus.

    Nothing touches a calcification, and single specks stay so far away that they are no part of
    the cluster. Where there is none they keep off where it would be: so they tell nothing about it.

    Args:
      body: the breast.
      at: its focus.
      calcifications: of the cluster; empty where there is none.
    """
    rng = np.random.default_rng([body.seed, _DISTRACTORS, body.patient])
    calcifications = calcifications or cluster(body, at._replace(lesion=True))
    members = [(spot.x, spot.y) for spot in calcifications]
    specks: list[tuple[float, float]] = []
    spots: list[Spot] = []
    for kind, often in FREQUENCIES.items():
        chance, number = rng.random(2)
        if chance >= often.breasts:
            continue
        speck = kind in ("single", "dust")
        for _ in range(1 + int(often.most * number**2)):
            for _ in range(TRIES if speck else 1):
                x, y = _place(rng, body, at, often.near)
                if speck:
                    if _is_near(x, y, specks, SINGLE_MM) or _is_near(x, y, members, MEMBER_MM):
                        continue
                    specks.append((x, y))
                spots += _DRAWN[kind](rng, body, x, y)
                break
    return _inside(body, spots, calcifications)


def _is_near(x: float, y: float, places: list[tuple[float, float]], within_mm: float) -> bool:
    return any(math.hypot(x - px, y - py) < within_mm + PAIR_MM for px, py in places)


def _place(
    rng: np.random.Generator, body: anatomy.Breast, at: Focus, near: float
) -> tuple[float, float]:
    """A place near the focus or anywhere in the breast, the whole area alike."""
    if rng.random() < near:
        reach = at.radius_mm + NEAR_MM
        dx, dy = rng.uniform(-reach, reach, 2)
        return at.x + float(dx), at.y + float(dy)
    angle, share = rng.uniform(-1.35, 1.35), math.sqrt(rng.uniform(0.01, 0.97))
    x, y = anatomy.outline_mm(body, angle, 0.0)
    return float(share * x), float(share * y)


def _inside(body: anatomy.Breast, spots: list[Spot], calcifications: list[Spot]) -> list[Spot]:
    """Those that lie in the breast and keep off the calcifications."""
    if not spots:
        return spots
    x, y, half = np.array([(spot.x, spot.y, spot.length / 2) for spot in spots]).T
    free = (anatomy.depth_mm(body, x, y) > 0.3) & (x > 0)
    others = np.array([(spot.x, spot.y, spot.length / 2) for spot in calcifications])
    apart = np.hypot(x[:, None] - others[:, 0], y[:, None] - others[:, 1])
    free &= np.all(apart > CLEAR_MM + half[:, None] + others[:, 2], axis=1)
    return [spots[i] for i in np.flatnonzero(free)]


def _single(rng: np.random.Generator, _body: anatomy.Breast, x: float, y: float) -> list[Spot]:
    """One or two calcifications as a cluster of punctate ones has them."""
    n = 1 + int(rng.random() < 0.3)
    aside, turn = rng.uniform(0.5, PAIR_MM), rng.uniform(0, 2 * math.pi)
    side = np.array([-aside, aside])[:n]  # of a pair
    xs, ys = x + side * math.cos(turn), y + side * math.sin(turn)
    name = ("punctate", "round", "pleomorphic")[rng.choice(3, p=(0.6, 0.3, 0.1))]
    bodies = morphology.bodies(rng, name, n)
    return morphology.spots(bodies, xs, ys, rng.uniform(0, math.pi, n), labeled=False)


def _dust(rng: np.random.Generator, _body: anatomy.Breast, x: float, y: float) -> list[Spot]:
    """A grain or a fiber on the detector's cover: small, jagged, denser than a calcification."""
    turn, density = rng.uniform(0, math.pi), rng.uniform(0.8, 3.0)
    if rng.random() < 0.35:
        long, thin = rng.uniform(0.8, 2.5), rng.uniform(0.06, 0.12)
        return [_spot(x, y, long, thin, turn, density, (0.0, 0.1, 0.0), turn)]
    size = rng.uniform(0.15, 0.4)
    w2, w3, w5 = rng.uniform(0.05, 0.2, 3).tolist()
    return [_spot(x, y, size, 0.8 * size, turn, density, (w2, w3, w5), turn)]


def _vessel(rng: np.random.Generator, _body: anatomy.Breast, x: float, y: float) -> list[Spot]:
    """Tram lines: both walls of a bent vessel in plaques, and small ones of a cluster's size."""
    reach, wide = rng.uniform(15, 80), rng.uniform(0.8, 2.4)
    line = np.arange(0.0, reach, 1.0)
    turns = rng.normal(0, 0.06, len(line)) + rng.normal(0, 0.012)
    way = math.pi + rng.normal(0, 0.9) + np.cumsum(turns)
    xs, ys = np.cumsum(np.cos(way)), np.cumsum(np.sin(way))
    here = rng.integers(len(line))
    xs, ys = xs - xs[here] + x, ys - ys[here] + y
    steps = rng.uniform(0.35, 1.1, 2 * int(reach / 0.72))
    t = np.cumsum(steps) % reach  # along one wall, then the other
    side = np.where(np.arange(len(t)) < len(t) / 2, -0.5, 0.5)
    full = rng.uniform(0.3, 1.0) + 0.35 * np.sin(t / rng.uniform(2, 5) + rng.uniform(0, 6, 1))
    there = rng.random(len(t)) < full.clip(0.03, 0.97)
    t, side, steps = t[there], side[there], steps[there]
    n = len(t)
    long = rng.random(n) < 0.7
    plaques = morphology.bodies(rng, "punctate", n, "round", 0.1)
    length = np.where(long, steps * rng.uniform(0.6, 1.1, n), plaques.length)
    width = np.where(long, rng.uniform(0.12, 0.3, n).clip(None, length), plaques.width)
    plaques = plaques._replace(
        length=length, width=width, thickness=np.where(long, rng.uniform(0.5, 1.3, n), 1.0)
    )
    angle = np.interp(t, line, way)
    off = side * wide * np.interp(t, (0, reach), (1.0, rng.uniform(0.6, 1.0)))
    off = off + rng.normal(0, 0.06, n)
    px = np.interp(t, line, xs) - off * np.sin(angle)
    py = np.interp(t, line, ys) + off * np.cos(angle)
    return morphology.spots(plaques, px, py, angle + rng.normal(0, 0.1, n), labeled=False)


def _rods(rng: np.random.Generator, body: anatomy.Breast, x: float, y: float) -> list[Spot]:
    """Secretory disease: smooth rods of 0.5 mm or more across, along ducts; some are tubes."""
    heading = math.atan2(body.nipple[1] - y, body.nipple[0] - x)
    rods, density = [], rng.uniform(0.4, 0.9)
    for _ in range(1 + int(8 * rng.random() ** 2)):
        turn, wide = heading + rng.normal(0, 0.25), rng.uniform(0.5, 1.1)
        dx, dy = rng.normal(0, 5.0, 2)
        hole = rng.uniform(0.4, 0.7) if rng.random() < 0.35 else 0.0
        rod = _spot(x + dx, y + dy, rng.uniform(2, 9), wide, turn, density, (0.0, 0.05, 0.0), turn)
        rods.append(rod._replace(hole=hole))
    return rods


def _ring(rng: np.random.Generator, _body: anatomy.Breast, x: float, y: float) -> list[Spot]:
    """An eggshell of an oil cyst, or a lucent-centered sphere of 0.8 to 2.5 mm."""
    turn = rng.uniform(0, math.pi)
    if rng.random() < 0.4:
        size, hole, density = rng.uniform(2.5, 8), rng.uniform(0.86, 0.95), rng.uniform(0.15, 0.5)
    else:
        size, hole, density = rng.uniform(0.8, 2.5), rng.uniform(0.45, 0.8), rng.uniform(0.4, 0.9)
    width = size * rng.uniform(0.85, 1)
    shell = _spot(x, y, size, width, turn, density, (0.04, 0.03, 0.0), turn)
    return [shell._replace(hole=hole)]


def _milk(rng: np.random.Generator, body: anatomy.Breast, x: float, y: float) -> list[Spot]:
    """Milk of calcium in small cysts: hazy round smudges from above (CC), teacups aside (MLO)."""
    spots, density = [], rng.uniform(0.5, 1.0)
    for dx, dy in rng.normal(0, 2.2, (int(rng.integers(3, 10)), 2)).tolist():
        size, turn = rng.uniform(1.05, 1.8), rng.normal(0, 0.08)
        wave = (0.05, 0.05, 0.03)
        if body.view == "CC":
            smudge = _spot(x + dx, y + dy, size, size, turn, density, wave, dx)
            spots.append(smudge._replace(thickness=rng.uniform(0.07, 0.16)))
        else:  # the level of what has settled points up, to smaller y
            cup = _spot(
                x + dx, y + dy, size - 0.3, 0.85 * (size - 0.3), turn, density, (0.0, 0.0, 0.0), 0.0
            )
            cup = cup._replace(hole=rng.uniform(0.9, 1.0), aside=-rng.uniform(0.35, 0.55))
            spots.append(cup._replace(thickness=0.5))
    return spots


def _suture(rng: np.random.Generator, _body: anatomy.Breast, x: float, y: float) -> list[Spot]:
    """A calcified thread: pieces along an arc, with knots that are loops."""
    piece, turn = 0.8, rng.uniform(0, 2 * math.pi)
    bend, density, wide = rng.normal(0, 0.15), rng.uniform(0.4, 0.9), rng.uniform(0.15, 0.3)
    spots: list[Spot] = []
    for i in range(int(rng.integers(6, 18))):
        x, y = x + piece * math.cos(turn), y + piece * math.sin(turn)
        if i % 5 == 2:
            loop = _spot(x, y, 1.1, 0.8, turn + 0.7, density, (0.1, 0.08, 0.0), turn)
            spots.append(loop._replace(hole=0.65))
        elif rng.random() < 0.75:
            spots.append(_spot(x, y, 0.9, wide, turn, density, (0.0, 0.05, 0.0), 0.0))
        turn += bend + rng.normal(0, 0.12)
    return spots


def _skin(rng: np.random.Generator, body: anatomy.Breast, x: float, y: float) -> list[Spot]:
    """Skin calcifications: many-sided, lucent-centered, 0.5 to 1.2 mm, alone or a few together.

    Half of the groups lie where the skin is seen from the side, the others are projected inside.
    """
    if rng.random() < 0.5:
        x, y = anatomy.outline_mm(body, math.atan2(y, x), rng.uniform(0.8, 1.6))
    spots, density = [], rng.uniform(0.5, 1.0)
    for dx, dy in rng.normal(0, 1.8, (int(rng.integers(1, 6)), 2)).tolist():
        size, turn = rng.uniform(0.5, 1.2), rng.uniform(0, math.pi)
        wide = size * rng.uniform(0.85, 1)
        spot = _spot(x + dx, y + dy, size, wide, turn, density, (0.03, 0.04, 0.09), turn)
        spots.append(spot._replace(hole=rng.uniform(0.5, 0.75)))
    return spots


def _popcorn(rng: np.random.Generator, _body: anatomy.Breast, x: float, y: float) -> list[Spot]:
    """A fibroadenoma that degenerates: coarse lumps, over and beside each other."""
    spots, spread, density = [], rng.uniform(0.8, 1.8), rng.uniform(0.3, 0.6)
    for dx, dy in rng.normal(0, spread, (int(rng.integers(8, 22)), 2)).tolist():
        size, turn = rng.uniform(0.6, 2.4), rng.uniform(0, math.pi)
        wide = size * rng.uniform(0.75, 1.0)
        lump = _spot(x + dx, y + dy, size, wide, turn, density, (0.06, 0.08, 0.06), turn)
        spots.append(lump._replace(thickness=rng.uniform(0.3, 0.7)))
    return spots


def _spot(
    x: float,
    y: float,
    length: float,
    width: float,
    angle: float,
    density: float,
    wave: tuple[float, float, float],
    phase: float,
) -> Spot:
    """A spot without a label."""
    return Spot(float(x), float(y), length, width, angle, wave, phase, density, False)


_DRAWN: dict[str, Callable[[np.random.Generator, anatomy.Breast, float, float], list[Spot]]] = {
    "single": _single,
    "dust": _dust,
    "vessel": _vessel,
    "rods": _rods,
    "ring": _ring,
    "milk": _milk,
    "suture": _suture,
    "skin": _skin,
    "popcorn": _popcorn,
}
