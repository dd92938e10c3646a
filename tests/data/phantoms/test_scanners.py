"""Blur, noise, curves and artifacts of machines, measured on what they show."""

import numpy as np
import pytest
from scipy import ndimage

from mln_flax.data.phantoms import (
    anatomy,
    any_scanner,
    artifacts,
    film_marks,
    folds,
    lesions,
    phantom,
    scanners,
    scene,
)

PUBLISHED = (1.0, 0.84, 0.66, 0.47, 0.32, 0.22)  # at 0 to 5 per mm
NO_NOISE = scanners.Noise(0.0)


def flat(attenuation, spots=None, spacing_mm=0.1):
    """A scene without a rim of which fat attenuates 2.3."""
    image = np.asarray(attenuation, np.float32)
    none = np.zeros_like(image)
    spots = none if spots is None else np.asarray(spots, np.float32)
    return scanners.Scene(image, spots, none + 30, none, 2.3, spacing_mm, False, True)


def slanted_edge(side, spacing_mm, slope):
    """An edge as pixels see it: each the share of its area beyond a line near the middle."""
    points = (np.arange(side * 16) + 0.5) / 16
    middle = side / 2 + slope * (points - side / 2)
    beyond = (points[None] > middle[:, None]).astype(np.float32)
    return beyond.reshape(side, 16, side, 16).mean((1, 3))


def edge_mtf(image, spacing_mm, slope, frequency):
    """The transfer across a slanted edge of known slope, by its spread at a tenth of a pixel."""
    side = len(image)
    row, column = np.mgrid[:side, :side] + 0.5
    away = (column - side / 2 - slope * (row - side / 2)) * np.cos(np.arctan(slope))
    near = (np.abs(away) < 30) & (np.abs(row - side / 2) < 40)
    bins = np.round(away[near] * 10).astype(int) + 300
    count = np.bincount(bins, minlength=601)
    spread = np.bincount(bins, image[near], minlength=601)[1:-1] / count[1:-1]
    line = np.diff(spread)
    at = (np.arange(len(line)) - 298.5) / 10 * spacing_mm
    wave = np.exp(-2j * np.pi * np.asarray(frequency)[:, None] * at)
    derivative = np.sinc(np.asarray(frequency) * spacing_mm / 10)  # of differences of means
    return np.abs(wave @ line) / line.sum() / derivative


def test_the_digital_machine_has_the_published_mtf():
    frequency, slope = np.arange(6.0), 0.0873  # no simple fraction: all bins are met
    closed_form = scanners.SELENIUM.mtf(frequency)
    np.testing.assert_allclose(closed_form, PUBLISHED, atol=0.02)
    machine = scanners.SCANNERS["ffdm"]._replace(noise=NO_NOISE)
    for spacing in (0.1, 0.05):
        edge = slanted_edge(128, spacing, slope)
        rng = np.random.default_rng(0)
        image = scanners.detected(machine, flat(edge, spacing_mm=spacing), rng)
        measured = edge_mtf(image, spacing, slope, frequency)
        np.testing.assert_allclose(measured, PUBLISHED, atol=0.03)
        np.testing.assert_allclose(measured, closed_form, atol=0.025)


def test_the_other_machines_are_softer_and_a_coarse_grid_adds_nothing():
    at = np.array([1.0, 3.0, 5.0])
    ffdm = scanners.SCANNERS["ffdm"].blur.mtf(at)
    for name in ("dbt", "film", "processing"):
        assert (scanners.SCANNERS[name].blur.mtf(at) < ffdm).all()
    impulse = np.zeros((21, 21), np.float32)
    impulse[10, 10] = 1
    coarse = scene.blurred(impulse, scene.Blur(0.001, aperture_mm=0.1), 0.3)
    np.testing.assert_array_equal(coarse, impulse)


@pytest.mark.parametrize("sigma", [0.9, 2.0, 15.0])
def test_wide_blurs_are_those_of_scipy(sigma):
    image = np.random.default_rng(2).random((40, 16), np.float32)
    settings = {"mode": "nearest", "truncate": 3.0}
    both = ndimage.gaussian_filter(image, sigma, **settings)
    along = ndimage.gaussian_filter1d(image, sigma, axis=0, **settings)
    np.testing.assert_allclose(scene.gaussian(image, sigma), both, atol=4e-3)
    np.testing.assert_allclose(scene.blurred_rows(image, sigma * 0.1, 0.1), along, atol=4e-3)


