"""Machines drawn at random from broad ranges: the domain `any`, to train a general detector on.

All ranges are chosen, so that machines in use lie within them and not at their ends.
"""

import numpy as np

from mln_flax.data.phantoms.scanners import FILM, LINEAR, LOG, Curve, Halo, Machine, Noise
from mln_flax.data.phantoms.scene import Blur, log_uniform

NATIVE_MM = (0.05, 0.2)  # side of the machine's own pixels
# Half of the cores are below 0.06 mm, as of detectors; a soft digitizer has 0.15.
CORE_MM, TAIL_MM, TAIL = (0.02, 0.16), (0.10, 0.40), (0.0, 0.45)
AMOUNT = (0.4, 2.5)  # of noise, times that of the named machines; logarithms are even
FILMS, SLICES, FOR_PROCESSING = 0.3, 0.15, 0.15  # shares of images; the rest is for presentation
INVERTED = 0.04  # share of the rest and of films that is stored upside down
COLORED, SHARPENED, EVEN_RIM = 0.6, 0.5, 0.7  # shares that have it at all
BITS, BITS_SHARES = (8, 10, 12, 16), (0.3, 0.15, 0.35, 0.2)


def machine(rng: np.random.Generator) -> Machine:
    """A machine for one image: projections of a detector or a film, or slices."""
    kind = str(
        rng.choice(
            ["film", "slices", "processing", "presentation"],
            p=[FILMS, SLICES, FOR_PROCESSING, 1 - FILMS - SLICES - FOR_PROCESSING],
        )
    )
    native_mm = float(rng.uniform(*NATIVE_MM))
    blur = Blur(
        core_mm=log_uniform(rng, CORE_MM),
        tail_mm=rng.uniform(*TAIL_MM),
        tail=rng.uniform(*TAIL),
        aperture_mm=native_mm,
    )
    bits = int(rng.choice(BITS, p=BITS_SHARES))
    presented = kind in ("slices", "presentation")
    return Machine(
        blur=blur,
        noise=_noise(rng, kind, blur),
        halo=_halo(rng) if kind == "slices" else None,
        curve=_curve(rng, kind),
        equalized=rng.uniform(0, 1) if presented and rng.random() < EVEN_RIM else 0.0,
        unsharp=_unsharp(rng) if presented and rng.random() < SHARPENED else (),
        film=kind == "film",
        native_mm=native_mm,
        bits=max(bits, 12) if kind == "processing" else bits,  # raw data need them
    )


def _noise(rng: np.random.Generator, kind: str, blur: Blur) -> Noise:
    """White, or spread by the machine's own blur, or by another, with white noise beside it."""
    amount = log_uniform(rng, AMOUNT)
    if kind != "film" and rng.random() >= COLORED:
        return Noise(amount)
    spread = blur if rng.random() < 0.5 else Blur(rng.uniform(0.03, 0.15))
    return Noise(
        amount,
        spread._replace(aperture_mm=0.0),
        electronic=rng.uniform(0, 0.6) * amount,
        grain=rng.uniform(0.3, 2.0) if kind == "film" else 0.0,
    )


def _halo(rng: np.random.Generator) -> Halo:
    return Halo(
        spots=rng.uniform(0.3, 1.0),
        spots_mm=rng.uniform(0.4, 1.2),
        tissue=rng.uniform(0.0, 0.6),
        tissue_mm=rng.uniform(1.0, 2.5),
        ghost=rng.uniform(0.0, 0.12),
    )


def _curve(rng: np.random.Generator, kind: str) -> Curve:
    """A window that shows the breast, a film's sigmoid, or all that the detector counts."""
    if kind == "film":
        return Curve(
            FILM,
            slope=rng.uniform(2.0, 4.0),
            exposed=rng.uniform(0.2, 0.75),
            dark=bool(rng.random() < INVERTED),
        )
    if kind == "processing":
        linear = rng.random() < 0.5
        low = rng.uniform(0.5, 0.8) if linear else rng.uniform(0.0, 0.6)
        return Curve(
            LINEAR if linear else LOG,
            low=low,
            high=rng.uniform(1.6, 2.4),
            toe=rng.uniform(0, 0.1),
            shoulder=rng.uniform(0, 0.1),
            dark=True,
        )
    low = rng.uniform(0.55, 0.92)
    return Curve(
        LOG,
        low=low,
        high=rng.uniform(1.35, 1.8),
        toe=rng.uniform(0, 0.25),
        shoulder=rng.uniform(0, 0.35),
        dark=bool(rng.random() < INVERTED),
        floor=rng.uniform(0, 0.12) if rng.random() < 0.3 else 0.0,
    )


def _unsharp(rng: np.random.Generator) -> tuple[tuple[float, float], ...]:
    """Gains over one to three surroundings, from details to the breast's shape."""
    widths = ((0.4, 1.0), (1.5, 4.0), (6.0, 20.0))
    most = (0.8, 0.8, 0.5)
    taken = rng.permutation(3)[: rng.integers(1, 4)]
    return tuple((rng.uniform(0.05, most[k]), rng.uniform(*widths[k])) for k in sorted(taken))
