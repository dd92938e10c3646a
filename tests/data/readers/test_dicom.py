"""DICOM: every transfer syntax, lookup tables and windows, inversion, fields, damaged files."""

import itertools
import logging

import dicoms
import numpy as np
import pydicom
import pytest
from dicoms import item, lut
from pydicom import uid
from pydicom.pixels import apply_voi_lut
from pydicom.pixels.processing import apply_windowing
from pydicom.sr.codedict import codes

from mln_flax.data.core import Unusable
from mln_flax.data.readers import dicom, dicom_fields, dicom_pixels, reader
from mln_flax.data.readers.header import MAX_SIDE

SHAPE = (60, 50)


def pixels(bits=12, shape=SHAPE, seed=0):
    """A noisy ramp over all values of so many bits."""
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) / (sum(shape) - 2)
    noise = np.random.default_rng(seed).uniform(-0.02, 0.02, shape)
    levels = np.round((ramp + noise).clip(0, 1) * (2**bits - 1))
    return levels.astype(np.uint8 if bits == 8 else np.uint16)


def gray(path, frame=0):
    return dicom.read(path, frame)[0]


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_uncompressed_pixels_are_read_as_stored(tmp_path, syntax, bits):
    stored = pixels(bits)
    path = dicoms.write(tmp_path / "a.dcm", stored, syntax, bits)
    found = reader.read_gray(path)
    np.testing.assert_array_equal(found, stored)
    assert found.dtype == stored.dtype
    np.testing.assert_allclose(gray(path), stored / (2**bits - 1), atol=1e-7)


@pytest.mark.parametrize(
    "name",
    [
        "RLELossless",
        "JPEGLosslessProcess14",
        "JPEGLosslessProcess14_1",
        "JPEG2000Lossless",
        "JPEGLSLossless",
    ],
)
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("gdcm_first", [False, True])
def test_compressed_pixels_are_read_as_stored(tmp_path, monkeypatch, name, bits, gdcm_first):
    if gdcm_first:
        monkeypatch.setattr(dicom_pixels, "_SAFEST", dicom_pixels._SAFEST[::-1])
    stored = pixels(bits)
    path = dicoms.write_gdcm(tmp_path / "a.dcm", stored, name, bits=bits)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(reader.read_gray(path), stored)


def test_pixels_compressed_by_other_software_are_read_as_stored(tmp_path):
    # Neither of these encoders shares code with the decoder that is tried first.
    stored = pixels(16)
    ours = dicoms.dataset(stored, bits=16)
    ours.compress(uid.RLELossless, encoding_plugin="pydicom")
    ours.save_as(tmp_path / "rle.dcm")
    dicoms.write_encapsulated(tmp_path / "j2k.dcm", stored, uid.JPEG2000Lossless, dicoms.jpeg2000)
    for name in ("rle.dcm", "j2k.dcm"):
        np.testing.assert_array_equal(reader.read_gray(tmp_path / name), stored)


def test_lossy_jpeg_is_close(tmp_path):
    stored = pixels(8)
    path = dicoms.write_encapsulated(tmp_path / "a.dcm", stored, uid.JPEGBaseline8Bit, dicoms.jpeg)
    assert np.abs(reader.read_gray(path).astype(int) - stored).max() < 20
    assert dicom.stored(path).lossy


def write_volume(path, volume, syntax, **fields):
    """A DICOM file of several frames, written without gdcm."""
    if syntax == uid.JPEG2000Lossless:
        return dicoms.write_encapsulated(path, volume, syntax, dicoms.jpeg2000, **fields)
    ds = dicoms.dataset(volume, SOPClassUID=dicoms.TOMOSYNTHESIS, **fields)
    if syntax == uid.RLELossless:
        ds.compress(syntax, encoding_plugin="pydicom")
    ds.save_as(path, enforce_file_format=True)
    return path


