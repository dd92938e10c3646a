"""Location and scale: its closed form, and what is refused."""

import re

import numpy as np
import pytest

from mln_flax.types import UserError
from mln_flax.views import make_view


def test_location_scale_is_a_line_that_is_clipped():
    image = np.array([[0, 0.25], [0.5, 1]], np.float32)
    brighter = make_view("location_scale(1.5, -0.25)").numpy(image)
    np.testing.assert_allclose(brighter, [[0, 0.125], [0.5, 1]], atol=1e-7)
    flatter = make_view("location_scale(0.5, 0.25)").numpy(image)
    np.testing.assert_allclose(flatter, [[0.25, 0.375], [0.5, 0.75]], atol=1e-7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("location_scale(0, 0.1)", "location_scale(0, 0.1): the scale must be above 0"),
        ("location_scale(-1, 1)", "location_scale(-1, 1): the scale must be above 0"),
        (
            "location_scale(1, 1e999)",
            "location_scale(1, inf): the scale must be above 0, the shift",
        ),
        ("location_scale(1)", "wrong number or kind of arguments"),
    ],
)
def test_bad_arguments_are_explained(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make_view(text)
