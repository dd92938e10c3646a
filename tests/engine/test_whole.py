"""Whole images as tiles and back: nothing is lost at borders, at other sizes, or made up in air."""

import itertools

import answering
import jax
import numpy as np
import pytest

from mln_flax.engine import whole
from mln_flax.engine.whole import Scene, Tiling
from mln_flax.metrics.decision import OperatingPoint, decide
from mln_flax.models.unet import UNet


def all_breast(image, tiling):
    """A scene that is breast everywhere."""
    rows, columns = (whole.starts(length, tiling) for length in image.shape)
    corners = tuple(itertools.product(rows, columns))
    breast = np.ones(image.shape, bool)
    return Scene(image, image.shape, breast, tiling, corners)


def blended(scene, tiles, numbers=None):
    """The map [h, w] of maps of tiles, all or those of some numbers: their weighted mean."""
    total, covered = (np.zeros(scene.image.shape, np.float32) for _ in range(2))
    ones = np.ones((scene.tiling.side,) * 2, np.float32)
    wanted = range(len(scene.corners)) if numbers is None else numbers
    for number, tile in zip(wanted, tiles, strict=True):
        whole.add(total, scene, number, tile)
        whole.add(covered, scene, number, ones)
    return np.divide(total, covered, out=total, where=covered > 0)


def test_tiles_that_reach_far_enough_give_what_one_pass_over_the_image_gives():
    """Of a U-Net of two stages, which sees 12 pixels far and halves its map once."""
    model = UNet(num_branches=1, widths=(3, 4), norm="channel")
    image = np.random.default_rng(0).random((224, 192), np.float32)
    tiling = Tiling(128, 64)
    assert tiling.margin >= 12
    scene = all_breast(image, tiling)
    assert len(scene.corners) == 6
    branch = np.zeros(1, np.int32)
    init = jax.jit(model.init)  # at once: step by step takes long
    params = init(jax.random.key(1), image[None, :64, :64, None], branch)["params"]

    @jax.jit
    def network(one):
        return model.apply({"params": params}, one[None, ..., None], branch)[0][0, ..., 1]

    expected = np.asarray(network(image))
    maps = np.stack([network(tile) for tile in whole.tiles_of(scene)])
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(blended(scene, maps), expected, atol=1e-5)
    single = maps[2, :, :64]  # what a tile says at its own edge is another thing
    top, left = scene.corners[2]
    assert np.abs(single - expected[top : top + 128, left : left + 64])[:4].max() > 1e-3


@pytest.mark.parametrize("shape", [(70, 40), (33, 200), (20, 12), (64, 64)])
@pytest.mark.parametrize("tiling", [Tiling(32, 8), Tiling(32, 16), Tiling(40, 0)])
def test_no_seam(shape, tiling):
    """A smooth map stays what it is, and so does a constant one; in small images too."""
    row, column = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    for values in (np.full(shape, 0.7, np.float32), row / 100 + column / 300):
        scene = all_breast(values, tiling)
        np.testing.assert_allclose(blended(scene, whole.tiles_of(scene)), values, rtol=0, atol=1e-6)


def test_tiles_overlap_and_begin_on_a_grid():
    for length, side, overlap in itertools.product((5, 64, 65, 300, 1000), (64, 96), (0, 8, 40)):
        tiling = Tiling(side, overlap)
        starts = whole.starts(length, tiling)
        assert starts[0] == 0 and all(start % tiling.grid == 0 for start in starts)
        assert length <= starts[-1] + side and (len(starts) == 1 or starts[-1] + side < length + 32)
        assert all(a + side - b >= overlap for a, b in itertools.pairwise(starts))
        sums = np.zeros(length)
        for start, share in whole.weights(length, tiling).items():
            sums[start : start + len(share)] += share
        np.testing.assert_allclose(sums, 1, atol=1e-6)


def test_an_object_on_the_corner_of_four_tiles_is_whole():
    probability = np.zeros((56, 56), np.float32)
    probability[26:31, 25:32] = 0.8
    scene = all_breast(probability, Tiling(32, 8))
    assert len(scene.corners) == 9
    together = blended(scene, whole.tiles_of(scene))
    np.testing.assert_array_equal(decide(together, OperatingPoint(0.5, 35)), probability > 0.5)
    assert not decide(together, OperatingPoint(0.5, 36)).any()
    some = blended(scene, whole.tiles_of(scene, [4]), [4])
    top, left = scene.corners[4]
    inner = (slice(top + 3, top + 29), slice(left + 3, left + 29))
    np.testing.assert_allclose(some[inner], probability[inner], atol=1e-6)
    assert not some[:top].any()


