"""Batches of views, in an order that (seed, step) alone decides: the one file with tf.data."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mln_flax import geometry
from mln_flax.config import ViewsConfig
from mln_flax.types import Batch, UserError
from mln_flax.views import View


class Arrays(NamedTuple):
    """Examples of one size as arrays."""

    image: np.ndarray  # float32 [N, H, W] in [0, 1]
    mask: np.ndarray  # uint8 [N, H, W]


class Plan(NamedTuple):
    """How training batches are made of examples."""

    views: tuple[View, ...]
    branch_of_view: tuple[int, ...]
    config: ViewsConfig
    batch_size: int  # images over all hosts; rows are batch_size * views
    seed: int


def arrays_of(examples: Sequence[Any]) -> Arrays:
    """Stacks the examples of a part; all must be of one size."""
    return Arrays(
        np.stack([example.image for example in examples]).astype(np.float32),
        np.stack([example.mask for example in examples]).astype(np.uint8),
    )


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


def train_batches(
    arrays: Arrays,
    plan: Plan,
    start_step: int,
    steps: int,
    host: tuple[int, int] = (0, 1),
    backend: str = "",
) -> Iterator[Batch]:
    """The rows of one host for steps start_step, ..., steps - 1.

    Example number c of the run (c = step * batch_size + place) is the image at place c mod N of
    a shuffle that the seed and the epoch (c div N) decide, with geometry drawn from (seed, c):
    each epoch sees each image once, and a run that starts at any step goes on exactly.

    Args:
      arrays: the source's training images.
      plan: views, branches, batch size and seed.
      start_step: steps already done.
      steps: where to stop.
      host: this host's number and their count; hosts take disjoint rows of each batch.
      backend: "tf" or "numpy"; by default tf.data where TensorFlow is installed. The two draw
        different augmentations, each reproducibly.
    """
    backend = backend or ("tf" if have_tensorflow() else "numpy")
    make = _tf_batches if backend == "tf" else _numpy_batches
    return make(arrays, plan, start_step, steps, host)


def host_rows(batch_size: int, host: tuple[int, int]) -> range:
    """The places of a batch that belong to one host.

    Raises:
      UserError: the hosts cannot have equally many, as the devices' common step needs.
    """
    index, count = host
    if batch_size % count:
        raise UserError(
            f"--config.train.batch_size={batch_size}: must be a multiple of the {count} processes"
        )
    return range(batch_size * index // count, batch_size * (index + 1) // count)


def _tf_batches(arrays, plan, start_step, steps, host) -> Iterator[Batch]:
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # the accelerators belong to jax
    images, masks = tf.constant(arrays.image), tf.constant(arrays.mask)
    total, rows = len(arrays.image), host_rows(plan.batch_size, host)
    branch = np.asarray(plan.branch_of_view, np.int32)

    @tf.autograph.experimental.do_not_convert  # there is no Python control flow to convert
    def example(number):
        step, place = number // len(rows), rows.start + number % len(rows)
        counter = step * plan.batch_size + place
        epoch = counter // total
        shuffle_seed = tf.stack([tf.constant(plan.seed, tf.int64), epoch])
        index = tf.random.experimental.index_shuffle(counter % total, shuffle_seed, total - 1)
        image, mask = geometry.augment_tf(
            images[index],
            masks[index],
            tf.stack([tf.constant(plan.seed, tf.int64), counter]),
            flip=plan.config.flip,
            scale=plan.config.scale,
            crop=plan.config.crop,
        )
        return tf.stack([view.tf(image) for view in plan.views]), mask

    dataset = (
        tf.data.Dataset.range(start_step * len(rows), steps * len(rows))
        .map(example, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(len(rows))
        .prefetch(2)
    )
    options = tf.data.Options()
    options.threading.private_threadpool_size = 2
    for views, mask in dataset.with_options(options).as_numpy_iterator():
        yield _rows(views, mask, branch)


def _numpy_batches(arrays, plan, start_step, steps, host) -> Iterator[Batch]:
    total = len(arrays.image)
    branch = np.asarray(plan.branch_of_view, np.int32)
    for step in range(start_step, steps):
        views, masks = [], []
        for place in host_rows(plan.batch_size, host):
            counter = step * plan.batch_size + place
            order = np.random.default_rng([plan.seed, counter // total]).permutation(total)
            index = order[counter % total]
            image, mask = geometry.augment_numpy(
                arrays.image[index],
                arrays.mask[index],
                np.random.default_rng([plan.seed, counter, 1]),
                flip=plan.config.flip,
                scale=plan.config.scale,
                crop=plan.config.crop,
            )
            views.append(np.stack([view.numpy(image) for view in plan.views]))
            masks.append(mask)
        yield _rows(np.stack(views), np.stack(masks), branch)


def _rows(views: np.ndarray, mask: np.ndarray, branch: np.ndarray) -> Batch:
    """[B, V, H, W] views and [B, H, W] masks -> B * V rows."""
    batch, count = views.shape[:2]
    return Batch(
        image=views.reshape(batch * count, *views.shape[2:], 1).astype(np.float32),
        mask=np.repeat(mask.astype(np.int32), count, axis=0),
        branch=np.tile(branch, batch),
        valid=np.ones(batch * count, bool),
    )


def chunks(count: int, size: int) -> Iterator[tuple[slice, int]]:
    """Slices of at most `size` that cover range(count), each with its length."""
    for start in range(0, count, size):
        stop = min(start + size, count)
        yield slice(start, stop), stop - start
