"""Answers for arrays: sizes, passes that images share, one branch for a volume, refusals."""

import dataclasses

import answering
import numpy as np
import pytest
import tiny

import mln_flax
from mln_flax.engine import predictor as predictors
from mln_flax.engine import standalone, whole_model
from mln_flax.engine.predictor import NO_POINT, Predictor
from mln_flax.engine.sides import polarity
from mln_flax.metrics import clusters
from mln_flax.types import UserError

LINE = {"image_id": "a", "detection": {"min_area_mm2": 0.03}}


def test_what_is_marked_lies_in_the_images_own_pixels():
    image = answering.mammogram()
    answer = answering.predictor()(image, 0.1)
    expected = (image > 0.9) & answer.breast
    np.testing.assert_array_equal(answer.mask, expected)
    assert expected.sum() == 16 and answer.mask.dtype == bool and answer.image is image
    (cluster,) = answer.clusters
    assert (cluster.count, cluster.score) == (4, pytest.approx(0.95))
    assert answer.spacing_mm == (0.1, 0.1) and answer.spacing_from == "argument"
    assert answer.probability.shape == image.shape and answer.probability.dtype == np.float32


@pytest.mark.parametrize(
    ("trained", "given", "setting", "known", "source", "scale"),
    [
        ((0.1, 0.1), (0.1, 0.1), 0, (0.1, 0.1), "argument", (1, 1)),
        ((0.1, 0.1), (0.05, 0.2), 0, (0.05, 0.2), "argument", (0.5, 2)),  # anisotropic
        ((0.1, 0.1), 0.05, 0.3, (0.05, 0.05), "argument", (0.5, 0.5)),  # the setting gives way
        ((0.1, 0.2), None, 0.2, (0.2, 0.2), "setting", (2, 1)),
        ((0.1, 0.2), None, 0, None, "assumed", (1, 1)),
        (None, 0.2, 0, (0.2, 0.2), "argument", (1, 1)),
        (None, None, 0, None, "assumed", (1, 1)),
    ],
)
def test_the_size_of_pixels(trained, given, setting, known, source, scale):
    predictor = answering.predictor(
        spacing_mm=trained, predict__spacing_mm=str(setting), predict__min_mm2="0"
    )
    image = answering.mammogram()
    answer = predictor(image, given)
    sized = predictor.sized(image, predictors.spacing_of(given), "argument")
    assert sized.scene.image.shape == (round(96 * scale[0]), round(80 * scale[1]))
    assert (answer.spacing_mm, answer.spacing_from) == (known, source)
    assert answer.mask.shape == image.shape
    if source == "assumed":
        assert any("assumed pixels" in note for note in answer.notes)
        assert answer.measured_mm == (trained or (whole_model.USUAL_MM,) * 2)
    elif trained is None:
        assert any("size of the model is not known" in note for note in answer.notes)
    else:
        assert answer.notes == () and answer.measured_mm == known
    areas = [c.area_mm2 for c in answer.marks.calcifications]
    pixel = answer.measured_mm[0] * answer.measured_mm[1]
    sizes = np.bincount(answer.marks.labels.ravel())[1:] * pixel
    np.testing.assert_allclose(areas, sizes)


@pytest.mark.parametrize("pixel_mm", [0.05, 0.08, 0.17, 0.25])
def test_a_peak_of_the_models_pixels_survives_in_any_other(pixel_mm):
    """Of a network that marks one pixel of its own in the middle of each tile."""

    def network(tiles):
        maps = np.zeros_like(tiles)
        maps[:, 16, 16] = 0.9
        return maps

    predictor = answering.predictor(network, predict__min_mm2="0", predict__keep="all")
    answer = predictor(answering.mammogram((240, 200), ()), pixel_mm)
    peaks = [c.peak for c in answer.marks.calcifications]
    assert len(peaks) >= 2 and np.allclose(peaks, 0.9)


