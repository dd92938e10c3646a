import math
import pathlib

import numpy as np
import pytest
from scipy import ndimage

from mln_flax.data.core import Example
from mln_flax.data.phantoms import phantom
from mln_flax.data.prepare import borders, tiles
from mln_flax.data.readers import reader
from mln_flax.types import UserError

REAL = pathlib.Path(__file__).parents[3] / "../shared/data"


def example(image, mask=None, spacing=(0.2, 0.2)):
    mask = np.zeros(image.shape, np.uint8) if mask is None else mask.astype(np.uint8)
    return Example(
        image.astype(np.float32), mask, "mdb209", "p", "film", "L", "MLO", spacing, "cluster"
    )


def disc(shape, row, column, radius):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(rows - row, columns - column) <= radius


def film(shape=(512, 400)):
    """A breast with fatty rim on dark noisy air, padding and a bright label marker."""
    rng = np.random.default_rng(0)
    breast = disc(shape, shape[0] / 2, 40, 200)
    breast[:, :40] = False  # the film's padding
    depth = np.minimum(ndimage.distance_transform_edt(breast) / 60, 1)
    image = np.where(breast, 0.1 + 0.6 * depth, 0.03) + rng.normal(0, 0.01, shape)
    image[20:80, 300:350] = 1.0
    image[:, :40] = 0
    return np.clip(image, 0, 1), breast


@pytest.mark.parametrize("levels", [2**8 - 1, 2**12 - 1, 2**16 - 1])
@pytest.mark.parametrize("white", [False, True])
def test_breast_mask_finds_the_breast_on_black_and_white_air(levels, white):
    image, breast = film()
    image = np.round((1 - image if white else image) * levels) / levels
    found = tiles.breast_mask(image)
    assert found.dtype == bool and found.shape == image.shape
    assert (found & breast).sum() / (found | breast).sum() > 0.97
    assert not found[20:80, 300:350].any()


@pytest.mark.parametrize("white", [False, True])
def test_breast_mask_passes_over_a_frame_around_the_film(white):
    image, breast = film()
    image[:4] = image[-4:] = image[:, :4] = image[:, -4:] = 1
    found = tiles.breast_mask(1 - image if white else image)
    assert (found & breast).sum() / (found | breast).sum() > 0.95


@pytest.mark.parametrize("white", [False, True])
def test_breast_mask_passes_over_light_strips_as_wide_as_the_margin(white):
    image, breast = film()
    image[:, -45:] = image[-40:] = 0.98  # they hold more of the margin than the air does
    breast[-45:] = False
    found = tiles.breast_mask(1 - image if white else image)
    assert (found & breast).sum() / (found | breast).sum() > 0.9


@pytest.mark.parametrize("domain", phantom.DOMAINS)
def test_the_air_of_whole_phantoms_tells_their_polarity(domain):
    for index in range(4):
        image = phantom.whole_view(5, domain, index, spacing_mm=0.8).image
        image, _ = borders.without_frame(image)
        assert tiles.air_is_white(image) == (domain == "processing")
        assert tiles.air_is_white(1 - image) == (domain != "processing")


def test_labels_strips_and_curves_do_not_change_what_the_air_tells():
    image, _ = film()
    image[:, -45:] = image[-40:] = 0.98
    image[100:180, 250:340] = 0.9
    for power in (0.7, 1, 3):
        assert tiles.air_is_white(0.2 + 0.5 * image**power) is False
        assert tiles.air_is_white(0.7 - 0.5 * image**power) is True


def test_no_air_is_seen_where_there_is_none():
    rng = np.random.default_rng(0)
    tissue = ndimage.gaussian_filter(rng.normal(size=(300, 260)), 6)
    for image in (tissue, -tissue, np.full((40, 30), 0.5), np.eye(2), (tissue > 0) * 1.0):
        assert tiles.air_is_white(image.astype(np.float32)) is None


@pytest.mark.skipif(not REAL.is_dir(), reason="the images are not here")
def test_the_air_of_real_images_tells_their_polarity():
    """Films upright and inverted, and digital views: nothing was chosen on them."""
    paths = sorted([*REAL.glob("mini_mias*/*.pgm"), *REAL.glob("ffdm_birads/*.png")])
    told = []
    for path in paths:
        image = reader.read(path).image
        told += [tiles.air_is_white(image) is False, tiles.air_is_white(1 - image) is True]
    print(f"\npolarity right in {sum(told)} of {len(told)}")
    assert len(told) >= 100 and np.mean(told) >= 0.99


