import numpy as np
import pytest

from mln_flax.data.core import Example, Part
from mln_flax.data.spacing import training_spacing


def part_of(spacings):
    image = np.zeros((2, 2), np.float32)
    examples = tuple(
        Example(image, image.astype(np.uint8), f"{i}", "p", "d", "", "", spacing, "none")
        for i, spacing in enumerate(spacings)
    )
    return Part.of("d", "train", examples)


def test_the_median_of_each_component():
    spacings = [(0.1, 0.3), (0.2, 0.1), (0.4, 0.2)]
    assert training_spacing(part_of(spacings)) == (0.2, 0.2)
    assert training_spacing(part_of([*spacings, None])) == (0.2, 0.2)
    assert training_spacing(part_of([(0.1, 0.2), (0.3, 0.6)])) == pytest.approx((0.2, 0.4))


def test_unknown_where_fewer_than_half_know_it():
    assert training_spacing(part_of([None, None, (0.1, 0.1)])) is None
    assert training_spacing(part_of([None, (0.1, 0.1)])) == (0.1, 0.1)
    assert training_spacing(part_of([None])) is None
    assert training_spacing(part_of([])) is None


def test_few_of_many_are_looked_at_evenly():
    class Counted(list):
        asked = 0

        def __getitem__(self, index):
            self.asked += 1
            return super().__getitem__(index)

    # 600 of one machine, then 400 of another: the median is the first one's.
    part = part_of([(0.1, 0.1)] * 600 + [(0.2, 0.2)] * 400)
    counted = Counted(part.examples)
    assert training_spacing(part._replace(examples=counted)) == (0.1, 0.1)
    assert counted.asked == 64
