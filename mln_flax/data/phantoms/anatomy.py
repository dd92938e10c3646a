"""The breast of a phantom: outline, thickness, tissue, in millimeters and without a scanner.

Coordinates: x in mm from the chest wall to the nipple, y in mm downward, so a breast is the same
object whatever the pixels. Attenuation is the natural logarithm of the loss of photons.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mln_flax.data.phantoms import noise

# Linear attenuation at 20 keV, per mm: Johns and Yaffe 1987 (fat 0.456, fibroglandular 0.802 /cm).
MU_FAT, MU_GLAND = 0.0456, 0.0802
# Path through the skin where the beam is tangent to it, mm. Skin is 1-2 mm thick; path chosen.
SKIN_MM, SKIN_PATH_MM = 1.5, 5.0
# Texture periods, mm, each half of the one before: from lobes to below the pixels. Chosen.
PERIODS_MM = tuple(51.2 / 2**k for k in range(9))
# Power-law exponents. Projections: about 3 (Burgess, Jacobson and Judy 2001). Septa, streaks and
# fibers have steeper spectra, so the texture under them is given less: chosen so that windows of
# 12.8 mm measure 3.2 (projections) and 3.06 (slices, in which less tissue overlaps) on average
# between 0.3 and 1.5 per mm.
PROJECTION_EXPONENT, TEXTURE_PROJECTION, TEXTURE_SLICE = 3.0, 2.71, 2.53
LATTICE_SIDE = 64  # of the streaks' noise

FIBERS, FIBER_STEPS = (26, 7, 90), 28  # ducts, vessels, ligaments, and the points of each. Chosen
_FIBER_KIND = np.repeat([0, 1, 2], FIBERS)
_TAPER = np.linspace(1.0, 0.45, FIBER_STEPS)[None]
_FADE = np.sin(np.linspace(0.25, np.pi - 0.1, FIBER_STEPS))[None] ** 0.5  # no blunt ends

# Directions of an outline's points, what its shape is made of there, and waves it sways by.
_ANGLE = np.linspace(-np.pi / 2, np.pi / 2, 721)
_COSINE, _SINE = np.cos(_ANGLE).clip(0), np.abs(np.sin(_ANGLE))
_WAVES = [np.sin((k + 2) * _ANGLE + 2 * k) for k in range(3)]
_ANGLE.flags.writeable = False  # each breast has it

_BREAST, _LOBES, _TEXTURE, _SEPTA, _FIBERS, _STREAKS = 1, 2, 3, 4, 5, 6  # random streams


class Grid(NamedTuple):
    """Pixel centers in breast coordinates, mm, and whether they show the whole breast."""

    x: np.ndarray  # [W]
    y: np.ndarray  # [H]
    spacing_mm: float
    whole: bool


class Breast(NamedTuple):
    """One breast under compression: what does not depend on pixels."""

    seed: int
    patient: int
    view: str  # "CC" or "MLO"
    laterality: str  # "L" or "R"
    angle: np.ndarray  # [n], of the outline around (0, 0); 0 points along x
    radius: np.ndarray  # [n] mm, the outline
    slant: np.ndarray  # [n], cosine between the outline's normal and its radius
    nipple: tuple[float, float]  # x, y mm
    nipple_mm: float  # its radius, and how far it stands out
    top: float  # y mm where a film would end above
    bottom: float  # y mm of the breast's lower end
    thickness_mm: float
    roll_mm: float  # width of the rounded rim
    density: float  # share of dense tissue in the gland's middle
    subcutaneous_mm: float
    pectoral: tuple[float, float]  # mm along the upper edge, mm down the chest wall; (0, 0): none


class Tissue(NamedTuple):
    """Attenuation on a grid, without calcifications; all [H, W] float32."""

    attenuation: np.ndarray
    depth_mm: np.ndarray  # under the skin; negative in the air
    rim: np.ndarray  # attenuation of fat that the rounded rim lacks


def breast(seed: int, index: int) -> Breast:
    """The breast of a patient; even indices are CC views, odd ones MLO, of either side.

    Sizes are chosen so that a breast is about 100 x 180 mm; compressed thickness 40 to 65 mm lies
    around the 50 to 60 mm that is typical in screening.
    """
    rng = np.random.default_rng([seed, _BREAST, index])
    view = ("CC", "MLO")[index % 2]
    length = rng.uniform(72, 112)
    lower = length * rng.uniform(0.84, 1.02)
    upper = length * (rng.uniform(0.84, 1.02) if view == "CC" else rng.uniform(1.35, 1.6))
    power = np.array([2.1 if view == "CC" else 1.75, rng.uniform(2.0, 2.3)])
    angle = _ANGLE
    side = (angle > 0).astype(int)
    half = np.array([upper, lower])[side]
    p = power[side]
    radius = (_COSINE / length) ** p + (_SINE / half) ** p
    radius = radius ** (-1 / p)
    sway = rng.normal(0, 0.012, 3)
    radius *= 1 + sum(sway[k] * _WAVES[k] for k in range(3))
    if view == "MLO":  # gravity: the fullest part hangs below the middle
        radius *= 1 + rng.uniform(0.03, 0.08) * np.exp(-(((angle - 0.45) / 0.4) ** 2))
    at = rng.normal(0.0, 0.06) if view == "CC" else rng.uniform(0.05, 0.3)
    tip = np.interp(at, angle, radius)
    slope = np.gradient(radius, angle)
    pectoral = (rng.uniform(26, 46), upper * rng.uniform(0.8, 1.15)) if view == "MLO" else (0.0, 0)
    thickness = rng.uniform(40, 65)
    return Breast(
        seed=seed,
        patient=index,
        view=view,
        laterality="LR"[rng.integers(2)],
        angle=angle,
        radius=radius,
        slant=radius / np.hypot(radius, slope),
        nipple=(float(tip * np.cos(at)), float(tip * np.sin(at))),
        nipple_mm=rng.uniform(3.5, 5.5),
        top=-upper * (1.0 if view == "CC" else 0.86),
        bottom=lower,
        thickness_mm=thickness,
        roll_mm=thickness * rng.uniform(0.25, 0.4),
        density=rng.beta(2.0, 2.2),
        subcutaneous_mm=rng.uniform(5, 14),
        pectoral=pectoral,
    )


def outline_mm(body: Breast, angle: Any, depth_mm: Any) -> tuple[Any, Any]:
    """The point (x, y) in mm that lies `depth_mm` under the skin in the direction `angle`.

    Of numbers or of arrays.
    """
    radius = np.interp(angle, body.angle, body.radius)
    radius = radius - depth_mm / np.interp(angle, body.angle, body.slant)
    return radius * np.cos(angle), radius * np.sin(angle)


def depth_mm(body: Breast, x: Any, y: Any) -> Any:
    """Millimeters under the skin, negative in the air; exact near the skin, where it matters."""
    angle = np.arctan2(y, x)
    radius = np.interp(angle, body.angle, body.radius)
    return (radius - np.hypot(x, y)) * np.interp(angle, body.angle, body.slant)


def tissue(body: Breast, grid: Grid, *, thin: bool) -> Tissue:
    """The breast's attenuation on a grid: a projection, or (`thin`) one slice of it.

    A slice has fewer structures over each other: other weights, a lower exponent, a flatter rim.
    """
    x, y = _axes(grid)
    depth = depth_mm(body, x, y).astype(np.float32)
    out = np.sqrt((x - (body.nipple[0] - 1.5)) ** 2 + (y - body.nipple[1]) ** 2)
    nipple = np.minimum(1.0, (body.nipple_mm - out) / 2)  # a ball on the skin
    depth = np.maximum(depth, 2 * nipple)
    inside = _step(depth / max(0.3, grid.spacing_mm) + 0.5)
    rim = (depth / body.roll_mm).clip(0, 1)
    rolled = np.sqrt(rim * (2 - rim))  # a quarter of a circle
    share = _dense_share(body, grid, depth, thin)
    share = share + _pectoral(body, grid) * (0.40 - 0.6 * share)
    thickness = body.thickness_mm * (0.75 + 0.25 * rolled if thin else rolled)
    attenuation = thickness * (MU_FAT + (MU_GLAND - MU_FAT) * share)
    attenuation += 0.15 * _step(nipple / 2 + 0.5)
    attenuation += 0.5 * SKIN_PATH_MM * MU_GLAND * np.exp(-((depth / SKIN_MM - 0.5) ** 2) * 2)
    rim = MU_FAT * (body.thickness_mm - thickness)
    return Tissue(attenuation * inside, depth, rim * inside)


def _axes(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The grid's x [1, W] and y [H, 1] in the precision of what is computed for each pixel."""
    return grid.x[None, :].astype(np.float32), grid.y[:, None].astype(np.float32)


