"""How a trained MLN-net answers: in all branches, or in those that are chosen beforehand.

The choice compares moments of the network's norms. Those of the first few may choose as all of
them do, and rules that look at the image alone need none: then k branches cost little more than
one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mln_flax import parallel
from mln_flax.data.images import chunks
from mln_flax.methods.core import Answers
from mln_flax.methods.mln import branches, image_rules, recorded
from mln_flax.methods.mln.bank import Fitted
from mln_flax.methods.mln.image_features import foreground_mean
from mln_flax.methods.mln.image_rules import Compared
from mln_flax.methods.mln.matching import Look
from mln_flax.methods.mln.mixtures import matched, mixed, point
from mln_flax.methods.mln.passes import Programs
from mln_flax.methods.mln.recorded import ENTROPY, MATCHED, MIXED, UNION, WEIGHTED
from mln_flax.types import Record

ANSWER = "answer"  # the map of an answer for which no other map was needed


class Seen(NamedTuple):
    """What the network says of N images in each of its k branches."""

    probability: np.ndarray  # float32 [N, k, H, W]: of a calcification
    # rule -> [N, M, k], smaller is nearer: by the first 1, 2, ..., M norms; without norms M is 1
    by_norms: dict[str, np.ndarray]
    compared: Compared  # what the images' own numbers say


def see(programs: Programs, fitted: Fitted, image: np.ndarray) -> Seen:
    """Images [N, H, W] in all branches, with their distances by every rule."""
    known, parts = image_rules.chooser(fitted.bank.image), []
    for rows, count in chunks(len(image), programs.chunk):
        batch = programs.padded(image[rows])
        probability, moments = programs.every(fitted.variables, batch)
        compared = programs.compare(known, batch)
        added = {  # numpy's, as jax would sum them in another order
            rule: np.asarray(
                layer_distances(fitted, rule, programs.order(), moments, batch[..., 0])
            )
            for rule in branches.BY_MOMENTS
        }
        distances = {rule: np.cumsum(of_rule, axis=1) for rule, of_rule in added.items()}
        distances |= {rule: of_rule[:, None] for rule, of_rule in compared.by_rule.items()}
        parts.append(jax.tree.map(lambda x, n=count: x[:n], Seen(probability, distances, compared)))
    seen = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    ordered = {rule: seen.by_norms[rule] for rule in branches.SELECTIONS}  # jax sorts the names
    return seen._replace(by_norms=ordered)


def answer_all(programs: Programs, fitted: Fitted, image: np.ndarray) -> Answers:
    """Every branch and all that answers by several as maps, with what chooses between them."""
    seen, settings, names = see(programs, fitted, image), programs.settings, programs.branch_names
    maps = {name: seen.probability[:, branch] for branch, name in enumerate(names)}
    maps[UNION] = branches.combine(seen.probability)
    maps |= together(programs, fitted, seen, image, (WEIGHTED, *fitted.mixtures))
    facts = facts_of(programs, fitted, seen)
    shipped = recorded.of_settings(settings)
    return Answers(
        maps=maps,
        points={name: point(fitted, name) for name in maps},
        chosen=[
            shipped if shipped in maps else names[fact["chosen"][settings.selection]]
            for fact in facts
        ],
        facts=facts,
        kept=[
            {rule: seen.by_norms[rule][i] for rule in branches.BY_MOMENTS}
            for i in range(len(image))
        ],
    )


def together(
    programs: Programs, fitted: Fitted, seen: Seen, image: np.ndarray, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """The maps [N, H, W] of answers by several branches, by their names in the records.

    A mixture takes a pass of its own; the others are made of what was seen.
    """
    settings, distances = programs.settings, seen.by_norms["polarity"][:, -1]
    maps = {}
    for name in names:
        if name == WEIGHTED:
            shares = branches.weights(distances, settings.temperature)
            maps[name] = branches.combine(seen.probability, shares)
        elif name == ENTROPY:
            shares = branches.entropy_weights(seen.probability, settings.entropy_temperature)
            maps[name] = branches.combine(seen.probability, shares)
    for mixing, name in MIXED.items():
        if name in names and seen.probability.shape[1] == 1:
            maps[name] = seen.probability[:, 0]
        elif name in names:
            weights = branches.mixing_weights(
                distances, mixing, settings.temperature, programs.views.inverted_branches()
            )
            maps[name] = mixed(programs, fitted, image, weights)
    if MATCHED in names:
        packed = look(_with_matching(programs), fitted, image)
        maps[MATCHED] = matched(programs, fitted, image, packed)
    return maps


def _with_matching(programs: Programs) -> Programs:
    return programs._replace(settings=dataclasses.replace(programs.settings, matching=True))


def facts_of(programs: Programs, fitted: Fitted, seen: Seen) -> list[Record]:
    """What the record of each image says of its choice."""
    return [_facts(programs, fitted, seen.by_norms, i) for i in range(len(seen.probability))]


def _facts(programs: Programs, fitted: Fitted, by_norms: dict[str, np.ndarray], i: int) -> Record:
    """What the record of image i says of its choice: by all norms, and by those that suffice."""
    by_all = {rule: distances[:, -1] for rule, distances in by_norms.items()}
    return {
        "answer": recorded.of_settings(programs.settings),
        "selection": programs.settings.selection,
        "branches": list(programs.branch_names),
        "distances": {rule: of_all[i].tolist() for rule, of_all in by_all.items()},
        "chosen": {rule: int(branches.select(of_all[i])) for rule, of_all in by_all.items()},
        "chosen_early": {
            rule: int(branches.select(by_norms[rule][i, int(early.norms) - 1]))
            for rule, early in fitted.early.items()
        },
    }


def look(programs: Programs, fitted: Fitted, image: np.ndarray) -> np.ndarray:
    """What decides how images [N, H, W] are answered, to be summed over those that share it.

    Distances [N, k] from the branches; with matching a packed `Look`.
    """
    if programs.settings.matching:
        known, parts = image_rules.chooser(fitted.bank.image), []
        for rows, count in chunks(len(image), programs.chunk):
            seen = programs.look(known, programs.padded(image[rows]))
            parts.append(seen.packed()[:count])
        return np.concatenate(parts)
    return branches.pooled(nearness(programs, fitted, image), programs.settings.selection)


def nearness(programs: Programs, fitted: Fitted, image: np.ndarray) -> np.ndarray:
    """The distances [N, k] of images [N, H, W] from the branches, by the rule that chooses."""
    rule, distances = programs.settings.selection, []
    for rows, count in chunks(len(image), programs.chunk):
        if rule in branches.BY_IMAGE:
            known = image_rules.chooser(fitted.bank.image)
            batch = programs.padded(image[rows])
            distances.append(programs.compare(known, batch).by_rule[rule][:count])
            continue
        layers = programs.order()
        if is_early(programs, fitted):
            layers = layers[: int(fitted.early[rule].norms)]
        batch = programs.padded(image[rows])
        moments = programs.first(layers)(fitted.variables, batch)
        of_batch = np.asarray(layer_distances(fitted, rule, layers, moments, batch[..., 0]))
        distances.append(of_batch[:count].sum(axis=1))
    return np.concatenate(distances)


def answer(
    programs: Programs, fitted: Fitted, image: np.ndarray, common: np.ndarray | None = None
) -> Answers:
    """The answer by the run's settings: in the branches that have a share in it, and no others.

    Where the choice can be early, only these are run to the end. Else one pass in all branches
    gives both the distances and the answer.

    Args:
      programs: of the run.
      fitted: what was kept.
      image: [N, H, W].
      common: what `look` gives, of all that share a choice, instead of the images' own.
    """
    settings = programs.settings
    of_map = point(fitted, recorded.of_settings(settings))
    distances, shares, probability = _answered(programs, fitted, image, common)
    of_all = {
        "answer": recorded.of_settings(settings),
        "selection": settings.selection,
        "early": is_early(programs, fitted),
    }
    facts = [
        {
            **of_all,
            "branch": programs.branch_names[branch],
            "shares": dict(zip(programs.branch_names, share.tolist(), strict=True)),
        }
        for branch, share in zip(branches.select(distances), shares, strict=True)
    ]
    return Answers({ANSWER: probability}, {ANSWER: of_map}, [ANSWER] * len(image), facts)


def _answered(
    programs: Programs, fitted: Fitted, image: np.ndarray, common: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distances [N, k] that choose, the shares [N, k], and the probability [N, H, W]."""
    settings, seen = programs.settings, None
    if settings.matching:
        packed = look(programs, fitted, image) if common is None else common
        distances = Look.of(packed).distances
        probability = matched(programs, fitted, image, packed)
        return distances, programs.shares(distances), probability
    if common is not None:
        distances = common
    elif settings.answer == "branch" and settings.selection in branches.BY_IMAGE:
        distances, probability = _in_nearest(programs, fitted, image)
        return distances, programs.shares(distances), probability
    elif is_early(programs, fitted):
        distances = nearness(programs, fitted, image)
    else:
        seen = see(programs, fitted, image)
        distances = seen.by_norms[settings.selection][:, -1]
    shares = programs.shares(distances)
    if settings.answer == "mixed":
        return distances, shares, mixed(programs, fitted, image, shares)
    maps = _of_shares(programs, fitted, image, shares) if seen is None else seen.probability
    return distances, *programs.merged(maps, shares)


