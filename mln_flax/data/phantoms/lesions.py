"""Calcifications of a phantom and what looks like them: shapes in millimeters, and their masks."""

import bisect
import math
from typing import NamedTuple

import numpy as np

from mln_flax.data.phantoms import anatomy, coverage
from mln_flax.data.phantoms.coverage import Spot

# Share of images without a cluster, and of those that look at the skin. Chosen: normal images are
# most of any screening, and small windows must show air in training too.
EMPTY_SHARE, SKIN_SHARE = 0.3, 0.25
# A cluster: 5 or more within 1 cm^2 (the usual radiological definition); 30 is chosen.
COUNT = (5, 30)
CLUSTER_RADIUS_MM = 5.2  # of at most 1 cm^2: pi 5.2^2 = 85 mm^2
SIZE_MM = (0.15, 0.8)  # chosen; "micro" usually means below 1 mm or 0.5 mm
# Attenuation of a calcification 0.35 mm wide, and its spread (natural log) within and between
# clusters. Chosen: the median is about 5 times the noise and fine texture of an ffdm window.
CONTRAST, SPREAD, CLUSTER_SPREAD = 0.23, 0.40, 0.30
CONTRAST_MOST = 0.6  # a calcification is never brighter
# Distractors and the running sum of their shares. Chosen.
KINDS = ("none", "round", "speck", "wall")
KINDS_UP_TO = tuple(np.cumsum([0.55, 0.13, 0.26, 0.06]).tolist())
GAP_MM = 0.25  # free tissue between two calcifications, so that each is one object. Chosen

_FOCUS, _CLUSTER, _DISTRACTORS = 11, 12, 13  # random streams


class Focus(NamedTuple):
    """What a small window looks at, and whether a cluster lies there."""

    x: float
    y: float
    radius_mm: float  # of the cluster
    lesion: bool


def focus(body: anatomy.Breast) -> Focus:
    """Where the cluster of a breast lies, or the place that a window without one shows."""
    rng = np.random.default_rng([body.seed, _FOCUS, body.patient])
    lesion = bool(rng.random() >= EMPTY_SHARE)
    angle = rng.uniform(-0.9, 0.9)
    radius = rng.uniform(2.2, CLUSTER_RADIUS_MM)
    if rng.random() < SKIN_SHARE:
        radius = min(radius, 3.0)
        deep = radius + rng.uniform(1.0, 2.0) if lesion else rng.uniform(-2.0, 4.5)
    else:
        reach = np.interp(angle, body.angle, body.radius) * np.interp(angle, body.angle, body.slant)
        deep = rng.uniform(15.0, 0.8 * reach)
    x, y = anatomy.outline_mm(body, angle, deep)
    return Focus(float(x), float(y), radius, lesion)


def cluster(body: anatomy.Breast, at: Focus) -> list[Spot]:
    """The calcifications of a cluster: punctate, amorphous, or fine-linear along a branching duct.

    Empty where the focus has no lesion.
    """
    if not at.lesion:
        return []
    rng = np.random.default_rng([body.seed, _CLUSTER, body.patient])
    ductal = rng.random() < 0.3
    amorphous = rng.random() < 0.3
    count = int(rng.integers(COUNT[0], COUNT[1] + 1))
    if not ductal:
        # 1.2 mm^2 to each at least (chosen), so that all of them find room
        count = min(count, max(COUNT[0], int(np.pi * at.radius_mm**2 / 1.2)))
    level = CONTRAST * math.exp(rng.normal(0, CLUSTER_SPREAD))
    place = _on_duct(rng, at) if ductal else _in_ellipse(rng, at)
    spots: list[Spot] = []
    for _ in range(20 * count):
        x, y, along = place()
        linear = rng.random() < (0.6 if ductal else 0.08)
        spot = _calcification(rng, x, y, along, level, linear, amorphous)
        if _is_apart(spot, spots, GAP_MM):
            spots.append(spot)
        if len(spots) == count:
            break
    return spots


def distractors(body: anatomy.Breast, at: Focus, keep_off: list[Spot]) -> list[Spot]:
    """Bright things that are no cluster and not labeled, around the focus and over the breast.

    Round benign calcifications (some with a lucent middle), specks like dust, and walls of vessels
    as two broken lines. Frequencies and sizes are chosen. None touches a spot of `keep_off`.
    """
    rng = np.random.default_rng([body.seed, _DISTRACTORS, body.patient])
    groups = []
    for k in range(22):
        near = k < 4
        lows, highs = ((-6.2, -6.2), (6.2, 6.2)) if near else ((0.1, -1.2), (0.92, 1.2))
        place = tuple(map(_between, (rng, rng), lows, highs))
        kind = KINDS[bisect.bisect_right(KINDS_UP_TO, rng.random())]
        turn = _between(rng, 0, math.pi)
        if kind == "none":
            continue
        if near:
            x, y = at.x + place[0], at.y + place[1]
        else:
            x, y = (place[0] * mm for mm in anatomy.outline_mm(body, place[1], 0.0))
        groups.append(_distractor(rng, kind, float(x), float(y), turn))
    return [spot for group in groups for spot in group if _is_apart(spot, keep_off, 0.6)]


def draw(spots: list[Spot], grid: anatomy.Grid) -> tuple[np.ndarray, np.ndarray]:
    """The spots' attenuation, float32 [H, W], and the mask of the labeled ones, uint8 [H, W].

    Both come from the same coverage: the share of a pixel that lies in the spot, by sampling. A
    pixel is in the mask when one labeled spot covers half of it or more; a spot in the image that
    covers no pixel so far marks the pixel it covers most. Spots add up in the attenuation.
    """
    shape = len(grid.y), len(grid.x)
    layer, mask = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    for spot, patch, share in coverage.shares(spots, grid):
        layer[patch] += spot.contrast * share
        if spot.labeled:
            covered = share >= 0.5
            if not covered.any() and share.any() and _holds(grid, spot):
                covered = np.arange(share.size).reshape(share.shape) == share.argmax()
            mask[patch] |= covered.astype(np.uint8)
    return layer, mask


