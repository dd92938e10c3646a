import io
from typing import NamedTuple

import numpy as np
import pytest
from matplotlib.path import Path
from PIL import Image

from mln_flax.results import number_places, overlay


class Cluster(NamedTuple):
    number: int
    outline: tuple[tuple[float, float], ...]
    box: tuple[int, int, int, int]


def circle(row, column, radius, corners=16):
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return tuple(
        (row + radius * np.sin(angle), column + radius * np.cos(angle)) for angle in angles
    )


def cluster(number, row, column, radius):
    box = (int(row - radius), int(column - radius), int(row + radius), int(column + radius))
    return Cluster(number, circle(row, column, radius), box)


def opened(content):
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


def is_amber(rgba):
    return (np.abs(rgba[..., :3] - overlay.CLUSTER).sum(axis=-1) < 40) & (rgba[..., 3] > 200)


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ((2600, 2000), (1600, 1231)),
        ((1600, 1200), (1600, 1200)),
        ((801, 20), (801, 20)),
        ((400, 300), (800, 600)),
        ((300, 400), (600, 800)),
        ((128, 128), (896, 896)),
        ((8, 9), (712, 801)),
        ((9000, 3), (1600, 1)),
    ],
)
def test_the_view_is_of_bounded_size(shape, shown):
    assert overlay.shown_size(*shape) == shown
    image = np.full(shape, 0.6, np.float32)
    view = opened(overlay.pictures(image)["view"])
    assert view.shape == shown
    assert set(np.unique(view)) == {153}


def test_a_small_image_is_shown_in_squares_of_its_own_pixels():
    image = np.random.default_rng(0).random((50, 40), np.float32)
    view = opened(overlay.pictures(image)["view"])
    assert np.array_equal(view, np.round(image * 255).astype(int).repeat(16, 0).repeat(16, 1))


def test_a_large_image_keeps_what_is_between_its_pixels():
    rows = np.linspace(0.2, 0.8, 3200, dtype=np.float32)
    view = opened(overlay.pictures(np.repeat(rows[:, None], 4, axis=1))["view"])
    expected = rows.reshape(-1, 2).mean(axis=1) * 255
    assert np.abs(view[5:-5] - expected[5:-5, None]).max() <= 1


@pytest.mark.parametrize("shape", [(2600, 2000), (400, 300)])
def test_outlines_lie_where_the_cluster_is(shape):
    row, column, radius = 0.4 * shape[0], 0.7 * shape[1], 0.1 * shape[1]
    marks = opened(
        overlay.pictures(np.zeros(shape, np.float32), [cluster(1, row, column, radius)])["marks"]
    )
    scale = marks.shape[0] / shape[0]
    rows, columns = np.nonzero(is_amber(marks))
    away = np.hypot((rows + 0.5) / scale - 0.5 - row, (columns + 0.5) / scale - 0.5 - column)
    on_line = np.abs(away - radius) * scale < 2.5 + 0.02 * radius * scale  # of a 16-gon
    assert on_line.mean() > 0.7  # the rest is its number
    angles = np.arctan2(rows[on_line] - row * scale, columns[on_line] - column * scale)
    assert np.histogram(angles, 16, (-np.pi, np.pi))[0].min() > 10  # all around
    assert (away[~on_line] > radius).all()  # the number lies outside
    assert np.count_nonzero(~on_line) > 20


def test_a_box_stands_in_for_an_outline_and_keys_for_attributes():
    image = np.zeros((100, 80), np.float32)
    by_keys = overlay.pictures(image, [{"number": 3, "outline": [], "box": [10, 20, 30, 50]}])
    corners = ((9.5, 19.5), (9.5, 49.5), (29.5, 49.5), (29.5, 19.5))
    by_attributes = overlay.pictures(image, [Cluster(3, corners, (10, 20, 30, 50))])
    assert by_keys == by_attributes
    rows, _ = np.nonzero(is_amber(opened(by_keys["marks"]))[:, 160 + 40 : 400 - 40])
    # 8 pixels of the view to one: the upper edge of row 10, the lower one of row 29.
    assert {79, 80} <= set(rows) and {239, 240} <= set(rows)
    assert set(rows) <= {*range(77, 83), *range(237, 243)}


def test_rings_leave_what_they_mark_to_be_seen():
    mask = np.zeros((200, 100), bool)
    mask[50:53, 40:44] = mask[150, 90] = True
    marks = opened(overlay.pictures(np.zeros(mask.shape, np.float32), mask=mask)["marks"])
    shown = mask.repeat(4, 0).repeat(4, 1)
    assert marks.shape[:2] == shown.shape
    assert marks[shown, 3].max() == 0
    ring = marks[..., 3] > 0
    rows, columns = np.nonzero(ring)
    assert (rows.min(), columns.min()) == (200 - 2, 160 - 2)
    assert (rows.max(), columns.max()) == (604 - 1 + 2, 364 - 1 + 2)
    assert set(map(tuple, marks[ring, :3])) == {overlay.CALCIFICATION}


