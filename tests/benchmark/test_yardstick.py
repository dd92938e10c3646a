"""The PyTorch program: what cannot be used is said; what can does the same work as ours."""

import functools
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mln_flax import config as configs
from mln_flax.benchmark import counterparts, yardstick
from mln_flax.benchmark.timing import Spread
from mln_flax.engine.build import build
from mln_flax.methods import losses
from mln_flax.models import attention
from mln_flax.models.swin_unet import SwinUnet
from mln_flax.types import UserError

FILE = """
import torch
class SwinUnet(torch.nn.Module):
    made = []
    def __init__(self, **sizes):
        super().__init__()
        SwinUnet.made.append(sizes)
        self.rows = []
        self.head = torch.nn.Conv2d(sizes["in_chans"], sizes["num_classes"], 1)
        self.unused = torch.nn.Parameter(torch.zeros(MISSING))  # as many parameters as ours
    def forward(self, x):
        self.rows.append((len(x), torch.is_grad_enabled()))
        return self.head(x)
"""


UNET = pathlib.Path(__file__).with_name("torch_unet.py")
OF_UNET = {"model__name": "unet", "model__widths": "2,3", "model__norm": "sample"}
CUT = 48  # two heads' position tables of 7 x 7, of which windows of 3 x 3 tokens read 5 x 5


@functools.cache
def missing():
    """How many parameters the Swin-Unet of these tests has beside a 1x1 convolution."""
    return yardstick.parameters(build(tiny.config()).model, 32) - 4


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "yard.py"
    path.write_text(FILE.replace("MISSING", str(missing())))
    return path


def loaded(path, **changes):
    wanted = {"method__cross_entropy": "0", "method__foreground_only": "false"} | changes
    config = tiny.config(benchmark__against=str(path), **wanted)
    return yardstick.load(config, build(config).model)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="against=.*nowhere.py: no such file"):
        loaded(tmp_path / "nowhere.py")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match="against=.*: is a folder; give the file"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("method__cross_entropy", "1", "set --config.method.cross_entropy=0.0"),
        ("method__foreground_only", "true", "set --config.method.foreground_only=False"),
        ("model__drop_path_rate", "0.1", "set --config.model.drop_path_rate=0.0"),
        ("model__mlp_ratio", "2", "set --config.model.mlp_ratio=4.0"),
        ("optim__name", "adamw", "set --config.optim.name=adam"),
        ("optim__clip_norm", "1", "set --config.optim.clip_norm=0.0"),
    ],
)
def test_settings_under_which_the_work_would_differ(file, name, value, message):
    with pytest.raises(UserError, match=f"yard.py: does other work than [a-z_.]+=.*; {message}"):
        loaded(file, **{name: value})


def test_a_norm_that_pytorch_does_not_have():
    message = "than model.norm=channel; set --config.model.norm=sample or instance or batch"
    with pytest.raises(UserError, match=message):
        loaded(UNET, **OF_UNET | {"model__norm": "channel"})


def test_a_network_without_a_counterpart(file, monkeypatch):
    monkeypatch.delitem(counterparts.COUNTERPARTS, "unet")
    message = "model.name=unet has no PyTorch counterpart; allowed is model.name=swin_unet"
    with pytest.raises(UserError, match=message):
        loaded(file, **OF_UNET)


def test_the_file_of_another_network(file):
    pytest.importorskip("torch")
    with pytest.raises(UserError, match="yard.py: has no class UNet"):
        loaded(file, **OF_UNET)
    with pytest.raises(UserError, match="torch_unet.py: has no class SwinUnet"):
        loaded(UNET)


def test_without_torch(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="yard.py: torch is not installed"):
        loaded(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "has no class SwinUnet"),
        ("import no_such_thing", "ModuleNotFoundError: No module"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_file_without_a_network(file, text, message):
    pytest.importorskip("torch")
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        loaded(file)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("**sizes", "width", "SwinUnet: TypeError"),
        ("self.head(x)", "self.head(x[:, :, 1:])", r"answers with an array \(1, 2, 31, 32\); want"),
        ("self.head(x)", "x.view(1, 5)", "32 x 32 pixels, window_size 4: RuntimeError"),
    ],
)
def test_a_network_that_does_not_fit(file, old, new, message):
    pytest.importorskip("torch")
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(UserError, match=f"^--config.benchmark.against=.*{message}"):
        loaded(file, views__crop="1")


