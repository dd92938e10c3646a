"""Every test image once: one record per image, and what the report shows."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mln_flax import files, parallel
from mln_flax.config import METRICS
from mln_flax.data.core import DataSet, Example
from mln_flax.data.images import chunks, images_of
from mln_flax.data.phantoms import phantom
from mln_flax.engine import whole_records
from mln_flax.engine.build import Run
from mln_flax.engine.model import load_model
from mln_flax.engine.workdir import DATA, RECORDS
from mln_flax.metrics import pixel
from mln_flax.registry import kind_of
from mln_flax.results import records
from mln_flax.results.study import answering_score, settled
from mln_flax.types import Record


def evaluate(run: Run, data: DataSet, workdir: Path) -> list[Record]:
    """Measures source and targets, writes examples.npz and, last, records.jsonl."""
    fitted = load_model(run, workdir)
    config, measured, shown = run.config.data, [], []
    for domain in (config.source, *config.targets):
        examples = data.examples(domain, "test")
        role = "source" if domain == config.source else "target"
        of_domain = settle(run, image_records(run, fitted, examples, role))
        measured += of_domain
        shown += pictures(run, examples, of_domain)
        print(f"evaluation: {domain}, {len(examples)} images", flush=True)
    lines = [image.record for image in measured]
    if run.method.further is not None:
        images = images_of(data.part(config.source, "test"), config.cache_gb)
        lines += run.method.further(fitted, images, lines, [image.kept for image in measured])
    if run.config.evaluate.whole:
        lines += whole_records.of_test(run.config, fitted, workdir)
    if parallel.is_main_process():
        write_examples(workdir / "examples.npz", shown)
        records.write_whole(workdir / RECORDS, lines)
    return lines


class Measured(NamedTuple):
    """The record of one image, its masks packed into bits, and what the method wants back."""

    record: Record
    bits: dict[str, np.ndarray]  # map -> uint8 [bytes]
    kept: Any = None

    def mask(self, name: str) -> np.ndarray:
        """The mask of one map, uint8 [H, W]."""
        height, width = self.record["height"], self.record["width"]
        return np.unpackbits(self.bits[name], count=height * width).reshape(height, width)


def image_records(
    run: Run, fitted: Any, examples: Sequence[Example], role: str
) -> Iterator[Measured]:
    """One record per image: what the method says of it, and the scores of each of its maps."""
    score = partial(scores_of, [kind_of(METRICS, name) for name in run.config.evaluate.metrics])
    for rows, count in chunks(len(examples), run.config.evaluate.batch_size):
        group = examples[rows]
        answers = run.method.answer_all(fitted, np.stack([example.image for example in group]))
        kept = answers.kept or [None] * count
        for i, example in enumerate(group):
            masks = {name: answers.mask(i, name) for name in answers.maps}
            point = answers.points[answers.chosen[i]]
            record = {
                "kind": "image",
                "image_id": example.image_id,
                "patient_id": example.patient_id,
                "domain": example.domain,
                "part": "test",
                "role": role,
                "label_kind": example.label_kind,
                "spacing_mm": example.spacing_mm,
                "height": example.mask.shape[0],
                "width": example.mask.shape[1],
                "label_pixels": int(example.mask.sum()),
                "threshold": float(point.threshold),
                "min_pixels": int(point.min_pixels),
                **answers.facts[i],
                "answered_by": answers.chosen[i],
                "scores": {name: score(mask, example) for name, mask in masks.items()},
            }
            if run.config.data.unlabeled:
                record["unlabeled"] = list(run.config.data.unlabeled)
            bits = {name: np.packbits(mask) for name, mask in masks.items()}
            yield Measured(record, bits, kept[i])


def scores_of(
    further: Sequence[Callable[..., Record]], mask: np.ndarray, example: Example
) -> Record:
    """The score entry of a mask: the usual metrics, then further ones."""
    scores = pixel.image_scores(mask, example.mask, example.spacing_mm)
    for metric in further:
        scores |= metric(mask, example.mask, example.spacing_mm)
    return scores


def settle(run: Run, measured: Iterator[Measured]) -> list[Measured]:
    """The images of one domain, each with the map that answers: images may share a choice."""
    images = list(measured)
    lines = settled([image.record for image in images], run.kind.study, run.config.method)
    return [image._replace(record=line) for image, line in zip(images, lines, strict=True)]


def pictures(
    run: Run, examples: Sequence[Example], measured: Sequence[Measured]
) -> list[dict[str, Any]]:
    """A few labeled images for the report: spread evenly between the best and the worst tenth."""
    lines = [image.record for image in measured]
    dsc = [answering_score(line)["dsc"] for line in lines]
    labeled = [i for i, line in enumerate(lines) if line["label_pixels"]]
    ranked = sorted(labeled, key=lambda i: -dsc[i])
    wanted = min(run.config.evaluate.examples, len(ranked))
    places = np.linspace(0.1, 0.9, wanted) * max(len(ranked) - 1, 0)
    return [
        {
            "image": np.round(examples[i].image * 255).astype(np.uint8),
            "mask": examples[i].mask,
            "prediction": measured[i].mask(lines[i]["answered_by"]),
            "domain": examples[i].domain,
            "image_id": examples[i].image_id,
            "answered_by": lines[i]["answered_by"],
            "dsc": dsc[i],
        }
        for i in dict.fromkeys(ranked[round(place)] for place in places)
    ]


def write_examples(path: Path, shown: list[dict[str, Any]]) -> None:
    """The pictures' arrays as one .npz file."""
    names = ("image", "mask", "prediction", "domain", "image_id", "answered_by", "dsc")
    files.write_npz(path, {name: np.array([example[name] for example in shown]) for name in names})


def describe_data(run: Run, data: DataSet, workdir: Path) -> None:
    """Writes data.json, what was read and left out, and sheet.npz, a look at the images."""
    parts = [
        {
            "domain": part.domain,
            "part": part.name,
            "images": len(part.examples),
            "patients": len(part.patient_ids),
            "label_pixels": sum(part.label_pixels),
        }
        for part in data.parts
    ]
    left_out = [{"item": absent.item, "reason": absent.reason} for absent in data.left_out]
    files.write_json(
        workdir / DATA,
        {
            "notes": data.notes,
            "left_out": left_out,
            "parts": parts,
            "content": data.content,
        },
    )
    shown = _sheet_examples(run, data)
    files.write_npz(
        workdir / "sheet.npz",
        {
            "image": np.stack([np.round(e.image * 255).astype(np.uint8) for e in shown]),
            "mask": np.stack([example.mask for example in shown]),
            "title": np.array([f"{e.domain} {e.view_position}".strip() for e in shown]),
        },
    )


def _sheet_examples(run: Run, data: DataSet) -> list[Example]:
    """Whole phantoms in every domain, or eight test tiles of the source, labeled ones first."""
    if run.config.data.name == "phantom":
        return [example for row in phantom.sheet(run.config.data.phantom.seed) for example in row]
    part = data.part(run.config.data.source, "test")
    first = sorted(range(len(part.examples)), key=lambda i: not part.label_pixels[i])[:8]
    return [part.examples[i] for i in first]
