"""The domain `any`, and machines with coarser pixels than the grid's."""

import zlib

import numpy as np
import pytest
import tiny

from mln_flax.config import DataConfig, PhantomConfig
from mln_flax.data.core import loaders
from mln_flax.data.phantoms import (
    anatomy,
    any_scanner,
    artifacts,
    framing,
    lesions,
    native,
    phantom,
    scanners,
    scene,
    whole,
)
from mln_flax.engine import whole as predicted


def machine_of(index, seed=0):
    rng = np.random.default_rng([seed, phantom._SCANNER, index, 4])
    return any_scanner.machine(rng)


@pytest.mark.parametrize("index", range(12))
def test_images_are_within_range_and_repeat(index):
    one, again = (phantom.phantom(0, "any", index, height=72, width=64) for _ in range(2))
    assert one.image.dtype == np.float32 and one.image.shape == (72, 64)
    assert np.isfinite(one.image).all() and 0 <= one.image.min() <= one.image.max() <= 1
    np.testing.assert_array_equal(one.image, again.image)
    named = phantom.phantom(0, "ffdm", index, height=72, width=64)
    np.testing.assert_array_equal(one.mask, named.mask)  # exact, on the grid
    assert one.domain == "any" and one.patient_id == named.patient_id


PRINT = """
import zlib
from mln_flax.data.phantoms.phantom import phantom
for domain in ("any", "film"):
    print(zlib.crc32(phantom(0, domain, 5, height=40, width=40).image.tobytes()))
"""


def test_another_process_draws_the_same():
    out, err = tiny.python("-c", PRINT, PYTHONPATH=str(tiny.ROOT)).communicate(timeout=60)
    assert err == ""
    own = [phantom.phantom(0, d, 5, height=40, width=40).image for d in ("any", "film")]
    assert out.split() == [str(zlib.crc32(image.tobytes())) for image in own]


def test_the_four_machines_do_not_depend_on_the_fifth():
    alone = phantom.phantom(0, "dbt", 3, height=40, width=40)
    beside = phantom.shown(0, ("any", "dbt"), 3, height=40, width=40, spacing_mm=0.1)
    np.testing.assert_array_equal(alone.image, beside[1].image)
    assert phantom.DOMAINS == ("ffdm", "dbt", "film", "processing")
    assert "any" not in DataConfig().targets


def test_any_may_be_the_source_and_even_a_target():
    counts = PhantomConfig(train=2, validation=1, test=1)
    data = DataConfig(size=16, phantom=counts, source="any")
    parts = {(p.domain, p.name): p for p in loaders["phantom"](data).parts}
    assert len(parts["any", "train"].examples) == 2 and ("film", "test") in parts
    data = DataConfig(size=16, phantom=counts, targets=("any",))
    assert [p.domain for p in loaders["phantom"](data).parts][-1] == "any"
    chosen = [whole.indices(0, d, n, 3, 3) for d in phantom.KNOWN for n in whole.PARTS]
    assert len({i for part in chosen for i in part}) == 6 * len(chosen)


@pytest.mark.parametrize("spacing", [0.5, 1.0])
def test_whole_views_of_any(spacing):
    example = phantom.whole_view(0, "any", phantom.WHOLE, spacing_mm=spacing)
    assert example.image.shape == phantom.size_of(0, phantom.WHOLE, spacing)
    assert np.isfinite(example.image).all() and 0 <= example.image.min() < example.image.max() <= 1


@pytest.mark.parametrize("pixel_mm", [0.13, 0.2])
def test_a_whole_view_is_resampled_as_prediction_does(pixel_mm):
    grid = anatomy.Grid(np.arange(57) * 0.1 + 0.05, 3 + np.arange(43) * 0.1, 0.1, whole=True)
    coarse = native.coarse_grid(grid, pixel_mm, np.array([0.3, 0.9]))
    assert (len(coarse.y), len(coarse.x)) == (round(4.3 / pixel_mm), round(5.7 / pixel_mm))
    image = np.random.default_rng(0).random((len(coarse.y), len(coarse.x)), np.float32)
    expected = predicted.resampled(image, (43, 57))
    np.testing.assert_allclose(native.on_grid(image, coarse, grid), expected, atol=1e-5)


