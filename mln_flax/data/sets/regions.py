"""Regions drawn around findings: INbreast's files of them, and the masks that they make."""

import plistlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mln_flax.data.core import Unusable

OTHER_FINDINGS = (  # as the archive spells them
    *("mass", "distortion", "asymmetry", "assymetry", "asimmetry"),
    *("spiculated region", "espiculated region", "pectoral muscle"),
)
OTHER = "other"
KINDS = {
    "calcification": "calcification",
    "cluster": "cluster",
    **dict.fromkeys(OTHER_FINDINGS, OTHER),
}

_POINT = re.compile(r"\(([^,()]+),([^,()]+)\)")
_MOST_OBJECTS = 16  # bits of Example.objects
_FARTHEST_PX = 1e6  # beyond it a number is no coordinate


class Region(NamedTuple):
    """An outlined or pointed-out finding."""

    kind: str  # "calcification", "cluster" or OTHER
    points: np.ndarray  # float [n, 2]: x right, y down, pixel centers at integers; not of OTHER


def read_regions(content: bytes) -> tuple[Region, ...]:
    """The regions of an XML file: an Apple property list, as OsiriX writes it.

    Raises:
      Unusable: the file is cut short or of another form, or a region's name or a point of it is
        not understood.
    """
    try:
        (image,) = plistlib.loads(content, fmt=plistlib.FMT_XML)["Images"]
        rois, count = list(image["ROIs"]), image["NumberOfROIs"]
    except Exception:  # of a dozen kinds, with the file's own words in them
        raise Unusable(
            "no property list with the regions of one image; take the archive's file"
        ) from None
    if len(rois) != count:
        raise Unusable("lists more or fewer regions than it says; take the archive's file")
    return tuple(_region(roi, f"region {n} of {count}") for n, roi in enumerate(rois, 1))


def _region(roi: Any, which: str) -> Region:
    """One region, or Unusable, which does not repeat its name: that is free text."""
    try:
        name = " ".join(roi["Name"].lower().split())
    except (AttributeError, TypeError, KeyError):
        name = ""
    endings = (name.removesuffix(plural) for plural in ("", "s", "es"))
    kind = next((KINDS[singular] for singular in endings if singular in KINDS), None)
    if kind is None:
        raise Unusable(
            f"{which} may be a calcification, since its name is none of {', '.join(KINDS)}; give "
            "it one of these"
        )
    if kind == OTHER:
        return Region(kind, np.zeros((0, 2)))
    try:
        matches = [_POINT.fullmatch(text.strip()) for text in roi["Point_px"]]
        points = np.array([match.groups() for match in matches if match], float)
        count = roi.get("NumberOfPoints", len(matches))
    except (AttributeError, TypeError, KeyError, ValueError):
        points, count = np.zeros(0), 0
    # Refuses NaN as well.
    if not points.size or len(points) != count or not (np.abs(points) < _FARTHEST_PX).all():
        raise Unusable(f"{which} has points that are missing, or are no (x, y) in pixels")
    return Region(kind, points)


def reach_beyond(regions: Sequence[Region], shape: tuple[int, ...]) -> bool:
    """Whether a region ends beyond the image; Unusable where one lies wholly outside."""
    beyond = False
    for number, region in enumerate(regions, 1):
        end = np.array(shape[::-1]) - 0.5
        inside = np.all((region.points >= -0.5) & (region.points < end), axis=1)
        if len(region.points) and not inside.any():
            raise Unusable(
                f"region {number} of {len(regions)} lies outside of the image; is the file that "
                "of another image?"
            )
        beyond = beyond or not inside.all()
    return beyond


def _points_of(regions: Sequence[Region], kind: str) -> list[np.ndarray]:
    return [region.points for region in regions if region.kind == kind]


