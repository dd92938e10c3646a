"""Folds of the skin: thin bent lines, bright where skin lies double, dark where air is caught."""

import math
from typing import NamedTuple

import numpy as np

from mln_flax.data.phantoms import anatomy, noise

# Share of breasts with a fold near the axilla (MLO), and near the lower end (MLO; of CC views near
# either end). Chosen.
AXILLA, LOWER, ENDS = 0.35, 0.35, 0.12
STEPS, STEP_MM = 24, (0.8, 2.6)  # of a fold's line
WIDTH_MM = (0.5, 1.6)
# Skin that is doubled, 1 to 3 mm of it along the beam, and air that is caught: attenuation. Chosen.
SKIN, AIR = (0.06, 0.24), (0.0, 0.12)
_FOLDS = 25  # a random stream


class Fold(NamedTuple):
    """A line of doubled skin, and one of caught air beside it, to be taken off."""

    skin: noise.Curves
    air: noise.Curves


def attenuation(
    body: anatomy.Breast, grid: anatomy.Grid, depth_mm: np.ndarray
) -> np.ndarray | None:
    """What folds add to a breast's attenuation, float32 [H, W]; None where the grid shows none.

    Args:
      body: the breast.
      grid: the pixels.
      depth_mm: under the skin, [H, W]: there is no fold in the air.
    """
    near = [fold for fold in folds(body) if _is_near(grid, fold.skin)]
    if not near:
        return None
    total = np.zeros(depth_mm.shape, np.float32)
    for skin, air in near:
        total += noise.curves(skin, grid.x, grid.y) - noise.curves(air, grid.x, grid.y)
    return total * (depth_mm > 0)


def folds(body: anatomy.Breast) -> list[Fold]:
    """The folds of a breast."""
    rng = np.random.default_rng([body.seed, _FOLDS, body.patient])
    shares = {-1: AXILLA if body.view == "MLO" else ENDS, 1: LOWER if body.view == "MLO" else ENDS}
    drawn = []
    for side, share in shares.items():
        if rng.random() >= share:
            continue
        for _ in range(rng.integers(1, 4)):
            angle = side * rng.uniform(0.55, 1.4)
            start = anatomy.outline_mm(body, angle, rng.uniform(0.5, 20.0))
            # Roughly along the skin toward the chest wall, bending inward or back.
            heading = angle + side * (math.pi / 2 + rng.uniform(-0.3, 0.7))
            way = heading + rng.normal(0, 0.02) * np.arange(STEPS) + rng.normal(0, 0.04, STEPS)
            moves = rng.uniform(*STEP_MM) * np.stack([np.cos(way), np.sin(way)], axis=1)
            fade = np.sin(np.linspace(0.1, math.pi - 0.1, STEPS)) ** 0.7
            points = (np.array(start) + np.cumsum(moves, axis=0))[None]
            width = np.full((1, STEPS), rng.uniform(*WIDTH_MM))
            skin, air = (rng.uniform(*most) * fade[None] for most in (SKIN, AIR))
            aside = [0.0, 1.1 * width[0, 0]]
            drawn.append(
                Fold(
                    noise.Curves(points, width, skin),
                    noise.Curves(points + aside, 0.8 * width, air),
                )
            )
    return drawn


def _is_near(grid: anatomy.Grid, line: noise.Curves) -> bool:
    """Whether a line may reach the pixels."""
    low, high = line.points.min((0, 1)) - 4, line.points.max((0, 1)) + 4
    return bool(np.all(high >= [grid.x[0], grid.y[0]]) and np.all(low <= [grid.x[-1], grid.y[-1]]))