def test_the_network_gets_our_sizes(file):
    pytest.importorskip("torch")
    other = loaded(file)
    other.network(24)
    sides = sorted(sizes["img_size"] for sizes in other.network_class.made[:-1])
    assert sides == [24, 32]  # of a crop and of a whole image: they were tried first
    assert other.network_class.made[-1:] == [
        {
            "img_size": 24,
            "patch_size": 4,
            "window_size": 4,
            "embed_dim": 8,
            "num_heads": (1, 2),
            "depths": (1, 1),
            "in_chans": 1,
            "num_classes": 2,
        }
    ]


@pytest.mark.parametrize("norm", ["sample", "instance", "batch"])
def test_a_unet_gets_our_sizes(norm):
    pytest.importorskip("torch")
    other = loaded(UNET, **OF_UNET | {"model__norm": norm})
    network = other.network(24)
    assert [fine.in_channels for fine in (network.first[0], network.down[0][0])] == [1, 2]
    assert network.head.out_channels == 2 and network.up[0][0].in_channels == 4
    assert (network.first[0].bias is not None) == (norm == "sample")


def test_a_unet_that_cannot_halve_the_image():
    pytest.importorskip("torch")
    with pytest.raises(UserError, match=r"UNet: 31 x 31 pixels, widths \(2, 3\): RuntimeError"):
        loaded(UNET, **OF_UNET, data__size="31", views__crop="1")


@pytest.mark.parametrize("more", [1, -1])
def test_another_number_of_parameters_is_another_network(file, more):
    pytest.importorskip("torch")
    file.write_text(FILE.replace("MISSING", str(missing() + more)))
    count = f"{missing() + 4 + more:,} parameters to train for 32 x 32 pixels"
    message = f"SwinUnet: another network, of {count}; ours has {missing() + 4:,} in one branch"
    with pytest.raises(UserError, match=f"^--config.benchmark.against=.*{message}$"):
        loaded(file, views__crop="1")


def test_what_is_not_trained_does_not_count(file):
    pytest.importorskip("torch")
    frozen = f"torch.zeros({missing()}), requires_grad=False"
    file.write_text(FILE.replace("torch.zeros(MISSING)", frozen))
    with pytest.raises(UserError, match="another network, of 4 parameters"):
        loaded(file)


def test_position_tables_may_be_cut_with_their_windows(file):
    pytest.importorskip("torch")
    cut = f'{missing()} - {CUT} * (sizes["img_size"] == 24)'
    file.write_text(FILE.replace("MISSING", cut))
    loaded(file)  # crops of 24 pixels have 6 x 6 tokens, and 3 x 3 at the second stage
    file.write_text(FILE.replace("MISSING", f"{missing()} - {CUT}"))
    with pytest.raises(UserError, match="parameters to train for 32 x 32 pixels; ours has"):
        loaded(file)


@pytest.mark.parametrize(
    ("side", "window", "tokens"),
    [
        (32, 4, (8, 4, 2)),
        (24, 4, (8, 4, 2)),  # continued to 32 pixels
        (8, 4, (4, 2, 1)),
        (128, 8, (32, 16, 8)),
        (96, 7, (24, 12, 6)),
    ],
)
def test_unread_positions_are_rows_of_tables_that_no_pair_of_tokens_takes(side, window, tokens):
    model = SwinUnet(depths=(1, 2, 3), num_heads=(1, 2, 4), window_size=window)
    rows = (2 * window - 1) ** 2
    table = jnp.arange(rows, dtype=jnp.float32)[:, None]
    unread = 0
    for heads, blocks, length in zip((1, 2, 4), (2, 4, 3), tokens, strict=True):
        size = (min(window, length),) * 2
        read = np.unique(attention.relative_position_bias(table, size, window))
        unread += (rows - len(read)) * heads * blocks
    assert counterparts.unread_positions(model, side) == unread


@pytest.mark.parametrize("last", [False, True])
def test_channels_last_is_the_format_of_the_network_and_its_images(last):
    torch = pytest.importorskip("torch")
    other = loaded(UNET, **OF_UNET, benchmark__against_channels_last=str(last).lower())
    network, formats = other.network(32), []

    def noted(module, inputs, output):
        formats.append(output.is_contiguous(memory_format=torch.channels_last))

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.register_forward_hook(noted)
    images = other.tensor(np.random.default_rng(0).random((2, 32, 32), np.float32))
    network(images)
    assert images.shape == (2, 1, 32, 32) and images.is_contiguous()
    assert formats == [last] * 8
    plain = loaded(UNET, **OF_UNET).network(32)
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(images), plain(images), rtol=0, atol=1e-5)


