"""Batches of views, in an order that (seed, step) alone decides: the one file with tf.data."""

import collections
import concurrent.futures
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mln_flax.config import ViewsConfig
from mln_flax.data.images import Images, without_labels
from mln_flax.engine.order import host_rows, stream_of
from mln_flax.types import Batch, UserError, View
from mln_flax.views import geometry

BATCHES_AHEAD = 2  # made before they are asked for
UNLABELED = 1_000_003  # added to the seed for every target without labels


class Plan(NamedTuple):
    """How training batches are made of examples."""

    views: tuple[View, ...]
    config: ViewsConfig
    batch_size: int  # images over all hosts; rows are batch_size * views
    seed: int
    foreground: float = 0.0  # share of the places that only images with a label can take
    unlabeled_batch_size: int = 0  # images of each target that is seen without labels


class Originals(NamedTuple):
    """Images on their way to the device, which makes their rows; whole, and each once.

    `domain`, `labeled` and `valid` as of a `Batch`.
    """

    image: Any  # float32 [B, H, W]
    mask: Any  # uint8 [B, H, W]
    place: Any  # float32 [B, 2, 2]: the `geometry.placement` of each
    domain: Any  # int32 [B]
    labeled: Any  # bool [B]
    valid: Any  # bool [B]


def have_tensorflow() -> bool:
    """Whether tf.data can be used; without it batches are made in numpy."""
    # Start-up notes would hide our own lines; oneDNN would make results depend on the machine.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        return False
    return True


def threads() -> int:
    """How many threads make batches: one for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train_batches(
    images: Images,
    plan: Plan,
    start_step: int,
    steps: int,
    host: tuple[int, int] = (0, 1),
    backend: str = "",
    unlabeled: Sequence[Images] = (),
) -> Iterator[Any]:
    """A `Batch` of the rows of one host for each of the steps start_step, ..., steps - 1.

    With `plan.config.on_device` it is `Originals`: the images of these rows, drawn alike.

    Example number c of the run (c = step * batch_size + place) is the image at place c mod N of
    a shuffle that the seed and the epoch (c div N) decide, with geometry drawn from (seed, c):
    each epoch sees each image once, and a run that starts at any step goes on
    exactly. Where `plan.foreground` gives a share of the places to images with a label, those go
    through a shuffle of their own in the same way, and the other places through the shuffle of
    all images.

    Args:
      images: the source's training images.
      plan: views, batch size and seed.
      start_step: steps already done.
      steps: where to stop.
      host: this host's number and their count; hosts take disjoint rows of each batch.
      backend: "tf" or "numpy"; by default tf.data where TensorFlow is installed. The two draw
        different augmentations, each reproducibly.
      unlabeled: of each target that is seen without labels, its training images. Their rows stand
        behind the labeled ones in every batch, with `labeled` False and an empty mask.
    """
    if plan.foreground and not images.labeled.any():
        raise UserError(
            f"--config.train.foreground={plan.foreground}: no training image has a label; "
            "set it to 0"
        )
    backend = backend or ("tf" if have_tensorflow() else "numpy")
    make = _tf_batches if backend == "tf" else _numpy_batches
    labeled_rows = make(images, plan, start_step, steps, host)
    if not unlabeled:
        return labeled_rows
    host_rows(plan.unlabeled_batch_size, host, "train.unlabeled_batch_size")
    streams = [
        make(without_labels(of_target), _of_target(plan, number), start_step, steps, host)
        for number, of_target in enumerate(unlabeled, start=1)
    ]
    return _joined(labeled_rows, streams)


def _of_target(plan: Plan, number: int) -> Plan:
    """How the rows of the number-th target without labels are made: in an order of its own."""
    return plan._replace(
        batch_size=plan.unlabeled_batch_size, seed=plan.seed + UNLABELED * number, foreground=0.0
    )


def _joined(labeled_rows: Iterator[Any], streams: Sequence[Iterator[Any]]) -> Iterator[Any]:
    """Batches of several streams as one: the source's rows, then those of each target."""
    for batch, *others in zip(labeled_rows, *streams, strict=True):
        marked = [
            other._replace(
                domain=np.full_like(other.domain, number), labeled=np.zeros_like(other.labeled)
            )
            for number, other in enumerate(others, start=1)
        ]
        yield batch._make(np.concatenate(field) for field in zip(batch, *marked, strict=True))


