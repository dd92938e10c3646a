"""What an answer was made of: hashes of file, model and settings, and versions."""

from importlib import metadata
from typing import Any, NamedTuple

from mln_flax.config import Config
from mln_flax.engine import packed, whole_model
from mln_flax.engine import workdir as workdirs
from mln_flax.engine.hashes import text_hash, tree_hash
from mln_flax.engine.predictor import Predictor
from mln_flax.settings import after_training, flat, to_dict

# Settings that name files and folders, by their groups.
PLACES = {
    "data": ("dir", "prepared_dir", "also", "also_dirs"),
    "model": ("pretrained", "init_from"),
    "benchmark": ("against",),
}
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
    settings = flat(without_places(run.config))
    passing = after_training(run.config)
    matter = {
        name: value
        for name, value in settings.items()
        if name != "predict.batch_size"
        and (name.startswith(("predict.", "method.")) or name not in passing)
    }
    text = repr(sorted(matter.items())) + repr(whole_model.decisive(whole))
    return Origin(
        tree_hash(kept),
        text_hash(text),
        whole.spacing_mm if whole else None,
        versions(workdirs.commit()),
    )


def without_places(config: Config) -> dict[str, Any]:
    """The settings without files and folders of this machine: answers are given to others."""
    stored = to_dict(config)
    for group, names in PLACES.items():
        for name in names:
            if stored[group].get(name) not in (None, packed.BOX):
                stored[group][name] = type(stored[group][name])()
    return stored


def versions(commit: str) -> dict[str, str]:
    """What answered: this package's commit and the libraries that take part."""
    return {"mln_flax": commit} | {name: metadata.version(name) for name in LIBRARIES}
