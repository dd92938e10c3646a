"""What a data set is: examples with their masks, patients and millimeters, by part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mln_flax.registry import Registry

LABEL_KINDS = ("calcification", "cluster", "none")
PARTS = ("train", "validation", "test")
PROCESSING = "_processing"  # ends the domain of images for processing: their gray levels are raw


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
    # uint16, bit i where abnormality i is; of a tile: its window of the whole image, not resampled.
    objects: np.ndarray | None = None
    image_shape: tuple[int, int] | None = None  # of a tile: (height, width) of the whole image


class LeftOut(NamedTuple):
    """Something of a data set that is not used, and why."""

    item: str
    reason: str


class Part(NamedTuple):
    """The examples of one domain and one part (train, validation or test)."""

    domain: str
    name: str
    examples: Sequence[Example]  # in memory, or read one by one from prepared data
    patient_ids: frozenset[str]
    label_pixels: tuple[int, ...]  # of each example

    @classmethod
    def of(cls, domain: str, name: str, examples: Sequence[Example]) -> "Part":
        """The part of examples that are in memory."""
        patients = frozenset(example.patient_id for example in examples)
        labeled = tuple(int(np.count_nonzero(example.mask)) for example in examples)
        return cls(domain, name, examples, patients, labeled)


class DataSet(NamedTuple):
    """A source domain's three parts, the targets' test parts, and what was left out.

    `left_out` lists what is not used. `notes` are lines for the user: counts of images, patients
    and tiles, and for each reason what was left out. `content` is a hash of what was read, the
    same wherever it lies; "" where the settings draw everything.
    """

    parts: tuple[Part, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    content: str = ""

    def part(self, domain: str, name: str) -> Part:
        """One part; raises KeyError where there is none."""
        for part in self.parts:
            if (part.domain, part.name) == (domain, name):
                return part
        raise KeyError(f"{domain} has no part {name!r}")

    def examples(self, domain: str, name: str) -> Sequence[Example]:
        """The examples of one part; raises KeyError where there is none."""
        return self.part(domain, name).examples


# Name -> a function that draws a data set: of the data settings (config.DataConfig), a DataSet.
loaders = Registry("data set")


class Entry(NamedTuple):
    """One image of a collection, found but not yet read.

    It is plain data, so that it can be sent to another process. `key` and `patient` are the
    collection's own words and may tell who somebody is: they are never written anywhere
    (`data.prepare.identity` makes what may be shown).
    """

    key: str  # the image's name within the collection, however its files are laid out
    patient: str
    domain: str
    part: str  # "train" or "test" where the collection says so, else ""
    files: tuple[str, ...]  # paths: the image, then its masks or notes
    details: Any = None  # whatever else the collection's `read` needs
    repaired: tuple[str, ...] = ()  # faults mended on the way, one line each, naming nobody


class Index(NamedTuple):
    """All images of a collection, and what of it cannot be used."""

    entries: tuple[Entry, ...]  # in an order that does not depend on the machine
    left_out: tuple[LeftOut, ...] = ()  # `item` is the path of a file
    secrets: frozenset[str] = frozenset()  # ids and names of patients: hidden wherever they occur
    # Left out above, since they have other findings, but known to show no calcification that was
    # marked: false clusters may be counted on them, nothing is trained on them.
    other_findings: tuple[Entry, ...] = ()


class Reading(NamedTuple):
    """A whole image as read from its files; its `image_id` and `patient_id` are set later."""

    example: Example
    repaired: tuple[str, ...] = ()  # faults mended while reading


class Unusable(Exception):
    """Why a file or an image cannot be used, and what to do; it names nobody.

    `file` is the path of what is at fault where that is not the entry's first file.
    """

    def __init__(self, reason: str, file: str = ""):
        super().__init__(reason)
        self.file = file


@dataclass(frozen=True)
class Collection:
    """A data set of files, as two functions; `read` is called in other processes.

    `index` raises UserError for a folder that is not this collection's. `read` raises Unusable.
    """

    index: Callable[[Any], Index]  # of the data settings (config.DataConfig)
    read: Callable[[Entry, Any], Reading]


# Name -> a function without arguments that returns the Collection.
collections = Registry("data set")