def rate(images: Images, plan: Plan, seconds: float = 0.3, batches: int = 8) -> float:
    """Images per second of the pipeline alone, with nothing to wait for; each gives all views.

    With `plan.config.on_device` an image is read and its geometry drawn, no more.

    Measured over so many seconds and batches at least, once those made ahead are used up.
    """
    stream = train_batches(images, plan, 0, sys.maxsize // plan.batch_size)
    for _ in range(1 + BATCHES_AHEAD):  # and what is set up once does not count either
        next(stream)
    started, count, spent = time.monotonic(), 0, 0.0
    while count < batches or spent < seconds:
        next(stream)
        count, spent = count + 1, time.monotonic() - started
    return count * plan.batch_size / spent


def _tf_batches(images, plan, start_step, steps, host) -> Iterator[Any]:
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # the accelerators belong to jax
    rows = host_rows(plan.batch_size, host)
    labeled = tf.constant(np.flatnonzero(images.labeled), tf.int64)
    crop = crop_of(images.shape, plan)

    def shuffled(number, total, stream):
        seed = tf.stack([tf.constant(plan.seed + stream, tf.int64), number // total])
        return tf.random.experimental.index_shuffle(number % total, seed, total - 1)

    @tf.autograph.experimental.do_not_convert  # there is no Python control flow to convert
    def example(number):
        step, place = number // len(rows), rows.start + number % len(rows)
        counter = step * plan.batch_size + place
        if plan.foreground:
            is_labeled, (of_labeled, of_all) = stream_of(counter, plan.foreground)
            index = tf.where(
                is_labeled,
                labeled[shuffled(of_labeled, len(labeled), 1)],
                shuffled(of_all, images.total, 0),
            )
        else:
            index = shuffled(counter, images.total, 0)
        image, mask = tf.numpy_function(
            lambda i: images.read(int(i)), [index], (tf.float32, tf.uint8), stateful=False
        )
        image, mask = tf.ensure_shape(image, images.shape), tf.ensure_shape(mask, images.shape)
        seed = tf.stack([tf.constant(plan.seed, tf.int64), counter])
        if plan.config.on_device:
            return image, mask, geometry.uniform_tf(seed)
        image, mask = geometry.augment_tf(
            image, mask, seed, flip=plan.config.flip, scale=plan.config.scale, crop=crop
        )
        views = tf.stack([view.tf(image) for view in plan.views])[..., tf.newaxis]
        return views, tf.repeat(tf.cast(mask, tf.int32)[tf.newaxis], len(plan.views), axis=0)

    dataset = (
        tf.data.Dataset.range(start_step * len(rows), steps * len(rows))
        .map(example, num_parallel_calls=threads())
        .batch(len(rows))
        .prefetch(BATCHES_AHEAD)
    )
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads()
    for fields in dataset.with_options(options).as_numpy_iterator():
        yield _originals(plan, *fields) if plan.config.on_device else _rows(*fields)


def _numpy_batches(images, plan, start_step, steps, host) -> Iterator[Any]:
    rows = host_rows(plan.batch_size, host)
    labeled = np.flatnonzero(images.labeled)
    crop = crop_of(images.shape, plan)

    def shuffled(number, total, stream):
        order = np.random.default_rng([plan.seed + stream, number // total]).permutation(total)
        return order[number % total]

    def example(counter):
        is_labeled, (of_labeled, of_all) = stream_of(counter, plan.foreground)
        if is_labeled:
            index = labeled[shuffled(of_labeled, len(labeled), 1)]
        else:
            index = shuffled(of_all, images.total, 0)
        image, mask = images.read(int(index))
        random = np.random.default_rng([plan.seed, counter, 1])
        if plan.config.on_device:
            return image, mask, geometry.uniform_numpy(random)
        image, mask = geometry.augment_numpy(
            image, mask, random, flip=plan.config.flip, scale=plan.config.scale, crop=crop
        )
        views = np.stack([view.numpy(image) for view in plan.views])[..., np.newaxis]
        return views, np.repeat(mask.astype(np.int32)[np.newaxis], len(plan.views), axis=0)

    def batch(step):
        examples = [example(step * plan.batch_size + place) for place in rows]
        fields = map(np.stack, zip(*examples, strict=True))
        return _originals(plan, *fields) if plan.config.on_device else _rows(*fields)

    yield from _ahead(batch, range(start_step, steps))


def _ahead(make: Callable[[int], Any], steps: Iterable[int]) -> Iterator[Any]:
    """What `make` gives for each step, in their order, made by threads before it is asked for."""
    pool = concurrent.futures.ThreadPoolExecutor(threads())
    waiting: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
    try:
        for step in steps:
            waiting.append(pool.submit(make, step))
            if len(waiting) > max(threads(), BATCHES_AHEAD):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def crop_of(shape: tuple[int, int], plan: Plan) -> int:
    """The side of the training crop, pixels; 0 keeps the image whole, whatever its shape."""
    return 0 if plan.config.crop == 1 else plan.config.crop_side(min(shape))


def _originals(plan: Plan, image: np.ndarray, mask: np.ndarray, uniform: np.ndarray) -> Originals:
    """Images and masks [B, H, W] with what of their geometry the numbers [B, 4] stand for."""
    flip, scale, count = plan.config.flip, plan.config.scale, len(image)
    shape = image.shape[1:]
    draws = (geometry.draw(list(numbers), flip=flip, scale=scale) for numbers in uniform)
    places = [geometry.placement(drawn, shape, crop_of(shape, plan)) for drawn in draws]
    domain, marks = np.zeros(count, np.int32), np.ones(count, bool)
    return Originals(image, mask, np.stack(places), domain, marks, marks)


def _rows(views: np.ndarray, mask: np.ndarray) -> Batch:
    """[B, V, H, W, 1] views and [B, V, H, W] masks -> B * V rows, without a copy."""
    batch, count = views.shape[:2]
    return Batch(
        image=views.reshape(batch * count, *views.shape[2:]),
        mask=mask.reshape(batch * count, *mask.shape[2:]),
        view=np.tile(np.arange(count, dtype=np.int32), batch),
        domain=np.zeros(batch * count, np.int32),
        labeled=np.ones(batch * count, bool),
        valid=np.ones(batch * count, bool),
    )
