"""What a film bears beside the breast: dust, hairs, scratches, roller marks, label, border, strips.

Rates, sizes and contrasts are chosen. Gray values are those of the digitizer, dense tissue bright.
"""

import numpy as np

from mln_flax.data.phantoms import noise
from mln_flax.data.phantoms.scene import Scene, gaussian, log_uniform

BRIGHT_DUST, DARK_DUST = 0.6, 0.25  # in a square centimeter, at the median
DIRT = 1.0  # spread (natural log) of the dust from film to film
GATHERED, GATHERED_MM = 0.07, (1.0, 4.0)  # gatherings for each speck alone, and their spread
SPECK_MM, SPECK = (0.04, 0.25), (0.05, 0.5)  # half widths of specks, and their contrast
HAIRS, SCRATCHES = 0.012, 0.03  # in a square centimeter
ROLLERS = 0.15  # share of films with bands across the transport
EDGES = 0.12  # share of windows that the border, a strip or the label of a film reaches into
MASKED = 0.5  # share of films of whose border a bright line is left, and black outside
STRIPS, STRIP_MM = 0.4, (2.0, 12.0)  # share of films with one at an end, and its width


def marked(image: np.ndarray, rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """The image of a film [H, W] with all of it."""
    image = _dust(image, rng, scene)
    image = _lines(image, rng, scene)
    if rng.random() < ROLLERS:
        image = image + _roller_marks(rng, scene)
    if scene.whole:
        return _film_edges(image, rng, scene)
    return _window_edges(image, rng, scene) if rng.random() < EDGES else image


def _dust(image: np.ndarray, rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Specks: bright ones lay on the screen and kept its light off, dark ones on the digitizer."""
    height, width = image.shape
    edge = int(np.ceil(0.5 / scene.spacing_mm)) + 1
    at = np.arange(-edge, edge + 1)
    image, dirt = np.pad(image, edge), np.exp(DIRT * rng.standard_normal())
    for sign, rate in ((1, BRIGHT_DUST), (-1, DARK_DUST)):
        for row, column in _places((height, width), rng, dirt * rate * scene.area_cm2, scene):
            radius = log_uniform(rng, SPECK_MM) / scene.spacing_mm
            stretch = rng.uniform(0.6, 1.6)
            c, s = np.cos(turn := rng.uniform(0, np.pi)), np.sin(turn)
            u, v = c * at + s * at[:, None], c * at[:, None] - s * at
            speck = (radius + 0.5 - np.hypot(u * stretch, v / stretch)).clip(0, 1)
            speck *= sign * log_uniform(rng, SPECK) * min(1.0, (2 * radius) ** 2)
            image[row : row + len(at), column : column + len(at)] += speck
    return image[edge : edge + height, edge : edge + width]


def _places(
    size: tuple[int, int], rng: np.random.Generator, count: float, scene: Scene
) -> np.ndarray:
    """Where about so many specks lie (row, column) int [n, 2]: alone, or close together as lint."""
    places = [rng.uniform(0, size, (rng.poisson(count), 2))]
    for _ in range(rng.poisson(GATHERED * count)):
        spread = rng.uniform(*GATHERED_MM) / scene.spacing_mm
        middle = rng.uniform(0, size)
        places.append(middle + spread * rng.standard_normal((rng.integers(3, 13), 2)))
    every = np.floor(np.concatenate(places)).astype(int)
    return every[((every >= 0) & (every < size)).all(axis=1)]


def _lines(image: np.ndarray, rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Hairs, thin and curled, and scratches along the transport (image rows), thin and broken."""
    hairs, scratches = rng.poisson(np.array([HAIRS, SCRATCHES]) * scene.area_cm2)
    if not hairs + scratches:
        return image
    x, y = scene.mm()
    steps, corner = 20, np.array([x[-1], y[-1]])
    for kind, count in (("hair", hairs), ("scratch", scratches)):
        for _ in range(count):
            if kind == "hair":
                way = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.35, steps))
                stride, width, broken = rng.uniform(0.1, 0.4), rng.uniform(0.05, 0.12), 0.0
            else:
                way = np.full(steps, np.pi / 2 + rng.normal(0, 0.05))
                stride, width, broken = rng.uniform(0.2, 1.5), rng.uniform(0.03, 0.1), 0.35
            points = np.cumsum(stride * np.stack([np.cos(way), np.sin(way)], axis=1), axis=0)
            points += rng.uniform(0, corner) - points[steps // 2]
            strength = rng.uniform(0.08, 0.35) * (rng.random(steps) >= broken)
            line = noise.Curves(points[None], np.full((1, steps), width), strength[None])
            sign = 1 if rng.random() < 0.75 else -1
            image = image + sign * noise.curves(line, x, y)
    return image


def _roller_marks(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Faint bands across the transport, alike along each row: [H, 1]."""
    y, period = scene.mm()[1], rng.uniform(8, 40)
    away = np.abs((y / period + rng.random()) % 1 - 0.5) * period
    bands = np.exp(-0.5 * (away / rng.uniform(0.3, 1.5)) ** 2)
    return (rng.uniform(-0.02, 0.02) * bands).astype(np.float32)[:, None]


def _window_edges(image: np.ndarray, rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """A window with a film's border or a strip along a side, or a label in a corner, on no spot."""
    height, width = image.shape
    image, edge = image.copy(), max(1, int(rng.uniform(0.5, 3.0) / scene.spacing_mm))
    kind = rng.choice(("border", "strip", "label"))
    if kind == "border":
        area = (slice(None, edge), slice(None)), (slice(None), slice(None, edge))
        rows, columns = area[rng.integers(2)]
        value: np.ndarray | float = rng.uniform(0.75, 0.95) if rng.random() < 0.8 else 0.02
    elif kind == "strip":
        value = _strip(rng, min(height, int(rng.uniform(*STRIP_MM) / scene.spacing_mm)), scene)
        rows, columns = slice(None, len(value)), slice(None)
    else:
        tall, wide = (max(4, int(rng.uniform(0.1, 0.5) * n)) for n in (height, width))
        value = _label(rng, int(11 / scene.spacing_mm), int(28 / scene.spacing_mm))
        value = value[-tall:, -wide:]
        rows, columns = slice(None, len(value)), slice(None, value.shape[1])
        value = value[:height, :width]
    turned, spots = image, scene.spots  # upside down or mirrored: views of the same pixels
    for axis in (0, 1):
        if rng.random() < 0.5:
            turned, spots = np.flip(turned, axis), np.flip(spots, axis)
    if not spots[rows, columns].any():
        turned[rows, columns] = value
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
    if rng.random() < STRIPS:
        strip = _strip(rng, int(rng.uniform(*STRIP_MM) * mm), scene)
        end = slice(None, len(strip)) if rng.random() < 0.5 else slice(height - len(strip), None)
        if not scene.spots[end].any():
            image[end] = strip
    border = [int(rng.uniform(0.5, 3.0) * mm) for _ in range(4)]
    _frame(image, border, rng.uniform(0.75, 0.95), scene.chest_left)
    if rng.random() < MASKED:
        lines = [max(1, int(rng.uniform(0.1, 0.6) * mm)) for _ in border]
        outside = [max(0, size - line) for size, line in zip(border, lines, strict=True)]
        _frame(image, outside, 0.0, scene.chest_left)
    return image


def _frame(image: np.ndarray, border: list[int], value: float, chest_left: bool) -> None:
    """Sets so many pixels at the top, at the bottom and at the side away from the chest wall."""
    height, width = image.shape
    image[: border[0]] = value
    image[height - border[1] :] = value
    if chest_left:
        image[:, width - border[2] :] = value
    else:
        image[:, : border[2]] = value


def _strip(rng: np.random.Generator, rows: int, scene: Scene) -> np.ndarray:
    """So many rows beyond the collimated field [rows, W]: fogged film, all grain, no breast."""
    strip = rng.standard_normal((max(rows, 1), scene.spots.shape[1]), np.float32)
    strip = gaussian(strip, rng.uniform(0.03, 0.35) / scene.spacing_mm)
    strip = strip / max(float(strip.std()), 1e-6)
    return rng.uniform(0.25, 0.9) + rng.uniform(0.02, 0.2) * strip


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