SYNTAXES = [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_only_the_frame_asked_for_is_decoded(tmp_path, monkeypatch, syntax):
    volume = np.stack([pixels(16, seed=seed) for seed in range(5)])
    path = write_volume(tmp_path / "a.dcm", volume, syntax)
    decoded = []
    from pydicom.pixels.decoders.base import DecodeRunner

    one = DecodeRunner.decode
    monkeypatch.setattr(
        DecodeRunner, "decode", lambda s, index: decoded.append(index) or one(s, index)
    )
    assert reader.header(path).frames == 5
    for frame in (3, 0):
        np.testing.assert_array_equal(reader.read_gray(path, frame), volume[frame])
    assert decoded == ([3, 0] if syntax.is_encapsulated else [])
    with pytest.raises(Unusable, match="frame 5 was asked for; it has frames 0 to 4"):
        reader.read(path, 5)
    with pytest.raises(Unusable, match="frame -1"):
        reader.read(path, -1)


def test_signed_pixels_are_scaled_by_their_stored_range(tmp_path):
    stored = pixels(12).astype(np.int16) - 2048
    path = dicoms.write(tmp_path / "a.dcm", stored, bits=12)
    np.testing.assert_allclose(gray(path), (stored + 2048.0) / 4095, atol=1e-7)
    # The sign in bit 11 alone, bits above it zero, is the same number.
    bare = (stored & 0x0FFF).astype(np.int16)
    again = dicoms.write(tmp_path / "b.dcm", bare, bits=12)
    np.testing.assert_array_equal(gray(again), gray(path))


def test_values_beyond_the_stored_bits_are_clipped_and_noted(tmp_path):
    stored = pixels(12)
    stored[0, 0] = 5000
    image, _, notes = dicom.read(dicoms.write(tmp_path / "a.dcm", stored, bits=12))
    assert image[0, 0] == 1 and notes == ("values outside the 12 bits stored: clipped",)


def test_an_overlay_in_the_unused_bits_is_taken_off(tmp_path):
    stored = pixels(12)
    marked = stored | np.uint16(0x1000)
    path = dicoms.write(tmp_path / "a.dcm", marked, bits=12)
    ds = pydicom.dcmread(path)
    ds.add_new(0x60000102, "US", 12)
    ds.save_as(path)
    np.testing.assert_array_equal(reader.read_gray(path), stored)


def test_few_bits_in_sixteen_stored_are_scaled_by_what_they_fill(tmp_path):
    stored = pixels(12)
    image, _, notes = dicom.read(dicoms.write(tmp_path / "a.dcm", stored, bits=16))
    np.testing.assert_allclose(image, stored / 4095, atol=1e-7)
    assert notes == ("12-bit values in 16 bits stored: scaled by 4095",)


WINDOWS = list(
    itertools.product(["LINEAR", "LINEAR_EXACT", "SIGMOID", None], [(2048, 2000), (2600.5, 301)])
)


@pytest.mark.parametrize(("function", "window"), WINDOWS)
@pytest.mark.parametrize("slope", [None, (2.0, -1000.0), (0.5, 10.0)])
def test_windows_agree_with_pydicom(tmp_path, function, window, slope):
    factor, offset = slope or (1.0, 0.0)
    center, width = window[0] * factor + offset, window[1] * factor
    fields = {"WindowCenter": [center, 9], "WindowWidth": [width, 3]}
    if function:
        fields["VOILUTFunction"] = function
    if slope:
        fields |= {"RescaleSlope": slope[0], "RescaleIntercept": slope[1]}
    path = dicoms.write(tmp_path / "a.dcm", pixels(12), bits=12, **fields)
    ds = pydicom.dcmread(path)
    shown = apply_windowing(ds.pixel_array * factor + offset, ds)
    low, high = offset, 4095 * factor + offset  # the range that pydicom spreads its answer over
    np.testing.assert_allclose(gray(path), (shown - low) / (high - low), atol=2e-6)


def test_windows_by_their_formulas(tmp_path):
    # DICOM PS3.3 C.11.2.1.2.1: center 2048, width 4096 is the identity of 12 bits; 2500, 1 a step,
    # of which nothing can be told.
    stored = pixels(12)
    full = dicoms.write(tmp_path / "a.dcm", stored, bits=12, WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_allclose(gray(full), stored / 4095, atol=1e-6)
    step = dicoms.write(tmp_path / "b.dcm", stored, bits=12, WindowCenter=2500, WindowWidth=1)
    with pytest.raises(Unusable, match="leaves little but black and white"):
        gray(step)


@pytest.mark.parametrize("width", [0, -5, "nan", 0.5])
def test_an_impossible_window_is_ignored_and_noted(tmp_path, width):
    fields = {"WindowCenter": 10, "WindowWidth": width}
    path = tmp_path / "a.dcm"
    with pydicom.config.disable_value_validation():
        dicoms.write(path, pixels(12), bits=12, **fields)
    image, _, notes = dicom.read(path)
    np.testing.assert_allclose(image, pixels(12) / 4095, atol=1e-7)
    assert notes == ("a window that shows nothing: ignored",)


def test_a_window_beside_all_values_is_ignored(tmp_path):
    path = dicoms.write(tmp_path / "a.dcm", pixels(12), bits=12, WindowCenter=9e4, WindowWidth=10)
    assert "window that shows nothing" in dicom.read(path)[2][0]


@pytest.mark.parametrize("order", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize("depth", [8, 10, 16])
def test_voi_lookup_table_agrees_with_pydicom(tmp_path, depth, order):
    curve = np.round((np.linspace(0, 1, 3000) ** 2) * (2**depth - 1))
    table = lut(500, depth, curve, "<" if order.is_little_endian else ">")
    fields = {"VOILUTSequence": table, "WindowCenter": 1, "WindowWidth": 2}
    path = dicoms.write(tmp_path / "a.dcm", pixels(12), order, bits=12, **fields)
    expected = curve[np.clip(pixels(12).astype(int) - 500, 0, 2999)] / (2**depth - 1)
    np.testing.assert_allclose(gray(path), expected, atol=1e-6)
    if depth > 8:  # pydicom 3.0.2 indexes 8-bit tables with 8 bits
        ds = pydicom.dcmread(path)
        shown = apply_voi_lut(ds.pixel_array, ds) / (2**depth - 1)
        np.testing.assert_allclose(gray(path), shown, atol=1e-6)


def test_voi_lookup_table_of_signed_pixels(tmp_path):
    stored = pixels(12).astype(np.int16) - 2048
    fields = {"VOILUTSequence": lut(-1000, 12, np.arange(2001) * 2)}
    path = dicoms.write(tmp_path / "a.dcm", stored, uid.ImplicitVRLittleEndian, bits=12, **fields)
    expected = (np.clip(stored, -1000, 1000) + 1000.0) * 2 / 4095
    np.testing.assert_allclose(gray(path), expected, atol=1e-6)


def test_modality_lookup_table_comes_before_the_window(tmp_path):
    table = np.arange(4096)[::-1] // 4
    fields = {"ModalityLUTSequence": lut(0, 10, table)}
    plain = dicoms.write(tmp_path / "a.dcm", pixels(12), bits=12, **fields)
    np.testing.assert_allclose(gray(plain), table[pixels(12)] / 1023, atol=1e-6)
    fields |= {"WindowCenter": 512, "WindowWidth": 100, "VOILUTFunction": "LINEAR_EXACT"}
    windowed = dicoms.write(tmp_path / "b.dcm", pixels(12), bits=12, **fields)
    expected = np.clip((table[pixels(12)] - 512) / 100 + 0.5, 0, 1)
    np.testing.assert_allclose(gray(windowed), expected, atol=1e-6)


def test_a_negative_slope_turns_the_image(tmp_path):
    fields = {"RescaleSlope": -1, "RescaleIntercept": 4095}
    path = dicoms.write(tmp_path / "a.dcm", pixels(12), bits=12, **fields)
    np.testing.assert_allclose(gray(path), 1 - pixels(12) / 4095, atol=1e-6)


def breast(level=3000, air=100):
    """A bright disc at the left edge on dark air, 12 bits."""
    rows, columns = np.ogrid[:80, :60]
    noise = np.random.default_rng(0).integers(0, 40, (80, 60))
    return (np.where(np.hypot(rows - 40, columns) < 30, level, air) + noise).astype(np.uint16)


@pytest.mark.parametrize(
    ("photometric", "shape"),
    [("MONOCHROME2", None), ("MONOCHROME2", "IDENTITY"), ("MONOCHROME1", None)]
    + [("MONOCHROME1", "INVERSE")],
)
@pytest.mark.parametrize("windowed", [False, True])
def test_monochrome1_is_inverted_exactly_once(tmp_path, photometric, shape, windowed):
    shown = breast()
    stored = 4095 - shown if photometric == "MONOCHROME1" else shown
    fields = {"PhotometricInterpretation": photometric}
    if shape:
        fields["PresentationLUTShape"] = shape
    if windowed:
        fields |= {"WindowCenter": 2047.5, "WindowWidth": 4095, "VOILUTFunction": "LINEAR_EXACT"}
    image, _, notes = dicom.read(dicoms.write(tmp_path / "a.dcm", stored, bits=12, **fields))
    np.testing.assert_allclose(image, shown / 4095, atol=1e-6)
    assert not notes


@pytest.mark.parametrize(
    ("photometric", "shape"), [("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")]
)
@pytest.mark.parametrize("dark_air", [False, True])
def test_fields_that_disagree_on_inversion_are_settled_by_the_air(
    tmp_path, photometric, shape, dark_air
):
    stored = breast() if dark_air else 4095 - breast()
    fields = {"PhotometricInterpretation": photometric, "PresentationLUTShape": shape}
    image, _, notes = dicom.read(dicoms.write(tmp_path / "a.dcm", stored, bits=12, **fields))
    np.testing.assert_allclose(image, breast() / 4095, atol=1e-6)
    assert "disagree" in notes[0]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("value", [0, 4095])
def test_padding_becomes_air(tmp_path, photometric, value):
    shown = breast()
    stored = 4095 - shown if photometric == "MONOCHROME1" else shown
    stored[:, 50:] = value
    fields = {"PixelPaddingValue": value, "PhotometricInterpretation": photometric}
    image = gray(dicoms.write(tmp_path / "a.dcm", stored, bits=12, **fields))
    np.testing.assert_allclose(image[:, 50:], 100 / 4095, atol=40 / 4095)
    np.testing.assert_allclose(image[:, :50], shown[:, :50] / 4095, atol=1e-6)


def test_padding_may_be_all_that_is_not_breast(tmp_path):
    stored = breast()
    stored[stored < 1000] = 0
    stored[5:10, 40:50] = 7  # a second value of a range
    fields = {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 9}
    image = gray(dicoms.write(tmp_path / "a.dcm", stored, bits=12, **fields))
    assert image[stored < 10].max() <= image[stored > 10].min() + 0.01


def test_padding_of_a_raw_image_with_bright_air_is_bright(tmp_path):
    stored = 4095 - breast()
    stored[:, 50:] = 0
    fields = {"PixelPaddingValue": 0, "SOPClassUID": dicoms.FOR_PROCESSING}
    image = gray(dicoms.write(tmp_path / "a.dcm", stored, bits=12, **fields))
    np.testing.assert_allclose(image[:, 50:], 1 - 100 / 4095, atol=40 / 4095)


def test_three_equal_colors_are_gray_and_others_are_refused(tmp_path):
    stored = pixels(8)
    equal = np.repeat(stored[..., None], 3, axis=2)
    path = dicoms.write(tmp_path / "a.dcm", equal, SOPClassUID=dicoms.SECONDARY_CAPTURE)
    np.testing.assert_array_equal(reader.read_gray(path), stored)
    equal[10, 10, 0] ^= 128
    with pytest.raises(Unusable, match="has colors"):
        reader.read(dicoms.write(tmp_path / "b.dcm", equal))
    palette = {"PhotometricInterpretation": "PALETTE COLOR"}
    with pytest.raises(Unusable, match="palette colors"):
        reader.read(dicoms.write(tmp_path / "c.dcm", stored, **palette))


def test_floating_point_pixels(tmp_path):
    def write(name, values, **fields):
        ds = dicoms.dataset(pixels(16), PixelData=None, **fields)
        ds.BitsAllocated = 32
        del ds.BitsStored, ds.HighBit, ds.PixelRepresentation
        ds.FloatPixelData = values.astype("<f4").tobytes()
        ds.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    values = pixels(12) / 4095
    np.testing.assert_allclose(gray(write("a.dcm", values)), values, atol=1e-7)
    windowed = write(
        "b.dcm", values * 9, WindowCenter=4.5, WindowWidth=9, VOILUTFunction="LINEAR_EXACT"
    )
    np.testing.assert_allclose(gray(windowed), values, atol=1e-6)
    with pytest.raises(Unusable, match="outside 0 to 1 without a window"):
        reader.read(write("c.dcm", values * 9))
    for bad in (np.nan, np.inf):
        values[3, 4] = bad
        with pytest.raises(Unusable, match="no numbers"):
            reader.read(write("d.dcm", values))


def test_the_fields_of_a_header(tmp_path):
    path = dicoms.write(
        tmp_path / "a.dcm",
        pixels(),
        PixelSpacing=[0.07, 0.065],
        ImageLaterality="R",
        ViewPosition="MLO",
        SeriesDescription="full mammogram images",
        ReferringPhysicianName="Ysidora^Xerxes",
    )
    found = reader.header(path)
    assert found._replace(secrets=frozenset()) == reader.Header(
        shape=SHAPE,
        frames=1,
        spacing_mm=(0.07, 0.065),
        laterality="R",
        view_position="MLO",
        for_processing=False,
        patient="PID-778899",
        series_uid="1.2.3.5",
        series_description="full mammogram images",
        instance_number=7,
        modality="MG",
    )
    planted = {"Zebedee^Quentina", "PID-778899", "19511224", "ACC-445566", "Ysidora^Xerxes"}
    assert planted <= found.secrets
    assert not found.secrets & {"MG", "R", "MLO", "7", "1.2.3.5"}
    assert reader.read(path).header == found


def spacing(**fields):
    return dicom_fields.spacing(item(**fields))


def test_spacing_is_taken_in_its_order():
    every = {
        "PixelSpacing": [0.05, 0.06],
        "ImagerPixelSpacing": [0.1, 0.12],
        "EstimatedRadiographicMagnificationFactor": 1.25,
        "NominalScannedPixelSpacing": [0.2, 0.2],
    }
    assert spacing(**every) == ((0.05, 0.06), ())
    del every["PixelSpacing"]
    found, notes = spacing(**every)
    assert found == pytest.approx((0.08, 0.096)) and not notes
    del every["EstimatedRadiographicMagnificationFactor"]
    assert spacing(**every) == ((0.1, 0.12), ())
    del every["ImagerPixelSpacing"]
    assert spacing(**every) == ((0.2, 0.2), ())
    assert spacing() == (None, ())


@pytest.mark.parametrize("wrong", [[0, 0], [-0.1, -0.1], [2.5, 2.5], ["nan", "0.1"], [0.1]])
def test_spacing_that_makes_no_sense_is_noted(tmp_path, wrong):
    with pydicom.config.disable_value_validation():
        path = dicoms.write(tmp_path / "a.dcm", pixels(), bits=12, PixelSpacing=wrong)
    assert reader.header(path).spacing_mm is None
    mammogram = reader.read(path)
    assert mammogram.header.spacing_mm is None
    assert mammogram.repaired == ("PixelSpacing that no mammogram has: ignored",)


@pytest.mark.parametrize("factor", [0, -1, "nan", 50])
def test_a_magnification_that_makes_no_sense_is_one(factor):
    with pydicom.config.disable_value_validation():
        fields = {
            "ImagerPixelSpacing": [0.1, 0.1],
            "EstimatedRadiographicMagnificationFactor": factor,
        }
        assert spacing(**fields)[0] == (0.1, 0.1)


def test_tomosynthesis_keeps_its_fields_in_functional_groups(tmp_path):
    volume = np.stack([pixels(seed=seed) for seed in range(3)])

    def frame_groups(number):
        window = item(WindowCenter=5000 + 1000 * number, WindowWidth=500)
        return item(FrameVOILUTSequence=[window])

    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.085, 0.09], SliceThickness=1)],
        FrameAnatomySequence=[item(FrameLaterality="L")],
        PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=-100)],
    )
    path = dicoms.write(
        tmp_path / "a.dcm",
        volume,
        bits=12,
        SOPClassUID=dicoms.TOMOSYNTHESIS,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=[frame_groups(number) for number in range(3)],
        ViewCodeSequence=[item(CodeValue="R-10242", CodingSchemeDesignator="SRT")],
    )
    found = reader.header(path)
    assert (found.frames, found.spacing_mm) == (3, (0.085, 0.09))
    assert (found.laterality, found.view_position) == ("L", "CC")
    for frame in range(3):
        values = volume[frame] * 2.0 - 100
        expected = np.clip((values - (5000 + 1000 * frame - 0.5)) / 499 + 0.5, 0, 1)
        np.testing.assert_allclose(gray(path, frame), expected, atol=1e-6)


