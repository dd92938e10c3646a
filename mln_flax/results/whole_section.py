"""The part of a page on whole images: what is found against false marks, and cases to look at."""

from collections.abc import Sequence
from pathlib import Path

from mln_flax.results import detection, records
from mln_flax.results.study import Picture, Section
from mln_flax.results.table_layout import Table
from mln_flax.types import Record

FOLDER = "whole"  # of a workdir: overlays of the best and the worst whole image of each domain
_FROC = (
    "Sensitivity against false marks per normal image, each point a threshold; bars: 95% of "
    "resamples of patients."
)
_CALIBRATION = "The share of marked clusters that are right, against their score."
_CASES = {"best": "best case", "worst": "worst case"}


def sections(lines: Sequence[Record], workdir: Path) -> list[Section]:
    """The part on whole images of a run's records; nothing where none were measured.

    Args:
      lines: all of the run.
      workdir: that holds pictures of cases.
    """
    lines = [line for line in lines if line["kind"] == "whole"]
    if not lines:
        return []
    pictures = {
        "froc": Picture(detection.froc_picture(lines), _FROC),
        "calibration": Picture(detection.calibration_picture(lines), _CALIBRATION),
    }
    for line in lines:
        if line.get("picture"):
            path = workdir / FOLDER / f"{line['picture']}.png"
            if path.is_file():
                pictures[f"whole-{line['picture']}"] = Picture(path.read_bytes(), _caption(line))
    further = (detection.sensitivity_table(lines, "objects"), detection.calibration_table(lines))
    return [Section("Whole images", pictures, (*headline(lines), *further))]


def of_workdir(workdir: Path) -> list[Section]:
    """What a run's records say of whole test images, for a page of its model's answers."""
    path = workdir / "records.jsonl"
    found = sections(records.read_whole(path), workdir) if path.is_file() else []
    return [section._replace(title="Whole images of the model's own test") for section in found]


def headline(lines: Sequence[Record]) -> list[Table]:
    """The tables that are printed: clusters found against false ones, and at the point."""
    lines = [line for line in lines if line["kind"] == "whole"]
    return [detection.sensitivity_table(lines), detection.point_table(lines)] if lines else []


def _caption(line: Record) -> str:
    hits = sum(cluster["hit"] for cluster in line["clusters"])
    case = _CASES[line["picture"].rpartition("-")[2]]
    known = line["detection"]["clusters"]
    return (
        f"{line['domain']}, {case}: {known} labeled clusters, {hits} marked ones are right, "
        f"{len(line['clusters']) - hits} are false"
    )
