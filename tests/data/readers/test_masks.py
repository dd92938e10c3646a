"""Masks of several pages, frames or segments: united where they show one image, else refused."""

import dicoms
import numpy as np
import pytest
from PIL import Image
from pydicom import uid

from mln_flax.data.core import Unusable
from mln_flax.data.readers import masks, reader
from mln_flax.data.readers.masks import Page

SHAPE = (13, 9)  # no whole bytes of bits, so that frames begin within one


def spot(top, left, value=1):
    pixels = np.zeros(SHAPE, np.uint8)
    pixels[top : top + 3, left : left + 2] = value
    return pixels


ONE, TWO = spot(1, 1), spot(8, 6)
BOTH = (ONE | TWO).astype(bool)


def tiff(path, *pages, **options):
    first, *others = map(Image.fromarray, pages)
    first.save(path, save_all=True, append_images=others, **options)
    return path


@pytest.mark.parametrize("values", [(255, 255), (1, 1), (1, 2), (7, 255)])
@pytest.mark.parametrize("order", [1, -1])
def test_the_pages_of_a_tiff_are_united(tmp_path, values, order):
    pages = [ONE * values[0], TWO * values[1]]
    path = tiff(tmp_path / "a.tif", *pages[::order], 0 * ONE)
    np.testing.assert_array_equal(reader.read_mask(path), BOTH)


def test_pages_of_other_sizes_are_refused(tmp_path):
    path = tiff(tmp_path / "a.tif", ONE * 255, TWO[:-1] * 255)
    with pytest.raises(Unusable, match="pages have different sizes"):
        reader.read_mask(path)


def test_a_smaller_copy_of_a_mask_is_no_page(tmp_path):
    pages = [Image.fromarray(ONE * 255), Image.fromarray(ONE[::2, ::2] * 255)]
    pages[1].encoderinfo = {"tiffinfo": {254: 1}}
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with Image.open(tmp_path / "a.tif") as written:
        written.seek(1)
        assert written.tag_v2[254] == 1
    np.testing.assert_array_equal(reader.read_mask(tmp_path / "a.tif"), ONE > 0)


def test_a_page_of_a_volume_must_be_the_only_one(tmp_path):
    several = tiff(tmp_path / "a.tif", ONE * 255, TWO * 255)
    with pytest.raises(Unusable, match="not sure to show one image"):
        reader.read_mask(several, frames=3)
    single = tiff(tmp_path / "b.tif", ONE * 255)
    np.testing.assert_array_equal(reader.read_mask(single, frames=3), ONE > 0)


def test_what_a_page_of_one_value_says():
    empty, full = Page(0 * ONE + 3), Page(0 * ONE + 7)
    some = Page(ONE * 4 + 3)
    np.testing.assert_array_equal(masks.union([some, empty]), ONE > 0)
    np.testing.assert_array_equal(masks.union([empty, some]), ONE > 0)
    assert masks.union([some, full]).all() and masks.union([empty, full]).all()
    assert masks.union([empty]).all() and masks.union([full, full]).all()
    assert not masks.union([Page(0 * ONE), Page(0 * ONE)]).any()
    turned = Page(ONE * 4 + 3, inverted=True)  # its background is the larger value
    np.testing.assert_array_equal(masks.union([turned, full._replace(inverted=True)]), ONE == 0)


def test_pages_that_contradict_each_other_are_refused():
    with pytest.raises(Unusable, match="different backgrounds"):
        masks.union([Page(ONE * 255), Page(TWO * 4 + 3)])
    with pytest.raises(Unusable, match="3 gray values on page 2; a mask has two"):
        masks.union([Page(ONE), Page(ONE + 2 * TWO)])


def test_lossy_pages_may_differ_a_little():
    shape = (40, 40)
    rows = np.arange(40)[:, None] + np.zeros(shape, int)
    first, second = (rows < 10) * 250 + 2, (rows > 30) * 250 + 4
    pages = [Page(first, lossy=True), Page(second, lossy=True), Page(0 * rows + 3, lossy=True)]
    np.testing.assert_array_equal(masks.union(pages), (rows < 10) | (rows > 30))


def test_the_frames_of_a_dicom_mask_are_united(tmp_path):
    fields = {"SOPClassUID": dicoms.SECONDARY_CAPTURE}
    path = dicoms.write(tmp_path / "a.dcm", np.stack([ONE, TWO]) * 255, **fields)
    np.testing.assert_array_equal(reader.read_mask(path), BOTH)
    with pytest.raises(Unusable, match="not sure to show one image"):
        reader.read_mask(path, frames=2)
    slices = {"SOPClassUID": dicoms.TOMOSYNTHESIS}
    with pytest.raises(Unusable, match="not sure to show one image"):
        reader.read_mask(dicoms.write(tmp_path / "b.dcm", np.stack([ONE, TWO]), **slices))


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_the_segments_of_a_segmentation_are_united(tmp_path, syntax):
    path = dicoms.segmentation(tmp_path / "a.dcm", [ONE, TWO, ONE], syntax)
    np.testing.assert_array_equal(reader.read_mask(path), BOTH)
    np.testing.assert_array_equal(reader.read_mask(path, frames=5), BOTH)  # it names the frame
    single = dicoms.segmentation(tmp_path / "b.dcm", [TWO], syntax)
    np.testing.assert_array_equal(reader.read_mask(single), TWO > 0)
    full = dicoms.segmentation(tmp_path / "c.dcm", [ONE, 0 * ONE + 1], syntax)
    assert reader.read_mask(full).all()


