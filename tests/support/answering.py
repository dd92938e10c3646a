"""Images with a breast and what lies in it, and a predictor whose network says what it is told."""

import numpy as np
import tiny
from PIL import Image

from mln_flax.engine.predictor import Predictor, run_of_tiles
from mln_flax.engine.whole import Tiling
from mln_flax.engine.whole_model import WholeModel, answers_by
from mln_flax.methods.core import Answers
from mln_flax.metrics.decision import OperatingPoint

SHAPE = (96, 80)
DOTS = ((40, 20), (44, 30), (50, 24), (46, 38))  # corners of spots of 2 x 2 pixels: a cluster
TILE = 32


def mammogram(shape=SHAPE, dots=DOTS):
    """A breast at the left edge in dark air, float32 in [0, 1], with bright spots."""
    row, column = np.mgrid[: shape[0], : shape[1]]
    outside = np.hypot((row - shape[0] / 2) / (0.45 * shape[0]), column / (0.75 * shape[1]))
    image = np.where(outside < 1, 0.3 + 0.2 * (1 - outside), 0.02).astype(np.float32)
    for top, left in dots:
        image[top : top + 2, left : left + 2] = 1
    return image


def save(path, image, bits=8):
    """The path of a PNG of an image in [0, 1]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.round(image * (2**bits - 1)).astype(f"uint{bits}")).save(path)
    return path


def bright(tiles):
    """1 where a tile is nearly white, else nearly 0."""
    return np.where(tiles > 0.9, 0.95, 0.01).astype(np.float32)


def predictor(
    network=bright, look=None, spacing_mm=(0.1, 0.1), validation=(), asked=None, **changes
):
    """A predictor of tiles of 32 pixels that answers with what `network` makes of them.

    `asked`, a list, is given the tiles of every pass, and what chose for them.
    """
    config = tiny.config(**tiny.PLAIN | {"predict__tile": str(TILE)} | changes)
    run = run_of_tiles(config)

    def answer(fitted, tiles, common=None):
        if asked is not None:
            asked.append((tiles, common))
        facts = [{}] * len(tiles)
        if common is not None:
            facts = [{"branch": f"b{row.argmin()}"} for row in common]
        point = OperatingPoint(0.5, 1)
        return Answers({"map": network(tiles)}, {"map": point}, ["map"] * len(tiles), facts)

    method = run.method._replace(answer=answer, look=look, probability=None)
    kind = run.kind._replace(to_tree=lambda fitted: {"weights": np.zeros(2)})
    run = run._replace(method=method, kind=kind)
    kept = WholeModel(spacing_mm, answers_by(config), validation)
    side = run.config.data.size
    return Predictor(run, None, kept, Tiling(side, round(side * run.config.predict.overlap)), side)
