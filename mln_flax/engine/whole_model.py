"""What a trained model keeps for whole images: its pixel size, and how often it marks falsely."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mln_flax import files
from mln_flax.config import Config, PredictConfig
from mln_flax.engine import packed
from mln_flax.metrics import froc
from mln_flax.metrics.clusters import ClusterRule
from mln_flax.metrics.decision import OperatingPoint, WholePoint
from mln_flax.settings import after_training, flat, to_dict
from mln_flax.types import Record, UserError

FILE = "whole.json"  # of a workdir, beside the model
# Of `predict`: what changes which pixels and clusters are marked at a threshold.
DECISIVE = ("tile", "overlap", "choice", "min_mm2", "min_count", "cluster_mm2")
USUAL_MM = 0.1  # of a pixel, where neither the model nor the image knows it


class WholeModel(NamedTuple):
    """Beside the method's own: what answers for whole images need."""

    spacing_mm: tuple[float, float] | None  # at which the model was trained: (row, column)
    counted_by: dict[str, Any]  # settings of the answers that `validation` holds the counts of
    validation: Sequence[Record]  # of whole images of source validation, one line each
    notes: Sequence[str] = ()

    def operating_threshold(self, asked: float) -> froc.OperatingThreshold:
        """The threshold for so many false clusters per normal image of source validation."""
        return froc.operating_threshold([line["detection"] for line in self.validation], asked)


def write(workdir: Path, whole: WholeModel) -> None:
    """Stores it beside the model."""
    files.write_json(workdir / FILE, whole._asdict())


def read(workdir: Path) -> WholeModel | None:
    """What a workdir or a packed model stores; None where it stores nothing.

    Raises UserError for a broken file.
    """
    path = workdir / FILE
    if packed.is_packed(workdir):
        stored = packed.facts(workdir)["whole"]
    elif path.exists():
        stored = files.read_json(path)
    else:
        return None
    try:
        whole = WholeModel(**stored)
        spacing = whole.spacing_mm
        return whole._replace(spacing_mm=None if spacing is None else (spacing[0], spacing[1]))
    except (TypeError, IndexError):
        raise UserError(
            f"{path}: written by another version; remove it and run --mode=evaluate again"
        ) from None


def decisive(whole: WholeModel | None) -> dict[str, Any]:
    """What of it decides what is marked: without images' names, and without notes."""
    if whole is None:
        return {}
    lines = [{"detection": line.get("detection")} for line in whole.validation]
    return whole._replace(validation=lines, notes=())._asdict()


def cluster_rule(settings: PredictConfig) -> ClusterRule:
    """What counts as a cluster by the settings."""
    return ClusterRule(settings.min_count, settings.cluster_mm2)


def answers_by(config: Config) -> dict[str, Any]:
    """The settings that change what is marked at a threshold, by their paths."""
    of_method = {name for name in after_training(config) if name.startswith("method.")}
    decisive = {f"predict.{name}" for name in DECISIVE} | of_method - {"method.level"}
    return {name: value for name, value in flat(to_dict(config)).items() if name in decisive}


def doubt(whole: WholeModel | None, config: Config) -> str:
    """Why a model has no operating point for whole images by these settings; "" where it has."""
    if whole is None or not whole.validation:
        return "this model keeps none for whole images"
    asked = answers_by(config)
    changed = [name for name in asked if whole.counted_by.get(name) != asked[name]]
    return f"that for whole images was chosen with another {', '.join(changed)}" if changed else ""


def point(whole: WholeModel | None, config: Config, of_tiles: OperatingPoint) -> WholePoint:
    """What is marked in whole images: chosen on source validation, else as in tiles.

    Args:
      whole: of the model; None where it keeps nothing.
      config: of the run; `predict.threshold`, if above 0, is taken as it is.
      of_tiles: the method's own point.
    """
    settings = config.predict
    least, asked = settings.min_mm2, settings.false_clusters
    if settings.threshold or whole is None or doubt(whole, config):
        threshold = settings.threshold or float(of_tiles.threshold)
        return WholePoint(threshold, least, asked, math.nan, 0, "")
    threshold, reached, normal = whole.operating_threshold(asked)
    if normal:
        return WholePoint(threshold, least, asked, reached, normal, "normal")
    return WholePoint(threshold, least, asked, reached, len(whole.validation), "all")
