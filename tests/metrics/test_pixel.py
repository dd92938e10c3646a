import json
import math

import numpy as np
import pytest

from mln_flax.metrics import pixel, surface

EMPTY = np.zeros((3, 4), np.uint8)
SOME = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], np.uint8)
OTHER = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], np.uint8)


def test_ratios_of_counted_pixels():
    # 2 true positives, 1 false positive, 2 missed.
    assert pixel.pixel_scores(SOME, OTHER) == pytest.approx((2 / 4, 2 / 3, 4 / 7))
    assert pixel.pixel_scores(SOME > 0, SOME) == (1, 1, 1)


def test_ratios_of_empty_masks():
    tpr, precision, dsc = pixel.pixel_scores(EMPTY, EMPTY)
    assert math.isnan(tpr) and math.isnan(precision) and dsc == 1
    tpr, precision, dsc = pixel.pixel_scores(EMPTY, SOME)
    assert tpr == 0 and math.isnan(precision) and dsc == 0
    tpr, precision, dsc = pixel.pixel_scores(SOME, EMPTY)
    assert math.isnan(tpr) and precision == 0 and dsc == 0


def test_the_score_entry_of_an_image():
    entry = pixel.image_scores(SOME, OTHER, (0.1, 0.2))
    assert [entry[key] for key in ("tp", "fp", "fn", "empty")] == [2, 1, 2, "neither"]
    assert entry["dsc"] == pytest.approx(4 / 7)
    for unit, spacing in (("px", (1, 1)), ("mm", (0.1, 0.2))):
        expected = surface.surface_scores(SOME, OTHER, spacing)
        for name in pixel.DISTANCES:
            assert entry[f"{name}_{unit}"] == getattr(expected, name)
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry


@pytest.mark.parametrize(
    ("spacing", "searches"), [((0.07, 0.07), 1), ([1, 1], 1), ((0.1, 0.2), 2), (None, 1)]
)
def test_square_pixels_are_searched_once(spacing, searches, monkeypatch):
    search, seen = surface._to_nearest, []
    monkeypatch.setattr(surface, "_to_nearest", lambda *a: seen.append(a) or search(*a))
    entry = pixel.image_scores(SOME, OTHER, spacing)
    assert len(seen) == searches
    for unit, of_unit in (("px", (1, 1)), ("mm", spacing)):
        expected = surface.surface_scores(SOME, OTHER, of_unit)._asdict() if of_unit else {}
        for name in pixel.DISTANCES:
            assert entry[f"{name}_{unit}"] == expected.get(name)


def test_without_spacing_there_are_no_millimeters():
    entry = pixel.image_scores(SOME, OTHER, None)
    assert all(entry[f"{name}_mm"] is None for name in pixel.DISTANCES)
    assert entry["hausdorff_px"] > 0


@pytest.mark.parametrize(
    ("prediction", "reference", "kind", "dsc", "distance"),
    [
        (EMPTY, EMPTY, "both", 1, 0),
        (EMPTY, SOME, "prediction", 0, 5),
        (SOME, EMPTY, "reference", 0, 5),
    ],
)
def test_the_score_entry_of_empty_masks(prediction, reference, kind, dsc, distance):
    entry = pixel.image_scores(prediction, reference, [2.0, 2.0])
    assert (entry["empty"], entry["dsc"]) == (kind, dsc)
    assert [entry[f"{name}_px"] for name in pixel.DISTANCES] == [distance] * 4
    assert [entry[f"{name}_mm"] for name in pixel.DISTANCES] == [2 * distance] * 4
    assert (entry["tpr"] is None) == (kind != "prediction")
    assert (entry["precision"] is None) == (kind != "reference")


def test_masks_that_cannot_be_compared():
    with pytest.raises(ValueError, match="must be equal"):
        pixel.pixel_scores(EMPTY, EMPTY[:2])
    with pytest.raises(ValueError, match="holds 7"):
        pixel.image_scores(EMPTY + 7, EMPTY, None)
