"""Masks for a user's own images, decided on the whole image."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mln_flax import files
from mln_flax.data import disk
from mln_flax.data.core import Example, Unusable
from mln_flax.data.prepare import tiles
from mln_flax.data.readers import reader
from mln_flax.data.readers.reader import Mammogram
from mln_flax.data.sets import pairs
from mln_flax.engine import evaluate
from mln_flax.engine.build import Run, build
from mln_flax.metrics.decision import OperatingPoint, decide
from mln_flax.results import records
from mln_flax.types import Record, UserError

LEAST_SIDE = 8  # pixels of an image: no calcification can be told from its surround in fewer
KEPT_BYTES = 2 * 10**9  # of images that are decoded already; what is beyond is decoded again


class Picture(NamedTuple):
    """One image to segment: a file, or one frame of it, and the name of its mask."""

    file: Path
    frame: int
    mask: str


def predict(run: Run, workdir: Path, paths: list[Path], output: str) -> list[Record]:
    """Writes a mask per image and predictions.jsonl into the output folder; returns its lines.

    Raises:
      UserError: no paths, no output folder, an image that cannot be read, two of one name,
        or a mask that would overwrite an image; nothing is written then.
    """
    if not paths:
        raise UserError("--mode=predict: give image files or folders after the flags")
    if not output:
        raise UserError("--output is missing: the folder for the masks")
    run = for_one_image(run)
    fitted = evaluate.load_model(run, workdir)
    pictures, read = find(paths), kept_reader()
    for picture in pictures:
        read(picture)  # all of them, before anything is written
    folder = Path(output)
    inputs = {picture.file.resolve() for picture in pictures}
    for name in (*(picture.mask for picture in pictures), "predictions.jsonl"):
        if (folder / name).resolve() in inputs:
            raise UserError(f"--output={output}: {name} is one of the images; take another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={output}: {error.strerror}") from None
    common = common_looks(run, fitted, pictures, read)
    lines = []
    for number, picture in enumerate(pictures, start=1):
        mammogram = read(picture)
        for note in mammogram.repaired:
            print(f"predict: {picture.file.name}: {note}", flush=True)
        mask, facts = segment(run, fitted, mammogram.image, common.get(_group(run, picture)))
        _save_png(folder / picture.mask, mask)
        lines.append(
            {
                "image": picture.file.name,
                "frame": picture.frame,
                "mask": picture.mask,
                "label_pixels": int(mask.sum()),
                "tiles": list(facts),
                "notes": list(mammogram.repaired),
            }
        )
        print(f"predict: {number}/{len(pictures)} {folder / picture.mask}", flush=True)
    records.write_whole(folder / "predictions.jsonl", lines)
    return lines


def for_one_image(run: Run) -> Run:
    """The run with passes of as many images as one image has tiles."""
    config, tiling = run.config, run.config.data.tiles
    count = max(tiling.rows * tiling.columns, 1)
    evaluate_config = dataclasses.replace(config.evaluate, batch_size=count)
    return build(dataclasses.replace(config, evaluate=evaluate_config))


def kept_reader() -> Callable[[Picture], Mammogram]:
    """`read(picture)`, the image as preparation reads it; decoded once as long as there is room."""
    kept: dict[Picture, Mammogram] = {}
    room = KEPT_BYTES

    def read(picture: Picture) -> Mammogram:
        nonlocal room
        if picture in kept:
            return kept[picture]
        mammogram = read_mammogram(picture.file, picture.frame)
        if mammogram.image.nbytes <= room:
            kept[picture] = mammogram
            room -= mammogram.image.nbytes
        return mammogram

    return read


def common_looks(
    run: Run,
    fitted: Any,
    pictures: Sequence[Picture],
    read: Callable[[Picture], Mammogram],
) -> dict[str, np.ndarray]:
    """The sum of what the method looks at over all tiles that share a choice; empty where none do.

    Here a case is one file with all its frames and tiles, and a domain is all that is asked for.
    """
    look = run.method.look
    common: dict[str, np.ndarray] = {}
    if look is None or run.method.level == "image":
        return common
    for picture in pictures:
        tiled, _ = cut(run, read(picture).image)
        group = _group(run, picture)
        common[group] = common.get(group, 0) + look(fitted, tiled).sum(axis=0)
    return common


def _group(run: Run, picture: Picture) -> str:
    return str(picture.file) if run.method.level == "case" else ""


def segment(
    run: Run, fitted: Any, image: np.ndarray, common: np.ndarray | None = None
) -> tuple[np.ndarray, Sequence[Record]]:
    """The mask uint8 [H, W] of an image [H, W] in [0, 1], and what is said of each tile.

    The image is cut as the training images were; one that was trained on whole goes in whole.
    Probabilities are put together, and what is marked is decided once, on the whole image.
    `common` is what the method looks at, for all tiles instead of their own.
    """
    tiled, affines = cut(run, image)
    shared = () if common is None else (np.tile(common, (len(tiled), 1)),)
    answers = run.method.answer(fitted, tiled, *shared)
    probability = [answers.maps[name][i] for i, name in enumerate(answers.chosen)]
    point = answers.points[answers.chosen[0]]
    if not affines:
        return decide(probability[0], point).astype(np.uint8), answers.facts
    whole = tiles.put_back(probability, affines, image.shape)
    return decide(whole, in_image(point, affines[0])).astype(np.uint8), answers.facts


def in_image(point: OperatingPoint, affine: np.ndarray) -> OperatingPoint:
    """An operating point of tiles in the pixels of their image: an object has as large an area."""
    area = abs(affine[0, 0] * affine[1, 1])  # of a tile's pixel, in pixels of the image
    return point._replace(min_pixels=max(1, round(float(point.min_pixels) * area)))


def cut(run: Run, image: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The tiles [N, h, w] of an image and their ways back; the image itself and none if not cut."""
    config = run.config.data
    if not config.tiles.rows:
        return image[None], []
    whole = Example(image, np.zeros(image.shape, np.uint8), "image", "", "", "", "", None, "none")
    tiled = tiles.cut(whole, config.tiles.rows, config.tiles.columns, config.size)
    affines = [tile.to_image for tile in tiled if tile.to_image is not None]
    return np.stack([tile.image for tile in tiled]), affines


