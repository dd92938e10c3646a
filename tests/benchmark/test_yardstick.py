"""The PyTorch program: what cannot be used is said; what can does the same work as ours."""

import sys

import numpy as np
import pytest
import tiny

from mln_flax.benchmark import yardstick
from mln_flax.benchmark.timing import Spread
from mln_flax.engine.build import build
from mln_flax.methods import losses
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
    def forward(self, x):
        self.rows.append((len(x), torch.is_grad_enabled()))
        return self.head(x)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "yard.py"
    path.write_text(FILE)
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
    with pytest.raises(UserError, match=f"does other work than this config; {message}"):
        loaded(file, **{name: value})


def test_a_network_of_another_kind_is_no_match(file):
    with pytest.raises(UserError, match="other work than this config; set --config.model.name=sw"):
        loaded(file, model__name="unet", model__preset="unet_demo")


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
        ("self.head(x)", "x.view(1, 5)", "32 x 32 pixels, windows of 4: RuntimeError"),
    ],
)
def test_a_network_that_does_not_fit(file, old, new, message):
    pytest.importorskip("torch")
    file.write_text(FILE.replace(old, new))
    with pytest.raises(UserError, match=f"^--config.benchmark.against=.*{message}"):
        loaded(file, views__crop="1")


def test_the_network_gets_our_sizes(file):
    pytest.importorskip("torch")
    other = loaded(file)
    other.network(24)
    sides = sorted(sizes["img_size"] for sizes in other.swin_unet.made[:-1])
    assert sides == [24, 32]  # of a crop and of a whole image: they were tried first
    assert other.swin_unet.made[-1:] == [
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
