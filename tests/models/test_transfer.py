"""Parameters of one network in another: every path has one fate, and norms go to every branch."""

import numpy as np
import pytest

from mln_flax.models.transfer import describe, transferred


def network(branches=1, width=3, **more):
    rng = np.random.default_rng(branches * 100 + width)

    def array(*shape):
        return rng.random(shape).astype(np.float32)

    return {
        "down": {"conv": {"kernel": array(9, width)}, "norm1": {"scale": array(branches, width)}},
        "head": {"kernel": array(width, 2)},
    } | more


SCALE, KERNEL, HEAD = "down/norm1/scale", "down/conv/kernel", "head/kernel"


def test_the_same_network_is_taken_whole():
    trained = network(2)
    params, report = transferred(network(2), trained, by_branch=True)
    assert report.taken == (KERNEL, SCALE, HEAD) and not any(report[1:])
    assert params["down"]["norm1"]["scale"] is trained["down"]["norm1"]["scale"]


@pytest.mark.parametrize(
    ("before", "after", "by_branch"), [(1, 4, False), (3, 1, False), (3, 3, 0)]
)
def test_branches_that_are_others_all_take_the_first(before, after, by_branch):
    trained = network(before)
    params, report = transferred(network(after), trained, by_branch)
    scale = params["down"]["norm1"]["scale"]
    assert scale.shape == (after, 3) and report.copied == (SCALE,)
    for row in scale:
        np.testing.assert_array_equal(row, trained["down"]["norm1"]["scale"][0])
    assert report.taken == (KERNEL, HEAD)
    assert "1 of norms, from the first branch to each" in describe(report, "parameters")


def test_running_statistics_are_all_per_branch():
    own, trained = ({"layer": {"mean": np.full((k, 3), k)}} for k in (2, 1))
    stats, report = transferred(own, trained, by_branch=False, all_per_branch=True)
    assert report.copied == ("layer/mean",) and stats["layer"]["mean"].tolist() == [[1] * 3] * 2


def test_what_is_new_and_what_is_left_is_named():
    own = network(1, side={"kernel": np.ones((2, 2))})
    trained = network(1, other={"bias": np.ones(2)}, head={"kernel": np.ones((3, 5))})
    params, report = transferred(own, trained, by_branch=True)
    assert report.new == (HEAD, "side/kernel") and report.unused == ("other/bias", HEAD)
    assert params["head"]["kernel"] is own["head"]["kernel"]
    lines = describe(report, "parameters")
    assert "parameters: new, at their initial values: head/kernel, side/kernel" in lines
    assert "parameters: not used: other/bias, head/kernel" in lines


def test_other_widths_do_not_fit():
    _, report = transferred(network(1, width=4), network(1), by_branch=True)
    assert report.misfits == (
        f"{KERNEL} is (9, 3) there and (9, 4) here",
        f"{SCALE} is (1, 3) there and (1, 4) here",
    )
    assert report.new == (HEAD,) and not report.taken
