"""Pictures of an experiment as PNG bytes: dots over seeds, curve pairs, augmentation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mln_flax.experiments.core import Experiment, config_of
from mln_flax.experiments.tables import Outcome, means, targets, unseen_means
from mln_flax.results import plots
from mln_flax.results.statistics import mean_and_deviation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Row or group -> seed -> a mean over images.
Values = Mapping[str, Mapping[int, float]]
_SCORES = {"TPR": "tpr", "Pr": "precision", "DSC": "dsc"}
_BAR = "#c9dff0"  # lighter than every dot
_GRID = "#e6e6e6"


class Picture(NamedTuple):
    """A picture and what it shows."""

    png: bytes
    caption: str


def pictures(experiment: Experiment, outcome: Outcome) -> dict[str, Picture]:
    """Every picture of the report by the name of its file; none of a source without a run."""
    by_name = {}
    for source in experiment.sources:
        if not any(trained_on == source for _, trained_on, _ in outcome):
            continue
        by_name[f"dots-{source}"] = Picture(
            dot_plot(experiment, outcome, source),
            f"DSC of every row trained on {source}: a dot is a seed, a bar the mean over seeds.",
        )
        if experiment.figure:
            draw, caption = _FIGURES[experiment.figure]
            by_name[f"{experiment.figure}-{source}"] = Picture(
                draw(experiment, outcome, source), f"Trained on {source}. {caption}"
            )
    return by_name


def dot_plot(experiment: Experiment, outcome: Outcome, source: str) -> bytes:
    """DSC across, rows down: a panel for the mean over unseen targets and one for each domain."""
    rows = [row.name for row in experiment.shown() if source in experiment.sources_of(row)]
    panels = {"mean of the unseen": _unseen(experiment, outcome, rows, source, "dsc")}
    for domain in (*targets(experiment, source), source):
        name = f"{domain} (source)" if domain == source else domain
        panels[name] = {row: means(outcome, row, source, domain, "dsc") for row in rows}
    figure = plots.chart(2.2 + 1.9 * len(panels), 1.2 + 0.32 * len(rows))
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, values) in zip(every, panels.items(), strict=True):
        _dots(axes, rows, values)
        axes.set(title=title, xlabel="DSC")
        axes.set_xlim(0, _top(panels.values()))
        axes.grid(axis="x", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        plots.sober(axes)
    every[0].set_yticks(range(len(rows)), rows)
    every[0].invert_yaxis()
    return plots.png(figure)


def pair_plot(experiment: Experiment, outcome: Outcome, source: str) -> bytes:
    """DSC against the number of curve pairs, a line for each strategy (the paper's Fig. 8)."""
    lines = _strategies(experiment, source)
    rows = [row for points in lines.values() for row in points.values()]
    panels = {
        "mean of the unseen": _unseen(experiment, outcome, rows, source, "dsc"),
        f"{source} (source)": {row: means(outcome, row, source, source, "dsc") for row in rows},
    }
    figure = plots.chart(9, 3.8)
    every = figure.subplots(1, 2, sharey=True)
    numbers = sorted({pairs for points in lines.values() for pairs in points})
    for axes, (title, values) in zip(every, panels.items(), strict=True):
        for place, (strategy, points) in enumerate(lines.items()):
            spreads = [mean_and_deviation(values[row].values()) for row in points.values()]
            mean, deviation = np.array(spreads).T
            axes.errorbar(
                np.array(list(points)) + 0.04 * place,  # beside each other, so that all are seen
                mean,
                np.nan_to_num(deviation),
                fmt="o-",
                color=plots.LINES[place],
                capsize=3,
                linewidth=1.4,
                markersize=5,
                label=strategy,
            )
        axes.set(title=title, xlabel="pairs of control points", xticks=numbers)
        axes.set_ylim(0, _top(panels.values()))
        axes.grid(color=_GRID, linewidth=0.8)
        plots.sober(axes)
    every[0].set_ylabel("DSC")
    _legend(figure, every[0], len(lines))
    return plots.png(figure)


def augmentation_plot(experiment: Experiment, outcome: Outcome, source: str) -> bytes:
    """TPR, Pr and DSC as groups of bars, a bar for each row (the paper's Fig. 9)."""
    rows = [row.name for row in experiment.shown() if source in experiment.sources_of(row)]
    figure = plots.chart(10, 3.8)
    every = figure.subplots(1, 2, sharey=True)
    width = 0.8 / len(rows)
    for axes, title in zip(every, ("mean of the unseen", f"{source} (source)"), strict=True):
        for number, row in enumerate(rows):
            color = plots.LINES[number % len(plots.LINES)]
            for place, metric in enumerate(_SCORES.values()):
                values = (
                    means(outcome, row, source, source, metric)
                    if title.endswith("(source)")
                    else unseen_means(outcome, experiment, row, source, metric)
                )
                at = place + (number - (len(rows) - 1) / 2) * width
                mean, _ = mean_and_deviation(values.values())
                label = row if place == 0 else None
                axes.bar(at, mean, width * 0.92, color=color, alpha=0.55, label=label)
                axes.plot([at] * len(values), list(values.values()), ".", color=color)
        axes.set_xticks(range(len(_SCORES)), list(_SCORES))
        axes.set(title=title, ylim=(0, 1))
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        plots.sober(axes)
    _legend(figure, every[0], len(rows))
    return plots.png(figure)


_FIGURES: dict[str, tuple[Callable[[Experiment, Outcome, str], bytes], str]] = {
    "pairs": (
        pair_plot,
        "DSC against the number of pairs of control points, for curves at equal steps (mean) and "
        "drawn ones (random); bars are standard deviations over seeds (the paper's Fig. 8).",
    ),
    "augmentation": (
        augmentation_plot,
        "TPR, precision and DSC: a bar is the mean over seeds, a dot a seed (the paper's Fig. 9). "
        "Where nothing was marked there is no precision, and no dot.",
    ),
}


def _unseen(
    experiment: Experiment, outcome: Outcome, rows: Sequence[str], source: str, metric: str
) -> Values:
    return {row: unseen_means(outcome, experiment, row, source, metric) for row in rows}


def _strategies(experiment: Experiment, source: str) -> dict[str, dict[int, str]]:
    """Strategy -> number of pairs -> row."""
    lines: dict[str, dict[int, str]] = {}
    for row in experiment.shown():
        if source in experiment.sources_of(row):
            views = config_of(experiment, row, source, experiment.seeds[0]).views
            lines.setdefault(views.strategy, {})[views.pairs] = row.name
    return {strategy: dict(sorted(points.items())) for strategy, points in lines.items()}


def _dots(axes: "Axes", rows: Sequence[str], values: Values) -> None:
    for place, row in enumerate(rows):
        scores = list(values[row].values())
        if scores:
            axes.barh(place, np.mean(scores), height=0.6, color=_BAR)
            axes.plot(scores, [place] * len(scores), "o", color=plots.LINES[0], markersize=3.5)


def _legend(figure: "Figure", axes: "Axes", columns: int) -> None:
    """The colors' meaning below all panels, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False
    )


def _top(panels: Iterable[Values]) -> float:
    """A common end of the axis: the next tenth above the largest value, at most 1."""
    largest = max(
        (v for values in panels for row in values.values() for v in row.values()), default=1
    )
    return min(1.0, (np.floor(largest * 10) + 1) / 10)
