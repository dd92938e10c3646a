"""What is known of a mammogram without decoding its pixels, and how its file is opened."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mln_flax.data.core import Unusable

MAX_SIDE = 16_384  # pixels; a 24 x 30 cm film in 25-micron pixels has 12,000. Chosen.
ONE_LEVEL = "an image of one gray level: nothing is seen in it; fetch it again or take it away"


class Header(NamedTuple):
    """What a file says of its image; only `patient` and `secrets` may tell who somebody is."""

    shape: tuple[int, int]  # (height, width), pixels
    frames: int = 1
    spacing_mm: tuple[float, float] | None = None  # (row, column)
    laterality: str = ""  # "L", "R" or ""
    view_position: str = ""  # "CC", "MLO", another standard code, or ""
    for_processing: bool = False
    patient: str = ""  # the file's PatientID; never written anywhere
    secrets: frozenset[str] = frozenset()  # names, ids and dates; never written anywhere
    series_uid: str = ""
    series_description: str = ""
    instance_number: int | None = None
    modality: str = ""


@contextmanager
def opened(path: str | Path, fault: str) -> Iterator[None]:
    """A block that reads a file: libraries are silent in it, and what they raise is Unusable.

    What they say may hold a patient's name, so none of it gets out.

    Args:
      path: the file.
      fault: what is said of a file that cannot be understood, and what to do.

    Raises:
      Unusable: the file is missing or empty, the system refuses it, or a library gives up on it.
    """
    silenced = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if os.stat(path).st_size == 0:
                raise Unusable("an empty file; fetch it again")
            yield
    except (Unusable, MemoryError):
        raise
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the system
            raise Unusable(fault) from None
        raise Unusable(f"cannot be opened: {os.strerror(error.errno).lower()}") from None
    except Exception:  # decoders raise whatever they like at damaged data
        raise Unusable(fault) from None
    finally:
        logging.disable(silenced)


def check(shape: tuple[int, int], frames: int, frame: int = 0) -> None:
    """Raises Unusable for a size that no mammogram has, or a frame that is not there."""
    if not all(0 < side <= MAX_SIDE for side in shape):
        raise Unusable(
            f"says it has {shape[0]}x{shape[1]} pixels; allowed are 1 to {MAX_SIDE} a side"
        )
    if not 0 <= frame < frames:
        known = f"frames 0 to {frames - 1}" if frames > 1 else "frame 0 alone"
        raise Unusable(f"frame {frame} was asked for; it has {known}")


def one_channel(pixels: np.ndarray) -> np.ndarray:
    """The gray pixels [H, W] of three equal colors [H, W, 3]; raises Unusable for real colors."""
    red, green, blue = (pixels[..., channel] for channel in range(3))
    # Lossy compression may part equal colors by a level or two.
    slack = 2 if pixels.dtype == np.uint8 else 0
    for other in (red, blue):
        difference = np.maximum(green, other) - np.minimum(green, other)
        if difference.max() > slack:
            raise Unusable("has colors; a mammogram is gray: store it with one channel")
    return np.ascontiguousarray(green)


def depth(largest: int, bits: int) -> int:
    """The bits (8, 10, 12, 14 or `bits`) that hold values up to `largest`."""
    return next((b for b in (8, 10, 12, 14) if b < bits and largest < 2**b), bits)
