import math

import numpy as np
import pytest
from scipy import stats

from mln_flax.metrics.bootstrap import ratio_interval


@pytest.mark.parametrize(("hits", "images"), [(12, 17), (40, 100), (1, 12)])
def test_of_single_images_it_is_that_of_the_binomial_distribution(hits, images):
    low, high = ratio_interval([1] * hits + [0] * (images - hits), [1] * images, range(images))
    wanted = stats.binom.ppf([0.025, 0.975], images, hits / images) / images
    np.testing.assert_allclose([low, high], wanted, atol=1 / images + 1e-9)
    assert low < hits / images < high


def test_patients_are_drawn_whole():
    """Two patients of ten images each: 0, 1/2 and 1 by the chance of one, two and one of four."""
    numerators, patients = [1] * 10 + [0] * 10, ["a"] * 10 + ["b"] * 10
    assert ratio_interval(numerators, [1] * 20, patients) == (0, 1)
    assert ratio_interval(numerators, [1] * 20, patients, level=0.4) == (0.5, 0.5)
    assert ratio_interval(numerators, [1] * 20, ["a"] * 20) == (0.5, 0.5)
    single = ratio_interval(numerators, [1] * 20, range(20))
    assert 0.2 < single[0] < 0.4 and 0.6 < single[1] < 0.8


def test_what_has_no_denominator():
    assert all(map(math.isnan, ratio_interval([0, 0], [0, 0], ["a", "b"])))
    assert ratio_interval([1, 0], [1, 0], ["a", "b"]) == (
        1,
        1,
    )  # resamples without "a" count for none
