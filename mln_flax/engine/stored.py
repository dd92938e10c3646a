"""A trained model as it lies on the disk: in the workdir of its run, or packed."""

from pathlib import Path
from typing import Any

from mln_flax import settings
from mln_flax.config import Config
from mln_flax.engine import checkpoint, packed
from mln_flax.engine.workdir import MODEL
from mln_flax.types import UserError


def config_of(folder: Path) -> Config:
    """The settings of a model's run; raises UserError where a folder holds none."""
    if packed.is_packed(folder):
        return packed.config_of(folder)
    if not (folder / "config.json").exists():
        raise UserError(f"{folder}: holds no run; train one with --workdir={folder}")
    return settings.read_json(folder / "config.json")


def tree_of(folder: Path) -> dict[str, Any]:
    """What a model's method kept, as nested dicts of arrays in numpy.

    Raises:
      UserError: there is none yet, or it is damaged.
    """
    if packed.is_packed(folder):
        return packed.tree_of(folder)
    if not (folder / MODEL).exists():
        raise UserError(f"--workdir={folder}: holds no trained model; run --mode=train first")
    return checkpoint.load_tree(folder / MODEL)
