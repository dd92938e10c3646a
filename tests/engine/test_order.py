"""The order of examples: exact shares of labeled ones, disjoint rows of hosts."""

import numpy as np
import pytest

from mln_flax.engine.order import host_rows, stream_of
from mln_flax.types import UserError


def test_rows_of_hosts():
    assert [list(host_rows(6, (host, 3))) for host in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(UserError, match="train.batch_size=5: must be a multiple of the 2"):
        host_rows(5, (0, 2))
    with pytest.raises(UserError, match="--config.train.unlabeled_batch_size=5: must be a multi"):
        host_rows(5, (0, 2), "train.unlabeled_batch_size")


def test_shares_are_exact_however_long_a_run():
    counters = np.arange(10**12, 10**12 + 1000)
    is_labeled, (of_labeled, of_all) = stream_of(counters, 0.3)
    assert is_labeled.sum() == 300
    np.testing.assert_array_equal(of_labeled + of_all, counters)
    assert (np.diff(of_labeled)[is_labeled[:-1]] == 1).all()
