"""A user's own images: what is read, what is refused, and that each mask is its answer's."""

import dicoms
import numpy as np
import pytest
import tiny
from PIL import Image

from mln_flax import parallel, settings
from mln_flax.data.readers import reader
from mln_flax.engine import evaluate, predict
from mln_flax.engine.build import build
from mln_flax.engine.load_data import load_data
from mln_flax.main import main
from mln_flax.methods.core import Answers
from mln_flax.metrics.decision import OperatingPoint, decide
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


def read(paths):
    return np.stack([predict.read_image(path) for path in paths])


def every_map(workdir, images, **changes):
    """All maps of a trained run for images, with what chooses between them."""
    run = build(tiny.config(**changes))
    return run.method.answer_all(evaluate.load_model(run, workdir), images)


def shown(path):
    with Image.open(path) as mask:
        return np.asarray(mask)


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

    for line, name, bits in zip(lines, names, (8, 16), strict=False):
        given = (levels(image, bits) / (2**bits - 1)).astype(np.float32)
        answers, mask = every_map(tiny_workdir, given[None]), shown(out / name)
        np.testing.assert_array_equal(mask, 255 * answers.mask(0))
        assert mask.dtype == np.uint8 and line["mask"] == name
        assert line["label_pixels"] == (mask > 0).sum()
        (facts,) = line["tiles"]
        assert facts["branch"] == answers.chosen[0] and facts["selection"] == "polarity"
        assert facts["answer"] == "polarity" and facts["early"] is True
    with Image.open(out / "c_mask.png") as opened:
        assert opened.size == (20, 32)


def test_masks_of_a_network_without_branches(image, plain_workdir, tmp_path):
    paths = [save(tmp_path / f"{bits}.png", levels(image, bits)) for bits in (8, 16)]
    out = tmp_path / "out"
    words = [f"--workdir={plain_workdir}", "--mode=predict", f"--output={out}"]
    assert main([*words, *map(str, paths)]) == 0
    answers = every_map(plain_workdir, read(paths), **tiny.PLAIN)
    for i, line in enumerate(records.read_whole(out / "predictions.jsonl")):
        np.testing.assert_array_equal(shown(out / line["mask"]), 255 * answers.mask(i, "network"))
        assert line["tiles"] == [{}]


@pytest.mark.parametrize("answer", ["branch", "union"])
@pytest.mark.parametrize("early", ["true", "false"])
def test_all_norms_choose_where_they_are_asked_to(seen, tiny_workdir, tmp_path, answer, early):
    paths = [str(save(tmp_path / f"{i}.png", levels(one, 16))) for i, one in enumerate(seen)]
    method = {"selection": "cosine", "answer": answer, "early": early}
    words = [f"--config.method.{name}={value}" for name, value in method.items()]
    words += [f"--workdir={tiny_workdir}", "--mode=predict", f"--output={tmp_path / 'out'}"]
    assert main([*words, *paths]) == 0
    run = build(tiny.config(method__selection="cosine"))
    fitted = evaluate.load_model(run, tiny_workdir)
    of_cosine = fitted.early["cosine"]
    is_early = early == "true" and int(of_cosine.norms) / len(fitted.bank.mean) < 1 - 1 / 3
    answers = run.method.answer_all(fitted, read(paths))
    for i, line in enumerate(records.read_whole(tmp_path / "out" / "predictions.jsonl")):
        by_norms = answers.kept[i]["cosine"]
        branch = tiny.VIEWS[by_norms[of_cosine.at if is_early else -1].argmin()]
        (facts,) = line["tiles"]
        assert facts["branch"] == branch and facts["early"] is is_early
        expected = answers.mask(i, "union" if answer == "union" else branch)
        np.testing.assert_array_equal(shown(tmp_path / "out" / f"{i}_mask.png"), 255 * expected)


