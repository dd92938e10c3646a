"""MLN-net in JAX/Flax: clustered microcalcifications on mammography machines never seen before.

`Predictor` and `read_image` can be imported from here; jax is imported when they are. XLA for CPUs
reads its flags once, when jax first computes: so they are set here, before anything else.
"""

from typing import TYPE_CHECKING, Any

from mln_flax import cpu

if TYPE_CHECKING:
    from mln_flax.engine.inputs import read_image as read_image
    from mln_flax.engine.predictor import Predictor as Predictor

__all__ = ["Predictor", "read_image"]

cpu.prefer_eigen()


def __getattr__(name: str) -> Any:
    if name == "Predictor":
        from mln_flax.engine.predictor import Predictor

        return Predictor
    if name == "read_image":
        from mln_flax.engine.inputs import read_image

        return read_image
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
