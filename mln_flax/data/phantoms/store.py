"""Phantoms that were drawn before, in the user's cache: one file of arrays for each block.

A file is found by all that its phantoms depend on: which they are, the text of the drawing code,
the libraries and the machine that they were computed with. It holds phantoms alone, and no pickle.
"""

import contextlib
import functools
import hashlib
import importlib
import io
import os
import pathlib
import platform
import sys
from typing import Any, NamedTuple

import numpy as np
import scipy

from mln_flax import files
from mln_flax.data.core import Example
from mln_flax.data.prepare import prepared
from mln_flax.types import UserError

PLACE = "MLN_FLAX_PHANTOM_CACHE"  # an environment variable: another folder, or 0 for none
MOST_BYTES = 2 * 10**9  # the files used longest ago are removed beyond
_DRAWING = tuple(
    importlib.import_module(f"mln_flax.data.phantoms.{name}")
    for name in (
        *("anatomy", "any_scanner", "artifacts", "benign", "boxes", "clusters", "coverage"),
        *("exposure", "film_marks", "folds", "framing", "lesions", "morphology", "native"),
        *("noise", "scanners", "scene"),
    )
)
_WORDS = "image_id patient_id domain laterality view_position label_kind".split()  # of an Example


class Block(NamedTuple):
    """The patients `first` to `stop` of a seed, each shown in every domain."""

    seed: int
    domains: tuple[str, ...]
    first: int
    stop: int
    height: int
    width: int
    spacing_mm: float
    whole: bool = False  # whole views, of this size: with 16-bit gray levels, which are kept so
    windows: int = 0  # of a whole view, cut anywhere; 0: one window, at the lesion

    @property
    def phantoms(self) -> int:
        """How many these are."""
        return (self.stop - self.first) * len(self.domains) * max(self.windows, 1)

    @property
    def pixels(self) -> int:
        """Those of all phantoms."""
        return self.phantoms * self.height * self.width

    @property
    def most_bytes(self) -> int:
        """A file of them is smaller."""
        return (3 if self.whole else 5) * self.pixels


def folder() -> pathlib.Path | None:
    """Where phantoms are kept, or None where they are not to be: what is drawn then has no key.

    Raises:
      UserError: the environment variable is neither 0 nor an absolute path.
    """
    place = os.environ.get(PLACE)
    if place and place != "0" and not os.path.isabs(place):
        raise UserError(f"{PLACE}={place}: allowed are an absolute path, and 0 to keep no phantoms")
    if place == "0" or not SOURCES or not is_as_imported():
        return None
    if place:
        return pathlib.Path(place)
    cache = files.user_cache()
    return None if cache is None else cache / "phantoms"


def is_kept(folder: pathlib.Path, block: Block) -> bool:
    """Whether there is a file of the block's phantoms, which counts as used now."""
    path = folder / _name(_key(block))
    with contextlib.suppress(OSError):
        os.utime(path)
    return path.exists()


def read(folder: pathlib.Path, block: Block) -> list[Example] | None:
    """The block's phantoms, patient by patient, or None where they have to be drawn."""
    key = _key(block)
    path = folder / _name(key)
    try:
        file = open(path, "rb")
    except OSError:  # not there, or not ours to read
        return None
    with file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                examples = _examples(block, key, arrays)  # each array is checked against its CRC
        except Exception as error:  # zipfile and numpy raise many kinds, by where the damage is
            print(f"phantoms: {path} is damaged ({error}); they are drawn anew", flush=True)
            return None
    with contextlib.suppress(OSError):  # a cache that can be read only
        os.utime(path)
    return examples


def write(folder: pathlib.Path, block: Block, examples: list[Example]) -> None:
    """Keeps the phantoms of a block, whole or not at all; raises OSError where that cannot be."""
    key = _key(block)
    images = np.stack([example.image for example in examples])
    arrays = {
        "key": np.array(key),
        "image": prepared.to_bits(images) if block.whole else images,
        "mask": np.packbits(np.stack([example.mask for example in examples])),
        **{word: np.array([getattr(example, word) for example in examples]) for word in _WORDS},
    }
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # noise is not worth compressing
    folder.mkdir(parents=True, exist_ok=True)
    files.write_bytes(folder / _name(key), content.getvalue())


def trim(folder: pathlib.Path, most_bytes: int = MOST_BYTES) -> None:
    """Removes the files that were used longest ago, and what kills left, until the rest fits."""
    kept = []
    for path in folder.glob("*.npz*"):  # with the temporary ones of killed writers
        try:
            facts = path.stat()
        except OSError:  # another process removed it
            continue
        kept.append((facts.st_mtime_ns, facts.st_size, path))
    total = 0
    for _, size, path in sorted(kept, reverse=True):
        total += size
        if total > most_bytes:
            with contextlib.suppress(OSError):  # another process reads it, where that is a lock
                path.unlink(missing_ok=True)


def is_as_imported() -> bool:
    """Whether the drawing code has changed neither in memory nor on the disk since its import.

    A notebook may have set a constant or reloaded a file: then neither the cache nor another
    process knows what this one draws.
    """
    return (_sources(), _values()) == (SOURCES, _VALUES)


def _examples(block: Block, key: str, arrays: Any) -> list[Example]:
    if str(arrays["key"]) != key:
        raise ValueError("it holds other phantoms")
    shape = block.phantoms, block.height, block.width
    images = arrays["image"]
    if images.shape != shape or images.dtype != (np.uint16 if block.whole else np.float32):
        raise ValueError(f"images {images.shape} {images.dtype}")
    images = prepared.from_bits(images) if block.whole else images
    masks = np.unpackbits(arrays["mask"], count=images.size).reshape(shape)
    words = [arrays[word].tolist() for word in _WORDS]
    return [
        Example(
            image=image,
            mask=mask,
            spacing_mm=(block.spacing_mm, block.spacing_mm),
            **dict(zip(_WORDS, values, strict=True)),
        )
        for image, mask, *values in zip(images, masks, *words, strict=True)
    ]


def _key(block: Block) -> str:
    return repr((block, SOURCES, _machine()))


def _name(key: str) -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.npz"


def _sources() -> str:
    """A hash of the files of this package; "" where Python has it without them."""
    digest = hashlib.sha256()
    paths = sorted(pathlib.Path(__file__).parent.glob("*.py"))
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest() if paths else ""


@functools.cache
def _machine() -> tuple[Any, ...]:
    """What else the last digit of a sine depends on."""
    simd = (np.show_config(mode="dicts") or {}).get("SIMD Extensions", {})
    system = sys.platform, platform.machine(), platform.libc_ver()
    return np.__version__, scipy.__version__, system, tuple(simd.get("found", ()))


def _values() -> list[dict[str, str]]:
    """What the names of the drawing code stand for."""
    return [
        {name: repr(value) for name, value in vars(module).items() if not name.startswith("__")}
        for module in _DRAWING
    ]


# Taken now, while the files are what Python has read.
SOURCES, _VALUES = _sources(), _values()
