"""Air, burnt-in borders, light film edges and burnt-in text, on phantoms."""

import numpy as np
import pytest

from mln_flax.data.core import Unusable
from mln_flax.data.phantoms.phantom import DOMAINS, phantom
from mln_flax.data.prepare import borders

CLEAN = tuple(domain for domain in DOMAINS if domain != "film")  # a film has a border of its own


def image(index=0, domain="ffdm", size=(480, 384)):
    return phantom(3, domain, index, height=size[0], width=size[1], spacing_mm=0.5).image


def framed(clean, depths, level):
    """An image with strips of one level at its top, bottom, left and right."""
    found = clean.copy()
    height, width = clean.shape
    top, bottom, left, right = depths
    found[:top], found[height - bottom :] = level, level
    found[:, :left], found[:, width - right :] = level, level
    return found


def inside(depths, shape):
    top, bottom, left, right = depths
    return slice(top, shape[0] - bottom), slice(left, shape[1] - right)


@pytest.mark.parametrize("domain", CLEAN)
@pytest.mark.parametrize("index", range(8))
def test_a_clean_image_is_untouched(domain, index):
    clean = image(index, domain)
    for turned in (clean, 1 - clean, clean[:, ::-1], clean.T):
        found, notes = borders.without_frame(turned)
        assert found is turned and notes == ()


@pytest.mark.parametrize("index", range(4))
def test_a_window_full_of_breast_is_untouched(index):
    clean = phantom(3, "ffdm", index, height=128, width=128, spacing_mm=0.1).image
    assert borders.without_frame(clean)[1] == ()


def test_breast_along_a_whole_edge_is_untouched():
    # As pectoral muscle in some digital images: saturated at the edge, fading inward.
    rows, columns = np.mgrid[:400, :300]
    fading = np.clip(1.1 - columns / 120 - rows / 4000, 0, 1).astype(np.float32)
    assert (fading[:, 0] > 0.99).all()
    found, notes = borders.without_frame(fading)
    assert found is fading and notes == ()


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("depths", [(6, 4, 9, 5), (0, 0, 12, 0), (0, 0, 0, 12), (8, 0, 0, 0)])
@pytest.mark.parametrize("white", [False, True])
def test_a_border_becomes_air_and_the_rest_stays(index, depths, white):
    clean = image(index)
    if white:  # an image with white air and a black border
        clean = 1 - clean
    found, notes = borders.without_frame(framed(clean, depths, 0.0 if white else 1.0))
    assert found.shape == clean.shape and found.dtype == np.float32
    core = inside(depths, clean.shape)
    np.testing.assert_array_equal(found[core], clean[core])
    strip = np.ones(clean.shape, bool)
    strip[core] = False
    np.testing.assert_allclose(found[strip], 1.0 if white else 0.0, atol=0.05)
    sides = zip(("top", "bottom", "left", "right"), depths, strict=True)
    where = ", ".join(f"{side} {depth} px" for side, depth in sides if depth)
    assert notes == (f"burnt-in border: {where} replaced by air",)


def test_a_noisy_border_with_a_blurred_edge_goes_whole():
    clean = image()
    found = framed(clean, (10, 10, 10, 10), 0.9)
    found[[10, -11]] = 0.5
    found[:, [10, -11]] = 0.5
    noise = np.random.default_rng(0).uniform(-0.01, 0.01, clean.shape)
    found, notes = borders.without_frame((found + noise).astype(np.float32))
    assert notes == (
        "burnt-in border: top 11 px, bottom 11 px, left 11 px, right 11 px replaced by air",
    )
    assert np.ptp(found[:11]) == 0 and np.ptp(found[:, :11]) == 0


@pytest.mark.parametrize("index", range(6))
def test_the_border_of_a_film_goes(index):
    film = image(index, "film")
    ends = np.concatenate([film[:8], film[-8:]])
    assert np.median(ends, axis=1).max() > 0.5
    found, notes = borders.without_frame(film)
    assert "burnt-in border: top" in notes[0] and "bottom" in notes[0]
    assert max(np.median(found[0]), np.median(found[-1])) < 0.2


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_the_uneven_light_edge_of_a_film_goes(side):
    # Air all around, so that each side in turn may have it.
    rows, columns = np.mgrid[:500, :400]
    clean = np.where(np.hypot(rows - 250, columns - 200) < 120, 0.6, 0.02).astype(np.float32)
    depth = {"top": rows, "bottom": 499 - rows, "left": columns, "right": 399 - columns}[side]
    along = columns if side in ("top", "bottom") else rows
    light = 0.9 * np.clip(1 - depth / (9 + 3 * np.sin(along / 60)), 0, 1)
    lit = np.maximum(clean, light).astype(np.float32)
    found, notes = borders.without_frame(lit)
    assert len(notes) == 1 and notes[0].startswith(f"light edge of a film: {side} ")
    np.testing.assert_allclose(found, clean, atol=0.06)
    np.testing.assert_array_equal(found[depth > 25], clean[depth > 25])


def test_a_light_edge_beside_breast_keeps_the_breast():
    clean = image(1)  # MLO: muscle reaches the top
    assert (clean[0] > 0.2).mean() > 0.05
    lit = clean.copy()
    lit[:8] = np.linspace(0.9, 0.4, 8, dtype=np.float32)[:, None] + clean[:8] / 20
    found, notes = borders.without_frame(lit)
    assert len(notes) == 1 and "top" in notes[0]
    np.testing.assert_array_equal(found[20:], clean[20:])


@pytest.mark.parametrize("white", [False, True])
def test_air_level(white):
    clean = image()
    level = borders.air_level(1 - clean if white else clean)
    assert level == pytest.approx(1.0 if white else 0.0, abs=0.05)
    padded = clean.copy()
    padded[:, 300:] = 0.7
    valid = np.ones(clean.shape, bool)
    valid[:, 300:] = False
    assert borders.air_level(padded, valid) < 0.05
    assert borders.air_level(np.full((1, 1), 0.25, np.float32)) == 0.25


@pytest.mark.parametrize("spacing_mm", [None, (0.5, 0.5)])
@pytest.mark.parametrize("white", [False, True])
def test_text_in_the_air_goes(white, spacing_mm):
    clean = 1 - image() if white else image()
    corner = (slice(10, 30), slice(-70, -10) if image()[240, 0] > 0.1 else slice(10, 70))
    written = clean.copy()
    written[corner] = np.random.default_rng(0).integers(0, 2, (20, 60))
    found = borders.without_text(written, spacing_mm)
    np.testing.assert_allclose(found[corner], 1.0 if white else 0.0, atol=0.05)
    tissue = np.abs(clean - (1.0 if white else 0.0)) > 0.15
    np.testing.assert_array_equal(found[tissue], clean[tissue])
    assert (written[corner] != found[corner]).any()  # the given image is left alone


def test_text_without_a_breast_is_unusable():
    with pytest.raises(Unusable, match="no breast to be found"):
        borders.without_text(np.zeros((50, 50), np.float32), None)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 3), (7, 5)])
def test_tiny_images_do_no_harm(shape):
    tiny = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    assert borders.without_frame(tiny)[0].shape == shape
