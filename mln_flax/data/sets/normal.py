"""A folder of images without calcifications: false clusters are counted on them.

All images below the folder, of any format that the reader knows. Nobody has drawn masks: whoever
gives the folder vouches that no calcification is in it, or takes every mark for a false one.

The patient of a DICOM file is its header's, of another file its stem: then every image is its own
patient.
"""

from pathlib import Path

import numpy as np

from mln_flax.config import DataConfig
from mln_flax.data.core import (
    PROCESSING,
    Collection,
    Entry,
    Example,
    Index,
    LeftOut,
    Reading,
    Unusable,
    collections,
)
from mln_flax.data.readers import reader
from mln_flax.data.sets import pairs

DOMAIN = "normal"


@collections.register(DOMAIN)
def normal() -> Collection:
    """The collection of a folder of images without calcifications."""
    return Collection(index, read)


def index(data: DataConfig) -> Index:
    """Every single image below the folder, by the stem of its path; no volumes.

    Raises:
      UserError: the folder is missing or holds no image.
    """
    expected = "expected a folder of images: set --config.data.dir=FOLDER"
    images = pairs.images(pairs.open_folder(data.dir, expected))
    left_out = [*images.others, *images.absent]
    entries: list[Entry] = []
    secrets: set[str] = set()
    for stem, paths in images.by_stem.items():
        for path in paths:
            try:
                header = reader.header(path)
                secrets |= {header.patient, *header.secrets}
                if header.frames > 1:
                    raise Unusable(f"has {header.frames} frames; single images are counted")
                if len(paths) > 1:
                    raise Unusable("several images have this stem; keep one or rename them")
            except Unusable as reason:
                left_out.append(LeftOut(str(path), str(reason)))
                continue
            domain = DOMAIN + PROCESSING * header.for_processing
            entries.append(Entry(stem, header.patient or stem, domain, "", (str(path),)))
    return Index(tuple(entries), tuple(sorted(left_out)), frozenset(secrets - {""}))


def read(entry: Entry, data: DataConfig) -> Reading:
    """The image of an entry, whole, with an empty mask.

    Raises:
      Unusable: it cannot be read.
    """
    mammogram = reader.read(Path(entry.files[0]))
    header = mammogram.header
    example = Example(
        image=mammogram.image,
        mask=np.zeros(mammogram.image.shape, np.uint8),
        image_id="",
        patient_id="",
        domain=entry.domain,
        laterality=header.laterality,
        view_position=header.view_position,
        spacing_mm=header.spacing_mm,
        label_kind="none",
    )
    return Reading(example, mammogram.repaired)
