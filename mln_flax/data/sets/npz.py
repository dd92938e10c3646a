"""Slices in NumPy's archives, one per file: the layout of the Dual-Normalization code.

    DOMAIN/CASE_SLICE.npz           arrays `image` and `label` (or `mask`)
    train/DOMAIN/CASE_SLICE.npz     the same, with the parts given: train, val and test
    CASE_SLICE.npz                  a single domain, `npz`

`image` is [H, W], or has 1 to 4 equal channels first or last; `label` is [H, W] of zeros and one
other value. All slices of a case belong to one patient, also in several domains: the name without
its last `_` and number. A slice whose label is all zero is a normal image. Slices for validation
join those for training, of which the patients for validation are drawn.

The archives say nothing of the gray levels' range, so each file's values decide: whole numbers are
divided by the largest of 8, 10, 12, 14 or 16 bits, whichever is enough; floats in [0, 1] are kept,
else in [-1, 1] shifted, else in [0, 255] divided by 255. Anything else is refused.

Source of the layout: Z. Zhou et al., Generalizable Cross-modality Medical Image Segmentation via
Style Augmentation and Dual Normalization, CVPR 2022, and its public code. Its folders ending in
`_ss` and `_sd` hold views of the source, of which the views of this program would be made once
more: put the originals into a folder of their own.
"""

import re
import zipfile
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np

from mln_flax.config import DataConfig
from mln_flax.data import disk
from mln_flax.data.core import (
    Collection,
    Entry,
    Example,
    Index,
    LeftOut,
    Reading,
    Unusable,
    collections,
)
from mln_flax.data.prepare import inverted
from mln_flax.data.readers.header import depth
from mln_flax.data.sets import pairs
from mln_flax.types import UserError

DOMAIN = "npz"
LABEL = "calcification"  # what the labels show where data.label does not say it
PARTS = {"train": "train", "val": "train", "validation": "train", "test": "test"}
SLACK = 1e-3  # how far interpolation may lead floats out of their range (chosen)

_SLICE = re.compile(r"(.+)_\d+")
# What NumPy and zipfile raise for damaged and for hostile files.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


@collections.register(DOMAIN)
def npz() -> Collection:
    """The collection of slices in .npz files."""
    return Collection(index, read)


def index(data: DataConfig) -> Index:
    """The slices below a folder, each by its path without suffix.

    Raises:
      UserError: the folder is missing or holds no .npz file, or two domains have the same name.
    """
    expected = "expected a folder with DOMAIN/CASE_SLICE.npz files: set --config.data.dir=FOLDER"
    root = pairs.open_folder(data.dir, expected)
    entries: dict[str, Entry] = {}
    named = defaultdict(set)
    files, absent = disk.listing(root)
    left_out = list(absent)
    for path in files:
        entry = _entry(path, path.relative_to(root))
        if path.suffix.lower() != ".npz":
            left_out.append(LeftOut(str(path), "no .npz file; take it away"))
        elif entry.key in entries:
            left_out.append(LeftOut(str(path), "another file has this name; the first is used"))
        else:
            entries[entry.key] = entry
            named[entry.domain].add(_place(path.relative_to(root))[1])
    if not entries:
        raise UserError(
            f"data.dir={data.dir!r} holds no .npz file; {expected}{disk.and_absent(absent)}"
        )
    for domain, folders in named.items():
        if len(folders) > 1:
            raise UserError(
                f"data.dir={data.dir!r}: {len(folders)} folders would be one domain {domain!r}; "
                "name them by the letters A to Z, digits and _"
            )
    return Index(tuple(entries.values()), tuple(sorted(left_out)))


def _entry(path: Path, inside: Path) -> Entry:
    """The entry of a file; `inside` is its path below the data folder."""
    part, name = _place(inside)
    domain = re.sub(r"[^A-Za-z0-9_]+", "_", name)
    inside = Path(disk.spelled(str(inside)))
    match = _SLICE.fullmatch(inside.stem)
    patient = match[1] if match else inside.stem
    return Entry(inside.with_suffix("").as_posix(), patient, domain, part, (str(path),))


def _place(inside: Path) -> tuple[str, str]:
    """The part that the folders of a file tell, "" for none, and the name of its domain there."""
    folders = [disk.spelled(name) for name in inside.parts[:-1]]
    part = PARTS.get(folders[0].lower(), "") if folders else ""
    return part, next(iter(folders[1:] if part else folders), DOMAIN)


