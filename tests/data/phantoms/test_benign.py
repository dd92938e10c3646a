"""Look-alikes: none labeled, none on a calcification, none a cluster; how often they are there."""

import numpy as np
import pytest
from scipy import spatial

from mln_flax.data.phantoms import anatomy, benign, lesions, phantom

PATIENTS = 300


@pytest.fixture(scope="module")
def drawn():
    """Breast, focus, calcifications and look-alikes of patients."""
    patients = []
    for index in range(PATIENTS):
        body = anatomy.breast(0, index)
        at = lesions.focus(body)
        spots = lesions.cluster(body, at)
        patients.append((body, at, spots, lesions.distractors(body, at, spots)))
    return patients


def places(spots):
    return np.array([(spot.x, spot.y) for spot in spots]).reshape(-1, 2)


def groups(kind, count=30, view=0):
    """What is drawn of one kind in the middle of breasts of one view."""
    for index in range(count):
        body = anatomy.breast(0, 2 * index + view)
        x, y = 0.5 * body.nipple[0], body.nipple[1]
        yield benign._DRAWN[kind](np.random.default_rng(index), body, x, y)


def is_speck(spot):
    """As a cluster's calcifications are: small, and solid."""
    return spot.length <= 1.0 and not spot.hole


def test_none_is_labeled_and_none_lies_on_a_calcification(drawn):
    for body, _, spots, others in drawn:
        assert not any(spot.labeled for spot in others)
        if others:
            assert anatomy.depth_mm(body, *places(others).T).min() > 0
        if others and spots:
            apart = spatial.distance.cdist(places(others), places(spots))
            apart -= np.array([spot.length for spot in others])[:, None] / 2
            assert (apart - np.array([spot.length for spot in spots]) / 2).min() > 1.5


def test_in_images_they_change_no_mask_and_leave_free_tissue(drawn):
    axis = np.arange(-90, 90) * 0.1
    for _, at, spots, others in drawn[:60]:
        grid = anatomy.Grid(at.x + axis, at.y + axis, 0.1, False)
        layer, nothing = lesions.draw(others, grid)
        true, mask = lesions.draw(spots, grid)
        both = lesions.draw(spots + others, grid)
        assert not nothing.any()
        np.testing.assert_array_equal(both[1], mask)
        assert not ((layer > 0) & (true > 0)).any()


def test_as_many_windows_show_some_with_a_cluster_as_without(drawn):
    shown = {True: [], False: []}
    for body, at, spots, others in drawn:
        grid = phantom._grid(body, at, spots, 128, 128, 0.1)
        shown[at.lesion].append(lesions.draw(others, grid)[0].max() > 0.03)
    error = np.sqrt(sum(0.25 / len(values) for values in shown.values()))
    assert abs(np.mean(shown[True]) - np.mean(shown[False])) < 3 * error
    assert 0.3 < np.mean(shown[True] + shown[False]) < 0.6


def test_they_tell_nothing_of_the_cluster(drawn):
    """The same ones are there with a label and without."""
    for body, at, spots, others in drawn[:40]:
        virtual = lesions.cluster(body, at._replace(lesion=True))
        assert lesions.distractors(body, at, spots or virtual) == others
        assert lesions.distractors(body, at, []) == others


def test_most_breasts_have_few_and_some_have_many(drawn):
    counts = np.array([len(others) for *_, others in drawn])
    assert np.median(counts) < 20 and np.quantile(counts, 0.9) > 60
    assert (counts <= 3).mean() > 0.1


def test_single_specks_form_no_cluster_and_are_part_of_none(drawn, monkeypatch):
    often = {kind: benign.FREQUENCIES[kind]._replace(breasts=1.0) for kind in ("single", "dust")}
    monkeypatch.setattr(benign, "FREQUENCIES", often)
    seen = 0
    for body, at, spots, _ in drawn[:100]:
        others = lesions.distractors(body, at, spots)
        seen += len(others)
        apart = spatial.distance.squareform(spatial.distance.pdist(places(others)))
        assert ((apart < 10.0 - 1e-9).sum(1) <= 2).all()  # itself and one beside it
        if spots:
            assert spatial.distance.cdist(places(others), places(spots)).min() >= 5.5
    assert seen > 300


