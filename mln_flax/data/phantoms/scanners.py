"""How four machines show one breast: detector or film, processing, noise and artifacts.

A machine is a set of numbers, so that others can be drawn (`any_scanner`). Lengths are in mm, so a
machine is the same at every pixel size. Numbers are chosen to look right unless a source is given.
"""

import math
from typing import NamedTuple

import numpy as np

from mln_flax.data.phantoms import artifacts, film_marks
from mln_flax.data.phantoms.scene import (
    Blur,
    Scene,
    blurred,
    blurred_rows,
    shifted_rows,
    smoothed,
    white,
)

# Relative noise of a 0.1 mm pixel behind a breast, so of its logarithm: 2% is 2,500 photons. The
# noise of a pixel of another size follows from the number of photons, which goes with its area.
PHOTON_NOISE = 0.02
# Exposure control aims at this much more than fat's attenuation, so that noise holds there.
EXPOSED = 0.4
LINEAR, LOG, FILM = "linear", "log", "film"  # what gray values follow

# Selenium, fitted to a published presampled MTF of a digital mammography system: 1, 0.84, 0.66,
# 0.47, 0.32, 0.22 at 0 to 5 per mm, of which this is at most 0.02 away.
SELENIUM = Blur(core_mm=0.0424, tail_mm=0.1855, tail=0.225, aperture_mm=0.1)
# Light spreads in the columns of cesium iodide and between them, and in a screen. Chosen: softer
# than selenium; a film's own limit is far finer, so what remains is the digitizer's aperture.
CESIUM_IODIDE = Blur(core_mm=0.05, tail_mm=0.22, tail=0.28, aperture_mm=0.1)
SCREEN = Blur(core_mm=0.055, tail_mm=0.20, tail=0.30, aperture_mm=0.1)
RECONSTRUCTED = Blur(core_mm=0.065, tail_mm=0.18, tail=0.25, aperture_mm=0.1)


class Noise(NamedTuple):
    """Photon noise: its power at low frequencies, and where it falls off."""

    amount: float = 1.0  # times PHOTON_NOISE
    blur: Blur | None = None  # of the part that light spreads; None: white up to the pixels
    electronic: float = 0.0  # white noise beside it, times PHOTON_NOISE
    grain: float = 0.0  # of a film, times the grain of the film below


class Halo(NamedTuple):
    """What reconstruction over a small angle makes of a slice, along the sweep."""

    spots: float = 0.9  # share of a spot's surroundings that is taken off
    spots_mm: float = 0.6
    tissue: float = 0.35  # gain of tissue over its surroundings
    tissue_mm: float = 1.5
    ghost: float = 0.07  # a spot's copies from other heights


class Curve(NamedTuple):
    """From attenuation to gray values in [0, 1]."""

    kind: str = LOG  # or LINEAR in the exposure, or FILM
    low: float = 0.85  # attenuation of the ends, times that of fat; of a film nothing
    high: float = 1.5
    toe: float = 0.0  # share of the gray values in which the ends are soft
    shoulder: float = 0.2
    dark: bool = False  # dense tissue is dark
    slope: float = 3.0  # of a film, its largest
    exposed: float = 0.45  # of a film, attenuation beyond fat's at which it is half dense
    floor: float = 0.0  # gray value of what is black


class Machine(NamedTuple):
    """All that tells a machine from another one."""

    blur: Blur
    curve: Curve
    noise: Noise = Noise()
    halo: Halo | None = None  # of slices; None: projections
    equalized: float = 0.0  # share of the rim's missing attenuation that is put back
    unsharp: tuple[tuple[float, float], ...] = ()  # gain over the mean of so many mm
    film: bool = False  # dust, scratches, label, border
    native_mm: float | None = None  # side of its own pixels, where they matter
    bits: int | None = None  # of its gray values, where they matter

    @property
    def thin(self) -> bool:
        """Whether it shows slices."""
        return self.halo is not None


SCANNERS = {
    # For presentation: dense is bright, air black, the rim made even.
    "ffdm": Machine(SELENIUM, Curve(), equalized=0.85),
    # A slice: dark halos along the sweep (image rows), ghosts, more noise.
    "dbt": Machine(
        RECONSTRUCTED,
        Curve(low=0.68, floor=0.08),
        noise=Noise(1.9, Blur(0.04)),
        halo=Halo(),
    ),
    # Digitized screen film: curve, grain, dust, scratches, label, border. The screen blurs the
    # photons' noise as it does the breast: mottle; grain is the film's own.
    "film": Machine(SCREEN, Curve(FILM), noise=Noise(1.3, SCREEN, grain=1.0), film=True),
    # For processing: the logarithm of the signal, so dense is dark; air saturates, so is white.
    # The scintillator passes on its blur to most of the noise.
    "processing": Machine(
        CESIUM_IODIDE,
        Curve(low=0.3, high=1.7, dark=True),
        noise=Noise(0.95, CESIUM_IODIDE, electronic=0.7),
    ),
}


