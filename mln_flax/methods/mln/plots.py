"""How often each branch was chosen, as heat maps."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mln_flax.results.plots import INK, LINES, chart, png, sober

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Matrix(NamedTuple):
    """How often each branch (column) was chosen for each kind of image (row)."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: np.ndarray  # int [rows, columns]
    expected: tuple[int, ...] = ()  # per row: the branch that is right, where one is


def choice_matrices(views: Matrix, domains: Matrix, rule: str) -> bytes:
    """Heat maps of the branch that `rule` chose: source images per view, test images per domain.

    A frame marks the branch that belongs to a view; shades are shares of the row.
    """
    height = 1.3 + 0.5 * max(len(views.rows), len(domains.rows))
    figure = chart(11, height)
    left, right = figure.subplots(1, 2)
    _heat_map(left, views, f"Source test images through each view ({rule})")
    _heat_map(right, domains, f"Test images of each domain ({rule})")
    return png(figure)


def _heat_map(axes: "Axes", matrix: Matrix, title: str) -> None:
    from matplotlib.patches import Rectangle

    shares = matrix.counts / np.maximum(matrix.counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.1, aspect="auto")
    for (row, column), count in np.ndenumerate(matrix.counts):
        color = "white" if shares[row, column] > 0.6 else INK
        axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=9)
    for row, column in enumerate(matrix.expected):
        edge = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(edge, 1, 1, fill=False, edgecolor=LINES[1], linewidth=1.8))
    axes.set_xticks(range(len(matrix.columns)), matrix.columns)
    axes.set_yticks(range(len(matrix.rows)), matrix.rows)
    axes.set(title=title, xlabel="chosen branch")
    sober(axes)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
