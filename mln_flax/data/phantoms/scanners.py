"""How four machines show one breast: detector or film, processing, noise and artifacts.

Lengths are in mm, so a machine is the same at every pixel size. Numbers are chosen to look right
unless a source is given.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse

# Relative noise of a 0.1 mm pixel behind a breast, so of its logarithm: 2% is 2,500 photons. The
# noise of a pixel of another size follows from the number of photons, which goes with its area.
PHOTON_NOISE = 0.02
# Exposure control aims at this much more than fat's attenuation, so that noise holds there.
EXPOSED = 0.4


class Scene(NamedTuple):
    """What a scanner sees; arrays are float32 [H, W], with the chest wall as in the image."""

    attenuation: np.ndarray  # tissue, a projection or a slice
    spots: np.ndarray  # attenuation of calcifications and distractors
    depth_mm: np.ndarray  # under the skin, negative in the air
    rim: np.ndarray  # attenuation that the rounded rim lacks
    fat: float  # attenuation of fat alone, at full thickness
    spacing_mm: float
    whole: bool  # the whole breast, so the label and the border of a film can be seen
    chest_left: bool


class Scanner(NamedTuple):
    """A machine: whether it shows slices, and its image [H, W] in [0, 1] of a scene."""

    thin: bool
    show: Callable[[Scene, np.random.Generator], np.ndarray]


def ffdm(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A digital mammogram for presentation: dense is bright, air black, the rim made even."""
    signal = _blur(scene.attenuation + scene.spots, 0.05, scene)  # selenium detectors are sharp
    signal += _photons(signal, rng, scene)
    even = signal + 0.85 * _blur(scene.rim, 0.3, scene)
    return _window(even, 0.85 * scene.fat, 1.5 * scene.fat)


