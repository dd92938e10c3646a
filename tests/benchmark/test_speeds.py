"""What a benchmark says of what it found."""

import json

import pytest
import tiny

from mln_flax.benchmark import speeds
from mln_flax.benchmark.cost import Cost
from mln_flax.benchmark.timing import Spread
from mln_flax.engine.build import build
from mln_flax.models.swin_unet import PRESETS, SwinUnet
from mln_flax.settings import to_dict

OURS = {
    "forward_images_per_s": Spread(20.0, 18.0, 21.0),
    "train_images_per_s": Spread(6.0, 5.0, 7.0),
    "measured_memory_gb": Spread.once(2.0),
    "compile_s": Spread.once(30.0),
    "train_gflop": Spread.once(12.0),
}
THEIRS = {
    "forward_images_per_s": Spread(10.0, 9.0, 11.0),
    "measured_memory_gb": Spread.once(3.0),
    "compile_s": Spread.once(60.0),
    "train_gflop": Spread.once(12.0),
}


@pytest.fixture
def config():
    return tiny.config()


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("forward_images_per_s", 2.0),  # more images: better
        ("measured_memory_gb", 1.5),  # less memory: better
        ("train_images_per_s", None),  # the other has none
        ("predict_images_per_s", None),  # nobody has any
        ("compile_s", None),
        ("train_gflop", None),
    ],
)
def test_a_ratio_says_how_many_times_better_ours_is(key, wanted):
    assert speeds.ratio(key, OURS, THEIRS) == wanted


def test_rates_are_images_of_a_batch_over_seconds():
    matmul = Spread(400e9, 300e9, 500e9)
    seconds = {"train": Spread(0.5, 0.4, 0.8), "forward": Spread.once(0.25)}
    found = speeds.of_seconds(seconds, 2, matmul, Spread.once(20.0))
    assert found["train_images_per_s"] == pytest.approx((4.0, 2.5, 5.0))
    assert found["forward_images_per_s"].median == pytest.approx(8.0)
    # 20 GFLOP in half a second are 40 GFLOP/s, a tenth of 400.
    assert found["matmul_share"] == pytest.approx((0.1, 0.0625, 0.125))
    assert "matmul_share" not in speeds.of_seconds(seconds, 2, matmul, None)


def test_costs_are_said_in_gigabytes_and_giga_operations():
    step = Cost(None, 3.0, 2_500_000_000, 8_000_000_000, None)
    found = speeds.of_costs({"train": step, "train_views": step._replace(compile_s=4.0)})
    assert {key: spread.median for key, spread in found.items()} == {
        "compile_s": 3.0,
        "peak_memory_gb": 2.5,
        "train_gflop": 8.0,
        "train_views_compile_s": 4.0,
        "train_views_peak_memory_gb": 2.5,
    }
    counted = speeds.of_costs({"train": step._replace(xla_flops=9e9)})
    assert counted["train_all_gflop"].median == 9.0


def test_the_line_has_all_keys_and_none_where_nothing_is_known():
    said = json.loads(json.dumps(speeds.report(OURS, THEIRS)))
    keys = set(speeds.ROWS)
    assert set(said) == keys | {"spread", "against", "ratio"}
    assert set(said["against"]) == keys | {"spread"} and set(said["ratio"]) == keys
    assert said["train_images_per_s"] == 6.0 and said["against"]["train_images_per_s"] is None
    assert said["predict_images_per_s"] is None
    assert said["spread"] == {"forward_images_per_s": [18, 21], "train_images_per_s": [5, 7]}
    assert said["ratio"]["forward_images_per_s"] == 2.0
    assert set(speeds.report(OURS, None)) == keys | {"spread"}


def test_the_table_shows_what_was_found_and_no_more(config):
    alone = speeds.table(config, OURS, None)
    assert alone.columns == ("what", "median", "quartiles") and len(alone.rows) == len(OURS)
    assert alone.rows[0] == ("one pass, images/s", "20.0", "18.0 to 21.0")
    both = speeds.table(config, OURS, THEIRS)
    assert both.rows[0][-1] == "2.00" and both.rows[1][3:] == ("-", "-", "-")
    assert "PyTorch" in both.note and "PyTorch" not in alone.note
    assert all(len(row) == len(both.columns) for row in both.rows)


def test_a_compiled_benchmark_says_that_nothing_ran():
    config = tiny.config(benchmark__runs="0")
    assert "nothing was run" in speeds.table(config, OURS, None).note


@pytest.mark.parametrize(
    ("size", "window", "wrong"),
    [
        (224, 7, ""),  # 56, 28, 14, 7 tokens
        (512, 8, ""),  # 128, 64, 32, 16
        (128, 8, ""),  # 32, 16, 8, 4: the last window is cut to the map
        (512, 7, "128 x 128"),
        (224, 8, "28 x 28"),  # 56 tokens are seven windows; 28 are no whole number
        (230, 7, "58 x 58"),
    ],
)
def test_windows_that_do_not_fit_are_said(size, window, wrong):
    model = SwinUnet(**PRESETS["tiny"]._replace(window_size=window)._asdict())
    lines = speeds.misfits(size, model)
    assert len(lines) == bool(wrong) and wrong in "".join(lines)


def test_the_settings_name_what_the_numbers_belong_to(config):
    said = speeds.settings(config, build(config), "abc+")
    assert said["k"] == said["views"] == 3 and said["size"] == 32 and said["train_size"] == 24
    assert said["commit"] == "abc+" and said["window_size"] == 4 and said["batch"] == 2
    assert said["method"] == to_dict(config.method) and said["method"]["selection"] == "polarity"
    assert said["embed_dim"] == 8 and said["depths"] == (1, 1) and said["widths"] is None
    assert json.loads(json.dumps(said)) == json.loads(json.dumps(said | {"depths": [1, 1]}))


def test_the_title_says_what_differs_from_the_preset(config):
    sizes = "embed_dim 8, depths (1, 1), num_heads (1, 2), window_size 4"
    assert f"Speed of swin_unet demo ({sizes}), 32 x 32" in speeds.table(config, OURS, None).title


def test_the_title_of_a_unet_has_its_norm():
    unet = {"model__name": "unet", "model__preset": "unet_demo", "model__norm": "sample"}
    title = speeds.table(tiny.config(**unet), OURS, None).title
    assert title.startswith("Speed of unet unet_demo (norm sample), 32 x 32 pixels")


@pytest.mark.parametrize(
    ("compiled", "last", "wanted"),
    [
        ("false", "false", "as its file has it, in contiguous memory format"),
        ("true", "false", "through torch.compile, in contiguous memory format"),
        ("true", "true", "through torch.compile, in channels_last memory format"),
    ],
)
def test_the_note_says_how_pytorch_ran(compiled, last, wanted):
    how = {"benchmark__against_compiled": compiled, "benchmark__against_channels_last": last}
    config = tiny.config(benchmark__against="x.py", **how)
    assert f"its network {wanted}." in speeds.table(config, OURS, THEIRS).note
    said = speeds.settings(config, build(config), "abc")
    assert said["against_compiled"] is (compiled == "true")
    assert said["against_channels_last"] is (last == "true")


def test_each_row_has_a_name_of_its_own():
    assert len(set(speeds.ROWS.values())) == len(speeds.ROWS)
