"""The one reader: which files it takes, images, masks, and real data where it is present."""

import os
from pathlib import Path

import dicoms
import numpy as np
import pytest
from PIL import Image

from mln_flax.data.core import Unusable
from mln_flax.data.phantoms.phantom import phantom
from mln_flax.data.prepare import tiles
from mln_flax.data.readers import reader

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
FILMS = Path(os.environ.get("MLN_FLAX_MINI_MIAS") or SHARED / "mini_mias")


def mammogram(bits=8):
    image = phantom(0, "ffdm", 0, height=240, width=192, spacing_mm=1.0).image
    return np.round(image * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def disc(shape=(80, 60)):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(rows - 40, columns - 30) < 12


@pytest.mark.parametrize("name", ["a.dcm", "dicom_without_suffix", "a.png", "a.tif", "a.pgm"])
def test_every_format_gives_the_same_image(tmp_path, name):
    stored = mammogram(12)
    path = tmp_path / name
    if name.startswith("dicom") or name.endswith("dcm"):
        dicoms.write(path, stored, bits=12)
    elif name.endswith("pgm"):
        path.write_bytes(b"P5 192 240 4095\n" + stored.astype(">u2").tobytes())
    else:
        Image.fromarray(stored).save(path)
    for given in (path, str(path)):
        found = reader.read(given)
        np.testing.assert_allclose(found.image, stored / 4095, atol=1e-7)
        assert found.image.dtype == np.float32 and found.image.flags.c_contiguous
        assert found.header.shape == reader.header(given).shape == (240, 192)
        np.testing.assert_array_equal(reader.read_gray(given), stored)


def test_content_counts_not_the_suffix(tmp_path):
    Image.fromarray(mammogram()).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(reader.read_gray(tmp_path / "a.jpg"), mammogram())
    dicoms.write(tmp_path / "b.png", mammogram(12), bits=12)
    np.testing.assert_array_equal(reader.read_gray(tmp_path / "b.png"), mammogram(12))


def test_a_border_is_replaced_and_noted_in_every_format(tmp_path):
    stored = mammogram()
    stored[:5], stored[-5:] = 255, 255
    dicoms.write(tmp_path / "a.dcm", stored)
    Image.fromarray(stored).save(tmp_path / "a.png")
    for name in ("a.dcm", "a.png"):
        found = reader.read(tmp_path / name)
        assert found.repaired == ("burnt-in border: top 5 px, bottom 5 px replaced by air",)
        assert found.image[:5].max() < 0.05
        assert (reader.read_gray(tmp_path / name)[:5] == 255).all()


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (3, 7), (254, 255)])
def test_a_mask_is_true_where_the_brighter_value_is(tmp_path, values):
    stored = np.where(disc(), values[1], values[0]).astype(np.uint8)
    Image.fromarray(stored).save(tmp_path / "a.png")
    Image.fromarray(np.repeat(stored[..., None], 3, 2)).save(tmp_path / "a.bmp")
    dicoms.write(tmp_path / "a.dcm", stored)
    dicoms.write(tmp_path / "b.dcm", 255 - stored, PhotometricInterpretation="MONOCHROME1")
    dicoms.write(tmp_path / "c.dcm", stored.astype(np.uint16) * 257, bits=16)
    for name in ("a.png", "a.bmp", "a.dcm", "b.dcm", "c.dcm"):
        found = reader.read_mask(tmp_path / name)
        assert found.dtype == bool
        np.testing.assert_array_equal(found, disc(), err_msg=name)


def test_a_mask_of_one_bit(tmp_path):
    Image.fromarray(disc()).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(reader.read_mask(tmp_path / "a.tif"), disc())
    ds = dicoms.dataset(disc().astype(np.uint8))
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = 0
    ds.PixelData = np.packbits(disc(), bitorder="little").tobytes()
    ds.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(reader.read_mask(tmp_path / "b.dcm"), disc())


@pytest.mark.parametrize(("value", "full"), [(0, False), (1, True), (255, True)])
def test_a_mask_of_one_value_is_all_or_nothing(tmp_path, value, full):
    Image.fromarray(np.full((9, 7), value, np.uint8)).save(tmp_path / "a.png")
    found = reader.read_mask(tmp_path / "a.png")
    assert found.shape == (9, 7) and (found == full).all()


def test_a_mask_with_other_values_is_refused(tmp_path):
    stored = disc().astype(np.uint8) * 255
    stored[0, 0] = 9
    Image.fromarray(stored).save(tmp_path / "a.png")
    with pytest.raises(Unusable, match="a mask with 3 gray values; a mask has two"):
        reader.read_mask(tmp_path / "a.png")