def test_a_memory_format_needs_a_network():
    with pytest.raises(UserError, match="against_channels_last=true: .* name one by --config.ben"):
        configs.validate(tiny.config(benchmark__against_channels_last="true"))


def test_the_loss_is_ours():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 8, 8, 2)).astype(np.float32)
    mask = rng.integers(0, 2, (3, 8, 8))
    probability = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    dice = losses.group_dice(probability, mask, np.zeros(3, np.int32), 1)
    wanted = 1 + float(losses.dice_loss(dice))
    moved = torch.from_numpy(logits).permute(0, 3, 1, 2)
    found = yardstick.dice_loss(torch, moved, torch.from_numpy(mask))
    assert float(found) == pytest.approx(wanted, rel=1e-6)


@pytest.fixture
def nets(file, monkeypatch):
    """What makes programs, and the networks that it made."""
    pytest.importorskip("torch")
    other, made, make = loaded(file), [], yardstick.Yardstick.network

    def noted(self, side):
        made.append(make(self, side))
        return made[-1]

    monkeypatch.setattr(yardstick.Yardstick, "network", noted)
    return other, made


def test_every_pass_of_a_train_step_has_its_optimizer_step(nets):
    other, made = nets
    image = np.random.default_rng(0).random((2, 8, 8), np.float32)
    program = yardstick.train(other, image, (image > 0.5).astype(np.int32), steps=3)
    (net,) = made
    weights = []
    net.register_forward_hook(lambda *_: weights.append(net.head.weight.detach().clone()))
    program()
    assert net.rows == [(2, True)] * 3
    assert not any(a.equal(b) for a, b in zip(weights, weights[1:], strict=False))


def test_programs_do_the_work_of_ours(nets):
    other, made = nets
    image = np.zeros((2, 8, 8), np.float32)
    cut = np.zeros((2, 6, 6), np.float32), np.zeros((2, 6, 6), np.int32)
    wanted = ("forward", "train", "train_views", "predict", "input")
    programs = yardstick.programs(other, wanted, image, cut, views=3, branches=4)
    for program in programs.values():
        program()
    rows = dict(zip(programs, (net.rows for net in made), strict=True))
    assert rows == {
        "forward": [(2, False)],
        "train": [(2, True)],
        "train_views": [(2, True)] * 3,
        "k passes": [(2, False)] * 4,
        "one batch": [(8, False)],
    }


def test_a_product_of_known_size_is_counted(nets):
    other, _ = nets
    image = np.zeros((2, 8, 8), np.float32)
    # A 1x1 convolution from one channel to two at every pixel.
    assert yardstick.matrix_flops(other, yardstick.forward(other, image)) == 2 * 2 * 64 * 2


def test_all_branches_take_the_faster_of_two_ways():
    spent = {"k passes": Spread.once(4.0), "one batch": Spread.once(3.0), "train": Spread.once(1.0)}
    found = yardstick.as_ours(spent, ("train", "predict", "predict_all"))
    assert found == {
        "train": Spread.once(1.0),
        "predict": Spread.once(3.0),
        "predict_all": Spread.once(3.0),
    }
    assert yardstick.as_ours({"train": Spread.once(1.0)}, ("train",)) == {"train": Spread.once(1.0)}
    assert set(yardstick.as_ours(spent, ("predict",))) == {"predict"}


def test_a_compiled_network_is_made_once_and_not_to_be_checked_or_counted(file, monkeypatch):
    torch = pytest.importorskip("torch")
    asked = []
    monkeypatch.setattr(torch, "compile", lambda made, **how: asked.append(how) or made)
    other = loaded(file, benchmark__against_compiled="true")
    assert not asked
    image = np.zeros((2, 32, 32), np.float32)
    yardstick.matrix_flops(other, yardstick.forward(yardstick.uncompiled(other), image))
    assert not asked
    yardstick.forward(other, image)
    yardstick.train(other, image, image)
    assert asked == [{"dynamic": False}] and list(other.compiled) == [32]
