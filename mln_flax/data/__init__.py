"""Where images come from. Nothing in here knows jax."""

import importlib

ROOMS = ("phantom", "mini_mias")


def enter_all() -> None:
    """Enters every data set in the registry `data.core.loaders`."""
    for room in ROOMS:
        importlib.import_module(f"mln_flax.data.{room}")
