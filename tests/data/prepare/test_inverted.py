"""Inverted masks are told from the labels of large lesions, on phantoms."""

import numpy as np
import pytest

from mln_flax.data.phantoms.phantom import DOMAINS, phantom
from mln_flax.data.prepare import inverted, tiles

HEIGHT, WIDTH, SIDE = 192, 160, 64


def whole(domain, index):
    return phantom(1, domain, index, height=HEIGHT, width=WIDTH, spacing_mm=1.2)


def disc(row, column, radius, shape=(SIDE, SIDE)):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(rows - row, columns - column) < radius


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("white", [False, True])
def test_lesions_black_on_white_are_noticed(domain, white):
    for index in range(4):
        example = whole(domain, index)
        image = 1 - example.image if white else example.image
        spots = example.mask | disc(90, 80, 9, image.shape)
        assert inverted.is_inverted(1 - spots, image)
        assert inverted.is_inverted(np.ones_like(spots), image)
        assert not inverted.is_inverted(spots, image)
        assert not inverted.is_inverted(np.zeros_like(spots), image)


def test_a_lesion_at_the_chest_wall_may_break_the_edge():
    found = 0
    for index in range(6):
        image = whole("ffdm", index).image
        breast = tiles.breast_mask(image)
        wall = 0 if breast[:, 0].sum() > breast[:, -1].sum() else WIDTH - 1
        row = int(np.nonzero(breast[:, wall])[0].mean())
        found += inverted.is_inverted(~disc(row, wall, 10, image.shape), image)
    assert found >= 5


def test_the_breast_itself_and_the_air_are_no_inverted_lesions():
    for index in range(4):
        image = whole("ffdm", index).image
        breast = tiles.breast_mask(image)
        assert not inverted.is_inverted(breast, image)
        assert not inverted.is_inverted(~breast, image)


def test_the_label_of_a_lesion_that_fills_most_of_a_crop_stays():
    rng = np.random.default_rng(0)
    shares = []
    for domain in DOMAINS:
        for index in range(4):
            image = whole(domain, index).image
            breast = tiles.breast_mask(image)
            for row, column in rng.permutation(np.argwhere(breast))[:12]:
                top, left = min(row, HEIGHT - SIDE), min(column, WIDTH - SIDE)
                window = (slice(top, top + SIDE), slice(left, left + SIDE))
                lesion = disc(*rng.uniform(0, SIDE, 2), rng.uniform(30, 85)) & breast[window]
                if lesion.all():
                    continue
                shares.append(lesion.mean())
                assert not inverted.is_inverted(lesion, image[window]), shares[-1]
    shares = np.array(shares)
    assert (shares > 0.5).sum() > 50 and (shares > 0.95).sum() > 5


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (2, 2), (8, 3)])
def test_tiny_and_flat_images_do_no_harm(shape):
    ramp = np.linspace(0, 1, shape[0] * shape[1], dtype=np.float32).reshape(shape)
    for image in (ramp, np.zeros(shape, np.float32)):
        assert inverted.is_inverted(np.ones(shape), image) in (True, False)
        assert not inverted.is_inverted(np.zeros(shape), image)