def _step(value: np.ndarray) -> np.ndarray:
    """Zero below 0, one above 1, smooth between (the cubic 3v^2 - 2v^3)."""
    value = value.clip(0, 1)
    return value * value * (3 - 2 * value)


def _dense_share(body: Breast, grid: Grid, depth: np.ndarray, thin: bool) -> np.ndarray:
    """Share of dense tissue along the beam; weights are chosen by looking at the result."""
    x, y = _axes(grid)
    lobes, *levels, texture = noise.fields(_laws(body, thin), grid.x, grid.y)

    # Lobes of the gland: a cone behind the nipple, broken up by noise, under a layer of fat.
    streaks = _streaks(body, grid)
    gland = _gland(body, x, y, depth, 0.85 * lobes + 0.5 * streaks, 3.0 * lobes + 2.0 * streaks)

    # Septa around lobules of fat (Cooper's ligaments among them): where a smooth noise is zero.
    septa = np.zeros_like(depth)
    for k, level in enumerate(levels):
        level = np.abs(level + 0.35 * streaks)
        septa += np.exp(-level / (0.22 + 0.1 * k)) * (0.6, 0.4)[k]
    fibers = noise.curves(_fibers(body, grid, thin), grid.x, grid.y)

    weight = 0.5 + 0.6 * gland
    core = gland * (0.20 + 0.26 * body.density) * (0.75 if thin else 1.0)
    share = 0.07 + core * (0.75 + 0.32 * septa + 0.16 * streaks)
    share += (0.058 if thin else 0.085) * texture * weight + 0.055 * septa + fibers
    return share * _step(depth / 2.5)