@pytest.mark.parametrize("level", ["image", "case", "domain"])
def test_one_choice_for_all_that_share_it(seen, tiny_workdir, tmp_path, level):
    """Of three files: a file is a case, all of them are a domain."""
    files = [save(tmp_path / f"{i}.png", levels(one, 16)) for i, one in enumerate(seen)]
    out = tmp_path / "out"
    words = [f"--workdir={tiny_workdir}", "--mode=predict", f"--output={out}"]
    method = ["--config.method.selection=image", f"--config.method.level={level}"]
    assert main([*words, *method, *map(str, files)]) == 0
    answers = every_map(tiny_workdir, read(files))
    distances = np.array([facts["distances"]["image"] for facts in answers.facts])
    own = distances.argmin(axis=1).tolist()
    assert len(set(own)) > 1
    together = [int(distances.sum(axis=0).argmin())] * 3
    wanted = [tiny.VIEWS[branch] for branch in (together if level == "domain" else own)]
    lines = records.read_whole(out / "predictions.jsonl")
    assert [[facts["branch"] for facts in line["tiles"]] for line in lines] == [[b] for b in wanted]
    ways = {facts["answer"] for line in lines for facts in line["tiles"]}
    assert ways == {"image" if level == "image" else f"image@{level}"}
    for i, branch in enumerate(wanted):
        np.testing.assert_array_equal(shown(out / f"{i}_mask.png"), 255 * answers.mask(i, branch))


def quarters(image):
    """The four tiles of an image of 64 pixels."""
    return np.stack([image[r : r + 32, c : c + 32] for r in (0, 32) for c in (0, 32)])


TILING = {"data__tiles__rows": "2", "data__tiles__columns": "2"}


def test_the_tiles_of_a_file_can_share_one_choice(seen, tiny_workdir, tmp_path):
    """Of an image whose four tiles are seen through different views."""
    tiled = np.block([[seen[0], seen[1]], [seen[2], seen[0]]])
    (picture,) = predict.find([save(tmp_path / "a.png", levels(tiled, 16))])
    run = build(tiny.config(**TILING, method__selection="image", method__level="case"))
    fitted = evaluate.load_model(run, tiny_workdir)
    whole = predict.read_image(picture.file)
    distances = run.method.look(fitted, quarters(whole))
    own = [tiny.VIEWS[branch] for branch in distances.argmin(axis=1)]
    assert len(set(own)) > 1
    common = predict.common_looks(run, fitted, [picture], predict.kept_reader())
    assert list(common) == [str(picture.file)]
    np.testing.assert_allclose(common[str(picture.file)], distances.sum(axis=0), rtol=1e-9)
    mask, facts = predict.segment(run, fitted, whole, common[str(picture.file)])
    shared = tiny.VIEWS[distances.sum(axis=0).argmin()]
    assert [of_tile["branch"] for of_tile in facts] == [shared] * 4 and mask.shape == (64, 64)
    answers = run.method.answer_all(fitted, quarters(whole))
    stitched = np.block([[answers.maps[shared][i] for i in row] for row in ((0, 1), (2, 3))])
    np.testing.assert_array_equal(mask, decide(stitched, fitted.point))
    _, facts = predict.segment(run, fitted, whole)
    assert [of_tile["branch"] for of_tile in facts] == own


def marked_run(probability, point):
    """A run of four tiles that answers with the quarters of this map, and what it was asked."""
    run, asked = build(tiny.config(**tiny.PLAIN, **TILING)), []

    def answer(fitted, images, common=None):
        asked.append((images, common))
        maps = {"map": quarters(probability)}
        return Answers(maps, {"map": point}, ["map"] * 4, [{"tile": i} for i in range(4)])

    return run._replace(method=run.method._replace(answer=answer)), asked


@pytest.mark.parametrize(("min_pixels", "is_kept"), [(1, True), (8, True), (9, False)])
def test_an_object_on_the_corner_of_four_tiles_is_decided_whole(min_pixels, is_kept):
    """Two of its eight pixels lie in each tile."""
    probability = np.full((64, 64), 0.1, np.float32)
    probability[31:33, 30:34] = 0.8
    run, asked = marked_run(probability, OperatingPoint(0.5, min_pixels))
    image = np.random.default_rng(0).random((64, 64), np.float32)
    mask, facts = predict.segment(run, None, image)
    np.testing.assert_array_equal(mask, (probability > 0.5) & is_kept)
    assert mask.dtype == np.uint8 and [of_tile["tile"] for of_tile in facts] == [0, 1, 2, 3]
    ((given, common),) = asked  # all tiles at once
    np.testing.assert_array_equal(given, quarters(image))
    assert common is None
    predict.segment(run, None, image, np.array([3.0, 1.0]))
    np.testing.assert_array_equal(asked[1][1], [[3, 1]] * 4)


