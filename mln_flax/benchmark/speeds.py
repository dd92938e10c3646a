"""What a benchmark measures: names and units, table, and the line of JSON."""

import math
import platform
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from mln_flax.benchmark.cost import Cost
from mln_flax.benchmark.timing import Spread
from mln_flax.config import Config
from mln_flax.engine import input_pipeline
from mln_flax.engine.build import Run
from mln_flax.models.swin_unet import SwinUnet
from mln_flax.results.table_layout import Table
from mln_flax.settings import to_dict

ROWS = {  # in the order of the table
    "forward_images_per_s": "one pass, images/s",
    "train_images_per_s": "train step, images/s",
    "train_views_images_per_s": "train step of all views, images/s",
    "predict_images_per_s": "prediction, images/s",
    "predict_all_images_per_s": "prediction in all branches, images/s",
    "input_images_per_s": "input in all views, images/s",
    "compile_s": "compiling the train step, s",
    "peak_memory_gb": "its memory as planned, GB",
    "measured_memory_gb": "its memory as measured, GB",
    "train_gflop": "its matrix products, GFLOP",
    "train_all_gflop": "all its operations by XLA, GFLOP",
    "matmul_gflop_per_s": "a large matrix product, GFLOP/s",
    "matmul_share": "the train step's share of that",
    "train_views_compile_s": "compiling the step of all views, s",
    "train_views_peak_memory_gb": "memory of that step as planned, GB",
}
MORE_IS_BETTER = tuple(key for key in ROWS if key.endswith("_images_per_s"))
LESS_IS_BETTER = ("measured_memory_gb",)
# What of the network may differ from its preset.
SIZES = ("embed_dim", "depths", "num_heads", "window_size", "widths")
Measurements = dict[str, Spread]  # the keys of ROWS, as far as there is something


def of_costs(costs: Mapping[str, Cost]) -> Measurements:
    """What is known before the steps "train" and "train_views" run."""
    measured: Measurements = {}
    for name, known in costs.items():
        before = "" if name == "train" else f"{name}_"
        measured[f"{before}compile_s"] = Spread.once(known.compile_s)
        measured[f"{before}peak_memory_gb"] = Spread.once(known.peak_bytes / 1e9)
    if "train" in costs:
        measured["train_gflop"] = Spread.once(costs["train"].matrix_flops / 1e9)
        if costs["train"].xla_flops is not None:
            measured["train_all_gflop"] = Spread.once(costs["train"].xla_flops / 1e9)
    return measured


def of_seconds(
    seconds: Mapping[str, Spread], images: int, matmul: Spread, train_gflop: Spread | None
) -> Measurements:
    """Images per second of each program, and the train step's share of the matrix-product rate.

    Args:
      seconds: of each program, for a batch.
      images: of a batch.
      matmul: operations per second of a large matrix product, whose median counts.
      train_gflop: matrix products of a train step, if known.
    """
    measured = {f"{name}_images_per_s": spent.rate(images) for name, spent in seconds.items()}
    if "train" in seconds and train_gflop is not None:
        per_second = seconds["train"].rate(train_gflop.median * 1e9)
        measured["matmul_share"] = per_second.times(1 / matmul.median)
    return measured


def line(measured: Measurements) -> dict[str, Any]:
    """Every key with its median; None where there is none."""
    return {key: _short(measured[key].median) if key in measured else None for key in ROWS}


def report(ours: Measurements, theirs: Measurements | None) -> dict[str, Any]:
    """The line of JSON: ours at the top, the other's under "against", and "ratio"."""
    summary = line(ours) | {"spread": _spreads(ours)}
    if theirs is not None:
        summary["against"] = line(theirs) | {"spread": _spreads(theirs)}
        summary["ratio"] = {
            key: None if (times := ratio(key, ours, theirs)) is None else _short(times)
            for key in ROWS
        }
    return summary


def ratio(key: str, ours: Measurements, theirs: Measurements) -> float | None:
    """How many times better ours is: more images per second, or less memory; else None."""
    if key not in ours or key not in theirs:
        return None
    if key in MORE_IS_BETTER:
        return ours[key].median / theirs[key].median
    if key in LESS_IS_BETTER and ours[key].median:
        return theirs[key].median / ours[key].median
    return None


