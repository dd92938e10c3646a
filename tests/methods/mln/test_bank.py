"""The exact pass over the source's training images, against numpy on the same numbers."""

import flax
import jax
import numpy as np
import pytest
import scipy.special
from numpy_features import image_features

from mln_flax import config
from mln_flax.data.images import from_arrays
from mln_flax.methods.mln import bank, branches, image_rules, passes
from mln_flax.methods.mln.image_features import POLARITY_NUMBERS, VIEW_NUMBERS
from mln_flax.methods.mln.settings import MlnSettings
from mln_flax.metrics.decision import OperatingPoint
from mln_flax.models import swin_unet
from mln_flax.models.swin import space_to_depth
from mln_flax.views import intensity, jitter

SIDE, CHUNK = 16, 4
NAMES = ("identity", "bezier(0.3)", "invert")
VIEWS = bank.ViewMap(NAMES, (0, 0, 1))  # grouped: identity and the curve share a branch
GROUPED = MlnSettings(branch_map="grouped")


@pytest.fixture(scope="module")
def model():
    sizes = {"patch_size": 4, "embed_dim": 4, "depths": (1,), "num_heads": (1,)}
    return swin_unet.build(config.network("swin_unet", **sizes), VIEWS.num_branches)


@pytest.fixture(scope="module")
def images():
    """Five images [N, H, W]."""
    rng = np.random.default_rng(0)
    image = rng.random((5, 16, 16)).astype(np.float32) ** rng.uniform(1, 3, (5, 1, 1))
    return image.astype(np.float32)


@pytest.fixture(scope="module")
def params(model):
    image, branch = np.zeros((1, SIDE, SIDE, 1), np.float32), np.zeros(1, np.int32)
    drawn = jax.jit(model.init)(jax.random.key(0), image, branch)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: p + rng.normal(scale=0.1, size=p.shape).astype(p.dtype), drawn)


@pytest.fixture(scope="module")
def call(model):
    programs = passes.programs(model, GROUPED, VIEWS, ("similar", "dissimilar"), SIDE, CHUNK)
    return programs.with_moments


@pytest.fixture(scope="module")
def fitted(params, images, call):
    source = from_arrays(images, np.zeros(images.shape, np.uint8))
    variables = {"params": params, "domain_stats": {}}  # no norm of this network reads them
    return bank.collect(VIEWS, variables, source, call, OperatingPoint(0.7, 3), CHUNK)


def by_branch(images):
    """The images that each branch of the grouped map sees."""
    seen = [intensity.make_view(name).numpy(images) for name in NAMES]
    return np.concatenate(seen[:2]), seen[2]


def test_a_pass_gives_probability_and_moments_of_every_row_in_order(model, params, images, call):
    image, branch = images[..., None], np.array([0, 1, 0, 1, 1], np.int32)
    probability, moments = call({"params": params}, image, branch)
    assert probability.shape == (5, 16, 16)
    logits, out = jax.device_get(jax.jit(model.apply)({"params": params}, image, branch))
    share = scipy.special.softmax(logits, axis=-1)[..., 1]
    np.testing.assert_allclose(probability, share, rtol=0, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        moments,
        out["moments"],
    )


def test_a_map_of_views_names_branches_functions_and_inversions(images):
    assert VIEWS.num_branches == 2 and VIEWS.inverted() == [False, False, True]
    shown = [view(images) for view in VIEWS.functions()]
    np.testing.assert_array_equal(np.concatenate(shown[:2]), by_branch(images)[0])
    np.testing.assert_array_equal(shown[2], by_branch(images)[1])


def test_the_bank_averages_the_images_own_moments(params, images, fitted, call):
    for b, seen in enumerate(by_branch(images)):
        _, moments = call({"params": params}, seen[..., None], np.full(len(seen), b, np.int32))
        assert set(fitted.bank.mean) == set(fitted.bank.spread) == set(moments)
        for layer, own in moments.items():
            for part in range(2):
                values = own[part].astype(np.float64)
                np.testing.assert_allclose(
                    fitted.bank.mean[layer][part][b], values.mean(0), rtol=1e-4, atol=1e-6
                )
                np.testing.assert_allclose(
                    fitted.bank.spread[layer][part][b], values.std(0), rtol=1e-3, atol=1e-5
                )


