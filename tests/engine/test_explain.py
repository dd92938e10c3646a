"""Reasons for the answer of a whole image: where is looked, and that maps lie where they belong."""

import numpy as np
import pytest

from mln_flax.engine import explain, whole
from mln_flax.engine.whole import Tiling
from mln_flax.methods.core import Answers, Explanation
from mln_flax.metrics import clusters
from mln_flax.metrics.decision import OperatingPoint


class Asked:
    """A method that notes which tiles it is asked about, and whose map is the tile itself."""

    probability = None

    def __init__(self):
        self.tiles, self.common = None, None

    def explain(self, fitted, tiles, common):
        self.tiles, self.common = tiles, common
        return Explanation({"looked_at": len(tiles)}, {"disagreement": tiles})

    def answer(self, fitted, tiles, common=None):
        point = {"map": OperatingPoint()}
        return Answers({"map": tiles}, point, ["map"], [{"shares": {"a": 1.0}, "of": common}])


@pytest.fixture
def scene():
    """A round breast on the left of a black image."""
    row, column = np.mgrid[:160, :128]
    breast = np.hypot(row - 80, column) < 78
    noise = np.random.default_rng(0).random(breast.shape)
    image = np.where(breast, 0.5 + 0.3 * noise, 0.02 * noise).astype(np.float32)
    return whole.scene(image, (1.0, 1.0), Tiling(32, 8))


def test_no_tile_is_too_many_to_be_looked_at_where_something_is_probable():
    """Though only some of as many full ones choose the branch."""
    image = np.full((400, 300), 0.5, np.float32)
    image[:, 260:] = 0.0
    scene = whole.scene(image, (1.0, 1.0), Tiling(32, 8))
    every, choosing = whole.full_corners(scene, 16, most=None), whole.full_corners(scene, 16)
    assert len(every) > 2 * len(choosing)
    for top, left in set(every) - set(choosing):
        probability = np.zeros(image.shape, np.float32)
        probability[top + 8, left + 8] = 1
        assert (top, left) in explain.looked_at(scene, probability, 16, 2)


def test_half_of_the_tiles_are_the_most_probable(scene):
    full = whole.full_corners(scene, 16, most=None)
    assert len(full) > 12
    probability = np.zeros(scene.image.shape, np.float32)
    wanted = [full[3], full[-1]]
    for number, (top, left) in enumerate(wanted):
        probability[top + 5, left + 5] = 0.9 - 0.1 * number
    corners = explain.looked_at(scene, probability, 16, 4)
    assert len(corners) == 4 and set(wanted) <= set(corners) <= set(full)
    assert explain.looked_at(scene, probability, 16, 1) == [wanted[0]]
    assert explain.looked_at(scene, probability, 16, 1000) == full


def test_maps_lie_where_was_looked_and_nowhere_outside_of_the_breast(scene):
    method, probability = Asked(), np.zeros(scene.image.shape, np.float32)
    common = np.array([1.0, 2.0])
    why, maps = explain.reasons(method, None, scene, probability, common, 16, 6)
    assert why == {"looked_at": 6} and method.common is common
    shown = maps["disagreement"]
    looked = np.zeros(shown.shape, bool)
    for top, left in explain.looked_at(scene, probability, 16, 6):
        looked[top : top + 16, left : left + 16] = True
    looked &= scene.breast
    np.testing.assert_array_equal(shown, np.where(looked, scene.image, 0))


def test_a_method_that_explains_nothing_has_no_reasons(scene):
    method = Asked()
    method.explain = None
    empty = np.zeros(scene.image.shape, np.float32)
    assert explain.reasons(method, None, scene, empty, None, 16, 6) == ({}, {})
    assert explain.reasons(Asked(), None, scene, empty, None, 16, 0) == ({}, {})


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
def test_a_cluster_is_attributed_in_its_own_place(monkeypatch, scale):
    """The box that is asked for covers the cluster's pixels, at whatever pixel size."""
    image = np.full((300, 200), 0.5, np.float32)
    image[:, 150:] = 0
    mask = np.zeros(image.shape, bool)
    mask[200:204, 60:64] = mask[210:213, 70:75] = mask[205:207, 66:68] = True
    marked = clusters.marks(mask.astype(np.float32), mask, (0.1, 0.1))
    scene = whole.scene(image, (scale, scale), Tiling(256, 32))
    asked = {}

    def attribution(method, fitted, facts, tile, box):
        asked.update(facts=facts, tile=tile, box=box)
        return np.ones_like(tile)

    monkeypatch.setattr(explain.attribution, "attribution", attribution)
    deleted = explain.attribution.Deletion(0.8, 0.1, 5)
    monkeypatch.setattr(explain.attribution, "deletion", lambda *_: deleted)
    common = np.array([3.0, 4.0])
    figures, shown = explain.attributed(Asked(), None, scene, marked.clusters[0], common)
    assert figures["drop"] == 0.8 and figures["drop_random"] == 0.1 and figures["cluster"] == 1
    np.testing.assert_array_equal(asked["facts"]["of"], common[None])
    assert asked["tile"].shape == (128, 128) and shown.shape == scene.image.shape
    rows, columns = np.nonzero(shown)
    corner = np.array([rows.min(), columns.min()])
    top, left, bottom, right = asked["box"]
    box = np.array(marked.clusters[0].box).reshape(2, 2) * scale
    assert (corner + (top, left) <= box[0]).all() and (corner + (bottom, right) >= box[1]).all()
    assert (bottom - top) * (right - left) <= np.prod(box[1] - box[0] + 6)