def test_small_images_share_passes_and_each_has_its_own_answer():
    asked = []
    shapes = [(20, 24), (30, 28), (96, 80), (12, 16), (33, 20), (24, 24), (25, 25)]
    images = [answering.mammogram(shape, dots=((6, 4),)) for shape in shapes]
    rng = np.random.default_rng(0)
    images = [(i * (0.8 + 0.2 * rng.random(i.shape))).astype(np.float32) for i in images]
    images.insert(3, np.full((40, 40), 0.2, np.float32))  # no breast
    predictor = answering.predictor(lambda tiles: tiles, asked=asked, predict__batch_size="4")
    alone = [predictor(image, 0.1) for image in images]
    count = sum(len(tiles) for tiles, _ in asked)
    asked.clear()

    given = []

    def drawn():
        for image in images:
            given.append(image)
            yield image

    together = predictor.many(drawn(), 0.1)
    first = next(together)
    assert len(given) == 3  # no more than a pass needs
    for answer, expected in zip([first, *together], alone, strict=True):
        np.testing.assert_array_equal(answer.image, expected.image)
        np.testing.assert_array_equal(answer.probability, expected.probability)
        assert answer.notes == expected.notes
    sizes = [len(tiles) for tiles, _ in asked]
    assert sum(sizes) == count and set(sizes[:-1]) == {4} and sizes[-1] <= 4
    assert list(predictor.many([])) == []


def looked(fitted, tiles):
    """Dark tiles are near branch 0, bright ones near branch 1."""
    bright = (tiles.mean(axis=(1, 2)) > 0.5).astype(float)
    return np.stack([bright, 1 - bright], axis=1)


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [("case", ["b1", "b1", "b1"]), ("image", ["b0", "b1", "b1"]), ("tile", ["", "", ""])],
)
def test_frames_of_a_volume_share_a_branch(choice, wanted):
    frames = [answering.mammogram(dots=()), *[answering.mammogram(dots=()) * 1.5 + 0.1] * 2]
    frames = [frame.clip(0, 1).astype(np.float32) for frame in frames]
    predictor = answering.predictor(look=looked, predict__choice=choice)
    answers = predictor.volume(frames, 0.1)
    assert [answer.branch for answer in answers] == wanted
    alone = [predictor(frame, 0.1).branch for frame in frames]
    assert alone == (["b0", "b1", "b1"] if choice != "tile" else ["", "", ""])


def test_a_long_volume_is_looked_at_in_a_few_frames():
    assert predictors.looked_at(1) == [0] and predictors.looked_at(3) == [0, 1, 2]
    frames = predictors.looked_at(100)
    assert frames[0] == 0 and frames[-1] == 99 and len(set(frames)) == predictors.LOOKED_AT


def test_facts_of_tiles_that_choose_for_themselves():
    facts = [{"branch": "a"}, {"branch": "b"}, {"branch": "b"}]
    assert predictors.facts_of(facts, False) == {"tiles": facts, "branch": "b"}
    assert predictors.facts_of(facts[1:], False) == {"branch": "b"}
    assert predictors.facts_of(facts, True) == {"branch": "a"}
    assert predictors.facts_of([], True) == {}


def test_an_image_without_a_breast_is_empty_with_a_note():
    asked = []
    predictor = answering.predictor(asked=asked, look=looked)
    answer = predictor(np.full((50, 60), 0.25, np.float32), 0.1)
    assert not asked and not answer.mask.any() and not answer.probability.any()
    assert answer.clusters == () and "no breast is visible: nothing is marked" in answer.notes


def test_a_network_that_gives_no_number_is_no_answer_of_nothing():
    predictor = answering.predictor(lambda tiles: np.full_like(tiles, np.nan))
    with pytest.raises(UserError, match="no number"):
        predictor(answering.mammogram(), 0.1)


def test_keep(monkeypatch):
    image = answering.mammogram(dots=(*answering.DOTS, (80, 6)))
    rule = {"predict__cluster_mm2": "10"}
    clustered = answering.predictor(**rule)(image, 0.1)
    every = answering.predictor(predict__keep="all", **rule)(image, 0.1)
    assert (clustered.mask.sum(), every.mask.sum()) == (16, 20)
    for answer in (clustered, every):
        assert [c.cluster for c in answer.marks.calcifications].count(0) == 1


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 100), np.float32), "8 or more"),
        (np.zeros((3, 20, 20), np.float32), r"\[H, W\]"),
        (np.zeros((20, 20), np.uint8), "floats"),
        (np.full((20, 20), 1.5, np.float32), r"in \[0, 1\]"),
        (np.full((20, 20), np.nan, np.float32), "nan"),
    ],
)
def test_what_is_no_image(image, words):
    with pytest.raises(UserError, match=words):
        answering.predictor()(image, 0.1)


@pytest.mark.parametrize("spacing", [0, -0.1, np.nan, np.inf, (0.1, 0)])
def test_what_is_no_spacing(spacing):
    with pytest.raises(UserError, match="spacing_mm"):
        answering.predictor()(answering.mammogram(), spacing)


