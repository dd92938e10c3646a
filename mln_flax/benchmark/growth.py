"""Time per image against image size, branches and devices, as tables."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mln_flax import files
from mln_flax.benchmark.speeds import described
from mln_flax.config import Config
from mln_flax.results.table_layout import Table
from mln_flax.settings import to_dict
from mln_flax.types import UserError

SIZES = (256, 512, 1024, 2048)
VIEWS = (  # the first k of them
    "identity",
    "invert",
    "bezier(0.3)",
    "bezier(0.7)",
    "bezier(0.3)+invert",
    "bezier(0.7)+invert",
    "bezier(0.15)",
    "bezier(0.85)",
)
BRANCHES = (1, 2, 4, 8)
DEVICES = (1, 2, 4, 8)
Measure = Callable[[Config], dict[str, Any]]  # what is asked for by `benchmark.only`


def growth(config: Config, measure: Measure) -> dict[str, Any]:
    """Prints the tables that `benchmark.growth` names; returns their numbers by name.

    Args:
      config: what is timed, but for the one thing that grows.
      measure: the medians of a config's speeds, by the keys of the benchmark's JSON.
    """
    makers = {"size": by_size, "k": by_branches, "devices": by_devices}
    numbers: dict[str, Any] = {}
    for name in config.benchmark.growth:
        shown, numbers[name] = makers[name](config, measure)
        print(f"\n{shown.to_markdown()}\n", flush=True)
    return {"growth": numbers}


def by_size(config: Config, measure: Measure) -> tuple[Table, list[dict[str, Any]]]:
    """One pass of one image, of growing sides."""
    rows = []
    for side in SIZES:
        changed = changed_to(config, ("forward",), data={"size": side}, train={"batch_size": 1})
        rows.append({"size": side, **seconds(measure(changed))})
        print(f"growth: {rows[-1]}", flush=True)
    cells = tuple(
        (str(row["size"]), _shown(row["forward"]), _shown(row["forward"] * 1e6 / row["size"] ** 2))
        for row in rows
    )
    note = "A pixel is as much work in an image of any size: the last column should be level."
    columns = ("side, pixels", "one pass, s", "s per million pixels")
    return Table(f"Size: {described(config.model)}, one image", columns, cells, note), rows


def by_branches(config: Config, measure: Measure) -> tuple[Table, list[dict[str, Any]]]:
    """Prediction and train step of one image in growing numbers of branches."""
    if not hasattr(config.method, "branch_map"):
        raise UserError(
            f"--config.benchmark.growth=k: method.name={config.method.name} has one branch; "
            "allowed is method.name=mln"
        )
    programs = ("train_views", "predict", "predict_all")
    rows = []
    for k in BRANCHES:
        views = {"strategy": "listed", "names": VIEWS[:k]}
        per_view = {"branch_map": "per_view"}
        parts = {"accumulate": k if config.train.accumulate > 1 else 1}
        changed = changed_to(config, programs, views=views, method=per_view, train=parts)
        rows.append({"k": k, **seconds(measure(changed))})
        print(f"growth: {rows[-1]}", flush=True)
    names = ("predict", "predict_all", "train_views")
    cells = tuple(
        (str(row["k"]), *(_shown(row[name]) for name in names), _shown(row[names[2]] / row["k"]))
        for row in rows
    )
    note = (
        "Where a branch is chosen before the network runs, its column should be level; all "
        "branches, and a step with a view for each, should cost at most k times one."
    )
    columns = ("k", "chosen branch, s", "all branches, s", "train step, s", "train step / k, s")
    side = config.data.size
    title = f"Branches: {described(config.model)}, {side} pixels, time per image"
    return Table(title, columns, cells, note), rows


def by_devices(config: Config, measure: Measure) -> tuple[Table, list[dict[str, Any]]]:
    """One pass and train step on growing numbers of virtual devices, each in its own process."""
    del measure  # a process has as many devices as it started with
    images = max(DEVICES)
    rows = []
    for count in DEVICES:
        changed = changed_to(config, ("forward", "train"), train={"batch_size": images})
        rows.append({"devices": count, **seconds(elsewhere(changed, count))})
        print(f"growth: {rows[-1]}", flush=True)
    cells = tuple(
        (str(row["devices"]), _shown(row["forward"]), _shown(row["train"])) for row in rows
    )
    note = (
        "Virtual devices share this machine's cores: a level column says that splitting a batch "
        "costs nothing."
    )
    columns = ("devices", "one pass, s", "train step, s")
    side = config.data.size
    title = (
        f"Devices: {described(config.model)}, {side} pixels, {images} images in all, time per image"
    )
    return Table(title, columns, cells, note), rows


def changed_to(config: Config, only: tuple[str, ...], **groups: dict[str, Any]) -> Config:
    """The settings with some of them changed, for some programs of ours alone."""
    groups["benchmark"] = {"only": only, "against": "", "growth": ()}
    groups["train"] = {"accumulate": 1} | groups.get("train", {})
    changed = {
        name: dataclasses.replace(getattr(config, name), **values)
        for name, values in groups.items()
    }
    return dataclasses.replace(config, **changed)


def seconds(speeds: dict[str, Any]) -> dict[str, float]:
    """Seconds per image of every program that was timed."""
    ending = "_images_per_s"
    return {
        key.removesuffix(ending): 1 / value
        for key, value in speeds.items()
        if key.endswith(ending) and value
    }


def elsewhere(config: Config, devices: int) -> dict[str, Any]:
    """What the benchmark says in a process with so many virtual devices.

    Raises:
      UserError: what it complained about.
    """
    root = str(Path(__file__).parents[2])
    flag = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip(),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }
    with tempfile.TemporaryDirectory() as folder:
        files.write_json(Path(folder) / "config.json", to_dict(config))
        words = ["-m", "mln_flax.main", "--mode=benchmark", f"--workdir={folder}"]
        process = subprocess.run(
            [sys.executable, *words], env=environment, capture_output=True, text=True
        )
    if process.returncode:
        complaint = (process.stderr.strip().splitlines() or ["no word"])[-1]
        raise UserError(f"--config.benchmark.growth=devices: {devices} devices: {complaint}")
    return json.loads(process.stdout.splitlines()[-1])


def _shown(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}"