def find(paths: list[Path]) -> list[Picture]:
    """The images among the paths and in the folders among them, each frame of a volume by itself.

    Raises:
      UserError: a path does not exist, a folder has no image, two masks would have one name.
    """
    images: list[Path] = []
    for path in paths:
        if path.is_dir():
            listing = disk.listing(path, below=False)
            inside = [file for file in listing.files if reader.is_image(file)]
            for absent in (item for item in listing.absent if reader.may_be_image(item.item)):
                print(f"predict: left out {absent.item}: {absent.reason}", flush=True)
            if not inside:
                known = ", ".join(sorted(reader.SUFFIXES))
                raise UserError(
                    f"{path}: no images in this folder ({known}, DICOM without a suffix)"
                    f"{disk.and_absent(listing.absent)}"
                )
            images += inside
        elif path.exists():
            images.append(path)
        else:
            raise UserError(f"{path}: no such file or folder")
    pictures = [picture for file in images for picture in _pictures(file)]
    masks = Counter(picture.mask for picture in pictures)
    for picture in pictures:
        if masks[picture.mask] > 1:
            raise UserError(
                f"{picture.file}: the mask of another image is also called {picture.mask}: they "
                "would overwrite each other"
            )
    return pictures


def _pictures(file: Path) -> Iterator[Picture]:
    try:
        frames = reader.header(file).frames
    except Unusable as reason:
        raise UserError(f"{file}: {reason}") from None
    for frame in range(frames):
        yield Picture(file, frame, pairs.mask_name(file.name, frame, frames))


def read_image(file: Path, frame: int = 0) -> np.ndarray:
    """A mammogram, or one frame of a volume, as float32 [H, W] in [0, 1], as preparation reads it.

    Raises UserError as `read_mammogram` does.
    """
    return read_mammogram(file, frame).image


def read_mammogram(file: Path, frame: int = 0) -> Mammogram:
    """A mammogram, or one frame of a volume, with what was mended or is doubtful.

    Raises:
      UserError: it cannot be read, has colors, is of one gray level, or of a few pixels.
    """
    try:
        mammogram = reader.read(file, frame)
    except Unusable as reason:
        raise UserError(f"{file}: {reason}") from None
    height, width = mammogram.image.shape
    if min(height, width) < LEAST_SIDE:
        raise UserError(
            f"{file}: an image of {height}x{width} pixels: nothing can be found in it; allowed are "
            f"sides of {LEAST_SIDE} pixels or more"
        )
    return mammogram


def _save_png(path: Path, mask: np.ndarray) -> None:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(mask * 255).save(buffer, format="PNG")
    files.write_bytes(path, buffer.getvalue())