def test_panels_are_the_view_untouched_and_the_view_with_marks():
    image = np.random.default_rng(1).random((300, 200), np.float32)
    drawn = {
        name: opened(content)
        for name, content in overlay.pictures(
            image, [cluster(1, 100, 80, 30)], image > 0.999
        ).items()
    }
    view, marks, both = drawn["view"], drawn["marks"], drawn["overlay"]
    width = view.shape[1]
    assert np.array_equal(both[:, :width], np.repeat(view[..., None], 3, axis=2))
    right = both[:, -width:]
    clear = marks[..., 3] == 0
    assert np.array_equal(right[clear], np.repeat(view[clear][:, None], 3, axis=1))
    opaque = marks[..., 3] == 255
    assert np.array_equal(right[opaque], marks[opaque, :3])
    assert opaque.sum() > 500 and clear.mean() > 0.8


def test_thumbnails_are_small_and_outlined():
    content = overlay.pictures(np.full((2000, 1500), 0.5, np.float32), [cluster(1, 900, 700, 200)])[
        "thumbnail"
    ]
    picture = Image.open(io.BytesIO(content))
    assert (picture.format, picture.size) == ("JPEG", (192, 256))
    red, _, blue = np.moveaxis(np.asarray(picture).astype(int), -1, 0)
    rows, columns = np.nonzero(red - blue > 100)
    away = np.hypot(rows / 256 * 2000 - 900, columns / 192 * 1500 - 700)
    assert abs(away.mean() - 200) < 15


def test_maps_are_clear_at_zero_and_colored_by_sign():
    image = np.zeros((800, 600), np.float32)
    values = np.zeros_like(image)
    values[100:120, 100:120], values[300:320, 300:320] = 0.02, 0.01
    signed = np.where(values == np.float32(0.01), -0.02, values).astype(np.float32)
    maps = {"disagreement": values, "attribution": signed, "branch bezier(0.3)": values}
    drawn = overlay.pictures(image, maps=maps)
    plain, signed, branch = (opened(drawn[name]) for name in maps)
    for picture in (plain, signed):
        assert np.array_equal(picture[..., 3] > 0, values > 0)
    strong, weak = plain[110, 110], plain[310, 310]
    assert strong[3] > weak[3] > 100
    assert strong[3] == pytest.approx(255 * 0.85, abs=1)
    assert signed[110, 110, 0] > signed[110, 110, 2] and signed[310, 310, 2] > signed[310, 310, 0]
    # A probability has one scale in all images, and its spots are spread; 0.01 of it is clear.
    assert branch[110, 110, 3] == pytest.approx(255 * 0.85 * 0.02**0.5, abs=1)
    assert np.count_nonzero(branch[..., 3]) == (20 + 800 // 130 - 1) ** 2


def test_names_of_files():
    assert overlay.ending("view") == "_view.png"
    assert overlay.ending("thumbnail") == "_thumbnail.jpg"
    assert overlay.ending("branch bezier(0.3)") == "_branch-bezier-0.3.png"
    twins = dict.fromkeys(("branch a(1)", "branch a-1"), np.zeros((8, 8), np.float32))
    with pytest.raises(ValueError, match="one file"):
        overlay.pictures(np.zeros((8, 8), np.float32), maps=twins)


def test_numbers_cover_no_cluster_and_no_number():
    random = np.random.default_rng(2)
    size, side, gap = (600, 500), (24, 30), 6
    for _ in range(5):
        outlines = [circle(*random.uniform(0, size), random.uniform(5, 60)) for _ in range(8)]
        corners = number_places.places(size, outlines, [side] * 8, gap)
        covered = np.zeros(size, int)
        for top, left in corners:
            assert top >= 0 and left >= 0
            assert top + side[0] <= size[0] and left + side[1] <= size[1]
            covered[top : top + side[0], left : left + side[1]] += 1
        assert covered.max() == 1
        places = np.argwhere(covered)
        for outline in outlines:
            assert not Path(outline).contains_points(places, radius=gap / 2).any()


def test_a_number_stands_near_its_own_cluster():
    outlines = [circle(100, 100, 30), circle(400, 400, 40)]
    corners = number_places.places((600, 600), outlines, [(20, 20)] * 2, 6)
    for (top, left), (row, column), radius in zip(
        corners, [(100, 100), (400, 400)], [30, 40], strict=True
    ):
        assert np.hypot(top + 10 - row, left + 10 - column) < radius + 40
    assert number_places.leaders(corners, [(20, 20)] * 2, outlines, 40) == []


def test_a_number_that_is_far_is_led_to_its_outline():
    (line,) = number_places.leaders([(0, 0)], [(20, 20)], [circle(300, 300, 50)], 40)
    assert line[0] == (20, 20)
    assert np.hypot(line[1][0] - 300, line[1][1] - 300) == pytest.approx(50, abs=1)
    assert line[1][0] < 300 and line[1][1] < 300


def test_a_cluster_that_fills_the_picture_has_its_number_at_a_corner():
    outline = [(-5, -5), (-5, 105), (105, 105), (105, -5)]
    ((top, left),) = number_places.places((100, 100), [outline], [(20, 16)], 4)
    assert top in (0, 80) and left in (0, 84)
