"""--mode=benchmark on a very small network: the programs, the line of JSON, the table."""

import json
import pathlib

import jax
import numpy as np
import pytest
import tiny

from mln_flax.benchmark import run as benchmark
from mln_flax.benchmark import speeds, step_cost
from mln_flax.benchmark.cost import Cost
from mln_flax.engine.build import build
from mln_flax.main import main
from mln_flax.methods import losses
from mln_flax.types import UserError

SIMPLE = {
    "views__crop": "1",
    "method__cross_entropy": "0",
    "method__foreground_only": "false",
    "benchmark__runs": "2",
}
UNET = {"model__name": "unet", "model__widths": "2,3"}  # compiles faster than the Swin-Unet
TORCH = UNET | {  # of a norm that PyTorch has
    "model__norm": "sample",
    "benchmark__against": str(pathlib.Path(__file__).with_name("torch_unet.py")),
}


def words(**changes):
    given = tiny.flags("", **(SIMPLE | changes))
    return [*(word for word in given if not word.startswith("--workdir")), "--mode=benchmark"]


@pytest.fixture(autouse=True)
def few_phantoms(monkeypatch):
    monkeypatch.setattr(benchmark, "PHANTOMS", 4)
    monkeypatch.setattr(speeds, "product_side", lambda: 64)


@pytest.fixture
def run():
    return build(tiny.config(**SIMPLE | UNET))


def test_it_measures_everything_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words(**UNET, model__norm="batch")) == 0  # whose norms read statistics
    out = capsys.readouterr().out
    said = json.loads(out.splitlines()[-1])
    assert set(said) == {*speeds.ROWS, "spread", "settings"}
    missing = {key for key in speeds.ROWS if said[key] is None}
    assert missing <= {"measured_memory_gb", "train_all_gflop"}
    assert all(said[key] > 0 for key in speeds.ROWS if key not in missing | {"measured_memory_gb"})
    timed = {key for key in said if key.endswith("_per_s")}
    for key, (low, high) in said["spread"].items():
        assert low <= said[key] <= high
    assert set(said["spread"]) <= timed | {"matmul_share"}
    assert "32 x 32 pixels, batches of 2, float32" in out
    assert "Prediction answers as method.name=mln does by these settings" in " ".join(out.split())
    assert said["settings"]["norm"] == "batch" and said["settings"]["window_size"] is None
    assert all(label in out for label in speeds.ROWS.values() if "XLA" not in label)
    assert not list(tmp_path.iterdir())


def test_some_programs_only_and_against_another(capsys):
    pytest.importorskip("torch")
    wanted = ("forward", "train_views", "predict_all")
    last = {"benchmark__against_channels_last": "true"}
    assert main(words(**TORCH, **last, benchmark__only=",".join(wanted))) == 0
    out = capsys.readouterr().out
    said = json.loads(out.splitlines()[-1])
    assert "its network as its file has it, in channels_last memory" in " ".join(out.split())
    assert said["settings"]["against_channels_last"] is True
    for name in ("forward", "train", "train_views", "predict", "predict_all", "input"):
        key = f"{name}_images_per_s"
        assert (said[key] is not None) == (name in wanted)
        assert (said["against"][key] is not None) == (name in wanted)
        if name in wanted:
            ratio = said[key] / said["against"][key]
            assert said["ratio"][key] == pytest.approx(ratio, rel=2e-3)


def test_memory_and_operations_of_both_are_compared(capsys):
    pytest.importorskip("torch")
    assert main(words(**TORCH, benchmark__only="train")) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    # Products per image: 3x3 convolutions at both stages, 2x2 upward, 1x1 at the end.
    full = 9 * (1 * 2 + 2 * 2 + 4 * 2 + 2 * 2) + 2 * 2
    half = 9 * (2 * 3 + 3 * 3) + 4 * 3 * 2
    # Forward, by the kernel, and by the input, of which the image needs none; two operations each.
    wanted = 2 * 2 * (3 * (full * 32**2 + half * 16**2) - 9 * 1 * 2 * 32**2)
    assert said["against"]["train_gflop"] == pytest.approx(wanted / 1e9, rel=1e-3)
    assert said["train_gflop"] == pytest.approx(wanted / 1e9, rel=1e-3)
    assert said["against"]["peak_memory_gb"] is None and said["ratio"]["train_gflop"] is None


