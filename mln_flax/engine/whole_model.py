"""What a trained model keeps for whole images: its pixel size, and how often it marks falsely."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mln_flax import files
from mln_flax.config import PredictConfig
from mln_flax.metrics import froc
from mln_flax.metrics.clusters import ClusterRule
from mln_flax.metrics.decision import OperatingPoint, WholePoint
from mln_flax.types import Record, UserError

FILE = "whole.json"  # of a workdir, beside the model
USUAL_MM = 0.1  # of a pixel, where neither the model nor the image knows it


class WholeModel(NamedTuple):
    """Beside the method's own: what answers for whole images need."""

    spacing_mm: tuple[float, float] | None  # at which the model was trained: (row, column)
    rule: dict[str, Any]  # of clusters, by which `validation` was counted
    validation: Sequence[Record]  # of whole images of source validation, one line each
    notes: Sequence[str] = ()

    def operating_threshold(self, asked: float) -> froc.OperatingThreshold:
        """The threshold for so many false clusters per normal image of source validation."""
        return froc.operating_threshold([line["detection"] for line in self.validation], asked)


def write(workdir: Path, whole: WholeModel) -> None:
    """Stores it beside the model."""
    files.write_json(workdir / FILE, whole._asdict())


def read(workdir: Path) -> WholeModel | None:
    """What a workdir stores; None where it stores nothing. Raises UserError for a broken file."""
    path = workdir / FILE
    if not path.exists():
        return None
    stored = files.read_json(path)
    try:
        whole = WholeModel(**stored)
        spacing = whole.spacing_mm
        return whole._replace(spacing_mm=None if spacing is None else (spacing[0], spacing[1]))
    except (TypeError, IndexError):
        raise UserError(
            f"{path}: written by another version; remove it and run --mode=evaluate again"
        ) from None


def cluster_rule(settings: PredictConfig) -> ClusterRule:
    """What counts as a cluster by the settings."""
    return ClusterRule(settings.min_count, settings.cluster_mm2)


def doubt(whole: WholeModel | None, settings: PredictConfig) -> str:
    """Why a model has no operating point for whole images by these settings; "" where it has."""
    if whole is None or not whole.validation:
        return "this model keeps none for whole images"
    counted = {"min_mm2": whole.validation[0]["detection"]["min_area_mm2"], **whole.rule}
    asked = {"min_mm2": settings.min_mm2, **cluster_rule(settings)._asdict()}
    changed = [name for name, value in asked.items() if counted.get(name) != value]
    return f"that for whole images was chosen with another {', '.join(changed)}" if changed else ""


def point(
    whole: WholeModel | None, settings: PredictConfig, of_tiles: OperatingPoint
) -> WholePoint:
    """What is marked in whole images: chosen on source validation, else as in tiles.

    Args:
      whole: of the model; None where it keeps nothing.
      settings: of the run; its `threshold`, if above 0, is taken as it is.
      of_tiles: the method's own point.
    """
    least, asked = settings.min_mm2, settings.false_clusters
    if settings.threshold or whole is None or doubt(whole, settings):
        threshold = settings.threshold or float(of_tiles.threshold)
        return WholePoint(threshold, least, asked, math.nan, 0)
    threshold, reached, normal = whole.operating_threshold(asked)
    return WholePoint(threshold, least, asked, reached, normal or len(whole.validation))
