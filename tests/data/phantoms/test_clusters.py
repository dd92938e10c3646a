"""Clusters: how many, how far, how large, of what density, and where a window shows them."""

import numpy as np
import pytest
from scipy import spatial, stats

from mln_flax.data.phantoms import anatomy, clusters, lesions, phantom

PATIENTS = 400


@pytest.fixture(scope="module")
def drawn():
    """Breast, focus and calcifications of patients with and without a cluster."""
    bodies = [anatomy.breast(0, index) for index in range(PATIENTS)]
    foci = [lesions.focus(body) for body in bodies]
    return [(body, at, lesions.cluster(body, at)) for body, at in zip(bodies, foci, strict=True)]


@pytest.fixture(scope="module")
def with_cluster(drawn):
    return [(body, at, spots) for body, at, spots in drawn if at.lesion]


def places(spots):
    return np.array([(spot.x, spot.y) for spot in spots])


def extent(spots):
    return spatial.distance.pdist(places(spots)).max()


def test_thirty_percent_have_no_cluster(drawn):
    assert np.mean([not at.lesion for _, at, _ in drawn]) == pytest.approx(0.3, abs=0.07)
    assert all(bool(spots) == at.lesion for _, at, spots in drawn)


def test_counts_extents_and_sizes(with_cluster):
    counts = np.array([len(spots) for *_, spots in with_cluster])
    extents = np.array([extent(spots) for *_, spots in with_cluster])
    sizes = np.array([spot.length for *_, spots in with_cluster for spot in spots])
    assert counts.min() >= 3 and counts.max() <= 50
    assert extents.min() >= 2 and extents.max() <= 40
    assert sizes.min() >= 0.1 and sizes.max() <= 1.0
    # All of each range is there.
    assert (counts <= 4).mean() > 0.03 and (counts >= 35).mean() > 0.03
    assert (extents < 3).mean() > 0.05 and (extents > 25).mean() > 0.02
    assert (sizes < 0.2).mean() > 0.03 and (sizes > 0.7).mean() > 0.03
    assert stats.spearmanr(extents, counts).statistic > 0.5  # larger ones hold more
    assert all(spot.labeled for *_, spots in with_cluster for spot in spots)


def test_densities_differ_within_and_between_clusters(with_cluster):
    densities = [np.log([s.density for s in spots]) for *_, spots in with_cluster if len(spots) > 5]
    every = np.exp(np.concatenate(densities))
    assert every.min() >= 0.5 and every.max() <= 1.3
    assert np.quantile(every, 0.05) < 0.6 and np.quantile(every, 0.95) > 1.2
    assert np.mean([values.std() for values in densities]) > 0.1
    assert np.std([values.mean() for values in densities]) > 0.1


def test_calcifications_lie_in_the_breast_and_apart(with_cluster):
    for body, _, spots in with_cluster:
        at = places(spots)
        assert anatomy.depth_mm(body, *at.T).min() > 0.5
        assert at[:, 0].min() > 0 and at[:, 1].min() > body.top
        half = np.array([spot.length for spot in spots]) / 2
        apart = spatial.distance.squareform(spatial.distance.pdist(at)) - half[:, None] - half
        assert apart[~np.eye(len(at), dtype=bool)].min() > 0.249


@pytest.mark.parametrize("name", list(clusters.DISTRIBUTIONS))
def test_distributions(name, with_cluster):
    chosen = [(b, at, spots) for b, at, spots in with_cluster if at.distribution == name]
    wanted = clusters.DISTRIBUTIONS[name].share
    assert len(chosen) / len(with_cluster) == pytest.approx(wanted, abs=0.1)
    flat, towards = [], []  # shape of the ellipse of variance, and where its long axis points
    for body, _, spots in chosen:
        if len(spots) < 6:
            continue
        at = places(spots)
        values, axes = np.linalg.eigh(np.cov(at.T))
        flat.append(np.sqrt(values[0] / values[1]))
        heading = np.array(body.nipple) - at.mean(0)
        towards.append(abs(axes[:, 1] @ heading) / np.hypot(*heading))
    flat, towards = np.median(flat), np.mean(towards)
    if name == "grouped":
        assert flat > 0.5 and towards == pytest.approx(2 / np.pi, abs=0.12)  # any direction
    elif name == "linear":
        assert flat < 0.4 and towards > 0.75
    else:
        assert flat < 0.6 and towards > 0.9
        assert np.median([extent(spots) for *_, spots in chosen]) > 15


