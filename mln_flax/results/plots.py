"""Pictures of results as PNG bytes: curves, choices, examples, contact sheets."""

import io
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from mln_flax.types import Record, UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colors that also differ in lightness, so that they stay apart for the color-blind (after Okabe
# and Ito's palette, brightened for small marks on gray).
COLORS = {"true positive": "#f0e442", "false positive": "#e0521b", "missed": "#56b4e9"}
_LABEL = "#56b4e9"
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK = "#333333"
_GAP_PX = 10
_PANEL_PX = 384  # an example's panel is at least about this high and wide
_CELL_PX = 256  # and so is a picture of a contact sheet
_SHEET_PX = 1240  # about the width of a sheet of thumbnails
_MARGIN_PX = 5  # around a thumbnail, so that the outline of a label at its edge is seen
_AROUND = 225  # gray level of what a thumbnail leaves of its cell
_LETTER_PX = 7  # about the mean width of a letter of a title


def training_curve(lines: Sequence[Record]) -> bytes:
    """Losses against step; beside them other scalars of training and the source validation.

    Of lines about the same step the later one counts: a resumed run repeats steps. Raises
    UserError where no line has a loss.
    """
    scalars = [name for name in _scalars(lines) if _by_step(lines, name)]
    losses = [name for name in scalars if "loss" in name]
    if not losses:
        raise UserError("train.jsonl holds no loss; --mode=train writes it")
    figure = chart(11, 3.6)
    left, right = figure.subplots(1, 2)
    for name, color in zip(losses, itertools.cycle(LINES), strict=False):
        _line(left, lines, name, color, 1.4)
    left.set(title="Training loss", xlabel="step")
    for name, gray in zip(
        [name for name in scalars if name not in losses], itertools.cycle(_GRAYS), strict=False
    ):
        _line(right, lines, name, gray, 1.2)
    per_view = _by_step(lines, "validation_dsc_per_view")
    for view, color in zip(_keys(per_view.values()), itertools.cycle(LINES[1:]), strict=False):
        points = {step: scores[view] for step, scores in per_view.items() if view in scores}
        right.plot(
            list(points), list(points.values()), color=color, linewidth=1, alpha=0.7, label=view
        )
    validation = _by_step(lines, "validation_dsc")
    if validation:
        right.plot(
            list(validation), list(validation.values()), "o-", color=LINES[0], label="validation"
        )
    right.set(title="In training, and DSC on source validation", xlabel="step", ylim=(0, 1))
    if len(losses) > 1:
        left.legend(fontsize=8, frameon=False)
    if right.get_legend_handles_labels()[0]:  # a loss may be all that there is
        right.legend(fontsize=8, frameon=False, ncols=2, loc="lower right")
    for axes in (left, right):
        axes.grid(color="#e6e6e6", linewidth=0.8)
        sober(axes)
    return png(figure)


# What the loop itself writes of an interval, beside the method's scalars.
_OF_THE_LOOP = (
    "step learning_rate seconds images_per_s input_wait input_alone_images_per_s "
    "validation_dsc threshold min_pixels"
).split()
_GRAYS = ("#b0b0b0", "#808080", "#505050")


def _scalars(lines: Sequence[Record]) -> list[str]:
    """The names of the numbers that a method's steps gave."""
    return [
        name
        for name in _keys(lines)
        if name not in _OF_THE_LOOP
        and any(isinstance(line.get(name), int | float) for line in lines)
    ]


def _line(axes: "Axes", lines: Sequence[Record], name: str, color: str, width: float) -> None:
    points = _by_step(lines, name)
    label = name.replace("_", " ")
    axes.plot(list(points), list(points.values()), color=color, linewidth=width, label=label)


def example(image: np.ndarray, mask: np.ndarray, prediction: np.ndarray) -> bytes:
    """One image three times: its label outlined, the prediction's hits and errors, a close-up.

    Args:
      image: uint8 [H, W].
      mask: {0, 1} [H, W], the reference.
      prediction: {0, 1} [H, W].

    Returns:
      A picture in which every pixel is a square of whole screen pixels, at least three in the
      close-up. The close-up shows where most marks are: about 100 pixels, at most a third of a
      side.
    """
    height, width = image.shape
    scale = max(1, math.ceil(_PANEL_PX / max(height, width)))
    mask, prediction = mask > 0, prediction > 0
    colored = _overlay(image, mask, prediction)
    zoom = max(3, round(max(height, width) / 100))
    box = _close_up(mask | prediction, zoom)
    panels = [
        _outlined(image, mask, scale),
        _framed(_enlarged(colored, scale), box, scale),
        # A side that the zoom does not divide makes the close-up a little too large.
        _enlarged(colored[box], zoom * scale)[: height * scale, : width * scale],
    ]
    titles = ["label (outlined)", "prediction against label", "close-up of the frame"]
    return _row_of_panels(panels, titles)


def contact_sheet(
    pictures: Sequence[tuple[np.ndarray, np.ndarray | None, str]], columns: int = 4
) -> bytes:
    """Pictures with titles in rows, the label's outline around its pixels where there is one.

    Args:
      pictures: image uint8 [H, W], mask {0, 1} [H, W] or None, title. All of one shape.
      columns: pictures in a row.

    Raises:
      ValueError: there is no picture.
    """
    if not pictures:
        raise ValueError("a contact sheet of 0 pictures; allowed: 1 or more")
    height, width = pictures[0][0].shape
    scale = max(1, math.ceil(_CELL_PX / max(height, width)))
    cell = (width * scale + _GAP_PX, height * scale + _GAP_PX + 18)
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    figure = _canvas(columns * cell[0] + _GAP_PX, rows * cell[1] + _GAP_PX)
    for number, (image, mask, title) in enumerate(pictures):
        shown = np.zeros_like(image) if mask is None else mask
        rgb = _outlined(image, shown > 0, scale)
        row, column = divmod(number, columns)
        _place(figure, rgb, _GAP_PX + column * cell[0], _GAP_PX + 18 + row * cell[1], title)
    return png(figure)


def thumbnail_sheet(thumbnails: Sequence[tuple[np.ndarray, np.ndarray, str]]) -> bytes:
    """A contact sheet of pictures of any shapes, in cells of one size, none of them scaled.

    Args:
      thumbnails: image uint8 [H, W], mask {0, 1} [H, W], title; one or more.
    """
    shapes = np.array([image.shape for image, _, _ in thumbnails]) + 2 * _MARGIN_PX
    longest = max(len(title) for _, _, title in thumbnails)
    height = max(_CELL_PX, *shapes[:, 0])
    width = min(max(*shapes[:, 1], _LETTER_PX * longest), _SHEET_PX)
    cells = [
        (_centered(image, height, width, _AROUND), _centered(mask, height, width, 0), title)
        for image, mask, title in thumbnails
    ]
    return contact_sheet(cells, columns=max(1, _SHEET_PX // width))


def _by_step(lines: Sequence[Record], key: str) -> dict[int, Any]:
    """Step -> value, in the order of steps, of the lines that have one."""
    values = {line["step"]: line[key] for line in lines if line.get(key) is not None}
    return dict(sorted(values.items()))


def _keys(dictionaries: Any) -> list[str]:
    return list(dict.fromkeys(key for dictionary in dictionaries for key in dictionary))


def chart(width: float, height: float) -> "Figure":
    """An empty figure, sizes in inches, that lays out its panels itself."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=140, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    return figure


def sober(axes: "Axes") -> None:
    """Gives a panel the look that all have: no frame above and beside, small gray numbers."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(10)
    axes.tick_params(labelsize=8, colors=INK)


def _rgb(color: str) -> np.ndarray:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], np.uint8)


def _overlay(image: np.ndarray, mask: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The image in gray, hits and errors painted over: uint8 [H, W, 3]."""
    # Dimmed, because bright calcifications and white backgrounds would compete with the colors.
    rgb = np.repeat((image * 0.6).astype(np.uint8)[..., None], 3, axis=2)
    rgb[mask & prediction] = _rgb(COLORS["true positive"])
    rgb[prediction & ~mask] = _rgb(COLORS["false positive"])
    rgb[mask & ~prediction] = _rgb(COLORS["missed"])
    return rgb


def _enlarged(array: np.ndarray, scale: int) -> np.ndarray:
    return array.repeat(scale, axis=0).repeat(scale, axis=1)


def _centered(picture: np.ndarray, height: int, width: int, around: int) -> np.ndarray:
    cell = np.full((height, width), around, np.uint8)
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    cell[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return cell


def _outlined(image: np.ndarray, mask: np.ndarray, scale: int) -> np.ndarray:
    """The enlarged image with a thin line around the mask, one screen pixel away from it."""
    rgb = np.repeat(_enlarged(image, scale)[..., None], 3, axis=2)
    large = _enlarged(mask, scale)
    near = ndimage.binary_dilation(large)
    rgb[ndimage.binary_dilation(near) & ~near] = _rgb(_LABEL)
    return rgb


def _close_up(marks: np.ndarray, zoom: int) -> tuple[slice, slice]:
    """The window, `zoom` times smaller, with most marks; the middle where there are none."""
    sides = [math.ceil(size / zoom) for size in marks.shape]
    density = ndimage.uniform_filter(marks.astype(np.float32), sides, mode="constant")
    # Many windows hold equally many: the middle of them leaves the marks in the middle.
    centers = np.argwhere(density >= density.max() - 1e-6)
    center = centers[np.argmin(np.abs(centers - centers.mean(axis=0)).sum(axis=1))]
    starts = [
        int(np.clip(middle - side // 2, 0, size - side))
        for middle, side, size in zip(center, sides, marks.shape, strict=True)
    ]
    rows, columns = (slice(start, start + side) for start, side in zip(starts, sides, strict=True))
    return rows, columns


def _framed(rgb: np.ndarray, box: tuple[slice, slice], scale: int) -> np.ndarray:
    """The enlarged picture with a white frame around a box of the small one."""
    inside = np.zeros(rgb.shape[:2], bool)
    inside[tuple(slice(part.start * scale, part.stop * scale) for part in box)] = True
    rgb = rgb.copy()
    rgb[inside & ~ndimage.binary_erosion(inside)] = 255
    return rgb


def _row_of_panels(panels: list[np.ndarray], titles: list[str]) -> bytes:
    """Panels beside each other under their titles, the colors' meaning below."""
    from matplotlib.lines import Line2D

    height = max(panel.shape[0] for panel in panels)
    width = sum(panel.shape[1] + _GAP_PX for panel in panels) + _GAP_PX
    figure = _canvas(width, height + 22 + 30)
    left = _GAP_PX
    for panel, title in zip(panels, titles, strict=True):
        _place(figure, panel, left, 22, title)
        left += panel.shape[1] + _GAP_PX
    entries = [
        Line2D([], [], marker="s", linestyle="", color=color, markeredgecolor=INK, label=name)
        for name, color in COLORS.items()
    ]
    figure.legend(handles=entries, loc="lower left", ncols=3, frameon=False, fontsize=9)
    return png(figure)


def _canvas(width_px: int, height_px: int) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width_px / 100, height_px / 100), dpi=100, facecolor="white")


def _place(figure: "Figure", rgb: np.ndarray, left: int, top: int, title: str) -> None:
    """An array put on the canvas pixel by pixel, its title above it."""
    width, height = (figure.get_size_inches() * figure.dpi).round().astype(int)
    bottom = height - top - rgb.shape[0]
    box = (left / width, bottom / height, rgb.shape[1] / width, rgb.shape[0] / height)
    axes = figure.add_axes(box)
    axes.imshow(rgb, interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color="#c8c8c8", linewidth=0.8)
    axes.set_title(title, fontsize=9, color=INK, pad=4, loc="left", parse_math=False)


def png(figure: "Figure") -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
