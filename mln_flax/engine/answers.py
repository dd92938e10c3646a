"""The answer for one image as files: pictures, numbers, and what a viewer of DICOM opens."""

import datetime
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import sparse

from mln_flax import files
from mln_flax.data.core import Unusable
from mln_flax.data.readers import reader
from mln_flax.data.writers import dicom_seg, dicom_sr
from mln_flax.data.writers.dicom_sr import ClusterMeasurement
from mln_flax.data.writers.source import Algorithm
from mln_flax.engine.origin import Origin
from mln_flax.engine.predictor import Prediction
from mln_flax.metrics.clusters import Calcification, Cluster
from mln_flax.results import overlay
from mln_flax.types import Record

Segments = Literal["clusters", "binary", "fractional", "none"]  # of a DICOM answer
_ROWS = 256  # of an image that are worked on at a time, to need little memory
# Pixels of a file whose answer is written as DICOM: then it takes 4 GB.
MOST_SEGMENTED = {"clusters": 700_000_000, "binary": 700_000_000, "fractional": 120_000_000}


class Whole(NamedTuple):
    """A file whose frames are answered together."""

    file: Path
    image: str  # its path below the folder of all that was given
    stem: str  # begins the names of its answers
    hash: str  # SHA-256 of the file

    def stem_of(self, frame: int, frames: int) -> str:
        """What begins the names of a frame's answers: `a`, of a volume `a_0001` ..."""
        return f"{self.stem}_{frame + 1:04d}" if frames > 1 else self.stem


def record_of(
    prediction: Prediction,
    whole: Whole,
    frame: tuple[int, int],
    origin: Origin,
    numbers: Mapping[int, int],
    names: Mapping[str, str],
    seconds: float,
) -> Record:
    """The answer for an image as plain numbers: what its JSON file holds.

    Args:
      prediction: for the image.
      whole: its file.
      frame: its number from 0, and how many there are.
      origin: of the answer.
      numbers: of clusters in the volume, by those in the frame.
      names: of the files beside the JSON, by what they show.
      seconds: that the answer took.
    """
    spacing = prediction.measured_mm
    calcifications = prediction.marks.calcifications
    return {
        "kind": "answer",
        "image": whole.image,
        "frame": frame[0],
        "frames": frame[1],
        "height": prediction.image.shape[0],
        "width": prediction.image.shape[1],
        "spacing_mm": prediction.spacing_mm and [round(mm, 9) for mm in prediction.spacing_mm],
        "spacing_from": prediction.spacing_from,
        "model_spacing_mm": origin.model_spacing_mm,
        "operating_point": prediction.point._asdict(),
        "branch": prediction.branch,
        "clusters": [
            _cluster(cluster, numbers[cluster.number], calcifications, spacing)
            for cluster in prediction.clusters
        ],
        "calcifications": [
            _calcification(calcification, numbers, spacing) for calcification in calcifications
        ],
        # Of bits or of bools.
        "marked_pixels": int(np.bitwise_count(prediction.mask).sum()),
        "facts": prediction.facts,
        "why": prediction.why,
        "notes": list(prediction.notes),
        "warnings": list(prediction.warnings),
        "files": dict(names),
        "hashes": origin.hashes(whole.hash),
        "versions": origin.versions,
        "seconds": seconds,
    }


def _cluster(
    cluster: Cluster,
    number: int,
    calcifications: tuple[Calcification, ...],
    spacing_mm: tuple[float, float],
) -> Record:
    return {
        **cluster._asdict(),
        "number": number,
        "row_mm": (cluster.row_px + 0.5) * spacing_mm[0],
        "column_mm": (cluster.column_px + 0.5) * spacing_mm[1],
        "calcifications": [c.number for c in calcifications if c.cluster == cluster.number],
    }


def _calcification(
    calcification: Calcification, numbers: Mapping[int, int], spacing_mm: tuple[float, float]
) -> Record:
    return {
        **calcification._asdict(),
        "cluster": numbers.get(calcification.cluster, 0),
        "row_mm": (calcification.row_px + 0.5) * spacing_mm[0],
        "column_mm": (calcification.column_px + 0.5) * spacing_mm[1],
    }


def write_maps(folder: Path, stem: str, prediction: Prediction) -> None:
    """Writes what is drawn of a frame whatever its clusters are called."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_bytes(folder / f"{stem}_probability.png", probability_png(prediction.probability))
    files.write_bytes(folder / f"{stem}_mask.png", mask_png(prediction.mask))
    for name, content in overlay.map_layers(prediction.image.shape, prediction.maps).items():
        files.write_bytes(folder / f"{stem}{overlay.ending(name)}", content)


def lighter(prediction: Prediction, kind: Segments) -> Prediction:
    """The prediction without what is written already, for many frames or a large one."""
    nothing = np.zeros((0, 0), np.float32)
    return prediction._replace(
        image=as_bytes(prediction.image),
        probability=as_bytes(prediction.probability) if kind == "fractional" else nothing,
        breast=nothing.astype(bool),
        maps=dict.fromkeys(prediction.maps, nothing),
        mask=np.packbits(prediction.mask),
        marks=prediction.marks._replace(labels=sparse.coo_array(prediction.marks.labels)),
    )


def as_bytes(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] in 255 steps, uint8."""
    return np.round(values * 255).astype(np.uint8)


