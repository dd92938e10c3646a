"""Batches: every image once an epoch, an order that (seed, step) alone decides, shared rows."""

import collections.abc
import dataclasses
import time

import numpy as np
import pytest

from mln_flax.config import ViewsConfig
from mln_flax.data.core import Example, Part
from mln_flax.data.images import chunks, from_arrays, images_of, without_labels
from mln_flax.engine.input_pipeline import Plan, _ahead, rate, train_batches
from mln_flax.engine.order import stream_of
from mln_flax.types import UserError
from mln_flax.views.intensity import make_view

BACKENDS = ("tf", "numpy")
COUNT, SIDE = 7, 8  # seven images: no batch size divides an epoch
NAMES = ("identity", "bezier(0.3)", "invert")
STILL = ViewsConfig(flip=False, scale=(1.0, 1.0))


@pytest.fixture(scope="module")
def source():
    """Images that tell which they are by their first pixel; masks likewise."""
    rng = np.random.default_rng(0)
    image = rng.random((COUNT, SIDE, SIDE)).astype(np.float32)
    return from_arrays(image, (image > 0.6).astype(np.uint8))


def a_plan(config=STILL, batch_size=2, seed=3, names=NAMES):
    return Plan(tuple(make_view(name) for name in names), config, batch_size, seed)


def first_view(batch):
    """The rows of the first view, [images, H, W]."""
    return np.asarray(batch.image)[:: len(NAMES), ..., 0]


