"""PyTorch checkpoints: the fixture's logits, every name accounted for, every misfit refused."""

import ast
import io
import pathlib
import zipfile

import flax
import jax
import numpy as np
import pytest

from mln_flax.models import convert
from mln_flax.models.swin import space_to_depth
from mln_flax.models.swin_unet import SwinUnet
from mln_flax.types import UserError

FIXTURE = pathlib.Path(__file__).parents[3] / "shared/fixtures/swin_unet_torch.npz"
needs_fixture = pytest.mark.skipif(not FIXTURE.exists(), reason="shared fixtures are absent")
TINY = SwinUnet(
    num_branches=2, patch_size=2, embed_dim=4, depths=(1,), num_heads=(2,), window_size=2
)
SHAPE = (4, 4, 1)


@pytest.fixture(scope="module")
def stored():
    with np.load(FIXTURE, allow_pickle=False) as file:
        return {name: file[name] for name in ("image", "logits", "config")}


@needs_fixture
@pytest.mark.parametrize("num_branches", [1, 4])
def test_logits_of_the_pytorch_network_in_every_branch(stored, num_branches):
    """Its last stage is smaller than the window: the stored bias table has 9 rows, ours 49."""
    config = ast.literal_eval(str(stored["config"]))
    sizes = {name: config[name] for name in config if name not in ("img_size", "in_chans")}
    model = SwinUnet(num_branches=num_branches, **sizes)
    image = stored["image"].transpose(0, 2, 3, 1)
    weights = convert.read_state_dict(str(FIXTURE))
    params, report = convert.swin_unet_params(weights, model, image.shape)
    assert report.unused == report.missing == ()
    assert set(report.converted) == set(weights)
    assert weights["layers.3.blocks.0.attn.relative_position_bias_table"].shape[0] == 9
    rows = np.tile(image, (num_branches, 1, 1, 1))
    branch = np.repeat(np.arange(num_branches, dtype=np.int32), len(image))
    fast = {"xla_backend_optimization_level": 0}  # to compile
    logits, _ = jax.jit(model.apply, compiler_options=fast)({"params": params}, rows, branch)
    expected = np.tile(stored["logits"].transpose(0, 2, 3, 1), (num_branches, 1, 1, 1))
    assert np.abs(np.asarray(logits) - expected).max() < 1e-4


def test_a_kernel_of_three_inputs_gives_its_tokens_of_the_image_three_times():
    rng = np.random.default_rng(0)
    kernel, image = rng.normal(size=(4, 3, 2, 2)), rng.random((4, 4))
    weights = {"patch_embed.proj.weight": kernel, "norm.weight": np.ones(4)}
    params, report = convert.swin_unet_params(weights, TINY, SHAPE)
    patches = space_to_depth(image[None, :, :, None], 2)[0]
    tokens = patches @ np.asarray(params["patch_embed"]["proj"]["kernel"])
    for row, column in np.ndindex(2, 2):
        thrice = np.stack([image[2 * row :, 2 * column :][:2, :2]] * 3)
        expected = np.einsum("oiyx,iyx->o", kernel, thrice)
        np.testing.assert_allclose(tokens[row, column], expected, rtol=1e-5, atol=1e-6)
    assert report.summed == ("patch_embed.proj.weight",)
    line = "summed over three equal input channels: patch_embed.proj.weight"
    assert convert.describe(report).splitlines()[1] == line


def test_a_kernel_of_three_inputs_stays_whole_where_images_have_three():
    kernel = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)
    params, report = convert.swin_unet_params({"patch_embed.proj.weight": kernel}, TINY, (4, 4, 3))
    ours = np.asarray(params["patch_embed"]["proj"]["kernel"]).reshape(2, 2, 3, 4)
    np.testing.assert_array_equal(ours, kernel.transpose(2, 3, 1, 0))
    assert report.summed == ()


