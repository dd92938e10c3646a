"""Which pixels a cluster rests on: of networks whose weights are set, and of a real one."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_mln
from scipy import ndimage

from mln_flax.methods import attribution

SIDE, BOX = 24, (6, 8, 14, 18)
SPOTS = [(8, 10), (9, 15), (12, 11)]


@pytest.fixture(scope="module")
def image():
    """A slope with three bright pixels in the box, and one outside."""
    image = np.tile(np.linspace(0.2, 0.5, SIDE, dtype=np.float32), (SIDE, 1))
    for row, column in [*SPOTS, (2, 2)]:
        image[row, column] = 1
    return image


def of(probability):
    """A method that has its probability alone."""
    return types.SimpleNamespace(probability=probability)


# Pixel by pixel, so that what each adds is known: the slope of the logistic function, and a weight
# for each of two branches.
PIXELWISE = of(
    lambda weight, shares, x: (
        (shares * weight[None]).sum(axis=1)[:, None, None] * jax.nn.sigmoid(30 * (x - 0.8))
    )
)
WEIGHTS = np.float32([1.0, 0.5])
FIRST, SECOND = ({"shares": {"a": float(b == 0), "b": float(b == 1)}} for b in range(2))


def scores(image):
    return 1 / (1 + np.exp(-30 * (image.astype(np.float64) - 0.8)))


def test_the_fill_has_the_gray_of_the_surroundings(image):
    start = attribution.filled(image)
    np.testing.assert_allclose(start, ndimage.gaussian_filter(image, 8), rtol=1e-5)
    assert start.dtype == np.float32 and start.max() < 0.5
    np.testing.assert_allclose(attribution.filled(np.full((9, 9), 0.3)), 0.3, rtol=1e-6)


def test_of_single_pixels_each_has_what_it_adds(image):
    found = attribution.attribution(PIXELWISE, WEIGHTS, FIRST, image, BOX)
    expected = np.zeros_like(image)
    top, left, bottom, right = BOX
    box = np.s_[top:bottom, left:right]
    expected[box] = (scores(image) - scores(attribution.filled(image)))[box]
    assert found.shape == image.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)
    assert {tuple(p) for p in np.argwhere(found > 0.5).tolist()} == set(SPOTS)
    other = attribution.attribution(PIXELWISE, WEIGHTS, SECOND, image, BOX)
    np.testing.assert_allclose(other, found / 2, rtol=1e-4, atol=1e-6)  # in its own branch


def test_a_neighbor_that_is_looked_at_has_its_part(image):
    """The probability is the square of what lies three columns to the right."""
    looks = of(lambda _, shares, x: jnp.square(jnp.roll(x, -3, axis=2)))
    found = attribution.attribution(looks, None, {}, image, BOX)
    start = attribution.filled(image).astype(np.float64)
    top, left, bottom, right = BOX
    expected = np.zeros((SIDE, SIDE))
    box = np.s_[top:bottom, left + 3 : right + 3]
    expected[box] = (np.square(image) - np.square(start))[box]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_the_deletion_of_what_is_known(image):
    """Eight of eighty pixels: the three spots are all of the score, drawn ones a part of it."""
    found = attribution.attribution(PIXELWISE, WEIGHTS, FIRST, image, BOX)
    checked = attribution.deletion(PIXELWISE, WEIGHTS, FIRST, image, BOX, found)
    assert checked.pixels == 8
    assert checked.drop > 0.95
    assert checked.drop_random == pytest.approx(0.1, abs=0.15)
    reverse = attribution.deletion(PIXELWISE, WEIGHTS, FIRST, image, BOX, -found)
    assert reverse.drop < 0.01 and reverse.drop_random == checked.drop_random


def test_a_network_attributes_all_of_its_score():
    """Completeness, in the branch that answered; and none of it is of a constant image."""
    mln, kept = small_mln.built(), small_mln.fitted()
    answers = mln.answer(kept, small_mln.SHOWN)
    box = (3, 2, 13, 12)
    for i in (0, 4):
        tile, facts = small_mln.SHOWN[i], answers.facts[i]
        found = attribution.attribution(mln, kept, facts, tile, box)
        both = np.stack([tile, attribution.filled(tile)])
        of_tile, of_fill = attribution.score_of(mln, kept, facts, both, box)
        in_box = answers.maps["answer"][i][3:13, 2:12].sum()
        assert of_tile == pytest.approx(in_box, rel=1e-4)
        assert abs(of_tile - of_fill) > 0.3
        assert found.sum() == pytest.approx(of_tile - of_fill, rel=0.03)
    flat = np.full_like(tile, 0.4)
    assert not attribution.attribution(mln, kept, facts, flat, box).any()


def test_what_cannot_be_attributed(image):
    with pytest.raises(ValueError, match="no pixel"):
        attribution.attribution(PIXELWISE, WEIGHTS, FIRST, image, (30, 0, 40, 5))
    with pytest.raises(ValueError, match="offers no"):
        attribution.attribution(of(None), WEIGHTS, FIRST, image, BOX)
