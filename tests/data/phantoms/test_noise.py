"""Noise and curves against scipy and brute force."""

import numpy as np
import pytest
from scipy import ndimage

from mln_flax.data.phantoms import anatomy, noise


def wrapped_spline(lattice, rows, columns):
    at = np.stack(np.broadcast_arrays(rows, columns)).astype(float)
    return ndimage.map_coordinates(
        lattice.astype(float), at, order=3, prefilter=False, mode="grid-wrap"
    )


def test_spline_of_any_places_is_that_of_scipy():
    rng = np.random.default_rng(0)
    lattice = rng.standard_normal((7, 5), np.float32)
    rows, columns = (rng.uniform(-9, 20, (6, 11)).astype(np.float32) for _ in range(2))
    found = noise.spline(lattice, rows, columns)
    np.testing.assert_allclose(found, wrapped_spline(lattice, rows, columns), atol=1e-5)


@pytest.mark.parametrize("spacing", [0.3, 2.5, 6.0])
def test_fields_are_sums_of_the_octaves_that_pixels_can_show(spacing):
    laws = [
        noise.power_law(np.random.default_rng(k), periods, 3.0)
        for k, periods in enumerate([(300.0, 8.0, 2.0), (5.0,)])
    ]
    x, y = 3.0 + np.arange(9) * spacing, -40.0 + np.arange(7) * spacing
    for law, field in zip(laws, noise.fields(laws, x, y), strict=True):
        expected = np.zeros((7, 9))
        for lattice, side, shift, period in zip(*law, strict=True):
            if period >= spacing:
                # the first of the four points that count is at the place's floor
                rows, columns = y[:, None] / period + shift[0] + 1, x / period + shift[1] + 1
                expected += wrapped_spline(lattice[:side, :side].T, rows, columns)
        np.testing.assert_allclose(field, expected, atol=1e-5)
    assert expected.any() == (spacing <= 5.0)


def test_curves_are_the_largest_of_their_segments(monkeypatch):
    rng = np.random.default_rng(1)
    lines = noise.Curves(
        rng.uniform(-1, 4, (6, 4, 2)), rng.uniform(0.05, 0.9, (6, 4)), rng.uniform(0, 1, (6, 4))
    )
    x, y = np.arange(25) * 0.1, 0.5 + np.arange(20) * 0.1
    expected = np.zeros((20, 25))
    for points, width, strength in zip(*lines, strict=True):
        for k in range(3):
            along = points[k + 1] - points[k]
            away = np.stack(np.meshgrid(x, y), axis=-1) - points[k]
            t = (away @ along / (along @ along)).clip(0, 1)
            distance = np.linalg.norm(away - t[..., None] * along, axis=-1)
            wide = max(width[k], 0.15)
            chord = np.sqrt((1 - (2 * distance / wide) ** 2).clip(0))
            expected = np.maximum(expected, strength[k] * width[k] / wide * chord)
    np.testing.assert_allclose(noise.curves(lines, x, y), expected, atol=1e-5)
    monkeypatch.setattr(noise, "CHUNK", 50)
    np.testing.assert_allclose(noise.curves(lines, x, y), expected, atol=1e-5)


def test_fibers_left_out_are_not_seen(monkeypatch):
    body = anatomy.breast(0, 1)
    axis = np.arange(60) * 0.4
    grid = anatomy.Grid(20 + axis, axis, 0.4, False)
    some = anatomy._fibers(body, grid, thin=False)
    monkeypatch.setattr(anatomy, "_distance", lambda grid, points: np.zeros(len(points)))
    every = anatomy._fibers(body, grid, thin=False)
    assert len(some.points) < len(every.points) == sum(anatomy.FIBERS)
    drawn = noise.curves(some, grid.x, grid.y)
    assert drawn.any()
    np.testing.assert_array_equal(drawn, noise.curves(every, grid.x, grid.y))
