"""The smallest network with branches, statistics and something random in training."""

import flax.linen as nn

from mln_flax.models import moments
from mln_flax.models.norms import DomainLayerNorm
from mln_flax.types import AXIS


class Noisy(nn.Module):
    """A convolution, a norm with its moments, and dropout of half of the features."""

    num_branches: int
    num_classes: int = 2

    @nn.compact
    def __call__(self, image, branch, train=False):
        norm = DomainLayerNorm(self.num_branches, axis_name=AXIS, name="norm")
        with moments.collected() as norm_moments:
            x = norm(nn.Conv(4, (3, 3), name="conv")(image), branch, train=train)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x), {"moments": norm_moments}
