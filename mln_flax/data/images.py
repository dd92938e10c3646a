"""The images of a part as arrays of one size, read by their number and kept where there is room."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mln_flax.data.core import Example, Part
from mln_flax.data.prepare import prepared

Read = Callable[[int], tuple[np.ndarray, np.ndarray]]


class Images(NamedTuple):
    """The images of a part, all of one size, read by their number."""

    shape: tuple[int, int]
    labeled: np.ndarray  # bool [N]: whether there is a label in image i
    read: Read  # float32 in [0, 1] and uint8 {0, 1}, [H, W] each

    @property
    def total(self) -> int:
        """The number N of images."""
        return len(self.labeled)

    def stack(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Image and mask [n, H, W] of several."""
        both = [self.read(i) for i in range(*rows.indices(self.total))]
        return np.stack([image for image, _ in both]), np.stack([mask for _, mask in both])


def images_of(part: Part, cache_gb: float = 0.0) -> Images:
    """The images of a part: those in memory as they are, stored ones kept once read.

    Args:
      part: its examples must be of one size.
      cache_gb: how much of what is read from a disk is kept, as 16-bit images and their masks.
    """
    examples = part.examples
    read = _from_memory(examples) if isinstance(examples, tuple) else _kept(examples, cache_gb)
    labeled = np.array([pixels > 0 for pixels in part.label_pixels])
    return Images(examples[0].image.shape, labeled, read)


def from_arrays(image: np.ndarray, mask: np.ndarray) -> Images:
    """Images of arrays: float32 [N, H, W] in [0, 1] and uint8 [N, H, W] in {0, 1}."""
    labeled = np.asarray(mask.any(axis=(1, 2)))
    return Images(image.shape[1:], labeled, lambda i: (image[i], mask[i]))


def without_labels(images: Images) -> Images:
    """The same images with empty masks: who gets them cannot see a label."""

    def read(i: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = images.read(i)
        return image, np.zeros_like(mask)

    return Images(images.shape, np.zeros(images.total, bool), read)


def chunks(count: int, size: int) -> Iterator[tuple[slice, int]]:
    """Slices of at most `size` that cover range(count), each with its length."""
    for start in range(0, count, size):
        stop = min(start + size, count)
        yield slice(start, stop), stop - start


def _from_memory(examples: Sequence[Example]) -> Read:
    return lambda i: (examples[i].image, examples[i].mask)


def _kept(examples: Sequence[Example], cache_gb: float) -> Read:
    kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    room = cache_gb * 1e9

    def read(i: int) -> tuple[np.ndarray, np.ndarray]:
        if i in kept:
            image, mask = kept[i]
            return image.astype(np.float32) / prepared.BITS, mask
        example = examples[i]
        # Stored images have 16 bits, so nothing is lost on the way there and back.
        image = prepared.to_bits(example.image)
        if (len(kept) + 1) * (image.nbytes + example.mask.nbytes) <= room:
            kept[i] = (image, example.mask)
        return example.image, example.mask

    return read
