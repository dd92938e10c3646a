"""Views: the curve against a root solver, numpy against TensorFlow, names, strategies, branches."""

import re
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
from scipy import optimize

from mln_flax.config import ViewsConfig
from mln_flax.types import UserError
from mln_flax.views import intensity

CURVES = (0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0)
NAMES = (
    "identity",
    "bezier(0.3)",
    "bezier(0.7)",
    "bezier(0.0)",
    "bezier(1.0)",
    "invert",
    "invert(0.75)",
    "invert(None, True)",
    "invert(1.0, True)",
    "bezier(0.3)+invert",
    "invert+bezier(0.7)+invert",
)


def grays() -> np.ndarray:
    """Every 8-bit gray, a fine ramp, and values close to both ends."""
    tiny = np.geomspace(1e-7, 1e-2, 50)
    parts = [np.arange(256) / 255, np.linspace(0, 1, 5001), tiny, 1 - tiny]
    return np.unique(np.concatenate(parts).astype(np.float32))


def images() -> np.ndarray:
    """Three images of unequal maximum, the last all black."""
    image = np.random.default_rng(0).random((3, 12, 16), np.float32)
    image[:, :4] = 0
    return image * np.array([1, 0.6, 0], np.float32)[:, None, None]


def solved(a: float, x: float) -> float:
    """The curve at x through a root solver, in the form centered on its point of symmetry."""

    def centered(s, a):
        return 0.5 + 1.5 * (1 - a) * s + (6 * a - 2) * s**3

    if x in (0, 1):
        return x
    s = optimize.brentq(lambda s: centered(s, a) - x, -0.5, 0.5, xtol=1e-15)
    return centered(s, 1 - a)


