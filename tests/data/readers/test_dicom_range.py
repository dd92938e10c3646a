"""DICOM whose header promises more, or less, than its pixels, tables and windows hold."""

import dicoms
import numpy as np
import pydicom
import pytest
import rasters
from dicoms import item, lut
from pydicom import uid
from pydicom.sequence import Sequence

from mln_flax.data.core import Unusable
from mln_flax.data.readers import dicom, reader

SHAPE = (60, 50)
OF_16 = "12-bit values in 16 bits stored: scaled by 4095"


def ramp(bits=12):
    """A noisy ramp that reaches the largest value of so many bits."""
    values = rasters.ramp(bits, SHAPE)
    values[0, 0], values[-1, -1] = 0, 2**bits - 1
    return values


def read(path, frame=0):
    image, _, notes = dicom.read(path, frame)
    assert image.dtype == np.float32 and 0 <= image.min() < image.max() <= 1
    return image, notes


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_signed_words_are_scaled_by_the_values_in_them(tmp_path, photometric):
    shown = ramp().astype(np.int16)
    stored = 4095 - shown if photometric == "MONOCHROME1" else shown
    fields = {"PhotometricInterpretation": photometric}
    image, notes = read(dicoms.write(tmp_path / "a.dcm", stored, **fields))
    np.testing.assert_allclose(image, shown / 4095, atol=1e-6)
    assert notes == (OF_16,)
    image, notes = read(dicoms.write(tmp_path / "b.dcm", stored - 2048, **fields))
    np.testing.assert_allclose(image, shown / 4095, atol=1e-6)
    assert notes == ("12-bit values in 16 bits stored: scaled from -2048 to 2047",)


