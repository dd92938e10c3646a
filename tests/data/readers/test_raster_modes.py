"""Depth, sign, alpha and orientation in every kind of image file, and kinds that are not read."""

import io

import numpy as np
import pytest
import rasters
from PIL import Image

from mln_flax.data.core import Unusable
from mln_flax.data.readers import raster, reader

SHAPE = (60, 50)
FULL = 2**16 - 1


def disc():
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return np.hypot(rows - 20, columns - 15) < 9


def with_alpha(gray, count, alpha=FULL):
    """16-bit samples [H, W, count]: gray once or as three colors, and alpha."""
    layers = [gray] * (1 if count == 2 else 3) + [np.full_like(gray, alpha)]
    return np.dstack(layers)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("bits", [1, 12, 16])
def test_16_bits_beside_alpha_keep_all_of_them(tmp_path, count, bits):
    stored = rasters.ramp(bits).astype(np.uint16)
    stored[0, :2] = 0, 2**bits - 1
    paths = [rasters.png(tmp_path / "a.png", with_alpha(stored, count))]
    if count == 4:
        samples = with_alpha(stored, count)
        for order, extra in (("<", 2), (">", 2), ("<", 1), (">", 1), ("<", 0), (">", 0)):
            path = tmp_path / f"{ord(order)}{extra}.tif"
            paths.append(rasters.tiff(path, samples, order, t338=extra))
    for path in paths:
        np.testing.assert_array_equal(reader.read_gray(path), stored)
        if bits == 1:
            np.testing.assert_array_equal(reader.read_mask(path), stored == 1)
        if bits == 12:
            np.testing.assert_allclose(reader.read(path).image, stored / 4095, atol=1e-7)


@pytest.mark.parametrize("alpha", [0, FULL - 1, 2**15])  # the second differs in the low byte alone
def test_16_bits_that_are_not_opaque_are_refused(tmp_path, alpha):
    stored = rasters.ramp(16)
    paths = [
        rasters.png(tmp_path / "a.png", with_alpha(stored, 2, alpha)),
        rasters.png(tmp_path / "b.png", with_alpha(stored, 4, alpha)),
        rasters.tiff(tmp_path / "c.tif", with_alpha(stored, 4, alpha), t338=2),
    ]
    for path in paths:
        with pytest.raises(Unusable, match="transparent pixels"):
            reader.read(path)


def test_alpha_beside_8_bits(tmp_path):
    stored = rasters.ramp(8)
    opaque = np.dstack([stored, np.full_like(stored, 255)])
    for name, extra in (("a.tif", 0), ("b.tif", 1), ("c.tif", 2)):
        path = rasters.tiff(tmp_path / name, opaque, t338=extra)
        np.testing.assert_array_equal(reader.read_gray(path), stored)
    opaque[3, 3, 1] = 254
    for extra in (1, 2):
        with pytest.raises(Unusable, match="transparent pixels"):
            reader.read(rasters.tiff(tmp_path / "d.tif", opaque, t338=extra))


def test_signed_integers_keep_their_sign_at_every_depth(tmp_path):
    for kind, largest in ((np.int8, 127), (np.int16, 2**15 - 1)):
        stored = np.round(rasters.ramp(16) / FULL * largest).astype(kind)
        for order in "<>":
            path = rasters.tiff(tmp_path / "a.tif", stored, order, t339=2)
            np.testing.assert_array_equal(reader.read_gray(path), stored)
            np.testing.assert_allclose(raster.read(path)[0], stored / largest, atol=1e-6)
            stored[4, 4] = -1
            with pytest.raises(Unusable, match="values below 0"):
                reader.read(rasters.tiff(tmp_path / "b.tif", stored, order, t339=2))
            stored[4, 4] = 0