def test_an_object_has_the_same_least_area_in_an_image_of_larger_tiles():
    """A tile's pixel is 2 x 1.5 pixels of an image of 128 x 96: three of them are nine."""
    probability = np.zeros((64, 64), np.float32)
    probability[10:12, 10:20] = 1
    image = np.random.default_rng(0).random((128, 96), np.float32)
    for least, is_kept in ((20, True), (40, False)):
        run, _ = marked_run(probability, OperatingPoint(0.5, least))
        mask, _ = predict.segment(run, None, image)
        assert mask.any() == is_kept and mask.shape == image.shape
        if is_kept:  # a pixel more or less at the edge, where the map is interpolated
            assert abs(int(mask.sum()) - 20 * 3) <= 16
    _, (affine, *_) = predict.cut(run, image)
    assert predict.in_image(OperatingPoint(0.7, 3), affine) == (0.7, 9)
    assert predict.in_image(OperatingPoint(0.7, 1), affine / 4) == (0.7, 1)


def test_all_tiles_of_an_image_go_through_the_network_in_one_batch(
    seen, plain_workdir, tmp_path, monkeypatch
):
    passes = []

    def counted(function, devices=None):
        mapped = original(function, devices)

        def call(variables, *rows):
            passes.append([array.shape for array in rows])
            return mapped(variables, *rows)

        return call

    original = parallel.parallel_map
    monkeypatch.setattr(parallel, "parallel_map", counted)
    tiled = np.block([[seen[0], seen[1], seen[0]], [seen[2], seen[0], seen[1]]])
    file = save(tmp_path / "a.png", levels(tiled, 16))
    config = tiny.config(**tiny.PLAIN, data__tiles__rows="2", data__tiles__columns="3")
    predict.predict(build(config), plain_workdir, [file], str(tmp_path / "out"))
    assert passes == [[(6, 32, 32, 1)]]
    passes.clear()
    predict.predict(build(tiny.config(**tiny.PLAIN)), plain_workdir, [file], str(tmp_path / "out"))
    assert passes == [[(1, 64, 96, 1)]]  # not cut: a user's image may be as large as many tiles


@pytest.mark.parametrize("level", ["image", "case", "domain"])
def test_every_frame_is_decoded_once(seen, tiny_workdir, tmp_path, monkeypatch, level):
    """Whether it must be looked at twice or not; without room in memory as often as it is used."""
    frames = np.stack([levels(one, 16) for one in seen])
    dicoms.write(tmp_path / "volume.dcm", frames)
    save(tmp_path / "a.png", frames[0])
    run = build(tiny.config(method__selection="image", method__level=level))
    reads = []

    def counted(path, frame=0):
        reads.append((path.name, frame))
        return original(path, frame)

    original = reader.read
    monkeypatch.setattr(reader, "read", counted)
    predict.predict(run, tiny_workdir, [tmp_path], str(tmp_path / "out"))
    wanted = [("a.png", 0), *(("volume.dcm", frame) for frame in range(3))]
    assert reads == wanted
    reads.clear()
    monkeypatch.setattr(predict, "KEPT_BYTES", frames[0].size * 4)  # the first image alone
    lines = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    predict.predict(run, tiny_workdir, [tmp_path], str(tmp_path / "out"))
    times = 2 if level == "image" else 3
    assert sorted(reads) == sorted(wanted[:1] + wanted[1:] * times)
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == lines


def test_one_wrong_image_among_good_ones_writes_nothing(image, plain_workdir, tmp_path, capsys):
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
    words = [f"--workdir={plain_workdir}", "--mode=predict", f"--output={out}", str(good)]
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


def test_a_mask_never_overwrites_an_image(plain_workdir, tmp_path):
    images = [
        save(tmp_path / name, np.arange(64, dtype=np.uint8).reshape(8, 8))
        for name in ("x.png", "x_mask.png")
    ]
    before = [path.read_bytes() for path in images]
    run = build(settings.read_json(plain_workdir / "config.json"))
    with pytest.raises(UserError, match="x_mask.png is one of the images"):
        predict.predict(run, plain_workdir, [tmp_path], str(tmp_path))
    assert [path.read_bytes() for path in images] == before
    assert not (tmp_path / "predictions.jsonl").exists()
