import numpy as np
import pytest
from scipy import ndimage

from mln_flax.metrics import ladder

THRESHOLDS = (0.1, 0.3, 0.7, 0.9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("min_pixels", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_every_step_is_the_image_labeled_anew(seed, min_pixels, dtype):
    rng = np.random.default_rng(seed)
    # Values on the thresholds themselves are not above them; objects reach all the image's edges.
    values = np.array([0, 0, 0.05, *THRESHOLDS, 0.5, 1], dtype)
    probability = values[rng.integers(0, len(values), (23, 17))]
    levels = []
    for step in ladder.steps(probability, THRESHOLDS, min_pixels):
        levels.append(step.level)
        labels, _ = ndimage.label(probability > THRESHOLDS[step.level], np.ones((3, 3)))
        sizes = np.bincount(labels.ravel())
        numbers = [i for i in range(1, len(sizes)) if sizes[i] >= min_pixels]
        centers = ndimage.center_of_mass(labels > 0, labels, numbers)
        order = sorted(range(len(numbers)), key=lambda i: centers[i])
        expected = np.full(labels.shape, -1)
        for new, i in enumerate(order):
            expected[labels == numbers[i]] = new
        found = np.full(labels.size, -1)
        found[step.pixels] = step.numbers
        np.testing.assert_array_equal(found.reshape(labels.shape), expected)
        np.testing.assert_allclose(step.centers, np.array([centers[i] for i in order]))
        boxes = ndimage.find_objects(labels)
        for box, i in zip(step.boxes, order, strict=True):
            rows, columns = boxes[numbers[i] - 1]
            assert box.tolist() == [rows.start, columns.start, rows.stop, columns.stop]
        assert set(step.pixels) == set(np.flatnonzero(labels))
    assert levels == [3, 2, 1, 0]


def test_an_empty_map_has_empty_steps():
    steps = list(ladder.steps(np.zeros((3, 4)), THRESHOLDS))
    assert [len(step.centers) for step in steps] == [0] * 4