def read(entry: Entry, data: DataConfig) -> Reading:
    """The slice of an entry and its label.

    Raises:
      Unusable: the file cannot be read, or its arrays are not an image and its label.
    """
    arrays = _arrays(Path(entry.files[0]))
    image, rule = _gray(_plane(arrays["image"], "image"))
    mask = _plane(arrays["label"], "label")
    if mask.shape != image.shape:
        sizes = "{}x{} for an image of {}x{} pixels".format(*mask.shape, *image.shape)
        raise Unusable(f"its label has another size: {sizes}")
    if not np.isfinite(mask).all() or np.unique(mask[mask != 0]).size > 1:
        raise Unusable("its label has other values than zero and one more; make it two-valued")
    if mask.all():
        raise Unusable("its label is everywhere; the background must be zero")
    if inverted.is_inverted(mask, image):
        raise Unusable(inverted.REASON)
    example = Example(
        image=image,
        mask=(mask != 0).astype(np.uint8),
        image_id="",
        patient_id="",
        domain=entry.domain,
        laterality="",
        view_position="",
        spacing_mm=None,
        label_kind=(data.label or LABEL) if mask.any() else "none",
    )
    return Reading(example, rule)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays `image` and `label` of a file, of numbers; nothing in it is run."""
    arrays = {}
    try:
        with open(path, "rb") as file:  # np.load would leave a damaged file open
            archive = np.load(file, allow_pickle=False)
            names = getattr(archive, "files", ())  # a single array has none
            labels = [name for name in ("label", "mask") if name in names]
            if "image" in names and len(labels) == 1:
                arrays = {"image": archive["image"], "label": archive[labels[0]]}
    except _DAMAGE:
        raise Unusable("cannot be read: no whole .npz archive of numbers; save it again") from None
    if not arrays:
        raise Unusable(
            "the arrays of a slice are 'image', and 'label' or 'mask'; one is missing, or there "
            "are both labels"
        )
    if any(array.dtype.kind not in "buif" for array in arrays.values()):
        raise Unusable("its arrays hold no numbers; save image and label as numbers")
    return arrays


def _plane(array: np.ndarray, name: str) -> np.ndarray:
    """[H, W] of an array that may have up to 4 equal channels, last or first."""
    shape = "x".join(map(str, array.shape))
    if array.ndim == 3 and min(array.shape[-1], array.shape[0]) <= 4:
        channels = np.moveaxis(array, 0 if array.shape[-1] > 4 else -1, 0)
        if any((channel != channels[0]).any() for channel in channels[1:]):
            raise Unusable(f"its {name} has unequal channels; only gray images are known")
        array = channels[0] if len(channels) else array
    if array.ndim != 2 or not array.size:
        raise Unusable(f"its {name} has the shape {shape}; a slice is [H, W], one to a file")
    return array


def _gray(pixels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """An image in [0, 1], float32, by the rule that its type and range tell, and that rule."""
    if not np.isfinite(pixels).all():
        raise Unusable("its image has pixels that are no numbers (NaN or infinite); mend them")
    low, high = float(pixels.min()), float(pixels.max())
    if low == high:
        raise Unusable("its image has a single gray level; leave it away")
    start, end = _range(pixels.dtype, low, high)
    note = f"gray levels from {start:g} to {end:g} taken to 0 to 1"
    gray = (pixels.astype(np.float64) - start) / (end - start)
    return np.clip(gray, 0, 1).astype(np.float32), () if (start, end) == (0, 1) else (note,)


def _range(kind: np.dtype, low: float, high: float) -> tuple[float, float]:
    """The range of which an image's gray levels are a part: (black, white)."""
    if kind.kind in "ui" and low >= 0 and high <= 65535:
        return 0, 2 ** depth(int(high), 16) - 1
    if kind.kind == "f":
        for start, end in ((0, 1), (-1, 1), (0, 255)):
            if start - SLACK <= low and high <= end + SLACK:
                return start, end
    raise Unusable(
        f"gray levels from {low:g} to {high:g} as {kind}: allowed are floats in [0, 1], [-1, 1] "
        "or [0, 255], and whole numbers of at most 16 bits from 0"
    )