@pytest.mark.parametrize(("sigma", "aperture"), [(0.1, 1.0), (0.42, 1.0), (0.6, 2.0), (3.0, 1.0)])
def test_kernels_transfer_what_the_blur_does(sigma, aperture):
    weights = scene.kernel(sigma, aperture)
    reach = len(weights) // 2
    frequency = np.linspace(0, 0.5, 11)
    found = np.cos(2 * np.pi * frequency[:, None] * np.arange(-reach, reach + 1)) @ weights
    wanted = np.exp(-2 * (np.pi * sigma * frequency) ** 2)
    wanted *= np.sinc(aperture * frequency) / np.sinc(frequency)
    np.testing.assert_allclose(found, wanted, atol=0.04)
    assert weights.sum() == pytest.approx(1)


def noise_power(machine, spacing_mm=0.1, side=128, pairs=10, attenuation=2.7):
    """Power in mm^2 of differences of two realizations, by the rows' frequency in 1 / mm.

    Frequencies near the axis alone, 0.3 to 5 per mm; variance of one realization.
    """
    window = np.hanning(side)[:, None] * np.hanning(side)
    total = 0.0
    for k in range(pairs):
        shown = [
            scanners.detected(
                machine,
                flat(np.full((side, side), attenuation), spacing_mm=spacing_mm),
                np.random.default_rng([5, k, each]),
            )
            for each in range(2)
        ]
        total = total + np.abs(np.fft.fft2((shown[0] - shown[1]) * window)) ** 2
    power = total / pairs / 2 / (window**2).sum() * spacing_mm**2
    along = power[:, [*range(-8, 0), *range(1, 9)]].mean(axis=1)  # across: at 0.08 to 0.6 per mm
    return np.fft.fftfreq(side, spacing_mm)[: side // 2], along[: side // 2]


def bands(machine, **settings):
    """The power near 0.5, 2 and 4.5 per mm."""
    frequency, power = noise_power(machine, **settings)
    return np.array([power[np.abs(frequency - f) < 0.35].mean() for f in (0.5, 2.0, 4.5)])


def test_the_noise_of_a_direct_detector_is_white_of_the_stated_power():
    white = (scanners.PHOTON_NOISE * 0.1) ** 2  # mm^2: sigma^2 of a pixel times its area
    for spacing in (0.1, 0.05):  # 2.7 is where exposure control holds it
        found = bands(scanners.SCANNERS["ffdm"], spacing_mm=spacing)
        np.testing.assert_allclose(found, white, rtol=0.15)


def test_noise_grows_as_fewer_photons_come_through():
    machine = scanners.SCANNERS["ffdm"]
    thin, thick = (bands(machine, attenuation=level).mean() for level in (2.0, 3.0))
    assert thick / thin == pytest.approx(np.e, rel=0.1)


@pytest.mark.parametrize("domain", ["film", "processing", "dbt"])
def test_the_noise_of_the_others_has_their_color(domain):
    machine = scanners.SCANNERS[domain]
    settings, at = machine.noise, np.array([0.5, 2.0, 4.5])
    found = bands(machine)
    spread = settings.blur._replace(aperture_mm=0.0)
    expected = settings.amount**2 * spread.mtf(at) ** 2 + settings.electronic**2
    expected *= (scanners.PHOTON_NOISE * 0.1) ** 2
    if machine.halo:  # less of the low frequencies along the sweep
        expected *= (1 - 0.5 * np.exp(-2 * (np.pi * at * machine.halo.spots_mm) ** 2)) ** 2
    else:
        assert expected[0] > 2 * expected[2]
    np.testing.assert_allclose(found, expected, rtol=0.25)


def test_grain_is_the_films_own():
    machine = scanners.SCANNERS["film"]._replace(noise=NO_NOISE)
    area = flat(np.full((96, 96), 2.7))
    plain, grainy = (
        scanners.displayed(
            machine._replace(noise=scanners.Noise(0.0, grain=grain)),
            area.attenuation,
            area,
            np.random.default_rng(0),
        )
        for grain in (0.0, 1.0)
    )
    assert plain.std() < 1e-6
    assert 0.004 < grainy.std() < 0.02
    assert np.corrcoef(grainy[1:].ravel(), grainy[:-1].ravel())[0, 1] < 0.3


def test_curves_keep_the_order_and_films_are_sigmoid():
    ramp = np.linspace(0, 6, 200, dtype=np.float32)[None].repeat(2, 0)
    rng = np.random.default_rng(0)
    for kind in (scanners.LOG, scanners.LINEAR, scanners.FILM):
        curve = scanners.Curve(kind, low=0.6, high=1.6, toe=0.1)
        machine = scanners.Machine(scanners.SELENIUM, curve, noise=NO_NOISE)
        shown = scanners.displayed(machine, ramp, flat(ramp), rng)[0]
        assert (np.diff(shown) >= -1e-6).all() and 0 <= shown.min() < 0.1 and shown.max() > 0.9
        if kind == scanners.FILM:
            steepest = np.diff(shown).argmax()
            assert ramp[0, steepest] == pytest.approx(2.3 + 0.45 - 0.05 * np.log(10), abs=0.1)


def test_rims_are_made_even_and_details_lifted():
    signal = np.zeros((60, 60), np.float32)
    signal[:, 30:] = 1
    view = flat(signal)._replace(rim=1 - signal)
    even = scanners.SCANNERS["ffdm"]._replace(equalized=1.0)
    assert np.abs(scanners.processed(even, signal, view)[:, [5, 55]] - 1).max() < 1e-5
    sharper = even._replace(equalized=0.0, unsharp=((0.5, 1.0),))
    lifted = scanners.processed(sharper, signal, view)[30]
    assert lifted.max() > 1.15 and lifted.min() < -0.15 and lifted[[5, 55]].tolist() == [0, 1]


def test_lead_reaches_into_few_windows_and_covers_no_spot():
    rng = np.random.default_rng(0)
    spots = np.zeros((96, 96), np.float32)
    spots[::16, ::16] = 0.1
    view, seen, count = flat(np.full((96, 96), 2.5), spots), [], 1500
    for _ in range(count):
        lead = artifacts.lead(view, rng)
        if lead is not None and lead.any():
            assert not lead[spots > 0].any() and lead.max() <= 3.5
            seen.append((lead > 1).mean())
    assert 0.005 < len(seen) / count < 0.06
    assert 0 < min(seen) < 0.02 < max(seen) < 0.9
    whole = [artifacts.lead(view._replace(whole=True), rng) is not None for _ in range(300)]
    assert 0.05 < np.mean(whole) < 0.25
    air = view._replace(whole=True, depth_mm=view.depth_mm * 0 - 5)
    drawn = [artifacts.lead(air, rng) for _ in range(100)]
    assert not any(lead is not None and lead.any() for lead in drawn)


def test_films_bear_specks_of_both_signs_lines_bands_and_edges(monkeypatch):
    monkeypatch.setattr(film_marks, "DIRT", 0.0)  # of few films most of the dust
    plain, rng = np.full((128, 128), 0.5, np.float32), np.random.default_rng(1)
    view = flat(plain, plain * 0)
    with monkeypatch.context() as without_edges:
        without_edges.setattr(film_marks, "EDGES", 0.0)
        marks = [film_marks.marked(plain, rng, view) - plain for _ in range(200)]
    area = 200 * view.area_cm2
    bright, dark = (sum(ndimage.label(s * m > 0.1)[1] for m in marks) / area for s in (1, -1))
    assert 0.15 < dark < bright < 1.2
    marks = [film_marks.marked(plain, rng, view) - plain for _ in range(200)]
    extents = [
        max(part.stop - part.start for part in box)
        for m in marks
        for box in ndimage.find_objects(ndimage.label(np.abs(m) > 0.02, np.ones((3, 3)))[0])
    ]
    assert 0.02 < np.mean(np.array(extents) > 15) < 0.2  # hairs, scratches, borders, labels
    edges = np.mean([(np.abs(m) > 0.08).mean() > 0.03 for m in marks])
    assert 0.05 < edges < 0.2
    bands = [np.median(m, axis=1).std() > 1e-4 for m in marks]
    assert 0.05 < np.mean(bands) < 0.3


def test_a_films_edges_cover_no_spot(monkeypatch):
    monkeypatch.setattr(film_marks, "EDGES", 1.0)
    for name in ("BRIGHT_DUST", "DARK_DUST", "HAIRS", "SCRATCHES", "ROLLERS"):
        monkeypatch.setattr(film_marks, name, 0.0)
    plain, rng = np.full((64, 64), 0.5, np.float32), np.random.default_rng(1)
    spots = np.zeros((64, 64), np.float32)
    spots[7::40, 7::40] = 0.1
    changed = [film_marks.marked(plain, rng, flat(plain, spots)) != plain for _ in range(60)]
    assert any(c.any() for c in changed) and not any(c[spots > 0].any() for c in changed)


def test_detector_defects_are_few_and_small():
    view, rng = flat(np.zeros((1000, 1000), np.float32)), np.random.default_rng(0)
    fields = [artifacts.detector_defects(view.attenuation.copy(), view, rng) for _ in range(10)]
    count = sum(ndimage.label(field)[1] for field in fields)
    assert 20 < count < 70  # 40 in 1000 square centimeters
    assert all((field != 0).sum() < 900 and np.abs(field).max() <= 0.25 for field in fields)


def test_folds_are_rare_thin_and_on_the_skin():
    drawn = [(anatomy.breast(0, i), folds.folds(anatomy.breast(0, i))) for i in range(120)]
    has = {v: np.mean([bool(f) for b, f in drawn if b.view == v]) for v in ("CC", "MLO")}
    assert 0.1 < has["CC"] < 0.4 and 0.4 < has["MLO"] < 0.75
    body, lines = next((b, f) for b, f in drawn if f)
    middle = lines[0].skin.points[0, 8]
    axis = (np.arange(100) - 50) * 0.1
    grid = anatomy.Grid(middle[0] + axis, middle[1] + axis, 0.1, False)
    added = folds.attenuation(body, grid, np.full((100, 100), 5.0))
    assert 0.03 < added.max() <= 0.24 * 3 and added.min() >= -0.12 * 3
    assert (added != 0).mean() < 0.6
    assert not folds.attenuation(body, grid, np.full((100, 100), -5.0)).any()
    far = grid._replace(x=grid.x + 500)
    assert folds.attenuation(body, far, np.full((100, 100), 5.0)) is None


def test_some_windows_show_the_edge_of_the_pectoral_muscle():
    shown = 0
    for index in range(1, 121, 2):
        body = anatomy.breast(0, index)
        at = lesions.focus(body)
        axis = (np.arange(24) - 12) * 0.5
        share = anatomy._pectoral(body, anatomy.Grid(at.x + axis, at.y + axis, 0.5, False))
        shown += share.min() < 0.2 and share.max() > 0.8
    assert shown >= 2


def test_every_machine_of_any_is_within_its_ranges():
    machines = [any_scanner.machine(np.random.default_rng([0, i])) for i in range(600)]
    natives = np.array([m.native_mm for m in machines])
    assert 0.05 <= natives.min() < 0.06 and 0.19 < natives.max() <= 0.2
    assert {m.bits for m in machines} == {8, 10, 12, 16}
    kinds = {kind: np.mean([m.curve.kind == kind for m in machines]) for kind in ("film", "linear")}
    assert kinds["film"] == pytest.approx(0.3, abs=0.06) and 0.04 < kinds["linear"] < 0.12
    assert np.mean([m.thin for m in machines]) == pytest.approx(0.15, abs=0.05)
    assert np.mean([m.curve.dark for m in machines]) == pytest.approx(0.184, abs=0.06)
    amounts = [m.noise.amount for m in machines]
    assert 0.4 <= min(amounts) < 0.45 and 2.2 < max(amounts) <= 2.5
    assert all(m.bits >= 12 for m in machines if m.curve.kind == "linear")
    assert {bool(m.unsharp) for m in machines} == {m.equalized > 0 for m in machines} == {0, 1}
    assert phantom.KNOWN[:4] == phantom.DOMAINS
