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

FORMAT = 1  # of the file
LEAST_SIDE, MOST_PIXELS = 8, 1 << 28  # of an image: of a side; in all, at the model's pixel size
SEARCH_SIDE = 256  # pixels of the copy in which the breast is looked for
FULL = 0.9  # share of breast in a tile by which a branch is chosen
Pair = tuple[float, float]  # (row, column)


class Model(NamedTuple):
    """An exported model."""

    facts: dict[str, Any]  # `model.json`
    # "alone": tiles [n, S, S] -> their "probability" [n, S, S] and "branch" [n]. Where tiles share
    # a choice "look": tiles [n, s, s] -> distances from the branches [n, k], smaller is nearer; and
    # "answer": (tiles [n, S, S], distances [n, k] that choose) -> as "alone".
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
    looks = [seen(model, one) for one in scenes]
    known = [look for look in looks if look is not None]
    if model.facts["choice"] == "case" and known:
        looks = [np.sum(known, axis=0)] * len(scenes)
    return [of_scene(model, one, look) for one, look in zip(scenes, looks, strict=True)]


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
        if not (0 < min(given) and max(given) < math.inf):
            raise ValueError(f"spacing_mm={spacing_mm}: must be above 0, in millimeters")
    if given is not None and trained is not None:
        scale = (given[0] / trained[0], given[1] / trained[1])
    elif facts["training_pixels"]:  # of a whole image: every one was brought to so many
        height, width = facts["training_pixels"]
        scale = (height / image.shape[0], width / image.shape[1])
    usual = trained or facts["assumed_mm"]
    own = (given[0], given[1]) if given else (usual[0] * scale[0], usual[1] * scale[1])
    shape = tuple(max(1, round(n * s)) for n, s in zip(image.shape, scale, strict=True))
    if shape[0] * shape[1] > MOST_PIXELS:
        raise ValueError(f"image: {shape} at the model's pixel size; allowed: {MOST_PIXELS:,} px")
    breast = breast_mask(image)
    return Scene(resized(image, shape), breast, nearest(breast, shape), own)


def seen(model: Model, scene: Scene) -> np.ndarray | None:
    """The distances [k] from the branches, summed over full tiles; None: each tile chooses."""
    side, inside, look = model.facts["look_side"], scene.inside, model.programs.get("look")
    if look is None:
        return None
    shares = {
        (top, left): float(inside[top : top + side, left : left + side].mean())
        for top in range(0, max(1, inside.shape[0] - side + 1), side)
        for left in range(0, max(1, inside.shape[1] - side + 1), side)
    }
    least = min(FULL, max(shares.values()))
    corners = [corner for corner, share in shares.items() if share >= least > 0]
    parts = [look(tiles)[:count] for tiles, count, _ in batches(model, scene, corners, side)]
    return np.concatenate(parts).sum(axis=0) if parts else None


def of_scene(model: Model, scene: Scene, look: np.ndarray | None) -> Answer:
    """The answer for an image, by the distances that choose its branch."""
    facts = model.facts
    small, chosen = blended(model, scene, look)
    own = small if small.shape == scene.breast.shape else in_own_pixels(small, scene.breast.shape)
    probability = np.where(scene.breast, own, np.float32(0))
    mask = marked(facts, probability, scene.spacing_mm)
    names = [facts["branches"][branch] for branch in chosen] if facts["branches"] else []
    return Answer(probability, mask, Counter(names).most_common(1)[0][0] if names else "")


def batches(
    model: Model, scene: Scene, corners: Sequence[tuple[int, int]], side: int
) -> Iterator[tuple[np.ndarray, int, Sequence[tuple[int, int]]]]:
    """Tiles [n, side, side] at corners in full batches, how many of each count, and where."""
    rows = model.facts["batch"]
    for start in range(0, len(corners), rows):
        part, tiles = corners[start : start + rows], np.zeros((rows, side, side), np.float32)
        for tile, (top, left) in zip(tiles, part, strict=False):
            window = scene.image[top : top + side, left : left + side]
            missing = [(0, side - length) for length in window.shape]
            tile[:] = np.pad(window, missing, mode="edge")
        yield tiles, len(part), part


