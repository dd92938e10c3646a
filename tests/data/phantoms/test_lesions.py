"""What is drawn of single calcifications: attenuation in closed form, and the rule of the mask."""

import numpy as np
import pytest

from mln_flax.data.phantoms import anatomy, lesions

PER_MM = 0.745  # calcium oxalate net of gland at 20 keV
PLAIN = (0.0, 0.0, 0.0)


def grid(spacing_mm=0.1, side_mm=4.0):
    axis = (np.arange(round(side_mm / spacing_mm)) + 0.5) * spacing_mm
    return anatomy.Grid(axis, axis, spacing_mm, False)


def sphere(size, x=2.0, y=2.0, density=1.0, labeled=True):
    return lesions.Spot(x, y, size, size, 0.0, PLAIN, 0.0, density, labeled)


@pytest.mark.parametrize(("size", "expected"), [(0.15, 0.07), (0.35, 0.17), (0.8, 0.40)])
def test_contrast_by_size(size, expected):
    """Mean over its disc, on pixels much smaller than it, and the peak of its dome."""
    spacing = size / 60
    small = grid(spacing, 2 * size)
    layer, mask = lesions.draw([sphere(size, size, size)], small)
    mean = layer[mask > 0].mean()
    assert mean == pytest.approx(2 / 3 * size * PER_MM, rel=0.03)
    assert mean == pytest.approx(expected, abs=0.006)  # the rounded numbers
    assert layer.max() == pytest.approx(size * PER_MM, rel=0.01)
    away = np.hypot(small.x - size, small.y[:, None] - size)
    dome = 2 * PER_MM * np.sqrt((size**2 / 4 - away**2).clip(0))
    np.testing.assert_allclose(layer, dome, atol=0.1 * size * PER_MM)
    assert np.abs(layer - dome).mean() < 0.002 * size * PER_MM


@pytest.mark.parametrize("spacing", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("size", [0.15, 0.35, 0.8, 2.0])
def test_mass_is_kept_wherever_the_pixels_lie(size, spacing):
    rng, volumes = np.random.default_rng(0), []
    for _ in range(12):
        x, y = 2 + rng.uniform(-0.1, 0.1, 2)
        layer, _ = lesions.draw([sphere(size, x, y, density=0.7)], grid(spacing))
        volumes.append(layer.sum(dtype=float) * spacing**2 / (0.7 * PER_MM))
    expected = np.pi / 6 * size**3
    np.testing.assert_allclose(volumes, expected, rtol=0.03)
    assert np.mean(volumes) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("thickness", "hole"), [(1.0, 0.0), (0.3, 0.0), (1.0, 0.8)])
def test_mass_of_capsules_flat_and_hollow_ones(thickness, hole):
    """A capsule is a cylinder and a sphere; a hollow takes the cube, or the square, of its size."""
    long, wide = 1.8, 0.6
    spot = sphere(wide)._replace(length=long, angle=0.7, thickness=thickness, hole=hole)
    layer, _ = lesions.draw([spot], grid())
    ball, rod = np.pi / 6 * wide**3, np.pi / 4 * wide**2 * (long - wide)
    volume = thickness * (ball * (1 - hole**3) + rod * (1 - hole**2))
    assert layer.sum(dtype=float) * 0.01 / PER_MM == pytest.approx(volume, rel=0.01)


def test_a_shell_is_brightest_at_its_rim_and_a_cup_below():
    layer, _ = lesions.draw([sphere(2.0)._replace(hole=0.85)], grid())
    row = layer[20]
    assert row[11] > 2.5 * row[20] > 0 and row[9] == 0
    cup = sphere(1.0)._replace(hole=0.95, aside=-0.5)
    layer, _ = lesions.draw([cup], grid())
    assert layer[:17].max() < 0.1 * layer.max()
    assert layer[20:].sum() > 3 * layer[:20].sum()


def test_mask_rule_is_half_of_a_pixel():
    small = anatomy.Grid(np.arange(9) * 0.1, np.arange(9) * 0.1, 0.1, False)
    spot = sphere(0.43, 0.41, 0.42, density=2.0)
    _, mask = lesions.draw([spot], small)
    points = (np.arange(40) + 0.5) / 400 - 0.05
    x = (small.x[:, None] + points).ravel()
    share = (np.hypot(x - 0.41, x[:, None] - 0.42) <= 0.215).reshape(9, 40, 9, 40).mean((1, 3))
    plain = np.abs(share - 0.5) > 0.03  # both are sampled
    assert plain.sum() > 77
    np.testing.assert_array_equal(mask[plain], share[plain] >= 0.5)
    tiny = spot._replace(x=0.44, y=0.4, length=0.02, width=0.02)
    layer, mask = lesions.draw([tiny], small)
    assert mask.sum() == 1 and mask[4, 4] == 1 and 0 < layer.max() < 0.01
    assert not lesions.draw([spot._replace(x=-5.0)], small)[1].any()
    assert not lesions.draw([spot._replace(labeled=False)], small)[1].any()


@pytest.mark.parametrize("spacing", [0.05, 0.1, 0.4, 2.0])
def test_every_calcification_in_the_image_is_in_the_mask(spacing):
    """However small against a pixel, and at the image's edge."""
    image, rng = grid(spacing), np.random.default_rng(1)
    for _ in range(60):
        x, y = rng.uniform(0.001, 3.999, 2)
        size = rng.uniform(0.1, 1.0) if spacing < 2 else 0.02
        width = min(size, 0.09)
        spot = sphere(size, x, y)._replace(width=width, angle=x, wave=(0.2, 0.2, 0.2))
        _, mask = lesions.draw([spot], image)
        rows, columns = np.nonzero(mask)
        assert len(rows)
        away = np.hypot(image.x[columns] - x, image.y[rows] - y)
        assert away.min() <= spot.length / 2 + 0.71 * spacing
        if spacing == 2:
            assert mask[int(y // 2), int(x // 2)] == mask.sum() == 1
