import itertools
import math

import numpy as np
import pytest

from mln_flax.metrics import surface


def square(top, left, side=6, shape=(40, 40)):
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def pixel(row, column, shape=(20, 30)):
    return square(row, column, 1, shape)


def brute_force_boundary(mask):
    height, width = mask.shape
    points = []
    for row, column in zip(*np.nonzero(mask), strict=True):
        around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        inside = [0 <= r < height and 0 <= c < width and mask[r, c] for r, c in around]
        if not all(inside):
            points.append((row, column))
    return points


def brute_force_distances(mask, other, spacing):
    return [
        min(
            math.hypot((r - row) * spacing[0], (c - column) * spacing[1])
            for r, c in brute_force_boundary(other)
        )
        for row, column in brute_force_boundary(mask)
    ]


def test_a_shifted_square_is_its_shift_away():
    for percentile in (95, 100):
        assert surface.hausdorff(square(5, 5), square(5, 12), percentile=percentile) == 7
    assert surface.hausdorff(square(5, 5), square(8, 9)) == 5
    assert surface.hausdorff(square(5, 5), square(5, 12), (1, 0.1)) == pytest.approx(0.7)


@pytest.mark.parametrize("spacing", [(1, 1), (0.1, 0.1), (0.2, 0.05)])
def test_single_pixels_are_apart_by_the_spacing(spacing):
    expected = math.hypot(4 * spacing[0], 7 * spacing[1])
    pair = pixel(3, 2), pixel(7, 9)
    assert surface.hausdorff(*pair, spacing) == pytest.approx(expected)
    assert surface.average_distance(*pair, spacing) == pytest.approx(expected)
    assert surface.average_distance(*pair, spacing, symmetric=False) == pytest.approx(expected)


def test_parallel_edges_are_their_distance_apart():
    first, second = np.zeros((2, 12, 12), int)
    first[2], second[9] = 1, 1
    assert surface.average_distance(first, second) == 7
    assert surface.average_distance(first, second, (0.5, 3)) == 3.5


def test_the_inside_of_a_mask_counts_nowhere():
    ring = square(5, 5, 8)
    ring[6:12, 6:12] = False
    assert surface.hausdorff(ring, square(5, 5, 8)) == 0


def test_the_percentile_cuts_each_direction():
    reference = np.zeros((1, 200), bool)
    reference[0, :100] = True
    prediction = reference.copy()
    prediction[0, 150] = True
    # One of 101 boundary pixels is 51 away: more than 95% of them are at 0.
    assert surface.hausdorff(prediction, reference) == 51
    assert surface.hausdorff(prediction, reference, percentile=95) == 0
    # A mask that misses all but one pixel: its own direction is 0, the other one decides.
    reference, single = np.ones((1, 101), bool), np.zeros((1, 101), bool)
    single[0, 0] = True
    assert surface.hausdorff(single, reference, percentile=95) == pytest.approx(95)


def test_one_way_forgives_what_is_missed():
    both = pixel(3, 3) | pixel(3, 23)
    assert surface.average_distance(pixel(3, 3), both, symmetric=False) == 0
    assert surface.average_distance(both, pixel(3, 3), symmetric=False) == 10
    assert surface.average_distance(pixel(3, 3), both) == pytest.approx(20 / 3)


@pytest.mark.parametrize("search", ["tree", "transform"])
@pytest.mark.parametrize("seed", range(12))
def test_random_masks_agree_with_brute_force(seed, search, monkeypatch):
    unused = {"tree": (surface.ndimage, "distance_transform_edt"), "transform": (surface, "KDTree")}
    monkeypatch.setattr(*unused[search], None)
    monkeypatch.setattr(surface, "AREA_FOR_TREE", 0 if search == "tree" else 1e9)
    random = np.random.default_rng(seed)
    shape, spacing = (9, 11), tuple(random.uniform(0.05, 2, 2))
    density = random.choice([0.1, 0.5, 0.9])
    first, second = random.random((2, *shape)) < density
    forth = brute_force_distances(first, second, spacing)
    back = brute_force_distances(second, first, spacing)
    for q in (50, 95, 100):
        expected = max(np.percentile(forth, q), np.percentile(back, q))
        assert surface.hausdorff(first, second, spacing, q) == pytest.approx(expected)
    assert surface.average_distance(first, second, spacing) == pytest.approx(np.mean(forth + back))
    one_way = surface.average_distance(first, second, spacing, symmetric=False)
    assert one_way == pytest.approx(np.mean(forth))
    scores = surface.surface_scores(first, second, spacing)
    assert scores.hausdorff == surface.hausdorff(first, second, spacing)
    assert scores.hausdorff95 == surface.hausdorff(first, second, spacing, 95)
    assert scores.average_distance == surface.average_distance(first, second, spacing)
    assert scores.one_way_distance == one_way


def test_few_boundary_pixels_are_searched_by_a_tree(monkeypatch):
    sparse = square(5, 5, 2, (400, 300)) | square(380, 280, 3, (400, 300))
    dense = np.indices((40, 30)).sum(axis=0) % 2 == 0
    monkeypatch.setattr(surface.ndimage, "distance_transform_edt", None)
    assert surface.hausdorff(sparse, square(5, 5, 2, (400, 300))) == math.hypot(376, 276)
    monkeypatch.undo()
    monkeypatch.setattr(surface, "KDTree", None)
    assert surface.hausdorff(dense, ~dense) == 1


def test_a_full_image_has_its_border_as_boundary():
    full = np.ones((7, 7), bool)
    assert surface.hausdorff(full, np.pad(np.ones((5, 5), bool), 1)) == pytest.approx(math.sqrt(2))


def test_empty_masks():
    empty, one = np.zeros((30, 40), bool), pixel(3, 3, (30, 40))
    for prediction, reference in itertools.product((empty, one), repeat=2):
        expected = 5.0 if prediction.any() != reference.any() else 0.0
        scores = surface.surface_scores(prediction, reference, (0.1, 0.1))
        assert scores == pytest.approx((expected,) * 4)
        assert surface.hausdorff(prediction, reference, (0.1, 0.1)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "reference", "words"),
    [
        (np.zeros((2, 2)), np.zeros((2, 3)), r"\(2, 2\).*\(2, 3\)"),
        (np.zeros((2, 2, 1)), np.zeros((2, 2, 1)), r"prediction has shape \(2, 2, 1\)"),
        (np.zeros((2, 2)), np.full((2, 2), 255), "reference holds 255"),
        (np.full((2, 2), np.nan), np.zeros((2, 2)), "prediction holds nan"),
    ],
)
def test_masks_that_are_not_two_equal_binary_images(prediction, reference, words):
    with pytest.raises(ValueError, match=words):
        surface.hausdorff(prediction, reference)
    with pytest.raises(ValueError, match=words):
        surface.average_distance(prediction, reference)


@pytest.mark.parametrize("spacing", [(0, 1), (1, -1), (1, math.nan), (1, math.inf), (1, 1, 1)])
def test_a_spacing_that_is_none(spacing):
    with pytest.raises(ValueError, match="spacing_mm is"):
        surface.hausdorff(pixel(1, 1), pixel(2, 2), spacing)


@pytest.mark.parametrize("percentile", [-1, 101, math.nan])
def test_a_percentile_that_is_none(percentile):
    with pytest.raises(ValueError, match="percentile is"):
        surface.hausdorff(pixel(1, 1), pixel(2, 2), percentile=percentile)