@pytest.mark.parametrize("kind", ["rods", "ring", "milk", "skin", "popcorn", "suture"])
def test_other_kinds_are_no_group_of_specks(kind):
    """Not three small solid ones within 5 mm of each other, unless in line (a thread)."""
    for view in (0, 1):
        for spots in groups(kind, view=view):
            specks = places([spot for spot in spots if is_speck(spot)])
            if kind == "suture":
                assert sum(spot.hole > 0 for spot in spots) >= 1  # its knots
                assert all(spot.length > 3 * spot.width for spot in spots if not spot.hole)
            elif kind == "popcorn":  # lumps over each other, most of them larger
                assert np.median([spot.length for spot in spots]) > 1.0
            else:
                assert len(specks) < 3


def test_tram_lines_lie_on_both_walls_of_a_vessel():
    """Plaques of the size and density of a cluster's calcifications, along two parallel lines."""
    sizes, densities, lengths = [], [], []
    for spots in groups("vessel", 20):
        at = places(spots)
        if len(at) < 20:
            continue
        centered = at - at.mean(0)
        along = np.linalg.svd(centered, full_matrices=False)[2][0]
        reach = np.ptp(centered @ along)
        lengths.append(reach)
        # Away from a smooth middle line there are two walls: few plaques near the middle.
        t, off = centered @ along, centered @ [-along[1], along[0]]
        off = off - np.polyval(np.polyfit(t, off, 7), t)
        wide = np.quantile(np.abs(off), 0.5)
        assert 0.2 < wide < 1.6
        angles = np.array([spot.angle for spot in spots if spot.length > 0.5])
        assert np.mean(np.abs(np.cos(angles - np.arctan2(along[1], along[0]))) > 0.7) > 0.6
        sizes += [spot.length for spot in spots]
        densities += [spot.density for spot in spots]
    assert 0.1 <= min(sizes) and max(sizes) <= 1.3 and np.mean(np.array(sizes) < 0.5) > 0.3
    assert 0.5 <= min(densities) and max(densities) <= 1.3
    assert min(lengths) > 9 and max(lengths) > 45


def test_milk_of_calcium_is_hazy_from_above_and_a_cup_aside():
    axis = (np.arange(400) - 200) * 0.05
    peaks = []
    for spots in groups("milk", 10, view=0):
        peaks.append(max(0.745 * s.density * s.width * s.thickness for s in spots))
        assert all(not s.hole for s in spots)
    assert max(peaks) < 0.25
    for spots in groups("milk", 10, view=1):
        for spot in spots[:2]:
            grid = anatomy.Grid(spot.x + axis, spot.y + axis, 0.05, False)
            layer, _ = lesions.draw([spot], grid)
            rows = layer.sum(1)
            assert (rows @ grid.y) / rows.sum() > spot.y + 0.05  # it has settled: y points down
            assert layer[200, 200] < 0.35 * layer.max()


def test_skin_calcifications_lie_at_the_skin_and_projected():
    depths = []
    for index, spots in enumerate(groups("skin", 60)):
        body = anatomy.breast(0, 2 * index)
        depths.append(float(np.median(anatomy.depth_mm(body, *places(spots).T))))
        assert all(0.5 <= s.hole <= 0.75 and 0.5 <= s.length <= 1.2 for s in spots)
    assert 0.3 < np.mean(np.array(depths) < 5) < 0.7


def test_frequencies(drawn, monkeypatch):
    """In how many breasts each kind is, as its line says."""
    count = dict.fromkeys(benign.FREQUENCIES, 0)
    seen = set()

    def noted(kind, draw):
        def draws(*arguments):
            seen.add(kind)
            return draw(*arguments)

        return draws

    drawing = {kind: noted(kind, draw) for kind, draw in benign._DRAWN.items()}
    monkeypatch.setattr(benign, "_DRAWN", drawing)
    for body, at, spots, _ in drawn:
        seen.clear()
        lesions.distractors(body, at, spots)
        for kind in seen:
            count[kind] += 1
    for kind, often in benign.FREQUENCIES.items():
        error = np.sqrt(often.breasts * (1 - often.breasts) / PATIENTS)
        assert abs(count[kind] / PATIENTS - often.breasts) < 4 * error, kind