def gland_at(body: Breast, x: float, y: float) -> float:
    """How likely a place lies in the gland, in [0, 1], before noise breaks its lobes up."""
    place = np.float64(x), np.float64(y)
    return float(_gland(body, *place, depth_mm(body, *place), 0.0, 0.0))


def _gland(body: Breast, x: Any, y: Any, depth: Any, lobes: Any, layer: Any) -> Any:
    """The gland in [0, 1]: a cone behind the nipple, under a layer of fat.

    Args:
      body: the breast.
      x: mm.
      y: mm.
      depth: mm under the skin.
      lobes: what is added to the cone.
      layer: mm that are added to the layer of fat.
    """
    tip_x, tip_y = body.nipple
    along = (tip_x - x) / tip_x
    across = (y - tip_y * (1 - 0.5 * along)) / (0.5 * (body.bottom - body.top))
    cone = 1.1 - 1.2 * (np.abs(across) / (0.30 + 0.45 * along.clip(0, 1))) ** 2
    cone -= 2.0 * (along - 0.72).clip(0) + 0.8 * (0.1 - along).clip(0)
    inside = _step(0.5 + 0.42 * (cone - 1.15 + 1.3 * body.density + lobes))
    return inside * _step((depth - body.subcutaneous_mm - layer) / 12.0 + 0.3)


def _laws(body: Breast, thin: bool) -> list[noise.PowerLaw]:
    """The noise of lobes, of septa around two sizes of lobules, and of the finest texture."""

    def law(stream: int, periods: Sequence[float], exponent: float) -> noise.PowerLaw:
        rng = np.random.default_rng([body.seed, stream, body.patient])
        return noise.power_law(rng, periods, exponent)

    return [
        law(_LOBES, PERIODS_MM[:6], 3.4),
        *(
            law(_SEPTA + 10 * k, (period, period / 2.3, period / 5.1), PROJECTION_EXPONENT)
            for k, period in enumerate((15.0, 8.0))
        ),
        law(_TEXTURE, PERIODS_MM, TEXTURE_SLICE if thin else TEXTURE_PROJECTION),
    ]