def test_views_by_code_are_those_of_the_standard():
    words = {
        "CranioCaudal": "CC",
        "MedioLateralObliqueProjection": "MLO",
        "MedioLateralProjection": "ML",
        "LateroMedial": "LM",
        "LateroMedialOblique": "LMO",
        "CaudoCranial": "FB",
        "SuperolateralToInferomedialOblique": "SIO",
        "InferomedialToSuperolateralOblique": "ISO",
        "CranioCaudalExaggeratedLaterally": "XCCL",
        "CranioCaudalExaggeratedMedially": "XCCM",
    }
    for name, word in words.items():
        ds = item(Rows=1, Columns=1)
        ds.ViewCodeSequence = [item(CodeValue=getattr(codes.CID4014, name).value)]
        assert dicom_fields.header_of(ds).view_position == word
    assert dicom_fields.header_of(item(ViewPosition="QUENTINA")).view_position == ""
    assert dicom_fields.header_of(item(PatientOrientation="MLO")).view_position == "MLO"
    assert dicom_fields.header_of(item(PatientOrientation=["A", "L"])).view_position == ""
    assert dicom_fields.header_of(item(Laterality="L")).laterality == "L"
    assert dicom_fields.header_of(item(Laterality="B")).laterality == ""


@pytest.mark.parametrize(
    ("fields", "raw"),
    [
        ({"PresentationIntentType": "FOR PROCESSING"}, True),
        ({"SOPClassUID": dicoms.FOR_PROCESSING}, True),
        ({"PresentationIntentType": "FOR PRESENTATION"}, False),
        ({}, False),
    ],
)
def test_images_for_processing_are_recognized(tmp_path, fields, raw):
    path = dicoms.write(tmp_path / "a.dcm", pixels(), bits=12, **fields)
    assert reader.header(path).for_processing is raw