def _spreads(measured: Measurements) -> dict[str, list[float]]:
    """The quartiles of what was measured more than once."""
    several = {
        key: measured[key]
        for key in ROWS
        if key in measured and measured[key].low < measured[key].high
    }
    return {key: [_short(spread.low), _short(spread.high)] for key, spread in several.items()}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def table(config: Config, ours: Measurements, theirs: Measurements | None) -> Table:
    """All that was measured; the other program's columns where there is one."""
    columns: tuple[str, ...] = ("what", "median", "quartiles")
    if theirs is not None:
        columns += ("PyTorch", "its quartiles", "times better")
    rows = []
    for key, label in ROWS.items():
        if key in ours or key in (theirs or {}):
            row: tuple[str, ...] = (label, *_cells(ours.get(key)))
            if theirs is not None:
                times = ratio(key, ours, theirs)
                row += (*_cells(theirs.get(key)), "-" if times is None else f"{times:.2f}")
            rows.append(row)
    return Table(_title(config), columns, tuple(rows), _note(config, theirs is not None))


def _cells(spread: Spread | None) -> tuple[str, str]:
    if spread is None:
        return "-", "-"
    between = f"{_shown(spread.low)} to {_shown(spread.high)}" if spread.low < spread.high else "-"
    return _shown(spread.median), between


def _shown(value: float) -> str:
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{min(max(digits, 0), 4)}f}"


def _title(config: Config) -> str:
    side = config.data.size
    return (
        f"Speed of {described(config.model)}, {side} x {side} pixels, batches of "
        f"{config.train.batch_size}, {config.model.dtype}"
    )


def described(model: Any) -> str:
    """The network of its settings: name, preset, what it is normalized over, sizes of its own."""
    names = ("norm", *SIZES)
    given = [f"{name} {getattr(model, name)}" for name in names if getattr(model, name, None)]
    return f"{model.name} {model.preset}" + (f" ({', '.join(given)})" if given else "")


def _note(config: Config, against: bool) -> str:
    runs = config.benchmark.runs
    if not runs:
        return "Compiled only (benchmark.runs=0): nothing was run. Memory is that of each device."
    side = product_side()
    text = (
        f"Medians and quartiles of {runs} runs in turns. One pass and the train step are of one "
        f"branch. Prediction answers as method.name={config.method.name} does by these settings, "
        f"fitted to a few phantoms without training. Memory as planned "
        "is the compiler's, of each device; as measured, what an accelerator counts, or how far "
        "this process grows. The share is that of matrix products and convolutions alone; the "
        f"large product is {side} x {side} in {config.model.dtype}."
    )
    if against:
        text += (
            " PyTorch makes a pass for each view, with an optimizer step, and for each branch, its "
            f"network {_pytorch(config)}. "
            "Times better: images per second ours / PyTorch's, memory PyTorch's / ours."
        )
    return text


def _pytorch(config: Config) -> str:
    """How its network runs."""
    compiled = (
        "through torch.compile" if config.benchmark.against_compiled else "as its file has it"
    )
    last = config.benchmark.against_channels_last
    return f"{compiled}, in {'channels_last' if last else 'contiguous'} memory format"


def product_side() -> int:
    """The side of the large matrix product: an accelerator needs more work to be busy."""
    return 2048 if jax.default_backend() == "cpu" else 8192


def misfits(size: int, model: nn.Module) -> list[str]:
    """A line if windows do not divide the image's tokens, which costs time; else nothing."""
    if not isinstance(model, SwinUnet):
        return []
    sides = [math.ceil(size / model.patch_size / 2**i) for i in range(len(model.depths))]
    wrong = [side for side in sides if side > model.window_size and side % model.window_size]
    if not wrong:
        return []
    return [
        f"windows of {model.window_size} do not divide {wrong[0]} x {wrong[0]} tokens of "
        f"{size} pixels: ours are padded, PyTorch may refuse; see --config.model.window_size"
    ]


def settings(config: Config, run: Run, commit: str) -> dict[str, Any]:
    """What the numbers belong to."""
    device = jax.local_devices()[0]
    return {
        "size": config.data.size,
        "train_size": config.views.crop_side(config.data.size),
        "batch": config.train.batch_size,
        "k": run.model.num_branches,
        "views": len(run.view_names),
        "preset": config.model.preset,
        "norm": getattr(run.model, "norm", "channel"),
        "attention": getattr(run.model, "attention", None),
        "flat": config.optim.flat,
        **{name: getattr(run.model, name, None) or None for name in SIZES},  # as far as it has any
        "dtype": config.model.dtype,
        "remat": config.model.remat,
        "accumulate": config.train.accumulate,
        "runs": config.benchmark.runs,
        "against_compiled": config.benchmark.against_compiled,
        "against_channels_last": config.benchmark.against_channels_last,
        "method": to_dict(config.method),
        "devices": f"{jax.local_device_count()} x {device.device_kind}",
        "machine": f"{platform.system()} {platform.machine()}, {input_pipeline.threads()} cores",
        "jax": jax.__version__,
        "commit": commit,
    }