@pytest.mark.parametrize("scale", [0.25, 3])
def test_breast_mask_holds_at_other_sizes(scale):
    image, breast = film()
    image = np.clip(ndimage.zoom(image, scale, order=1), 0, 1)
    breast = ndimage.zoom(breast.astype(float), scale, order=1) > 0.5
    found = tiles.breast_mask(image)
    assert (found & breast).sum() / (found | breast).sum() > 0.95


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_breast_mask_of_one_gray_level_is_empty(level):
    assert not tiles.breast_mask(np.full((40, 30), level)).any()


def test_breast_mask_of_two_levels_is_the_smaller_one():
    block = np.zeros((64, 64))
    block[10:50, 0:30] = 0.5
    assert (tiles.breast_mask(block) == (block > 0)).mean() > 0.98


@pytest.mark.parametrize("shape", [(200, 160), (199, 161), (63, 250)])
@pytest.mark.parametrize("grid", [(2, 2), (3, 2), (1, 1)])
def test_affines_are_those_of_the_pixels_that_were_read(shape, grid):
    # Linear ramps survive a linear filter, so a tile holds its own image coordinates.
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    cut = [tiles.cut(example(ramp / 256), *grid, 128) for ramp in (columns, rows)]
    assert len(cut[0]) == grid[0] * grid[1]
    for column_tile, row_tile in zip(*cut, strict=True):
        at = np.stack([*np.meshgrid(np.arange(128), np.arange(128)), np.ones((128, 128))])
        x, y = np.einsum("ij,jrc->irc", column_tile.to_image, at)
        # Not at borders, where the filter is cut off or the image padded.
        inside = (x < shape[1] - 2) & (y < shape[0] - 2)
        inside[:2] = inside[-2:] = inside[:, :2] = inside[:, -2:] = False
        for found, true in ((column_tile.image, x), (row_tile.image, y)):
            error = (found * 256 - true)[inside]
            # The sampled filter wobbles by a tenth of a pixel; a wrong offset would not cancel.
            assert np.abs(error).max() < 0.1
            assert abs(error.mean()) < 0.002


def test_tiles_keep_what_is_known_and_say_where_they_are():
    cut = tiles.cut(example(np.ones((99, 81)), spacing=(0.2, 0.1)), 2, 2, 100)
    assert [tile.image_id[-5:] for tile in cut] == ["_r0c0", "_r0c1", "_r1c0", "_r1c1"]
    for tile in cut:
        assert tile.image.shape == tile.mask.shape == (100, 100)
        assert (tile.image.dtype, tile.mask.dtype) == (np.float32, np.uint8)
        assert tile.spacing_mm == pytest.approx((0.2 * 50 / 100, 0.1 * 41 / 100))
        assert (tile.patient_id, tile.laterality, tile.domain) == ("p", "L", "film")
    # The outer corner of the first tile is that of the image; the next begins after 41 columns.
    assert cut[0].to_image @ (-0.5, -0.5, 1) == pytest.approx((-0.5, -0.5))
    assert cut[1].to_image @ (-0.5, -0.5, 1) == pytest.approx((40.5, -0.5))
    assert cut[3].to_image @ (99.5, 99.5, 1) == pytest.approx((81.5, 99.5))
    unknown = tiles.cut(example(np.ones((8, 8)), spacing=None), 2, 2, 4)
    assert unknown[0].spacing_mm is None


@pytest.mark.parametrize("shape", [(300, 260), (301, 263), (257, 400)])
@pytest.mark.parametrize("size", [202, 256, 512])
def test_put_back_reproduces_the_mask(shape, size):
    mask = disc(shape, 150, 130, 9) | disc(shape, 40, 200, 4.2) | disc(shape, 220, 60, 30)
    cut = tiles.cut(example(mask * 1.0, mask), 2, 2, size)
    for dtype in (np.uint8, bool):
        arrays = [tile.mask.astype(dtype) for tile in cut]
        back = tiles.put_back(arrays, [tile.to_image for tile in cut], shape)
        assert back.dtype == dtype and back.shape == shape
        assert (back.astype(bool) & mask).sum() / (back.astype(bool) | mask).sum() >= 0.99


def test_put_back_interpolates_probabilities():
    rows, columns = np.mgrid[:151, :133].astype(np.float32)
    smooth = 0.5 + 0.4 * np.sin(rows / 30) * np.cos(columns / 25)
    cut = tiles.cut(example(smooth), 2, 2, 64)
    back = tiles.put_back([tile.image for tile in cut], [t.to_image for t in cut], smooth.shape)
    assert back.dtype == np.float32
    assert np.abs(back - smooth).max() < 0.02