def blended(
    model: Model, scene: Scene, look: np.ndarray | None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The probability [h, w] of overlapping tiles, 0 where none lies, and each tile's branch."""
    side, shape, chosen = model.facts["tile"], scene.image.shape, []
    total, weights = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    corners = [
        (top, left)
        for top in starts(shape[0], model.facts)
        for left in starts(shape[1], model.facts)
        if scene.inside[top : top + side, left : left + side].any()
    ]
    for tiles, count, part in batches(model, scene, corners, side):
        if look is None:
            out = model.programs["alone"](tiles)
        else:
            out = model.programs["answer"](tiles, np.tile(look, (len(tiles), 1)))
        chosen += list(out["branch"][:count])
        for (top, left), tile in zip(part, out["probability"], strict=False):
            rows = weight(top, shape[0], model.facts)
            columns = weight(left, shape[1], model.facts)
            window = (slice(top, top + side), slice(left, left + side))
            share = np.multiply.outer(rows, columns)
            total[window] += share * tile[: len(rows), : len(columns)]
            weights[window] += share
    return np.divide(total, weights, out=total, where=weights > 0), chosen


def starts(length: int, facts: dict[str, Any]) -> list[int]:
    """Where tiles begin along an axis: evenly, from edge to edge, with at least the overlap."""
    last = length - facts["tile"]
    if last <= 0:
        return [0]
    count = 1 + -(-last // (facts["tile"] - facts["overlap"]))
    return [round(last * i / (count - 1)) for i in range(count)]


def weight(start: int, length: int, facts: dict[str, Any]) -> np.ndarray:
    """A tile's weight along an axis: it falls to its inner edges, and is 0 in their margin."""
    overlap, margin = facts["overlap"], facts["overlap"] // 4
    stop = min(start + facts["tile"], length)
    at = np.arange(start, stop, dtype=np.float32) + 0.5
    ramp, shares = max(overlap - 2 * margin, 1), np.ones(stop - start, np.float32)
    if start > 0:
        shares = np.minimum(shares, (at - start - margin) / ramp)
    if stop < length:
        shares = np.minimum(shares, (stop - at - margin) / ramp)
    return shares.clip(0)


def in_own_pixels(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A map at the image's own size: linear between pixels, the highest of those on one pixel."""
    for axis, length in enumerate(shape):
        if (pooled := -(-values.shape[axis] // length)) > 1:
            around = [(0, 0), (0, 0)]
            around[axis] = (pooled // 2, pooled - 1 - pooled // 2)
            wide, size = np.pad(values, around, mode="symmetric"), values.shape[axis]
            shifted = [wide.take(np.arange(i, i + size), axis) for i in range(pooled)]
            values = np.maximum.reduce(shifted)
    for axis, length in enumerate(shape):
        size = values.shape[axis]
        at = ((np.arange(length) + 0.5) * size / length - 0.5).clip(0, size - 1)
        low = np.floor(at).astype(int)
        part = along((at - low).astype(np.float32), axis)
        high = np.minimum(low + 1, size - 1)
        values = values.take(low, axis) * (1 - part) + values.take(high, axis) * part
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
    factor = min(1.0, SEARCH_SIDE / max(image.shape))
    search = resized(image, [max(1, round(length * factor)) for length in image.shape], 0.5)
    low, high = np.percentile(search, (0.5, 99.5))
    if not high > low:
        low, high = float(search.min()), float(search.max())
    if not high > low:
        return np.zeros(image.shape, bool)
    level = np.clip((search - low) / (high - low), 0, 1)
    margin, depth = np.ones(level.shape, bool), max(1, min(level.shape) // 10)
    margin[depth:-depth, depth:-depth] = False
    if np.mean(level[margin] > otsu(level)) > 0.5:  # the air is white
        level = 1 - level
    dark = level[level <= otsu(level)]
    edge = otsu(dark) if dark.max() > dark.min() else dark.max()
    air = np.median(dark)
    breast = largest_piece(level > float(air + (edge - air) / 2))
    return resized(breast.astype(np.float32), image.shape) >= 0.5


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
    number = np.zeros((mask.shape[0] + 1, mask.shape[1] + 2), int)  # with a rim of nothing
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
                frames = [getattr(one, name) for one in answers]
                with open(path, "wb") as file:
                    np.save(file, np.stack(frames) if image.ndim == 3 else frames[0])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for one in answers:
        print(f"branch {one.branch or 'none'}, {np.count_nonzero(one.mask)} pixels marked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