@needs_fixture
def test_the_fixture_with_its_first_kernel_in_three_shares_has_the_same_parameters(stored):
    config = ast.literal_eval(str(stored["config"]))
    sizes = {name: config[name] for name in config if name not in ("img_size", "in_chans")}
    weights = convert.read_state_dict(str(FIXTURE))
    name = "patch_embed.proj.weight"
    shares = np.array([0.5, -0.75, 1.25], np.float32).reshape(1, 3, 1, 1)
    (one, whole), (three, shared) = (
        convert.swin_unet_params(state, SwinUnet(**sizes), (64, 64, 1))
        for state in (weights, weights | {name: weights[name] * shares})
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), three, one)
    assert shared == whole._replace(summed=(name,))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("patch_embed.proj.weight", "patch_embed/proj/kernel"),
        ("patch_embed.norm.bias", "patch_embed/norm/bias"),
        ("layers.0.blocks.1.attn.qkv.weight", "layers_0_blocks_1/attn/qkv/kernel"),
        ("layers.0.blocks.1.attn.qkv.bias", "layers_0_blocks_1/attn/qkv/bias"),
        (
            "layers.3.blocks.0.attn.relative_position_bias_table",
            "layers_3_blocks_0/attn/relative_position_bias_table",
        ),
        ("layers.2.blocks.17.norm2.weight", "layers_2_blocks_17/norm2/scale"),
        ("layers.1.downsample.reduction.weight", "layers_1_downsample/reduction/kernel"),
        ("layers_up.0.expand.weight", "layers_up_0/expand/kernel"),
        ("layers_up.0.norm.weight", "layers_up_0/norm/scale"),
        ("layers_up.1.upsample.norm.weight", "layers_up_1_upsample/norm/scale"),
        ("layers_up.2.blocks.0.mlp.fc1.weight", "layers_up_2_blocks_0/mlp/fc1/kernel"),
        ("concat_back_dim.1.weight", "concat_back_dim_1/kernel"),
        ("norm.weight", "norm/scale"),
        ("norm_up.bias", "norm_up/bias"),
        ("up.expand.weight", "up/expand/kernel"),
        ("output.weight", "up/output/kernel"),
        ("swin_unet.output.weight", "up/output/kernel"),
        ("module.norm.weight", "norm/scale"),
        ("module.swin_unet.norm.weight", "norm/scale"),
        ("epoch", None),
    ],
)
def test_our_path(theirs, ours):
    assert convert.our_path(theirs) == ours


def test_every_name_is_reported_and_what_is_missing_keeps_its_initial_value():
    rng = np.random.default_rng(0)
    weights = {
        "patch_embed.proj.weight": rng.normal(size=(4, 1, 2, 2)),
        "patch_embed.norm.weight": rng.normal(size=4),
        "layers.0.blocks.0.attn.qkv.weight": rng.normal(size=(12, 4)),
        "output.weight": rng.normal(size=(2, 4, 1, 1)),
        "head.weight": rng.normal(size=(3, 4)),
        "layers.0.blocks.5.norm1.weight": rng.normal(size=4),
        "epoch": np.array(3),
        "layers.0.blocks.0.attn.relative_position_index": np.zeros((4, 4)),
        "layers.0.blocks.0.attn_mask": np.zeros((4, 4)),
    }
    key = jax.random.PRNGKey(5)
    params, report = convert.swin_unet_params(weights, TINY, SHAPE, key)
    assert report.unused == ("head.weight", "layers.0.blocks.5.norm1.weight", "epoch")
    assert report.converted == {
        "patch_embed.proj.weight": "patch_embed/proj/kernel",
        "patch_embed.norm.weight": "patch_embed/norm/scale",
        "layers.0.blocks.0.attn.qkv.weight": "layers_0_blocks_0/attn/qkv/kernel",
        "output.weight": "up/output/kernel",
    }
    blank = np.zeros((1, *SHAPE), np.float32), np.zeros(1, np.int32)
    start = jax.jit(TINY.init)(key, *blank)["params"]
    start, flat = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (start, params))
    assert list(flat) == list(start)
    assert set(report.missing) == set(start) - set(report.converted.values())
    for path in report.missing:
        np.testing.assert_array_equal(flat[path], start[path])
    proj = weights["patch_embed.proj.weight"]
    for c in range(4):  # a patch's pixels row by row
        np.testing.assert_allclose(flat["patch_embed/proj/kernel"][:, c], proj[c, 0].ravel())
    scale = weights["patch_embed.norm.weight"]
    np.testing.assert_allclose(flat["patch_embed/norm/scale"], [scale, scale], rtol=1e-6)
    qkv = weights["layers.0.blocks.0.attn.qkv.weight"]
    np.testing.assert_allclose(flat["layers_0_blocks_0/attn/qkv/kernel"], qkv.T, rtol=1e-6)
    lines = convert.describe(report).splitlines()
    assert lines[0] == "checkpoint: 4 arrays converted"
    assert lines[1] == "not used: head.weight, layers.0.blocks.5.norm1.weight, epoch"
    assert lines[2].startswith("still at their initial values: layers_0_blocks_0/attn/proj/bias, ")


