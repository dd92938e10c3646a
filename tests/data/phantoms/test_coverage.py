"""Shares and thicknesses of pixels against sampling every point of the image."""

import numpy as np
import pytest

from mln_flax.data.phantoms import anatomy, coverage
from mln_flax.data.phantoms.coverage import Spot

SPOTS = [
    Spot(0.83, 0.41, 0.7, 0.2, 0.6, (0.0, 0.1, 0.0), 0.0, 1.0, True),
    Spot(-0.05, 0.52, 0.5, 0.4, 2.0, (0.15, 0.18, 0.1), 1.3, 1.0, True, 0.5),  # at the edge
    Spot(9.0, 0.5, 0.5, 0.4, 2.0, (0.1, 0.1, 0.1), 1.3, 1.0, True),  # outside
    Spot(0.6, 0.71, 1.3, 1.3, 0.0, (0.02, 0.0, 0.0), 0.4, 1.0, False),
    Spot(0.333, 0.222, 0.01, 0.01, 0.0, (0.1, 0.0, 0.1), 0.4, 1.0, False),  # a speck
    Spot(0.5, 0.6, 0.9, 0.8, 1.0, (0.05, 0.0, 0.1), 0.4, 1.0, False, 0.7, 0.6),  # hollow
    Spot(0.5, 0.4, 0.8, 0.7, 0.0, (0.0, 0.0, 0.0), 0.0, 1.0, False, 0.5, 0.9, -0.5),  # a cup
]


def body(spot, x, y):
    """Whether points lie in the outline, by angles, and the path there: two square roots."""
    x, y = x - spot.x, y - spot.y
    u = x * np.cos(spot.angle) + y * np.sin(spot.angle)
    v = y * np.cos(spot.angle) - x * np.sin(spot.angle)
    half = (spot.length - spot.width) / 2
    u = np.where(np.abs(u) < half, 0, u - np.sign(u) * half)
    turn = np.arctan2(v, u)
    waves = zip((2, 3, 5), spot.wave, strict=True)
    edge = 1 + sum(size * np.cos(k * turn + spot.phase) for k, size in waves)
    radius = spot.width / 2 * edge / (1 + sum(spot.wave))
    u, v = u / radius, v / radius
    away, inner = np.hypot(u, v), np.hypot(u, v - spot.aside)
    path = np.sqrt(np.maximum(1 - away**2, 0))
    if spot.hole:
        path = path - spot.hole * np.sqrt(np.maximum(1 - (inner / spot.hole) ** 2, 0))
    return away <= 1, spot.width * spot.thickness * np.maximum(path, 0)


@pytest.mark.parametrize("samples", [2**15, 100])
def test_shares_and_paths_are_those_of_all_points(samples, monkeypatch):
    monkeypatch.setattr(coverage, "MOST_SAMPLES", samples)
    monkeypatch.setattr(coverage, "SMOOTH", 0.0)  # every pixel by all points
    grid = anatomy.Grid(np.arange(13) * 0.1, 0.02 + np.arange(11) * 0.1, 0.1, False)
    points = ((np.arange(6) + 0.5) / 6 - 0.5) * 0.1  # 6 is 0.1 over 0.017, rounded up
    x, y = ((axis[:, None] + points).ravel() for axis in (grid.x, grid.y))
    found = list(coverage.parts(SPOTS, grid))
    assert [part.spot for part in found] == [SPOTS[i] for i in (0, 1, 3, 4, 5, 6)]
    for spot, pixels, *values in found:
        for value, expected in zip(values, body(spot, x, y[:, None]), strict=True):
            whole = np.zeros((11, 13), np.float32)
            whole[pixels] = value
            expected = expected.reshape(11, 6, 13, 6).mean((1, 3))
            np.testing.assert_allclose(whole, expected, atol=1e-6)
            assert whole.any() or spot is SPOTS[4]
    assert not list(coverage.parts([], grid))


def test_fewer_points_inside_change_next_to_nothing(monkeypatch):
    axis = np.arange(60) * 0.1
    grid = anatomy.Grid(axis, axis, 0.1, False)
    spots = [SPOTS[3]._replace(x=3, y=3), SPOTS[0]._replace(x=2, y=2, length=3.0, width=1.1)]
    few = list(coverage.parts(spots, grid))
    monkeypatch.setattr(coverage, "SMOOTH", 0.0)
    for part, every in zip(few, coverage.parts(spots, grid), strict=True):
        np.testing.assert_array_equal(part.share, every.share)
        np.testing.assert_allclose(part.chord_mm, every.chord_mm, atol=2e-3 * part.spot.width)