def test_labels_are_as_likely_in_any_part_of_a_window(with_cluster):
    """Calcifications of windows by 4 x 4 parts: none differs from the mean by 4 errors of it."""
    rng, field = np.random.default_rng(5), np.array([12.8, 12.8])
    counts = np.zeros((len(with_cluster), 16))
    for row, (*_, spots) in zip(counts, with_cluster, strict=True):
        at = places(spots)
        for _ in range(8):
            inside = (at - phantom._corner(rng, at, field)) / field
            inside = inside[((inside >= 0) & (inside < 1)).all(1)]
            assert len(inside)
            row += np.histogram2d(*inside.T, bins=4, range=[(0, 1)] * 2)[0].ravel()
    total, error = counts.sum(0), np.sqrt((counts**2).sum(0))  # patients are independent
    assert (np.abs(total - total.mean()) / error).max() < 4
    assert total[[5, 6, 9, 10]].sum() / total.sum() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("field", [(12.8, 12.8), (0.1, 0.1), (40.0, 3.0)])
def test_windows_are_uniform_over_all_that_show_some_of_it(field):
    """Against all windows of a box, of which those without a calcification are left out."""
    rng, field = np.random.default_rng(2), np.array(field)
    spread = np.array([1.0, 0.7]) * max(field.min(), 0.3)
    at = rng.normal(0, 1, (5, 2)) * spread
    found = np.array([phantom._corner(rng, at, field) for _ in range(1500)])
    low, high = at.min(0) - field, at.max(0)
    every = rng.uniform(low, high, (200_000, 2))
    holds = ((at >= every[:, None]) & (at < every[:, None] + field)).all(2)
    every = every[holds.any(1)][:20_000]
    for axis in range(2):
        assert stats.ks_2samp(found[:, axis], every[:, axis]).pvalue > 1e-3
    held = ((at >= found[:, None]) & (at < found[:, None] + field)).all(2).sum(1)
    assert held.min() >= 1
    assert held.mean() == pytest.approx(holds.sum(1)[holds.any(1)].mean(), rel=0.1)


def test_masks_of_windows_are_flat(drawn):
    """The mean place of labeled pixels, and how many lie in the middle quarter of the area."""
    side, total = 64, np.zeros((64, 64))
    for body, at, spots in drawn:
        if at.lesion:
            grid = phantom._grid(body, at, spots, side, side, 0.2)
            mask = lesions.draw(spots, grid)[1]
            assert mask.any()
            total += mask
            total += mask[:, ::-1]  # breasts are of either side
    rows = total.sum(1) / total.sum() @ np.arange(side)
    assert rows == pytest.approx((side - 1) / 2, abs=3)
    middle = total[16:48, 16:48].sum() / total.sum()
    assert middle == pytest.approx(0.25, abs=0.06)


def test_clusters_lie_in_the_gland_and_windows_without_one_anywhere(drawn):
    depths = {True: [], False: []}
    for body, at, spots in drawn:
        grid = phantom._grid(body, at, spots, 128, 128, 0.1)
        depths[at.lesion].append(anatomy.depth_mm(body, grid.x[64], grid.y[64]))
        with_label = at._replace(lesion=True)
        spots = lesions.cluster(body, with_label)
        other = phantom._grid(body, with_label, spots, 128, 128, 0.1)
        np.testing.assert_array_equal(grid.x, other.x)
        np.testing.assert_array_equal(grid.y, other.y)
    assert np.mean(np.array(depths[True]) < 5) < 0.12 < np.mean(np.array(depths[False]) < 5) < 0.4
    glands = {lesion: [] for lesion in (True, False)}
    for body, at, _ in drawn:
        glands[at.lesion].append(anatomy.gland_at(body, at.x, at.y))
    assert np.median(glands[True]) > np.median(glands[False]) + 0.2


def test_the_smallest_cluster_finds_its_room():
    """One of exactly the least extent was once drawn again without end."""
    for radius in (clusters.EXTENT_MM[0] / 2, 1.0004, 1.002):
        body = anatomy.breast(0, 7319)
        at = clusters.focus(body)._replace(lesion=True, radius_mm=radius, distribution="grouped")
        assert len(clusters.cluster(body, at)) >= clusters.COUNT[0]


def test_every_focus_has_room_for_a_cluster():
    for index in range(400):
        body = anatomy.breast(1, index)
        at = clusters.focus(body)
        deep = anatomy.depth_mm(body, np.array([at.x]), np.array([at.y]))[0]
        assert deep > 2.5 and at.x > 3 and body.top + 3 < at.y < body.bottom - 2
