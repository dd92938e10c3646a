"""Why a whole image is answered as it is: from a few of its tiles, of the size of training images.

The method compares its branches on tiles where something is probable and on others that are spread
over the breast; for the surest cluster the pixels that it rests on are measured.
"""

from typing import Any

import numpy as np

from mln_flax.engine import whole
from mln_flax.engine.whole import Scene
from mln_flax.methods import attribution
from mln_flax.methods.core import Method
from mln_flax.metrics.clusters import Cluster
from mln_flax.types import Record

ATTRIBUTED_PX = 128  # side of the tile around a cluster: its gradients take the time of a view
AROUND_PX = 2  # of a cluster's box

Corner = tuple[int, int]


def reasons(
    method: Method,
    fitted: Any,
    scene: Scene,
    probability: np.ndarray,
    common: np.ndarray | None,
    side: int,
    count: int,
) -> tuple[Record, dict[str, np.ndarray]]:
    """What the method says of its choice, and its maps float32 [h, w], 0 where it did not look.

    Args:
      method: of the run.
      fitted: what it kept.
      scene: of the image.
      probability: [h, w], at the model's pixel size.
      common: what chose the branch; None where each tile chose.
      side: of the tiles that are looked at, pixels.
      count: how many at most.
    """
    if method.explain is None or not count:
        return {}, {}
    corners = looked_at(scene, probability, side, count)
    if not corners:
        return {}, {}
    explanation = method.explain(fitted, whole.cut_at(scene, corners, side), common)
    inside = scene.inside
    maps = {
        name: np.where(inside, pasted(scene.image.shape, of_tiles, corners), np.float32(0))
        for name, of_tiles in explanation.maps.items()
    }
    return explanation.why, maps


def looked_at(scene: Scene, probability: np.ndarray, side: int, count: int) -> list[Corner]:
    """The corners of the tiles to compare branches on: half by probability, half spread evenly."""
    full = whole.full_corners(scene, side, most=None)
    peaks = [
        float(probability[top : top + side, left : left + side].max(initial=0))
        for top, left in full
    ]
    by_peak = sorted(range(len(full)), key=lambda i: -peaks[i])[: (count + 1) // 2]
    rest = [i for i in range(len(full)) if i not in by_peak]
    others = (rest[i] for i in whole.spread(len(rest), count - len(by_peak)))
    return [full[i] for i in sorted({*by_peak, *others})]


def pasted(shape: tuple[int, ...], tiles: np.ndarray, corners: list[Corner]) -> np.ndarray:
    """A map [h, w] of tiles, later ones over earlier ones; 0 elsewhere."""
    values = np.zeros(shape, np.float32)
    for tile, (top, left) in zip(tiles, corners, strict=True):
        window = values[top : top + len(tile), left : left + tile.shape[1]]
        window[:] = tile[: window.shape[0], : window.shape[1]]
    return values


def attributed(
    method: Method,
    fitted: Any,
    scene: Scene,
    cluster: Cluster,
    common: np.ndarray | None,
) -> tuple[Record, np.ndarray]:
    """Which pixels a cluster rests on: figures of the deletion check, and the map [h, w].

    Integrated gradients of the probability within the cluster's box, in a tile around its middle.
    """
    shape, side = scene.image.shape, ATTRIBUTED_PX
    scale = [small / own for small, own in zip(shape, scene.shape, strict=True)]
    edges = np.array(cluster.box, float).reshape(2, 2) * scale  # top, left; bottom, right
    middle = edges.mean(axis=0)
    corner = [
        int(np.clip(round(at - side / 2), 0, max(0, length - side)))
        for at, length in zip(middle, shape, strict=True)
    ]
    low = np.clip(np.floor(edges[0]) - corner - AROUND_PX, 0, side - 1).astype(int)
    high = np.clip(np.ceil(edges[1]) - corner + AROUND_PX, low + 1, side).astype(int)
    box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    tile = whole.cut_at(scene, [(corner[0], corner[1])], side)
    shared = () if common is None else (np.atleast_2d(common),)
    facts = method.answer(fitted, tile, *shared).facts[0]
    marked = attribution.attribution(method, fitted, facts, tile[0], box)
    check = attribution.deletion(method, fitted, facts, tile[0], box, marked)
    figures = {
        "cluster": cluster.number,
        "method": "integrated gradients",
        "drop": check.drop,
        "drop_random": check.drop_random,
        "pixels": check.pixels,
    }
    return figures, pasted(shape, marked[None], [(corner[0], corner[1])])