def test_a_windows_pixels_cover_it_from_anywhere():
    grid = anatomy.Grid(20 + np.arange(31) * 0.1, np.arange(20) * 0.1, 0.1, whole=False)
    starts = set()
    for phase in (0.0, 0.4, 0.99):
        coarse = native.coarse_grid(grid, 0.17, np.array([phase, 1 - phase - 0.01]))
        assert coarse.x[0] - 0.085 <= grid.x[0] - 0.05 + 1e-9 and coarse.x[-1] >= grid.x[-1]
        assert coarse.y[0] - 0.085 <= grid.y[0] - 0.05 + 1e-9 and coarse.y[-1] >= grid.y[-1]
        np.testing.assert_allclose(np.diff(coarse.x), 0.17)
        starts.add(round(coarse.x[0], 6))
        plane = 2 * coarse.y[:, None] - coarse.x
        inside = native.on_grid(plane.astype(np.float32), coarse, grid)[2:-2, 2:-2]
        expected = 2 * grid.y[2:-2, None] - grid.x[2:-2]
        np.testing.assert_allclose(inside, expected, atol=1e-4)
    assert len(starts) == 3


@pytest.mark.parametrize("native_mm", [0.05, 0.14, 0.2])
@pytest.mark.parametrize("laterality", ["L", "R"])
def test_a_dot_stays_where_its_mask_is(native_mm, laterality, monkeypatch):
    index = next(i for i in range(0, 60, 2) if anatomy.breast(0, i).laterality == laterality)
    body = anatomy.breast(0, index)
    dot = lesions.Spot(40.03, 10.02, 0.4, 0.4, 0.0, (0.0, 0.0, 0.0), 0.0, 0.5, True)
    grid = anatomy.Grid(38 + np.arange(50) * 0.1, 7 + np.arange(60) * 0.1, 0.1, False)
    machine = scanners.Machine(
        scene.Blur(0.05),
        scanners.Curve(low=0.0, high=4.0, shoulder=0.0),
        noise=scanners.Noise(0.0),
        native_mm=native_mm,
    )
    monkeypatch.setattr(any_scanner, "machine", lambda rng: machine)
    monkeypatch.setattr(artifacts, "IN_WINDOWS", 0.0)
    monkeypatch.setattr(lesions, "cluster", lambda *_: [dot])
    monkeypatch.setattr(lesions, "distractors", lambda *_: [])
    monkeypatch.setattr(phantom, "_grid", lambda *_: grid)
    shown = phantom.phantom(0, "any", index, height=60, width=50)
    monkeypatch.setattr(lesions, "cluster", lambda *_: [])
    plain = phantom.phantom(0, "any", index, height=60, width=50)
    assert body.laterality == shown.laterality == laterality

    def centroid(weights):
        return np.array([(weights * at).sum() for at in np.indices(weights.shape)]) / weights.sum()

    found, labeled = centroid(shown.image - plain.image), centroid(shown.mask)
    assert np.abs(found - labeled).max() < 0.25


def test_coarse_machines_are_coarse_and_fine_ones_are_not():
    """The share of variance of differences of neighbors in a dense film-free window."""
    shares = {True: [], False: []}
    for index in range(80):
        machine = machine_of(index)
        if machine.film or machine.noise.blur or machine.thin or machine.unsharp:
            continue
        image = phantom.phantom(0, "any", index, height=64, width=64).image
        detail = np.diff(image, axis=1)
        rough = np.diff(detail, axis=1).var() / max(detail.var(), 1e-12)
        shares[machine.native_mm > 0.15].append(rough)
    assert min(map(len, shares.values())) >= 4
    assert np.median(shares[True]) < np.median(shares[False]) - 0.5


def test_gray_values_have_the_machines_steps(monkeypatch):
    machine = scanners.SCANNERS["ffdm"]._replace(native_mm=0.05, bits=8)
    monkeypatch.setattr(any_scanner, "machine", lambda rng: machine)
    image = phantom.phantom(0, "any", 0, height=32, width=32).image
    np.testing.assert_allclose(image * 255, np.round(image * 255), atol=1e-4)
    assert len(np.unique(image)) > 5


def test_letters_and_plates_are_drawn_for_any_machine():
    kinds = set()
    for index in range(0, 60, 2):
        body = anatomy.breast(0, index)
        lead = framing.letters(body, np.full((150, 150), -30.0), 0.25) > 0
        box = np.argwhere(lead)
        low, high = box.min(0), box.max(0) + 1
        area = lead[low[0] : high[0], low[1] : high[1]]
        plate = area[0].all() and area[-1].all() and area[:, 0].all()
        kinds.add((bool(plate), area.shape[1] > 1.5 * area.shape[0]))
    assert len(kinds) >= 3