@pytest.mark.parametrize("a", CURVES)
def test_curve_agrees_with_a_root_solver(a):
    x = np.concatenate([[0, 1e-6, 0.5, 1 - 1e-6, 1], np.random.default_rng(1).random(200)])
    np.testing.assert_allclose(
        intensity.bezier_numpy(a)(x), [solved(a, value) for value in x], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("a", [*CURVES, 0.06, 0.93])
def test_float32_takes_equal_steps_where_they_agree_with_a_root_solver(a):
    x = np.concatenate([grays()[::97], np.float32([0, 1]), np.linspace(0, 1, 257, dtype="f4")])
    np.testing.assert_allclose(
        intensity.bezier_numpy(a)(x), [solved(a, float(value)) for value in x], atol=1e-6, rtol=0
    )
    table = intensity.even_table(a)
    assert (table is None) == (not 0.06 <= a <= 0.9)
    if table is not None:
        start, rise = table
        assert start.dtype == rise.dtype == np.float32
        assert (start[0], start[-1], rise[-1]) == (0, 1, 0) and (rise[:-1] > 0).all()


@pytest.mark.parametrize("a", CURVES)
def test_curve_is_strictly_monotone_from_corner_to_corner(a):
    x, y = intensity.bezier_curve(a)
    assert x.dtype == y.dtype == np.float64 and x.shape == y.shape == (intensity.SAMPLES,)
    assert (x[0], y[0]) == (0, 0) and (x[-1], y[-1]) == (1, 1)
    assert (np.diff(x) > 0).all() and (np.diff(y) > 0).all()
    assert (np.diff(intensity.bezier_numpy(a)(grays())) >= 0).all()


def test_number_of_samples_is_an_argument():
    coarse, fine = intensity.bezier_curve(0.3, 65), intensity.bezier_curve(0.3)
    np.testing.assert_allclose(np.interp(fine[0], *coarse), fine[1], atol=1e-3)


@pytest.mark.parametrize("a", CURVES)
def test_curve_of_one_minus_a_is_the_inverse(a):
    forth, back = intensity.bezier_numpy(a), intensity.bezier_numpy(1 - a)
    exact = grays().astype(np.float64)
    np.testing.assert_allclose(back(forth(exact)), exact, atol=1e-8, rtol=0)
    if 0.1 <= a <= 0.9:  # beyond, float32 itself cannot hold the flat part of the curve
        np.testing.assert_allclose(back(forth(grays())), grays(), atol=1e-6, rtol=0)


def test_curve_of_one_half_is_the_identity():
    mapped = intensity.bezier_numpy(0.5)(grays())
    assert mapped.dtype == np.float32
    np.testing.assert_array_equal(mapped, grays())


def test_smaller_a_brightens_the_dark_half():
    assert 0.2 < intensity.bezier_numpy(0.3)(0.2) < intensity.bezier_numpy(0.1)(0.2)
    assert 0.8 > intensity.bezier_numpy(0.3)(0.8) > intensity.bezier_numpy(0.1)(0.8)


@pytest.mark.parametrize("a", [-0.1, 1.1, float("nan")])
def test_a_outside_the_unit_interval_is_refused(a):
    for make in (
        intensity.bezier_curve,
        intensity.bezier_numpy,
        intensity.bezier_tf,
        intensity.bezier,
    ):
        with pytest.raises(UserError, match=re.escape(f"bezier({a}): a must lie in [0, 1]")):
            make(a)


@pytest.mark.parametrize("a", CURVES)
def test_tensorflow_curve_equals_numpy_for_any_shape(a):
    import tensorflow as tf

    forth, forth_tf = intensity.bezier_numpy(a), intensity.bezier_tf(a)
    outside = np.array([-1, -0.0, 1.5, np.inf], np.float32)
    for values in (grays(), outside, images(), np.float32(0.4), np.zeros((0, 3), np.float32)):
        mapped = forth_tf(tf.constant(values))
        assert mapped.dtype == tf.float32 and mapped.shape == values.shape
        np.testing.assert_allclose(mapped.numpy(), forth(values), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_view_is_the_same_in_numpy_eagerly_and_in_tf_data(name):
    import tensorflow as tf

    view, stack = intensity.make_view(name), images()
    assert view.name == name
    expected = view.numpy(stack)
    assert expected.dtype == np.float32 and expected.shape == stack.shape
    assert expected.min() >= 0 and expected.max() <= 1
    np.testing.assert_allclose(view.tf(tf.constant(stack)).numpy(), expected, atol=1e-6, rtol=0)
    dataset = tf.data.Dataset.from_tensor_slices(stack).map(view.tf)
    assert dataset.element_spec == tf.TensorSpec(stack.shape[1:], tf.float32)
    mapped = np.stack(list(dataset.as_numpy_iterator()))
    np.testing.assert_allclose(mapped, expected, atol=1e-6, rtol=0)
    one_by_one = np.stack([view.numpy(image) for image in stack])
    np.testing.assert_array_equal(one_by_one, expected)


@pytest.mark.parametrize("name", (*NAMES, "bezier(0.02)", "bezier(0.95)+invert"))
@pytest.mark.parametrize("compiled", [False, True])
def test_view_is_the_same_in_jax(name, compiled):
    """On images, and on grays where a curve is steepest: close to its ends and its middle."""
    view = intensity.make_view(name)
    near = np.geomspace(1e-7, 0.4, 300)
    middle = np.concatenate([0.5 - near, 0.5 + near]).astype(np.float32)
    steepest = np.concatenate([grays(), middle])[None]
    in_jax = jax.jit(view.jax) if compiled else view.jax
    for stack in (images(), steepest):
        mapped, expected = np.asarray(in_jax(stack)), view.numpy(stack)
        assert (mapped.dtype, mapped.shape) == (np.float32, stack.shape)
        np.testing.assert_allclose(mapped, expected, atol=1e-6, rtol=0)


def test_view_accepts_sizes_known_only_when_it_runs():
    import tensorflow as tf

    for name in NAMES:
        view = intensity.make_view(name)
        signature = tf.TensorSpec([None, None], tf.float32)
        traced = tf.function(view.tf, input_signature=[signature])
        np.testing.assert_allclose(
            traced(tf.constant(images()[1])).numpy(), view.numpy(images()[1]), atol=1e-6, rtol=0
        )


def test_inversion_subtracts_from_the_images_own_maximum_or_a_fixed_one():
    image = np.array([[0, 0.25], [0.5, 0.75]], np.float32)
    own = intensity.make_view("invert").numpy(image)
    np.testing.assert_array_equal(own, np.float32([[0.75, 0.5], [0.25, 0]]))
    fixed = intensity.make_view("invert(1)").numpy(image)
    np.testing.assert_array_equal(fixed, np.float32([[1, 0.75], [0.5, 0.25]]))
    clipped = intensity.make_view("invert(0.5)").numpy(image)
    np.testing.assert_array_equal(clipped, np.float32([[0.5, 0.25], [0, 0]]))


def test_inversion_can_leave_the_background_dark():
    image = np.array([[0, 0.01], [0.25, 0.75]], np.float32)
    np.testing.assert_array_equal(
        intensity.make_view("invert(None, True)").numpy(image), np.float32([[0, 0.01], [0.5, 0]])
    )


@pytest.mark.parametrize("text", ["invert(0)", "invert(1.5)", "invert(-1)"])
def test_fixed_maximum_must_fit(text):
    with pytest.raises(UserError, match=r"the fixed maximum must lie in \(0, 1\]"):
        intensity.make_view(text)


def test_joined_names_apply_from_left_to_right():
    image = images()[0]
    curve, inversion = intensity.make_view("bezier(0.3)"), intensity.make_view("invert")
    np.testing.assert_array_equal(
        intensity.make_view("bezier(0.3)+invert").numpy(image), inversion.numpy(curve.numpy(image))
    )
    np.testing.assert_array_equal(
        intensity.make_view("invert+bezier(0.3)").numpy(image), curve.numpy(inversion.numpy(image))
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (" bezier( 0.30 ) + invert() ", "bezier(0.3)+invert"),
        ("bezier(3e-1)", "bezier(0.3)"),
        ("bezier(1e+0)", "bezier(1.0)"),
        ("bezier(1)", "bezier(1.0)"),
        ("invert(None, False)", "invert"),
        ("invert(1)", "invert(1.0)"),
        ("identity+invert+identity", "invert"),
        ("identity+identity", "identity"),
    ],
)
def test_names_are_canonical_and_read_back(text, name):
    assert intensity.make_view(text).name == name
    assert intensity.make_view(name).name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bezzier(0.3)", "unknown view 'bezzier' (did you mean 'bezier'?)"),
        ("bezier(0.3)+inverse", "unknown view 'inverse' (did you mean 'invert'?)"),
        ("bezier", "view 'bezier': wrong number or kind of arguments"),
        ("bezier('0.3')", "wrong number or kind of arguments"),
        ("bezier(0.3", "arguments must be literals"),
        ("bezier(2)", "bezier(2): a must lie in [0, 1]"),
        ("invert(None, 1)", "keep_background must be True or False, not 1"),
        ("invert+", "view 'invert+': a name is missing; known: identity"),
        ("", "a name is missing"),
    ],
)
def test_bad_names_are_explained(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        intensity.make_view(text)


def test_listed_names_are_taken_in_order():
    assert intensity.view_names(ViewsConfig(), seed=0) == ViewsConfig().names
    listed = ViewsConfig(names=("invert", "bezier(0.30)"))
    assert intensity.view_names(listed, seed=0) == ("invert", "bezier(0.3)")


def test_mean_strategy_spaces_the_curves_and_warns_of_the_last():
    config = ViewsConfig(strategy="mean", pairs=2)
    with pytest.warns(UserWarning, match=r"bezier\(0.5\), repeats the original"):
        names = intensity.view_names(config, seed=0)
    assert names == ("identity", "bezier(0.25)", "bezier(0.5)", "invert")
    with pytest.warns(UserWarning):
        names = intensity.view_names(ViewsConfig(strategy="mean", pairs=3, invert_all=True), seed=0)
    curves = ("bezier(0.1667)", "bezier(0.3333)", "bezier(0.5)")
    assert names == ("identity", *curves, "invert", *(f"{curve}+invert" for curve in curves))


def test_random_strategy_depends_on_the_seed_alone():
    config = ViewsConfig(strategy="random", pairs=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = intensity.view_names(config, seed=4)
    assert first == intensity.view_names(config, seed=4) != intensity.view_names(config, seed=5)
    assert first[0] == "identity" and first[-1] == "invert" and len(first) == 5
    assert intensity.view_names(ViewsConfig(strategy="random", pairs=1), seed=0)[2:] == ("invert",)


def test_random_curves_fill_the_lower_half_without_repetition():
    names = intensity.view_names(ViewsConfig(strategy="random", pairs=400), seed=0)[1:-1]
    drawn = np.array([float(name[len("bezier(") : -1]) for name in names])
    assert len(set(names)) == 400 and all(len(name) <= len("bezier(0.1234)") for name in names)
    assert drawn.min() >= 0 and drawn.max() < 0.5 and abs(drawn.mean() - 0.25) < 0.03


def test_every_drawn_name_makes_its_view():
    config = ViewsConfig(strategy="random", pairs=4, invert_all=True)
    names = intensity.view_names(config, seed=1)
    assert tuple(intensity.make_view(name).name for name in names) == names
    assert len(names) == len(set(names)) == 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ("invert", "identity", "invert")}, "views.names: 'invert' is listed twice"),
        ({"names": ("bezier(0.3)", "bezier(.30)")}, "(first as 'bezier(0.3)')"),
        ({"names": ()}, "views.names: empty"),
        ({"names": ("identiti",)}, "(did you mean 'identity'?)"),
        ({"strategy": "randon"}, "unknown views.strategy 'randon' (did you mean 'random'?)"),
        ({"strategy": "mean", "pairs": 0}, "views.pairs=0: allowed are 1 to 5000"),
        ({"strategy": "random", "pairs": 5001}, "views.pairs=5001"),
    ],
)
def test_bad_settings_are_explained(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        intensity.view_names(ViewsConfig(**settings), seed=0)


def test_branch_maps():
    names = ("invert", "identity", "bezier(0.3)", "bezier(0.3)+invert", "invert(None, True)")
    assert intensity.branch_map(names, "per_view") == ((0, 1, 2, 3, 4), names)
    assert intensity.branch_map(names, "grouped") == ((1, 0, 0, 1, 1), ("similar", "dissimilar"))
    assert intensity.branch_map(names, "shared") == ((0, 0, 0, 0, 0), ("shared",))


@pytest.mark.parametrize(
    ("name", "inverted"),
    [
        ("identity", False),
        ("bezier(0.3)", False),
        ("invert", True),
        ("invert(None, True)", True),
        ("bezier(0.3)+invert", True),
        ("bezier(0.3) + invert(1.0)", True),
    ],
)
def test_which_views_turn_dark_and_bright_around(name, inverted):
    assert intensity.is_inverted(name) == inverted
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    slope = np.sign(np.diff(intensity.make_view(name).numpy(ramp).ravel())).sum()
    assert (slope < 0) == inverted


def test_a_group_without_views_has_no_branch():
    assert intensity.branch_map(("identity", "bezier(0.3)"), "grouped") == ((0, 0), ("similar",))
    assert intensity.branch_map(("invert",), "grouped") == ((0,), ("dissimilar",))


def test_unknown_branch_map_is_explained():
    with pytest.raises(UserError, match=r"method.branch_map 'group' \(did you mean 'grouped'\?\)"):
        intensity.branch_map(("identity",), "group")


def test_numpy_views_and_geometry_need_neither_tensorflow_nor_jax():
    code = """
import sys
sys.modules["tensorflow"] = sys.modules["jax"] = None
import numpy as np
from mln_flax.views import geometry
from mln_flax.views import intensity as views
image, rng = np.ones((8, 8), np.float32), np.random.default_rng(0)
views.make_view("bezier(0.3)+invert").numpy(image)
views.bezier_tf(0.3)
geometry.augment_numpy(image, image.astype(np.uint8), rng)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
