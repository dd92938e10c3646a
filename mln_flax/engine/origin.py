"""What an answer was made of: hashes of file, model and settings, and versions."""

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mln_flax import files
from mln_flax.engine import workdir as workdirs
from mln_flax.engine.predictor import Predictor
from mln_flax.settings import after_training, flat, to_dict

LIBRARIES = ("jax", "flax", "numpy", "scipy")


class Origin(NamedTuple):
    """What answers: hashes of the model and of its settings, and versions."""

    model: str
    config: str
    model_spacing_mm: tuple[float, float] | None
    versions: dict[str, str]

    def hashes(self, file: str) -> dict[str, str]:
        """What an answer for a file of this hash was made of."""
        return {"file": file, "model": self.model, "config": self.config}


def origin_of(predictor: Predictor) -> Origin:
    """What answers, by its hashes: of all that was kept, and of the settings that matter."""
    run = predictor.run
    kept = run.kind.to_tree(predictor.fitted)
    whole = predictor.whole
    settings = flat(to_dict(run.config))
    passing = after_training(run.config)
    matter = {
        name: value
        for name, value in settings.items()
        if name != "predict.batch_size"
        and (name.startswith(("predict.", "method.")) or name not in passing)
    }
    text = repr(sorted(matter.items())) + repr(whole)
    return Origin(
        tree_hash(kept),
        text_hash(text),
        whole.spacing_mm if whole else None,
        versions(workdirs.commit()),
    )


def file_hash(path: Path) -> str:
    """The SHA-256 of a file."""
    with files.naming(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_hash(text: str) -> str:
    """The SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def tree_hash(tree: Any) -> str:
    """The SHA-256 of nested dicts of arrays: of names, kinds, shapes and values."""
    digest = hashlib.sha256()

    def add(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for name in sorted(node):
                add(node[name], f"{path}/{name}")
            return
        array = np.ascontiguousarray(node)
        digest.update(f"{path} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())

    add(tree, "")
    return digest.hexdigest()


def versions(commit: str) -> dict[str, str]:
    """What answered: this package's commit and the libraries that take part."""
    return {"mln_flax": commit} | {name: metadata.version(name) for name in LIBRARIES}