def test_a_complete_report_is_one_line():
    assert convert.describe(convert.Report({"a": "b"}, (), ())) == "checkpoint: 1 arrays converted"


@pytest.mark.parametrize(
    ("name", "shape", "path", "ours"),
    [
        ("patch_embed.proj.weight", (4, 2, 2, 2), "patch_embed/proj/kernel", (4, 4)),
        ("patch_embed.proj.weight", (4, 3, 4, 4), "patch_embed/proj/kernel", (4, 4)),
        ("patch_embed.proj.weight", (4, 4, 1, 1), "patch_embed/proj/kernel", (4, 4)),
        ("patch_embed.proj.weight", (6, 3, 2, 2), "patch_embed/proj/kernel", (4, 4)),
        ("norm.weight", (8,), "norm/scale", (2, 4)),
        (
            "layers.0.blocks.0.attn.relative_position_bias_table",
            (25, 2),
            "layers_0_blocks_0/attn/relative_position_bias_table",
            (9, 2),
        ),
        (
            "layers.0.blocks.0.attn.relative_position_bias_table",
            (8, 2),
            "layers_0_blocks_0/attn/relative_position_bias_table",
            (9, 2),
        ),
    ],
)
def test_a_wrong_shape_names_both(name, shape, path, ours):
    with pytest.raises(UserError) as error:
        convert.swin_unet_params({name: np.zeros(shape)}, TINY, SHAPE)
    assert str(error.value) == (
        f"checkpoint: {name} of shape {shape} does not fit {path} of shape {ours}"
    )


def test_middle_of_table():
    small = np.arange(9 * 2).reshape(9, 2)
    large = convert.middle_of_table(small, (49, 2)).reshape(7, 7, 2)
    np.testing.assert_array_equal(large[2:5, 2:5].reshape(9, 2), small)
    outside = np.ones((7, 7), bool)
    outside[2:5, 2:5] = False
    np.testing.assert_array_equal(large[outside], 0)
    assert convert.middle_of_table(small, (9, 2)) is small
    assert convert.middle_of_table(small, (1, 2)) is small


def test_read_state_dict_with_and_without_marks(tmp_path):
    path = str(tmp_path / "weights.npz")
    np.savez(path, **{"norm.weight": np.ones(3)})
    np.testing.assert_array_equal(convert.read_state_dict(path)["norm.weight"], np.ones(3))
    np.savez(path, **{"param:norm.weight": np.ones(3), "image": np.zeros(2)})
    assert list(convert.read_state_dict(path)) == ["norm.weight"]


def zipped(**members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return out.getvalue()


def saved(save, value, **more):
    out = io.BytesIO()
    save(out, value, **more)
    return out.getvalue()


BROKEN = {
    "empty": b"",
    "text": b"no arrays in here\n",
    "zip_cut_off": saved(np.savez, np.ones(100))[:200],
    "zip_of_other_things": zipped(data=b"\x80\x02}q."),
    "one_array": saved(np.save, np.ones(3)),
    "objects": saved(np.savez, np.array([{}], object)),
}


@pytest.mark.parametrize("kind", list(BROKEN))
def test_a_broken_file_is_refused_in_one_line(tmp_path, kind):
    path = tmp_path / "weights.npz"
    path.write_bytes(BROKEN[kind])
    with pytest.raises(UserError, match=r"^--config.model.pretrained=.*cannot be read .*\.npz"):
        convert.read_state_dict(str(path))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="pretrained=.*none.npz: cannot be read"):
        convert.read_state_dict(str(tmp_path / "none.npz"))
    with pytest.raises(UserError, match="cannot be read"):
        convert.read_state_dict(str(tmp_path))
