"""Shares of pixels against sampling every point of the image."""

import numpy as np
import pytest

from mln_flax.data.phantoms import anatomy, coverage

SPOTS = [
    coverage.Spot(0.83, 0.41, 0.7, 0.2, 0.6, (0.0, 0.1, 0.0), 0.0, 1.0, True),
    coverage.Spot(-0.05, 0.52, 0.5, 0.4, 2.0, (0.15, 0.18, 0.1), 1.3, 1.0, True),  # at the edge
    coverage.Spot(9.0, 0.5, 0.5, 0.4, 2.0, (0.1, 0.1, 0.1), 1.3, 1.0, True),  # outside
    coverage.Spot(0.6, 0.71, 1.3, 1.3, 0.0, (0.02, 0.0, 0.0), 0.4, 1.0, False),
    coverage.Spot(0.333, 0.222, 0.01, 0.01, 0.0, (0.1, 0.0, 0.1), 0.4, 1.0, False),  # a speck
]


def inside(spot, x, y):
    """The outline by angles."""
    x, y = x - spot.x, y - spot.y
    u = x * np.cos(spot.angle) + y * np.sin(spot.angle)
    v = y * np.cos(spot.angle) - x * np.sin(spot.angle)
    half = (spot.length - spot.width) / 2
    u = np.where(np.abs(u) < half, 0, u - np.sign(u) * half)
    turn = np.arctan2(v, u)
    waves = zip((2, 3, 5), spot.wave, strict=True)
    edge = 1 + sum(size * np.cos(k * turn + spot.phase) for k, size in waves)
    return np.hypot(u, v) <= spot.width / 2 * edge / (1 + sum(spot.wave))


@pytest.mark.parametrize("samples", [2**15, 100])
def test_shares_are_those_of_all_points(samples, monkeypatch):
    monkeypatch.setattr(coverage, "MOST_SAMPLES", samples)
    grid = anatomy.Grid(np.arange(13) * 0.1, 0.02 + np.arange(11) * 0.1, 0.1, False)
    points = ((np.arange(6) + 0.5) / 6 - 0.5) * 0.1  # 6 is 0.1 over 0.017, rounded up
    x, y = ((axis[:, None] + points).ravel() for axis in (grid.x, grid.y))
    found = list(coverage.shares(SPOTS, grid))
    assert [spot for spot, _, _ in found] == [SPOTS[i] for i in (0, 1, 3, 4)]
    for spot, patch, share in found:
        whole = np.zeros((11, 13), np.float32)
        whole[patch] = share
        expected = inside(spot, x, y[:, None]).reshape(11, 6, 13, 6).mean((1, 3))
        np.testing.assert_allclose(whole, expected, atol=1e-6)
        assert whole.max() > 0.5 or spot is SPOTS[4]
    assert not list(coverage.shares([], grid))