def show(machine: Machine, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The image float32 [H, W] in [0, 1] that a machine shows of a scene."""
    lead = artifacts.lead(scene, rng)
    if lead is not None:
        scene = scene._replace(attenuation=scene.attenuation + lead)
    signal = detected(machine, scene, rng)
    if not machine.film:
        signal = artifacts.detector_defects(signal, scene, rng)
    image = displayed(machine, processed(machine, signal, scene), scene, rng)
    if machine.film:
        image = film_marks.marked(image, rng, scene)
    if machine.curve.dark:
        image = 1 - image
    image = image.clip(0, 1)
    if machine.bits:
        steps = np.float32(2**machine.bits - 1)
        image = np.round(image * steps) / steps
    return image.astype(np.float32)


def detected(machine: Machine, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The logarithm of what a detector counts, [H, W]: blurred, with its photons' noise.

    The sweep of a tomosynthesis runs along the chest wall, so along y. Filtered back-projection
    over a small angle takes a spot's surroundings off along the sweep, of noise too, and leaves
    faint copies from other heights.
    """
    tissue, spots, halo = scene.attenuation, scene.spots, machine.halo
    if halo:
        spots = _in_slice(halo, spots, scene.spacing_mm, rng.uniform(1.5, 3.0))
        surround = blurred_rows(tissue, halo.tissue_mm, scene.spacing_mm)
        tissue = tissue + np.float32(halo.tissue) * (tissue - surround)
    signal = blurred(tissue + spots, machine.blur, scene.spacing_mm)
    noise = photon_noise(machine, signal, scene, rng)
    if halo:
        noise -= np.float32(0.5) * blurred_rows(noise, halo.spots_mm, scene.spacing_mm)
    return signal + noise


def photon_noise(
    machine: Machine, signal: np.ndarray, scene: Scene, rng: np.random.Generator
) -> np.ndarray:
    """Noise of the logarithm [H, W]: Poisson, so it grows with the root of the attenuation."""
    sigma = np.float32(PHOTON_NOISE) * np.exp(
        np.float32(0.5) * (signal - np.float32(scene.fat + EXPOSED))
    )
    if machine.halo:  # of many projections, whose noise is nearly even
        sigma = np.float32(PHOTON_NOISE) * (0.25 + np.float32(0.75) * (scene.depth_mm > 0))
    settings = machine.noise
    noise = np.float32(settings.amount) * white(rng, scene)
    if settings.blur:
        noise = blurred(noise, settings.blur, scene.spacing_mm)
    if settings.electronic:
        noise += np.float32(settings.electronic) * white(rng, scene)
    return sigma * noise


def processed(machine: Machine, signal: np.ndarray, scene: Scene) -> np.ndarray:
    """The signal as a machine prepares it to be looked at: the rim made even, contrast lifted."""
    if machine.equalized:
        rim = smoothed(scene.rim, 0.4, scene.spacing_mm)
        signal = signal + np.float32(machine.equalized) * rim
    if machine.unsharp:
        most = np.float32(2.2 * scene.fat)  # lead would cast halos over half of the breast
        plain = np.minimum(signal, most)
        for gain, width_mm in machine.unsharp:
            signal = signal + np.float32(gain) * (
                plain - smoothed(plain, width_mm, scene.spacing_mm)
            )
    return signal


def displayed(
    machine: Machine, signal: np.ndarray, scene: Scene, rng: np.random.Generator
) -> np.ndarray:
    """Gray values [H, W], dense tissue bright, of a signal; those of a film with its grain.

    A film's optical density follows the logarithm of the exposure along a sigmoid between base and
    fog (0.2) and 3.6 with a largest slope of 3, about what mammography film has; the digitizer's
    value falls linearly with density.
    """
    curve, fat = machine.curve, scene.fat
    if curve.kind == FILM:
        log_exposure = (fat + curve.exposed - signal) / math.log(10)
        density = 0.2 + 3.4 / (1 + np.exp(-4 * curve.slope / 3.4 * (log_exposure - 0.05)))
        if machine.noise.grain:
            grain = blurred(white(rng, scene), Blur(0.03), scene.spacing_mm)
            grain *= np.float32(machine.noise.grain)
            density = density + grain * (0.012 + 0.015 * np.sqrt(density))
        return 1 - density / 3.7
    low, high = curve.low * fat, curve.high * fat
    if curve.kind == LINEAR:  # in the exposure: thin tissue has most of the gray values
        top, end = math.exp(fat - low), math.exp(fat - high)
        scaled = (top - np.exp(fat - signal)) / (top - end)
    else:
        scaled = (signal - low) / (high - low)
    return curve.floor + (1 - curve.floor) * _soft_ends(scaled, curve.toe, curve.shoulder)


def _in_slice(halo: Halo, spots: np.ndarray, spacing_mm: float, ghost_mm: float) -> np.ndarray:
    """The spots as a slice shows them: less lies over them, and halos along the sweep."""
    around = spots - np.float32(halo.spots) * blurred_rows(spots, halo.spots_mm, spacing_mm)
    if halo.ghost and spots.any():
        copy = np.float32(halo.ghost) * blurred_rows(spots, 0.2, spacing_mm)
        for shift in (-ghost_mm, ghost_mm):
            around += shifted_rows(copy, int(round(shift / spacing_mm)))
    return np.float32(1.3) * around


def _soft_ends(scaled: np.ndarray, toe: float, shoulder: float) -> np.ndarray:
    """Values in [0, 1]: those given in the middle; an end that is soft goes on ever flatter."""
    if shoulder:
        start = 1 - shoulder
        over = start + shoulder * np.tanh((scaled - start).clip(0) / shoulder)
        scaled = np.where(scaled > start, over, scaled)
    if toe:
        under = toe * np.exp(((scaled - toe) / toe).clip(-20, 0))
        scaled = np.where(scaled < toe, under, scaled)
    return scaled.clip(0, 1)
