"""Source validation, against every operating point tried on every image."""

import numpy as np
import pytest

from mln_flax.data.images import from_arrays
from mln_flax.methods import validation
from mln_flax.methods.core import SCORE
from mln_flax.metrics import decision, pixel
from mln_flax.views import intensity

NAMES = ("identity", "bezier(0.3)", "invert")


def test_all_views_of_all_images_count_alike_at_the_point_that_suits_them_best():
    rng = np.random.default_rng(0)
    mask = np.zeros((5, 12, 12), np.uint8)
    mask[:4, 3:6, 4:7] = 1  # the last image has no lesion
    image = np.clip(0.5 * mask + rng.random(mask.shape) ** 3, 0, 1).astype(np.float32)
    asked = []

    def probability(seen, number):
        """Good for upright images, better for those of the first view."""
        asked.append((number, len(seen)))
        return np.clip(seen - 0.05 * number, 0, 1)

    scores, point = validation.of_views(probability, NAMES, from_arrays(image, mask), chunk=2)
    assert asked == [(number, count) for number in range(3) for count in (2, 2, 1)]
    shown = [intensity.make_view(name).numpy(image) for name in NAMES]
    dsc = np.array(
        [
            [
                [pixel.pixel_scores(decision.decide(p, at), m)[2] for at in decision.GRID]
                for p, m in zip(probability(seen, number), mask, strict=True)
            ]
            for number, seen in enumerate(shown)
        ]
    )  # [views, images, points]
    best = int(dsc.mean(axis=(0, 1)).argmax())
    assert point == decision.GRID[best] and point != decision.GRID[0]
    assert scores[SCORE] == pytest.approx(dsc[..., best].mean())
    per_view = dict(zip(NAMES, dsc[..., best].mean(axis=1).tolist(), strict=True))
    assert scores["validation_dsc_per_view"] == pytest.approx(per_view)
    assert len(set(per_view.values())) == 3
    assert (scores["threshold"], scores["min_pixels"]) == tuple(point)