def test_no_runs_compile_only(capsys):
    assert main(words(**UNET, benchmark__runs="0", benchmark__only="train_views")) == 0
    out = capsys.readouterr().out
    said = json.loads(out.splitlines()[-1])
    known = {key for key in speeds.ROWS if said[key] is not None}
    assert known == {"train_views_compile_s", "train_views_peak_memory_gb"}
    assert "nothing was run" in out


def test_a_network_without_branches_is_timed_too(capsys):
    only = {"benchmark__only": "train_views,predict", "benchmark__runs": "1"}
    assert main(words(**tiny.PLAIN, **only)) == 0
    out = capsys.readouterr().out
    said = json.loads(out.splitlines()[-1])
    assert said["train_views_images_per_s"] > 0 and said["predict_images_per_s"] > 0
    assert said["settings"]["method"]["name"] == "supervised"
    assert said["settings"]["k"] == 1 and said["settings"]["views"] == 3
    assert "Prediction answers as method.name=supervised does" in " ".join(out.split())


def test_windows_that_do_not_fit_are_said(monkeypatch, capsys):
    monkeypatch.setattr(step_cost, "compiled", lambda run: Cost(None, 1.0, 1, 1, None))
    assert main(words(benchmark__runs="0", benchmark__only="train", model__window_size="3")) == 0
    assert "windows of 3 do not divide 8 x 8 tokens of 32 pixels" in capsys.readouterr().out


def test_a_missing_file_is_said_in_a_line(capsys):
    assert main(words(benchmark__against="nowhere.py")) == 2
    assert capsys.readouterr().err == "error: --config.benchmark.against=nowhere.py: no such file\n"


def test_the_train_step_is_the_runs_own(run):
    single = build(benchmark.one_view(run.config))
    assert single.model.num_branches == 1 and single.config.train == run.config.train
    call = step_cost.compiled(single).call
    kept = []

    def noted(state, batch):
        out = call(state, batch)
        kept.append(jax.device_get(out))
        return out

    program = benchmark.train_program(single, noted, 32)
    program()
    program()
    (first, measured), (second, _) = kept
    assert (int(first.step), int(second.step)) == (1, 2)
    # The loss of the first step, from an untrained network's own answer.
    image, mask = benchmark.random_images(run.config, 32)
    params = benchmark.random_state(single).params
    zeros = np.zeros(len(image), np.int32)
    logits, _ = single.model.apply({"params": params}, image[..., None], zeros)
    dice = losses.group_dice(jax.nn.softmax(logits), mask, zeros, 1)
    assert float(measured["loss"]) == pytest.approx(1 + float(losses.dice_loss(dice)), abs=1e-5)


def test_the_joint_step_has_every_image_in_every_view(run):
    batch = benchmark.random_batch(run, 32)
    assert batch.view.tolist() == [0, 1, 2] * 2 and batch.valid.all()
    assert batch.labeled.all() and not batch.domain.any()
    image, mask = benchmark.random_images(run.config, 32)
    assert (batch.image.reshape(2, 3, 32, 32) == image[:, None]).all()
    assert (batch.mask.reshape(2, 3, 32, 32) == mask[:, None]).all() and mask.any()


@pytest.mark.parametrize(
    ("settings", "early"),
    [
        ({}, True),
        ({"method__selection": "cosine", "method__early": "false"}, False),
        (tiny.PLAIN, None),
    ],
)
def test_prediction_is_that_of_a_fitted_model(settings, early):
    """A whole batch is answered; where the image alone decides, before the network runs."""
    run = build(tiny.config(**SIMPLE | UNET | settings))
    answers = benchmark.predict_program(run)()
    (probability,) = answers.maps.values()
    assert probability.shape == (run.config.train.batch_size, 32, 32)
    assert 0 <= probability.min() < probability.max() <= 1
    assert [facts.get("early") for facts in answers.facts] == [early] * len(probability)


def test_both_programs_take_turns():
    ours = {name: (lambda: None) for name in ("forward", "train")}
    theirs = {name: (lambda: None) for name in ("train", "k passes")}
    turns = list(benchmark.in_turns(ours, theirs))
    assert turns == ["forward", "train", "PyTorch: train", "PyTorch: k passes"]


def test_views_that_the_step_makes_are_not_timed_without_a_word():
    with pytest.raises(UserError, match="on_device=true: the benchmark times a step behind its"):
        benchmark.measure(tiny.config(views__on_device="true"))
