import io

import numpy as np
import pytest
from PIL import Image

from mln_flax.results import crops

SPACING = (0.2, 0.1)
SIDE = crops.SIDE_PX


def panels(image, mask, outlines, place):
    """The plain crop, the marked one and the whole image, as gray and as colors."""
    with Image.open(io.BytesIO(crops.picture(image, mask, outlines, place, SPACING))) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    return pixels[:, :SIDE], pixels[:, SIDE + 4 : 2 * SIDE + 4], pixels[:, 2 * SIDE + 8 :]


@pytest.mark.parametrize("row, column", [(150, 200), (2, 3), (299, 390)])  # noqa: PT006
def test_the_place_is_in_the_middle_whatever_the_edges(row, column):
    image = np.full((300, 400), 0.3, np.float32)
    image[max(0, row - 3) : row + 4, max(0, column - 6) : column + 7] = 0.9
    place = crops.Place(row, column, 3.0)
    plain, marked, whole = panels(image, np.zeros(image.shape), [], place)
    bright = np.argwhere(plain[..., 0] > 200)
    middle = bright[np.abs(bright - SIDE / 2).max(axis=1) < 40]
    assert len(middle) > 50 and np.abs(middle - SIDE / 2).max() < 15
    assert np.abs(plain[:260] - marked[:260]).mean() < 1  # but for the bar
    assert whole.shape[:2] == (SIDE, 400)


def test_a_label_and_a_mark_are_drawn_where_they_lie_at_the_pixels_own_size():
    image = np.full((300, 400), 0.3, np.float32)
    image[:, ::2] = 0.31
    mask = np.zeros(image.shape)
    row, column = np.mgrid[:300, :400]
    mask[np.hypot((row - 150) * 0.2, (column - 200) * 0.1) <= 4] = 1  # a disc of 4 mm
    outline = [(140.0, 180.0), (140.0, 220.0), (160.0, 220.0), (160.0, 180.0)]
    _, marked, _ = panels(image, mask, [outline], crops.Place(150, 200, 8.0))
    red, _, blue = (marked[..., i] for i in range(3))
    ring = np.argwhere((blue - red) > 60) - SIDE / 2
    each_mm = SIDE / 20  # 20 mm is the least side
    np.testing.assert_allclose(np.hypot(*ring.T) / each_mm, 4.15, atol=0.35)
    line = np.argwhere((red - blue) > 60) - SIDE / 2
    np.testing.assert_allclose(np.abs(line).max(axis=0) / each_mm, 2, atol=0.25)