def test_burnt_in_text_goes_and_the_breast_stays(tmp_path):
    stored = np.kron(breast(), np.ones((5, 5), np.uint16))
    stored[20:40, 220:280] = 4000  # a name in the air
    path = dicoms.write(tmp_path / "a.dcm", stored, bits=12, BurnedInAnnotation="YES")
    image, _, notes = dicom.read(path)
    assert image[20:40, 220:280].max() < 0.05
    assert notes == ("burnt-in text: everything outside the breast replaced by air",)
    tissue = stored >= 3000
    tissue[:60] = False
    np.testing.assert_allclose(image[tissue], stored[tissue] / 4095, atol=1e-6)
    kept = dicoms.write(tmp_path / "b.dcm", stored, bits=12, BurnedInAnnotation="NO")
    assert gray(kept)[20:40, 220:280].min() > 0.9


def planted(text):
    return any(word in text for word in ("Zebedee", "Quentina", "778899", "19511224", "445566"))


@pytest.mark.parametrize("name", [None, "RLELossless", "JPEGLosslessProcess14_1"])
def test_a_file_cut_short_anywhere_is_unusable(tmp_path, capfd, name):
    path, cut = tmp_path / "a.dcm", tmp_path / "cut.dcm"
    if name is None:
        dicoms.write(path, pixels(), bits=12)
    else:
        dicoms.write_gdcm(path, pixels(), name, bits=12)
    content = path.read_bytes()
    for share in np.linspace(0, 0.99, 24):
        cut.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(Unusable) as raised:
            reader.read(cut)
        assert not planted(str(raised.value)) and ";" in str(raised.value)
        assert raised.value.__suppress_context__ or raised.value.__context__ is None
        with pytest.raises(Unusable):
            reader.header(cut)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["JPEGLosslessProcess14_1", "JPEG2000Lossless"])
