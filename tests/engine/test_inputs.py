"""Which files are meant, what their answers are called, and what is refused or passed over."""

import os
import struct
import zlib

import answering
import dicoms
import numpy as np
import pytest
import tiny
from PIL import Image

from mln_flax.data.core import Unusable
from mln_flax.engine import inputs
from mln_flax.engine.inputs import NoImage
from mln_flax.types import UserError


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_names_are_below_the_deepest_common_folder(tmp_path):
    for name in ("in/a/1.png", "in/b/c/2.dcm", "in/b/.hidden/3.png", "in/b/.4.png", "in/notes.txt"):
        touch(tmp_path / name)
    out = tmp_path / "out"
    found = inputs.find([tmp_path / "in"], out)
    assert [(c.image, c.folder, c.stem, c.place) for c in found.cases] == [
        ("a/1.png", "a", "1", "a/1"),
        ("b/c/2.dcm", "b/c", "2", "b/c/2"),
    ]
    assert found.root == tmp_path / "in"
    found = inputs.find([tmp_path / "in" / "b" / "c" / "2.dcm", tmp_path / "in" / "b"], out)
    assert [c.image for c in found.cases] == ["c/2.dcm"] and found.root == tmp_path / "in" / "b"
    hidden = inputs.find([tmp_path / "in/b/.4.png"], out)  # given by its name it is meant
    assert [c.image for c in hidden.cases] == [".4.png"]


