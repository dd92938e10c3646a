"""A user's own images: what is read, what is refused, and that each mask is its branch's."""

import numpy as np
import pytest
import tiny
from PIL import Image

from mln_flax import evaluate, predict, records, selection, settings
from mln_flax.build import build, load_data
from mln_flax.data import reader
from mln_flax.main import main
from mln_flax.types import UserError


def save(path, array):
    Image.fromarray(array).save(path)
    return path


@pytest.fixture(scope="module")
def image():
    return load_data(tiny.config()).examples("film", "test")[0].image


def levels(image, bits):
    return np.round(image * (2**bits - 1)).astype(f"uint{bits}")


def test_masks_and_lines_for_8_and_16_bits(image, tiny_workdir, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    save(folder / "a.png", levels(image, 8))
    save(folder / "b.png", levels(image, 16))
    (folder / "notes.txt").write_text("no image")
    single = save(tmp_path / "c.tif", levels(image[:, :20], 16))
    before = tiny.snapshot(tiny_workdir)
    words = [f"--workdir={tiny_workdir}", "--mode=predict", f"--output={out}"]
    assert main([*words, str(folder), str(single)]) == 0
    assert tiny.snapshot(tiny_workdir) == before
    lines = records.read(out / "predictions.jsonl")
    assert [line["image"] for line in lines] == ["a.png", "b.png", "c.tif"]
    names = ["a_mask.png", "b_mask.png", "c_mask.png"]
    assert sorted(path.name for path in out.iterdir()) == [*names, "predictions.jsonl"]

    run = build(tiny.config())
    answer = selection.predictor(run, evaluate.load_model(run, tiny_workdir))
    for line, name, bits in zip(lines, names, (8, 16), strict=False):
        said = answer((levels(image, bits) / (2**bits - 1)).astype(np.float32)[None])
        branch = int(said.distances["image"][0].argmin())
        with Image.open(out / name) as opened:
            mask = np.asarray(opened)
        np.testing.assert_array_equal(mask, 255 * said.mask(0, branch))
        assert mask.dtype == np.uint8 and line["mask"] == name
        assert line["label_pixels"] == (mask > 0).sum()
        assert line["branches"] == [tiny.VIEWS[branch]] and line["selection"] == "image"
        assert line["early"] is True
    with Image.open(out / "c_mask.png") as opened:
        assert opened.size == (20, 32)


def test_all_branches_give_the_same_masks(image, tiny_workdir, tmp_path):
    file = save(tmp_path / "a.png", levels(image, 16))
    found = {}
    for early in ("true", "false"):
        out = tmp_path / early
        words = [f"--workdir={tiny_workdir}", "--mode=predict", f"--output={out}", str(file)]
        assert main([*words, f"--config.method.early={early}"]) == 0
        (line,) = records.read(out / "predictions.jsonl")
        assert line.pop("early") is (early == "true")
        found[early] = line, (out / "a_mask.png").read_bytes()
    assert found["true"] == found["false"]


def test_one_wrong_image_among_good_ones_writes_nothing(image, tiny_workdir, tmp_path, capsys):
    good = save(tmp_path / "good.png", levels(image, 8))
    broken = tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:200])
    other = tmp_path / "other"
    other.mkdir()
    twin = save(other / "good.bmp", levels(image, 8))
    empty = tmp_path / "empty"
    empty.mkdir()
    flat = save(tmp_path / "flat.png", np.full((32, 32), 7, np.uint8))
    out = tmp_path / "out"
    words = [f"--workdir={tiny_workdir}", "--mode=predict", f"--output={out}", str(good)]
    for path, message in (
        (broken, "broken.png: cannot be read as an image"),
        (flat, "flat.png: an image of one gray level"),
        (twin, "two images are named 'good': their masks would overwrite each other"),
        (empty, "empty: no images in this folder (.bmp, "),
        (tmp_path / "gone.png", "gone.png: no such file or folder"),
    ):
        assert main([*words, str(path)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and message in err and len(err.splitlines()) == 1
        assert not out.exists()
    out.write_text("mine")
    assert main(words) == 2
    assert f"--output={out}: " in capsys.readouterr().err and out.read_text() == "mine"


def test_images_are_read_as_preparation_reads_them(tmp_path):
    path = save(tmp_path / "ramp.png", np.arange(240, dtype=np.uint8).reshape(12, 20))
    np.testing.assert_array_equal(predict.read_image(path), reader.read(path).image)
    colors = np.zeros((4, 4, 3), np.uint8)
    colors[0, 0, 0] = 255
    with pytest.raises(UserError, match="colors.png: .*colors"):
        predict.read_image(save(tmp_path / "colors.png", colors))


def test_a_mask_never_overwrites_an_image(tiny_workdir, tmp_path):
    images = [
        save(tmp_path / name, np.arange(64, dtype=np.uint8).reshape(8, 8))
        for name in ("x.png", "x_mask.png")
    ]
    before = [path.read_bytes() for path in images]
    run = build(settings.read_json(tiny_workdir / "config.json"))
    with pytest.raises(UserError, match="x_mask.png is one of the images"):
        predict.predict(run, tiny_workdir, [tmp_path], str(tmp_path))
    assert [path.read_bytes() for path in images] == before
    assert not (tmp_path / "predictions.jsonl").exists()
