import math

import numpy as np
import pytest
from scipy import stats

from mln_flax.results import statistics


def test_mean_and_sample_deviation():
    mean, deviation = statistics.mean_and_deviation([1.0, 2.0, 6.0])
    assert mean == 3 and deviation == pytest.approx(math.sqrt(7))  # (4 + 1 + 9) / 2
    assert statistics.mean_and_deviation([5.0, math.nan])[0] == 5
    assert math.isnan(statistics.mean_and_deviation([5.0])[1])
    assert all(map(math.isnan, statistics.mean_and_deviation([])))


def test_the_interval_is_that_of_scipy():
    values = np.random.default_rng(3).normal(0.05, 0.2, 60)
    ours = statistics.paired_bootstrap([values], seed=1)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.difference == pytest.approx(values.mean())
    # Two draws of 10,000: the ends differ by about a fortieth of the standard error.
    error = values.std() / math.sqrt(values.size)
    assert ours.low == pytest.approx(theirs.low, abs=0.1 * error)
    assert ours.high == pytest.approx(theirs.high, abs=0.1 * error)


def test_p_is_that_of_the_normal_limit():
    values = np.random.default_rng(4).normal(0, 1, 400)
    values += 0.08 - values.mean()
    found = statistics.paired_bootstrap([values]).p
    z = 0.08 / (values.std() / 20)
    assert found == pytest.approx(2 * stats.norm.sf(z), abs=0.02)


def test_two_differences_in_closed_form():
    # Each resample of (0, 1) has the mean 0, 1/2 or 1 with the chances 1/4, 1/2 and 1/4.
    found = statistics.paired_bootstrap([np.array([0.0, 1.0])])
    assert (found.difference, found.low, found.high) == (0.5, 0.0, 1.0)
    assert found.p == pytest.approx(2 * 0.25, abs=0.03)


def test_groups_weigh_equally_and_are_resampled_within_themselves():
    large, small = np.full(90, 0.1), np.full(10, 0.3)
    found = statistics.paired_bootstrap([large, small])
    assert found[:3] == pytest.approx((0.2, 0.2, 0.2))  # nothing varies within a group
    assert found.p == pytest.approx(2 / 10_001)


def test_no_difference_at_all():
    found = statistics.paired_bootstrap([np.zeros(5)])
    assert found == (0, 0, 0, 1)


def test_the_other_way_round_has_the_same_p():
    values = np.random.default_rng(5).normal(0.2, 1, 50)
    one, other = (statistics.paired_bootstrap([sign * values]) for sign in (1, -1))
    assert one.p == other.p
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


@pytest.mark.parametrize("groups", [[], [np.zeros(0)], [np.zeros(3), np.zeros(0)]])
def test_nothing_to_compare_is_refused(groups):
    with pytest.raises(ValueError, match="needs one or more groups"):
        statistics.paired_bootstrap(groups)
