"""Detection in whole images: tables and pictures, functions of the recorded lines alone."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mln_flax.metrics import froc
from mln_flax.metrics.calibration import reliability
from mln_flax.results import plots
from mln_flax.results.statistics import finite_mean
from mln_flax.results.table_layout import Table, number
from mln_flax.results.tables import domain_name, grouped
from mln_flax.types import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEFT = 0.03  # false marks per image: where the picture begins
_NAMES = {"clusters": "clusters", "objects": "calcifications"}  # a unit's references
_GRID = "#e6e6e6"
_TITLE = {"title_fontsize": 8, "alignment": "left"}
_TICKS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
_STYLES = ("-", "--", ":", "-.")


def sensitivity_table(
    records: Iterable[Record], unit: str = "clusters", counted_on: str = "normal"
) -> Table:
    """Per domain the sensitivity at each rate of false marks, and the partial area, with intervals.

    Args:
      records: all lines; those of the kind `whole` count.
      unit: clusters, objects.
      counted_on: images on which false marks are counted, as in `froc.curve`.

    Raises:
      UserError: no whole image was recorded.
    """
    rows, on_all = [], []
    for name, group in whole_images(records).items():
        curve, spread = _curve(group, unit, counted_on)
        values = zip(froc.sensitivity_at(curve), spread.sensitivity, strict=True)
        normal = sum(record["detection"]["normal"] for record in group)
        area = _cell(froc.partial_area(curve), spread.partial_area)
        counts = (str(count) for count in (len(group), normal, curve.references))
        rows.append((name, *counts, *(_cell(*value) for value in values), area))
        on_all += [name] if curve.counted_on != counted_on else []
    where = "normal images alone" if counted_on == "normal" else "all images"
    note = (
        f"The highest sensitivity at a threshold with at most so many false {unit} per image, "
        f"counted on {where}; area: the mean sensitivity over rates from 0 to 1. In brackets: 95% "
        "of 2000 resamples of patients."
    )
    if on_all:
        note += f" Without normal images, so counted on all: {', '.join(on_all)}."
    rates = (f"at {rate:g}" for rate in froc.RATES)
    header = ("domain", "images", "normal", _NAMES[unit], *rates, "area")
    return Table(f"Sensitivity, {_NAMES[unit]}", header, tuple(rows), note)


def point_table(records: Iterable[Record]) -> Table:
    """Per domain what is found and what is false at the operating point of the whole images.

    Raises UserError where no whole image was recorded.
    """
    rows = []
    for name, group in whole_images(records).items():
        thresholds = {record["point"].get("threshold") for record in group}
        level = froc.level(thresholds.pop()) if len(thresholds) == 1 else None
        curve = froc.curve([record["detection"] for record in group])
        found, rate = "-", math.nan
        if level is not None:
            hits = sum(record["detection"]["clusters_found"][level] for record in group)
            found, rate = f"{hits} of {curve.references}", float(curve.rate[level])
        point = group[0]["point"]
        cells = (number(finite_mean([point.get(k)]), 4) for k in ("threshold", "asked", "reached"))
        rows.append((name, str(len(group)), *cells, found, number(rate), curve.counted_on))
    header = (
        *("domain", "images", "threshold", "asked", "on validation"),
        *("clusters found", "false per image", "counted on"),
    )
    note = (
        "Asked: false clusters per normal image; on validation: what the threshold gave where it "
        "was chosen, on source validation alone."
    )
    return Table("At the operating point", header, tuple(rows), note)


def calibration_table(records: Iterable[Record]) -> Table:
    """Per domain how often clusters of about one score are right: a calibrated score is the share.

    Raises UserError where no whole image was recorded.
    """
    rows = []
    for name, group in whole_images(records).items():
        scored = _scored(group)
        bins = reliability(scored)
        for some in [*bins, *(reliability(scored, 1) if len(bins) > 1 else ())]:
            low, high = some.interval()
            rows.append(
                (
                    name,
                    f"{some.low:.4f} to {some.high:.4f}",
                    str(some.clusters),
                    number(some.mean_score),
                    number(some.share),
                    f"{low:.3f} to {high:.3f}",
                )
            )
    header = ("domain", "scores", "clusters", "mean score", "share right", "95% interval")
    note = (
        "Clusters marked at the operating point, in groups of near scores, all of a domain last. "
        "Right: it finds a labeled cluster. Interval: Wilson's."
    )
    return Table("Calibration of cluster scores", header, tuple(rows), note)


def froc_picture(records: Iterable[Record], counted_on: str = "normal") -> bytes:
    """FROC curves as PNG: a line for each domain, one panel for clusters and one for objects.

    Bars are the intervals of `sensitivity_table`. Raises UserError where no whole image was
    recorded.
    """
    groups = whole_images(records)
    figure = plots.chart(11, 4.8)
    for axes, unit in zip(figure.subplots(1, 2, sharey=True), froc.UNITS, strict=True):
        for place, (name, group) in enumerate(groups.items()):
            curve, spread = _curve(group, unit, counted_on)
            if curve.references:
                label = f"{name}: {curve.references}"
                label += ", on all images" if curve.counted_on != counted_on else ""
                _froc_line(axes, curve, spread, place, label)
        where = "normal image" if counted_on == "normal" else "image"
        axes.set(title=f"{_NAMES[unit].capitalize()} found", xlabel=f"false {unit} per {where}")
        axes.set(xscale="log", xlim=(_LEFT, 8), ylim=(0, 1.02))
        axes.set_xticks(froc.RATES, [f"{rate:g}" for rate in froc.RATES])
        axes.minorticks_off()
        axes.grid(color=_GRID, linewidth=0.8)
        plots.sober(axes)
        if axes.get_legend_handles_labels()[0]:
            below = {"loc": "upper left", "bbox_to_anchor": (0, -0.16), "ncols": 2}
            axes.legend(fontsize=8, frameon=False, title="domain: labeled", **below, **_TITLE)
        else:
            axes.text(0.5, 0.5, "nothing is labeled", transform=axes.transAxes, ha="center")
    figure.axes[0].set_ylabel("sensitivity")
    return plots.png(figure)


def calibration_picture(records: Iterable[Record]) -> bytes:
    """The share of right clusters against their score as PNG, a line for each domain.

    Raises UserError where no whole image was recorded.
    """
    groups = whole_images(records)
    figure = plots.chart(7.4, 4.2)
    axes = figure.subplots()
    scores = [cluster["score"] for group in groups.values() for cluster in _scored(group)]
    left = _logit(np.array(min(scores, default=0.5))) - 0.3
    line = np.linspace(left, _logit(np.array(1)), 200)
    axes.plot(line, 1 / (1 + np.exp(-line)), color="#808080", linewidth=0.8, label="calibrated")
    for place, (name, group) in enumerate(groups.items()):
        bins = reliability(_scored(group))
        ends = np.array([some.interval() for some in bins]).reshape(-1, 2)
        share = np.array([some.share for some in bins])
        axes.errorbar(
            _logit(np.array([some.mean_score for some in bins])),
            share,
            np.abs(ends.T - share),
            marker="o",
            markersize=4,
            linewidth=1.2,
            elinewidth=0.8,
            linestyle=_style(place),
            color=_color(place),
            label=f"{name}: {sum(some.clusters for some in bins)}",
        )
    axes.set(title="Marked clusters that are right", xlabel="score", ylabel="share")
    axes.set_xticks(_logit(np.array(_TICKS)), [f"{tick:g}" for tick in _TICKS])
    axes.set(xlim=(left, line[-1] + 0.3), ylim=(0, 1.02))
    axes.grid(color=_GRID, linewidth=0.8)
    figure.legend(
        fontsize=8, frameon=False, loc="outside right upper", title="domain: marked", **_TITLE
    )
    plots.sober(axes)
    return plots.png(figure)


def whole_images(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The lines of whole images by domain as tables name it, the source first.

    Images of another part than the test stand apart, as what was chosen on them flatters them.
    """
    whole = [record for record in records if record["kind"] == "whole"]
    groups: dict[str, list[Record]] = {}
    domains = grouped(whole, "domain", "no whole image was recorded")
    for domain, group in sorted(domains.items(), key=lambda item: item[1][0]["role"] != "source"):
        for part, some in itertools.groupby(sorted(group, key=_part), _part):
            name = domain_name(domain, some_records := list(some))
            groups[name if part[1] == "test" else f"{name}, {part[1]}"] = some_records
    return groups


