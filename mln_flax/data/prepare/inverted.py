"""Masks that show their lesions black on white, to be refused."""

import numpy as np

from mln_flax.data.prepare import tiles

# All chosen: certain air is so much of the edge and spreads so little of its contrast to the
# breast; of it an inverted mask labels all but what the breast's outline misses.
_AIR, _EVEN, _LABELED = 0.25, 0.05, 0.99
REASON = (
    "a mask that labels the background and most of the breast, as one whose lesions are black on "
    "white; invert it"
)


def is_inverted(mask: np.ndarray, image: np.ndarray) -> bool:
    """Whether a mask shows its lesions black on white.

    It labels most of the image, most of the breast, and all air at the image's edge, which nobody
    labels; where it is not certain that there is air, all of the edge. So the label of a lesion
    that fills most of a crop is none: it leaves a part of the edge.

    Args:
      mask: [H, W], labeled where it is not 0.
      image: [H, W], on which it was drawn.
    """
    labeled = mask != 0
    if labeled.mean() <= 0.5:  # the usual case, in which the breast need not be looked for
        return False
    breast = tiles.breast_mask(image)
    if labeled[breast].sum() <= breast.sum() / 2:
        return False
    edge = np.ones(image.shape, bool)
    edge[1:-1, 1:-1] = False
    air = edge & ~breast
    if air.sum() >= _AIR * edge.sum() and _is_even(image[air], image[breast]):
        return bool(labeled[air].mean() >= _LABELED)
    return bool(labeled[edge].all())


def _is_even(air: np.ndarray, breast: np.ndarray) -> bool:
    """Whether gray levels vary as little as those of air; the darker half of a crop's do not."""
    low, middle, high = np.percentile(air, (10, 50, 90))
    return bool(high - low <= _EVEN * abs(np.median(breast) - middle))
