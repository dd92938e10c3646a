"""A packed model: a folder of two files with all that a trained model needs to answer.

`weights.safetensors` has every array that the method keeps, by its path. `model.json` has the
settings, what is known of false marks on whole images, where the weights come from, and hashes. The
package carries one such folder itself, `DETECTOR`.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import flax

from mln_flax import files, settings
from mln_flax.config import Config
from mln_flax.types import Record, UserError

BOX = "detector"  # what the weights in the box are called in settings
DETECTOR = Path(__file__).resolve().parents[1] / BOX
WEIGHTS, FACTS = "weights.safetensors", "model.json"
FORMAT = 1  # of both files
FIELDS = ("config", "hashes", "whole")  # that reading needs


def folder_of(name: str) -> Path:
    """The folder that a setting names: `detector` is the one that the package carries."""
    return DETECTOR if name == BOX else Path(name)


def is_box(folder: Path) -> bool:
    """Whether a folder is the one that the package carries."""
    return folder.resolve() == DETECTOR.resolve()


def is_packed(folder: Path) -> bool:
    """Whether a folder is for a packed model; in the box there may be none yet."""
    return is_box(folder) or any((folder / name).is_file() for name in (WEIGHTS, FACTS))


def title(folder: Path) -> str:
    """What answers are said to come from; no path of this machine."""
    if is_packed(folder):
        return "weights in the box" if is_box(folder) else "weights of a packed model"
    return "weights of a workdir"


def facts(folder: Path) -> Record:
    """What `model.json` holds.

    Raises:
      UserError: there are no weights in the box, or the file is missing, damaged, or of another
        format.
    """
    if is_box(folder) and not any((folder / name).exists() for name in (WEIGHTS, FACTS)):
        raise UserError(
            f"this copy of the package holds no weights (mln_flax/{BOX}/{WEIGHTS} is missing): "
            "give --workdir of a run that you trained"
        )
    path = folder / FACTS
    stored = files.read_json(path)
    if not isinstance(stored, dict) or "format" not in stored:
        raise UserError(f"{path}: --mode=pack did not write it: it names no format")
    if stored["format"] != FORMAT:
        raise UserError(
            f"{path}: format {stored['format']!r}; this version of mln_flax reads format {FORMAT}"
        )
    missing = [name for name in FIELDS if not isinstance(stored.get(name), dict)]
    if missing or stored["hashes"].get("facts") != facts_hash(stored):
        why = f"{missing[0]} is missing" if missing else "it is not as --mode=pack wrote it"
        raise UserError(f"{path}: is damaged ({why}); {_remedy(folder)}")
    return stored


def facts_hash(stored: Record) -> str:
    """The SHA-256 of all that `model.json` holds but the hash itself."""
    hashes = {name: value for name, value in stored["hashes"].items() if name != "facts"}
    text = json.dumps(files.plain(stored | {"hashes": hashes}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def config_of(folder: Path) -> Config:
    """The settings that the model was trained and packed with; raises UserError as `facts`."""
    return settings.from_dict(facts(folder)["config"], where=f"{folder / FACTS}: config")


def tree_of(folder: Path) -> dict[str, Any]:
    """What the method kept, as nested dicts of arrays in numpy, to the bit.

    Raises:
      UserError: as `facts`, or the weights are missing or are not those that `model.json` names.
    """
    import safetensors.numpy

    expected, path = facts(folder)["hashes"].get("weights"), folder / WEIGHTS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {_remedy(folder)}") from None
    if hashlib.sha256(content).hexdigest() != expected:
        raise UserError(
            f"{path}: is damaged (its hash is not the one in {FACTS}); {_remedy(folder)}"
        )
    return flax.traverse_util.unflatten_dict(safetensors.numpy.load(content), sep="/")


def _remedy(folder: Path) -> str:
    return "install mln_flax again" if is_box(folder) else "pack it again by --mode=pack"