def test_put_back_does_not_depend_on_the_order_of_tiles_and_leaves_the_rest_zero():
    cut = tiles.cut(example(np.ones((31, 45)), np.ones((31, 45))), 2, 2, 16)
    back = tiles.put_back([t.mask for t in cut[::-1]], [t.to_image for t in cut[::-1]], (31, 45))
    assert back.all()
    part = tiles.put_back([cut[3].mask], [cut[3].to_image], (31, 45))
    assert part[16:, 23:].all() and part.sum() == 15 * 22


@pytest.mark.parametrize("size", [16, 37, 64])
def test_no_spot_is_lost_when_the_mask_shrinks(size):
    rng = np.random.default_rng(size)
    mask = np.zeros((401, 299), bool)
    mask[rng.integers(0, 401, 30), rng.integers(0, 299, 30)] = True
    spots, count = ndimage.label(mask, np.ones((3, 3)))
    cut = tiles.cut(example(mask * 1.0, mask), 2, 2, size)
    reached = set()
    for tile in cut:
        assert set(np.unique(tile.mask)) <= {0, 1}
        scale = np.array([tile.to_image[1, 1], tile.to_image[0, 0]])
        for row, column in np.argwhere(tile.mask):
            center = (tile.to_image @ (column, row, 1))[::-1]
            low = np.maximum(np.floor(center - scale / 2 - 0.5).astype(int), 0)
            high = np.ceil(center + scale / 2 + 0.5).astype(int) + 1
            reached |= set(np.unique(spots[low[0] : high[0], low[1] : high[1]])) - {0}
    assert reached == set(range(1, count + 1))


@pytest.mark.parametrize("size", [32, 50, 100])
def test_large_spots_keep_their_area_when_the_mask_shrinks(size):
    mask = disc((400, 400), 100, 100, 40)
    tile = tiles.cut(example(mask * 1.0, mask), 2, 2, size)[0]
    assert tile.mask.sum() * (200 / size) ** 2 == pytest.approx(mask.sum(), rel=0.05)


def test_every_single_pixel_survives_shrinking():
    for row, column in [(0, 0), (24, 24), (25, 49), (49, 7), (13, 31)]:
        mask = np.zeros((50, 50))
        mask[row, column] = 1
        assert sum(tile.mask.sum() for tile in tiles.cut(example(mask, mask), 2, 2, 8)) == 1


@pytest.mark.parametrize("spacing", [(0.2, 0.2), (0.1, 0.3)])
def test_distances_in_mm_are_the_same_on_tile_and_image(spacing):
    shape = (501, 383)
    ends = np.array([(30.0, 20.0), (210.0, 160.0)])  # both on the first tile
    image = sum(np.exp(-((np.mgrid[:501, :383].T - end) ** 2).sum(-1).T / 50) for end in ends)
    tile = tiles.cut(example(image, spacing=spacing), 2, 2, 128)[0]
    spots, _ = ndimage.label(tile.image > 0.3)
    found = np.array(ndimage.center_of_mass(tile.image, spots, [1, 2]))
    on_tile = np.hypot(*((found[1] - found[0]) * tile.spacing_mm))
    on_image = np.hypot(*((ends[1] - ends[0]) * spacing))
    assert on_tile == pytest.approx(on_image, rel=0.02)
    back = [tile.to_image @ (column, row, 1) for row, column in found]
    assert np.array(back)[:, ::-1] == pytest.approx(ends, abs=0.5)
    assert image.shape == shape


def test_shrinking_does_not_alias():
    checkers = np.indices((256, 256)).sum(0) % 2
    tile = tiles.cut(example(checkers), 1, 1, 32)[0]
    assert np.abs(tile.image[2:-2, 2:-2] - 0.5).max() < 0.05


def test_breast_share_counts_the_breast_over_the_whole_tile():
    breast = np.zeros((101, 81), bool)
    breast[:51, :20] = True
    cut = tiles.cut(example(np.ones((101, 81))), 2, 2, 24)
    shares = [tiles.breast_share(breast, tile) for tile in cut]
    assert shares == pytest.approx([20 / 41, 0, 0, 0])
    everything = [tiles.breast_share(np.ones((101, 81), bool), tile) for tile in cut]
    assert everything == pytest.approx([1, 40 / 41, 50 / 51, 40 * 50 / (41 * 51)])