def _in_nearest(
    programs: Programs, fitted: Fitted, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distances and probability by a rule of the image alone, in one program."""
    known = fitted.variables, image_rules.chooser(fitted.bank.image)
    run, parts = programs.by_image(programs.settings.selection), []
    for rows, count in chunks(len(image), programs.chunk):
        distances, probability = run(known, programs.padded(image[rows]))
        parts.append((distances[:count], probability[:count]))
    distances, probability = zip(*parts, strict=True)
    return np.concatenate(distances), np.concatenate(probability)


def _of_shares(
    programs: Programs, fitted: Fitted, image: np.ndarray, shares: np.ndarray
) -> np.ndarray:
    """Probabilities [N, k, H, W] in the branches that have a share; 0 in the others."""
    asked, branch = (places.astype(np.int32) for places in np.nonzero(shares))
    probability = np.zeros((*shares.shape, *image.shape[1:]), np.float32)
    for rows, count in chunks(len(asked), programs.chunk):
        batch = programs.padded(image[asked[rows]])
        of_rows = programs.single(
            fitted.variables, batch, parallel.pad_rows(branch[rows], programs.chunk)
        )
        probability[asked[rows], branch[rows]] = of_rows[:count]
    return probability


def is_early(programs: Programs, fitted: Fitted) -> bool:
    """Whether the choice is made before the network has run to the end.

    Always by the image; by the first norms where the settings allow it and it saves time: they
    are run in all k branches, and then the whole network in the chosen one. Never for answers
    that need the maps of all branches.
    """
    settings, early = programs.settings, fitted.early.get(programs.settings.selection)
    if settings.answer in branches.BY_MAPS:
        return False
    if settings.selection in branches.BY_IMAGE:
        return True
    if not settings.early or early is None:
        return False
    return int(early.norms) / len(fitted.bank.mean) < 1 - 1 / programs.views.num_branches


def layer_distances(
    fitted: Fitted, rule: str, order: tuple[str, ...], moments: Any, image: Any
) -> jax.Array:
    """What each layer adds to the distances of images [B, H, W]: [B, layers, k].

    Of a full batch padding is compared too: other lengths would each be compiled anew.
    """
    mean = {layer: fitted.bank.mean[layer] for layer in order}
    spread = {layer: fitted.bank.spread[layer] for layer in order}
    metric = branches.WITH_FOREGROUND.get(rule, rule)
    if metric != rule:
        mean = branches.with_foreground(mean, fitted.bank.image.foreground)
        moments = branches.with_foreground(moments, _foreground_mean(image))
    return _compiled_distances(mean, moments, metric, spread, order)


_foreground_mean = jax.jit(foreground_mean)
_compiled_distances = jax.jit(branches.layer_distances, static_argnames=("metric", "order"))
