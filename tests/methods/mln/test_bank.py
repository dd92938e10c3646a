"""The exact pass over the source's training images, against numpy on the same numbers."""

import dataclasses

import flax
import jax
import numpy as np
import pytest
import scipy.signal
import scipy.special

from mln_flax.config import Config, ModelConfig
from mln_flax.engine.build import build
from mln_flax.engine.input_pipeline import from_arrays
from mln_flax.methods.mln import bank, branches, image_rules, jitter
from mln_flax.methods.mln.image_features import POLARITY_NUMBERS, VIEW_NUMBERS, image_features
from mln_flax.metrics.decision import OperatingPoint
from mln_flax.models.swin import space_to_depth
from mln_flax.views import intensity

VIEWS = ("identity", "bezier(0.3)", "invert")


def a_run(branch_map):
    config = Config()
    return build(
        dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, size=16),
            views=dataclasses.replace(config.views, names=VIEWS),
            model=ModelConfig("demo", embed_dim=4, depths=(1,), num_heads=(1,)),
            method=dataclasses.replace(config.method, branch_map=branch_map),
            evaluate=dataclasses.replace(config.evaluate, batch_size=4),
        )
    )


@pytest.fixture(scope="module")
def run():
    return a_run("grouped")  # identity and the curve share a branch


@pytest.fixture(scope="module")
def images():
    """Five images [N, H, W]."""
    rng = np.random.default_rng(0)
    image = rng.random((5, 16, 16)).astype(np.float32) ** rng.uniform(1, 3, (5, 1, 1))
    return image.astype(np.float32)


@pytest.fixture(scope="module")
def params(run):
    image, branch = np.zeros((1, 16, 16, 1), np.float32), np.zeros(1, np.int32)
    drawn = jax.jit(run.model.init)(jax.random.key(0), image, branch)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: p + rng.normal(scale=0.1, size=p.shape).astype(p.dtype), drawn)


@pytest.fixture(scope="module")
def call(run):
    return bank.forward(run)


@pytest.fixture(scope="module")
def trained(run, params, images, call):
    source = from_arrays(images, np.zeros(images.shape, np.uint8))
    variables = {"params": params}  # no norm of this network reads its statistics
    return bank.collect(run, variables, source, call, OperatingPoint(0.7, 3))


def by_branch(images):
    """The images that each branch of the grouped map sees."""
    seen = [intensity.make_view(name).numpy(images) for name in VIEWS]
    return np.concatenate(seen[:2]), seen[2]


def test_forward_gives_probability_and_moments_of_every_row_in_order(run, params, images, call):
    image, branch = images[..., None], np.array([0, 1, 0, 1, 1], np.int32)
    probability, moments = call({"params": params}, image, branch)
    assert probability.shape == (5, 16, 16)
    logits, out = jax.device_get(jax.jit(run.model.apply)({"params": params}, image, branch))
    share = scipy.special.softmax(logits, axis=-1)[..., 1]
    np.testing.assert_allclose(probability, share, rtol=0, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        moments,
        out["moments"],
    )


def test_the_bank_averages_the_images_own_moments(run, params, images, trained, call):
    assert run.branch_of_view == (0, 0, 1)
    for b, seen in enumerate(by_branch(images)):
        _, moments = call({"params": params}, seen[..., None], np.full(len(seen), b, np.int32))
        assert set(trained.bank.mean) == set(trained.bank.spread) == set(moments)
        for layer, own in moments.items():
            for part in range(2):
                values = own[part].astype(np.float64)
                np.testing.assert_allclose(
                    trained.bank.mean[layer][part][b], values.mean(0), rtol=1e-4, atol=1e-6
                )
                np.testing.assert_allclose(
                    trained.bank.spread[layer][part][b], values.std(0), rtol=1e-3, atol=1e-5
                )