def test_odd_names(tmp_path):
    names = [
        "a b.png",
        "50%.png",
        "#1.png",
        "é'\"<&>.png",
        "-x.png",
        "=1+1.png",
        "ü" * 120 + ".png",
    ]
    for name in names:
        touch(tmp_path / "in" / name)
    (tmp_path / "in" / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    found = inputs.find([tmp_path / "in"], tmp_path / "out")
    assert {c.image for c in found.cases} == {*names, os.fsdecode(b"\xff.png")}
    for case in found.cases:
        longest = case.stem + inputs.LONGEST_ENDING
        assert len(os.fsencode(f".{longest}.{'0' * 16}.tmp")) <= 255
    stems = {c.stem for c in found.cases}
    assert len(stems) == len(names) + 1 and {"a b", "50%", "#1", "-x"} < stems


def test_an_image_called_as_the_manifest_is(tmp_path):
    touch(tmp_path / "in" / "Prediction.png")
    touch(tmp_path / "in" / "sub" / "prediction.png")
    found = inputs.find([tmp_path / "in"], tmp_path / "out")
    assert [c.place for c in found.cases] == ["Prediction_", "sub/prediction"]


def test_the_output_inside_of_the_images_is_not_searched(tmp_path):
    touch(tmp_path / "in" / "a.png")
    for name in ("a_mask.png", "sub/b.png"):
        touch(tmp_path / "in" / "out" / name)
    touch(tmp_path / "in" / "former" / "prediction.json")
    touch(tmp_path / "in" / "former" / "deep" / "c_mask.png")
    found = inputs.find([tmp_path / "in"], tmp_path / "in" / "out")
    assert [c.image for c in found.cases] == ["a.png"]
    ((name, reason),) = found.passed_over
    assert name == "former" and "folder of answers" in reason
    touch(tmp_path / "in" / "out" / "prediction.json")
    assert inputs.find([tmp_path / "in"], tmp_path / "in" / "out").passed_over == found.passed_over
    with pytest.raises(UserError, match="no images here"):
        inputs.find([tmp_path / "in" / "former"], tmp_path / "out")


@pytest.mark.parametrize("output", ["in", "", "in/sub/.."])
def test_an_output_around_the_images_is_refused(tmp_path, output):
    file = touch(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "sub").mkdir()
    for given in (tmp_path / "in", file):
        with pytest.raises(UserError, match="--output=.* answers alone"):
            inputs.find([given], tmp_path / output)


@pytest.mark.parametrize("names", [("a.png", "a.dcm"), ("a.png", "A.bmp"), ("x_0002.png", "x.tif")])
def test_twins_are_refused(tmp_path, names):
    pages = [Image.fromarray(np.zeros((9, 9), np.uint8)) for _ in range(3)]
    for name in names:
        if name.endswith("tif"):
            pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        else:
            touch(tmp_path / name)
    with pytest.raises(UserError, match="rename one of them"):
        inputs.find([tmp_path], tmp_path / "out")


def test_names_that_are_no_twins(tmp_path):
    for name in ("a.png", "a_0001.png", "a_mask.png", "sub/a.png"):
        touch(tmp_path / "in" / name)
    assert len(inputs.find([tmp_path / "in"], tmp_path / "out").cases) == 4


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match="gone.png: no such file or folder"):
        inputs.find([tmp_path / "gone.png"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no images here \(.bmp, "):
        inputs.find([tmp_path / "empty"], tmp_path / "out")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.png").symlink_to(tmp_path / "nowhere")
    found = inputs.find([tmp_path / "links"], tmp_path / "out")
    ((name, reason),) = found.absent
    assert found.cases == () and name == "a.png" and "link" in reason


@pytest.mark.parametrize("modality", ["SEG", "SR", "KO", "PR", "RTSTRUCT"])
def test_dicom_that_shows_no_image_is_passed_over(tmp_path, modality):
    """With pixels, as a segmentation has, and without."""
    path = tmp_path / "x.dcm"
    dataset = dicoms.dataset(np.zeros((20, 20), np.uint16), Modality=modality)
    if modality != "SEG":
        for keyword in ("PixelData", "Rows", "Columns"):
            del dataset[keyword]
    dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(NoImage, match=modality) as raised:
        inputs.header(path)
    assert "Zebedee" not in str(raised.value)
    with pytest.raises(UserError, match="no image"):
        inputs.read_image(path)


def test_images_that_are_no_mammograms(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 4096, (30, 20)).astype(np.uint16)
    ct = dicoms.write(tmp_path / "ct.dcm", noise, Modality="CT")
    named = dicoms.write(tmp_path / "named.dcm", noise, Modality="ZEBEDEE QUENT")
    few = answering.save(tmp_path / "few.png", np.eye(6))
    for path, words in ((ct, "modality CT, no mammogram"), (few, "6x6 pixels: nothing can be")):
        with pytest.raises(Unusable, match=words):
            inputs.header(path)
    with pytest.raises(Unusable, match="modality of no known name"):
        inputs.header(named)
    many = dicoms.write(tmp_path / "many.dcm", np.stack([noise] * 3))
    monkeypatch.setattr(inputs, "MOST_OF_VOLUME", 1799)
    with pytest.raises(Unusable, match="3 frames of 30x20 pixels; allowed are 1,799"):
        inputs.header(many)
    monkeypatch.setattr(inputs, "MOST_PIXELS", 599)
    with pytest.raises(Unusable, match="30x20 pixels; allowed are 599 in all"):
        inputs.header(dicoms.write(tmp_path / "much.dcm", noise))


def test_an_image_of_400_million_pixels_is_refused_by_its_header(tmp_path):
    size = struct.pack(">IIBBBBB", 20_000, 20_000, 16, 0, 0, 0, 0)
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", size), (b"IDAT", b"x"), (b"IEND", b""))
    ]
    path = touch(tmp_path / "huge.png", b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(Unusable, match="too many pixels|20000x20000"):
        inputs.header(path)


def test_an_image_with_what_its_file_says(tmp_path):
    noise = np.random.default_rng(0).integers(0, 4096, (40, 30)).astype(np.uint16)
    path = dicoms.write(tmp_path / "a.dcm", noise, bits=12, PixelSpacing=[0.1, 0.2])
    image, header, _ = inputs.read_image(path)
    assert image.shape == (40, 30) and header.spacing_mm == (0.1, 0.2)
    gray = np.repeat(answering.mammogram()[..., None] * 255, 3, axis=2).astype(np.uint8)
    Image.fromarray(gray).save(tmp_path / "rgb.png")  # three equal colors are gray
    np.testing.assert_allclose(inputs.read_image(tmp_path / "rgb.png").image, gray[..., 0] / 255)
    gray[..., 0] //= 2
    Image.fromarray(gray).save(tmp_path / "photo.png")
    with pytest.raises(UserError, match="photo.png: has colors"):
        inputs.read_image(tmp_path / "photo.png")


def test_a_frame_that_is_looked_at_again_is_decoded_once(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 4096, (3, 30, 20)).astype(np.uint16)
    path = dicoms.write(tmp_path / "volume.dcm", noise)
    read, reads = inputs.frames_of(path), []
    original = inputs.reader.read
    monkeypatch.setattr(
        inputs.reader, "read", lambda p, frame: reads.append(frame) or original(p, frame)
    )
    first = read(0, again=True)
    assert read(0, again=True) is first and read(2, again=True) is not first
    for frame in range(3):
        read(frame)
    assert reads == [0, 2, 1]
    read(0)
    assert reads == [0, 2, 1, 0]  # it is not held longer than it is needed


def test_paths_that_are_missing(capsys, plain_workdir, tmp_path):
    words = [f"--workdir={plain_workdir}", "--mode=predict"]
    assert "give image files" in tiny.refused(capsys, [*words, f"--output={tmp_path / 'o'}"])
    file = answering.save(tmp_path / "a.png", answering.mammogram())
    assert "--output is missing" in tiny.refused(capsys, [*words, file])
    assert not (tmp_path / "o").exists()
