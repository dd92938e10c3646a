"""The record of one whole image that a model is measured on, and the crops of its places."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mln_flax import files
from mln_flax.data.core import Example
from mln_flax.engine import whole_model, whole_records
from mln_flax.engine.froc_set import MeasuredImage
from mln_flax.engine.predictor import Prediction, Predictor
from mln_flax.metrics import matching, polygons
from mln_flax.metrics.clusters import Cluster
from mln_flax.metrics.matching import ReferenceCluster
from mln_flax.results import crops
from mln_flax.types import Record

CROPS = "crops"  # folder of them
MOST_DRAWN = 20  # false marks of an image, the surest ones: a broken model marks hundreds


def record_of(
    predictor: Predictor,
    measured: MeasuredImage,
    example: Example,
    prediction: Prediction,
    part: str,
) -> Record:
    """As `whole_records.record_of`, with what became of each labeled cluster and of each mark.

    `truths` are the labeled clusters, `clusters` the marked ones; both have `number`, `row_px`,
    `column_px`, `extent_mm`, `hit` and `crop`, the name of a picture or "".
    """
    rule = whole_model.cluster_rule(predictor.run.config.predict)
    known = matching.reference(example.mask, example.label_kind, prediction.measured_mm, rule)
    pairs = matching.mark_pairs(known, prediction.marks)
    line = whole_records.record_of(predictor, example, prediction, part or "all", "target")
    marks = [
        _mark(cluster, bool(found.any()))
        for cluster, found in zip(prediction.clusters, pairs, strict=True)
    ]
    numbers = np.array([mark["number"] for mark in marks], int)
    truths = [
        _truth(cluster, numbers[finds].tolist(), prediction)
        for cluster, finds in zip(known.clusters, pairs.T, strict=True)
    ]
    named = [*_named(measured.image_id, "label", truths)]
    named += _named(measured.image_id, "mark", [m for m in marks if not m["hit"]][:MOST_DRAWN])
    for place, name in named:
        place["crop"] = name
    return line | {"image": measured.name, "truths": truths, "clusters": marks}


def write_crops(folder: Path, line: Record, example: Example, prediction: Prediction) -> None:
    """Draws every place of a record that has a crop."""
    outlines = [cluster.outline for cluster in prediction.clusters]
    (folder / CROPS).mkdir(exist_ok=True)
    for place in (*line["truths"], *line["clusters"]):
        if place["crop"]:
            where = crops.Place(place["row_px"], place["column_px"], place["extent_mm"])
            content = crops.picture(
                example.image, example.mask, outlines, where, prediction.measured_mm
            )
            files.write_bytes(folder / place["crop"], content)


def crop_names(line: Mapping[str, Any]) -> list[str]:
    """The crops that a record names."""
    return [place["crop"] for place in (*line["truths"], *line["clusters"]) if place["crop"]]


def _named(image_id: str, kind: str, places: Sequence[Record]) -> list[tuple[Record, str]]:
    return [(place, f"{CROPS}/{image_id}-{kind}-{place['number']}.jpg") for place in places]


def _mark(cluster: Cluster, hit: bool) -> Record:
    return {
        "number": cluster.number,
        "score": cluster.score,
        "hit": hit,
        "row_px": cluster.row_px,
        "column_px": cluster.column_px,
        "count": cluster.count,
        "extent_mm": cluster.extent_mm,
        "crop": "",
    }


def _truth(cluster: ReferenceCluster, found_by: list[int], prediction: Prediction) -> Record:
    spacing = np.array(prediction.measured_mm)
    row, column = cluster.center / spacing
    low = np.maximum(np.floor(cluster.hull.min(axis=0) / spacing + 0.5), 0).astype(int)
    high = np.ceil(cluster.hull.max(axis=0) / spacing + 0.5).astype(int)
    inside = prediction.probability[low[0] : high[0], low[1] : high[1]]
    return {
        "number": cluster.number,
        "hit": bool(found_by),
        "found_by": found_by,
        "row_px": float(row),
        "column_px": float(column),
        "extent_mm": polygons.longest(cluster.hull),
        "area_mm2": cluster.area_mm2,
        "peak": float(inside.max(initial=0)),  # of the probability in the box of its hull
        "crop": "",
    }
