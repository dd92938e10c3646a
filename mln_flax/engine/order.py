"""Which example stands at which place of a run's batches: integers, decided before any image is."""

from typing import Any

from mln_flax.types import UserError

PARTS_OF_SHARE = 1000  # a share is counted in thousandths, exactly, however far a run goes


def host_rows(batch_size: int, host: tuple[int, int], setting: str = "train.batch_size") -> range:
    """The places of a batch that belong to one host; `setting` is the path of the batch's size.

    Raises:
      UserError: the hosts cannot have equally many, as the devices' common step needs.
    """
    index, count = host
    if batch_size % count:
        raise UserError(
            f"--config.{setting}={batch_size}: must be a multiple of the {count} processes"
        )
    return range(batch_size * index // count, batch_size * (index + 1) // count)


def stream_of(counter: Any, foreground: float) -> tuple[Any, Any]:
    """Whether example `counter` is a labeled one, and its number among its kind.

    Integers only, so that it holds for numpy and TensorFlow alike, at any counter.
    """
    share = round(foreground * PARTS_OF_SHARE)
    before = counter * share // PARTS_OF_SHARE
    is_labeled = (counter + 1) * share // PARTS_OF_SHARE > before
    return is_labeled, (before, counter - before)
