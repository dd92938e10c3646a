"""The script of an exported file does in numpy what the package does with scipy and Pillow."""

import ast
import inspect
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, spatial

from mln_flax.data.phantoms.phantom import phantom
from mln_flax.data.prepare import tiles
from mln_flax.engine import predictor, standalone, whole
from mln_flax.metrics import clusters
from mln_flax.metrics.decision import OperatingPoint, decide

RNG = np.random.default_rng(0)


def test_it_imports_jax_numpy_and_the_standard_library_alone():
    names = set()
    for node in ast.walk(ast.parse(inspect.getsource(standalone))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    assert {"jax", "numpy"} <= names
    assert names - {"jax", "numpy"} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "shape", [(40, 30), (90, 66), (23, 61), (7, 5), (41, 30), (40, 61), (1, 1), (400, 300)]
)
@pytest.mark.parametrize(("reach", "kind"), [(1.0, "BILINEAR"), (0.5, "BOX")])
def test_images_are_resampled_as_by_pillow(shape, reach, kind):
    image = RNG.random((40, 30), np.float32)
    expected = Image.fromarray(image).resize(shape[::-1], Image.Resampling[kind])
    np.testing.assert_allclose(
        standalone.resized(image, shape, reach), np.asarray(expected), rtol=0, atol=1e-7
    )


def views():
    """Images with and without a breast: phantoms, inverted ones, blobs, noise, one gray level."""
    for i, domain in enumerate(("ffdm", "dbt", "film", "processing")):
        image = phantom(0, domain, i, height=300, width=220, spacing_mm=0.8).image
        yield from (image, 1 - image, image[:40, :60], np.repeat(image, 3, axis=1))
    for sigma in (1, 4, 9):
        blobs = ndimage.gaussian_filter(RNG.normal(size=(130, 170)), sigma)
        yield ((blobs - blobs.min()) / np.ptp(blobs)).astype(np.float32)
    yield RNG.random((64, 64), np.float32)
    yield np.full((20, 30), 0.5, np.float32)


def test_the_breast_is_found_where_the_package_finds_it():
    shares, told = [], set()
    for image in views():
        expected = tiles.breast_mask(image)
        np.testing.assert_array_equal(standalone.breast_mask(image), expected)
        shares.append(expected.mean())
        air = tiles.air_is_white(image)
        assert standalone.air_is_white(standalone.search_level(image)) is air
        told.add(air)
    assert told == {None, False, True}
    assert min(shares) == 0 and sum(0.1 < share < 0.9 for share in shares) > 5


@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.45, 0.6, 0.95, 1])
def test_connected_pieces_are_numbered_as_by_scipy(share):
    mask = RNG.random((60, 47)) < share
    for diagonal in (False, True):
        structure = ndimage.generate_binary_structure(2, 2 if diagonal else 1)
        expected, _ = ndimage.label(mask, structure)
        np.testing.assert_array_equal(standalone.labeled(mask, diagonal), expected)


def test_a_long_spiral_is_one_piece():
    mask, at, way = np.ones((41, 41), bool), [1, 1], 0
    length, steps = 38, ((0, 1), (1, 0), (0, -1), (-1, 0))
    while length > 0:
        for _ in range(length):
            mask[tuple(at)] = False
            at = [a + b for a, b in zip(at, steps[way % 4], strict=True)]
        way += 1
        length -= 2 * (way % 2 == 1 and way > 1)
    for pixels in (mask, ~mask):
        expected, _ = ndimage.label(pixels)
        np.testing.assert_array_equal(standalone.labeled(pixels, diagonal=False), expected)


@pytest.mark.parametrize("shape", [(50, 40), (20, 40), (17, 13), (9, 3), (120, 95), (50, 41)])
def test_a_map_comes_back_to_the_images_pixels(shape):
    values = RNG.random((50, 40), np.float32)
    scene = whole.Scene(values, shape, np.ones(shape, bool), whole.Tiling(8, 0), ())
    np.testing.assert_array_equal(
        standalone.in_own_pixels(values, shape), whole.in_own_pixels(scene, values)
    )


