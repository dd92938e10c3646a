import itertools

import numpy as np
import pytest
from scipy import ndimage

from mln_flax.config import DataConfig, PhantomConfig
from mln_flax.data.core import loaders
from mln_flax.data.phantoms import anatomy, lesions, noise
from mln_flax.data.phantoms.phantom import DOMAINS, KNOWN, phantom, sheet
from mln_flax.types import UserError

EIGHT = np.ones((3, 3))


def with_lesion(count=1, start=0):
    found = [i for i in range(start, start + 60) if lesions.focus(anatomy.breast(0, i)).lesion]
    return found[:count]


def components_mm(mask, spacing_mm):
    """The largest extent of each object, corner to corner of its bounding box, mm."""
    labels, _ = ndimage.label(mask, EIGHT)
    boxes = ndimage.find_objects(labels)
    return [max(s.stop - s.start for s in box) * spacing_mm for box in boxes]


@pytest.mark.parametrize("domain", KNOWN)
def test_pure_function_of_its_arguments(domain):
    one, again = (phantom(3, domain, 5, height=48, width=40) for _ in range(2))
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.mask, again.mask)
    assert one._replace(image=0, mask=0) == again._replace(image=0, mask=0)
    for other in (
        phantom(3, domain, 7, height=48, width=40),
        phantom(4, domain, 5, height=48, width=40),
    ):
        assert np.abs(one.image - other.image).mean() > 1e-3


@pytest.mark.parametrize("domain", KNOWN)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 5), (63, 100), (128, 128)])
def test_any_size(domain, size):
    example = phantom(0, domain, 0, height=size[0], width=size[1])
    assert example.image.shape == example.mask.shape == size
    assert example.image.dtype == np.float32 and example.mask.dtype == np.uint8
    assert 0 <= example.image.min() <= example.image.max() <= 1
    assert set(np.unique(example.mask)) <= {0, 1}
    assert example.label_kind == ("calcification" if example.mask.any() else "none")
    assert example.image.flags["C_CONTIGUOUS"] and example.mask.flags["C_CONTIGUOUS"]


def test_domains_show_the_same_breast_with_their_own_noise():
    examples = [phantom(0, d, with_lesion()[0], height=96, width=96) for d in DOMAINS]
    for example in examples[1:]:
        np.testing.assert_array_equal(example.mask, examples[0].mask)
        assert example.patient_id == examples[0].patient_id
        assert example.image_id != examples[0].image_id
        assert np.abs(example.image - examples[0].image).mean() > 0.02


def test_mask_is_empty_exactly_without_a_lesion():
    for index in range(25):
        example = phantom(0, "ffdm", index, height=128, width=128)
        lesion = lesions.focus(anatomy.breast(0, index)).lesion
        assert (example.label_kind == "calcification") == lesion


def test_objects_keep_their_size_in_mm():
    extents = []
    for index in with_lesion(5):
        mask = phantom(0, "ffdm", index, height=440, width=440, spacing_mm=0.025).mask
        extents += components_mm(np.pad(mask[1:-1, 1:-1], 1), 0.025)
    assert len(extents) > 10
    assert np.quantile(extents, 0.1) > 0.07 and max(extents) < 1.1


def test_pixels_cover_the_same_breast_at_another_spacing():
    index = with_lesion()[0]
    fine = phantom(0, "ffdm", index, height=256, width=256, spacing_mm=0.05)
    coarse = phantom(0, "ffdm", index, height=128, width=128, spacing_mm=0.1)
    assert int(fine.mask.sum()) == pytest.approx(4 * int(coarse.mask.sum()), rel=0.25)
    shrunk = fine.image.reshape(128, 2, 128, 2).mean((1, 3))
    smooth = [ndimage.gaussian_filter(i, 4) for i in (shrunk, coarse.image)]
    assert np.abs(smooth[0] - smooth[1]).mean() < 0.01
    far = ndimage.distance_transform_edt(coarse.mask == 0)
    assert far[fine.mask.reshape(128, 2, 128, 2).max((1, 3)) > 0].max() < 3


@pytest.mark.parametrize(
    ("domain", "sign"), [("ffdm", 1), ("dbt", 1), ("film", 1), ("processing", -1)]
)
def test_polarity(domain, sign):
    differences = []
    for index in with_lesion(12):
        example = phantom(0, domain, index, height=128, width=128)
        inside = example.mask > 0
        ring = ndimage.binary_dilation(inside, iterations=5)
        ring &= ~ndimage.binary_dilation(inside, iterations=2)
        differences.append(example.image[inside].mean() - example.image[ring].mean())
    assert np.mean(np.sign(differences) == sign) > 0.9
    assert sign * np.median(differences) > 0.01