def at_size(values, shape):
    """A map in the pixels of an image of another size that is all breast."""
    scene = all_breast(values, Tiling(32, 8))
    return whole.in_own_pixels(scene._replace(shape=shape, breast=np.ones(shape, bool)), values)


@pytest.mark.parametrize("shape", [(40, 60), (17, 23), (8, 200), (31, 33), (64, 15), (30, 30)])
def test_at_another_size_no_peak_is_thinned_out_or_moved(shape):
    """Coarser, finer, and each along one axis."""
    values = np.zeros((30, 31), np.float32)
    rng = np.random.default_rng(0)
    for row, column in rng.integers(0, 30, (12, 2)):
        values[:] = 0
        values[row, column] = 0.9
        own = at_size(values, shape)
        at = [
            int((c + 0.5) * n / o) for c, n, o in zip((row, column), shape, (30, 31), strict=True)
        ]
        assert own.shape == shape and own[tuple(at)] == own.max() == np.float32(0.9)
        far = [max(2, 2 * n / o) for n, o in zip(shape, values.shape, strict=True)]
        assert (np.abs(np.argwhere(own > 0) - at) <= far).all()
    same = at_size(np.full((30, 31), 0.3, np.float32), shape)
    np.testing.assert_allclose(same, 0.3, rtol=1e-6)


def test_at_a_finer_size_it_is_linear_between_the_pixels(monkeypatch):
    ramp = np.tile(np.arange(20, dtype=np.float32), (6, 1))
    fine = at_size(ramp, (6, 100))
    monkeypatch.setattr(whole, "_ROWS", 4)
    np.testing.assert_array_equal(at_size(ramp, (6, 100)), fine)
    inner = (np.arange(100) + 0.5) / 5 - 0.5
    np.testing.assert_allclose(fine[0, 2:-3], inner[2:-3], atol=1e-5)


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 0.5), (2.0, 1.5)])
def test_nothing_outside_of_the_breast_is_marked(scale):
    """By a method that marks everything: letters, a border and markers in the air stay free."""
    image = answering.mammogram((200, 150), dots=())
    image[10:22, 120:140] = 1.0  # letters
    image[150:190:4, 125:145] = 0.9
    image[:, -2:] = 0.8  # a border
    scene = whole.scene(image, scale, Tiling(64, 16))
    ones = np.ones((len(scene.corners), 64, 64), np.float32)
    total = np.zeros(scene.image.shape, np.float32)
    for number, tile in enumerate(ones):
        whole.add(total, scene, number, tile)
    own = whole.in_own_pixels(scene, total)
    assert own.shape == image.shape and own.dtype == np.float32
    np.testing.assert_allclose(own[scene.breast], 1, atol=1e-5)
    assert not own[~scene.breast].any()
    assert not own[:, 115:].any() and own[100, 50] == pytest.approx(1)
    assert len(scene.corners) < len(all_breast(scene.image, scene.tiling).corners) or scale[0] < 1


def test_sizes_that_are_refused_and_images_without_a_breast():
    image = answering.mammogram()
    with pytest.raises(ValueError, match="96x80 pixels are 192000x160000 .* 120,000,000"):
        whole.scene(image, (2000, 2000), Tiling(32, 8))
    empty = whole.scene(np.full((40, 40), 0.3, np.float32), (1, 1), Tiling(32, 8))
    assert empty.corners == () and whole.full_corners(empty, 32) == []
    assert whole.tiles_of(empty).shape == (0, 32, 32)


def test_the_tiles_that_choose_are_full_of_breast_and_evenly_spread(monkeypatch):
    scene = whole.scene(answering.mammogram((300, 200), ()), (1, 1), Tiling(64, 8))
    every = whole.full_corners(scene, 32, most=None)
    assert 12 < len(every) < 100 and len(set(every)) == len(every)
    shares = [whole.window(scene.breast, corner, 32).mean() for corner in every]
    assert min(shares) >= 0.9 and all(top % 32 == left % 32 == 0 for top, left in every)
    some = whole.full_corners(scene, 32, most=12)
    assert len(some) == 12 and set(some) < set(every)
    assert some[0] == every[0] and some[-1] == every[-1]
    small = whole.scene(answering.mammogram((40, 36), ()), (1, 1), Tiling(64, 8))
    assert small.breast.mean() < 0.9 and whole.full_corners(small, 64) == [(0, 0)]
