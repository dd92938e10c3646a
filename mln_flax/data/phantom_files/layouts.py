"""The layouts that other programs read: which files an image has, and what lies beside them."""

import csv
import datetime
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mln_flax import files
from mln_flax.data.core import Example
from mln_flax.data.phantoms.store import SOURCES
from mln_flax.data.prepare.prepared import from_bits, to_bits
from mln_flax.data.writers import dicom_seg, mammogram, png
from mln_flax.data.writers.source import Algorithm

WHITE = 255  # of a calcification in masks to be looked at
NNUNET = "Dataset001_MammogramPhantoms"
SLICES = "slices"  # the folder that configs/npz.py reads
# Of every file: what is drawn belongs to no day, and is to be the same whenever it is drawn.
CREATED = datetime.datetime(2000, 1, 1)
RAW = "processing"  # the machine whose images are for processing


class Layout(NamedTuple):
    """A layout of files."""

    # Of the folder, a phantom, and its part: writes the files, and gives the places of image and
    # mask below the folder.
    write: Callable[[Path, Example, str], tuple[str, str]]
    # Of the folder and the rows of its images: writes what the reader of the layout wants besides.
    finish: Callable[[Path, Sequence[Mapping[str, Any]]], None]
    gray: str  # how gray values are stored
    mask: str  # how masks are


def write_png(folder: Path, example: Example, part: str) -> tuple[str, str]:
    """`images/IMAGE.png` and `masks/IMAGE.png`, as configs/folder.py reads them."""
    image, mask = (f"{room}/{example.image_id}.png" for room in ("images", "masks"))
    _put(folder, image, png.content(to_bits(example.image)))
    _put(folder, mask, png.content(example.mask * np.uint8(WHITE)))
    return image, mask


def write_dicom(folder: Path, example: Example, part: str) -> tuple[str, str]:
    """`images/IMAGE.dcm`, a mammogram, and `masks/IMAGE.dcm`, its segmentation."""
    image, mask = (f"{room}/{example.image_id}.dcm" for room in ("images", "masks"))
    assert example.spacing_mm
    exam = mammogram.Exam(
        image=example.image_id,
        patient=example.patient_id,
        laterality=example.laterality,
        view=example.view_position,
        spacing_mm=example.spacing_mm,
        for_processing=example.domain == RAW,
        detector="FILM" if example.domain == "film" else "DIRECT",
        description=f"mammogram phantom, {example.domain}",
        algorithm=Algorithm(SOURCES, "phantoms", CREATED),
    )
    _put(folder, image, mammogram.content(example.image, exam))
    (folder / mask).parent.mkdir(parents=True, exist_ok=True)
    dicom_seg.write(folder / mask, folder / image, example.mask, exam.algorithm, "binary")
    return image, mask


def write_nnunet(folder: Path, example: Example, part: str) -> tuple[str, str]:
    """`imagesTr/IMAGE_0000.png` and `labelsTr/IMAGE.png`; of the test part `Ts`.

    Source: nnU-Net's documentation of its data format, version 2. Its NaturalImage2DIO keeps gray
    PNG of 16 bits as they are.
    """
    rooms = "Ts" if part == "test" else "Tr"
    image = f"{NNUNET}/images{rooms}/{example.image_id}_0000.png"
    mask = f"{NNUNET}/labels{rooms}/{example.image_id}.png"
    _put(folder, image, png.content(to_bits(example.image)))
    _put(folder, mask, png.content(example.mask))
    return image, mask


def write_npz(folder: Path, example: Example, part: str) -> tuple[str, str]:
    """`slices/PART/DOMAIN/IMAGE_0.npz` with `image` and `label`, as configs/npz.py reads it."""
    room = {"validation": "val/", "": ""}.get(part, f"{part}/")
    place = f"{SLICES}/{room}{example.domain}/{example.image_id}_0.npz"
    buffer = io.BytesIO()
    np.savez_compressed(buffer, image=from_bits(to_bits(example.image)), label=example.mask)
    _put(folder, place, buffer.getvalue())
    return place, place


def _put(folder: Path, place: str, content: bytes) -> None:
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(folder / place, content)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A CSV file of these columns, there in full or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_bytes(path, text.getvalue().encode())


def finish_folder(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """`cases.csv`, by which configs/folder.py knows patients, machines and parts."""
    columns = "image patient laterality view spacing domain label part".split()
    cases = (
        dict(row)
        | {"spacing": row["spacing_mm"], "label": "calcification"}
        | {"part": "train" if row["part"] == "validation" else row["part"]}
        for row in rows
    )
    write_table(folder / "cases.csv", columns, cases)


def finish_nnunet(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The `dataset.json` of nnU-Net."""
    about = {
        "channel_names": {"0": "mammogram"},
        "labels": {"background": 0, "calcification": 1},
        "numTraining": sum(row["part"] != "test" for row in rows),
        "file_ending": ".png",
    }
    (folder / NNUNET).mkdir(exist_ok=True)
    files.write_json(folder / NNUNET / "dataset.json", about)


def finish_nothing(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes nothing."""


_BITS = "16 bits, 0 to 65535"
_DICOM = f"{mammogram.BITS} bits, 0 to {2**mammogram.BITS - 1}"
LAYOUTS = {
    "png": Layout(write_png, finish_folder, _BITS, "0, and 255 in calcifications"),
    "dicom": Layout(write_dicom, finish_folder, _DICOM, "a segmentation with one segment"),
    "nnunet": Layout(write_nnunet, finish_nnunet, _BITS, "0, and 1 in calcifications"),
    "npz": Layout(write_npz, finish_nothing, "float32, 0 to 1", "0, and 1 in calcifications"),
}
