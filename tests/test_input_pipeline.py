"""Batches: every image once an epoch, an order that (seed, step) alone decides, shared rows."""

import dataclasses

import numpy as np
import pytest

from mln_flax.config import ViewsConfig
from mln_flax.input_pipeline import (
    Arrays,
    Plan,
    arrays_of,
    chunks,
    host_rows,
    train_batches,
)
from mln_flax.types import UserError
from mln_flax.views import make_view

BACKENDS = ("tf", "numpy")
COUNT, SIDE = 7, 8  # seven images: no batch size divides an epoch
NAMES = ("identity", "bezier(0.3)", "invert")
STILL = ViewsConfig(flip=False, scale=(1.0, 1.0))


@pytest.fixture(scope="module")
def arrays():
    """Images that tell which they are by their first pixel; masks likewise."""
    rng = np.random.default_rng(0)
    image = rng.random((COUNT, SIDE, SIDE)).astype(np.float32)
    return Arrays(image, (image > 0.6).astype(np.uint8))


def a_plan(config=STILL, batch_size=2, seed=3, names=NAMES):
    made = tuple(make_view(name) for name in names)
    return Plan(made, tuple(range(len(names))), config, batch_size, seed)


def images_of(batch):
    """The rows of the first view, [images, H, W]."""
    return np.asarray(batch.image)[:: len(NAMES), ..., 0]


def places(batches, arrays):
    """Which of the arrays' images each row shows."""
    rows = np.concatenate([images_of(batch) for batch in batches])
    equal = (rows[:, None] == arrays.image[None]).all(axis=(2, 3))
    assert (equal.sum(axis=1) == 1).all()
    return equal.argmax(axis=1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_epoch_shows_each_image_once_in_an_order_of_its_own(arrays, backend):
    seen = places(train_batches(arrays, a_plan(), 0, 14, backend=backend), arrays)
    epochs = seen.reshape(4, COUNT)
    assert (np.sort(epochs) == np.arange(COUNT)).all()
    assert len(np.unique(epochs, axis=0)) > 1
    other = places(train_batches(arrays, a_plan(seed=4), 0, 14, backend=backend), arrays)
    assert (other != seen).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_that_starts_later_sees_the_tail_of_the_whole_run(arrays, backend):
    plan = a_plan(ViewsConfig(crop=6))
    whole = list(train_batches(arrays, plan, 0, 9, backend=backend))
    tail = list(train_batches(arrays, plan, 5, 9, backend=backend))
    assert (len(whole), len(tail)) == (9, 4)
    for a, b in zip(whole[5:], tail, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    assert list(train_batches(arrays, plan, 9, 9, backend=backend)) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_hosts_take_disjoint_rows_that_together_are_the_whole(arrays, backend):
    plan = a_plan(ViewsConfig(), batch_size=4)
    whole = list(train_batches(arrays, plan, 1, 4, backend=backend))
    hosts = [
        list(train_batches(arrays, plan, 1, 4, host=(host, 2), backend=backend)) for host in (0, 1)
    ]
    for batch, *parts in zip(whole, *hosts, strict=True):
        for x, *shares in zip(batch, *parts, strict=True):
            np.testing.assert_array_equal(x, np.concatenate(shares))


def test_rows_of_hosts():
    assert [list(host_rows(6, (host, 3))) for host in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(UserError, match="train.batch_size=5: must be a multiple of the 2"):
        host_rows(5, (0, 2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_are_the_views_of_the_augmented_image_with_one_mask(arrays, backend):
    plan = a_plan(ViewsConfig(), names=("identity", "bezier(0.3)+invert", "invert"))
    for batch in train_batches(arrays, plan, 0, 3, backend=backend):
        first = images_of(batch)
        assert not any((image == known).all() for image in first for known in arrays.image)
        for number, view in enumerate(plan.views):
            np.testing.assert_allclose(
                batch.image[number::3, ..., 0], view.numpy(first), rtol=0, atol=2e-7
            )
            np.testing.assert_array_equal(batch.mask[number::3], batch.mask[::3])
        np.testing.assert_array_equal(batch.branch, [0, 1, 2, 0, 1, 2])
        assert set(np.unique(batch.mask)) <= {0, 1}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("crop", [0, 6])
def test_shapes_and_types(arrays, backend, crop):
    side = crop or SIDE
    plan = a_plan(dataclasses.replace(STILL, crop=crop))
    (batch,) = train_batches(arrays, plan, 0, 1, backend=backend)
    assert (batch.image.shape, batch.image.dtype) == ((6, side, side, 1), np.float32)
    assert (batch.mask.shape, batch.mask.dtype) == ((6, side, side), np.int32)
    assert (batch.branch.shape, batch.branch.dtype) == ((6,), np.int32)
    assert (batch.valid.shape, batch.valid.dtype) == ((6,), bool)
    assert batch.valid.all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_image_alone_can_be_trained_on(arrays, backend):
    one = Arrays(arrays.image[:1], arrays.mask[:1])
    (batch,) = train_batches(one, a_plan(batch_size=3), 0, 1, backend=backend)
    np.testing.assert_array_equal(images_of(batch), np.repeat(one.image, 3, axis=0))


def test_masks_belong_to_their_images(arrays):
    (batch,) = train_batches(arrays, a_plan(batch_size=4), 0, 1, backend="numpy")
    np.testing.assert_array_equal(batch.mask[::3], images_of(batch) > 0.6)


def test_chunks_cover_everything_once():
    assert [(list(range(10)[rows]), n) for rows, n in chunks(10, 4)] == [
        ([0, 1, 2, 3], 4),
        ([4, 5, 6, 7], 4),
        ([8, 9], 2),
    ]
    assert list(chunks(0, 4)) == []


def test_arrays_of_examples():
    class One:
        image, mask = np.full((2, 3), 0.5), np.ones((2, 3), bool)

    arrays = arrays_of([One, One])
    assert (arrays.image.dtype, arrays.mask.dtype) == (np.float32, np.uint8)
    assert arrays.image.shape == arrays.mask.shape == (2, 2, 3)