def _part(record: Record) -> tuple[bool, str]:
    return record["part"] != "test", record["part"]


def _curve(
    group: Sequence[Record], unit: str, counted_on: str
) -> tuple[froc.Curve, froc.Intervals]:
    counts = [record["detection"] for record in group]
    patients = [record["patient_id"] for record in group]
    return (
        froc.curve(counts, unit, counted_on),
        froc.intervals(counts, patients, unit, counted_on),
    )


def _scored(group: Sequence[Record]) -> list[Record]:
    return [cluster for record in group for cluster in record["clusters"]]


def _cell(value: float, ends: np.ndarray) -> str:
    """`0.82 (0.61-0.93)`; a dash where there is no reference."""
    if not math.isfinite(value):
        return "-"
    low, high = (number(float(end), 2) for end in ends)
    return f"{number(float(value), 2)} ({low}-{high})"


def _froc_line(
    axes: "Axes", curve: froc.Curve, spread: froc.Intervals, place: int, label: str
) -> None:
    """The steps of one curve, and its intervals beside those of the other domains."""
    rates = np.unique(np.concatenate([np.maximum(curve.rate, _LEFT), [_LEFT, 100.0]]))
    highest = froc.sensitivity_at(curve, rates)
    color = _color(place)
    axes.plot(
        rates,
        highest,
        _style(place),
        drawstyle="steps-post",
        color=color,
        linewidth=1.6,
        label=label,
    )
    beside = np.array(froc.RATES) * 1.035**place
    axes.vlines(beside, *spread.sensitivity.T, color=color, linewidth=2.4, alpha=0.35)


def _logit(score: np.ndarray) -> np.ndarray:
    """Scores crowd near 1; drawn in their logit they stand apart. Up to 0.9999, as the ladder."""
    clipped = np.clip(score, 1e-4, 1 - 1e-4)
    return np.log(clipped / (1 - clipped))


def _color(place: int) -> str:
    return plots.LINES[place % len(plots.LINES)]


def _style(place: int) -> str:
    return _STYLES[place // len(plots.LINES) % len(_STYLES)]
