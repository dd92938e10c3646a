"""An image's grays as those of the source: its quantiles are moved to the source's mean ones.

What is needed of an image, its histogram and its polarity, are sums: of tiles that share a choice
they are added up, and all tiles of an image are mapped alike.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mln_flax.data.images import Images, chunks
from mln_flax.methods.mln import branches, image_rules
from mln_flax.methods.mln.bank import ViewMap
from mln_flax.methods.mln.image_features import foreground, image_features
from mln_flax.methods.mln.image_rules import Chooser
from mln_flax.parallel import pad_rows

BINS = 256  # of the histogram of grays in [0, 1]
# Of the breast's pixels; calcifications are above the last, where the map goes on to white.
LEVELS = np.array([0.005, *np.linspace(0.02, 0.98, 33), 0.995], np.float32)
END = 1e-3  # gray levels beyond 0 and 1 to where the map of grays goes on
APART = 1e-5  # gray levels; quantiles that are equal are taken for so far apart


class Look(NamedTuple):
    """What of images decides how they are answered; rows of images that share it are summed."""

    distances: Any  # [B, k], from the branches
    sides: Any  # [B, 2]: minus the logs of the probabilities of upright and inverted
    histogram: Any  # [B, BINS]: the share of the pixels that are breast and of that gray

    def packed(self) -> Any:
        """As one array [B, k + 2 + BINS]."""
        xp = self.distances.__array_namespace__()
        return xp.concatenate(tuple(self), axis=1)

    @classmethod
    def of(cls, packed: Any) -> "Look":
        """What `packed` put together."""
        k = packed.shape[1] - 2 - BINS
        return cls(packed[:, :k], packed[:, k : k + 2], packed[:, k + 2 :])


def look(views: ViewMap, known: Chooser, image: Any) -> Look:
    """What images [B, H, W] add to the choice that they share with others, by `polarity`."""
    features, inverted = image_features(image), views.inverted()
    of_branches = image_rules.compare(known, features, inverted, views.branch)
    if len(set(inverted)) == 2:
        by_side = [int(is_inverted) for is_inverted in inverted]
        sides = image_rules.compare(known, features, inverted, by_side).by_rule["polarity"]
    else:  # views of one polarity say nothing of the other
        unseen = jnp.asarray([float(inverted[0]), float(not inverted[0])]) * branches.SUREST
        sides = jnp.broadcast_to(unseen, (image.shape[0], 2))
    distances, sides = (
        branches.pooled(values, "polarity") for values in (of_branches.by_rule["polarity"], sides)
    )
    return Look(distances, sides, histogram(image))


def look_in(polarity: Any, shares: Any, image: Any) -> Look:
    """As `look` of images [B, H, W] whose branches are given by shares [B, k].

    Polarity is by the weights of the ImageBank alone. There is no gradient to the image.
    """
    image = jax.lax.stop_gradient(image)
    weights = jnp.asarray(polarity, jnp.float32)
    margin = jnp.dot(image_features(image).polarity, weights, precision=image_rules.EXACT)
    sides = -jnp.stack([jax.nn.log_sigmoid(margin), jax.nn.log_sigmoid(-margin)], axis=1)
    return Look(-jnp.asarray(shares), sides, histogram(image))


def histogram(image: jax.Array) -> jax.Array:
    """The share of the pixels of each gray that are `foreground`: [B, H, W] -> [B, BINS]."""
    inside = foreground(image)
    place = jnp.clip(jnp.floor(image * BINS), 0, BINS - 1).astype(jnp.int32)

    def counted(place, inside):
        return jnp.zeros(BINS).at[place.ravel()].add(inside.ravel().astype(jnp.float32))

    return jax.vmap(counted)(place, inside) / (image.shape[1] * image.shape[2])


def quantiles(histogram: Any) -> jax.Array:
    """The grays below which LEVELS of the breast lie: [B, BINS] -> [B, levels], growing strictly.

    A bin's pixels are spread evenly over it.
    """
    below = jnp.cumsum(histogram, axis=1)
    below = jnp.pad(below / jnp.maximum(below[:, -1:], 1e-9), ((0, 0), (1, 0)))
    edges = jnp.linspace(0, 1, BINS + 1)
    rising = below + jnp.arange(BINS + 1)[None] * 1e-7  # so that places are found in empty bins
    values = jax.vmap(lambda row: jnp.interp(LEVELS, row, edges))(rising)
    return values + (jnp.arange(len(LEVELS)) * APART)[None]


def of_source(views: ViewMap, images: Images, chunk: int) -> np.ndarray:
    """The `source_grays` of training images; no network takes part."""
    histograms: list[list[np.ndarray]] = [[] for _ in views.names]
    for rows, count in chunks(images.total, chunk):
        image = images.stack(rows)[0]
        for of_view, view in zip(histograms, views.functions(), strict=True):
            of_view.append(np.asarray(_compiled_histogram(pad_rows(view(image), chunk)))[:count])
    return source_grays([np.concatenate(of_view) for of_view in histograms], views)


_compiled_histogram = jax.jit(histogram)


def source_grays(histograms: list[np.ndarray], views: ViewMap) -> np.ndarray:
    """The mean quantiles of the source's images in each branch, upright and inverted: [k, 2, L].

    Args:
      histograms: of each view, [N, BINS] of the training images that it shows.
      views: of the run. A branch without views of one polarity has those of the other there.
    """
    mean = np.stack([np.asarray(quantiles(of_view)).mean(axis=0) for of_view in histograms])
    inverted, branch = np.asarray(views.inverted()), np.asarray(views.branch)
    grays = np.zeros((views.num_branches, 2, len(LEVELS)), np.float32)
    for b in range(views.num_branches):
        for side in (0, 1):
            own = (branch == b) & (inverted == bool(side))
            grays[b, side] = mean[own if own.any() else branch == b].mean(axis=0)
    return grays


def matched(grays: Any, seen: Look, image: jax.Array) -> jax.Array:
    """Images [B, H, W] with the quantiles of the source in the nearest branch, of their polarity.

    The map is monotone: lines between quantiles, and on to 0 and 1 beyond them.

    Args:
      grays: of `source_grays`.
      seen: of each image, by itself or of all that share a choice.
      image: [B, H, W].
    """
    nearest, side = branches.select(seen.distances), branches.select(seen.sides)
    wanted = jnp.asarray(grays)[nearest, side]
    own = quantiles(seen.histogram)
    xs, ys = (
        jnp.pad(values, ((0, 0), (1, 1)), constant_values=((0, 0), (-END, 1 + END)))
        for values in (own, wanted)
    )

    def mapped(image, x, y):
        return jnp.interp(image, x, y)

    return jnp.clip(jax.vmap(mapped)(image, xs, ys), 0, 1)
