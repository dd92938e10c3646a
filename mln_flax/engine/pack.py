"""`--mode=pack`: a trained model as a folder of two files, to be given away or put in the box."""

import hashlib
import platform
import time
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np

from mln_flax import files
from mln_flax.config import Config
from mln_flax.engine import packed, whole_model
from mln_flax.engine import workdir as workdirs
from mln_flax.engine.build import Run, build
from mln_flax.engine.hashes import tree_hash
from mln_flax.engine.model import load_model
from mln_flax.engine.origin import without_places
from mln_flax.engine.packed import FACTS, WEIGHTS
from mln_flax.methods.core import SCORE
from mln_flax.types import Record, UserError

NOTE = "Research only: no medical device, and not for diagnosis."
MOST_BYTES = 3_000_000  # of both files, in the box: a copy of the package should stay small


def pack(config: Config, workdir: Path, output: str, overwrite: bool = False) -> int:
    """Writes the trained model of a workdir as a packed model; returns 0.

    Args:
      config: of the run; settings that come after training are packed as they are here.
      workdir: that holds its model.
      output: the folder.
      overwrite: a packed model that is there is replaced.

    Raises:
      UserError: no output, or one that is there; no trained model.
      OSError: the disk is full, or refuses it.
    """
    begun, folder = time.monotonic(), destination(output, overwrite)
    run = build(config)
    tree = run.kind.to_tree(load_model(run, workdir))
    content = weights_of(tree)
    facts = facts_of(run, workdir, tree, content)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_bytes(folder / WEIGHTS, content)
    files.write_json(folder / FACTS, facts)
    if tree_hash(packed.tree_of(folder)) != facts["hashes"]["model"]:
        raise UserError(f"{folder}: reads back otherwise than it was written; please report it")
    size = sum((folder / name).stat().st_size for name in (WEIGHTS, FACTS))
    print(
        f"pack: {folder}: {size / 1e6:.2f} MB in {time.monotonic() - begun:.0f} s, "
        f"model {facts['hashes']['model'][:12]}",
        flush=True,
    )
    if size > MOST_BYTES:
        print(f"pack: more than the {MOST_BYTES / 1e6:.0f} MB that the box has room for")
    return 0


def destination(output: str, overwrite: bool) -> Path:
    """The folder to write; raises UserError where it cannot be, before anything is computed."""
    if not output:
        raise UserError("--output is missing: the folder for the packed model")
    folder = Path(output)
    if next(path for path in (folder, *folder.parents) if path.exists()).is_file():
        raise UserError(f"--output={output}: is a file, or below one; give a folder")
    present = [name for name in (WEIGHTS, FACTS) if (folder / name).exists()]
    if present and not overwrite:
        raise UserError(
            f"--output={output}: holds {present[0]} already; take another folder, or --overwrite"
        )
    if (folder / "config.json").exists():
        raise UserError(f"--output={output}: is the workdir of a run; take another folder")
    return folder


def weights_of(tree: Any) -> bytes:
    """The content of `weights.safetensors`: every array by its path, in its own type.

    Parameters and statistics are float32; what validation chose may be float64.
    """
    import safetensors.numpy

    flat = flax.traverse_util.flatten_dict(jax.device_get(tree), sep="/")
    # Scalars stay arrays without a dimension, which np.ascontiguousarray would give one.
    arrays = {path: np.asarray(array, order="C") for path, array in sorted(flat.items())}
    return safetensors.numpy.save(arrays)


def facts_of(run: Run, workdir: Path, tree: Any, weights: bytes) -> Record:
    """The content of `model.json`: no image, no patient, and no path of this machine."""
    environment = _json(workdir / "environment.json")
    start = _json(workdir / workdirs.START)
    facts = {
        "format": packed.FORMAT,
        "note": NOTE,
        "hashes": {"weights": hashlib.sha256(weights).hexdigest(), "model": tree_hash(tree)},
        "trained": {
            "commit": environment.get("commit", "unknown"),
            "jax": environment.get("jax", "unknown"),
            "seed": run.config.train.seed,
            "parameters": sum(np.size(leaf) for leaf in jax.tree.leaves(tree.get("params", ()))),
            "init_from": {name: start[name] for name in ("init_from", "model") if name in start},
            **training_numbers(workdirs.read_log(workdir / workdirs.LOG)),
        },
        "packed": {"commit": workdirs.commit(), "python": platform.python_version()},
        "config": without_places(run.config),
        "whole": whole_model.decisive(whole_model.read(workdir)),
    }
    facts = files.plain(facts)
    facts["hashes"]["facts"] = packed.facts_hash(facts)
    return facts


def training_numbers(log: list[Record]) -> Record:
    """Of the log of training: its last step and loss, and the best source validation."""
    losses = [row for row in log if "loss" in row]
    scores = [row for row in log if SCORE in row]
    numbers: Record = {"steps": log[-1]["step"]} if log else {}
    if losses:
        numbers["last_loss"] = losses[-1]["loss"]
    if scores:
        best = max(scores, key=lambda row: row[SCORE])
        numbers |= {f"best_{SCORE}": best[SCORE], "best_step": best["step"]}
    return numbers


def _json(path: Path) -> Record:
    return files.read_json(path) if path.exists() else {}
