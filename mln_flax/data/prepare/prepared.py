"""Prepared tiles: stored once as ArrayRecord by a TFDS builder, and read by random access.

Reading needs no TensorFlow.
"""

import contextlib
import errno
import functools
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mln_flax.data.core import Example
from mln_flax.data.prepare import tiles
from mln_flax.types import UserError

BUILDER = "mammogram_tiles"
VERSION = "1.0.0"
TILES_PER_SHARD = 64
BITS = 65535  # stored gray levels above black


# The fields of a stored tile by name, and one shard of a split: a function that goes through them.
Fields = dict[str, Any]
Shard = Callable[[], Iterator[Fields]]


def split_name(domain: str, part: str) -> str:
    """The TFDS split that holds one part of a domain."""
    return f"{domain}_{part}"


def write(folder: Path, size: int, shards: Mapping[str, Sequence[Shard]]) -> None:
    """Stores tiles below `folder`: there in full or not at all.

    Args:
      folder: gets `mammogram_tiles/1.0.0` in the layout of TFDS.
      size: height and width of a tile, pixels.
      shards: for each split the shards in their order.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    scratch = folder / BUILDER / "downloads"  # TFDS wants a place for them; nothing comes
    builder = _builder_class()(
        size=size, shards=shards, data_dir=str(folder), file_format="array_record"
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it talks of downloads; there are none
            builder.download_and_prepare(download_dir=str(scratch))
    except RuntimeError as error:  # what ArrayRecord makes of the system's complaints
        for number in (errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG):
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number)) from None
        raise
    shutil.rmtree(scratch)


@functools.cache  # TFDS knows a builder by its name, and takes each name once
def _builder_class() -> Any:
    import tensorflow_datasets as tfds

    class MammogramTiles(tfds.core.ShardBasedBuilder):
        """Tiles of mammograms with their masks, patients and millimeters."""

        VERSION = tfds.core.Version(VERSION)
        name = BUILDER
        pkg_dir_path = Path(__file__).parent

        def __init__(self, *, size: int, shards: Mapping[str, Sequence[Shard]], **kwargs: Any):
            self._size, self._shards = size, shards
            super().__init__(**kwargs)

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self, description=self.__doc__, features=_features(self._size)
            )

        def _shard_iterators_per_split(self, dl_manager: Any) -> Any:
            def serialized(shard: Shard) -> Any:
                return lambda: enumerate(shard())

            return {name: list(map(serialized, shards)) for name, shards in self._shards.items()}

        def _example_writer(self) -> Any:
            return _same_bytes(super()._example_writer())

    return MammogramTiles


def _same_bytes(writer: Any) -> Any:
    """The writer, made to write the same bytes for the same examples.

    An example's fields are a map, which protocol buffers write in any order unless told not to.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    def write(path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        ordered = (
            (key, tf_example_pb2.Example.FromString(text).SerializeToString(deterministic=True))
            for key, text in examples
        )
        return type(writer).write(writer, path, ordered)

    writer.write = write
    return writer


def _features(size: int) -> Any:
    import tensorflow_datasets as tfds

    def tensor(dtype: Any, *shape: int | None, encoding: str = "none") -> Any:
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=encoding)

    return tfds.features.FeaturesDict(
        {
            "image": tensor(np.uint16, size, size, encoding="zlib"),
            "mask": tensor(np.uint8, size, size, encoding="zlib"),
            # Of the whole image's pixels in the tile's window: the smallest box with an object.
            "objects": tensor(np.uint16, None, None, encoding="zlib"),
            "objects_corner": tensor(np.int32, 2),
            "image_id": tfds.features.Text(),
            "patient_id": tfds.features.Text(),
            "domain": tfds.features.Text(),
            "part": tfds.features.Text(),
            "laterality": tfds.features.Text(),
            "view_position": tfds.features.Text(),
            "label_kind": tfds.features.Text(),
            # As bytes: TensorFlow's own numbers have 32 bits.
            "spacing_mm": tensor(np.float64, 2, encoding="bytes"),  # NaN: not known
            "to_image": tensor(np.float64, 2, 3, encoding="bytes"),
            "image_shape": tensor(np.int32, 2),
            "breast": tensor(np.float64, encoding="bytes"),
        }
    )