def test_a_segmentation_by_other_software(tmp_path):
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    blank = dict.fromkeys(("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"), "")
    fields = blank | {"StudyInstanceUID": "1.2.9", "FrameOfReferenceUID": "1.2.7"}
    fields |= {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    fields |= {"PixelSpacing": [0.1, 0.1], "SliceThickness": 1, "PatientSex": "F"}
    source = dicoms.dataset(np.zeros(SHAPE, np.uint16), bits=12, **fields)
    kind = codes.SCT.MorphologicallyAbnormalStructure
    described = [SegmentDescription(n, "lesion", kind, codes.SCT.Mass, "MANUAL") for n in (1, 2)]
    for name, pixels in (
        ("BINARY", np.stack([ONE, TWO], -1)[None]),
        ("FRACTIONAL", np.stack([ONE, TWO], -1)[None].astype(float)),
        ("LABELMAP", (ONE + 2 * TWO)[None]),
    ):
        written = Segmentation(
            [source],
            pixels,
            name,
            described,
            series_instance_uid="1.2.5",
            series_number=2,
            sop_instance_uid="1.2.6",
            instance_number=1,
            manufacturer="nobody",
            manufacturer_model_name="none",
            software_versions="1",
            device_serial_number="1",
        )
        written.save_as(tmp_path / "a.dcm")
        np.testing.assert_array_equal(reader.read_mask(tmp_path / "a.dcm"), BOTH, err_msg=name)


@pytest.mark.parametrize(
    "fields",
    [
        {"sources": ["1.2.3", "1.2.4"]},
        {"sources": [("1.2.3", 1), ("1.2.3", 2)]},
        {"sources": None, "instances": ["1.2.3", "1.2.4"]},
        {"sources": None, "places": [[0, 0, 0], [0, 0, 1]]},
        {"segments": [1, 1]},
        {"TotalPixelMatrixRows": 26},
    ],
)
def test_a_segmentation_of_several_images_is_refused(tmp_path, fields):
    path = dicoms.segmentation(tmp_path / "a.dcm", [ONE, TWO], **fields)
    with pytest.raises(Unusable, match="not sure to show one image; store a mask for each"):
        reader.read_mask(path)


def test_a_segmentation_that_refers_to_nothing_is_no_frame_of_a_volume(tmp_path):
    path = dicoms.segmentation(tmp_path / "a.dcm", [ONE, TWO], sources=None)
    np.testing.assert_array_equal(reader.read_mask(path), BOTH)
    with pytest.raises(Unusable, match="not sure to show one image"):
        reader.read_mask(path, frames=2)


def test_segments_of_several_kinds_are_refused(tmp_path):
    path = dicoms.segmentation(tmp_path / "a.dcm", [ONE, TWO], kinds=["4147007", "76752008"])
    with pytest.raises(Unusable, match="segments are of several kinds"):
        reader.read_mask(path)


def test_fractions_are_refused_but_none_and_all(tmp_path):
    fields = {"SegmentationType": "FRACTIONAL", "MaximumFractionalValue": 200}
    whole = dicoms.segmentation(tmp_path / "a.dcm", [ONE * 200, TWO * 200], **fields)
    np.testing.assert_array_equal(reader.read_mask(whole), BOTH)
    part = dicoms.segmentation(tmp_path / "b.dcm", [ONE * 200, TWO * 99], **fields)
    with pytest.raises(Unusable, match="fractions .* between none and all; threshold it"):
        reader.read_mask(part)


def test_a_map_of_labels_has_a_background_of_its_own(tmp_path):
    fields = {"SegmentationType": "LABELMAP", "PixelPaddingValue": 9, "sources": None}
    labels = np.where(BOTH, ONE + 2 * TWO, 9).astype(np.uint8)
    path = dicoms.segmentation(tmp_path / "a.dcm", [labels], **fields)
    np.testing.assert_array_equal(reader.read_mask(path), BOTH)
    colored = {"PhotometricInterpretation": "PALETTE COLOR"}
    path = dicoms.segmentation(tmp_path / "b.dcm", [labels], **fields, **colored)
    np.testing.assert_array_equal(reader.read_mask(path), BOTH)


def test_gray_values_of_several_frames_are_those_of_the_one_asked_for(tmp_path):
    path = tiff(tmp_path / "a.tif", ONE, TWO)
    np.testing.assert_array_equal(reader.read_gray(path, 1), TWO)
    with pytest.raises(Unusable, match="has 2 frames where one image is expected"):
        reader.read_gray(path)
