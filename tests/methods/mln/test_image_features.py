"""The numbers of an image, against plain loops, scipy and what inversion must do to them."""

import jax
import numpy as np
import numpy_features
import pytest
import tiny
from scipy import ndimage, stats

from mln_flax.data.phantoms import phantom
from mln_flax.engine.load_data import load_data
from mln_flax.methods.mln import image_features, image_rules
from mln_flax.views import intensity

FLOOR = 1e-6  # of numbers that cross zero, in gray levels and in logs


def foreground_mean(images):
    return jax.device_get(_foreground_mean(images.astype(np.float32)))


def features_of(images):
    """Compiled, as the prediction has them."""
    return jax.device_get(_features(images.astype(np.float32)))


_features, _foreground_mean = map(
    jax.jit, (image_features.image_features, image_features.foreground_mean)
)


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
    stored = image.astype(np.float32)
    image = stored.astype(np.float64)
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
    found = features_of(stored[None])
    assert found.view.shape == (1, 19) == (1, image_features.VIEW_NUMBERS)
    assert found.polarity.shape == (1, 12) == (1, image_features.POLARITY_NUMBERS)
    assert found.view.dtype == found.polarity.dtype == np.float32
    np.testing.assert_allclose(found.view[0], expected, rtol=1e-5, atol=FLOOR)
    np.testing.assert_allclose(found.polarity[0], polarity, rtol=1e-5, atol=FLOOR)
    assert len(image_features.NAMES) == len(set(image_features.NAMES)) == 19


def test_image_features_know_no_orientation_but_the_intensity():
    images = np.random.default_rng(3).random((3, 8, 8)) ** 2
    view, polarity = features_of(images)
    for turned in (images[:, ::-1], images[:, :, ::-1], images.swapaxes(1, 2)):
        found = features_of(turned)
        np.testing.assert_allclose(found.view, view, rtol=1e-5, atol=FLOOR)
        np.testing.assert_allclose(found.polarity, polarity, rtol=1e-5, atol=FLOOR)
    inverted = features_of(1 - images).view
    expected = [
        1 - view[:, 6::-1],  # quantiles from behind
        1 - view[:, 10:6:-1],
        view[:, 11:12],
        -view[:, 12:13],
        view[:, 16:12:-1],  # noise by gray
        -view[:, 17:],
    ]
    np.testing.assert_allclose(inverted, np.concatenate(expected, 1), rtol=1e-5, atol=FLOOR)


def phantoms() -> np.ndarray:
    """Six images [N, 32, 32] of three domains."""
    config = tiny.config()
    data = load_data(config)
    shown = [one for name in ("ffdm", "film", "dbt") for one in data.examples(name, "test")[:2]]
    return np.stack([example.image for example in shown]).astype(np.float64)


NAMES = ("identity", "bezier(0.3)", "bezier(0.7)", "invert")


@pytest.fixture(scope="module")
def shown():
    """Phantoms [N, 96, 80] of all domains, through every view."""
    drawn = [
        phantom.phantom(5, domain, i, height=96, width=80).image
        for domain in phantom.DOMAINS
        for i in range(6)
    ]
    return np.concatenate([intensity.make_view(name).numpy(np.stack(drawn)) for name in NAMES])


def test_the_numbers_are_those_of_numpy(shown):
    found, expected = features_of(shown), numpy_features.image_features(shown)
    for name, values in expected._asdict().items():
        assert np.abs(values).max() > 0.1
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-5, atol=FLOOR)
    np.testing.assert_allclose(
        foreground_mean(shown), numpy_features.foreground_mean(shown), rtol=1e-5
    )


def test_dim_images_keep_the_digits_of_their_details():
    """A pattern of a thousandth of the gray range on a bright, sloping ground."""
    rng = np.random.default_rng(6)
    slope = 0.8 + np.linspace(0, 0.1, 64)
    images = (slope + 1e-3 * rng.random((3, 50, 64)) ** 3).astype(np.float32)
    found, expected = features_of(images), numpy_features.image_features(images)
    np.testing.assert_allclose(found.polarity, expected.polarity, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.view[:, 13:], expected.view[:, 13:], rtol=1e-5, atol=1e-5)


def test_the_choices_are_those_of_numpy(shown):
    """Both rules, with Gaussians of the first view's phantoms, against float64."""
    per_view, inverted, branch = len(shown) // len(NAMES), (False, False, False, True), range(4)
    exact = numpy_features.image_features(shown)
    gaussian = image_rules.fit_gaussian(exact.view.reshape(len(NAMES), per_view, -1))
    weights = image_rules.fit_polarity(exact.polarity[:per_view])
    known = image_rules.chooser(image_rules.ImageBank(gaussian, weights, np.zeros(4)))
    found = jax.device_get(
        jax.jit(lambda x: image_rules.compare(known, x, inverted, branch))(features_of(shown))
    )
    apart = exact.view[:, None] - gaussian.mean
    squared = np.einsum("bvf,vfg,bvg->bv", apart, gaussian.precision, apart)
    np.testing.assert_allclose(found.squared, squared, rtol=1e-3, atol=1e-3)
    for rule, expected in numpy_features.distances(
        squared + gaussian.log_determinant, exact.polarity @ weights, inverted
    ).items():
        np.testing.assert_array_equal(found.by_rule[rule].argmin(axis=1), expected.argmin(axis=1))
        assert len(set(expected.argmin(axis=1))) > 2


def test_polarity_changes_its_sign_where_an_image_is_inverted():
    noisy = np.random.default_rng(3).random((3, 20, 30)) ** 2
    for images in (noisy, phantoms()):
        upright = features_of(images).polarity
        inverted = features_of(1 - images).polarity
        np.testing.assert_allclose(inverted, -upright, rtol=1e-5, atol=2 * FLOOR)
        assert (np.abs(upright) > 1e-3).all(axis=0).any()


def test_each_image_has_its_own_numbers():
    images = phantoms()
    whole = features_of(images)
    order = [4, 0, 5, 2, 1, 3]
    for found, expected in zip(features_of(images[order]), whole, strict=True):
        np.testing.assert_array_equal(found, expected[order])
    alone = features_of(images[2:3])
    np.testing.assert_allclose(alone.view[0], whole.view[2], rtol=1e-5, atol=FLOOR)
    np.testing.assert_allclose(alone.polarity[0], whole.polarity[2], rtol=1e-5, atol=FLOOR)
    np.testing.assert_array_equal(foreground_mean(images[order]), foreground_mean(images)[order])


def test_image_features_of_a_constant_image_are_finite():
    found = features_of(np.full((1, 5, 5), 0.25))
    np.testing.assert_allclose(
        found.view,
        [[0.25] * 11 + [np.log(1e-4), 0] + [np.log(1e-4)] * 4 + [0, 0]],
        atol=FLOOR,
    )
    np.testing.assert_allclose(found.polarity, np.zeros((1, 12)), atol=FLOOR)


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
    assert found.shape == (3,) and found.dtype == np.float32
    np.testing.assert_allclose(found, [mean, 1 - mean, 0.5 * mean + 0.1], rtol=1e-6)


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
    np.testing.assert_allclose(foreground_mean(halves), 0.7, rtol=1e-6)
    np.testing.assert_allclose(foreground_mean(np.array([[[0.2, 0.7, 0.7]]])), 0.2, rtol=1e-6)
