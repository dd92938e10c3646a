"""Masks for a user's own images: each in the branch that lies nearest."""

import dataclasses
from pathlib import Path

import numpy as np

from mln_flax import evaluate, files, records
from mln_flax.build import Run
from mln_flax.data import tiles
from mln_flax.data.core import Example
from mln_flax.types import Record, UserError

SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".pgm", ".jpg", ".jpeg")


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
    files = find(paths)
    trained = evaluate.load_model(run, workdir)
    for file in files:
        read_image(file)  # all of them, before anything is written
    folder = Path(output)
    targets = [folder / f"{file.stem}_mask.png" for file in files]
    inputs = {file.resolve() for file in files}
    for target in (*targets, folder / "predictions.jsonl"):
        if target.resolve() in inputs:
            raise UserError(f"--output={output}: {target.name} is one of the images; take another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={output}: {error.strerror}") from None
    answer = evaluate.predictor(one_at_a_time(run), trained)
    lines = []
    for number, (file, target) in enumerate(zip(files, targets, strict=True), start=1):
        mask, chosen = segment(run, answer, read_image(file))
        _save_png(target, mask)
        lines.append(
            {
                "image": file.name,
                "mask": target.name,
                "label_pixels": int(mask.sum()),
                "selection": run.config.method.selection,
                "branches": [run.branch_names[b] for b in chosen],
            }
        )
        print(f"predict: {number}/{len(files)} {target}", flush=True)
    records.write(folder / "predictions.jsonl", lines)
    return lines


def one_at_a_time(run: Run) -> Run:
    """The run with batches of one image: a user's image may be a hundred times a tile's size."""
    single = dataclasses.replace(run.config.evaluate, batch_size=1)
    return run._replace(config=dataclasses.replace(run.config, evaluate=single))


def segment(run: Run, answer, image: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The mask uint8 [H, W] of an image [H, W] in [0, 1], and the branch of each of its tiles.

    The image is cut as the training images were; one that was trained on whole goes in whole.
    """
    config, rule = run.config.data, run.config.method.selection
    if not config.tiles.rows:
        said = answer(image[None])
        branch = int(said.distances[rule][0].argmin())
        return said.mask(0, branch).astype(np.uint8), [branch]
    whole = Example(image, np.zeros(image.shape, np.uint8), "image", "", "", "", "", None, "none")
    cut = tiles.cut(whole, config.tiles.rows, config.tiles.columns, config.size)
    said = answer(np.stack([tile.image for tile in cut]))
    chosen = [int(branch) for branch in said.distances[rule].argmin(axis=1)]
    found = [said.mask(i, branch) for i, branch in enumerate(chosen)]
    affines = [tile.to_image for tile in cut if tile.to_image is not None]
    stitched = tiles.put_back([mask.astype(np.float32) for mask in found], affines, image.shape)
    return (stitched > 0.5).astype(np.uint8), chosen


def find(paths: list[Path]) -> list[Path]:
    """The image files among the paths and in the folders among them, each name once."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise UserError(f"{path}: no images in this folder ({', '.join(SUFFIXES)})")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"{path}: no such file or folder")
    stems = [file.stem for file in files]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise UserError(
            f"two images are named {twice[0]!r}: their masks would overwrite each other"
        )
    return files


def read_image(path: Path) -> np.ndarray:
    """A gray image as float32 [H, W] in [0, 1], by the full range of its bits.

    Raises:
      UserError: it cannot be read, has colors, or is of one gray level.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            opened.load()
            if opened.mode in ("1", "LA"):
                array = np.asarray(opened.convert("L"))
            elif opened.mode in ("P", "PA", "RGB", "RGBA"):
                array = np.asarray(opened.convert("RGB"))
            else:
                array = np.asarray(opened)
    except Exception as error:  # a damaged file makes the decoders raise all sorts of things
        raise UserError(f"{path}: cannot be read as an image ({error})") from None
    if array.ndim == 3 and (array == array[..., :1]).all():
        array = array[..., 0]  # gray, stored as three equal colors
    if array.ndim != 2 or array.dtype.kind not in "ui" or min(array.shape) < 3:
        raise UserError(f"{path}: must be a gray image of 8 or 16 bits, 3 x 3 pixels or more")
    if array.min() == array.max():
        raise UserError(f"{path}: must have more than one gray level")
    top = 255 if array.dtype == np.uint8 else 65535
    return (array.astype(np.float32) / top).clip(0, 1)


def _save_png(path: Path, mask: np.ndarray) -> None:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(mask * 255).save(buffer, format="PNG")
    files.write_bytes(path, buffer.getvalue())
