"""What a whole mammogram shows: its field of view, which follows the breast, and its letters."""

import math

import numpy as np

from mln_flax.data.phantoms import anatomy

# Air around the breast, mm: above and below it, and in front of the nipple. Chosen.
AIR_MM, FRONT_MM = 10.0, 15.0
# Lead letters on the table, mm: their height, the thickness of the air around them, and how far
# under the skin (so, negative, outside it) all of them must lie. Chosen.
LETTER_MM, MARGIN_MM, CLEAR_MM = (5.0, 8.0), (3.0, 7.0), -2.0
ALONE, PLATES = 0.2, 0.3  # share of markers that name the side alone; of plates. Chosen
LEAD = 3.5  # attenuation: whiter, or blacker, than any breast
OUTSIDE = 0.2  # of a window's side: how far from the breast its middle may lie. Chosen
_LETTERS = 23  # a random stream

# Letters of 5 x 7 cells, each row as bits.
_GLYPHS = {
    "C": (0b01110, 0b10001, 0b10000, 0b10000, 0b10000, 0b10001, 0b01110),
    "L": (0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b11111),
    "M": (0b10001, 0b11011, 0b10101, 0b10101, 0b10001, 0b10001, 0b10001),
    "O": (0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110),
    "R": (0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001),
}


def whole_grid(body: anatomy.Breast, spacing_mm: float) -> anatomy.Grid:
    """The pixels of a whole view: from the chest wall to the air in front of the nipple.

    A CC view has air above and below; an MLO view ends above within the breast, as films do.
    """
    x, y = anatomy.outline_mm(body, body.angle, 0.0)
    front = max(x.max(), body.nipple[0] + body.nipple_mm) + FRONT_MM
    top = y.min() - AIR_MM if body.view == "CC" else body.top
    columns = math.ceil(front / spacing_mm)
    rows = math.ceil((y.max() + AIR_MM - top) / spacing_mm)
    return anatomy.Grid(
        x=(np.arange(columns) + 0.5) * spacing_mm,
        y=top + (np.arange(rows) + 0.5) * spacing_mm,
        spacing_mm=spacing_mm,
        whole=True,
    )


def window_corners(
    body: anatomy.Breast,
    grid: anatomy.Grid,
    size: tuple[int, int],
    count: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Upper left corners (row, column) int [count, 2] of windows of a whole view.

    Any place is as likely where a window's middle is less than OUTSIDE sides out of the breast.

    Args:
      body: the breast.
      grid: of the whole view.
      size: height and width of a window, pixels; at most those of the view.
      count: of windows.
      rng: draws the places.
    """
    most = np.array([len(grid.y) - size[0], len(grid.x) - size[1]])
    corners = np.zeros((0, 2), int)
    while len(corners) < count:
        drawn = rng.integers(most + 1, size=(4 * count, 2))
        rows, columns = (drawn + np.array(size) // 2).T
        inside = anatomy.depth_mm(body, grid.x[columns], grid.y[rows])
        near = inside > -OUTSIDE * min(size) * grid.spacing_mm
        corners = np.concatenate([corners, drawn[near]])
    return corners[:count]


def letters(body: anatomy.Breast, depth_mm: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Attenuation [H, W] float32 of lead letters in the air, such as RMLO: side and view.

    They stand in the upper corner in front of the nipple, or in the lower one where there is not
    enough air; nowhere where neither has room.

    Args:
      body: the breast.
      depth_mm: under the skin, [H, W], as the image has it.
      spacing_mm: side of a pixel.
    """
    lead = np.zeros(depth_mm.shape, np.float32)
    rng = np.random.default_rng([body.seed, _LETTERS, body.patient])
    tall = rng.uniform(*LETTER_MM)
    down, aside = rng.uniform(*MARGIN_MM, 2)
    text = body.laterality + ("" if rng.random() < ALONE else body.view)
    cells, cell = glyphs(text), tall / 7
    if rng.random() < PLATES:  # of lead, with the letters cut out
        cells = ~np.pad(cells, 2)
    at = np.arange(0.5, math.ceil(cell * max(cells.shape) / spacing_mm)) * spacing_mm
    pattern = cells[np.ix_(*((at[at < cell * n] / cell).astype(int) for n in cells.shape))]
    height, width = (n + 2 for n in pattern.shape)  # with a pixel of air
    down, aside = (round(mm / spacing_mm) for mm in (down, aside))
    left = depth_mm.shape[1] - aside - width if body.laterality == "L" else aside
    for top in (down, depth_mm.shape[0] - down - height):
        if top < 0 or left < 0:
            continue
        area = slice(top, top + height), slice(left, left + width)
        if depth_mm[area].shape == (height, width) and depth_mm[area].max() < CLEAR_MM:
            lead[area][1:-1, 1:-1] = LEAD * pattern
            break
    return lead


def glyphs(text: str) -> np.ndarray:
    """A line of letters as cells, bool [7, 6 n - 1]."""
    bits = np.array([_GLYPHS[letter] for letter in text])[:, :, None] >> np.arange(5)[::-1] & 1
    spaced = np.pad(bits, ((0, 0), (0, 0), (0, 1)))  # [n, 7, 6]
    return spaced.transpose(1, 0, 2).reshape(bits.shape[1], -1)[:, :-1].astype(bool)
