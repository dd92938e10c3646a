"""What every method is: three pure functions, and the state that training carries."""

from collections.abc import Callable
from typing import Any, NamedTuple

from mln_flax.types import Batch, Prediction


class TrainState(NamedTuple):
    """All that training needs to go on: nothing else is saved or restored."""

    step: Any  # int32 scalar: optimizer steps done
    params: Any
    domain_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What the network is applied with."""
        return {"params": self.params, "domain_stats": self.domain_stats}


class Method(NamedTuple):
    """What is trained and how it answers.

    `update` is written for one device of several, with the device axis named 'batch'; it gives
    the same result on every device.
    """

    init: Callable[[Any, Any], TrainState]  # (random key, image [B, H, W, 1])
    update: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]
    predict: Callable[[Any, Any], Prediction]  # (variables, image [B, H, W, 1])
