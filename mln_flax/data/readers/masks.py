"""From the pages of a mask file to one mask: two values on each, all pages over each other."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mln_flax.data.core import Unusable

# A mask in lossy JPEG: most pixels stay near the two values, few at the outline do not. Chosen.
_NEAR, _ASTRAY = 1 / 8, 0.01
SEVERAL_IMAGES = (
    "a mask of several frames that are not sure to show one image; store a mask for each image"
)


class Page(NamedTuple):
    """One page, frame or segment of a mask file, as stored."""

    pixels: np.ndarray  # [H, W]
    lossy: bool = False
    inverted: bool = False  # the largest value is black


class _Level(NamedTuple):
    """The two ends of a page's values, turned so that the larger one is the brighter."""

    dark: float
    bright: float


def union(pages: Iterable[Page]) -> np.ndarray:
    """The label of a mask file, bool [H, W]: True where it is on any of its pages.

    On a page it is where the brighter of two values is. A page of one value has it everywhere
    where that is not the background of the others, nowhere otherwise; a file of one value has it
    where that is not 0.

    Raises:
      Unusable: pages of different sizes or backgrounds, or one with other than two values.
    """
    mask = np.zeros((0, 0), bool)
    levels: list[_Level] = []
    slack = 0.0
    for number, page in enumerate(pages, 1):
        bright, level = _bright(page, number)
        if levels and bright.shape != mask.shape:
            raise Unusable(
                "a mask whose pages have different sizes; they must all be of the image's own size"
            )
        mask = mask | bright if levels else bright
        levels.append(level)
        slack = max(slack, (level.bright - level.dark) * _NEAR if page.lossy else 0)
    ends = {end for level in levels for end in level}
    if len(ends) == 1:
        return np.full(mask.shape, ends != {0})
    two = [level for level in levels if level.dark != level.bright]
    background = min(level.dark for level in two or levels)
    if any(level.dark > background + slack for level in two):
        raise Unusable("a mask whose pages have different backgrounds; give them all the same one")
    full = any(level.bright > background + slack for level in levels if level not in two)
    return np.ones_like(mask) if full else mask


def two_valued(pixels: np.ndarray, lossy: bool = False) -> bool:
    """Whether pixels have at most two values, as a mask has.

    Args:
      pixels: as stored.
      lossy: they come from a lossy JPEG: nearly all must be near one of the two extremes.
    """
    low, high = pixels.min(), pixels.max()
    if not lossy:
        return not ((pixels != low) & (pixels != high)).any()
    near = (float(high) - float(low)) * _NEAR
    astray = (pixels > low + near) & (pixels < high - near)
    return bool(astray.mean() <= _ASTRAY)


def _bright(page: Page, number: int) -> tuple[np.ndarray, _Level]:
    """Where the brighter of a page's two values is (nowhere if it has one), and the values."""
    pixels = page.pixels
    if not two_valued(pixels, page.lossy):
        where = f" on page {number}" if number > 1 else ""
        raise Unusable(
            f"a mask with {len(np.unique(pixels))} gray values{where}; a mask has two, background "
            "and label: threshold it, or look for the mask in another file"
        )
    low, high = float(pixels.min()), float(pixels.max())
    if low == high:
        return np.zeros(pixels.shape, bool), _Level(*(2 * [-low if page.inverted else low]))
    above = pixels > (low + high) / 2
    return (~above, _Level(-high, -low)) if page.inverted else (above, _Level(low, high))
