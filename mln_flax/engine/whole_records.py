"""Whole images of a data set: one record each, and the operating point that they give."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mln_flax import files, parallel
from mln_flax.config import Config
from mln_flax.data.core import DataSet, Example, Part
from mln_flax.data.prepare import borders
from mln_flax.data.spacing import training_spacing
from mln_flax.engine import whole_model
from mln_flax.engine.build import Run
from mln_flax.engine.load_data import prepared_folder
from mln_flax.engine.model import load_model
from mln_flax.engine.predictor import Prediction, Predictor
from mln_flax.engine.whole_data import WholeSet, whole_images
from mln_flax.engine.whole_model import WholeModel
from mln_flax.metrics import froc, pixel
from mln_flax.results import overlay, whole_section
from mln_flax.types import Record, UserError

# What is kept of validation: what was marked at the point of tiles says nothing of the new one.
OF_VALIDATION = (
    *("kind", "image_id", "patient_id", "domain", "part", "role", "label_kind", "spacing_mm"),
    *("height", "width", "branch", "detection"),
)


def fit(run: Run, data: DataSet, workdir: Path) -> WholeModel:
    """Counts what the model marks in whole images of source validation, and stores it beside it.

    Where there are none, or their files cannot be had, the operating point stays that of tiles,
    and a note says why.
    """
    config, fitted = run.config, load_model(run, workdir)
    spacing = training_spacing(data.part(config.data.source, "train"))
    try:
        images = whole_images(config, "validation", prepared_folder(config, workdir))
    except UserError as error:
        images = WholeSet((), (), (f"no whole images for validation: {error}",))
    kept = WholeModel(spacing, whole_model.answers_by(config), (), images.notes)
    predictor = Predictor.of_model(without_reasons(config), fitted, kept)
    lines = [
        {name: line[name] for name in OF_VALIDATION}
        for part in images.parts
        for line, _ in measured(predictor, part, config.data.source)
    ]
    kept = kept._replace(validation=lines)
    if parallel.is_main_process():
        whole_model.write(workdir, kept)
    print("\n".join(lines_on(kept, config.predict.false_clusters)), flush=True)
    return kept


def of_test(config: Config, fitted: Any, workdir: Path) -> Iterator[Record]:
    """The records of the whole test images of source and targets.

    Raises:
      UserError: their files cannot be had.
    """
    images = whole_images(config, "test", prepared_folder(config, workdir))
    for note in images.notes:
        print(f"whole images: {note}", flush=True)
    predictor = Predictor.of_model(without_reasons(config), fitted, whole_model.read(workdir))
    for part in images.parts:
        yield from with_cases(predictor, part, config.data.source, workdir / whole_section.FOLDER)


def without_reasons(config: Config) -> Config:
    """The config with answers alone: records hold no reasons."""
    predict = dataclasses.replace(config.predict, explain_tiles=0)
    return dataclasses.replace(config, predict=predict)


def with_cases(predictor: Predictor, part: Part, source: str, folder: Path) -> Iterator[Record]:
    """The records of a part; the best and the worst image are drawn, and their records say so."""
    lines: list[Record] = []
    cases: dict[str, tuple[float, int, Prediction]] = {}
    for place, (line, prediction) in enumerate(measured(predictor, part, source)):
        lines.append(line)
        for name, sign in (("best", 1), ("worst", -1)):
            worth = sign * worth_of(line)
            if name not in cases or worth > cases[name][0]:
                cases[name] = (worth, place, prediction)
    for name, (_, place, prediction) in cases.items():
        picture = f"{part.domain}-{name}"
        lines[place] = lines[place] | {"picture": picture}
        if parallel.is_main_process():
            folder.mkdir(exist_ok=True)
            shown = overlay.pictures(prediction.image, prediction.clusters, prediction.mask)
            files.write_bytes(folder / f"{picture}.png", shown["overlay"])
    return iter(lines)


def worth_of(line: Record) -> float:
    """How good an answer is, to tell cases: clusters found less clusters missed and false ones."""
    hits = sum(cluster["hit"] for cluster in line["clusters"])
    missed = max(0, line["detection"]["clusters"] - hits)
    return float(hits - missed - (len(line["clusters"]) - hits))


def measured(predictor: Predictor, part: Part, source: str) -> Iterator[tuple[Record, Prediction]]:
    """Each whole image of a part: its record, of the kind "whole", and its answer."""
    role = "source" if part.domain == source else "target"
    for example in part.examples:
        image, _ = borders.without_frame(example.image)  # as files are read
        sized = predictor.sized(image, example.spacing_mm, "file")
        prediction = predictor.answer(sized, predictor.look([sized]))
        yield record_of(predictor, example, prediction, part.name, role), prediction
    print(f"whole images: {part.domain} {part.name}, {len(part.examples)} images", flush=True)


def record_of(
    predictor: Predictor, example: Example, prediction: Prediction, part: str, role: str
) -> Record:
    """What is found in a whole image, at every threshold of the ladder and at the model's point."""
    rule = whole_model.cluster_rule(predictor.run.config.predict)
    counted = froc.counts(
        prediction.probability,
        example.mask,
        example.label_kind,
        prediction.measured_mm,
        prediction.point.min_area_mm2,
        rule,
    )
    scored = froc.scored_clusters(
        prediction.marks, example.mask, example.label_kind, prediction.measured_mm, rule
    )
    return {
        "kind": "whole",
        "image_id": example.image_id,
        "patient_id": example.patient_id,
        "domain": example.domain,
        "part": part,
        "role": role,
        "label_kind": example.label_kind,
        "spacing_mm": prediction.spacing_mm,
        "spacing_from": prediction.spacing_from,
        "height": example.image.shape[0],
        "width": example.image.shape[1],
        "label_pixels": int(np.count_nonzero(example.mask)),
        "branch": prediction.branch,
        "point": prediction.point._asdict(),
        "detection": counted,
        "clusters": scored,
        "score": pixel.image_scores(prediction.mask, example.mask, prediction.spacing_mm),
    }


def lines_on(kept: WholeModel, asked: float) -> list[str]:
    """What to say of an operating point, for who watches."""
    if not kept.validation:
        return [*kept.notes, "whole images: no operating point; that of tiles is taken"]
    threshold, reached, normal = kept.operating_threshold(asked)
    counted = (
        f"{normal} normal images" if normal else f"{len(kept.validation)} images, none normal,"
    )
    return [
        *kept.notes,
        f"whole images: {reached:.2f} false clusters per image on {counted} of source validation "
        f"at threshold {threshold:.4g}; at most {asked:g} are asked for",
    ]
