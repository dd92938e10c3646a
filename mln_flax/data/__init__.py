"""Where images come from. Nothing in here knows jax."""

import importlib
import pkgutil


def enter_all() -> None:
    """Enters every data set in the registries `data.core.loaders` and `data.core.collections`.

    Every file of `sets/` that registers one is a data set; `phantom` is drawn.
    """
    importlib.import_module("mln_flax.data.phantoms.phantom")
    sets = importlib.import_module("mln_flax.data.sets")
    for entry in pkgutil.iter_modules(sets.__path__):
        importlib.import_module(f"{sets.__name__}.{entry.name}")
