"""Sizes and shapes of calcifications, by the morphologies of the BI-RADS atlas.

From the atlas (fifth edition): punctate ones are round and below 0.5 mm, round ones below 1 mm,
amorphous ones so small or hazy that no shape can be told, coarse heterogeneous ones irregular and
mostly above 0.5 mm, fine pleomorphic ones of many shapes and mostly below 0.5 mm, fine linear ones
thin, below 0.5 mm across. All other numbers are chosen.
"""

import math
from typing import NamedTuple

import numpy as np

from mln_flax.data.phantoms.coverage import Spot

SIZE_MM = (0.1, 1.0)
# Calcium oxalate over gland, net, at 20 keV, per mm; a calcification's own density is a factor.
NET_PER_MM, DENSITY = 0.745, (0.5, 1.3)
# Natural logarithm of the median density, and its spread between and within clusters. Chosen.
MEDIAN_DENSITY, BETWEEN, WITHIN = math.log(0.9), 0.20, 0.18


class Morphology(NamedTuple):
    """How calcifications of one name are made; pairs are the least and the largest."""

    median_mm: float  # of the length
    spread: float  # of its natural logarithm
    size_mm: tuple[float, float]
    slim: tuple[float, float]  # width over length
    thickness: tuple[float, float]  # along the beam, over the width; 1 is a sphere or a capsule
    wave: tuple[float, float, float]  # largest amplitudes of the edge's harmonics 2, 3 and 5


MORPHOLOGIES = {
    "punctate": Morphology(0.31, 0.33, (0.10, 0.5), (0.85, 1.0), (1.0, 1.0), (0.05, 0.05, 0.03)),
    "round": Morphology(0.45, 0.33, (0.20, 1.0), (0.92, 1.0), (1.0, 1.0), (0.02, 0.02, 0.0)),
    "amorphous": Morphology(0.37, 0.33, (0.14, 0.7), (0.6, 1.0), (0.5, 0.8), (0.18, 0.18, 0.1)),
    "coarse": Morphology(0.64, 0.25, (0.40, 1.0), (0.55, 0.95), (0.4, 0.7), (0.2, 0.2, 0.12)),
    "pleomorphic": Morphology(0.42, 0.36, (0.14, 0.9), (0.5, 0.95), (0.7, 1.1), (0.2, 0.25, 0.15)),
    "linear": Morphology(0.65, 0.26, (0.30, 1.0), (0.20, 0.40), (1.0, 1.0), (0.0, 0.12, 0.08)),
}
LEAST_WIDTH_MM = 0.09
_NAMES = tuple(MORPHOLOGIES)
_MEDIAN, _SPREAD = (np.array([kind[i] for kind in MORPHOLOGIES.values()]) for i in range(2))
_SIZE, _SLIM, _THICKNESS, _WAVE = (
    np.array([kind[i] for kind in MORPHOLOGIES.values()]) for i in range(2, 6)
)


class Bodies(NamedTuple):
    """Calcifications without places, float64 [n]."""

    length: np.ndarray
    width: np.ndarray
    wave: np.ndarray  # [n, 3]
    phase: np.ndarray
    density: np.ndarray
    thickness: np.ndarray


def bodies(
    rng: np.random.Generator, name: str, n: int, also: str = "punctate", mixed: float = 0.0
) -> Bodies:
    """Calcifications of one cluster.

    Args:
      rng: the random numbers.
      name: one of `MORPHOLOGIES`.
      n: how many.
      also: the morphology of some of them.
      mixed: the share of those.
    """
    kind = np.where(rng.random(n) < mixed, _NAMES.index(also), _NAMES.index(name))
    length = _MEDIAN[kind] * np.exp(_SPREAD[kind] * rng.standard_normal(n))
    length = length.clip(*_SIZE[kind].T)
    width = (length * _between(rng, _SLIM[kind])).clip(LEAST_WIDTH_MM)
    level = MEDIAN_DENSITY + BETWEEN * rng.standard_normal()
    density = np.exp(level + WITHIN * rng.standard_normal(n)).clip(*DENSITY)
    wave = _WAVE[kind] * rng.uniform(0.4, 1, (n, 3))
    phase = rng.uniform(0, 2 * math.pi, n)
    return Bodies(length, width, wave, phase, density, _between(rng, _THICKNESS[kind]))


def spots(
    body: Bodies, x: np.ndarray, y: np.ndarray, along: np.ndarray, *, labeled: bool
) -> list[Spot]:
    """The calcifications at these places, mm, each drawn out along its angle."""
    waves = map(tuple, body.wave.tolist())
    columns = (v.tolist() for v in (x, y, body.length, body.width, along))
    rest = (v.tolist() for v in (body.phase, body.density))
    labels = [labeled] * len(x)
    return list(map(Spot, *columns, waves, *rest, labels, body.thickness.tolist()))


def _between(rng: np.random.Generator, limits: np.ndarray) -> np.ndarray:
    """Uniform numbers between limits [n, (low, high)]."""
    low, high = limits.T
    return low + (high - low) * rng.random(len(limits))