def as_float(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as float32, also of `as_bytes`."""
    return values.astype(np.float32) / 255 if values.dtype == np.uint8 else values


def write(
    folder: Path,
    whole: Whole,
    predictions: Sequence[Prediction],
    numbers: Sequence[Mapping[int, int]],
    origin: Origin,
    kind: Segments,
    seconds: float,
) -> None:
    """Writes what is left of the answers for a file; an image's JSON comes last, the first's last.

    Args:
      folder: of the answers.
      whole: the file.
      predictions: of its frames; those of a volume `lighter`.
      numbers: of each frame's clusters in the volume.
      origin: of the answers.
      kind: of a DICOM answer's segments; "none": none is written.
      seconds: that the network took for a frame.
    """
    count = len(predictions)
    shared, notes = write_dicom(folder, whole, predictions, numbers, origin, kind)
    for frame in reversed(range(count)):
        prediction, stem = predictions[frame], whole.stem_of(frame, count)
        image = as_float(prediction.image)
        renumbered = [c._replace(number=numbers[frame][c.number]) for c in prediction.clusters]
        mask = in_clusters(prediction, numbers[frame])
        names = {"probability": f"{stem}_probability.png", "mask": f"{stem}_mask.png"}
        for name, content in overlay.pictures(image, renumbered, mask > 0).items():
            names[name] = f"{stem}{overlay.ending(name)}"
            files.write_bytes(folder / names[name], content)
        names |= {name: f"{stem}{overlay.ending(name)}" for name in prediction.maps} | shared
        noted = prediction._replace(notes=(*prediction.notes, *notes))
        record = record_of(noted, whole, (frame, count), origin, numbers[frame], names, seconds)
        files.write_json(folder / f"{stem}.json", record)


def in_clusters(prediction: Prediction, numbers: Mapping[int, int]) -> np.ndarray:
    """The number of the volume's cluster at each pixel [H, W]; 0 outside of clusters."""
    labels = prediction.marks.labels
    dense = labels if isinstance(labels, np.ndarray) else labels.toarray()
    of = [0, *(numbers.get(c.cluster, 0) for c in prediction.marks.calcifications)]
    return np.array(of, np.min_scalar_type(max(of)))[dense]  # of a volume there are many


def write_dicom(
    folder: Path,
    whole: Whole,
    predictions: Sequence[Prediction],
    numbers: Sequence[Mapping[int, int]],
    origin: Origin,
    kind: Segments,
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Writes the answer as DICOM for a DICOM file; the names of what it wrote, and notes.

    What a header lacks for it is a note, no failure: the other answers are there.
    """
    if kind == "none" or not reader.is_dicom(whole.file):
        return {}, ()
    if (count := sum(p.image.size for p in predictions)) > MOST_SEGMENTED[kind]:
        return {}, (
            f"no DICOM answer: {count:,} pixels in all frames; with predict.dicom={kind} allowed "
            f"are {MOST_SEGMENTED[kind]:,}",
        )
    names = {"seg": f"{whole.stem}_seg.dcm", "sr": f"{whole.stem}_sr.dcm"}
    algorithm = Algorithm(
        origin.model, origin.versions["mln_flax"], datetime.datetime.now(datetime.UTC)
    )
    both = list(zip(predictions, numbers, strict=True))
    if kind == "fractional":
        segments = np.stack([as_float(prediction.probability) for prediction in predictions])
    else:
        segments = np.stack([in_clusters(prediction, of_frame) for prediction, of_frame in both])
    measured = largest(
        [cluster._replace(number=n[cluster.number]) for p, n in both for cluster in p.clusters],
        all(prediction.spacing_from == "file" for prediction in predictions),
    )
    try:
        seg = folder / names["seg"]
        dicom_seg.write(seg, whole.file, segments, algorithm, kind)
        dicom_sr.write(folder / names["sr"], whole.file, seg, measured, algorithm)
    except Unusable as reason:
        for name in names.values():
            (folder / name).unlink(missing_ok=True)
        return {}, (f"no DICOM answer: {reason}",)
    return names, ()


def largest(clusters: Sequence[Cluster], in_mm: bool) -> list[ClusterMeasurement]:
    """The measurements of each cluster, of one in several frames in that where it is largest."""
    best: dict[int, Cluster] = {}
    for cluster in clusters:
        other = best.get(cluster.number)
        if other is None or (cluster.count, cluster.score) > (other.count, other.score):
            best[cluster.number] = cluster
    return [
        ClusterMeasurement(
            cluster.number,
            cluster.count,
            cluster.score,
            cluster.extent_mm if in_mm else None,
            cluster.area_mm2 if in_mm else None,
        )
        for _, cluster in sorted(best.items())
    ]


def probability_png(probability: np.ndarray) -> bytes:
    """A probability [H, W] as 16-bit gray: 65,535 times it, rounded down, so that none rises."""
    from PIL import Image

    levels = np.empty(probability.shape, np.uint16)
    for top in range(0, len(levels), _ROWS):
        rows = slice(top, top + _ROWS)
        levels[rows] = np.floor(probability[rows] * np.float32(65535))
    return _png(Image.fromarray(levels))


def mask_png(mask: np.ndarray) -> bytes:
    """A mask bool [H, W] as 8-bit gray: 0 and 255."""
    from PIL import Image

    return _png(Image.fromarray(mask.astype(np.uint8) * 255))


def _png(image: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG", compress_level=1)  # a fourth of the time of the usual 6
    return buffer.getvalue()