def objects_of(shape):
    """Abnormalities that overlap, by bits, with one that is a single pixel in the last corner."""
    objects = np.zeros(shape, np.uint16)
    for bit, (row, column, radius) in enumerate([(60, 50, 20), (75, 60, 12), (20, 100, 6)]):
        objects[disc(shape, row, column, radius)] |= np.uint16(1 << bit)
    objects[-1, -1] |= np.uint16(1 << 15)
    return objects


@pytest.mark.parametrize("shape", [(160, 120), (161, 119), (97, 163)])
@pytest.mark.parametrize("grid", [(2, 2), (3, 2), (1, 1)])
@pytest.mark.parametrize("size", [16, 64, 200])
def test_objects_come_back_pixel_by_pixel(shape, grid, size):
    objects = objects_of(shape)
    whole = example(np.ones(shape), objects > 0, (0.1, 0.3))._replace(objects=objects)
    cut = tiles.cut(whole, *grid, size)
    tall, wide = math.ceil(shape[0] / grid[0]), math.ceil(shape[1] / grid[1])
    for tile in cut:
        assert tile.image_shape == shape
        assert tile.objects.shape == (tall, wide) and tile.objects.dtype == np.uint16
        assert tiles.window_shape(tile.to_image, tile.mask.shape) == (tall, wide)
    for order in (cut, cut[::-1]):
        back = tiles.whole_objects(order, shape)
        assert back.dtype == np.uint16 and (back == objects).all()


def test_a_tile_without_objects_puts_none_back():
    objects = objects_of((160, 120))
    cut = tiles.cut(example(np.ones((160, 120)))._replace(objects=objects), 2, 2, 32)
    back = tiles.whole_objects((cut[0]._replace(objects=None), *cut[1:]), (160, 120))
    assert not back[:80, :60].any()
    assert (back[80:] == objects[80:]).all() and (back[:, 60:] == objects[:, 60:]).all()
    bare = tiles.cut(example(np.ones((30, 20))), 2, 2, 8)
    assert [tile.objects for tile in bare] == 4 * [None]
    assert not tiles.whole_objects(bare, (30, 20)).any()


@pytest.mark.parametrize("window", [(1, 1), (997, 1213), (2048, 1664), (333, 4095)])
@pytest.mark.parametrize("size", [1, 100, 512])
def test_window_shape_is_exact(window, size):
    scale = (window[0] / size, window[1] / size)
    affine = np.array([[scale[1], 0, 7.0], [0, scale[0], 3.0]])
    assert tiles.window_shape(affine, (size, size)) == window


def test_thumbnails_are_small_and_show_every_label():
    shape = (300, 200)
    mask = np.zeros(shape)
    mask[137, 59] = 1
    mask[10:20, 10:20] = 1
    levels = np.mgrid[: shape[0], : shape[1]][0] / 299
    image, outline = tiles.thumbnail(example(levels, mask), 30)
    assert image.shape == outline.shape == (30, 20)
    assert image.dtype == outline.dtype == np.uint8 and set(np.unique(outline)) == {0, 1}
    expected = levels.reshape(30, 10, 20, 10).mean(axis=(1, 3)) * 255  # each pixel a block's mean
    assert np.abs(image - expected).max() <= 0.51
    assert [tuple(at) for at in np.argwhere(outline)] == [(1, 1), (13, 5)]


def test_thumbnails_never_enlarge():
    rng = np.random.default_rng(0)
    levels, mask = rng.random((12, 7)), rng.random((12, 7)) > 0.5
    image, outline = tiles.thumbnail(example(levels, mask), 320)
    assert np.abs(image - levels * 255).max() <= 0.51 and (outline == mask).all()
    thin, _ = tiles.thumbnail(example(np.ones((2000, 3))), 100)
    assert thin.shape == (100, 1)


def test_what_cannot_be_cut_is_refused():
    whole = example(np.ones((3, 9)))
    with pytest.raises(UserError, match="mdb209.*3x9 pixels.*4x2"):
        tiles.cut(whole, 4, 2, 8)
    for rows, columns, size in [(0, 2, 8), (2, 0, 8), (2, 2, 0)]:
        with pytest.raises(UserError, match="must be >= 1"):
            tiles.cut(whole, rows, columns, size)
    tile = tiles.cut(whole, 1, 2, 8)[0]
    with pytest.raises(ValueError, match="is a tile already|is a tile"):
        tiles.cut(tile, 2, 2, 8)
    with pytest.raises(ValueError, match="not a tile"):
        tiles.breast_share(np.ones((3, 9), bool), whole)
    with pytest.raises(ValueError, match="neither turns nor shears"):
        tiles.put_back([tile.mask], [np.array([[1, 0.1, 0], [0, 1, 0]])], (3, 9))