def fields_of(example: Example, part: str, breast: float) -> Fields:
    """A tile as it is stored.

    Args:
      example: the tile.
      part: "train", "validation" or "test".
      breast: share of the tile that is breast.
    """
    objects, corner = _box(example.objects)
    return {
        "image": to_bits(example.image),
        "mask": example.mask,
        "objects": objects,
        "objects_corner": corner,
        "image_id": example.image_id,
        "patient_id": example.patient_id,
        "domain": example.domain,
        "part": part,
        "laterality": example.laterality,
        "view_position": example.view_position,
        "label_kind": example.label_kind,
        "spacing_mm": np.array(example.spacing_mm or (np.nan, np.nan)),
        "to_image": example.to_image,
        "image_shape": np.array(example.image_shape, np.int32),
        "breast": np.float64(breast),
    }


def to_bits(image: np.ndarray) -> np.ndarray:
    """An image in [0, 1] as 16-bit gray levels."""
    return np.round(image * BITS).astype(np.uint16)


def from_bits(bits: np.ndarray) -> np.ndarray:
    """The image float32 in [0, 1] of 16-bit gray levels."""
    return bits.astype(np.float32) / BITS


def _box(objects: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The smallest box of a window that holds every object, and its first row and column."""
    if objects is None or not objects.any():
        return np.zeros((0, 0), np.uint16), np.zeros(2, np.int32)
    rows, columns = (np.flatnonzero(objects.any(axis=axis)) for axis in (1, 0))
    top, left = rows[0], columns[0]
    box = objects[top : rows[-1] + 1, left : columns[-1] + 1]
    return np.ascontiguousarray(box), np.array([top, left], np.int32)


class PreparedTiles(Sequence[Example]):
    """Stored tiles, each read when it is asked for."""

    def __init__(self, folder: Path, sources: Mapping[str, Any], places: Sequence[tuple[str, int]]):
        self._folder, self._sources, self._places = folder, sources, tuple(places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        split, number = self._places[index]
        try:
            return _example(self._sources[split][number])
        except Exception as error:  # of ArrayRecord, zlib, protocol buffers ...
            raise _damaged(self._folder, error) from None


def read(folder: Path, places: Sequence[tuple[str, int]]) -> PreparedTiles:
    """The stored tiles at (split, number), in this order.

    Raises:
      UserError: the stored tiles are missing or damaged. Here if a file of them is missing or cut
        short; when a tile is read, if it is damaged within.
    """
    import tensorflow_datasets as tfds

    longest: dict[str, int] = {}
    for split, number in places:
        longest[split] = max(number, longest.get(split, 0))
    try:
        builder = tfds.builder_from_directory(folder / BUILDER / VERSION)
        sources = {split: builder.as_data_source(split=split) for split in longest}
        for split, source in sources.items():
            _check_shards(source, builder.info.splits[split].shard_lengths)
    except Exception as error:  # TFDS raises all sorts of things for files that are not its own
        raise _damaged(folder, error) from None
    short = [split for split, number in longest.items() if number >= len(sources[split])]
    if short:
        raise UserError(
            f"{folder / BUILDER}: {short[0]} lacks tiles; remove {folder} and prepare again"
        )
    return PreparedTiles(folder, sources, places)


def _check_shards(source: Any, lengths: Sequence[int]) -> None:
    """Raises where the first or the last tile of a shard cannot be found."""
    first = 0
    for length in lengths:
        for number in {first, first + length - 1}:
            if not source.data_source[number]:  # bytes, not decoded; none where a file is cut short
                raise EOFError
        first += length


def _damaged(folder: Path, error: Exception) -> UserError:
    return UserError(
        f"{folder / BUILDER}: the prepared tiles cannot be read ({type(error).__name__}); remove "
        f"{folder} and prepare again"
    )


def _example(fields: Fields) -> Example:
    spacing = None if np.isnan(fields["spacing_mm"]).any() else tuple(fields["spacing_mm"].tolist())
    text = {
        name: fields[name].decode()
        for name in (
            "image_id",
            "patient_id",
            "domain",
            "laterality",
            "view_position",
            "label_kind",
        )
    }
    return Example(
        image=from_bits(fields["image"]),
        mask=fields["mask"],
        spacing_mm=spacing,
        to_image=fields["to_image"],
        objects=_window(fields),
        image_shape=tuple(fields["image_shape"].tolist()),
        **text,
    )


def _window(fields: Fields) -> np.ndarray | None:
    """The objects over the tile's whole window; None where there are none."""
    box, (top, left) = fields["objects"], fields["objects_corner"]
    if not box.size:
        return None
    window = np.zeros(tiles.window_shape(fields["to_image"], fields["mask"].shape), np.uint16)
    window[top : top + box.shape[0], left : left + box.shape[1]] = box
    return window
