"""Whole phantoms: what they show, of whom, and that they are drawn once."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from mln_flax.config import DataConfig, PhantomConfig
from mln_flax.data.core import loaders
from mln_flax.data.phantoms import anatomy, drawing, framing, lesions, phantom, store, whole
from mln_flax.data.prepare import prepared, tiles
from mln_flax.types import UserError

COUNTS = PhantomConfig(whole_normal=3, whole_lesions=2, whole_test=5, spacing_mm=2.0)
DATA = DataConfig(phantom=COUNTS, workers=1)
FIRST = phantom.WHOLE


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """An empty cache."""
    monkeypatch.setenv(store.PLACE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def refuses_to_draw(*_arguments, **_settings):
    raise AssertionError("drawn again")


def depth_of(example, index, spacing_mm):
    """Millimeters under the skin of each pixel, from the outline alone, as the image has it."""
    body = anatomy.breast(0, index)
    grid = framing.whole_grid(body, spacing_mm)
    depth = anatomy.depth_mm(body, grid.x[None], grid.y[:, None])
    return depth if example.laterality == "L" else depth[:, ::-1]


@pytest.mark.parametrize("domain", phantom.DOMAINS)
@pytest.mark.parametrize("index", [FIRST, FIRST + 1])  # CC and MLO
def test_all_of_the_breast_is_shown_with_air_around_it(domain, index):
    example = phantom.whole_view(0, domain, index, spacing_mm=1.0)
    assert example.image.shape == example.mask.shape == phantom.size_of(0, index, 1.0)
    assert example.view_position == ("CC", "MLO")[index % 2]
    depth = depth_of(example, index, 1.0)
    rows, columns = (np.flatnonzero((depth > 0).any(axis=axis)) for axis in (1, 0))
    height, width = depth.shape
    left, right = columns[0], width - 1 - columns[-1]
    chest, front = (left, right) if example.laterality == "L" else (right, left)
    assert chest == 0 and 14 <= front <= 22
    assert 9 <= height - 1 - rows[-1] <= 12
    assert rows[0] == 0 if example.view_position == "MLO" else 9 <= rows[0] <= 12
    inside = example.image[depth > 5]
    air = np.median(example.image[depth < -4])
    assert abs(np.median(inside) - air) > 0.15


def test_sizes_follow_the_breasts_and_pixels_do_not_change_what_is_shown():
    sizes = {phantom.size_of(0, FIRST + i, 1.0) for i in range(12)}
    assert len(sizes) == 12
    for i in range(4):
        fine, coarse = (np.array(phantom.size_of(0, FIRST + i, mm)) for mm in (0.5, 1.0))
        assert (np.abs(fine - 2 * coarse) <= 1).all()


@pytest.mark.parametrize("domain", phantom.DOMAINS)
def test_letters_stand_in_the_air_and_count_neither_as_breast_nor_as_lesion(domain):
    for index in range(FIRST, FIRST + 4):
        example = phantom.whole_view(0, domain, index, spacing_mm=0.5)
        depth = depth_of(example, index, 0.5)
        level = -1 if domain == "processing" else 1
        air = np.median(example.image[depth < -4])
        far = (depth < -6) & (level * (example.image - air) > 0.1)
        far &= ~_border(depth.shape, 7)  # a film's light edge is at most 3 mm wide
        letters, _ = ndimage.label(ndimage.binary_closing(far, iterations=6))
        boxes = ndimage.find_objects(letters)
        tall = max(box[0].stop - box[0].start for box in boxes) * 0.5
        assert 4 <= tall <= 15
        assert not example.mask[depth < 0].any()
        found = tiles.breast_mask(example.image)
        assert not found[far].any()
        inside = depth > 4
        assert found[inside].mean() > 0.95


def _border(shape, width):
    border = np.ones(shape, bool)
    border[width:-width, width:-width] = False
    return border


@pytest.mark.parametrize("text", ["RMLO", "LCC"])
def test_letters_can_be_read(text):
    """Not mirrored: L has its foot to the right, R its bow."""
    cells = framing.glyphs(text)
    assert cells.shape == (7, 6 * len(text) - 1)
    first = cells[:, :5]
    assert first[:, 0].all() and first[0, 4] == 0
    assert first[6, 4] and first[1:6, 4].any() == (text[0] == "R")
    assert not cells[:, 5::6].any()


def test_letters_that_find_no_air_are_not_drawn():
    body = anatomy.breast(0, FIRST)
    assert not framing.letters(body, np.full((200, 200), 3.0), 1.0).any()
    assert not framing.letters(body, np.full((9, 9), -30.0), 1.0).any()
    lead = framing.letters(body, np.full((60, 60), -30.0), 1.0)
    assert set(np.unique(lead)) == {0, np.float32(framing.LEAD)}


def test_windows_have_no_letters(monkeypatch):
    monkeypatch.setattr(framing, "letters", refuses_to_draw)
    window = phantom.phantom(0, "ffdm", FIRST, height=120, width=100, spacing_mm=2.0)
    assert (window.image < 0.01).mean() > 0.2  # with air enough


def test_it_is_the_same_breast_as_in_a_window():
    for index in range(FIRST, FIRST + 5):
        body = anatomy.breast(0, index)
        at = lesions.focus(body)
        window = phantom.phantom(0, "ffdm", index, height=64, width=64, spacing_mm=0.2)
        all_of_it = phantom.whole_view(0, "ffdm", index, spacing_mm=0.2)
        assert window.patient_id == all_of_it.patient_id
        left = phantom._grid(body, at, lesions.cluster(body, at), 64, 64, 0.2)
        whole_grid = framing.whole_grid(body, 0.2)
        top, start = (
            round((one[0] - whole[0]) / 0.2)
            for one, whole in ((left.y, whole_grid.y), (left.x, whole_grid.x))
        )
        masks = [e.mask[:, :: 1 if body.laterality == "L" else -1] for e in (window, all_of_it)]
        there = masks[1][max(top, 0) : top + 64, start : start + 64]
        assert int(masks[0].sum()) == pytest.approx(int(there.sum()), rel=0.35, abs=5)


def test_as_many_are_normal_as_asked_for():
    part = whole.part(DATA, "ffdm", "validation")
    examples = list(part.examples)
    labels = tuple(int(example.mask.sum()) for example in examples)
    assert labels == part.label_pixels and sum(n == 0 for n in labels) == 3 and len(labels) == 5
    assert [e.label_kind for e in examples] == ["calcification" if n else "none" for n in labels]
    assert {example.patient_id for example in examples} == part.patient_ids
    assert len(part.patient_ids) == 5 and {e.domain for e in examples} == {"ffdm"}
    test = whole.part(DATA, "film", "test")
    assert len(test.examples) == 5 and sum(n == 0 for n in test.label_pixels) == 3
    none = dataclasses.replace(COUNTS, whole_normal=0, whole_lesions=0)
    assert not len(whole.part(DataConfig(phantom=none), "ffdm", "validation").examples)


def test_more_images_are_the_same_ones_and_others():
    few = whole.indices(0, "ffdm", "test", 4, 2)
    many = whole.indices(0, "ffdm", "test", 9, 6)
    assert set(few) < set(many) and many == sorted(many) and len(set(many)) == 15
    normal = [not lesions.cluster(b := anatomy.breast(0, i), lesions.focus(b)) for i in many]
    assert sum(normal) == 9


def test_no_patient_is_in_two_parts_or_domains_nor_in_a_window():
    wanted = [(domain, name) for domain in phantom.DOMAINS for name in whole.PARTS]
    chosen = [whole.indices(0, *names, 7, 7) for names in wanted]
    every = [index for indices in chosen for index in indices]
    assert len(set(every)) == len(every) == 14 * 8
    windows = loaders["phantom"](
        DataConfig(size=8, phantom=PhantomConfig(train=9, validation=3, test=4))
    )
    shown = {patient for part in windows.parts for patient in part.patient_ids}
    last = max(int(patient.split("-")[1]) for patient in shown)
    assert last == 9 + 3 + 4 * 4 - 1 < 10**6 < min(every)
    part = whole.part(DATA, "ffdm", "validation")
    assert not part.patient_ids & shown


def test_drawn_once_then_read_and_the_same_without_a_cache(folder, monkeypatch):
    first = list(whole.part(DATA, "dbt", "test").examples)
    assert len(list(folder.iterdir())) == 5
    monkeypatch.setattr(drawing, "_draw_block", refuses_to_draw)
    again = whole.part(DATA, "dbt", "test").examples
    monkeypatch.setattr(phantom, "shown", refuses_to_draw)
    for one, other in zip(first, again, strict=True):
        assert one.image.dtype == other.image.dtype == np.float32
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)
        assert one._replace(image=0, mask=0) == other._replace(image=0, mask=0)
        assert (prepared.from_bits(prepared.to_bits(one.image)) == one.image).all()
    monkeypatch.undo()
    monkeypatch.setenv(store.PLACE, "0")
    part = whole.part(DATA, "dbt", "test")
    np.testing.assert_array_equal(part.examples[4].image, first[4].image)
    assert [e.image_id for e in part.examples[1:3]] == [e.image_id for e in first[1:3]]


def test_several_processes_draw_what_is_missing(folder, monkeypatch, capsys):
    monkeypatch.setattr(drawing, "WORTH_SECONDS", 0.0)
    expected = [e.image for e in whole.part(DATA, "ffdm", "test").examples]
    files = sorted(folder.iterdir())
    for path in files[:2]:
        path.unlink()
    capsys.readouterr()
    part = whole.part(dataclasses.replace(DATA, workers=2), "ffdm", "test")
    assert sorted(folder.iterdir()) == files
    assert capsys.readouterr().out.startswith("phantoms: drawing 2 whole images, once, about 0 s")
    for example, image in zip(part.examples, expected, strict=True):
        np.testing.assert_array_equal(example.image, image)


def test_what_does_not_fit_is_drawn_when_asked_for(folder, monkeypatch):
    monkeypatch.setattr(store, "MOST_BYTES", 60_000)
    part = whole.part(DATA, "ffdm", "test")
    assert not folder.exists()
    assert part.examples[0].mask.sum() == part.label_pixels[0]


def test_a_window_of_the_same_size_is_another_file(folder):
    index = whole.indices(0, "ffdm", "test", 1, 0)[0]
    height, width = phantom.size_of(0, index, 2.0)
    block = store.Block(0, ("ffdm",), index, index + 1, height, width, 2.0)
    (window,) = drawing.draw([block], phantom.shown)[0]
    (example,) = drawing.draw([block._replace(whole=True)], phantom.shown)[0]
    assert len(list(folder.iterdir())) == 2
    assert window.image.shape == example.image.shape and (window.image != example.image).any()


def test_an_unknown_domain_is_refused():
    with pytest.raises(UserError, match="did you mean 'film'"):
        whole.part(DATA, "flim", "test")
    with pytest.raises(UserError, match="spacing 0.0 mm"):
        phantom.whole_view(0, "ffdm", 0, spacing_mm=0.0)


def test_windows_anywhere_in_a_whole_view():
    asked = {"height": 20, "width": 24, "spacing_mm": 2.0}
    view = phantom.whole_view(0, "ffdm", FIRST, spacing_mm=2.0)
    cut = phantom.windows_of_whole(0, ("ffdm",), FIRST, windows=40, **asked)
    assert len({example.image_id for example in cut}) == 40
    places = np.lib.stride_tricks.sliding_window_view(view.image, (20, 24))
    for example in cut:
        at = np.argwhere((places == example.image).all(axis=(2, 3)))
        assert any(np.array_equal(view.mask[r : r + 20, c : c + 24], example.mask) for r, c in at)
        assert example.label_kind == ("calcification" if example.mask.any() else "none")
    kinds = {bool((example.image < 0.02).mean() > 0.2) for example in cut}
    assert kinds == {True, False}  # some show air, others do not
    with pytest.raises(UserError, match="no window of 999 x 24"):
        phantom.windows_of_whole(0, ("ffdm",), FIRST, windows=1, **asked | {"height": 999})


def test_windows_of_whole_views_are_trained_on_beside_those_at_lesions(folder):
    counts = PhantomConfig(
        train=3, validation=1, test=1, whole_train=2, whole_windows=5, spacing_mm=2.0
    )
    data = DataConfig(size=16, source="any", targets=("film",), phantom=counts, workers=1)
    first, *others = phantom.load(data).parts
    assert len(first.examples) == 3 + 2 * 5
    assert len(first.patient_ids) == 3 + 2
    assert not any(first.patient_ids & part.patient_ids for part in others)
    again = phantom.load(data).parts[0]
    for example, same in zip(first.examples, again.examples, strict=True):
        assert np.array_equal(example.image, same.image)
        assert np.array_equal(example.mask, same.mask)