def test_signed_compressed_pixels(tmp_path, name):
    stored = pixels(12).astype(np.int16) - 2048
    path = dicoms.write_gdcm(tmp_path / "a.dcm", stored, name, bits=12)
    np.testing.assert_array_equal(reader.read_gray(path), stored)


@pytest.mark.parametrize("name", ["RLELossless", "JPEGLosslessProcess14_1", "JPEG2000Lossless"])
def test_damaged_compressed_pixels_are_unusable(tmp_path, capfd, name):
    path = dicoms.write_gdcm(tmp_path / "a.dcm", pixels(), name, bits=12)
    content = bytearray(path.read_bytes())
    at = content.index(b"\xfe\xff\x00\xe0", content.index(b"\xe0\x7f\x10\x00") + 20)
    content[at + 8 : at + 60] = bytes(52)
    path.write_bytes(content)
    with pytest.raises(Unusable, match="cannot be decoded: damaged"):
        reader.read(path)
    assert not planted("".join(capfd.readouterr()))


# In the JPEG stream: a letter of the marker that follows the frame header, and that header's
# precision, height and width. Some of these make gdcm end the whole process.
@pytest.mark.parametrize(
    "change", [(15, 0xCC), (6, 0x28), (7, 0x70), (9, 0x70), (11, 3), (3, 0xE0)]
)
def test_a_damaged_jpeg_header_is_unusable(tmp_path, change):
    path = dicoms.write_gdcm(tmp_path / "a.dcm", pixels(), "JPEGLosslessProcess14_1", bits=12)
    content = bytearray(path.read_bytes())
    content[content.index(b"\xff\xd8\xff") + change[0]] = change[1]
    path.write_bytes(content)
    with pytest.raises(Unusable, match="damaged"):
        reader.read(path)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_volume_whose_last_frames_are_missing_is_cut_short(tmp_path, syntax):
    volume = np.stack([pixels(16, seed=seed) for seed in range(3)])
    path = write_volume(tmp_path / "a.dcm", volume, syntax)
    ds = pydicom.dcmread(path)
    ds.NumberOfFrames = 4
    ds.save_as(path)
    with pytest.raises(Unusable, match="cut short"):
        reader.read(path)


