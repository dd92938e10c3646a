"""The numbers of an image, against plain loops, scipy and what inversion must do to them."""

import numpy as np
import pytest
import tiny
from scipy import ndimage, stats

from mln_flax.engine.load_data import load_data
from mln_flax.methods.mln import image_features
from mln_flax.methods.mln.image_features import foreground_mean


def images_to_measure() -> list[np.ndarray]:
    """Smaller than a blur reaches, of an odd size, and as stored, with a black background."""
    rng = np.random.default_rng(2)
    breast = rng.random((48, 64)).astype(np.float32) ** 2
    breast[:, :25] = 0
    return [rng.random((7, 9)), rng.random((33, 50)), breast]


def tail_ratio(band: np.ndarray, share: float) -> float:
    """The log of how far the bright tail reaches over how far the dark one does."""
    dark, middle, bright = np.quantile(band, [share, 0.5, 1 - share])
    floor = image_features.NOISE_FLOOR
    return np.log((bright - middle + floor) / (middle - dark + floor))


@pytest.mark.parametrize("image", images_to_measure())
def test_image_features_of_one_image_by_hand(image):
    height, width = image.shape
    stored, image = image, image.astype(np.float64)
    quantiles = np.quantile(image, [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])
    borders = sorted(edge.mean() for edge in (image[0], image[-1], image[:, 0], image[:, -1]))
    down = np.mean(
        [abs(image[i + 1, j] - image[i, j]) for i in range(height - 1) for j in range(width)]
    )
    across = np.mean(
        [abs(image[i, j + 1] - image[i, j]) for i in range(height) for j in range(width - 1)]
    )
    gradient = np.log((down + across) / 2 + image_features.NOISE_FLOOR)
    center = image[1:-1, 1:-1].ravel()
    kernel = [[0, -1, 0], [-1, 4, -1], [0, -1, 0]]
    laplacian = np.abs(ndimage.convolve(image, kernel)[1:-1, 1:-1]).ravel()
    edges = np.quantile(center, [0, 0.25, 0.5, 0.75, 1])
    noise = [
        np.log(laplacian[(center >= low) & (center <= high)].mean() + image_features.NOISE_FLOOR)
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    bright_lines, polarity = [], []
    for fine, coarse in ((0.7, 1.5), (1, 3), (2, 6)):
        band = ndimage.gaussian_filter(image, fine) - ndimage.gaussian_filter(image, coarse)
        ratios = [tail_ratio(band, share) for share in (0.002, 0.01, 0.05)]
        bright_lines.append(ratios[1])
        polarity += [*ratios, np.cbrt(stats.skew(band, axis=None))]
    expected = [*quantiles, *borders, gradient, stats.skew(image, axis=None), *noise]
    expected += bright_lines[1:]  # of the two coarser bands
    found = image_features.image_features(stored[None])
    assert found.view.shape == (1, 19) == (1, image_features.VIEW_NUMBERS)
    assert found.polarity.shape == (1, 12) == (1, image_features.POLARITY_NUMBERS)
    assert found.view.dtype == found.polarity.dtype == np.float64
    np.testing.assert_allclose(found.view[0], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.polarity[0], polarity, rtol=1e-7, atol=1e-9)


def test_image_features_know_no_orientation_but_the_intensity():
    images = np.random.default_rng(3).random((3, 8, 8)) ** 2
    view, polarity = image_features.image_features(images)
    for turned in (images[:, ::-1], images[:, :, ::-1], images.swapaxes(1, 2)):
        found = image_features.image_features(turned)
        np.testing.assert_allclose(found.view, view, rtol=1e-9)
        np.testing.assert_allclose(found.polarity, polarity, rtol=1e-7)
    inverted = image_features.image_features(1 - images).view
    np.testing.assert_allclose(inverted[:, :7], 1 - view[:, 6::-1])  # quantiles from behind
    np.testing.assert_allclose(inverted[:, 7:11], 1 - view[:, 10:6:-1])
    np.testing.assert_allclose(inverted[:, 11], view[:, 11])
    np.testing.assert_allclose(inverted[:, 12], -view[:, 12])
    np.testing.assert_allclose(inverted[:, 13:17], view[:, 16:12:-1])  # noise by gray
    np.testing.assert_allclose(inverted[:, 17:], -view[:, 17:], atol=1e-9)


def phantoms() -> np.ndarray:
    """Six images [N, 32, 32] of three domains."""
    config = tiny.config()
    data = load_data(config)
    shown = [one for name in ("ffdm", "film", "dbt") for one in data.examples(name, "test")[:2]]
    return np.stack([example.image for example in shown]).astype(np.float64)


def test_polarity_changes_its_sign_where_an_image_is_inverted():
    noisy = np.random.default_rng(3).random((3, 20, 30)) ** 2
    for images in (noisy, phantoms()):
        upright = image_features.image_features(images).polarity
        inverted = image_features.image_features(1 - images).polarity
        np.testing.assert_allclose(inverted, -upright, rtol=0, atol=1e-9)
        assert (np.abs(upright) > 1e-3).all(axis=0).any()


def test_each_image_has_its_own_numbers():
    images = phantoms()
    whole = image_features.image_features(images)
    order = [4, 0, 5, 2, 1, 3]
    for found, expected in zip(image_features.image_features(images[order]), whole, strict=True):
        np.testing.assert_array_equal(found, expected[order])
    alone = image_features.image_features(images[2:3])
    np.testing.assert_array_equal(alone.view[0], whole.view[2])
    np.testing.assert_array_equal(alone.polarity[0], whole.polarity[2])
    np.testing.assert_array_equal(foreground_mean(images[order]), foreground_mean(images)[order])


def test_image_features_of_a_constant_image_are_finite():
    found = image_features.image_features(np.full((1, 5, 5), 0.25))
    np.testing.assert_allclose(
        found.view,
        [[0.25] * 11 + [np.log(1e-4), 0] + [np.log(1e-4)] * 4 + [0, 0]],
        atol=1e-9,
    )
    np.testing.assert_allclose(found.polarity, np.zeros((1, 12)), atol=1e-9)


def breast_and_air() -> tuple[np.ndarray, np.ndarray]:
    """An image [40, 50] whose black air is more than half of it, and where its breast is."""
    rng = np.random.default_rng(5)
    inside = np.zeros((40, 50), bool)
    inside[5:35, :28] = True
    tissue = rng.uniform(0.2, 0.9, inside.shape)
    return np.where(inside, tissue, rng.uniform(0, 0.01, inside.shape)), inside


def test_the_foreground_of_black_and_of_white_air():
    image, inside = breast_and_air()
    mean = image[inside].mean()
    found = foreground_mean(np.stack([image, 1 - image, 0.5 * image + 0.1]))
    assert found.shape == (3,) and found.dtype == np.float64
    np.testing.assert_allclose(found, [mean, 1 - mean, 0.5 * mean + 0.1], rtol=1e-12)
    stored = foreground_mean(image[None].astype(np.float32))
    assert stored.dtype == np.float64
    np.testing.assert_allclose(stored, mean, rtol=1e-6)


def test_background_ends_at_two_percent_of_the_grays():
    """Of grays from 0 to 1, and of the same pressed into a tenth of the range."""
    image = np.array([[0, 0, 0.019, 0.021, 0.5, 1]])
    expected = (0.021 + 0.5 + 1) / 3
    for scale in (1, 0.1):
        (found,) = foreground_mean(scale * image[None] + 0.3)
        assert found == pytest.approx(scale * expected + 0.3)


def test_what_has_no_air_of_its_own():
    one_gray = foreground_mean(np.full((2, 4, 4), [[[0.25]], [[1.0]]]))
    np.testing.assert_array_equal(one_gray, [0.25, 1])
    halves = np.array([[[0.2, 0.2, 0.7, 0.7]]])  # as many bright as dark: the dark are air
    np.testing.assert_allclose(foreground_mean(halves), 0.7)
    np.testing.assert_allclose(foreground_mean(np.array([[[0.2, 0.7, 0.7]]])), 0.2)
