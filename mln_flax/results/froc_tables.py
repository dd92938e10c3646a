"""Detection in a data set's whole images: tables, numbers and the picture, from records alone."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mln_flax.metrics import froc
from mln_flax.metrics.bootstrap import ratio_interval
from mln_flax.results import plots
from mln_flax.results.table_layout import Table, number
from mln_flax.types import Record

RULE = (
    "A labeled cluster is found where the middle of a marked cluster lies in it or at most 2.5 mm "
    "beside it, or where its own middle lies in the marked cluster's hull and that hull has at "
    "most four times its area; a marked cluster that finds none is false. Of labels that show "
    "single calcifications, clusters are made by the rule for marked ones."
)
_UNITS = {"clusters": "clusters", "images": "images with a cluster"}
_LEFT = 0.03  # false clusters per image: where the picture begins
_INTERVAL = "In brackets: 95% of 2000 resamples of patients."


class Share(NamedTuple):
    """A ratio of counts with its interval over patients."""

    part: float
    whole: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """The ratio; nan of nothing."""
        return self.part / self.whole if self.whole else math.nan

    def cell(self) -> str:
        """As a table shows it."""
        return _cell(self.value, (self.low, self.high))


def groups(lines: Sequence[Record]) -> dict[str, list[Record]]:
    """The images of each domain, and first of all together where there are several domains."""
    domains = sorted({line["domain"] for line in lines})
    of_domain = {name: [line for line in lines if line["domain"] == name] for name in domains}
    return of_domain if len(domains) == 1 else {"all": list(lines), **of_domain}


def counted(lines: Sequence[Record], unit: str = "clusters") -> list[Record]:
    """The counts of each image, as `froc.curve` takes them.

    Args:
      lines: of images.
      unit: "clusters", or "images": an image with clusters counts once, found if one of them is.
    """
    counts: list[Record] = [line["detection"] for line in lines]
    if unit == "clusters":
        return counts
    return [
        one
        | {
            "clusters": min(1, one["clusters"]),
            "clusters_found": [min(1, found) for found in one["clusters_found"]],
        }
        for one in counts
    ]


def at_point(lines: Sequence[Record]) -> dict[str, Share]:
    """At the operating point: the share of `clusters` and of `images` found, and `false` per image.

    False clusters are counted on images without a labeled calcification; where there are none on
    all.
    """
    normal = [line["detection"]["normal"] for line in lines]
    counts_on = normal if any(normal) else [True] * len(lines)
    found = [sum(truth["hit"] for truth in line["truths"]) for line in lines]
    known = [len(line["truths"]) for line in lines]
    false = [sum(not mark["hit"] for mark in line["clusters"]) for line in lines]
    patients = [line["patient_id"] for line in lines]

    def share(parts: Sequence[float], wholes: Sequence[float]) -> Share:
        return Share(sum(parts), sum(wholes), *ratio_interval(parts, wholes, patients))

    return {
        "clusters": share(found, known),
        "images": share([min(1, n) for n in found], [min(1, n) for n in known]),
        "false": share(
            [n * is_counted for n, is_counted in zip(false, counts_on, strict=True)],
            [int(is_counted) for is_counted in counts_on],
        ),
    }


def numbers(lines: Sequence[Record]) -> Record:
    """All numbers of the tables and of the curves, by group: plain JSON."""
    return {name: _numbers(group) for name, group in groups(lines).items()}


def _numbers(lines: Sequence[Record]) -> Record:
    shares = at_point(lines)
    units: dict[str, Any] = {}
    for unit in _UNITS:
        curve, spread = _curve(lines, unit)
        units[unit] = {
            "labeled": curve.references,
            "false_counted_on": {"images": curve.images, "which": curve.counted_on},
            "thresholds": froc.THRESHOLDS,
            "false_per_image": curve.rate,
            "sensitivity": curve.sensitivity,
            "at": [
                {"false_per_image": rate, "sensitivity": value, "interval": ends}
                for rate, value, ends in zip(
                    froc.RATES, froc.sensitivity_at(curve), spread.sensitivity, strict=True
                )
            ],
            "area": {"value": froc.partial_area(curve), "interval": spread.partial_area},
        }
    return {
        "counts": counts(lines),
        "operating_point": {
            **lines[0]["point"],
            **{name: {**share._asdict(), "value": share.value} for name, share in shares.items()},
        },
        **units,
    }


def counts(lines: Sequence[Record]) -> dict[str, int]:
    """How many images there are of each kind, patients and labeled clusters."""
    normal = [line for line in lines if line["detection"]["normal"]]
    with_clusters = [line for line in lines if line["truths"]]
    return {
        "images": len(lines),
        "patients": len({line["patient_id"] for line in lines}),
        "without calcifications": len(normal),
        "with clusters": len(with_clusters),
        "with calcifications, no cluster": len(lines) - len(normal) - len(with_clusters),
        "clusters": sum(len(line["truths"]) for line in lines),
    }


def tables(lines: Sequence[Record]) -> dict[str, Table]:
    """The tables by the names of their files: images, point, sensitivity."""
    return {
        "counts": _table_of_counts(lines),
        "point": _table_at_point(lines),
        "sensitivity": _table_of_sensitivity(lines),
    }


def _table_of_counts(lines: Sequence[Record]) -> Table:
    rows = {name: counts(group) for name, group in groups(lines).items()}
    columns = ("domain", *next(iter(rows.values())))
    return Table(
        "Images", columns, tuple((name, *map(str, row.values())) for name, row in rows.items())
    )


def _table_at_point(lines: Sequence[Record]) -> Table:
    rows = []
    for name, group in groups(lines).items():
        shares, point = at_point(group), group[0]["point"]
        cells = (
            text
            for share in (shares["clusters"], shares["images"])
            for text in (f"{share.part:.0f} of {share.whole:.0f}", share.cell())
        )
        false = shares["false"]
        on = f"{false.part:.0f} on {false.whole:.0f}"
        rows.append((name, number(point["threshold"], 4), *cells, on, false.cell()))
    columns = ("domain", "threshold", "clusters found", "of clusters", "images found", "of images")
    point = lines[0]["point"]
    by = "as set, or that of tiles"
    if point["images"]:
        by = f"the model's own, for {point['asked']:g} false clusters per image"
    on_all = not any(line["detection"]["normal"] for line in lines)
    where = "images without calcifications alone"
    if on_all:
        where = "all images, as none is without calcifications"
    return Table(
        "At the operating point",
        (*columns, "false clusters", "per image"),
        tuple(rows),
        f"Threshold: {by}; none was chosen on these images. An image is found if one of its "
        f"clusters is. False clusters: on {where}. {_INTERVAL}",
    )


def _table_of_sensitivity(lines: Sequence[Record]) -> Table:
    rows, on_all = [], False
    for name, group in groups(lines).items():
        for unit, word in _UNITS.items():
            curve, spread = _curve(group, unit)
            on_all = on_all or curve.counted_on == "all"
            values = zip(froc.sensitivity_at(curve), spread.sensitivity, strict=True)
            area = _cell(froc.partial_area(curve), spread.partial_area)
            cells = (_cell(*each) for each in values)
            rows.append((name, word, str(curve.references), *cells, area))
    rates = (f"at {rate:g}" for rate in froc.RATES)
    note = (
        "The highest sensitivity at a threshold with at most so many false clusters per image "
        f"without calcifications; area: the mean over rates from 0 to 1. {_INTERVAL}"
    )
    if on_all:
        note += " Where no image is without calcifications, on all images."
    return Table("Sensitivity", ("domain", "of", "labeled", *rates, "area"), tuple(rows), note)


def curve_table(lines: Sequence[Record]) -> Table:
    """A row for each domain and threshold: false clusters per image, sensitivities."""
    rows = []
    for name, group in groups(lines).items():
        curves = [froc.curve(counted(group, unit)) for unit in _UNITS]
        for level, threshold in enumerate(froc.THRESHOLDS):
            shares = (number(float(curve.sensitivity[level]), 4) for curve in curves)
            rate = number(float(curves[0].rate[level]), 4)
            rows.append((name, number(threshold, 6), rate, *shares))
    columns = ("domain", "threshold", "false_per_image", "clusters", "images_with_a_cluster")
    return Table("Curve", columns, tuple(rows))


def image_table(lines: Sequence[Record]) -> Table:
    """A row for each image: what is labeled, found and false in it."""
    rows = [
        (
            line["image"],
            line["image_id"],
            line["domain"],
            kind_of_image(line),
            str(len(line["truths"])),
            str(sum(truth["hit"] for truth in line["truths"])),
            str(sum(not mark["hit"] for mark in line["clusters"])),
        )
        for line in lines
    ]
    columns = ("image", "image_id", "domain", "kind", "labeled", "found", "false")
    return Table("Images", columns, tuple(rows))


def place_table(lines: Sequence[Record]) -> Table:
    """A row for each labeled cluster and each mark: what became of it, where, how sure."""
    rows = []
    for line in lines:
        scores = {mark["number"]: mark["score"] for mark in line["clusters"]}
        begin = (line["image"], line["image_id"])
        for truth in line["truths"]:
            score = max((scores[n] for n in truth["found_by"]), default=math.nan)
            what = "found" if truth["hit"] else "missed"
            rows.append((*begin, what, *_where(truth), number(score, 4), truth["crop"]))
        for mark in (mark for mark in line["clusters"] if not mark["hit"]):
            what = "false" if line["detection"]["normal"] else "false, not counted"
            rows.append((*begin, what, *_where(mark), number(mark["score"], 4), mark["crop"]))
    columns = ("image", "image_id", "what", "number", "row_px", "column_px", "extent_mm")
    return Table("Clusters", (*columns, "score", "crop"), tuple(rows))


def kind_of_image(line: Record) -> str:
    """What an image counts for."""
    if line["detection"]["normal"]:
        return "without calcifications"
    return "with clusters" if line["truths"] else "calcifications, no cluster"


def picture(lines: Sequence[Record]) -> bytes:
    """The FROC curve of all images as PNG, with intervals and the operating point."""
    figure = plots.chart(7.6, 4.6)
    axes = figure.subplots()
    shares = at_point(lines)
    for place, (unit, word) in enumerate(_UNITS.items()):
        curve, spread = _curve(lines, unit)
        if not curve.references:
            continue
        color, share = plots.LINES[place], shares[unit]
        rates = np.unique(np.concatenate([np.maximum(curve.rate, _LEFT), [_LEFT, 100.0]]))
        steps = froc.sensitivity_at(curve, rates)
        label = f"{word}: {curve.references}"
        axes.plot(rates, steps, drawstyle="steps-post", color=color, linewidth=1.6, label=label)
        beside = np.array(froc.RATES) * 1.035**place
        axes.vlines(beside, *spread.sensitivity.T, color=color, linewidth=2.4, alpha=0.3)
        at = (max(shares["false"].value, _LEFT), share.value)
        axes.plot(*at, "o", color=color, markersize=8, markeredgecolor="white")
    axes.set(title="Found against false clusters; dots: the operating point", ylabel="sensitivity")
    axes.set(xlabel="false clusters per image without calcifications")
    axes.set(xscale="log", xlim=(_LEFT, max(8.0, 1.3 * shares["false"].value)), ylim=(0, 1.02))
    axes.set_xticks(froc.RATES, [f"{rate:g}" for rate in froc.RATES])
    axes.minorticks_off()
    axes.grid(color="#e6e6e6", linewidth=0.8)
    plots.sober(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, loc="upper left")
    else:
        axes.text(0.5, 0.5, "no cluster is labeled", transform=axes.transAxes, ha="center")
    return plots.png(figure)


def by_reason(left_out: Sequence[Record], most: int = 8) -> list[str]:
    """A line for each reason: how many, why, and the first names."""
    reasons: dict[str, list[str]] = {}
    for each in left_out:
        reasons.setdefault(each["reason"], []).append(each["image"])
    lines = []
    for reason, names in reasons.items():
        more = f" and {len(names) - most} more" if len(names) > most else ""
        lines.append(f"{len(names)} not counted, {reason}: {', '.join(names[:most])}{more}")
    return lines


def _curve(lines: Sequence[Record], unit: str) -> tuple[froc.Curve, froc.Intervals]:
    records, patients = counted(lines, unit), [line["patient_id"] for line in lines]
    return froc.curve(records), froc.intervals(records, patients)


def _where(place: Record) -> tuple[str, ...]:
    lengths = (f"{place[name]:.1f}" for name in ("row_px", "column_px", "extent_mm"))
    return (str(place["number"]), *lengths)


def _cell(value: float, ends: Sequence[float] | np.ndarray) -> str:
    """`0.82 (0.61-0.93)`; a dash where nothing is counted."""
    if not math.isfinite(value):
        return "-"
    low, high = (number(float(end), 2) for end in ends)
    return f"{number(float(value), 2)} ({low}-{high})"
