import numpy as np
import pytest

from mln_flax.metrics.area import area_scores


def test_areas_in_square_millimeters():
    prediction, reference = np.zeros((2, 8, 8), bool)
    prediction[:2, :3] = True
    reference[:1, :1] = True
    scores = area_scores(prediction, reference, (0.1, 0.2))
    assert scores == {"area_mm2": pytest.approx(0.12), "area_error_mm2": pytest.approx(0.10)}


def test_without_spacing_there_are_no_millimeters():
    mask = np.ones((4, 4), np.uint8)
    assert set(area_scores(mask, mask, None).values()) == {None}