def _is_apart(spot: Spot, others: list[Spot], gap_mm: float) -> bool:
    """Whether a spot has more free room than this to each of the others, by a lower bound."""
    x, y, gap_mm = spot.x, spot.y, gap_mm + spot.length / 2
    return all(math.hypot(x - o.x, y - o.y) - o.length / 2 > gap_mm for o in others)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """The number that `rng.uniform` draws, in a third of the time."""
    return low + (high - low) * rng.random()


def _in_ellipse(rng: np.random.Generator, at: Focus):
    """A function that draws places in an ellipse, denser in its middle."""
    tilt, flat = _between(rng, 0, math.pi), _between(rng, 0.6, 1.0)
    c, s = math.cos(tilt), math.sin(tilt)

    def place() -> tuple[float, float, float]:
        turn = _between(rng, 0, 2 * math.pi)
        r = (at.radius_mm - SIZE_MM[1] / 2) * rng.random() ** 0.6
        u, v = r * math.cos(turn), flat * r * math.sin(turn)
        return at.x + c * u - s * v, at.y + s * u + c * v, _between(rng, 0, math.pi)

    return place


def _on_duct(rng: np.random.Generator, at: Focus):
    """A function that draws places along a duct with two side branches, and its direction there."""
    heading = _between(rng, 0, 2 * math.pi)
    reach = max(at.radius_mm, 3.0) - SIZE_MM[1] / 2 if at.radius_mm > 3.0 else at.radius_mm - 0.2
    sides = (heading + np.array([1, -1]) * rng.uniform(0.45, 0.8, 2)).tolist()
    roots = (rng.uniform(-0.6, 0.3, 2) * reach).tolist()

    def place() -> tuple[float, float, float]:
        pick = rng.integers(4)
        if pick < 2:
            t = _between(rng, -reach, reach)
            along, x, y = heading, t * math.cos(heading), t * math.sin(heading)
        else:
            root, along = roots[pick - 2], sides[pick - 2]
            t = _between(rng, 0.1, 0.65) * reach
            x = root * math.cos(heading) + t * math.cos(along)
            y = root * math.sin(heading) + t * math.sin(along)
        dx, dy = rng.normal(0, 0.12, 2).tolist()
        return at.x + x + dx, at.y + y + dy, along + rng.normal(0, 0.12)

    return place


def _calcification(rng, x, y, along, level, linear, amorphous) -> Spot:
    """One labeled calcification; the smaller it is the less it attenuates."""
    contrast = level * math.exp(rng.normal(0, SPREAD))
    if linear:
        length, width = _between(rng, 0.45, SIZE_MM[1]), _between(rng, SIZE_MM[0], 0.22)
        wave = (0.0, 0.1, 0.0)
    else:
        length = min(max(math.exp(rng.normal(math.log(0.40), 0.34)), SIZE_MM[0]), SIZE_MM[1])
        width = length * _between(rng, 0.75, 1.0)
        wave = (0.05, 0.05, 0.03)
        if amorphous:
            contrast *= 0.6
            wave = (0.15, 0.18, 0.1)
    contrast = min(contrast * math.sqrt(width / 0.35), CONTRAST_MOST)
    return Spot(x, y, length, width, along, wave, _between(rng, 0, 2 * math.pi), contrast, True)


def _distractor(rng: np.random.Generator, kind: str, x: float, y: float, turn: float) -> list[Spot]:
    """The spots of one distractor, none of them labeled."""
    if kind == "round":
        size = _between(rng, 1.0, 2.2)
        shell = Spot(x, y, size, size, 0.0, (0.02, 0.0, 0.0), turn, _between(rng, 0.12, 0.4), False)
        if rng.random() < 0.5:
            return [shell]
        inner = _between(rng, 0.5, 0.75) * size
        lucent = shell._replace(length=inner, width=inner, contrast=-0.6 * shell.contrast)
        return [shell, lucent]
    if kind == "speck":
        size = _between(rng, 0.1, 0.3)
        wave = (0.2, 0.1, 0.1)
        return [Spot(x, y, size, 0.8 * size, turn, wave, turn, _between(rng, 0.1, 0.4), False)]
    if kind == "wall":
        apart, reach, contrast = (
            _between(rng, 1.3, 2.4),
            _between(rng, 3, 7),
            _between(rng, 0.06, 0.18),
        )
        curve = rng.normal(0, 0.04)
        dashes = []
        for side in (-0.5, 0.5):
            for t in np.arange(-reach, reach, 0.9):
                if rng.random() < 0.6:
                    u, v = t + rng.normal(0, 0.1), side * apart + curve * t * t
                    px = x + math.cos(turn) * u - math.sin(turn) * v
                    py = y + math.sin(turn) * u + math.cos(turn) * v
                    along = turn + math.atan(2 * curve * t)
                    length, weak = _between(rng, 0.3, 1.2), contrast * _between(rng, 0.5, 1)
                    dashes.append(Spot(px, py, length, 0.2, along, (0.0, 0.1, 0.0), t, weak, False))
        return dashes
    return []


def _holds(grid: anatomy.Grid, spot: Spot) -> bool:
    """Whether a spot's middle lies in the image."""
    half = grid.spacing_mm / 2
    inside_x = grid.x[0] - half <= spot.x < grid.x[-1] + half
    return bool(inside_x and grid.y[0] - half <= spot.y < grid.y[-1] + half)