def test_pages_of_few_bits_are_scaled_by_what_all_of_them_fill(tmp_path):
    bright = rasters.ramp(12)
    bright[0, 0] = 4095
    dark = bright // 8
    pages = [Image.fromarray(page) for page in (dark, bright)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    for frame, page in enumerate((dark, bright)):
        image, _, notes = raster.read(tmp_path / "a.tif", frame)
        np.testing.assert_allclose(image, page / 4095, atol=1e-7)
        assert notes == ("12-bit values in a 16-bit file: scaled by 4095",)


def turned(pixels, orientation):
    """What Pillow makes of an image with an EXIF orientation."""
    from PIL import ImageOps

    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[274] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", exif=exif)
    return np.asarray(ImageOps.exif_transpose(Image.open(buffer)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_turned_as_its_orientation_says(tmp_path, orientation):
    stored = disc().astype(np.uint8) * 255
    expected = turned(stored, orientation)
    exif = Image.Exif()
    exif[274] = orientation
    for name in ("a.png", "a.jpg", "a.tif"):
        Image.fromarray(stored).save(tmp_path / name, exif=exif)
    late = rasters.chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    wide = stored.astype(np.uint16) * 257
    rasters.png(tmp_path / "late.png", wide, late=late)
    rasters.tiff(tmp_path / "little.tif", wide, t274=orientation)
    rasters.tiff(tmp_path / "big.tif", wide, ">", t274=orientation)
    rasters.tiff(tmp_path / "alpha.tif", with_alpha(wide, 4), t274=orientation, t338=2)
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(reader.read_mask(path), expected > 0, err_msg=path.name)
        mammogram = reader.read(path)
        assert mammogram.image.shape == mammogram.header.shape == expected.shape
        if path.name != "late.png":  # there it stands behind the pixels, which are not decoded
            assert reader.header(path).shape == expected.shape
        said = [note for note in mammogram.repaired if "EXIF orientation" in note]
        assert len(said) == (orientation != 1), path.name


@pytest.mark.parametrize("word", [b"Exif\0\0II*\0\xff\xff\xff\0", b"no exif at all"])
def test_damaged_exif_does_no_harm(tmp_path, word):
    for name in ("a.jpg", "a.png"):
        Image.fromarray(disc().astype(np.uint8) * 255).save(tmp_path / name, exif=word)
        np.testing.assert_array_equal(reader.read_mask(tmp_path / name), disc())


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("samples", "tags", "name"),
    [
        (np.zeros(SHAPE), {"t339": 3}, "1 x 64-bit floating-point numbers"),
        (np.zeros(SHAPE, np.float16), {"t339": 3}, "1 x 16-bit floating-point numbers"),
        (np.zeros(SHAPE, np.complex64), {"t339": 6}, "1 x 64-bit numbers"),
        (np.zeros((*SHAPE, 2), np.uint16), {"t338": 2}, "2 x 16-bit integers"),
        (np.zeros(SHAPE, np.uint8), {"t259": 34661}, "compression 34661"),
        (np.zeros((*SHAPE, 3), np.uint16), {"t284": 2, "t273": [8, 9, 10]}, "separate planes"),
    ],
)
def test_a_tiff_of_a_kind_that_is_not_read_is_named(tmp_path, samples, tags, name, big):
    path = rasters.tiff(tmp_path / "a.tif", samples, big=big, **tags)
    with pytest.raises(Unusable, match=f"{name}.*, a kind that is not read; store it as PNG"):
        reader.read(path)


def test_a_later_page_of_a_kind_that_is_not_read_is_named(tmp_path):
    page = rasters.tiff(tmp_path / "b.tif", np.zeros(SHAPE), t339=3, t273=8).read_bytes()
    first = rasters.tiff(tmp_path / "a.tif", rasters.ramp(8)).read_bytes()
    # The second file's fields behind the first file's, both counted from the first byte.
    fields = page[8 + 8 * SHAPE[0] * SHAPE[1] :]
    (tmp_path / "a.tif").write_bytes(first[:-4] + len(first).to_bytes(4, "little") + fields)
    with pytest.raises(Unusable, match="64-bit floating-point numbers"):
        reader.read(tmp_path / "a.tif")


def test_big_tiffs_are_read(tmp_path):
    path = rasters.tiff(tmp_path / "a.tif", rasters.ramp(16), big=True)
    np.testing.assert_array_equal(reader.read_gray(path), rasters.ramp(16))


@pytest.mark.parametrize(
    ("kind", "name"), [("WEBP", "WebP"), ("JPEG2000", "JPEG 2000"), ("GIF", "GIF")]
)
def test_other_formats_are_named_whatever_their_suffix(tmp_path, kind, name):
    Image.fromarray(rasters.ramp(8)).save(tmp_path / "a.png", kind)
    for ask in (reader.read, reader.header, reader.read_mask):
        with pytest.raises(Unusable, match=f"a {name} file, a kind that is not read; store it as"):
            ask(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("marker", "bits", "name"),
    [(0xC3, 8, "a lossless JPEG"), (0xC3, 16, "a lossless JPEG"), (0xC1, 12, "a JPEG of 12 bits")]
    + [(0xF7, 8, "a JPEG-LS file"), (0xC5, 8, "a hierarchical JPEG")],
)
def test_other_kinds_of_jpeg_are_named(tmp_path, marker, bits, name):
    with pytest.raises(Unusable, match=f"{name}, a kind that is not read"):
        reader.read(rasters.jpeg_head(tmp_path / "a.jpg", marker, bits))
    with pytest.raises(Unusable, match="damaged, cut short"):
        reader.read(rasters.jpeg_head(tmp_path / "b.jpg", 0xC0, 8))


def test_a_bmp_of_a_kind_that_is_not_read_is_named(tmp_path):
    Image.fromarray(rasters.ramp(8)).save(tmp_path / "a.bmp")
    content = bytearray((tmp_path / "a.bmp").read_bytes())
    content[30] = 5  # its compression: a PNG inside
    (tmp_path / "a.bmp").write_bytes(content)
    with pytest.raises(Unusable, match="a BMP of 8 bits with compression 5, a kind that is not"):
        reader.read(tmp_path / "a.bmp")
