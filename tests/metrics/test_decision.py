import numpy as np

from mln_flax.metrics import decision, pixel
from mln_flax.metrics.decision import OperatingPoint, decide


def choose(probability, mask):
    """The best point of the grid for several images."""
    pairs = zip(probability, np.asarray(mask, bool), strict=True)
    return decision.best(np.array([decision.dsc_on_grid(p, m) for p, m in pairs]))


def test_an_object_counts_from_its_size_on_and_corners_join_it():
    probability = np.zeros((6, 8))
    probability[0, 0] = probability[1, 1] = 0.8  # two pixels, corner to corner
    probability[3, 3:6] = 0.6  # three in a row
    everything = probability > 0.5
    np.testing.assert_array_equal(decide(probability, OperatingPoint()), everything)
    np.testing.assert_array_equal(decide(probability, OperatingPoint(0.5, 2)), everything)
    three = np.zeros_like(everything)
    three[3, 3:6] = True
    np.testing.assert_array_equal(decide(probability, OperatingPoint(0.5, 3)), three)
    np.testing.assert_array_equal(decide(probability, OperatingPoint(0.7, 2)), everything & ~three)
    assert not decide(probability, OperatingPoint(0.5, 4)).any()


def test_an_operating_point_survives_the_checkpoint_as_arrays():
    probability = np.random.default_rng(0).random((16, 16))
    stored = OperatingPoint(*(np.asarray(value, np.float64) for value in (0.8, 2)))
    np.testing.assert_array_equal(
        decide(probability, stored), decide(probability, OperatingPoint(0.8, 2))
    )


def test_the_chosen_point_is_the_best_of_the_grid_by_brute_force():
    rng = np.random.default_rng(1)
    mask = np.zeros((5, 24, 24), bool)
    mask[:4, 5:8, 5:9] = True  # the last image has no lesion
    probability = np.clip(0.55 * mask + rng.random(mask.shape) ** 4, 0, 1)
    grid = [OperatingPoint(t, s) for t in decision.THRESHOLDS for s in decision.SIZES]

    def dsc(point):
        return [
            pixel.pixel_scores(decide(p, point), m)[2]
            for p, m in zip(probability, mask, strict=True)
        ]

    scores = np.array([dsc(point) for point in grid])
    point, best = choose(probability, mask)
    assert point == grid[scores.mean(axis=1).argmax()]
    np.testing.assert_allclose(best, scores[scores.mean(axis=1).argmax()])
    assert point.min_pixels > 1  # the noise is worth taking out


def test_without_lesions_and_marks_all_points_tie_and_the_first_wins():
    point, dsc = choose(np.zeros((3, 8, 8)), np.zeros((3, 8, 8), np.uint8))
    assert point == OperatingPoint(decision.THRESHOLDS[0], decision.SIZES[0])
    np.testing.assert_array_equal(dsc, 1)
