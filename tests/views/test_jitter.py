"""Jitter: each part in a closed form, the device against numpy, draws that a seed decides."""

from typing import NamedTuple

import jax
import numpy as np
import pytest
from scipy import ndimage

from mln_flax.engine.augment import augmented, named
from mln_flax.types import AXIS, Batch, UserError
from mln_flax.views import intensity, jitter

MIDDLE = [np.float32(0.5)] * jitter.UNIFORMS
NOTHING = jitter.Draw(*map(np.float32, (1, 1, 1, 0, 0, -1, 0, 0, 0)))
RAMP = np.linspace(0, 1, 1001, dtype=np.float32)


def breast(height: int = 40, width: int = 56) -> np.ndarray:
    """Smooth tissue with three bright specks, and air at the right."""
    row, column = np.mgrid[:height, :width].astype(np.float32)
    tissue = 0.5 + 0.2 * np.sin(row / 5 + column / 11) + 0.1 * np.cos(column / 4 - row / 7)
    tissue[[9, 20, 21], [12, 30, 8]] = 1
    return np.where(column < width - 16, tissue, 0).astype(np.float32)


def noise(shape=(40, 56)) -> np.ndarray:
    return np.random.default_rng(4).standard_normal(shape, np.float32)


def draws(count: int, strength: float, seed: int = 0) -> list[jitter.Draw]:
    uniform = np.random.default_rng(seed).random((count, jitter.UNIFORMS), np.float32)
    return [jitter.draw(list(numbers), strength) for numbers in uniform]


def with_(**changes: float) -> jitter.Draw:
    """The draw that changes nothing, but for some of its parts."""
    return NOTHING._replace(**{name: np.float32(value) for name, value in changes.items()})


def test_the_draw_of_nothing_changes_nothing():
    np.testing.assert_allclose(jitter.applied(breast(), NOTHING, noise()), breast(), atol=2e-7)


def test_ranges_grow_with_the_strength():
    for strength in (0.0, 0.4, 1.0):
        drawn = np.array(draws(4000, strength))
        assert drawn.dtype == np.float32
        low, high = drawn.min(axis=0), drawn.max(axis=0)
        steepest = (0.5 + 0.35 * strength) / (0.5 - 0.35 * strength)
        bent = (0.5 + strength / 6) / (0.5 - strength / 6)
        wanted = [  # curve, bend, gain, shift, fog, detail, down_px, across_px, noise
            (1 / steepest, steepest), (1 / bent, bent), (1 - 0.3 * strength, 1 + 0.3 * strength),
            (-0.3 * strength, 0.3 * strength), (0, 0.1 * strength), (-1, max(strength, 0)),
            (0, 1.2 * strength), (0, 1.2 * strength), (0.002 * strength, 0.04 * strength),
        ]  # fmt: skip
        if strength == 0:
            wanted[5] = (-1, 0)
        np.testing.assert_allclose(np.stack([low, high], axis=1), wanted, rtol=0.02, atol=0.002)


def test_halves_are_blurred_and_sharpened_round_and_upright_with_and_without_fog():
    drawn = jitter.Draw(*np.array(draws(4000, 0.7)).T)
    is_blurred, is_upright = drawn.detail == -1, drawn.across_px == 0
    assert abs(is_blurred.mean() - 0.5) < 0.03 and (drawn.detail[~is_blurred] >= 0).all()
    assert abs(is_upright.mean() - 0.5) < 0.03
    np.testing.assert_array_equal(drawn.across_px[~is_upright], drawn.down_px[~is_upright])
    assert abs((drawn.fog == 0).mean() - 0.5) < 0.03
    assert abs(np.median(drawn.noise) / 0.7 - np.sqrt(0.002 * 0.04)) < 5e-4  # log-uniform


