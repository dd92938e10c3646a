"""What lies on the breast or in the detector and is no calcification: lead, pellets, defects."""

import numpy as np

from mln_flax.data.phantoms import framing, noise
from mln_flax.data.phantoms.scene import Scene

# Share of windows that a marker reaches into, and pellets and wires on the skin of a whole breast.
# Chosen: rare, but a network sees some hundred of them.
IN_WINDOWS, ON_BREAST = 0.05, 0.2
# Leftovers of detector defects, for each square centimeter, and their size in attenuation. Chosen.
DEFECTS, DEFECT = 0.04, (0.06, 0.25)


def lead(scene: Scene, rng: np.random.Generator) -> np.ndarray | None:
    """Attenuation float32 [H, W] of letters, plates, pellets and wires; None where there are none.

    None lies on a calcification, which would be labeled and not seen. Letters of whole views are
    not among them (`framing.letters`).
    """
    if scene.whole:
        kinds = [("pellet", "wire")[rng.integers(2)] for _ in range(rng.poisson(ON_BREAST))]
    else:
        kinds = [("pellet", "wire", "letter", "letter", "plate")[rng.integers(5)]]
        if rng.random() >= IN_WINDOWS:
            return None
    layer: np.ndarray | None = None
    for kind in kinds:
        for _ in range(3):  # places, until one is free
            drawn = _lead(kind, scene, rng)
            on_skin = kind in ("letter", "plate") or not (scene.depth_mm[drawn > 0] < 0).any()
            if on_skin and not scene.spots[drawn > 0].any():
                layer = drawn if layer is None else np.maximum(layer, drawn)
                break
    return layer


def _lead(kind: str, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """One of them at a random place: attenuation float32 [H, W]."""
    x, y = (axis.astype(np.float32) for axis in scene.mm())
    at_x, at_y = rng.uniform(x[0], x[-1]), rng.uniform(y[0], y[-1])
    if kind == "pellet":  # a ball of lead or a nipple marker, 1.5 to 2.5 mm wide
        radius = rng.uniform(0.75, 1.25)
        square = ((x - at_x) ** 2 + (y[:, None] - at_y) ** 2) / radius**2
        return framing.LEAD * np.sqrt((1 - square).clip(0))
    if kind == "wire":  # over a scar: thin and bent
        turn, bend = rng.uniform(0, np.pi), rng.normal(0, 0.04)
        way = turn + bend * np.arange(24)
        points = np.cumsum(np.stack([np.cos(way), np.sin(way)], axis=1), axis=0)
        points += [at_x, at_y] - points[rng.integers(24)]
        width = np.full((1, 24), rng.uniform(0.4, 0.8))
        return noise.curves(noise.Curves(points[None], width, np.full((1, 24), 1.5)), x, y)
    cells = framing.glyphs(("L", "R", "LCC", "RMLO")[rng.integers(4)])
    if kind == "plate":  # letters that are cut out
        cells = ~np.pad(cells, 2)
    # A window shows a part of it: its middle lies at the window's edge, or beyond.
    turn = rng.uniform(0, 2 * np.pi)
    push = np.array([np.cos(turn), np.sin(turn)])
    push /= np.abs(push).max()
    cell = rng.uniform(5.0, 9.0) / 7
    half = cell * np.array(cells.shape[::-1]) / 2
    middle = np.array([x[-1], y[-1]]) / 2 * (1 + push) + push * half * rng.uniform(0.2, 0.8)
    tilt = rng.normal(0, 0.12)
    dx, dy = x - middle[0], y[:, None] - middle[1]
    column = (dx * np.cos(tilt) + dy * np.sin(tilt) + half[0]) / cell
    row = (dy * np.cos(tilt) - dx * np.sin(tilt) + half[1]) / cell
    inside = (column >= 0) & (column < cells.shape[1]) & (row >= 0) & (row < cells.shape[0])
    layer = np.zeros(scene.spots.shape, np.float32)
    layer[inside] = framing.LEAD * cells[row[inside].astype(int), column[inside].astype(int)]
    return layer


def detector_defects(signal: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The signal with what correction leaves of dead pixels and lines, bright or dark."""
    height, width = signal.shape
    for _ in range(rng.poisson(DEFECTS * scene.area_cm2)):
        row, column = rng.integers(height), rng.integers(width)
        long = rng.integers(1, 3) if rng.random() < 0.9 else rng.integers(20, 200)
        size = rng.uniform(*DEFECT) * rng.choice([-1, 1]) * (1 if long < 3 else 0.25)
        signal[row : row + long, column] += np.float32(size * min(1.0, 0.1 / scene.spacing_mm))
    return signal
