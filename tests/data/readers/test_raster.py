"""PNG, TIFF, BMP, PGM and JPEG: depths, equal colors, inverted TIFFs, damaged files."""

import io
import struct
import zlib

import numpy as np
import pytest
import rasters
from PIL import Image

from mln_flax.data.core import Unusable
from mln_flax.data.readers import raster, reader

SHAPE = (60, 50)


pixels = rasters.ramp


def pgm(path, values, largest, comment=""):
    kind = ">u2" if largest > 255 else "u1"
    head = f"P5{comment}\n{values.shape[1]} {values.shape[0]}\n{largest}\n".encode()
    path.write_bytes(head + values.astype(kind).tobytes())
    return path


def save(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.tiff", "a.bmp", "a.PNG"])
def test_8_bits(tmp_path, name):
    stored = pixels(8)
    path = save(tmp_path / name, stored)
    np.testing.assert_array_equal(reader.read_gray(path), stored)
    image, found, notes = raster.read(path)
    assert image.dtype == np.float32 and not notes
    np.testing.assert_allclose(image, stored / 255, atol=1e-7)
    assert found == reader.header(path) == reader.Header(SHAPE)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits(tmp_path, name, compression):
    options = {"compression": compression} if compression and name == "a.tif" else {}
    stored = pixels(16)
    path = save(tmp_path / name, stored, **options)
    np.testing.assert_array_equal(reader.read_gray(path), stored)
    np.testing.assert_allclose(raster.read(path)[0], stored / 65535, atol=1e-7)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_few_bits_in_16_are_scaled_by_what_they_fill(tmp_path, bits):
    stored = pixels(bits).astype(np.uint16)
    stored[0, 0] = 2**bits - 1
    for path in (save(tmp_path / "a.png", stored), pgm(tmp_path / "a.pgm", stored, 65535)):
        image, _, notes = raster.read(path)
        np.testing.assert_allclose(image, stored / (2**bits - 1), atol=1e-7)
        assert notes == (f"{bits}-bit values in a 16-bit file: scaled by {2**bits - 1}",)
        assert reader.read(path).repaired == notes


@pytest.mark.parametrize("largest", [255, 1023, 4095, 5000, 65535])
def test_pgm_is_scaled_by_the_largest_value_of_its_header(tmp_path, largest):
    stored = np.round(pixels(16) / 65535 * largest).astype(np.uint16)
    path = pgm(tmp_path / "a.pgm", stored, largest, comment="\n# a comment 7 7\n#another")
    np.testing.assert_array_equal(reader.read_gray(path), stored)
    image, _, notes = raster.read(path)
    np.testing.assert_allclose(image, stored / largest, atol=1e-7)
    assert not notes


def test_pgm_in_plain_text(tmp_path):
    stored = pixels(10)
    text = "\n".join(" ".join(map(str, line)) for line in stored)
    (tmp_path / "a.pgm").write_text(f"P2 # by hand\n50 60\n1023\n{text}\n")
    np.testing.assert_array_equal(reader.read_gray(tmp_path / "a.pgm"), stored)


def test_pgm_header_ends_with_one_space(tmp_path):
    stored = np.full((2, 3), 10, np.uint8)  # a line feed, as a value
    stored[1, 1] = 32
    (tmp_path / "a.pgm").write_bytes(b"P5 3 2 255 " + stored.tobytes())
    np.testing.assert_array_equal(reader.read_gray(tmp_path / "a.pgm"), stored)


def test_pgm_values_beyond_the_largest_are_refused(tmp_path):
    with pytest.raises(Unusable, match="beyond the largest one"):
        reader.read(pgm(tmp_path / "a.pgm", pixels(12), 1000))
    (tmp_path / "b.pgm").write_bytes(b"P5 3 2 70000 " + bytes(12))
    with pytest.raises(Unusable, match="impossible largest value"):
        reader.header(tmp_path / "b.pgm")


def test_jpeg_is_close_and_lossy(tmp_path):
    stored = pixels(8)
    path = save(tmp_path / "a.jpg", stored, quality=95)
    assert np.abs(reader.read_gray(path).astype(int) - stored).max() < 20
    assert raster.stored(path).lossy


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.jpg"])
def test_three_equal_colors_are_gray(tmp_path, name):
    stored = pixels(8)
    expected = reader.read_gray(save(tmp_path / name, stored))
    colors = save(tmp_path / f"rgb_{name}", np.repeat(stored[..., None], 3, 2))
    found = reader.read_gray(colors)
    assert found.shape == SHAPE
    assert np.abs(found.astype(int) - expected).max() <= (4 if name == "a.jpg" else 0)


def test_three_equal_colors_of_16_bits_keep_all_of_them(tmp_path):
    stored = pixels(16)
    colors = np.repeat(stored[..., None], 3, 2)
    path = rasters.png(tmp_path / "a.png", colors)
    np.testing.assert_array_equal(reader.read_gray(path), stored)
    colors[5, 6, 2] ^= 1  # seen in the byte that Pillow leaves out
    with pytest.raises(Unusable, match="has colors"):
        reader.read(rasters.png(tmp_path / "b.png", colors))


def test_colors_and_transparency_are_refused(tmp_path):
    colors = np.repeat(pixels(8)[..., None], 3, 2)
    opaque = np.dstack([colors, np.full(SHAPE, 255, np.uint8)])
    np.testing.assert_array_equal(reader.read_gray(save(tmp_path / "a.png", opaque)), pixels(8))
    opaque[3, 3, 3] = 254
    with pytest.raises(Unusable, match="transparent"):
        reader.read(save(tmp_path / "b.png", opaque))
    colors[10, 10, 0] ^= 64
    with pytest.raises(Unusable, match="has colors"):
        reader.read(save(tmp_path / "c.png", colors))
    Image.fromarray(colors).convert("CMYK").save(tmp_path / "d.tif")
    with pytest.raises(Unusable, match="has colors"):
        reader.read(tmp_path / "d.tif")


def test_gray_palettes_and_two_levels(tmp_path):
    stored = pixels(8)
    image = Image.fromarray(stored).convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    image.save(tmp_path / "a.png")
    expected = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(reader.read_gray(tmp_path / "a.png"), expected)
    Image.fromarray(stored > 99).save(tmp_path / "b.png")
    np.testing.assert_array_equal(reader.read_gray(tmp_path / "b.png"), stored > 99)


@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_with_white_as_zero_is_inverted_once(tmp_path, bits):
    shown = pixels(bits)
    largest = 2**bits - 1
    path = tmp_path / "a.tif"
    if bits == 8:  # Pillow turns the values around when it writes this kind
        save(path, shown, tiffinfo={262: 0})
    else:
        save(path, largest - shown, tiffinfo={262: 0})
    with Image.open(path) as written:
        assert written.tag_v2[262] == 0
    np.testing.assert_allclose(raster.read(path)[0], shown / largest, atol=1e-6)


def test_pages_of_a_tiff_are_frames(tmp_path):
    pages = [pixels(16), pixels(16)[::-1].copy(), pixels(16)[:30].copy()]
    images = [Image.fromarray(page) for page in pages]
    images[0].save(tmp_path / "a.tif", save_all=True, append_images=images[1:])
    assert reader.header(tmp_path / "a.tif").frames == 3
    for frame, page in enumerate(pages):
        np.testing.assert_array_equal(reader.read_gray(tmp_path / "a.tif", frame), page)
    assert reader.read(tmp_path / "a.tif", 2).header.shape == (30, 50)
    with pytest.raises(Unusable, match="frame 3 was asked for; it has frames 0 to 2"):
        reader.read(tmp_path / "a.tif", 3)
    with pytest.raises(Unusable, match="frame 1 was asked for; it has frame 0 alone"):
        reader.read(save(tmp_path / "b.png", pixels(8)), 1)


def test_floating_point_tiff(tmp_path):
    values = (pixels(12) / 4095).astype(np.float32)
    np.testing.assert_array_equal(raster.read(save(tmp_path / "a.tif", values))[0], values)
    with pytest.raises(Unusable, match="outside 0 to 1"):
        reader.read(save(tmp_path / "b.tif", values * 2))
    for bad in (np.nan, -np.inf):
        values[1, 2] = bad
        with pytest.raises(Unusable, match="no numbers"):
            reader.read(save(tmp_path / "c.tif", values))


def test_wide_integers_are_refused_beyond_16_bits(tmp_path):
    values = pixels(16).astype(np.int32)
    np.testing.assert_array_equal(reader.read_gray(save(tmp_path / "a.tif", values)), pixels(16))
    for wrong in (-1, 65536):
        values[0, 0] = wrong
        with pytest.raises(Unusable, match="below 0 or beyond 16 bits"):
            reader.read(save(tmp_path / "b.tif", values))


def test_one_gray_level_is_unusable_as_an_image_only(tmp_path):
    path = save(tmp_path / "a.png", np.full(SHAPE, 9, np.uint8))
    with pytest.raises(Unusable, match="one gray level"):
        reader.read(path)
    assert (reader.read_gray(path) == 9).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.jpg", {}),
        ("a.tif", {}),
        ("lzw.tif", {"compression": "tiff_lzw"}),
        ("a.pgm", None),
    ],
)
def test_a_file_cut_short_anywhere_is_unusable(tmp_path, capfd, name, options):
    whole, cut = tmp_path / name, tmp_path / f"cut_{name}"
    if options is None:
        pgm(whole, pixels(16), 65535)
    else:
        save(whole, pixels(8), **options)
    content = whole.read_bytes()
    for share in np.linspace(0, 0.95, 20):
        cut.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(Unusable) as raised:
            reader.read(cut)
        assert ";" in str(raised.value) and str(tmp_path) not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "text.png").write_text("Quentina Zebedee, 1951")
    with pytest.raises(Unusable, match="cannot be read as an image: damaged") as raised:
        reader.header(tmp_path / "text.png")
    assert "Quentina" not in str(raised.value)
    (tmp_path / "empty.tif").touch()
    with pytest.raises(Unusable, match="an empty file"):
        reader.read(tmp_path / "empty.tif")
    with pytest.raises(Unusable, match="cannot be opened: no such file"):
        reader.read(tmp_path / "nothing.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(Unusable, match="cannot be opened: is a directory"):
        reader.read(tmp_path / "folder.png")


def test_an_absurd_size_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 20000 3 255 " + bytes(60000))
    with pytest.raises(Unusable, match="says it has 3x20000 pixels; allowed are 1 to 16384"):
        reader.read(tmp_path / "a.pgm")
    buffer = io.BytesIO()
    Image.fromarray(pixels(8)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = struct.pack(">II", 60000, 60000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    (tmp_path / "b.png").write_bytes(content)
    for ask in (reader.header, reader.read):
        with pytest.raises(Unusable, match="too many pixels; allowed are 16384 a side"):
            ask(tmp_path / "b.png")
