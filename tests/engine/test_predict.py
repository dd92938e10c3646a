"""A user's own images: what is read, what is refused, and that each mask is its branch's."""

import numpy as np
import pytest
import tiny
from PIL import Image

from mln_flax import settings
from mln_flax.data.readers import reader
from mln_flax.engine import evaluate, predict
from mln_flax.engine.build import build, load_data
from mln_flax.main import main
from mln_flax.methods.mln import answer as selection
from mln_flax.results import records
from mln_flax.types import UserError
from mln_flax.views import intensity


def save(path, array):
    Image.fromarray(array).save(path)
    return path


@pytest.fixture(scope="module")
def image():
    return load_data(tiny.config()).examples("film", "test")[0].image


@pytest.fixture(scope="module")
def seen():
    """An image of the source, seen through each view."""
    image = load_data(tiny.config()).examples("ffdm", "test")[0].image
    return [intensity.make_view(name).numpy(image) for name in tiny.VIEWS]


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
    lines = records.read_whole(out / "predictions.jsonl")
    assert [line["image"] for line in lines] == ["a.png", "b.png", "c.tif"]
    names = ["a_mask.png", "b_mask.png", "c_mask.png"]
    assert sorted(path.name for path in out.iterdir()) == [*names, "predictions.jsonl"]

    run = build(tiny.config())
    answer = selection.predictor(run, evaluate.load_model(run, tiny_workdir))
    for line, name, bits in zip(lines, names, (8, 16), strict=False):
        said = answer((levels(image, bits) / (2**bits - 1)).astype(np.float32)[None])
        branch = int(said.distances["polarity"][0].argmin())
        with Image.open(out / name) as opened:
            mask = np.asarray(opened)
        np.testing.assert_array_equal(mask, 255 * said.mask(0, branch))
        assert mask.dtype == np.uint8 and line["mask"] == name
        assert line["label_pixels"] == (mask > 0).sum()
        assert line["branches"] == [tiny.VIEWS[branch]] and line["selection"] == "polarity"
        assert line["answer"] == "polarity" and line["early"] is True
    with Image.open(out / "c_mask.png") as opened:
        assert opened.size == (20, 32)


@pytest.mark.parametrize("answer", ["branch", "union"])
@pytest.mark.parametrize("early", ["true", "false"])
def test_all_norms_choose_where_they_are_asked_to(seen, tiny_workdir, tmp_path, answer, early):
    paths = [str(save(tmp_path / f"{i}.png", levels(one, 16))) for i, one in enumerate(seen)]
    method = {"selection": "cosine", "answer": answer, "early": early}
    words = [f"--config.method.{name}={value}" for name, value in method.items()]
    words += [f"--workdir={tiny_workdir}", "--mode=predict", f"--output={tmp_path / 'out'}"]
    assert main([*words, *paths]) == 0
    run = build(tiny.config(method__selection="cosine"))
    trained = evaluate.load_model(run, tiny_workdir)
    norms = 0
    if early == "true" and selection.is_early(run, trained):
        norms = int(trained.early["cosine"].norms)
    said = selection.predictor(run, trained)(np.stack([predict.read_image(p) for p in paths]))
    for i, line in enumerate(records.read_whole(tmp_path / "out" / "predictions.jsonl")):
        branch = int(said.chosen("cosine", norms)[i])
        assert line["branches"] == [tiny.VIEWS[branch]]
        assert line["early"] is (norms > 0)
        expected = said.union(i) if answer == "union" else said.mask(i, branch)
        with Image.open(tmp_path / "out" / f"{i}_mask.png") as mask:
            np.testing.assert_array_equal(np.asarray(mask), 255 * expected)


@pytest.mark.parametrize("level", ["image", "case", "domain"])
def test_one_choice_for_all_that_share_it(seen, tiny_workdir, tmp_path, level):
    """Of three files: a file is a case, all of them are a domain."""
    files = [save(tmp_path / f"{i}.png", levels(one, 16)) for i, one in enumerate(seen)]
    out = tmp_path / "out"
    words = [f"--workdir={tiny_workdir}", "--mode=predict", f"--output={out}"]
    method = ["--config.method.selection=image", f"--config.method.level={level}"]
    assert main([*words, *method, *map(str, files)]) == 0
    run = build(tiny.config(method__selection="image"))
    answer = selection.predictor(run, evaluate.load_model(run, tiny_workdir))
    said = answer(np.stack([predict.read_image(file) for file in files]))
    distances = said.distances["image"]
    own = distances.argmin(axis=1).tolist()
    assert len(set(own)) > 1
    wanted = [int(distances.sum(axis=0).argmin())] * 3 if level == "domain" else own
    lines = records.read_whole(out / "predictions.jsonl")
    assert [line["branches"] for line in lines] == [[tiny.VIEWS[b]] for b in wanted]
    assert {line["answer"] for line in lines} == {"image" if level == "image" else f"image@{level}"}
    for i, branch in enumerate(wanted):
        with Image.open(out / f"{i}_mask.png") as mask:
            np.testing.assert_array_equal(np.asarray(mask), 255 * said.mask(i, branch))


def test_the_tiles_of_a_file_can_share_one_choice(seen, tiny_workdir, tmp_path):
    """Of an image whose four tiles are seen through different views."""
    tiled = np.block([[seen[0], seen[1]], [seen[2], seen[0]]])
    (picture,) = predict.find([save(tmp_path / "a.png", levels(tiled, 16))])
    tiling = {"data__tiles__rows": "2", "data__tiles__columns": "2"}
    run = build(tiny.config(**tiling, method__selection="image", method__level="case"))
    trained = evaluate.load_model(run, tiny_workdir)
    answer = selection.selected(run, trained)
    whole = predict.read_image(picture.file)
    tiles = np.stack([whole[r : r + 32, c : c + 32] for r in (0, 32) for c in (0, 32)])
    distances = answer.distances(tiles)
    assert len(set(distances.argmin(axis=1).tolist())) > 1
    common = predict.common_distances(run, answer, [picture])
    assert list(common) == [str(picture.file)]
    np.testing.assert_allclose(common[str(picture.file)], distances.sum(axis=0), rtol=1e-9)
    mask, chosen = predict.segment(run, answer, whole, common[str(picture.file)])
    assert chosen == [int(distances.sum(axis=0).argmin())] * 4 and mask.shape == (64, 64)
    said = selection.predictor(run, trained)(tiles)
    masks = [said.mask(i, chosen[0]) for i in range(4)]
    np.testing.assert_array_equal(mask, np.block([masks[:2], masks[2:]]))
    assert predict.segment(run, answer, whole)[1] == distances.argmin(axis=1).tolist()


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
        (twin, "also called good_mask.png: they would overwrite each other"),
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