def test_more_pixels_than_can_be_worked_on():
    with pytest.raises(UserError, match="allowed are 120,000,000"):
        answering.predictor()(answering.mammogram(), 500.0)


def test_a_model_without_a_point_for_whole_images_warns():
    image = answering.mammogram()
    assert answering.predictor()(image, 0.1).warnings == (
        f"{NO_POINT} (this model keeps none for whole images)",
    )
    assert answering.predictor(predict__threshold="0.7")(image, 0.1).warnings == ()
    assert answering.predictor(predict__threshold="0.7")(image, 0.1).point.threshold == 0.7


def test_from_a_workdir_in_one_line(plain_workdir):
    predictor = mln_flax.Predictor.from_workdir(plain_workdir, {"predict.tile": "32"})
    assert isinstance(predictor, Predictor)
    answer = predictor(answering.mammogram(), spacing_mm=0.1)
    assert answer.probability.shape == answering.SHAPE and 0 < answer.probability.max() <= 1
    again = clusters.marks(answer.probability, answer.marks.labels > 0, (0.1, 0.1))
    assert again.clusters == answer.clusters
    with pytest.raises(UserError, match="holds no run"):
        Predictor.from_workdir(plain_workdir / "model")
    with pytest.raises(AttributeError, match="predicter"):
        mln_flax.predicter  # noqa: B018


def test_importing_the_package_imports_no_jax():
    code = (
        "import sys, mln_flax; assert 'jax' not in sys.modules; from mln_flax import read_image, "
        "Predictor; assert callable(read_image) and Predictor.from_workdir"
    )
    process = tiny.python("-c", code)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


SIDES = (False, None, True)  # of three branches


def judged(fitted, tiles):
    """The second branch is the nearest, the third the next; together they are 1, 0, 0.5 a tile."""
    return np.tile([1.0, 0.0, 0.5], (len(tiles), 1))


def framed(white=False, seen=True):
    """A breast in air, or with nothing but tissue around it."""
    image = answering.mammogram(dots=())
    if not seen:
        image = np.random.default_rng(0).random(image.shape, np.float32)
    return 1 - image if white else image


def with_sides(predictor, sides):
    method = predictor.run.method._replace(inverted=sides)
    return dataclasses.replace(predictor, run=predictor.run._replace(method=method))


@pytest.mark.parametrize(
    ("sides", "frames", "wanted", "facts"),
    [
        (SIDES[::2], [framed()], 0, ("upright", "air")),
        (SIDES[::2], [framed(white=True)], 1, ("inverted", "air")),
        (SIDES[::2], [framed(seen=False)], 1, ("inverted", "tissue")),
        (SIDES[::2], [framed(), framed(white=True)], 1, ("inverted", "tissue")),  # one each
        (SIDES[::2], [framed(), framed(), framed(white=True)], 0, ("upright", "air")),
        (SIDES[:2], [framed(white=True)], 1, ()),  # the branch that both share is left
        ((False, False), [framed(white=True)], 1, ("upright", "tissue")),  # there is no other
        ((), [framed()], 1, ()),
    ],
)
def test_the_air_of_an_image_leaves_out_branches_for_the_other_polarity(
    sides, frames, wanted, facts
):
    def look(fitted, tiles):
        return judged(fitted, tiles)[:, [0, 2] if sides != SIDES[:2] else [0, 1]]

    predictor = with_sides(answering.predictor(look=look), sides)
    common = predictor.look([predictor.sized(frame, (0.1, 0.1), "argument") for frame in frames])
    assert common.argmin() == wanted
    told = polarity(common, sides)
    assert told == (dict(zip(("polarity", "polarity_by"), facts, strict=True)) if facts else {})
    answer = predictor.volume(frames, 0.1)[0]
    assert answer.branch == f"b{wanted}" and {**answer.facts, **told} == answer.facts
    # The script of exported models chooses alike.
    facts = {"look_side": predictor.trained_side, "batch": 4, "inverted": sides}
    facts |= {"spacing_mm": (0.1, 0.1), "usual_spacing_mm": None, "training_pixels": None}
    model = standalone.Model(facts, {"look": lambda tiles: look(None, tiles)})
    scenes = [standalone.scene(model, frame, 0.1) for frame in frames]
    np.testing.assert_array_equal(standalone.seen(model, scenes), common)