def calcifications(
    regions: Sequence[Region],
    shape: tuple[int, ...],
    spacing_mm: tuple[float, float],
    radius_mm: float,
) -> np.ndarray:
    """The bool mask [H, W] of single calcifications; Unusable where some are not marked."""
    mask = _draw(_points_of(regions, "calcification"), shape, spacing_mm, radius_mm)
    for points in _points_of(regions, "cluster"):
        if not (mask & _draw([points], shape, spacing_mm, radius_mm)).any():
            raise Unusable(
                "has a cluster in which no calcification is marked, so they would be taken for "
                "background; --config.data.label=cluster uses it"
            )
    return mask


def clusters(
    regions: Sequence[Region], shape: tuple[int, ...], spacing_mm: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray | None]:
    """The bool mask [H, W] of clusters, and in uint16 [H, W] a bit for each if there are enough."""
    outlines = _points_of(regions, "cluster")
    if not outlines and _points_of(regions, "calcification"):
        raise Unusable(
            "has single calcifications, and nobody has said which of them form a cluster; "
            "--config.data.label=calcification uses it"
        )
    if any(len(points) < 3 for points in outlines):
        raise Unusable("has a cluster marked by a point, so it is not known how far it reaches")
    if len(outlines) > _MOST_OBJECTS:
        return _draw(outlines, shape, spacing_mm, 0.0), None
    objects = np.zeros(shape, np.uint16)
    for bit, points in enumerate(outlines):
        objects |= _draw([points], shape, spacing_mm, 0.0).astype(np.uint16) << bit
    return objects > 0, objects


def _draw(
    outlines: Iterable[np.ndarray],
    shape: tuple[int, ...],
    spacing_mm: tuple[float, float],
    radius_mm: float,
) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for points in outlines:
        if len(points) > 2:
            draw_polygon(mask, points)
        else:
            for point in points:
                draw_disc(mask, point, radius_mm, spacing_mm)
    return mask


def draw_polygon(mask: np.ndarray, points: np.ndarray) -> None:
    """Marks in `mask`, bool [H, W], the pixels whose centers a polygon encloses.

    One so small that it encloses none marks the pixels on which its points fall. What an outline
    encloses twice, for it was drawn over its own beginning, is inside too.

    Args:
      mask: changed in place.
      points: float [n, 2], (x, y) in pixels with pixel centers at integers.
    """
    height, width = mask.shape
    x, y = points.T
    next_x, next_y = np.roll(points, -1, axis=0).T
    first, last = (int(n) for n in np.clip([np.ceil(y.min()), np.floor(y.max()) + 1], 0, height))
    rows = np.arange(first, last)[:, None]
    down, up = (y <= rows) & (rows < next_y), (next_y <= rows) & (rows < y)
    row, edge = np.nonzero(down | up)
    share = (row + first - y[edge]) / (next_y - y)[edge]
    column = np.ceil(x[edge] + share * (next_x - x)[edge]).clip(0, width).astype(int)
    turns = np.zeros((len(rows), width + 1), np.int32)
    np.add.at(turns, (row, column), np.where(down[row, edge], 1, -1))
    inside = np.cumsum(turns, axis=1)[:, :width] != 0
    mask[first:last] |= inside
    if not inside.any():
        _mark(mask, points)


def draw_disc(
    mask: np.ndarray, center: np.ndarray, radius_mm: float, spacing_mm: tuple[float, float]
) -> None:
    """Marks in `mask` the pixels whose centers lie within a radius, and the one at the center.

    Args:
      mask: bool [H, W], changed in place.
      center: (x, y) in pixels.
      radius_mm: of the disc.
      spacing_mm: of the pixels, (row, column).
    """
    row, column = np.ogrid[: mask.shape[0], : mask.shape[1]]
    down, right = (row - center[1]) * spacing_mm[0], (column - center[0]) * spacing_mm[1]
    near_rows = np.abs(down[:, 0]) <= radius_mm
    mask[near_rows] |= np.hypot(down[near_rows], right) <= radius_mm
    _mark(mask, center[None])


def _mark(mask: np.ndarray, points: np.ndarray) -> None:
    column, row = np.floor(points + 0.5).T
    inside = (row >= 0) & (row < mask.shape[0]) & (column >= 0) & (column < mask.shape[1])
    mask[row[inside].astype(int), column[inside].astype(int)] = True
