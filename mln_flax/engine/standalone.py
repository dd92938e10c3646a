"""Masks for whole mammograms from ONE file, with jax and numpy alone. Research use only.

    python model.zip image.npy --spacing-mm 0.1 --output mask.npy

The file is what `python -m mln_flax.main --mode=export` writes; it holds this script as `run.py`.
`answer(load("model.zip"), image, 0.1)` is the same in a program of your own. An image is float
[H, W] in [0, 1], as `mln_flax` reads it from its file.
"""

import argparse
import importlib.util
import io
import json
import math
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

FORMAT = 2  # of the file
LEAST_SIDE, MOST_PIXELS = 8, 120_000_000  # of an image: of a side; in all
SEARCH_SIDE = 256  # pixels of the copy in which the breast is looked for
# Air, in shares of the gray range: how even around a pixel, how near to an end; and how much of an
# image, how many times what is as even at the other end.
EVEN, END, LEAST_AIR, MORE = 0.05, 0.15, 0.15, 1.5
FULL = 0.9  # share of breast in a tile by which a branch is chosen
MOST_FULL, LOOKED_AT = 24, 8  # by which it is chosen: tiles of an image, frames of a volume
GRID = 32  # pixels: of the places where tiles may begin
AROUND = 2  # pixels that interpolation takes from beyond the breast
Pair = tuple[float, float]  # (row, column)
Corner = tuple[int, int]  # (top, left) of a tile


class Model(NamedTuple):
    """An exported model."""

    facts: dict[str, Any]  # `model.json`
    # "alone": tiles [n, S, S] -> their "probability" [n, S, S] and "branch" [n]. Where tiles share
    # a choice "look": tiles [n, s, s] -> distances from the branches [n, k], smaller is nearer,
    # none so large that it alone decides a sum; and "answer": (tiles [n, S, S], distances [n, k]
    # that choose) -> as "alone".
    programs: dict[str, Callable[..., Any]]


class Answer(NamedTuple):
    """What is marked in an image, in its own pixels."""

    probability: np.ndarray  # float32 [H, W]; 0 outside the breast
    mask: np.ndarray  # bool [H, W]
    branch: str  # that answered; "" of a network without branches


class Scene(NamedTuple):
    """An image on its way through the network."""

    image: np.ndarray  # float32 [h, w], at the model's pixel size
    breast: np.ndarray  # bool [H, W]
    inside: np.ndarray  # bool [h, w]: the same at the model's pixel size
    spacing_mm: Pair  # of a pixel of [H, W]
    inverted: bool | None  # the air is white; None: no air is seen


def load(file: Any) -> Model:
    """The model in an exported file, a path or an open one; raises ValueError if it is none."""
    if importlib.util.find_spec("flatbuffers") is None:  # by which jax reads programs
        sys.path.append(str(file))  # which holds it
    try:
        with zipfile.ZipFile(file) as whole:
            facts = json.loads(whole.read("model.json"))
            if facts["format"] != FORMAT:
                raise ValueError(f"format {facts['format']}; this script reads format {FORMAT}")
            parameters = tuple(
                jax.device_put(np.load(io.BytesIO(whole.read(name))))
                for name in whole.namelist()
                if name.startswith("parameters/")
            )
            programs = {
                name: export.deserialize(bytearray(whole.read(f"{name}.bin")))
                for name in facts["programs"]
            }
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{file}: no exported model, or a damaged one ({error})") from None

    def ready(program: export.Exported) -> Callable[..., Any]:
        compiled = jax.jit(program.call)
        return lambda *rows: jax.device_get(compiled(parameters, *rows))

    return Model(facts, {name: ready(program) for name, program in programs.items()})


def answer(model: Model, image: np.ndarray, spacing_mm: Any = None) -> Answer:
    """The answer for an image [H, W] in [0, 1].

    Args:
      model: as loaded.
      image: of floats.
      spacing_mm: its pixels' size, a number or (row, column); None: not known.

    Raises:
      ValueError: not such an image or size.
    """
    return volume(model, [image], spacing_mm)[0]


def volume(model: Model, frames: Sequence[np.ndarray], spacing_mm: Any = None) -> list[Answer]:
    """The answers for frames of one case, which share a branch where the model says so."""
    scenes = [scene(model, frame, spacing_mm) for frame in frames]
    if model.facts["choice"] == "case":
        look = seen(model, [scenes[i] for i in spread(len(scenes), LOOKED_AT)])
        return [of_scene(model, frame, look) for frame in scenes]
    return [of_scene(model, frame, seen(model, [frame])) for frame in scenes]


def spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def scene(model: Model, image: np.ndarray, spacing_mm: Any) -> Scene:
    """The image at the model's pixel size, its breast, and the size of its own pixels."""
    facts, image = model.facts, np.asarray(image)
    if image.ndim != 2 or min(image.shape) < LEAST_SIDE or image.dtype.kind != "f":
        raise ValueError(f"image: {image.dtype} {image.shape}; allowed: floats [H, W], 8 or more")
    if not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(f"image: from {image.min()} to {image.max()}; allowed: 0 to 1")
    image, trained = image.astype(np.float32, copy=False), facts["spacing_mm"]
    given = spacing_mm if spacing_mm is not None else facts["usual_spacing_mm"]
    scale = (1.0, 1.0)
    if given is not None:
        given = np.broadcast_to(np.asarray(given, float), 2).tolist()
        if not all(0 < length < math.inf for length in given):
            raise ValueError(f"spacing_mm={spacing_mm}: must be above 0, in millimeters")
    if given is not None and trained is not None:
        scale = (given[0] / trained[0], given[1] / trained[1])
    elif facts["training_pixels"]:  # of a whole image: every one was brought to so many
        height, width = facts["training_pixels"]
        scale = (height / image.shape[0], width / image.shape[1])
    usual = trained or facts["assumed_mm"]
    own = (given[0], given[1]) if given else (usual[0] * scale[0], usual[1] * scale[1])
    size = [length * factor for length, factor in zip(image.shape, scale, strict=True)]
    if max(image.size, size[0] * size[1]) > MOST_PIXELS:
        raise ValueError(
            f"image: {image.shape}, and {size[0]:.0f}x{size[1]:.0f} at the model's pixel size; "
            f"allowed: {MOST_PIXELS:,} pixels"
        )
    shape = [max(1, round(length)) for length in size]
    breast = breast_mask(image)
    inverted = air_is_white(search_level(image))
    return Scene(resized(image, shape), breast, nearest(breast, shape), own, inverted)


def seen(model: Model, scenes: Sequence[Scene]) -> np.ndarray | None:
    """The distances [k] from the branches, summed over full tiles; None: each tile chooses.

    Those of the polarity that the air does not have are infinite.
    """
    side, look = model.facts["look_side"], model.programs.get("look")
    if look is None:
        return None
    sums = [
        look(tiles)[: len(part)].sum(axis=0)
        for frame in scenes
        for tiles, part in batches(model, frame, full_corners(frame.inside, side), side)
    ]
    if not sums:
        return None
    votes = sum({None: 0, False: -1, True: 1}[frame.inverted] for frame in scenes)
    other = np.array([side is not None and side != (votes > 0) for side in model.facts["inverted"]])
    is_told = votes and other.any() and not other.all()
    return np.sum(sums, axis=0) + (np.where(other, np.float32(np.inf), 0) if is_told else 0)


def full_corners(inside: np.ndarray, side: int) -> list[Corner]:
    """Where tiles side by side are nearly all breast, or the fullest is; MOST_FULL at most."""
    rows, columns = ([*range(0, n - side, side), max(0, n - side)] for n in inside.shape)
    shares = {
        (top, left): float(inside[window((top, left), side)].mean())
        for top in rows
        for left in columns
    }
    least = min(FULL, max(shares.values()))
    full = [corner for corner, share in shares.items() if share >= least > 0]
    return [full[i] for i in spread(len(full), MOST_FULL)]


def window(corner: Corner, side: int, around: int = 0) -> tuple[slice, slice]:
    """The rows and columns of a tile, and so many pixels around it."""
    top, left = (slice(max(0, at - around), at + side + around) for at in corner)
    return top, left


def of_scene(model: Model, scene: Scene, look: np.ndarray | None) -> Answer:
    """The answer for an image, by the distances that choose its branch."""
    facts = model.facts
    small, chosen = blended(model, scene, look)
    own = in_own_pixels(small, scene.breast.shape)
    probability = np.where(scene.breast, np.minimum(own, 1), np.float32(0))
    if not np.isfinite(probability).all():
        raise ValueError("the network's answer is no number (NaN): nothing can be marked")
    mask = marked(facts, probability, scene.spacing_mm)
    names = [facts["branches"][branch] for branch in chosen] if facts["branches"] else []
    return Answer(probability, mask, Counter(names).most_common(1)[0][0] if names else "")