@pytest.mark.parametrize("length", [5, 64, 65, 100, 300])
@pytest.mark.parametrize("overlap", [0, 8, 30, 33, 61, 63])
def test_tiles_lie_and_count_as_in_the_package(length, overlap):
    facts, tiling = {"tile": 64, "overlap": overlap}, whole.Tiling(64, overlap)
    expected = whole.weights(length, tiling)
    weights = standalone.weights(length, facts)
    assert list(weights) == standalone.starts(length, facts) == whole.starts(length, tiling)
    for start, share in weights.items():
        np.testing.assert_array_equal(share, expected[start])


@pytest.mark.parametrize("shape", [(20, 30), (47, 64), (90, 200)])
@pytest.mark.parametrize("least", [0, 0.05, 0.5, 1.1])
def test_the_tiles_that_choose_a_branch_are_those_of_the_package(shape, least):
    """Many full ones, some, a fullest one, none."""
    breast = ndimage.zoom(RNG.random((5, 5)), np.array(shape) / 5, order=1) >= least
    scene = whole.Scene(np.zeros(shape, np.float32), shape, breast, whole.Tiling(8, 0), ())
    corners = standalone.full_corners(breast, 8)
    assert corners == whole.full_corners(scene, 8)
    assert bool(corners) == (least < 1)
    assert least or len(corners) == min(24, -(-shape[0] // 8) * -(-shape[1] // 8))


@pytest.mark.parametrize("frames", [0, 1, 7, 8, 9, 60])
def test_the_frames_that_choose_a_branch_are_those_of_the_package(frames):
    assert standalone.spread(frames, standalone.LOOKED_AT) == predictor.looked_at(frames)


def test_limits_are_those_of_the_package():
    for name in ("LEAST_SIDE", "MOST_PIXELS", "FULL", "MOST_FULL", "GRID"):
        assert getattr(standalone, name) == getattr(whole, name)
    assert standalone.AROUND == whole._AROUND and standalone.LOOKED_AT == predictor.LOOKED_AT


@pytest.mark.parametrize("keep", ["clusters", "all"])
@pytest.mark.parametrize("spacing", [(0.1, 0.1), (0.3, 0.2), (0.5, 0.8)])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_what_is_marked_is_what_the_package_marks(keep, spacing, count):
    facts = {"threshold": 0.8, "min_area_mm2": 0.05, "cluster_mm2": 100.0}
    facts |= {"min_count": count, "keep": keep}
    kept = []
    for sigma, level in ((0.6, 0.1), (1.2, 0.05), (0.8, 1.0), (1.0, 0.0)):
        noise = ndimage.gaussian_filter(RNG.normal(size=(90, 110)), sigma)
        probability = (0.5 + level * noise / noise.std()).clip(0, 1).astype(np.float32)
        least = clusters.least_pixels(0.05, spacing)
        mask = decide(probability, OperatingPoint(0.8, least))
        rule = clusters.ClusterRule(count, 100.0)
        expected = predictor.kept(clusters.marks(probability, mask, spacing, rule), keep)
        np.testing.assert_array_equal(standalone.marked(facts, probability, spacing), expected)
        kept.append(expected.mean())
    assert kept[-1] == 0 and max(kept) > 0


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_clustered_points_have_a_core_near(count):
    points = RNG.random((200, 2)) * 60
    facts = {"cluster_mm2": 30.0, "min_count": count}
    near = spatial.distance.cdist(points, points) <= np.sqrt(30 / np.pi)
    expected = (near & (near.sum(axis=1) >= count)).any(axis=1)
    np.testing.assert_array_equal(standalone.clustered(facts, points), expected)
    assert expected.all() == (count == 1) and expected.any() == (count < 9)
