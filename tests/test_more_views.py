"""Location and scale, and random convolutions: closed forms, scipy, what is refused."""

import re

import numpy as np
import pytest
from scipy import ndimage

from mln_flax import more_views
from mln_flax.types import UserError
from mln_flax.views import make_view

SEEDS = range(12)


def disc() -> np.ndarray:
    """A gray disc on black with a bright speck in it."""
    row, column = np.mgrid[:40, :40]
    image = np.where(np.hypot(row - 20, column - 20) < 14, 0.4, 0).astype(np.float32)
    image[18:20, 22:24] = 0.9
    return image


def test_location_scale_is_a_line_that_is_clipped():
    image = np.array([[0, 0.25], [0.5, 1]], np.float32)
    brighter = make_view("location_scale(1.5, -0.25)").numpy(image)
    np.testing.assert_allclose(brighter, [[0, 0.125], [0.5, 1]], atol=1e-7)
    flatter = make_view("location_scale(0.5, 0.25)").numpy(image)
    np.testing.assert_allclose(flatter, [[0.25, 0.375], [0.5, 0.75]], atol=1e-7)


@pytest.mark.parametrize("size", more_views.SIZES)
def test_convolution_is_that_of_scipy_stretched_and_mixed(size):
    image = np.random.default_rng(0).random((20, 24)).astype(np.float32)
    weights = more_views.kernel(5, size)
    wanted = ndimage.correlate(image.astype(np.float64), weights.astype(np.float64), mode="reflect")
    wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
    for share in (0.0, 0.25):
        shown = more_views.convolve(5, size, share).numpy(image)
        assert shown.dtype == np.float32
        np.testing.assert_allclose(shown, share * image + (1 - share) * wanted, atol=2e-6)


def test_kernels_are_normal_weights_of_their_seed_that_keep_bright_areas_bright():
    for seed in SEEDS:
        drawn = np.random.default_rng(seed).standard_normal((3, 3))
        weights = more_views.kernel(seed, 3)
        turned = np.sign(drawn.sum())
        np.testing.assert_allclose(weights, turned * drawn / np.abs(drawn).sum(), atol=1e-7)
        assert weights.sum() > 0 and np.abs(weights).sum() == pytest.approx(1)
    assert len({more_views.kernel(seed, 3).tobytes() for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", more_views.SIZES)
def test_what_is_brighter_stays_brighter(seed, size):
    shown = more_views.convolve(seed, size).numpy(disc())
    assert np.median(shown[12:16, 14:26]) > np.median(shown[:4])  # tissue and air
    inverted = make_view(f"convolve({seed}, {size})+invert").numpy(disc())
    assert np.median(inverted[12:16, 14:26]) < np.median(inverted[:4])


def test_an_even_image_stays_even_and_finite():
    for gray in (0, 0.6):
        image = np.full((8, 8), gray, np.float32)
        shown = make_view("convolve(2)").numpy(image)
        np.testing.assert_allclose(shown, np.full((8, 8), 0.5 * gray), atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("location_scale(0, 0.1)", "location_scale(0, 0.1): the scale must be above 0"),
        ("location_scale(-1, 1)", "location_scale(-1, 1): the scale must be above 0"),
        (
            "location_scale(1, 1e999)",
            "location_scale(1, inf): the scale must be above 0, the shift",
        ),
        ("location_scale(1)", "wrong number or kind of arguments"),
        ("convolve(-1)", "convolve(-1): the seed must be a whole number, 0 or more"),
        ("convolve(1.5)", "convolve(1.5): the seed must be a whole number"),
        ("convolve(True)", "convolve(True): the seed must be a whole number"),
        ("convolve(1, 4)", "convolve: size 4 is not one of 3, 5, 7"),
        ("convolve(1, 3, 1)", "convolve: the original's share 1 must be 0 or more, below 1"),
    ],
)
def test_bad_arguments_are_explained(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make_view(text)
