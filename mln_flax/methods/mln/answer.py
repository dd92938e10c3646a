"""How a trained MLN-net answers: in all branches, or in those that are chosen beforehand.

The choice compares moments of the network's norms. Those of the first few may choose as all of
them do, and rules that look at the image alone need none: then k branches cost little more than
one.
"""

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mln_flax import parallel
from mln_flax.data.images import Images, chunks
from mln_flax.methods.core import Answers
from mln_flax.methods.mln import branches, image_rules, recorded
from mln_flax.methods.mln.bank import Early, Fitted, ViewMap, Weighted
from mln_flax.methods.mln.image_features import foreground_mean, image_features
from mln_flax.methods.mln.recorded import UNION, WEIGHTED
from mln_flax.methods.mln.settings import MlnSettings
from mln_flax.metrics import decision, pixel
from mln_flax.models.core import all_branches
from mln_flax.types import Record

AGREEMENT = 0.99  # of the choices from the first norms with those from all of them
ANSWER = "answer"  # the map of an answer for which no other map was needed


class Programs(NamedTuple):
    """The passes of a network as they are compiled, once for a run; images are [B, H, W, 1]."""

    settings: MlnSettings
    views: ViewMap
    branch_names: tuple[str, ...]
    chunk: int  # images of one pass: always full, one shape and so one compilation
    order: Callable[[], tuple[str, ...]]  # the paths of the norms as the network computes them
    # (variables, image) -> probability [B, k, H, W], moments of all branches
    every: Callable[[Any, np.ndarray], tuple[np.ndarray, Any]]
    # (variables, image, branch [B]) -> probability [B, H, W]
    single: Callable[[Any, np.ndarray, np.ndarray], np.ndarray]
    # likewise -> probability, moments
    with_moments: Callable[[Any, np.ndarray, np.ndarray], tuple[np.ndarray, Any]]
    # layers -> (variables, image) -> their moments in all branches
    first: Callable[[tuple[str, ...]], Callable[[Any, np.ndarray], Any]]


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

    def every(variables, image):
        logits, moments = all_branches(model, variables, image)
        return jax.nn.softmax(logits)[..., 1], moments

    def with_moments(variables, image, branch):
        logits, out = model.apply(variables, image, branch, train=False)
        return jax.nn.softmax(logits)[..., 1], out["moments"]

    @functools.cache
    def first(layers: tuple[str, ...]) -> Any:
        return parallel.parallel_map(partial(first_moments, model, layers), devices)

    return Programs(
        settings,
        views,
        branch_names,
        chunk,
        functools.cache(partial(norm_order, model, side)),
        parallel.parallel_map(every, devices),
        parallel.parallel_map(lambda *inputs: with_moments(*inputs)[0], devices),
        parallel.parallel_map(with_moments, devices),
        first,
    )


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


class Seen(NamedTuple):
    """What the network says of N images in each of its k branches."""

    probability: np.ndarray  # float32 [N, k, H, W]: of a calcification
    # rule -> [N, M, k], smaller is nearer: by the first 1, 2, ..., M norms; without norms M is 1
    by_norms: dict[str, np.ndarray]


def see(programs: Programs, fitted: Fitted, image: np.ndarray) -> Seen:
    """Images [N, H, W] in all branches, with their distances by every rule."""
    probabilities, measured = [], []
    for rows, count in chunks(len(image), programs.chunk):
        batch = _padded(programs, image[rows])
        probability, moments = programs.every(fitted.variables, batch)
        distances = {
            rule: np.cumsum(
                _layer_distances(fitted, rule, programs.order(), moments, batch)[:count], axis=1
            )
            for rule in branches.BY_MOMENTS
        }
        by_image = image_distances(programs.views, fitted, image[rows])
        probabilities.append(probability[:count])
        measured.append(distances | {rule: d[:, None] for rule, d in by_image.items()})
    joined = {rule: np.concatenate([part[rule] for part in measured]) for rule in measured[0]}
    return Seen(np.concatenate(probabilities), joined)