def test_bad_files_say_what_to_do(tmp_path):
    def refused(match, pixels_=None, **fields):
        path = dicoms.write(tmp_path / "a.dcm", pixels() if pixels_ is None else pixels_, **fields)
        with pytest.raises(Unusable, match=match) as raised:
            reader.read(path)
        assert not planted(str(raised.value))

    refused("without pixels", PixelData=None)
    refused("without pixels", PixelData=None, Rows=None)
    refused("one gray level", np.full(SHAPE, 7, np.uint16))
    refused("one gray level", np.full(SHAPE, 7, np.uint16), PixelPaddingValue=7)
    refused("one gray level", np.full(SHAPE, 6, np.uint16) + pixels(8) // 250, bits=2)
    refused("0x50 pixels; allowed are 1 to", Rows=0)
    refused(f"allowed are 1 to {MAX_SIDE}", Rows=60000, Columns=60000)
    refused("32 bits a pixel", pixels().astype(np.uint32))
    (tmp_path / "empty.dcm").touch()
    with pytest.raises(Unusable, match="an empty file"):
        reader.read(tmp_path / "empty.dcm")
    (tmp_path / "text.dcm").write_text("PatientName: Zebedee\n" * 40)
    with pytest.raises(Unusable, match="cannot be read as DICOM"):
        reader.read(tmp_path / "text.dcm")
    with pytest.raises(Unusable, match="cannot be opened: no such file"):
        reader.read(tmp_path / "nothing.dcm")


@pytest.mark.parametrize(
    ("syntax", "name"),
    [("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile"), ("1.2.3.4.5", "maker's own")],
)
def test_an_unsupported_transfer_syntax_is_named(tmp_path, syntax, name):
    path = dicoms.write_gdcm(tmp_path / "a.dcm", pixels(), "RLELossless", bits=12)
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
    ds.save_as(path, implicit_vr=False, little_endian=True)
    with pytest.raises(Unusable, match=f"pixels in .*{name}.*, which cannot be decoded"):
        reader.read(path)


def test_a_decoder_that_is_not_installed_is_named(tmp_path, monkeypatch):
    from pydicom.pixels.decoders.base import Decoder

    path = dicoms.write_gdcm(tmp_path / "a.dcm", pixels(), "JPEG2000Lossless", bits=12)
    monkeypatch.setattr(Decoder, "is_available", False)
    with pytest.raises(Unusable, match="JPEG 2000 .*pip install python-gdcm"):
        reader.read(path)


def test_a_file_without_the_magic_word_is_read_by_its_suffix(tmp_path):
    ds = dicoms.dataset(pixels(), uid.ImplicitVRLittleEndian, bits=12)
    del ds.file_meta
    ds.preamble = None
    bare = tmp_path / "old.dcm"
    ds.save_as(bare, implicit_vr=True, little_endian=True)
    assert not dicom.has_magic(bare)
    np.testing.assert_array_equal(reader.read_gray(bare), pixels())


def test_fields_that_make_no_sense_neither_warn_nor_show(tmp_path, capfd, caplog):
    with pydicom.config.disable_value_validation():
        path = dicoms.write(
            tmp_path / "a.dcm",
            pixels(),
            bits=12,
            PatientBirthDate="Zebedee's day",
            InstanceNumber="7",
            ViewPosition="ZEBEDEE " * 9,
            PatientID="PID-778899" * 20,
            NumberOfFrames="0",
        )
    with caplog.at_level(logging.DEBUG):
        found = reader.read(path).header
    assert found.view_position == "" and found.frames == 1
    assert not planted(caplog.text) and capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == 0