@pytest.mark.parametrize("a", [0.15, 0.3, 0.5, 0.7, 0.85])
def test_curve_has_the_slopes_of_the_bezier_curve_and_its_inverse(a):
    curve = with_(curve=(1 - a) / a)
    mapped = jitter.curved(RAMP, curve)
    x, y = intensity.bezier_curve(a)
    np.testing.assert_allclose(mapped[[0, 500, 1000]], [0, 0.5, 1], atol=1e-7)
    assert (np.diff(mapped) > 0).all()
    for place, node in ((0, 0), (500, 2047), (999, 4094)):
        slope = (mapped[place + 1] - mapped[place]) * 1000
        assert slope == pytest.approx((y[node + 1] - y[node]) / (x[node + 1] - x[node]), rel=0.02)
    back = with_(curve=a / (1 - a))
    np.testing.assert_allclose(jitter.curved(mapped, back), RAMP, atol=1e-6)


def test_bend_is_a_hyperbola_through_both_corners():
    mapped = jitter.curved(RAMP, with_(bend=2))
    np.testing.assert_allclose(mapped, 2 * RAMP / (1 + RAMP), atol=2e-7)
    np.testing.assert_allclose(jitter.curved(mapped, with_(bend=0.5)), RAMP, atol=2e-7)


def test_brightness_moves_white_and_leaves_black():
    image = np.array([[0, 0.25], [0.5, 1]], np.float32)
    shown = jitter.applied(image, with_(gain=0.9, shift=-0.2), 0 * image)
    np.testing.assert_allclose(shown, [[0, 0.225 - 0.0875], [0.45 - 0.15, 0.7]], atol=1e-6)
    shown = jitter.applied(image, with_(gain=1.2, shift=0.2), 0 * image)
    np.testing.assert_allclose(shown, [[0, 0.3 + 0.0875], [0.6 + 0.15, 1]], atol=1e-6)


def test_grays_keep_their_order_at_every_strength():
    for drawn in draws(200, 1.0):
        shown = np.clip(jitter.brightened(jitter.curved(RAMP, drawn), drawn), 0, 1)
        assert (np.diff(shown) >= -1e-7).all() and shown[0] == 0


def test_fog_lifts_black_and_leaves_white():
    shown = jitter.applied(RAMP[None], with_(fog=0.1), 0 * RAMP[None])
    np.testing.assert_allclose(shown[0], 0.1 + 0.9 * RAMP, atol=2e-7)


@pytest.mark.parametrize("sigma", [0.3, 0.8, 1.2])
def test_blur_and_halos_are_those_of_a_gaussian(sigma):
    image = 0.2 + 0.5 * breast()
    blurred = ndimage.gaussian_filter(image, sigma, mode="reflect", radius=jitter.RADIUS_PX)
    shown = jitter.applied(image, with_(down_px=sigma, across_px=sigma), noise())
    np.testing.assert_allclose(shown, blurred, atol=1e-5)
    halos = with_(detail=0.5, down_px=sigma, across_px=sigma)
    wanted = np.clip(image + 0.5 * (image - blurred), 0, 1)
    np.testing.assert_allclose(jitter.applied(image, halos, noise()), wanted, atol=1e-5)
    upright = ndimage.gaussian_filter1d(image, sigma, axis=0, mode="reflect", radius=4)
    shown = jitter.applied(image, with_(down_px=sigma), noise())
    np.testing.assert_allclose(shown, upright, atol=1e-5)


def test_noise_has_its_standard_deviation_everywhere():
    gray = np.full((64, 64), 0.5, np.float32)
    field = noise(gray.shape)
    shown = jitter.applied(gray, with_(noise=0.03, curve=3), field)
    np.testing.assert_allclose(shown, 0.5 + 0.03 * field, atol=1e-6)


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
def test_air_stays_dark(strength):
    image, rng = breast(), np.random.default_rng(3)
    for _ in range(50):
        air = jitter.jittered(image, rng, strength)[:, 44:]  # beyond the blur's reach
        assert np.median(air) <= 0.1 * strength + 0.005


def test_jitter_depends_on_its_generator_alone_and_0_changes_nothing():
    one, two, other = (
        jitter.jittered(breast(), np.random.default_rng(seed), 0.5) for seed in (8, 8, 9)
    )
    assert one.dtype == np.float32 and one.shape == breast().shape
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    same = jitter.jittered(breast(), np.random.default_rng(8), 0.0)
    np.testing.assert_array_equal(same, breast())


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_bad_strength_is_explained(strength):
    with pytest.raises(ValueError, match=rf"strength {strength}: must lie between 0 and 1"):
        jitter.draw(MIDDLE, strength)
    with pytest.raises(ValueError, match="strength"):
        jitter.jittered(breast(), np.random.default_rng(0), strength)


