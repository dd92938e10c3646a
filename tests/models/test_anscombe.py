"""Equal noise at every gray: against noise of a known line, and what any transform must keep."""

import numpy as np
import pytest

from mln_flax import config
from mln_flax.models import anscombe, unet


def noisy(slope, offset, seed=0, side=128):
    """Images [2, side, side, 1] of a ramp with noise of variance slope x gray + offset."""
    rng = np.random.default_rng(seed)
    ramp = np.broadcast_to(np.linspace(0.1, 0.9, side), (2, side, side))
    noise = rng.normal(size=ramp.shape) * np.sqrt(slope * ramp + offset)
    return ramp, (ramp + noise)[..., None].astype(np.float32)


@pytest.mark.parametrize(("slope", "offset"), [(4e-3, 1e-4), (0.0, 4e-4), (-8e-4, 9e-4)])
def test_the_line_of_the_noise_is_that_of_the_image(slope, offset):
    """The lower quarter of the squares has a smaller variance, by the same factor everywhere."""
    _, image = noisy(slope, offset)
    found_slope, found_offset = (np.asarray(v) for v in anscombe.noise_line(image[..., 0]))
    middle = found_slope * 0.5 + found_offset
    factor = middle / (slope * 0.5 + offset)
    assert ((0.3 < factor) & (factor < 1)).all()
    np.testing.assert_allclose(found_slope / factor, slope, atol=0.25 * (slope / 2 + offset))


def test_noise_is_alike_at_all_grays():
    _, image = noisy(4e-3, 1e-5)
    out = np.asarray(anscombe.equalized(image))[..., 0]

    def noise(values, columns):
        return np.diff(values[:, :, columns], n=2, axis=1).std()

    dark, bright = slice(0, 32), slice(96, 128)
    before = noise(image[..., 0], bright) / noise(image[..., 0], dark)
    assert before > 1.6 and 0.85 < noise(out, bright) / noise(out, dark) < 1.18


def test_the_order_of_grays_is_kept_and_each_image_is_alone():
    _, image = noisy(4e-3, 1e-4)
    image = image.clip(0, 1)
    image[0, :2, 0, 0] = 0, 1
    both = np.asarray(anscombe.equalized(image))
    np.testing.assert_allclose(both[:1], anscombe.equalized(image[:1]), atol=1e-6)
    order = np.argsort(image[0].ravel())
    assert (np.diff(both[0].ravel()[order]) >= 0).all()
    np.testing.assert_allclose(both[0, :2, 0, 0], [0, 1], atol=1e-6)
    flat = np.full((1, 64, 64, 1), 0.3, np.float32)
    np.testing.assert_allclose(anscombe.equalized(flat), flat, atol=1e-5)
    np.testing.assert_allclose(anscombe.equalized(image[:, :8, :8]), image[:, :8, :8], atol=1e-6)


def test_a_network_that_equalizes_sees_the_transform():
    _, image = noisy(4e-3, 1e-4, side=64)
    plain, equal = (
        unet.build(config.network("unet", widths=(2,), equalize_noise=is_on), 1)
        for is_on in (False, True)
    )
    branch = np.zeros(2, np.int32)
    variables = plain.init({"params": np.zeros(2, np.uint32)}, image, branch)
    wanted = plain.apply(variables, anscombe.equalized(image), branch)[0]
    np.testing.assert_allclose(equal.apply(variables, image, branch)[0], wanted, atol=1e-5)
    assert np.abs(wanted - plain.apply(variables, image, branch)[0]).max() > 1e-3
