"""What a data set is: examples with their masks, patients and millimeters, by part."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mln_flax.registry import Registry

LABEL_KINDS = ("calcification", "cluster", "none")
PARTS = ("train", "validation", "test")


class Example(NamedTuple):
    """One image or tile with its mask and what is known of it."""

    image: np.ndarray  # float32 [H, W] in [0, 1], after the source's own intensity rule
    mask: np.ndarray  # uint8 [H, W] in {0, 1}
    image_id: str
    patient_id: str
    domain: str
    laterality: str  # "L", "R" or ""
    view_position: str  # "CC", "MLO" or ""
    spacing_mm: tuple[float, float] | None  # (row, column)
    label_kind: str  # one of LABEL_KINDS
    to_image: np.ndarray | None = None  # 2x3: (column, row, 1) of a tile -> (column, row) of image


class LeftOut(NamedTuple):
    """Something of a data set that is not used, and why."""

    item: str
    reason: str


class Part(NamedTuple):
    """The examples of one domain and one part (train, validation or test)."""

    domain: str
    name: str
    examples: tuple[Example, ...]


class DataSet(NamedTuple):
    """A source domain's three parts, the targets' test parts, and what was left out.

    `left_out` lists what is not used. `notes` are lines for the user: counts of images, patients
    and tiles, and for each reason what was left out.
    """

    parts: tuple[Part, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    def part(self, domain: str, name: str) -> tuple[Example, ...]:
        """The examples of one part; raises KeyError where there is none."""
        for part in self.parts:
            if (part.domain, part.name) == (domain, name):
                return part.examples
        raise KeyError(f"{domain} has no part {name!r}")


# A loader takes the data settings (config.DataConfig) and returns a DataSet.
Loader = Callable[..., DataSet]
loaders = Registry("data set")