KEY = jax.random.key(6)
ROWS = 5
VIEW = np.zeros(ROWS, np.int32)


def rows():
    """The breast in several rows, and masks of its specks."""
    image = np.stack([breast()] * ROWS)
    return image, (image == 1).astype(np.int32)


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_the_device_does_as_numpy_does_with_the_same_draw(strength):
    image, mask = rows()
    shown, kept = jax.jit(jitter.jitter(strength))(KEY, image, mask, VIEW)
    assert shown.shape == image.shape and shown.dtype == np.float32
    np.testing.assert_array_equal(kept, mask)
    for row, key in enumerate(jax.random.split(KEY, ROWS)):
        of_draw, of_noise = jax.random.split(key)
        uniform = np.asarray(jax.random.uniform(of_draw, (jitter.UNIFORMS,)))
        field = np.asarray(jax.random.normal(of_noise, image[row].shape))
        wanted = jitter.applied(image[row], jitter.draw(list(uniform), strength), field)
        np.testing.assert_allclose(shown[row], wanted, rtol=0, atol=1e-5)


def test_strength_0_changes_nothing_on_the_device():
    image, mask = rows()
    shown, kept = jitter.jitter(0.0)(KEY, image, mask, VIEW)
    np.testing.assert_array_equal(shown, image)
    np.testing.assert_array_equal(kept, mask)


def test_on_the_device_a_key_decides_whatever_the_view_and_every_row_has_its_own_draw():
    image, mask = rows()
    call = jax.jit(jitter.jitter(0.5))
    shown, _ = call(KEY, image, mask, VIEW)
    np.testing.assert_array_equal(call(KEY, image, mask, VIEW + 2)[0], shown)
    other, _ = call(jax.random.key(7), image, mask, VIEW)
    means = {float(row.mean()) for row in np.concatenate([shown, other])}
    assert len(means) == 2 * ROWS


class Steps(NamedTuple):
    """A state that knows its step alone."""

    step: int


def on_two_devices(seed):
    """step -> image and mask that an update is given on each of two devices of the same rows."""

    def update(state, batch):
        return state, {"image": batch.image, "mask": batch.mask}

    image, mask = rows()
    is_it = np.ones(ROWS, bool)
    batch = Batch(image[..., None], mask, VIEW, VIEW, is_it, is_it)
    both = Batch(*(np.stack([x, x]) for x in batch))
    first = augmented(update, ["jitter(0.5)"], seed)
    call = jax.jit(jax.vmap(first, in_axes=(None, 0), axis_name=AXIS))
    return lambda step: call(Steps(step), both)[1]


def test_devices_and_steps_see_other_draws_and_a_step_that_is_done_again_the_same():
    at_step = on_two_devices(seed=0)
    seen = at_step(0)
    assert seen["image"].shape == (2, ROWS, 40, 56, 1)
    for mask in seen["mask"]:
        np.testing.assert_array_equal(mask, rows()[1])
    np.testing.assert_array_equal(at_step(0)["image"], seen["image"])
    others = [at_step(1), on_two_devices(seed=1)(0)]
    shown = np.concatenate([seen["image"], *(other["image"] for other in others)])
    means = {float(row.mean()) for device in shown for row in device}
    assert len(means) == 6 * ROWS


def test_an_update_without_augmentations_is_left_alone():
    def update(state, batch):
        return state, {}

    assert augmented(update, (), 0) is update


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jitter(2)", r"jitter\(2\): the strength must lie between 0 and 1"),
        ("jitter(-0.1)", r"jitter\(-0.1\): the strength must lie between 0 and 1"),
        ("jitter", "augmentation 'jitter': wrong number or kind of arguments"),
        ("jiter(0.5)", "unknown augmentation 'jiter' .did you mean 'jitter'"),
    ],
)
def test_augmentations_that_cannot_be_meant(name, message):
    with pytest.raises(UserError, match=message):
        named(name)