def _streaks(body: Breast, grid: Grid) -> np.ndarray:
    """Noise of variance about 1 drawn out along lines to a point outside the nipple."""
    rng = np.random.default_rng([body.seed, _STREAKS, body.patient])
    x, y = _axes(grid)
    x, y = x - (body.nipple[0] + 18.0), y - body.nipple[1]
    angle, reach = np.arctan2(y, -x) + np.float32(np.pi), np.sqrt(x * x + y * y)
    total = np.zeros(angle.shape, np.float32)
    for radians, length_mm, scale in ((0.16, 45.0, 1.3), (0.05, 22.0, 1.3)):
        lattice = rng.standard_normal((LATTICE_SIDE, LATTICE_SIDE), np.float32) * scale
        total += noise.spline(lattice, angle / radians, reach / length_mm)
    return total


def _pectoral(body: Breast, grid: Grid) -> np.ndarray:
    """How much of the beam's path is pectoral muscle: a wedge with a soft, slightly bent edge."""
    if not body.pectoral[0]:
        return np.zeros((1, 1), np.float32)
    across, down = body.pectoral
    x, y = _axes(grid)
    y = y - body.top
    t = (y / down).clip(-0.5, 1.2)
    edge = across * (1 - t) + 0.12 * across * np.sin(np.pi * t.clip(0, 1))
    return _step((edge - x) / 5.0 + 0.5)


def _fibers(body: Breast, grid: Grid, thin: bool) -> noise.Curves:
    """Ducts that fan out from the nipple, vessels, and ligaments that reach for the skin.

    Those that end before they reach the grid are left out.

    Widths: ducts 0.5 to 2 mm, vessels 1 to 2.5 mm, ligaments 0.3 to 0.8 mm, all chosen.
    """
    rng = np.random.default_rng([body.seed, _FIBERS, body.patient])
    ducts, vessels, ligaments = FIBERS
    count, kind, steps = len(_FIBER_KIND), _FIBER_KIND, FIBER_STEPS
    tip = np.array(body.nipple) - [4.0, 0.0]
    start = np.tile(tip, (count, 1)) + rng.normal(0, 1.5, (count, 2))
    angles = rng.uniform(-1.25, 1.25, count)
    deep = rng.uniform(
        np.repeat([4, 2.5], [vessels, ligaments]), np.repeat([25, 16], [vessels, ligaments])
    )
    start[ducts:] = np.column_stack(outline_mm(body, angles[ducts:], deep))
    heading = np.pi + rng.uniform(-0.85, 0.85, count)  # ducts run back from the nipple
    inward = np.arctan2(-start[:, 1], -start[:, 0])
    heading = np.where(kind == 1, np.pi + rng.normal(0, 0.5, count), heading)
    heading = np.where(kind == 2, inward + rng.normal(0, 0.55, count), heading)
    stride = _by_kind(2.3, 3.2, 0.9) * rng.uniform(0.6, 1.2, count)
    turns = rng.normal(0, 1, (count, steps)) * _by_kind(0.13, 0.1, 0.07)[:, None]
    curls = rng.normal(0, 0.02, (count, 1))
    width = _by_kind(1.3, 1.7, 0.5) * rng.uniform(0.6, 1.5, count)
    strength = _by_kind(0.030, 0.045, 0.038) * rng.uniform(0.5, 1.3, count)
    if thin:  # a slice cuts a third of them, and shows those without what lies above and below
        strength = np.where(rng.random(count) < 0.35, 1.2 * strength, 0.0)
    near = _distance(grid, start) < steps * stride + width + 2 * grid.spacing_mm
    start, heading, turns, curls, stride, width, strength = (
        values[near] for values in (start, heading, turns, curls, stride, width, strength)
    )
    way = heading[:, None] + np.cumsum(turns, axis=1) + curls * np.arange(steps)
    moves = stride[:, None, None] * np.stack([np.cos(way), np.sin(way)], axis=-1)
    points = start[:, None] + np.cumsum(moves, axis=1)
    return noise.Curves(points, width[:, None] * _TAPER, strength[:, None] * _FADE)


def _distance(grid: Grid, points: np.ndarray) -> np.ndarray:
    """Millimeters from each of the points [n, (x, y)] to the rectangle of the pixels' centers."""
    low, high = [grid.x[0], grid.y[0]], [grid.x[-1], grid.y[-1]]
    return np.hypot(*(points - points.clip(low, high)).T)


def _by_kind(duct: float, vessel: float, ligament: float) -> np.ndarray:
    """A number for each fiber."""
    return np.array([duct, vessel, ligament])[_FIBER_KIND]