def test_air_is_constant_and_on_the_right_side():
    air = {}
    for domain in DOMAINS:
        example = phantom(0, domain, 0, height=150, width=120, spacing_mm=1.6)
        outer = slice(20, 100) if example.laterality == "R" else slice(-100, -20)
        corner = example.image[15:25, :][:, outer][:, :8]
        air[domain] = corner.mean()
        assert corner.std() < 0.05
    assert air["processing"] > 0.95 and max(air["ffdm"], air["dbt"], air["film"]) < 0.2


def test_some_windows_show_air_and_most_do_not():
    black = [(phantom(0, "ffdm", i, height=64, width=64).image < 0.01).mean() for i in range(60)]
    assert 0.05 < np.mean(np.array(black) > 0.02) < 0.45


@pytest.mark.parametrize("exponent", [2.5, 3.0])
def test_texture_has_its_exponent(exponent):
    axis = np.arange(256) * 0.2
    laws = [
        noise.power_law(np.random.default_rng(k), anatomy.PERIODS_MM, exponent) for k in range(6)
    ]
    slopes = [fitted_exponent(field, 0.2) for field in noise.fields(laws, axis, axis)]
    assert np.mean(slopes) == pytest.approx(exponent, abs=0.3)


def test_windows_follow_the_power_laws_that_were_measured():
    """3.06 of slices, 3.2 of projections, septa and fibers among it."""
    slopes = {False: [], True: []}
    for index in itertools.count(40):
        body = anatomy.breast(0, index)
        at = lesions.focus(body)
        axis = (np.arange(128) - 64) * 0.1
        grid = anatomy.Grid(at.x + axis, at.y + axis, 0.1, False)
        if anatomy.depth_mm(body, grid.x[None], grid.y[:, None]).min() > 15:
            for thin, found in slopes.items():
                image = anatomy.tissue(body, grid, thin=thin).attenuation
                found.append(fitted_exponent(image, 0.1))
        if len(slopes[True]) == 60:
            break
    for thin, exponent in ((False, 3.2), (True, 3.06)):
        assert np.mean(slopes[thin]) == pytest.approx(exponent, abs=0.12)  # standard error 0.05


def fitted_exponent(image, spacing_mm):
    """Minus the slope of log power over log frequency, 0.3 to 1.5 per mm, Hann window."""
    side = len(image)
    window = np.hanning(side)
    power = np.abs(np.fft.fft2((image - image.mean()) * window[:, None] * window)) ** 2
    axis = np.fft.fftfreq(side, spacing_mm)
    radius = np.hypot(axis[:, None], axis)
    edges = np.geomspace(0.3, 1.5, 9)
    rings = [(radius >= a) & (radius < b) for a, b in zip(edges, edges[1:], strict=False)]
    means = [(np.log(radius[r]).mean(), np.log(power[r].mean())) for r in rings]
    return -np.polyfit(*np.array(means).T, 1)[0]


def test_load_shares_no_patient():
    counts = PhantomConfig(train=4, validation=2, test=3)
    data = DataConfig(size=24, phantom=counts)
    dataset = loaders["phantom"](data)
    sizes = {(p.domain, p.name): len(p.examples) for p in dataset.parts}
    assert sizes == {
        ("ffdm", "train"): 4,
        ("ffdm", "validation"): 2,
        ("ffdm", "test"): 3,
        ("dbt", "test"): 3,
        ("film", "test"): 3,
        ("processing", "test"): 3,
    }
    patients = [e.patient_id for p in dataset.parts for e in p.examples]
    assert len(set(patients)) == len(patients)
    for part in dataset.parts:
        assert all(e.domain == part.domain and e.image.shape == (24, 24) for e in part.examples)
    assert len(dataset.notes) == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "ffmd"}, "did you mean 'ffdm'"),
        ({"targets": ("flim",)}, "did you mean 'film'"),
        ({"source": "dbt"}, "is there twice"),
        ({"targets": ("film", "film")}, "is there twice"),
        ({"phantom": PhantomConfig(train=-1)}, "train"),
        ({"phantom": PhantomConfig(spacing_mm=0.0)}, "spacing"),
        ({"size": 0}, "0 x 0"),
    ],
)
def test_load_refuses(settings, message):
    with pytest.raises(UserError, match=message):
        loaders["phantom"](DataConfig(**settings))


def test_sheet_shows_whole_breasts_by_view_and_domain():
    rows = sheet(0, rows=2, size=(120, 96), spacing_mm=2.0)
    assert [[e.domain for e in row] for row in rows] == [list(DOMAINS)] * 2
    assert [row[0].view_position for row in rows] == ["CC", "MLO"]
    for row in rows:  # the breast meets the chest wall's side and leaves air on the other
        columns = (row[0].image > 0.05).mean(0)
        chest, far = (columns[0], columns[-1]) if row[0].laterality == "L" else columns[[-1, 0]]
        assert chest > 0.4 and far == 0