def places(batches, source):
    """Which of the source' images each row shows."""
    rows = np.concatenate([first_view(batch) for batch in batches])
    equal = (rows[:, None] == source.stack(slice(None))[0][None]).all(axis=(2, 3))
    assert (equal.sum(axis=1) == 1).all()
    return equal.argmax(axis=1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_epoch_shows_each_image_once_in_an_order_of_its_own(source, backend):
    seen = places(train_batches(source, a_plan(), 0, 14, backend=backend), source)
    epochs = seen.reshape(4, COUNT)
    assert (np.sort(epochs) == np.arange(COUNT)).all()
    assert len(np.unique(epochs, axis=0)) > 1
    other = places(train_batches(source, a_plan(seed=4), 0, 14, backend=backend), source)
    assert (other != seen).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_that_starts_later_sees_the_tail_of_the_whole_run(source, backend):
    plan = a_plan(ViewsConfig(crop=0.75))
    whole = list(train_batches(source, plan, 0, 9, backend=backend))
    tail = list(train_batches(source, plan, 5, 9, backend=backend))
    assert (len(whole), len(tail)) == (9, 4)
    for a, b in zip(whole[5:], tail, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    assert list(train_batches(source, plan, 9, 9, backend=backend)) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_hosts_take_disjoint_rows_that_together_are_the_whole(source, backend):
    plan = a_plan(ViewsConfig(), batch_size=4)
    whole = list(train_batches(source, plan, 1, 4, backend=backend))
    hosts = [
        list(train_batches(source, plan, 1, 4, host=(host, 2), backend=backend)) for host in (0, 1)
    ]
    for batch, *parts in zip(whole, *hosts, strict=True):
        for x, *shares in zip(batch, *parts, strict=True):
            np.testing.assert_array_equal(x, np.concatenate(shares))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_are_the_views_of_the_augmented_image_with_one_mask(source, backend):
    plan = a_plan(ViewsConfig(), names=("identity", "bezier(0.3)+invert", "invert"))
    for batch in train_batches(source, plan, 0, 3, backend=backend):
        first = first_view(batch)
        assert not any(
            (image == known).all() for image in first for known in source.stack(slice(None))[0]
        )
        for number, view in enumerate(plan.views):
            np.testing.assert_allclose(
                batch.image[number::3, ..., 0], view.numpy(first), rtol=0, atol=2e-7
            )
            np.testing.assert_array_equal(batch.mask[number::3], batch.mask[::3])
        np.testing.assert_array_equal(batch.view, [0, 1, 2, 0, 1, 2])
        assert set(np.unique(batch.mask)) <= {0, 1}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("crop", [1.0, 0.75])
def test_shapes_and_types(source, backend, crop):
    side = int(crop * SIDE)
    plan = a_plan(dataclasses.replace(STILL, crop=crop))
    (batch,) = train_batches(source, plan, 0, 1, backend=backend)
    assert (batch.image.shape, batch.image.dtype) == ((6, side, side, 1), np.float32)
    assert (batch.mask.shape, batch.mask.dtype) == ((6, side, side), np.int32)
    for numbers in (batch.view, batch.domain):
        assert (numbers.shape, numbers.dtype) == ((6,), np.int32)
    for marks in (batch.labeled, batch.valid):
        assert (marks.shape, marks.dtype) == ((6,), bool) and marks.all()
    assert not batch.domain.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_image_alone_can_be_trained_on(source, backend):
    image, mask = source.stack(slice(1))
    one = from_arrays(image, mask)
    (batch,) = train_batches(one, a_plan(batch_size=3), 0, 1, backend=backend)
    np.testing.assert_array_equal(first_view(batch), np.repeat(image, 3, axis=0))


def test_masks_belong_to_their_images(source):
    (batch,) = train_batches(source, a_plan(batch_size=4), 0, 1, backend="numpy")
    np.testing.assert_array_equal(batch.mask[::3], first_view(batch) > 0.6)


def test_batches_made_ahead_keep_their_order_and_stop_with_their_reader():
    asked = []

    def slow_first(step):
        asked.append(step)
        time.sleep(0.02 * (step == 0))
        return step

    assert list(_ahead(slow_first, range(20))) == list(range(20))
    asked.clear()
    some = _ahead(slow_first, range(10**9))
    assert [next(some), next(some)] == [0, 1]
    some.close()
    assert len(asked) < 100  # it was never more than a few ahead, and asks for nothing after


def test_what_is_wrong_with_an_image_reaches_the_reader(source):
    def read(i):
        raise UserError("the stored tiles are damaged")

    with pytest.raises(UserError, match="damaged"):
        next(train_batches(source._replace(read=read), a_plan(), 0, 5, backend="numpy"))


def test_chunks_cover_everything_once():
    assert [(list(range(10)[rows]), n) for rows, n in chunks(10, 4)] == [
        ([0, 1, 2, 3], 4),
        ([4, 5, 6, 7], 4),
        ([8, 9], 2),
    ]
    assert list(chunks(0, 4)) == []


def example(image, mask):
    return Example(image, mask, "i", "p", "d", "", "", None, "cluster")


class Disk(collections.abc.Sequence):
    """Stored examples that count how often each is read."""

    def __init__(self, examples):
        self.examples, self.reads = examples, [0] * len(examples)

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, i):
        self.reads[i] += 1
        return self.examples[i]


@pytest.mark.parametrize(("cache_gb", "reads"), [(0.0, 3), (1.0, 1), (200e-9, 2.0)])
def test_stored_images_are_read_once_as_far_as_they_fit(cache_gb, reads):
    rng = np.random.default_rng(0)
    stored = (rng.integers(0, 65536, (2, 8, 8)) / 65535).astype(np.float32)
    masks = (stored > 0.5).astype(np.uint8)
    examples = tuple(map(example, stored, masks))
    disk = Disk(examples)
    part = Part.of("d", "train", examples)._replace(examples=disk)
    images = images_of(part, cache_gb)
    assert images.total == 2 and images.shape == (8, 8)
    disk.reads = [0, 0]
    for _ in range(3):
        image, mask = images.stack(slice(None))
        np.testing.assert_array_equal(mask, masks)
        np.testing.assert_allclose(image, stored, rtol=0, atol=1e-7)
    assert np.mean(disk.reads) == reads


@pytest.mark.parametrize("backend", BACKENDS)
def test_labeled_images_get_their_share_and_all_get_their_epochs(backend):
    image = np.arange(COUNT, dtype=np.float32)[:, None, None] * np.ones((1, 4, 4), np.float32) / 10
    mask = np.zeros((COUNT, 4, 4), np.uint8)
    mask[[1, 4, 6]] = 1
    source = from_arrays(image, mask)
    plan = a_plan(batch_size=4)._replace(foreground=0.25)
    batches = list(train_batches(source, plan, 0, 21, backend=backend))
    seen = places(batches, source).reshape(21, 4)
    is_labeled = [bool(stream_of(c, 0.25)[0]) for c in range(84)]
    assert sum(is_labeled) == 21
    of_labeled, of_all = seen.ravel()[is_labeled], seen.ravel()[~np.array(is_labeled)]
    assert (np.sort(of_labeled.reshape(7, 3)) == [1, 4, 6]).all()  # seven epochs of three
    assert (np.sort(of_all.reshape(9, COUNT)) == np.arange(COUNT)).all()
    hosts = [list(train_batches(source, plan, 4, 9, (h, 2), backend)) for h in (0, 1)]
    for step, parts in enumerate(zip(*hosts, strict=True), start=4):
        np.testing.assert_array_equal(
            np.concatenate([places([p], source) for p in parts]), seen[step]
        )
    with pytest.raises(UserError, match="train.foreground=0.25: no training image has a label"):
        train_batches(from_arrays(image, mask * 0), plan, 0, 1, backend=backend)


FILMS, SLICES = 3, 5  # images of two targets


@pytest.fixture(scope="module")
def targets():
    """Images of two targets, all with a label; none is of the source, nor of the other."""
    rng = np.random.default_rng(1)
    shown = [rng.random((count, SIDE, SIDE)).astype(np.float32) for count in (FILMS, SLICES)]
    return [from_arrays(image, np.ones(image.shape, np.uint8)) for image in shown]


def two_streams(backend, source, targets, start=0, stop=15, host=(0, 1), **changes):
    plan = a_plan(**{"batch_size": 2} | changes)._replace(unlabeled_batch_size=2)
    return list(train_batches(source, plan, start, stop, host, backend, unlabeled=targets))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_targets_stand_behind_the_sources_and_show_no_label(source, targets, backend):
    plain = list(train_batches(source, a_plan(), 0, 15, backend=backend))
    both = two_streams(backend, source, targets)
    rows = 2 * len(NAMES)  # of each stream
    for batch, alone in zip(both, plain, strict=True):
        for field, of_source in zip(batch, alone, strict=True):
            np.testing.assert_array_equal(field[:rows], of_source)
            assert field.dtype == of_source.dtype and len(field) == 3 * rows
        np.testing.assert_array_equal(batch.domain, np.repeat([0, 1, 2], rows))
        np.testing.assert_array_equal(batch.labeled, np.repeat([True, False, False], rows))
        np.testing.assert_array_equal(batch.view, np.tile([0, 1, 2], 6))
        assert batch.valid.all() and not batch.mask[rows:].any()
    for number, (of_target, count) in enumerate(zip(targets, (FILMS, SLICES), strict=True), 1):
        own = [batch._replace(image=batch.image[batch.domain == number]) for batch in both]
        epochs = places(own, of_target).reshape(-1, count)
        assert (np.sort(epochs) == np.arange(count)).all()
        assert len(np.unique(epochs, axis=0)) > 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_targets_of_the_same_images_come_in_orders_and_crops_of_their_own(source, backend):
    config = ViewsConfig(crop=0.75)
    batches = two_streams(backend, source, [source, source], 0, 6, config=config)
    streams = [
        np.concatenate([b.image[b.domain == number] for b in batches]) for number in (0, 1, 2)
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not np.array_equal(streams[a], streams[b])


@pytest.mark.parametrize("backend", BACKENDS)
def test_targets_go_on_exactly_at_any_step_and_hosts_share_them(source, targets, backend):
    config = ViewsConfig(crop=0.75)
    whole = two_streams(backend, source, targets, 0, 6, config=config)
    for start in (1, 4, 6):
        tail = two_streams(backend, source, targets, start, 6, config=config)
        for a, b in zip(whole[start:], tail, strict=True):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)
    hosts = [two_streams(backend, source, targets, 0, 6, (h, 2), config=config) for h in (0, 1)]
    for batch, *parts in zip(whole, *hosts, strict=True):
        for number in range(3):
            for x, *own in zip(batch, *parts, strict=True):
                shares = [
                    of_host[part.domain == number] for of_host, part in zip(own, parts, strict=True)
                ]
                assert len(shares[0]) == len(shares[1]) == len(NAMES)
                np.testing.assert_array_equal(x[batch.domain == number], np.concatenate(shares))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_share_of_labeled_images_is_the_sources_alone(source, targets, backend):
    """Targets have no label to choose by: their masks are taken away before any choice."""
    plan = a_plan()._replace(unlabeled_batch_size=2)
    image, _ = source.stack(slice(None))
    mask = np.zeros(image.shape, np.uint8)
    mask[[2, 5]] = 1
    some = from_arrays(image, mask)
    found = [
        list(train_batches(some, of_plan, 0, 3, backend=backend, unlabeled=targets))
        for of_plan in (plan, plan._replace(foreground=0.5))
    ]
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a.image[6:], b.image[6:])
    assert any(not np.array_equal(a.image[:6], b.image[:6]) for a, b in zip(*found, strict=True))


def test_targets_that_hosts_cannot_share_equally_are_refused(source, targets):
    plan = a_plan()._replace(unlabeled_batch_size=3)
    with pytest.raises(UserError, match="unlabeled_batch_size=3: must be a multiple of the 2 pr"):
        list(train_batches(source, plan, 0, 1, (0, 2), "numpy", unlabeled=targets))


def test_without_labels_reads_the_same_images_and_nothing_of_their_masks(source):
    hidden = without_labels(source)
    assert (hidden.shape, hidden.total) == (source.shape, source.total)
    assert source.labeled.any() and not hidden.labeled.any()
    image, mask = hidden.stack(slice(None))
    np.testing.assert_array_equal(image, source.stack(slice(None))[0])
    assert mask.dtype == np.uint8 and mask.shape == image.shape and not mask.any()


def test_the_rate_of_the_input_alone(source):
    assert rate(source, a_plan(), seconds=0.01, batches=2) > 0