@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize("radius", [3, 12, 60])
def test_a_mask_in_lossy_jpeg_is_cut_halfway(tmp_path, quality, radius):
    rows, columns = np.ogrid[:400, :300]
    label = np.hypot(rows - 200, columns - 150) < radius
    path = tmp_path / "a.jpg"
    Image.fromarray(label.astype(np.uint8) * 255).save(path, quality=quality)
    assert not reader.two_valued(reader.read_gray(path))
    assert reader.two_valued(reader.read_gray(path), lossy=True)
    np.testing.assert_array_equal(reader.read_mask(path), label)


def test_a_mammogram_is_not_two_valued(tmp_path):
    whole = mammogram()
    breast = whole[80:160, 20:100]
    for stored in (whole, breast):
        assert not reader.two_valued(stored) and not reader.two_valued(stored, lossy=True)
    Image.fromarray(breast).save(tmp_path / "crop.jpg")
    with pytest.raises(Unusable, match="gray values; a mask has two"):
        reader.read_mask(tmp_path / "crop.jpg")
    assert reader.two_valued(np.zeros((3, 3), np.uint8))


def test_find_lists_images_below_a_folder_in_one_order(tmp_path):
    for name in ("b/2.png", "a/1.TIF", "a/z/3.jpeg", "c.pgm", "b/readme.txt", "b/table.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"any")
    dicoms.write(tmp_path / "b" / "IM0001", mammogram())
    dicoms.write(tmp_path / "b" / "DICOMDIR", mammogram())
    dicoms.write(tmp_path / "b" / "notes.xml", mammogram())
    (tmp_path / "b" / "plain").write_bytes(b"short")
    (tmp_path / "e.png").mkdir()
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    found = [path.relative_to(tmp_path).as_posix() for path in reader.find(tmp_path)]
    assert found == ["a/1.TIF", "a/z/3.jpeg", "b/2.png", "b/IM0001", "c.pgm"]
    assert reader.find(str(tmp_path)) == reader.find(tmp_path)
    assert {".dcm", ".png", ".tif", ".tiff", ".bmp", ".pgm", ".jpg", ".jpeg"} <= reader.SUFFIXES


def test_find_follows_links_to_other_folders(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "far" / "a.png").write_bytes(b"any")
    (tmp_path / "data" / "images").symlink_to(tmp_path / "far", target_is_directory=True)
    assert reader.find(tmp_path / "data") == [tmp_path / "data" / "images" / "a.png"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (3, 3), (7, 8), (8, 1), (1, 300)])
def test_an_image_of_a_few_pixels_is_read_or_refused_by_name(tmp_path, shape):
    stored = np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8) * 200
    stored.flat[0] = 90
    text = {"BurnedInAnnotation": "YES", "PixelSpacing": [0.07, 0.07], "PixelPaddingValue": 0}
    paths = [
        dicoms.write(tmp_path / "a.dcm", stored),
        dicoms.write(tmp_path / "b.dcm", stored, **text),
        dicoms.write(tmp_path / "c.dcm", stored, SOPClassUID=dicoms.FOR_PROCESSING, **text),
    ]
    for name in ("d.png", "d.tif", "d.bmp", "d.jpg"):
        Image.fromarray(stored).save(tmp_path / name)
        paths.append(tmp_path / name)
    for path in paths:
        assert reader.header(path).shape == shape
        try:
            found = reader.read(path)
        except Unusable as reason:
            assert "one gray level" in str(reason) or "no breast to be found" in str(reason)
            continue
        assert found.image.shape == shape and 0 <= found.image.min() <= found.image.max() <= 1
        tiles.breast_mask(found.image)


def test_a_few_pixels_beside_padding_are_all_that_is_seen(tmp_path):
    stored = np.zeros((1200, 1100), np.uint16)
    stored[601, 501:505] = 1000, 2000, 3000, 4000  # between those that a percentile looks at
    path = dicoms.write(tmp_path / "a.dcm", stored, bits=12, PixelPaddingValue=0)
    found = reader.read(path)
    np.testing.assert_allclose(found.image[601, 501:505], np.arange(1, 5) * 1000 / 4095, atol=1e-6)
    assert found.image[0, 0] < 0.3


@pytest.mark.skipif(not FILMS.is_dir(), reason="real films are not here")
def test_real_films_are_read_and_left_as_they_are():
    paths = [*sorted(FILMS.glob("*.pgm"))[:6], *SHARED.glob("ffdm_birads/*.png")]
    assert paths
    for path in paths:
        found = reader.read(path)
        with Image.open(path) as film:
            expected = np.asarray(film, np.float32) / 255
        np.testing.assert_allclose(found.image, expected, atol=1e-6)
        assert found.repaired == ()