def test_signed_words_that_fill_their_range_stay(tmp_path):
    whole = ramp(16).astype(np.int32) - 2**15
    image, notes = read(dicoms.write(tmp_path / "a.dcm", whole.astype(np.int16)))
    np.testing.assert_allclose(image, ramp(16) / 65535, atol=1e-6)
    assert not notes
    upper = ramp(15).astype(np.int16)
    image, notes = read(dicoms.write(tmp_path / "b.dcm", upper))
    np.testing.assert_allclose(image, ramp(15) / 32767, atol=1e-6)
    assert notes == ("15-bit values in 16 bits stored: scaled by 32767",)


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_frames_are_scaled_by_what_all_of_them_fill(tmp_path, kind):
    volume = np.stack([ramp() // 9, ramp(), ramp() // 3]).astype(kind)
    path = dicoms.write(tmp_path / "a.dcm", volume, SOPClassUID=dicoms.TOMOSYNTHESIS)
    for frame, pixels in enumerate(volume):
        image, notes = read(path, frame)
        np.testing.assert_allclose(image, pixels / 4095, atol=1e-6)
        assert notes == (OF_16,)
    volume[2, 5, 5] = 2**15 - 1  # one frame alone needs all bits
    path = dicoms.write(tmp_path / "b.dcm", volume, SOPClassUID=dicoms.TOMOSYNTHESIS)
    largest = 32767 if kind is np.int16 else 65535
    np.testing.assert_allclose(read(path)[0], volume[0] / largest, atol=1e-6)


def test_other_frames_are_not_decoded_where_a_window_says_it_all(tmp_path, monkeypatch):
    fields = {"SOPClassUID": dicoms.TOMOSYNTHESIS, "WindowCenter": 2048, "WindowWidth": 4096}
    path = dicoms.write(tmp_path / "a.dcm", np.stack([ramp()] * 3), **fields)
    asked = []
    one = dicom.stored
    monkeypatch.setattr(dicom, "stored", lambda p, frame=0: asked.append(frame) or one(p, frame))
    image, notes = read(path, 1)
    np.testing.assert_allclose(image, ramp() / 4095, atol=1e-6)
    assert asked == [1] and not notes


def test_padding_in_other_frames_does_not_count(tmp_path):
    volume = np.stack([ramp(), ramp(), ramp()])
    volume[1, :4] = 65535
    volume[2] = 65535
    path = dicoms.write(tmp_path / "a.dcm", volume, PixelPaddingValue=65535)
    np.testing.assert_allclose(read(path)[0], ramp() / 4095, atol=1e-6)


@pytest.mark.parametrize("name", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("bits", [8, 12])
def test_tables_of_16_bits_are_scaled_by_their_entries(tmp_path, name, bits):
    table = (np.arange(4096) >> (12 - bits))[::-1]
    path = dicoms.write(tmp_path / "a.dcm", ramp(), bits=12, **{name: lut(0, 16, table)})
    image, notes = read(path)
    np.testing.assert_allclose(image, table[ramp()] / (2**bits - 1), atol=1e-6)
    kind = "VOI" if name.startswith("V") else "modality"
    text = f"a {kind} lookup table of 16 bits with {bits}-bit entries: scaled by {2**bits - 1}"
    assert notes == (text,)
    full = np.arange(4096) * 16 + 15
    image, notes = read(
        dicoms.write(tmp_path / "b.dcm", ramp(), bits=12, **{name: lut(0, 16, full)})
    )
    np.testing.assert_allclose(image, full[ramp()] / 65535, atol=1e-6)
    assert not notes


@pytest.mark.parametrize("name", ["VOILUTSequence", "ModalityLUTSequence"])
def test_entries_of_tables_have_no_sign(tmp_path, name):
    table = np.arange(4096) * 16
    signed = item(LUTDescriptor=[4096, 0, 16])
    signed.add_new("LUTData", "SS", table.astype(np.uint16).view(np.int16).tolist())
    path = dicoms.write(tmp_path / "a.dcm", ramp(), bits=12, **{name: Sequence([signed])})
    assert pydicom.dcmread(path)[name].value[0]["LUTData"].VR == "SS"
    np.testing.assert_allclose(read(path)[0], table[ramp()] / 65535, atol=1e-6)


@pytest.mark.parametrize("stated", [-1000, 64536])
def test_the_first_value_of_a_table_may_have_either_sign(tmp_path, stated):
    stored = ramp().astype(np.int16) - 2048
    curve = item()
    curve.add_new("LUTDescriptor", "SS" if stated < 0 else "US", [2001, stated, 12])
    curve.add_new("LUTData", "OW", (np.arange(2001) * 2).astype("<u2").tobytes())
    path = dicoms.write(tmp_path / "a.dcm", stored, bits=12, VOILUTSequence=Sequence([curve]))
    expected = (np.clip(stored, -1000, 1000) + 1000.0) * 2 / 4095
    np.testing.assert_allclose(read(path)[0], expected, atol=1e-6)


def empty_items():
    return [item(), item(LUTDescriptor=[0, 0, 16]), item(LUTDescriptor=[4, 0, 8], LUTData=b"")]


@pytest.mark.parametrize("number", range(3))
def test_an_empty_table_is_passed_over(tmp_path, number):
    window = {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}
    fields = window | {"VOILUTSequence": [empty_items()[number]]}
    image, notes = read(dicoms.write(tmp_path / "a.dcm", ramp(), bits=12, **fields))
    np.testing.assert_allclose(image, np.clip((ramp() - 1500.0) / 1000, 0, 1), atol=1e-6)
    assert notes == ("an empty VOI lookup table: ignored",)
    fields = window | {"ModalityLUTSequence": [empty_items()[number]], "RescaleSlope": 0.5}
    fields["RescaleIntercept"] = 0
    image, notes = read(dicoms.write(tmp_path / "b.dcm", ramp(), bits=12, **fields))
    np.testing.assert_allclose(image, np.clip((ramp() / 2 - 1500.0) / 1000, 0, 1), atol=1e-6)
    assert notes == ("an empty modality lookup table: ignored",)


def test_the_first_good_table_or_window_counts(tmp_path):
    fields = {"VOILUTSequence": [item(), *lut(0, 12, np.arange(4096))]}
    image, notes = read(dicoms.write(tmp_path / "a.dcm", ramp(), bits=12, **fields))
    np.testing.assert_allclose(image, ramp() / 4095, atol=1e-6)
    fields = {"WindowCenter": [9e4, 2000], "WindowWidth": [10, 1000]}
    fields |= {"VOILUTFunction": "LINEAR_EXACT", "VOILUTSequence": lut(0, 12, [7, 7])}
    image, notes = read(dicoms.write(tmp_path / "b.dcm", ramp(), bits=12, **fields))
    np.testing.assert_allclose(image, np.clip((ramp() - 1500.0) / 1000, 0, 1), atol=1e-6)
    assert notes == (
        "a VOI lookup table that shows nothing: ignored",
        "a window that shows nothing: ignored",
    )


@pytest.mark.parametrize(
    ("stored", "bits", "window"),
    [
        (ramp(), 16, (32768, 65536)),
        (ramp().astype(np.int16), 16, (0, 65536)),
        (ramp(), 12, (32768, 65536)),
    ],
)
def test_a_window_as_wide_as_all_words_says_nothing_of_few_bits(tmp_path, stored, bits, window):
    fields = {"WindowCenter": window[0], "WindowWidth": window[1]}
    image, notes = read(dicoms.write(tmp_path / "a.dcm", stored, bits=bits, **fields))
    np.testing.assert_allclose(image, ramp() / 4095, atol=1e-6)
    assert notes[0] == "a window that spans far more than the values: ignored"
    assert notes[1:] == ((OF_16,) if bits == 16 else ())


def test_a_window_of_the_values_counts_whatever_the_depth_says(tmp_path):
    fields = {"WindowCenter": 2048, "WindowWidth": 4096}
    image, notes = read(dicoms.write(tmp_path / "a.dcm", ramp(), bits=16, **fields))
    np.testing.assert_allclose(image, ramp() / 4095, atol=1e-6)
    assert not notes


@pytest.mark.parametrize("overlaid", [False, True])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_pixels_in_the_upper_bits_are_moved_down(tmp_path, overlaid, kind):
    values = ramp().astype(np.int32) - (2048 if kind is np.int16 else 0)
    lifted = (values << 4).astype(kind)
    if overlaid:
        lifted[10:20] |= 2  # a drawing in one of the lowest bits
    ds = dicoms.dataset(lifted, bits=12, HighBit=15)
    if overlaid:
        ds.add_new(0x60000102, "US", 1)
    ds.save_as(tmp_path / "a.dcm")
    np.testing.assert_array_equal(reader.read_gray(tmp_path / "a.dcm"), values)
    image, notes = read(tmp_path / "a.dcm")
    np.testing.assert_allclose(image, ramp() / 4095, atol=1e-6)
    assert notes == ("pixels in the upper of their bits: moved down",)


def test_pixels_that_are_only_said_to_be_in_the_upper_bits_stay(tmp_path):
    path = dicoms.write(tmp_path / "a.dcm", ramp(), bits=12, HighBit=15)
    np.testing.assert_array_equal(reader.read_gray(path), ramp())
    image, notes = read(path)
    np.testing.assert_allclose(image, ramp() / 4095, atol=1e-6)
    assert notes == (OF_16,)
    path = dicoms.write(tmp_path / "b.dcm", ramp(16), bits=12, HighBit=15)
    image, notes = read(path)
    np.testing.assert_allclose(image, ramp(16) / 65535, atol=1e-6)
    assert not notes
    for high_bit in (13, 15):
        dark = ramp(9)
        path = dicoms.write(tmp_path / "c.dcm", dark, bits=12, HighBit=high_bit)
        np.testing.assert_allclose(read(path)[0], dark / 4095, atol=1e-6)
        signed = ramp().astype(np.int16) - 2048
        bare = signed & 0x0FFF  # the sign in bit 11 alone
        path = dicoms.write(tmp_path / "d.dcm", bare, bits=12, HighBit=high_bit)
        np.testing.assert_array_equal(reader.read_gray(path), signed)
        np.testing.assert_allclose(read(path)[0], ramp() / 4095, atol=1e-6)


def commas(path, **texts):
    """The path of a file whose fields are texts as written, which pydicom does not write."""
    stand_ins = {name: "7" * len(text) for name, text in texts.items()}
    with pydicom.config.disable_value_validation():
        dicoms.write(path, ramp(), uid.ImplicitVRLittleEndian, bits=12, **stand_ins)
    content = path.read_bytes()
    for name, text in texts.items():
        tag = pydicom.datadict.tag_for_keyword(name)
        field = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
        at = content.index(field) + 8
        content = content[:at] + text.encode() + content[at + len(text) :]
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("others", ["", "\\9,5"])
def test_decimal_commas_are_understood_and_noted(tmp_path, others):
    fields = {"WindowCenter": f"1999,5{others}", "WindowWidth": f"1000,0{others}"}
    path = commas(tmp_path / "a.dcm", **fields, PixelSpacing="0,07\\0,08")
    image, notes = read(path)
    np.testing.assert_allclose(image, np.clip((ramp() - 1999.0) / 999 + 0.5, 0, 1), atol=1e-6)
    assert reader.header(path).spacing_mm == (0.07, 0.08)
    names = ("WindowCenter", "WindowWidth", "PixelSpacing")
    assert notes == tuple(f"{name} with a decimal comma: read as a point" for name in names)


def test_what_cannot_be_understood_is_noted(tmp_path):
    _, notes = read(commas(tmp_path / "a.dcm", WindowCenter="middle", WindowWidth="wide"))
    assert notes == ("a window that cannot be understood: ignored",)
    _, notes = read(commas(tmp_path / "b.dcm", RescaleSlope="ab", RescaleIntercept="cd"))
    assert notes == ("rescale slope and intercept that make no sense: ignored",)
    _, notes = read(commas(tmp_path / "c.dcm", PixelSpacing="fine"))
    assert notes == ("PixelSpacing that no mammogram has: ignored",)


def test_what_saturates_more_than_half_is_refused(tmp_path):
    def refused(match, pixels, **fields):
        path = dicoms.write(tmp_path / "a.dcm", pixels, bits=12, **fields)
        with pytest.raises(Unusable, match=f"more than half .*{match}"):
            reader.read(path)

    refused("lie outside the 12 bits that its header says", ramp(16))
    refused("white", ramp(), WindowCenter=128, WindowWidth=256)
    refused("white", ramp(), VOILUTSequence=lut(0, 8, np.arange(256)))
    inverted = {"PhotometricInterpretation": "MONOCHROME1"}
    refused("white", ramp(), WindowCenter=3900, WindowWidth=100, **inverted)
    raw = {"SOPClassUID": dicoms.FOR_PROCESSING, "WindowCenter": 3900, "WindowWidth": 300}
    bright_air = ramp()
    for edge in (np.s_[:6], np.s_[-6:], np.s_[:, :6], np.s_[:, -6:]):
        bright_air[edge] = 4000
    refused("black", bright_air, **raw)


def test_air_may_saturate(tmp_path):
    rows, columns = np.ogrid[:80, :60]
    inside = np.hypot(rows - 40, columns) < 30
    noise = np.random.default_rng(0).integers(0, 40, inside.shape)
    shown = (np.where(inside, 3000, 100) + noise).astype(np.uint16)
    window = {"WindowCenter": 2000, "WindowWidth": 3000}
    image, notes = read(dicoms.write(tmp_path / "a.dcm", shown, bits=12, **window))
    assert not notes and (image[~inside] == 0).all()
    raw = {"SOPClassUID": dicoms.FOR_PROCESSING, "WindowCenter": 2000, "WindowWidth": 3000}
    image, notes = read(dicoms.write(tmp_path / "b.dcm", 4095 - shown, bits=12, **raw))
    assert not notes and (image[~inside] == 1).all()
    one_value = np.where(inside, ramp(12)[0, 3] + noise, 4000).astype(np.uint16)  # nothing is lost
    path = dicoms.write(tmp_path / "c.dcm", one_value, bits=12, WindowCenter=50, WindowWidth=300)
    assert not read(path)[1]


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_an_image_that_uses_little_of_its_range_is_noted(tmp_path, share):
    stored = np.round(ramp() * share).astype(np.uint16)
    stored[0, 0] = 4095  # one hot pixel does not make it bright
    found = reader.read(dicoms.write(tmp_path / "a.dcm", stored, bits=12))
    notes = [note for note in found.repaired if "of the range of gray levels used" in note]
    assert len(notes) == (share < 0.1)
