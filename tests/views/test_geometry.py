"""Geometric augmentation: image and mask move together, and alike in numpy and TensorFlow."""

import functools
import re

import jax
import numpy as np
import pytest

from mln_flax.types import UserError
from mln_flax.views import geometry

SETTINGS = {"flip": True, "scale": (0.9, 1.1), "crop": 0}


def smooth(height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth image without any symmetry, in [0, 1]."""
    row, column = np.mgrid[:height, :width].astype(np.float32)
    return 0.5 + 0.25 * np.sin(row / 5 + column / 11) + 0.2 * np.cos(column / 7 - row / 13)


def block(height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A bright block on black, and the mask of the same pixels."""
    mask = np.zeros((height, width), np.uint8)
    mask[15:27, 40:49] = 1
    return mask.astype(np.float32), mask


def drawn(flip: float, scale: float, row: float, column: float) -> geometry.Draw:
    return geometry.Draw(*map(np.float32, (flip, scale, row, column)))


def random_draws(count: int) -> list[geometry.Draw]:
    rng = np.random.default_rng(3)
    return [
        geometry.draw(list(rng.random(4, np.float32)), flip=True, scale=(0.8, 1.25))
        for _ in range(count)
    ]


def assert_aligned(image: np.ndarray, mask: np.ndarray) -> None:
    """Linear interpolation of a block: at least 1/4 in its nearest pixels, at most 1/2 outside."""
    inside = mask == 1
    assert inside.sum() > 20
    assert image[inside].min() >= 0.25 - 1e-4 and image[~inside].max() <= 0.5 + 1e-4


def test_plain_draw_changes_nothing():
    image, (_, mask) = smooth(48, 64), block()
    same, same_mask = geometry.warp_numpy(image, mask, drawn(0, 1, 0.7, 0.2))
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(same_mask, mask)


def test_flip_exchanges_left_and_right_exactly():
    image, (_, mask) = smooth(48, 64), block()
    mirrored, mirrored_mask = geometry.warp_numpy(image, mask, drawn(1, 1, 0.7, 0.2))
    np.testing.assert_allclose(mirrored, image[:, ::-1], atol=1e-6)
    np.testing.assert_array_equal(mirrored_mask, mask[:, ::-1])


@pytest.mark.parametrize("flip", [0, 1])
def test_crop_at_scale_one_copies_whole_pixels(flip):
    image, (_, mask) = smooth(48, 64), block()
    for place, top, left in ((0.0, 0, 0), (0.5, 12, 20), (0.9999, 24, 40)):
        cut = np.s_[top : top + 24, left : left + 24]
        got, got_mask = geometry.warp_numpy(image, mask, drawn(flip, 1, place, place), crop=24)
        direction = -1 if flip else 1
        np.testing.assert_allclose(got, image[cut][:, ::direction], atol=1e-6)
        np.testing.assert_array_equal(got_mask, mask[cut][:, ::direction])


def test_every_place_of_the_crop_is_equally_likely():
    rng = np.random.default_rng(0)
    size, window = [np.float32(20)] * 2, [np.float32(17)] * 2
    tops = []
    for _ in range(2000):
        across, down = geometry.affine(drawn(0, 1, *rng.random(2)), size, window)
        assert across[2] in range(4)
        tops.append(int(down[2]))
    np.testing.assert_allclose(np.bincount(tops) / 2000, [0.25] * 4, atol=0.04)


@pytest.mark.parametrize("scale", [0.7, 0.9, 1.0, 1.1, 2.0])
def test_window_lies_inside_the_image_or_around_it(scale):
    size, window = [np.float32(40), np.float32(56)], [np.float32(32)] * 2
    for place in np.linspace(0, 0.9999, 23):
        for flip in (0, 1):
            maps = geometry.affine(drawn(flip, scale, place, place), size, window)
            for axis, length in ((0, 56), (1, 40)):  # columns, rows
                step, start = maps[axis][axis], maps[axis][2]
                first, last = sorted(start + step * np.array([-0.5, 31.5]))  # outer edges
                assert last - first == pytest.approx(32 / scale, rel=1e-5)
                left_over = np.array([first + 0.5, length - 0.5 - last])
                if 32 / scale <= length:
                    assert (left_over >= -1e-4).all()
                else:
                    assert (left_over <= 1e-4).all()


def test_scale_above_one_enlarges():
    image, mask = block()
    areas = [
        geometry.warp_numpy(image, mask, drawn(0, scale, 0, 0))[1].sum() for scale in (0.9, 1, 1.2)
    ]
    assert areas[0] < areas[1] == mask.sum() < areas[2]
    assert areas[2] == pytest.approx(mask.sum() * 1.44, rel=0.15)


@pytest.mark.parametrize("crop", [0, 32])
def test_tensorflow_equals_numpy_for_equal_draws(crop):
    import tensorflow as tf

    image, (_, mask) = smooth(), block(40, 56)
    differing = 0
    for one in random_draws(30):
        got, got_mask = geometry.warp_numpy(image, mask, one, crop)
        tensors = geometry.warp_tf(tf.constant(image), tf.constant(mask), one, crop)
        assert tensors[0].shape == got.shape == ((crop, crop) if crop else image.shape)
        assert tensors[1].dtype == tf.uint8 and got_mask.dtype == np.uint8
        np.testing.assert_allclose(tensors[0].numpy(), got, atol=1e-4, rtol=0)
        differing += int((tensors[1].numpy() != got_mask).sum())
    assert differing == 0


@pytest.mark.parametrize("crop", [0, 32])
def test_jax_equals_numpy_for_equal_draws(crop):
    """Whole pixels are copied exactly; between them, places are float32 numbers in jax."""
    image, (_, mask) = smooth(), block(40, 56)
    window = (crop, crop) if crop else image.shape
    warp = jax.jit(functools.partial(geometry.warp_jax, window=window))
    differing = 0
    whole_pixels = [drawn(flip, 1, 0.3, 0.8) for flip in (0, 1)]
    far_outside = drawn(1, 0.2, 0.3, 0.6)  # mirrored several times
    for one in (*random_draws(30), *whole_pixels, far_outside):
        got, got_mask = geometry.warp_numpy(image, mask, one, crop)
        ours, our_mask = warp(image, mask, geometry.placement(one, image.shape, crop))
        assert ours.shape == got.shape == window
        assert (ours.dtype, our_mask.dtype) == (np.float32, np.uint8)
        tolerance = 1e-6 if one in whole_pixels else 1e-5
        np.testing.assert_allclose(ours, got, atol=tolerance, rtol=0)
        differing += int((np.asarray(our_mask) != got_mask).sum())
    assert differing == 0


def test_draws_come_from_the_same_code_for_both():
    import tensorflow as tf

    for numbers in np.random.default_rng(1).random((20, 4), np.float32):
        ours = geometry.draw(list(numbers), flip=True, scale=(0.8, 1.25))
        theirs = geometry.draw(tf.unstack(tf.constant(numbers)), flip=True, scale=(0.8, 1.25))
        np.testing.assert_array_equal(ours, [value.numpy() for value in theirs])
        assert ours.flip in (0, 1) and 0.8 <= ours.scale <= 1.25


def test_half_of_the_draws_are_mirrored_unless_switched_off():
    uniform = np.random.default_rng(2).random((1000, 4), np.float32)
    flips = [geometry.draw(list(u), flip=True, scale=(1, 1)).flip for u in uniform]
    assert abs(np.mean(flips) - 0.5) < 0.05
    assert all(geometry.draw(list(u), flip=False, scale=(1, 1)).flip == 0 for u in uniform)


@pytest.mark.parametrize("crop", [0, 40])
def test_mask_moves_with_the_image(crop):
    import tensorflow as tf

    # For the crops the block moves to the middle, where every window shows enough of it.
    image, mask = (np.roll(array, -12 if crop else 0, axis=1) for array in block())
    rng = np.random.default_rng(5)
    settings = SETTINGS | {"crop": crop}
    for index in range(50):
        assert_aligned(*geometry.augment_numpy(image, mask, rng, **settings))
        moved = geometry.augment_tf(tf.constant(image), tf.constant(mask), [7, index], **settings)
        assert_aligned(*(tensor.numpy() for tensor in moved))


def test_equal_seeds_give_equal_results_eagerly_and_in_tf_data():
    import tensorflow as tf

    image, (_, mask) = smooth(), block(40, 56)

    def augment(index):
        seed = tf.stack([tf.constant(11, tf.int64), index])
        labels = tf.constant(mask.astype(np.int32))
        return geometry.augment_tf(tf.constant(image), labels, seed, **SETTINGS)

    dataset = tf.data.Dataset.range(6).map(augment, num_parallel_calls=2)
    assert dataset.element_spec == (
        tf.TensorSpec(image.shape, tf.float32),
        tf.TensorSpec(image.shape, tf.int32),
    )
    first, again = list(dataset.as_numpy_iterator()), list(dataset.as_numpy_iterator())
    for index, (one, two) in enumerate(zip(first, again, strict=True)):
        eager = augment(tf.constant(index, tf.int64))
        for part in range(2):
            np.testing.assert_array_equal(one[part], two[part])
            np.testing.assert_allclose(one[part], eager[part].numpy(), atol=1e-6)
    assert len({one[0].tobytes() for one in first}) == 6


def test_sizes_may_be_known_only_when_it_runs():
    import tensorflow as tf

    image, (_, mask) = smooth(), block(40, 56)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.float32),
            tf.TensorSpec([None, None], tf.uint8),
        ]
    )
    def augment(image, mask):
        return geometry.augment_tf(image, mask, [1, 2], **SETTINGS)

    moved = augment(image, mask)
    eager = geometry.augment_tf(tf.constant(image), tf.constant(mask), [1, 2], **SETTINGS)
    for one, two in zip(moved, eager, strict=True):
        np.testing.assert_allclose(one.numpy(), two.numpy(), atol=1e-6)