def batches(
    model: Model, scene: Scene, corners: Sequence[Corner], side: int
) -> Iterator[tuple[np.ndarray, Sequence[Corner]]]:
    """Full batches of tiles [n, side, side], and the corners of those that count."""
    rows = model.facts["batch"]
    for start in range(0, len(corners), rows):
        part, tiles = corners[start : start + rows], np.zeros((rows, side, side), np.float32)
        for tile, corner in zip(tiles, part, strict=False):
            values = scene.image[window(corner, side)]
            tile[:] = np.pad(values, [(0, side - length) for length in values.shape], mode="edge")
        yield tiles, part


def blended(
    model: Model, scene: Scene, look: np.ndarray | None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The probability [h, w] of overlapping tiles, 0 where none lies, and each tile's branch."""
    side, total = model.facts["tile"], np.zeros(scene.image.shape, np.float32)
    chosen: list[np.ndarray] = []
    rows, columns = (weights(length, model.facts) for length in scene.image.shape)
    corners = [
        (top, left)
        for top in rows
        for left in columns
        if scene.inside[window((top, left), side, AROUND)].any()
    ]
    for tiles, part in batches(model, scene, corners, side):
        if look is None:
            out = model.programs["alone"](tiles)
        else:
            out = model.programs["answer"](tiles, np.tile(look, (len(tiles), 1)))
        chosen += list(out["branch"][: len(part)])
        for (top, left), tile in zip(part, out["probability"], strict=False):
            share = np.multiply.outer(rows[top], columns[left])
            height, width = share.shape
            total[window((top, left), side)] += share * tile[:height, :width]
    return total, chosen


def starts(length: int, facts: dict[str, Any]) -> list[int]:
    """Where tiles begin along an axis: evenly on a grid, with at least the overlap."""
    room = facts["tile"] - facts["overlap"]
    grid = min(GRID, 1 << (room.bit_length() - 1))  # the power of two within the room
    steps = -(-(length - facts["tile"]) // grid)
    if steps <= 0:
        return [0]
    count = -(-steps // (room // grid))
    return [steps * i // count * grid for i in range(count + 1)]


def weights(length: int, facts: dict[str, Any]) -> dict[int, np.ndarray]:
    """The weights of tiles along an axis, by where they begin; at each pixel their sum is 1.

    They fall to a tile's inner edges, and are 0 in their margin.
    """
    side, margin = facts["tile"], facts["overlap"] // 4
    ramp, total, shares = max(facts["overlap"] - 2 * margin, 1), np.zeros(length), {}
    for start in starts(length, facts):
        stop = min(start + side, length)
        at, share = np.arange(start, stop) + 0.5, np.ones(stop - start)
        if start > 0:
            share = np.minimum(share, (at - start - margin) / ramp)
        if stop < length:
            share = np.minimum(share, (stop - at - margin) / ramp)
        shares[start] = share.clip(0)
        total[start:stop] += shares[start]
    return {
        start: (share / total[start : start + len(share)]).astype(np.float32)
        for start, share in shares.items()
    }


def in_own_pixels(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A map [h, w] as [H, W]: linear, and at least the highest value whose center lies in a pixel.

    So no peak is lost.
    """
    for axis in (1, 0):
        size, length = values.shape[axis], shape[axis]
        if size == length:
            continue
        step = size / length
        at = ((np.arange(length) + 0.5) * step - 0.5).clip(0, size - 1)
        low = np.floor(at).astype(int)
        part = along((at - low).astype(np.float32), axis)
        linear = values.take(low, axis) * (1 - part)
        linear += values.take(np.minimum(low + 1, size - 1), axis) * part
        # The centers in pixel i are the numbers from edges[i] to below edges[i + 1].
        edges = np.ceil(np.arange(length + 1) * step - 0.5 - 1e-9).astype(int)
        for i in range(math.ceil(step)):
            pixels = np.flatnonzero(edges[:-1] + i < edges[1:])
            where = (pixels,) if axis == 0 else (slice(None), pixels)
            linear[where] = np.maximum(linear[where], values.take(edges[pixels] + i, axis))
        values = linear
    return values


def along(values: np.ndarray, axis: int) -> np.ndarray:
    """Values [n] as [n, 1] or [1, n]."""
    return values[:, None] if axis == 0 else values[None, :]


def nearest(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Values [H, W] at another size, each pixel the one that its center falls on."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(shape, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]


def resized(image: np.ndarray, shape: Sequence[int], reach: float = 1.0) -> np.ndarray:
    """Float32 [H, W] at another size, by a filter that widens where it shrinks.

    A triangle of reach 1 is the linear filter, a box has the reach 0.5: as Pillow's `resize`.
    """
    for axis in (1, 0):
        size, length = image.shape[axis], shape[axis]
        if size == length:
            continue
        wide = max(size / length, 1.0)
        center = (np.arange(length) + 0.5) * (size / length)
        first = np.maximum((center - reach * wide + 0.5).astype(int), 0)
        last = np.minimum((center + reach * wide + 0.5).astype(int), size)
        at = first[:, None] + np.arange((last - first).max())
        place = (at - center[:, None] + 0.5) * (1 / wide)
        triangle = np.maximum(1 - np.abs(place), 0)
        shares = triangle if reach == 1 else ((place > -0.5) & (place <= 0.5)).astype(float)
        shares[at >= last[:, None]] = 0
        shares /= shares.sum(axis=1, keepdims=True)
        total: Any = 0.0
        for taken, share in zip(np.minimum(at, size - 1).T, shares.T, strict=True):
            total = total + image.take(taken, axis) * along(share, axis)
        image = total.astype(np.float32)
    return image


def breast_mask(image: np.ndarray) -> np.ndarray:
    """Where the breast is: bool [H, W]; all False where the image has a single gray level."""
    level = search_level(image)
    if level is None:
        return np.zeros(image.shape, bool)
    white = air_is_white(level)
    if white is None:
        margin, depth = np.ones(level.shape, bool), max(1, min(level.shape) // 10)
        margin[depth:-depth, depth:-depth] = False
        white = bool(np.mean(level[margin] > otsu(level)) > 0.5)
    if white:
        level = 1 - level
    dark = level[level <= otsu(level)]
    edge = otsu(dark) if dark.max() > dark.min() else dark.max()
    air = np.median(dark)
    breast = largest_piece(level > float(air + (edge - air) / 2))
    return resized(breast.astype(np.float32), image.shape) >= 0.5


def search_level(image: np.ndarray) -> np.ndarray | None:
    """A small copy of an image, from 0 to 1; None where it has a single gray level."""
    factor = min(1.0, SEARCH_SIDE / max(image.shape))
    search = resized(image, [max(1, round(length * factor)) for length in image.shape], 0.5)
    low, high = np.percentile(search, (0.5, 99.5))
    if not high > low:
        low, high = float(search.min()), float(search.max())
    return np.clip((search - low) / (high - low), 0, 1) if high > low else None


def air_is_white(level: np.ndarray | None) -> bool | None:
    """Whether the air in a small copy is white, so the image inverted; None: no air is seen."""
    if level is None or min(level.shape) < 3:
        return None
    around = np.lib.stride_tricks.sliding_window_view(level, (3, 3))
    even = around.max(axis=(2, 3)) - around.min(axis=(2, 3)) < EVEN
    center = level[1:-1, 1:-1]
    dark, bright = np.mean(even & (center < END)), np.mean(even & (center > 1 - END))
    if max(dark, bright) < max(LEAST_AIR, MORE * min(dark, bright)):
        return None
    return bool(bright > dark)


def otsu(values: np.ndarray) -> float:
    """The threshold of greatest between-class variance (N. Otsu, IEEE SMC 9, 1979, 62-66)."""
    counts, edges = np.histogram(values, 256)
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = np.cumsum(counts * ((edges[1:] + edges[:-1]) / 2))
    apart = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1 + np.argmax(below * above * apart**2)])


def largest_piece(tissue: np.ndarray) -> np.ndarray:
    """The largest piece after an opening that cuts thin bridges, without holes."""
    radius = max(1, max(tissue.shape) // 64)
    opened = np.pad(tissue, radius, mode="edge")
    for _ in range(radius):
        opened = np.logical_and.reduce(neighbors(opened))
    for _ in range(radius):
        opened = np.logical_or.reduce(neighbors(opened))
    opened = opened[radius:-radius, radius:-radius]
    if not opened.any():
        return opened
    pieces = labeled(opened, diagonal=False)
    breast = pieces == 1 + np.argmax(np.bincount(pieces[opened] - 1))
    outside = labeled(np.pad(~breast, 1, constant_values=True), diagonal=False)
    return (outside != outside[0, 0])[1:-1, 1:-1]


def neighbors(mask: np.ndarray) -> list[np.ndarray]:
    """The mask, and itself moved by a pixel to each side."""
    wide = np.pad(mask, 1)
    height, width = mask.shape
    moves = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    return [wide[top : top + height, left : left + width] for top, left in moves]


def labeled(mask: np.ndarray, diagonal: bool) -> np.ndarray:
    """The connected pieces of a mask [H, W], numbered from 1 by their first pixels; 0 outside."""
    pixels = np.flatnonzero(mask)
    number = np.zeros((mask.shape[0] + 1, mask.shape[1] + 2), np.int32)  # with a rim of nothing
    inner = number[:-1, 1:-1]
    inner[mask] = np.arange(1, len(pixels) + 1)
    one, other = [], []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1))[: 4 if diagonal else 2]:
        moved = number[down : down + mask.shape[0], 1 + right : 1 + right + mask.shape[1]]
        touch = (inner > 0) & (moved > 0)
        one.append(inner[touch] - 1)
        other.append(moved[touch] - 1)
    inner[mask] = 1 + np.unique(
        roots(len(pixels), np.concatenate(one), np.concatenate(other)), return_inverse=True
    )[1].reshape(-1)
    return inner.copy()


def roots(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The least node that each of `count` nodes is linked with, by edges [m] and [m]."""
    root = np.arange(count)
    while True:
        one, other = root[one], root[other]
        apart = one != other
        if not apart.any():
            return root
        one, other = one[apart], other[apart]
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(root, above := root[root]):
            root = above


def marked(facts: dict[str, Any], probability: np.ndarray, spacing_mm: Pair) -> np.ndarray:
    """The mask bool [H, W]: large enough pieces above the threshold, of clusters or all."""
    mask = probability > facts["threshold"]
    least = max(1, math.ceil(facts["min_area_mm2"] / (spacing_mm[0] * spacing_mm[1]) - 1e-6))
    pieces = labeled(mask, diagonal=True)
    number = pieces[mask] - 1
    if not number.size:
        return mask
    size = np.bincount(number)
    center = [np.bincount(number, at) / size for at in np.nonzero(mask)]
    keep = size >= least
    if facts["keep"] == "clusters":
        keep[keep] = clustered(facts, np.stack(center, axis=1)[keep] * spacing_mm)
    return np.concatenate([[False], keep])[pieces]


def clustered(facts: dict[str, Any], centers_mm: np.ndarray) -> np.ndarray:
    """Which of the centers [n, 2] are in a cluster: bool [n], in DBSCAN's sense.

    A core has `min_count` of them, itself included, in the circle of `cluster_mm2` around it; what
    has a core in its circle is in the core's cluster.
    """
    order = np.argsort(centers_mm[:, 0])
    points, radius = centers_mm[order], math.sqrt(facts["cluster_mm2"] / math.pi)
    first = np.searchsorted(points[:, 0], points[:, 0] - radius)
    last = np.searchsorted(points[:, 0], points[:, 0] + radius, side="right")

    def near(i: int) -> np.ndarray:
        return np.square(points[first[i] : last[i]] - points[i]).sum(axis=1) <= radius**2

    count = len(points)
    core = np.array([near(i).sum() >= facts["min_count"] for i in range(count)], bool)
    inside = np.array([core[first[i] : last[i]][near(i)].any() for i in range(count)], bool)
    return inside[np.argsort(order)]


def main(words: Sequence[str] | None = None) -> int:
    """Answers one image from the command line; returns 0, or 2 where it cannot."""
    parser = argparse.ArgumentParser(description="A mask for one image. Research use only.")
    parser.add_argument("model", help="the exported file")
    parser.add_argument("image", help=".npy: floats [H, W] in [0, 1], or [frames, H, W]")
    parser.add_argument("--spacing-mm", type=float, nargs="+", help="of a pixel: one number or two")
    parser.add_argument("--output", required=True, help="for the mask, .npy: bool, of equal shape")
    parser.add_argument("--probability", help="for the probability, .npy: float32")
    chosen = parser.parse_args(words)
    try:
        model, image = load(chosen.model), np.load(chosen.image, allow_pickle=False)
        for warning in model.facts["warnings"]:
            print(f"warning: {warning}", file=sys.stderr)
        answers = volume(model, image if image.ndim == 3 else [image], chosen.spacing_mm)
        for path, name in ((chosen.output, "mask"), (chosen.probability, "probability")):
            if path:
                frames = np.stack([getattr(one, name) for one in answers])
                with open(path, "wb") as file:
                    np.save(file, frames if image.ndim == 3 else frames[0])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for one in answers:
        print(f"branch {one.branch or 'none'}, {np.count_nonzero(one.mask)} pixels marked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
