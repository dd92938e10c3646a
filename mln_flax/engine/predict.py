"""Masks for a user's own images: each in the branch that lies nearest."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mln_flax import files
from mln_flax.data.core import Example, Unusable
from mln_flax.data.prepare import tiles
from mln_flax.data.readers import reader
from mln_flax.engine import evaluate
from mln_flax.engine.build import Run
from mln_flax.methods.mln import answer as selection
from mln_flax.methods.mln import choice
from mln_flax.methods.mln.answer import Selector
from mln_flax.results import records
from mln_flax.types import Record, UserError


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
    trained = evaluate.load_model(run, workdir)
    pictures = find(paths)
    for picture in pictures:
        read_image(picture.file, picture.frame)  # all of them, before anything is written
    folder = Path(output)
    inputs = {picture.file.resolve() for picture in pictures}
    for name in (*(picture.mask for picture in pictures), "predictions.jsonl"):
        if (folder / name).resolve() in inputs:
            raise UserError(f"--output={output}: {name} is one of the images; take another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={output}: {error.strerror}") from None
    answer = selection.selected(one_at_a_time(run), trained)
    common = common_distances(run, answer, pictures)
    lines = []
    for number, picture in enumerate(pictures, start=1):
        image = read_image(picture.file, picture.frame)
        mask, chosen = segment(run, answer, image, common.get(_group(run, picture)))
        _save_png(folder / picture.mask, mask)
        lines.append(
            {
                "image": picture.file.name,
                "frame": picture.frame,
                "mask": picture.mask,
                "label_pixels": int(mask.sum()),
                "selection": run.config.method.selection,
                "answer": choice.of_settings(run.config.method),
                "early": selection.is_early(run, trained),
                "branches": [run.branch_names[b] for b in chosen],
            }
        )
        print(f"predict: {number}/{len(pictures)} {folder / picture.mask}", flush=True)
    records.write_whole(folder / "predictions.jsonl", lines)
    return lines


def one_at_a_time(run: Run) -> Run:
    """The run with batches of one image: a user's image may be a hundred times a tile's size."""
    single = dataclasses.replace(run.config.evaluate, batch_size=1)
    return run._replace(config=dataclasses.replace(run.config, evaluate=single))


def common_distances(
    run: Run, answer: Selector, pictures: Sequence[Picture]
) -> dict[str, np.ndarray]:
    """The sum of the distances, [k], of all tiles that share a choice; empty at level "image".

    Here a case is one file with all its frames and tiles, and a domain is all that is asked for.
    """
    common: dict[str, np.ndarray] = {}
    for picture in pictures if run.config.method.level != "image" else ():
        tiled, _ = cut(run, read_image(picture.file, picture.frame))
        group = _group(run, picture)
        common[group] = common.get(group, 0) + answer.distances(tiled).sum(axis=0)
    return common


def _group(run: Run, picture: Picture) -> str:
    return str(picture.file) if run.config.method.level == "case" else ""


def segment(
    run: Run, answer: Selector, image: np.ndarray, common: np.ndarray | None = None
) -> tuple[np.ndarray, list[int]]:
    """The mask uint8 [H, W] of an image [H, W] in [0, 1], and the nearest branch of each tile.

    The image is cut as the training images were; one that was trained on whole goes in whole.
    `answer` is what `selection.selected` made, `common` the distances [k] that choose for all
    tiles instead of their own.
    """
    tiled, affines = cut(run, image)
    if common is None:
        said = answer(tiled)
    else:
        said = answer.answer(tiled, np.tile(common, (len(tiled), 1)))
    found = [said.mask(i) for i in range(len(tiled))]
    if not affines:
        return found[0].astype(np.uint8), said.chosen.tolist()
    stitched = tiles.put_back([mask.astype(np.float32) for mask in found], affines, image.shape)
    return (stitched > 0.5).astype(np.uint8), said.chosen.tolist()


def cut(run: Run, image: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The tiles [N, h, w] of an image and their ways back; the image itself and none if not cut."""
    config = run.config.data
    if not config.tiles.rows:
        return image[None], []
    whole = Example(image, np.zeros(image.shape, np.uint8), "image", "", "", "", "", None, "none")
    made = tiles.cut(whole, config.tiles.rows, config.tiles.columns, config.size)
    affines = [tile.to_image for tile in made if tile.to_image is not None]
    return np.stack([tile.image for tile in made]), affines


def find(paths: list[Path]) -> list[Picture]:
    """The images among the paths and in the folders among them, each frame of a volume by itself.

    Raises:
      UserError: a path does not exist, a folder has no image, two masks would have one name.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [file for file in reader.find(path) if file.parent == path]
            if not inside:
                known = ", ".join(sorted(reader.SUFFIXES))
                raise UserError(
                    f"{path}: no images in this folder ({known}, DICOM without a suffix)"
                )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"{path}: no such file or folder")
    pictures = [picture for file in found for picture in _pictures(file)]
    masks = [picture.mask for picture in pictures]
    for picture in pictures:
        if masks.count(picture.mask) > 1:
            raise UserError(
                f"two images are named {picture.file.stem!r}: their masks would overwrite each "
                "other"
            )
    return pictures


def _pictures(file: Path) -> Iterator[Picture]:
    try:
        frames = reader.header(file).frames
    except Unusable as reason:
        raise UserError(f"{file}: {reason}") from None
    for frame in range(frames):
        number = f"_{frame + 1:04d}" if frames > 1 else ""
        yield Picture(file, frame, f"{file.stem}{number}_mask.png")


def read_image(file: Path, frame: int = 0) -> np.ndarray:
    """A mammogram, or one frame of a volume, as float32 [H, W] in [0, 1], as preparation reads it.

    Raises:
      UserError: it cannot be read, has colors, or is of one gray level.
    """
    try:
        return reader.read(file, frame).image
    except Unusable as reason:
        raise UserError(f"{file}: {reason}") from None


def _save_png(path: Path, mask: np.ndarray) -> None:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(mask * 255).save(buffer, format="PNG")
    files.write_bytes(path, buffer.getvalue())