def test_numpy_augmentation_depends_on_its_generator_alone():
    image, (_, mask) = smooth(), block(40, 56)
    one, two, other = (
        geometry.augment_numpy(image, mask, np.random.default_rng(seed), **SETTINGS)
        for seed in (8, 8, 9)
    )
    assert one[0].dtype == np.float32 and one[0].shape == image.shape
    np.testing.assert_array_equal(one[0], two[0])
    assert (one[0] != other[0]).any()
    assert one[0].min() >= image.min() - 1e-6 and one[0].max() <= image.max() + 1e-6


@pytest.mark.parametrize("scale", [(0.0, 1.0), (1.1, 0.9), (1.0,)])
def test_bad_scale_is_explained(scale):
    with pytest.raises(UserError, match=re.escape(f"views.scale={scale}: allowed are two numbers")):
        geometry.draw([np.float32(0.5)] * 4, flip=True, scale=scale)


@pytest.mark.parametrize("crop", [-1, 41])
def test_bad_crop_is_explained(crop):
    import tensorflow as tf

    image, (_, mask) = smooth(), block(40, 56)
    with pytest.raises(UserError, match=re.escape(f"views.crop={crop}: allowed are 0")):
        geometry.placement(drawn(0, 1, 0, 0), (40, 56), crop)
    message = re.escape(f"views.crop={crop}: allowed are 0 (whole image) to the shorter side of 40")
    with pytest.raises(UserError, match=message):
        geometry.augment_numpy(image, mask, np.random.default_rng(0), crop=crop)
    with pytest.raises(UserError, match=message):
        geometry.augment_tf(tf.constant(image), tf.constant(mask), [0, 0], crop=crop)