def answer_all(programs: Programs, fitted: Fitted, image: np.ndarray) -> Answers:
    """Every branch, their union and their weighted mean as maps, with what chooses between them."""
    seen, settings, names = see(programs, fitted, image), programs.settings, programs.branch_names
    shares = branches.weights(seen.by_norms["polarity"][:, -1], settings.temperature)
    maps = {name: seen.probability[:, branch] for branch, name in enumerate(names)}
    maps[UNION] = branches.combine(seen.probability)
    maps[WEIGHTED] = branches.combine(seen.probability, shares)
    facts = [dict(_facts(programs, fitted, seen.by_norms, i)) for i in range(len(image))]
    return Answers(
        maps=maps,
        points=dict.fromkeys(maps, fitted.point) | {WEIGHTED: fitted.weighted.point},
        chosen=[
            settings.answer
            if settings.answer in maps
            else names[fact["chosen"][settings.selection]]
            for fact in facts
        ],
        facts=facts,
        kept=[
            {rule: seen.by_norms[rule][i] for rule in branches.BY_MOMENTS}
            for i in range(len(image))
        ],
    )


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
    """The distances [N, k] of images [N, H, W] from the branches, by the rule that chooses."""
    rule, distances = programs.settings.selection, []
    for rows, count in chunks(len(image), programs.chunk):
        if rule in branches.BY_IMAGE:
            distances.append(image_distances(programs.views, fitted, image[rows])[rule])
            continue
        layers = programs.order()
        if is_early(programs, fitted):
            layers = layers[: int(fitted.early[rule].norms)]
        batch = _padded(programs, image[rows])
        moments = programs.first(layers)(fitted.variables, batch)
        of_batch = _layer_distances(fitted, rule, layers, moments, batch)
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
      common: distances [N, k] that choose instead of the images' own.
    """
    settings = programs.settings
    seen: Seen | None = None
    if common is not None:
        distances = common
    elif is_early(programs, fitted):
        distances = look(programs, fitted, image)
    else:
        seen = see(programs, fitted, image)
        distances = seen.by_norms[settings.selection][:, -1]
    shares = branches.shares(distances, settings.answer, settings.temperature)
    probability = _of_shares(programs, fitted, image, shares) if seen is None else seen.probability
    together = branches.combine(probability, None if settings.answer == UNION else shares)
    point = fitted.weighted.point if settings.answer == WEIGHTED else fitted.point
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
    return Answers({ANSWER: together}, {ANSWER: point}, [ANSWER] * len(image), facts)


def _of_shares(
    programs: Programs, fitted: Fitted, image: np.ndarray, shares: np.ndarray
) -> np.ndarray:
    """Probabilities [N, k, H, W] in the branches that have a share; 0 in the others."""
    asked, branch = (places.astype(np.int32) for places in np.nonzero(shares))
    probability = np.zeros((*shares.shape, *image.shape[1:]), np.float32)
    for rows, count in chunks(len(asked), programs.chunk):
        batch = _padded(programs, image[asked[rows]])
        of_rows = programs.single(
            fitted.variables, batch, parallel.pad_rows(branch[rows], programs.chunk)
        )
        probability[asked[rows], branch[rows]] = of_rows[:count]
    return probability


def is_early(programs: Programs, fitted: Fitted) -> bool:
    """Whether the choice is made before the network has run to the end.

    Always by the image; by the first norms where the settings allow it and it saves time: they
    are run in all k branches, and then the whole network in the chosen one. Never for the union,
    which has all branches.
    """
    settings, early = programs.settings, fitted.early.get(programs.settings.selection)
    if settings.answer == UNION:
        return False
    if settings.selection in branches.BY_IMAGE:
        return True
    if not settings.early or early is None:
        return False
    return int(early.norms) / len(fitted.bank.mean) < 1 - 1 / programs.views.num_branches


def measure(programs: Programs, fitted: Fitted, images: Images) -> Fitted:
    """What is kept, with what its answers are worth on source validation.

    Every rule by how many norms choose, and the weighted answer at its best operating point. All
    views of all images count alike. This, and nothing of a target, is what a default may be
    chosen by.
    """
    worth: dict[str, list[Any]] = {rule: [] for rule in branches.SELECTIONS}
    weighted: list[list[float]] = []
    for view, branch in zip(programs.views.functions(), programs.views.branch, strict=True):
        for rows, count in chunks(images.total, programs.chunk):
            image, mask = images.stack(rows)
            seen = see(programs, fitted, view(image))
            dsc = np.array(
                [
                    [pixel.pixel_scores(decision.decide(p, fitted.point), m)[2] for p in of_image]
                    for of_image, m in zip(seen.probability, mask, strict=True)
                ]
            )
            for rule, distances in seen.by_norms.items():
                chosen = branches.select(distances)  # [n, M]
                agrees = chosen == chosen[:, -1:]
                of_chosen = dsc[np.arange(count)[:, None], chosen]
                worth[rule].append(np.stack([agrees, chosen == branch, of_chosen], axis=-1))
            shares = branches.weights(
                seen.by_norms["polarity"][:, -1], programs.settings.temperature
            )
            mean = branches.combine(seen.probability, shares)
            weighted += [
                decision.dsc_on_grid(p, m) for p, m in zip(mean, mask.astype(bool), strict=True)
            ]
    early = {rule: _early(np.concatenate(rows), rule) for rule, rows in worth.items()}
    point, of_point = decision.best(np.array(weighted))
    return fitted._replace(early=early, weighted=Weighted(point, of_point.mean()))


def _early(values: np.ndarray, rule: str) -> Early:
    """From [images, M, (agrees, right, DSC)]: the shortest prefix that agrees, and all means."""
    agreement, accuracy, dsc = values.mean(axis=0).T
    norms = 0 if rule in branches.BY_IMAGE else 1 + int(np.argmax(agreement >= AGREEMENT))
    return Early(np.int64(norms), agreement, accuracy, dsc)


def _layer_distances(
    fitted: Fitted, rule: str, order: tuple[str, ...], moments: Any, batch: np.ndarray
) -> np.ndarray:
    """What each layer adds to the distances of a full batch [B, H, W, 1]: [B, layers, k].

    Padding is compared too: batches of other lengths would each be compiled anew.
    """
    mean = {layer: fitted.bank.mean[layer] for layer in order}
    spread = {layer: fitted.bank.spread[layer] for layer in order}
    metric = branches.WITH_FOREGROUND.get(rule, rule)
    if metric != rule:
        mean = branches.with_foreground(mean, fitted.bank.image.foreground)
        moments = branches.with_foreground(moments, foreground_mean(batch[..., 0]))
    return np.asarray(_compiled_distances(mean, moments, metric, spread, order))


_compiled_distances = jax.jit(branches.layer_distances, static_argnames=("metric", "order"))


def image_distances(views: ViewMap, fitted: Fitted, image: np.ndarray) -> dict[str, np.ndarray]:
    """By the rules that look at the image alone: rule -> [n, k], of images [n, H, W]."""
    bank, features = fitted.bank.image, image_features(image)
    of_view = image_rules.image_distances(bank.gaussian, features.view)
    margin = features.polarity @ bank.polarity
    return {
        "image": image_rules.nearest_view(of_view, views.branch),
        "polarity": image_rules.polarity_distances(of_view, margin, views.inverted(), views.branch),
    }


def _padded(programs: Programs, image: np.ndarray) -> np.ndarray:
    """Images [n, H, W] as a full batch [chunk, H, W, 1]."""
    return parallel.pad_rows(image[..., None].astype(np.float32), programs.chunk)