def test_statistics_are_exact_over_positions_and_images(params, images, trained):
    """Of the first norm, whose input is known without the network: the embedded patches."""
    proj = jax.device_get(params["patch_embed"]["proj"])
    for b, seen in enumerate(by_branch(images)):
        tokens = space_to_depth(seen[..., None], 4).astype(np.float64) @ proj["kernel"]
        values = (tokens + proj["bias"]).reshape(-1, 4)
        stats = trained.domain_stats["patch_embed"]["norm"]
        np.testing.assert_allclose(stats["mean"][b], values.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(stats["std"][b], values.std(0), rtol=1e-4, atol=1e-6)


def test_statistics_have_the_form_of_the_models_collection(run, params, trained):
    image, branch = np.zeros((1, 16, 16, 1), np.float32), np.zeros(1, np.int32)
    expected = jax.eval_shape(run.model.init, jax.random.key(0), image, branch)["domain_stats"]
    assert jax.tree.map(lambda a: a.shape, trained.domain_stats) == jax.tree.map(
        lambda a: a.shape, expected
    )
    assert trained.params is params


@pytest.mark.parametrize("norm", ["sample", "batch"])
def test_statistics_that_make_the_network_stay_as_they_were(run, images, norm):
    """Of a U-Net: the exact ones of other norms, whose first input is known without the network."""
    model = ModelConfig("unet_demo", "unet", widths=(3,), norm=norm)
    other = build(dataclasses.replace(run.config, model=model))
    image, branch = np.zeros((1, 16, 16, 1), np.float32), np.zeros(1, np.int32)
    drawn = jax.jit(other.model.init)(jax.random.key(0), image, branch)
    variables = {"params": drawn["params"], "domain_stats": drawn["domain_stats"]}
    source = from_arrays(images, np.zeros(images.shape, np.uint8))
    found = bank.collect(other, variables, source, bank.forward(other), OperatingPoint(0.5, 1))
    if norm == "batch":
        assert found.domain_stats is variables["domain_stats"]
        assert found.variables == variables
        return
    kernel = np.asarray(drawn["params"]["down_0"]["conv1"]["kernel"], np.float64)
    for b, seen in enumerate(by_branch(images)):
        for c in range(3):
            values = [scipy.signal.correlate2d(x, kernel[:, :, 0, c], mode="same") for x in seen]
            stats = found.domain_stats["down_0"]["norm1"]
            np.testing.assert_allclose(stats["mean"][b, c], np.mean(values), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(stats["std"][b, c], np.std(values), rtol=1e-4)


def test_the_gaussians_are_those_of_the_views(images, trained):
    seen = [image_features(intensity.make_view(name).numpy(images)).view for name in VIEWS]
    expected = image_rules.fit_gaussian(np.stack(seen))
    jax.tree.map(np.testing.assert_allclose, trained.bank.image.gaussian, expected)
    assert trained.bank.image.gaussian.mean.shape == (3, VIEW_NUMBERS)


def test_polarity_is_learned_from_upright_images_of_this_and_of_other_machines(images, trained):
    rng = np.random.default_rng(0)
    others = [jitter.jittered(image, rng, 0.8) for image in images]
    curved = intensity.make_view("bezier(0.3)").numpy(images)
    upright = image_features(np.concatenate([images, curved, others])).polarity
    expected = image_rules.fit_polarity(upright)
    assert trained.bank.image.polarity.shape == (POLARITY_NUMBERS,)
    np.testing.assert_allclose(trained.bank.image.polarity, expected, rtol=1e-6)
    assert (upright @ expected > 0).mean() > 0.8  # it tells them from their inverses


def test_the_foreground_of_a_branch_is_the_mean_over_its_images(images, trained):
    found = trained.bank.image.foreground
    assert found.shape == (2,) and found.dtype == np.float64
    for b, seen in enumerate(by_branch(images)):
        gray = []
        for image in seen.astype(np.float64):
            low, high = np.quantile(image, [0, 1]) + np.array([0.02, -0.02]) * np.ptp(image)
            dark, bright = image <= low, image >= high
            gray.append(image[~(dark if dark.sum() >= bright.sum() else bright)].mean())
        assert found[b] == pytest.approx(np.mean(gray))


def test_the_tree_holds_nested_arrays_and_gives_all_back(trained):
    early = bank.Early(np.int64(2), *np.random.default_rng(3).random((3, 5)))
    weighted = bank.Weighted(OperatingPoint(0.9, 4), 0.25)
    trained = trained._replace(early={"cosine": early}, weighted=weighted)
    tree = bank.to_tree(trained)
    for path, leaf in flax.traverse_util.flatten_dict(tree).items():
        assert all(isinstance(name, str) and "/" not in name for name in path)
        assert isinstance(leaf, np.ndarray | np.generic | jax.Array)
    again = bank.from_tree(tree)
    assert type(again) is bank.Trained and type(again.bank) is branches.Bank
    assert type(again.bank.image) is image_rules.ImageBank and again.weighted == weighted
    jax.tree.map(np.testing.assert_array_equal, again, trained)
