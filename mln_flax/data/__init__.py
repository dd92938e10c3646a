"""Where images come from. Nothing in here knows jax."""

import importlib

ROOMS = (
    "phantoms.phantom",
    *(f"sets.{name}" for name in "cbis_ddsm inbreast ffdm_dbt mini_mias folder npz".split()),
)


def enter_all() -> None:
    """Enters every data set in the registries `data.core.loaders` and `data.core.collections`."""
    for room in ROOMS:
        importlib.import_module(f"mln_flax.data.{room}")