def dbt(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A slice of a tomosynthesis: dark halos along the sweep (image rows), ghosts, more noise.

    The sweep runs along the chest wall, so along y. Filtered back-projection over a small angle
    takes a spot's surroundings off along the sweep and leaves faint copies from other heights.
    """
    spots = scene.spots - 0.9 * _blur_rows(scene.spots, 0.6, scene)
    ghost = rng.uniform(1.5, 3.0)
    for shift in (-ghost, ghost):
        pixels = int(round(shift / scene.spacing_mm))
        spots += 0.07 * _shift_rows(_blur_rows(scene.spots, 0.2, scene), pixels)
    tissue = scene.attenuation
    tissue = tissue + 0.35 * (tissue - _blur_rows(tissue, 1.5, scene))
    signal = _blur(tissue + 1.3 * spots, 0.06, scene)  # less lies over a spot in its slice
    noise = _blur(_white(rng, scene), 0.04, scene) * 1.7 * PHOTON_NOISE * 0.1 / scene.spacing_mm
    inside = scene.depth_mm > 0
    signal = signal + noise * (0.25 + 0.75 * inside)
    return 0.08 + 0.92 * _window(signal, 0.68 * scene.fat, 1.5 * scene.fat)


def film(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A digitized screen-film mammogram: curve, grain, dust, scratches, label, border.

    Optical density follows the logarithm of the exposure along a sigmoid between base and fog
    (0.2) and 3.6 with a largest slope of 3, about what mammography film has; the digitizer's
    value falls linearly with density.
    """
    exposed = _blur(scene.attenuation + scene.spots, 0.08, scene)  # light spreads in the screen
    mottle = _blur(_photons(exposed, rng, scene), 0.06, scene)
    log_exposure = -(exposed + mottle - scene.fat - 0.45) / math.log(10)
    density = 0.2 + 3.4 / (1 + np.exp(-4 * 3.0 / 3.4 * (log_exposure - 0.05)))
    grain = _blur(_white(rng, scene), 0.05, scene) * 0.1 / scene.spacing_mm
    density = density + grain * (0.016 + 0.02 * np.sqrt(density))
    image = 1 - density / 3.7
    image = _dust(image, rng, scene)
    if scene.whole:
        image = _film_edges(image, rng, scene)
    return image


def processing(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A digital mammogram for processing: the logarithm of the signal, so dense tissue is dark.

    The detector saturates in the air, which is white.
    """
    signal = _blur(scene.attenuation + scene.spots, 0.07, scene)  # an indirect detector
    signal += _photons(signal, rng, scene)
    return 1 - _window(signal, 0.3 * scene.fat, 1.7 * scene.fat)


SCANNERS = {
    "ffdm": Scanner(False, ffdm),
    "dbt": Scanner(True, dbt),
    "film": Scanner(False, film),
    "processing": Scanner(False, processing),
}


def _white(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    return rng.standard_normal(scene.spots.shape, np.float32)


def _blur(image: np.ndarray, sigma_mm: float, scene: Scene) -> np.ndarray:
    """A Gaussian blur; none where it is far below the pixel."""
    sigma = sigma_mm / scene.spacing_mm
    if sigma < 0.2 or not image.any():
        return image.copy()
    rows = ndimage.correlate1d(image, _gaussian(sigma), axis=0, mode="nearest")
    return ndimage.correlate1d(rows, _gaussian(sigma), axis=1, mode="nearest")


def _blur_rows(image: np.ndarray, sigma_mm: float, scene: Scene) -> np.ndarray:
    """A Gaussian blur along y only."""
    if not image.any():
        return image.copy()
    return _row_blur(sigma_mm / scene.spacing_mm, len(image)) @ image


@functools.lru_cache(maxsize=32)
def _row_blur(sigma: float, rows: int) -> sparse.csr_array:
    """A Gaussian blur of columns of so many pixels as a matrix; the last pixel goes on outside."""
    weights = _gaussian(sigma).astype(np.float32)
    reach = len(weights) // 2
    source = np.arange(rows)[:, None] + np.arange(-reach, reach + 1)
    points = source.clip(0, rows - 1).astype(np.int32).ravel()
    starts = np.arange(rows + 1, dtype=np.int32) * len(weights)
    blur = sparse.csr_array((np.tile(weights, rows), points, starts), shape=(rows, rows))
    blur.sum_duplicates()
    return blur


@functools.cache
def _gaussian(sigma: float) -> np.ndarray:
    """The weights of a Gaussian blur, out to three standard deviations."""
    reach = int(3.0 * sigma + 0.5)
    weights = np.exp(-0.5 / sigma**2 * np.arange(-reach, reach + 1) ** 2)
    return weights / weights.sum()


def _shift_rows(image: np.ndarray, pixels: int) -> np.ndarray:
    """The image moved down by whole pixels, with nothing where it came from."""
    moved = np.zeros_like(image)
    if abs(pixels) < len(image):
        target = slice(max(pixels, 0), len(image) + min(pixels, 0))
        source = slice(max(-pixels, 0), len(image) - max(pixels, 0))
        moved[target] = image[source]
    return moved


def _photons(signal: np.ndarray, rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Quantum noise of the logarithm: Poisson, so it grows with the root of the attenuation."""
    sigma = PHOTON_NOISE * 0.1 / scene.spacing_mm
    return sigma * np.exp(0.5 * (signal - scene.fat - EXPOSED)) * _white(rng, scene)


def _window(signal: np.ndarray, low: float, high: float) -> np.ndarray:
    """[low, high] to [0, 1]: linear in the middle, with soft ends."""
    scaled = (signal - low) / (high - low)
    scaled = np.where(scaled > 0.8, 0.8 + 0.2 * np.tanh((scaled - 0.8) / 0.2), scaled)
    return scaled.clip(0, 1)


def _dust(image: np.ndarray, rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Bright specks on the film, 0.6 in a square centimeter, and a scratch now and then."""
    height, width = image.shape
    area_cm2 = height * width * scene.spacing_mm**2 / 100
    edge = int(np.ceil(0.5 / scene.spacing_mm)) + 1
    at = np.arange(-edge, edge + 1)
    image = np.pad(image, edge)
    for _ in range(rng.poisson(0.6 * area_cm2)):
        row, column = rng.integers(height), rng.integers(width)
        radius, stretch = rng.uniform(0.05, 0.16) / scene.spacing_mm, rng.uniform(0.75, 1.33)
        speck = (radius + 0.5 - np.hypot(at[:, None] * stretch, at / stretch)).clip(0, 1)
        speck *= rng.uniform(0.15, 0.5) * min(1.0, (2 * radius) ** 2)
        image[row : row + len(at), column : column + len(at)] += speck
    image = image[edge : edge + height, edge : edge + width]
    for _ in range(rng.poisson(0.02 * area_cm2 if not scene.whole else 2.0)):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        turn, reach = rng.normal(np.pi / 2, 0.3), rng.uniform(3, 25) / scene.spacing_mm
        t = np.arange(-reach / 2, reach / 2, 0.5)
        rows = np.round(y + t * np.sin(turn)).astype(int)
        columns = np.round(x + t * np.cos(turn)).astype(int)
        seen = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        image[rows[seen], columns[seen]] += rng.uniform(0.03, 0.12)
    return image


def _film_edges(image: np.ndarray, rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """The film's label in the air, with strokes like letters, and the digitizer's border."""
    image = image.copy()
    height, width = image.shape
    mm = 1 / scene.spacing_mm
    tall, wide = int(rng.uniform(9, 13) * mm), int(rng.uniform(24, 34) * mm)
    margin = int(6 * mm)
    if tall + 2 * margin < height and wide + 2 * margin < width and tall > 3:
        left = width - wide - margin if scene.chest_left else margin
        for top in (margin, height - tall - margin):
            area = slice(top, top + tall), slice(left, left + wide)
            if (scene.depth_mm[area] < -2).all():
                image[area] = _label(rng, tall, wide)
                break
    border = [int(rng.uniform(0.5, 3.0) * mm) for _ in range(4)]
    bright = rng.uniform(0.75, 0.95)
    image[: border[0]] = bright
    image[height - border[1] :] = bright
    if scene.chest_left:
        image[:, width - border[2] :] = bright
    else:
        image[:, : border[2]] = bright
    return image


def _label(rng: np.random.Generator, tall: int, wide: int) -> np.ndarray:
    """A gray rectangle with rows of bright strokes that remind of letters."""
    label = np.full((tall, wide), rng.uniform(0.25, 0.4), np.float32)
    letters = max(2, int(wide / max(2, 0.45 * tall)))
    cell, stroke = wide / (letters + 1), max(1, tall // 12)
    low, high = int(0.2 * tall), max(int(0.8 * tall), int(0.2 * tall) + 1)
    for k in range(letters):
        left = int((k + 0.6) * cell)
        right = int(left + 0.65 * cell)
        label[low:high, left : left + stroke] = 0.9
        for at in (low, (low + high) // 2, high - stroke):
            if rng.random() < 0.6:
                label[at : at + stroke, left:right] = 0.9
        if rng.random() < 0.5:
            label[low:high, max(right - stroke, 0) : right] = 0.9
    return label
