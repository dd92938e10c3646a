"""MLN-net's answer as one function that jax can trace: to export it, or to take its gradient."""

from collections.abc import Callable
from typing import Any

import jax

from mln_flax.methods.mln import branches, image_rules, matching
from mln_flax.methods.mln.answer import is_early, layer_distances
from mln_flax.methods.mln.bank import Fitted
from mln_flax.methods.mln.matching import Look
from mln_flax.methods.mln.passes import (
    Programs,
    compare,
    first_moments,
    in_branch,
    in_every,
    in_matched,
)
from mln_flax.methods.mln.recorded import UNION


def traced(programs: Programs, fitted: Fitted) -> Callable[..., dict[str, Any]]:
    """A pure function that answers images float32 [B, H, W] by the run's settings.

    It returns "probability" [B, H, W], "branch" int32 [B], the nearest, and what chose it:
    "distances" and "shares" [B, k]; and "look" [B, k], as `Method.look`. Every image chooses for
    itself, whatever shares a choice in `answer`; or by distances [B, k] that are given as a second
    argument, as `common` there. B may be symbolic in `jax.export`, H and W may not: the numbers of
    the image are made for a size.
    """
    model, settings = programs.model, programs.settings
    rule, known = settings.selection, image_rules.chooser(fitted.bank.image)

    def distances(image: Any, moments: Any, layers: tuple[str, ...]) -> jax.Array:
        if rule in branches.BY_IMAGE:
            return compare(programs.views, known, image[..., None]).by_rule[rule]
        return layer_distances(fitted, rule, layers, moments, image).sum(axis=1)

    def answered(nearness: Any, image: Any) -> tuple[jax.Array, jax.Array]:
        shares = programs.shares(nearness)
        if settings.answer in branches.BY_MAPS:
            of_branches, _ = in_every(model, fitted.variables, image[..., None])
            return programs.merged(of_branches, shares)
        return shares, probability(programs, fitted, shares, image)

    def choose_first(image: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        layers: tuple[str, ...] = ()
        moments: dict[str, Any] = {}
        if rule not in branches.BY_IMAGE:
            layers = programs.order()[: int(fitted.early[rule].norms)]
            moments = first_moments(model, layers, fitted.variables, image[..., None])
        nearness = distances(image, moments, layers)
        return nearness, *answered(nearness, image)

    def choose_last(image: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        of_branches, moments = in_every(model, fitted.variables, image[..., None])
        nearness = distances(image, moments, programs.order())
        return nearness, *programs.merged(of_branches, programs.shares(nearness))

    def choose_by(image: Any, common: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        return common, *answered(common, image)

    def match(image: Any, common: Any = None) -> dict[str, Any]:
        seen = matching.look(programs.views, known, image) if common is None else Look.of(common)
        packed = seen.packed() if common is None else common
        return {
            "probability": in_matched(
                model, (fitted.variables, fitted.grays), image[..., None], packed
            ),
            "branch": branches.select(seen.distances),
            "distances": seen.distances,
            "look": packed,
            "shares": programs.shares(seen.distances),
        }

    def respond(image: Any, common: Any = None) -> dict[str, Any]:
        if common is None:
            choose = choose_first if is_early(programs, fitted) else choose_last
            nearness, shares, together = choose(image)
        else:
            nearness, shares, together = choose_by(image, common)
        return {
            "probability": together,
            "branch": branches.select(nearness),
            "distances": nearness,
            "look": branches.pooled(nearness, rule),
            "shares": shares,
        }

    return match if settings.matching else respond


def probability(programs: Programs, fitted: Fitted, shares: Any, image: Any) -> jax.Array:
    """The probability [B, H, W] of images [B, H, W] in an answer with these shares [B, k].

    With matching an image's grays are moved by its own quantiles, also where it is a tile.

    Traceable: a change of the image changes what the branches say, and not which of them answer.
    """
    settings, batch = programs.settings, image[..., None]
    if settings.matching:
        packed = matching.look_in(fitted.bank.image.polarity, shares, image).packed()
        return in_matched(programs.model, (fitted.variables, fitted.grays), batch, packed)
    if settings.answer == "branch":
        return in_branch(programs.model, fitted.variables, batch, branches.select(-shares))
    if settings.answer == "mixed":
        return in_branch(programs.model, fitted.variables, batch, shares)
    of_branches, _ = in_every(programs.model, fitted.variables, batch)
    return branches.combine(of_branches, None if settings.answer == UNION else shares)