def test_statistics_are_exact_over_positions_and_images(params, images, fitted):
    """Of the first norm, whose input is known without the network: the embedded patches."""
    proj = jax.device_get(params["patch_embed"]["proj"])
    for b, seen in enumerate(by_branch(images)):
        tokens = space_to_depth(seen[..., None], 4).astype(np.float64) @ proj["kernel"]
        values = (tokens + proj["bias"]).reshape(-1, 4)
        stats = fitted.domain_stats["patch_embed"]["norm"]
        np.testing.assert_allclose(stats["mean"][b], values.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(stats["std"][b], values.std(0), rtol=1e-4, atol=1e-6)


def test_statistics_have_the_form_of_the_models_collection(model, params, fitted):
    image, branch = np.zeros((1, SIDE, SIDE, 1), np.float32), np.zeros(1, np.int32)
    expected = jax.eval_shape(model.init, jax.random.key(0), image, branch)["domain_stats"]
    assert jax.tree.map(lambda a: a.shape, fitted.domain_stats) == jax.tree.map(
        lambda a: a.shape, expected
    )
    assert fitted.params is params


def test_the_gaussians_are_those_of_the_views(images, fitted):
    seen = [image_features(intensity.make_view(name).numpy(images)).view for name in NAMES]
    expected = image_rules.fit_gaussian(np.stack(seen))
    for found, exact in zip(fitted.bank.image.gaussian, expected, strict=True):
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-6)
    assert fitted.bank.image.gaussian.mean.shape == (3, VIEW_NUMBERS)


def test_polarity_is_learned_from_upright_images_of_this_and_of_other_machines(images, fitted):
    rng = np.random.default_rng(0)
    others = [jitter.jittered(image, rng, 0.8) for image in images]
    curved = intensity.make_view("bezier(0.3)").numpy(images)
    upright = image_features(np.concatenate([images, curved, others])).polarity
    expected = image_rules.fit_polarity(upright)
    assert fitted.bank.image.polarity.shape == (POLARITY_NUMBERS,)
    np.testing.assert_allclose(fitted.bank.image.polarity, expected, rtol=1e-3)
    assert (upright @ expected > 0).mean() > 0.8  # it tells them from their inverses


def test_the_foreground_of_a_branch_is_the_mean_over_its_images(images, fitted):
    found = fitted.bank.image.foreground
    assert found.shape == (2,) and found.dtype == np.float64
    for b, seen in enumerate(by_branch(images)):
        gray = []
        for image in seen.astype(np.float64):
            low, high = np.quantile(image, [0, 1]) + np.array([0.02, -0.02]) * np.ptp(image)
            dark, bright = image <= low, image >= high
            gray.append(image[~(dark if dark.sum() >= bright.sum() else bright)].mean())
        assert found[b] == pytest.approx(np.mean(gray))


def test_the_tree_holds_nested_arrays_and_gives_all_back(fitted):
    early = bank.Early(np.int64(2), *np.random.default_rng(3).random((3, 5)))
    weighted = bank.Weighted(OperatingPoint(0.9, 4), 0.25)
    fitted = fitted._replace(early={"cosine": early}, weighted=weighted)
    fitted = fitted._replace(mixtures={"mixed by polarity": bank.Weighted(dsc=np.float64(0.5))})
    tree = bank.to_tree(fitted)
    for path, leaf in flax.traverse_util.flatten_dict(tree).items():
        assert all(isinstance(name, str) and "/" not in name for name in path)
        assert isinstance(leaf, np.ndarray | np.generic | jax.Array)
    again = bank.from_tree(tree)
    assert type(again) is bank.Fitted and type(again.bank) is branches.Bank
    assert type(again.bank.image) is image_rules.ImageBank and again.weighted == weighted
    jax.tree.map(np.testing.assert_array_equal, again, fitted)


def test_the_polarity_of_branches():
    names = ("identity", "bezier(0.3)", "invert", "invert+bezier(0.3)")
    sides = {
        (0, 1, 2, 3): (False, False, True, True),
        (0, 0, 1, 1): (False, True),
        (0, 1, 0, 1): (None, None),
        (0, 0, 0, 0): (None,),
    }
    for branch, expected in sides.items():
        assert bank.ViewMap(names, branch).sides() == expected
