"""The passes of MLN-net as they are compiled: what every way to answer is made of."""

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mln_flax import parallel
from mln_flax.methods.mln import branches, image_rules, matching
from mln_flax.methods.mln.bank import ViewMap
from mln_flax.methods.mln.image_features import image_features
from mln_flax.methods.mln.image_rules import Chooser, Compared
from mln_flax.methods.mln.matching import Look
from mln_flax.methods.mln.settings import MlnSettings
from mln_flax.models.core import all_branches


class Programs(NamedTuple):
    """The passes of a network, compiled once for a run; images are [B, H, W, 1]."""

    model: nn.Module
    settings: MlnSettings
    views: ViewMap
    branch_names: tuple[str, ...]
    chunk: int  # images of one pass: always full, one shape and so one compilation
    order: Callable[[], tuple[str, ...]]  # the paths of the norms as the network computes them
    # (variables, image) -> probability [B, k, H, W], moments of all branches
    every: Callable[[Any, np.ndarray], tuple[np.ndarray, Any]]
    # (variables, image, branch [B] or weights [B, k]) -> probability [B, H, W]
    single: Callable[[Any, np.ndarray, np.ndarray], np.ndarray]
    # (variables, image, branch [B]) -> probability, moments
    with_moments: Callable[[Any, np.ndarray, np.ndarray], tuple[np.ndarray, Any]]
    # layers -> (variables, image) -> their moments in all branches
    first: Callable[[tuple[str, ...]], Callable[[Any, np.ndarray], Any]]
    # (chooser, image) -> what the image's own numbers say
    compare: Callable[[Chooser, np.ndarray], Compared]
    # rule -> ((variables, chooser), image) -> distances [B, k], probability in the nearest branch
    by_image: Callable[[str], Callable[[Any, np.ndarray], tuple[np.ndarray, np.ndarray]]]

    # (chooser, image) -> what decides the answer to images whose grays are matched
    look: Callable[[Chooser, np.ndarray], Look]
    # ((variables, grays of the source), image, packed look [B, ...]) -> probability [B, H, W]
    in_matched: Callable[[Any, np.ndarray, np.ndarray], np.ndarray]

    def shares(self, distances: Any) -> Any:
        """What each branch contributes to an answer by the settings: [B, k] -> [B, k]."""
        chosen, inverted = self.settings, self.views.inverted_branches()
        return branches.shares(
            distances, chosen.answer, chosen.temperature, chosen.mixing, inverted
        )

    def merged(self, probabilities: Any, shares: Any) -> tuple[Any, Any]:
        """Shares [B, k] and one map [B, H, W] of those of all branches, by the settings."""
        chosen = self.settings
        return branches.merged(probabilities, shares, chosen.answer, chosen.entropy_temperature)

    def padded(self, image: np.ndarray) -> np.ndarray:
        """Images [n, H, W] as a full batch [chunk, H, W, 1]."""
        return parallel.pad_rows(image[..., None].astype(np.float32), self.chunk)


def programs(
    model: nn.Module,
    settings: MlnSettings,
    views: ViewMap,
    branch_names: tuple[str, ...],
    side: int,
    chunk: int,
    devices: Any = None,
) -> Programs:
    """The passes of a network for images of about `side` pixels; nothing is compiled yet."""
    compiled = partial(parallel.parallel_map, devices=devices)
    return Programs(
        model=model,
        settings=settings,
        views=views,
        branch_names=branch_names,
        chunk=chunk,
        order=functools.cache(partial(norm_order, model, side)),
        every=compiled(partial(in_every, model)),
        single=compiled(partial(in_branch, model)),
        with_moments=compiled(partial(with_moments, model)),
        first=functools.cache(lambda layers: compiled(partial(first_moments, model, layers))),
        compare=compiled(partial(compare, views)),
        look=compiled(partial(look_of, views)),
        in_matched=compiled(partial(in_matched, model)),
        by_image=functools.cache(lambda rule: compiled(partial(in_nearest, model, views, rule))),
    )


def in_every(model: nn.Module, variables: Any, image: Any) -> tuple[jax.Array, Any]:
    """Probability [B, k, H, W] in all branches, and their moments."""
    logits, moments = all_branches(model, variables, image)
    return jax.nn.softmax(logits)[..., 1], moments


def with_moments(model: nn.Module, variables: Any, image: Any, branch: Any) -> Any:
    """Probability [B, H, W] in the branch of each image, and the moments there.

    `branch` is int32 [B], or float32 [B, k]: one pass with the branches' scales and shifts mixed.
    """
    logits, out = model.apply(variables, image, branch, train=False)
    return jax.nn.softmax(logits)[..., 1], out["moments"]


def in_branch(model: nn.Module, variables: Any, image: Any, branch: Any) -> jax.Array:
    """Probability [B, H, W] in the branch or the mixture of each image."""
    return with_moments(model, variables, image, branch)[0]


def compare(views: ViewMap, known: Chooser, image: Any) -> Compared:
    """What the numbers of images [B, H, W, 1] say of views and branches."""
    features = image_features(image[..., 0])
    return image_rules.compare(known, features, views.inverted(), views.branch)


def look_of(views: ViewMap, known: Chooser, image: Any) -> Look:
    """What decides how images [B, H, W, 1] are answered whose grays are matched."""
    return matching.look(views, known, image[..., 0])


def in_matched(model: nn.Module, known: tuple[Any, Any], image: Any, packed: Any) -> jax.Array:
    """Probability [B, H, W] in the nearest branch, of images with the grays of the source there."""
    (variables, grays), seen = known, Look.of(packed)
    shown = matching.matched(grays, seen, image[..., 0])[..., None]
    return in_branch(model, variables, shown, branches.select(seen.distances))


def in_nearest(
    model: nn.Module, views: ViewMap, rule: str, known: tuple[Any, Chooser], image: Any
) -> tuple[jax.Array, jax.Array]:
    """Distances [B, k] by a rule of the image, and the probability in the nearest branch."""
    variables, of_rules = known
    distances = compare(views, of_rules, image).by_rule[rule]
    return distances, in_branch(model, variables, image, branches.select(distances))


def first_moments(model: nn.Module, layers: Sequence[str], variables: Any, image: Any) -> Any:
    """The moments of some layers, in all branches: layer -> (mean [B, k, C], std [B, k, C]).

    What of the network they do not need is not compiled: nothing that is returned depends on it.
    """
    _, moments = all_branches(model, variables, image)
    return {layer: moments[layer] for layer in layers}


def norm_order(model: nn.Module, side: int) -> tuple[str, ...]:
    """The paths of the norms in the order in which the network computes them.

    No jax function returns it: dictionaries that pass one come back sorted by name.
    """
    order: list[str] = []

    def note(key, image, branch):
        (_, out), _ = model.init_with_output(key, image, branch, train=False)
        order.extend(out["moments"])

    image = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
    jax.eval_shape(note, jax.random.key(0), image, jax.ShapeDtypeStruct((1,), jnp.int32))
    return tuple(order)
