"""The answers of a trained model: in all branches, or in one that is chosen beforehand.

The choice compares moments of the network's layer norms. Those of the first few often choose as
all of them do, and the rule "image" needs none; then k branches cost little more than one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mln_flax import branches, decision, metrics, parallel
from mln_flax.build import Run
from mln_flax.input_pipeline import Images, chunks
from mln_flax.source_bank import Early, Trained
from mln_flax.views import make_view

AGREEMENT = 0.99  # of the choices from the first norms with those from all of them


class Answer(NamedTuple):
    """What the network says of N images in each of its k branches."""

    probability: np.ndarray  # float32 [N, k, H, W]: of a calcification
    # rule -> [N, M, k], smaller is nearer: by the first 1, 2, ..., M norms; for "image" M is 1
    by_norms: dict[str, np.ndarray]
    point: decision.OperatingPoint

    @property
    def distances(self) -> dict[str, np.ndarray]:
        """Rule -> [N, k], by all norms."""
        return {rule: found[:, -1] for rule, found in self.by_norms.items()}

    def chosen(self, rule: str, norms: int = 0) -> np.ndarray:
        """The branch of each image, int32 [N], by the first `norms` norms; 0 stands for all."""
        return branches.select(self.by_norms[rule][:, norms - 1])

    def mask(self, i: int, branch: int) -> np.ndarray:
        """The mask bool [H, W] of image i in one branch."""
        return decision.decide(self.probability[i, branch], self.point)

    def union(self, i: int) -> np.ndarray:
        """The mask bool [H, W] of image i in all branches together."""
        return decision.decide(branches.combine(self.probability[i][None])[0], self.point)


class Selected(NamedTuple):
    """What the network says of N images, each in the branch chosen for it."""

    probability: np.ndarray  # float32 [N, H, W]: of a calcification
    chosen: np.ndarray  # int32 [N]
    point: decision.OperatingPoint

    def mask(self, i: int) -> np.ndarray:
        """The mask bool [H, W] of image i."""
        return decision.decide(self.probability[i], self.point)


def predictor(run: Run, trained: Trained, devices: Any = None) -> Callable[[np.ndarray], Answer]:
    """`answer(image [N, H, W])`: all branches and the distances by every rule.

    An image's answer depends on nothing but the image.
    """

    def network(variables, image):
        prediction = run.method.predict(variables, image)
        return jax.nn.softmax(prediction.logits)[..., 1], prediction.moments

    call = parallel.parallel_map(network, devices)
    order = norm_order(run)
    measure = {rule: _layer_distances(trained, rule, order) for rule in branches.METRICS}
    variables, size = jax.device_put(trained.variables), run.config.evaluate.batch_size

    def answer(image: np.ndarray) -> Answer:
        probabilities, measured = [], []
        for rows, count in chunks(len(image), size):
            # Always full batches: one shape, so one compilation, and the same sums for each image.
            probability, moments = call(variables, _padded(image[rows], size))
            found = {
                rule: np.cumsum(of_layers(moments), axis=1)[:count]
                for rule, of_layers in measure.items()
            }
            found["image"] = _image_distances(run, trained, image[rows])[:, None]
            probabilities.append(probability[:count])
            measured.append(found)
        joined = {rule: np.concatenate([m[rule] for m in measured]) for rule in measured[0]}
        return Answer(np.concatenate(probabilities), joined, trained.point)

    return answer


def selected(run: Run, trained: Trained, devices: Any = None) -> Callable[[np.ndarray], Selected]:
    """`answer(image [N, H, W])`: one branch for each image, by the run's rule.

    With `method.early` the branch is chosen first, from the image or from as many of the first
    norms as the trained model says, and then run alone. Without, or where only all norms will
    do, all branches run.
    """
    rule = run.config.method.selection
    if not is_early(run, trained):
        return partial(_one_of_all, predictor(run, trained, devices), rule)

    def network(variables, image, branch):
        logits, _ = run.model.apply(variables, image, branch, train=False)
        return jax.nn.softmax(logits)[..., 1]

    call = parallel.parallel_map(network, devices)
    variables, size = jax.device_put(trained.variables), run.config.evaluate.batch_size
    if rule == "image":
        choose = partial(_by_image, run, trained)
    else:
        layers = norm_order(run)[: int(trained.early[rule].norms)]
        choose = _by_first_norms(run, trained, variables, layers, devices)

    def answer(image: np.ndarray) -> Selected:
        probabilities, branch = [], []
        for rows, count in chunks(len(image), size):
            chosen = choose(image[rows])
            batch = _padded(image[rows], size), parallel.pad_rows(chosen, size)
            probabilities.append(call(variables, *batch)[:count])
            branch.append(chosen)
        return Selected(np.concatenate(probabilities), np.concatenate(branch), trained.point)

    return answer


def is_early(run: Run, trained: Trained) -> bool:
    """Whether `selected` runs one branch alone: it may, and fewer than all norms will do."""
    early = trained.early.get(run.config.method.selection)
    fewer = early is not None and int(early.norms) < len(trained.bank.mean)
    return run.config.method.early and fewer


def _one_of_all(answer: Callable[[np.ndarray], Answer], rule: str, image: np.ndarray) -> Selected:
    said = answer(image)
    chosen = said.chosen(rule)
    return Selected(said.probability[np.arange(len(image)), chosen], chosen, said.point)


def _by_image(run: Run, trained: Trained, image: np.ndarray) -> np.ndarray:
    return branches.select(_image_distances(run, trained, image))


def _by_first_norms(run, trained, variables, layers, devices):
    """`choose(image [n, H, W]) -> int32 [n]`, n at most a batch, from the moments of `layers`."""
    rule, size = run.config.method.selection, run.config.evaluate.batch_size
    call = parallel.parallel_map(partial(first_moments, run, layers), devices)
    of_layers = _layer_distances(trained, rule, layers)

    def choose(image: np.ndarray) -> np.ndarray:
        found = np.cumsum(of_layers(call(variables, _padded(image, size))), axis=1)
        return branches.select(found[: len(image), -1])

    return choose


def norm_order(run: Run) -> tuple[str, ...]:
    """The paths of the layer norms in the order in which the network computes them.

    No jax function returns it: dictionaries that pass one come back sorted by name.
    """
    order: list[str] = []

    def note(key, image, branch):
        (_, out), _ = run.model.init_with_output(key, image, branch, train=False)
        order.extend(out["moments"])

    side = run.config.data.size
    image = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
    jax.eval_shape(note, jax.random.key(0), image, jax.ShapeDtypeStruct((1,), jnp.int32))
    return tuple(order)


def first_moments(run: Run, layers: tuple[str, ...], variables: Any, image: Any) -> Any:
    """The moments of some layers, in all branches: layer -> (mean [B, k, C], std [B, k, C]).

    What of the network they do not need is not compiled: nothing that is returned depends on it.
    """
    moments = run.method.predict(variables, image).moments
    return {layer: moments[layer] for layer in layers}


def measure(run: Run, trained: Trained, images: Images) -> dict[str, Early]:
    """What every rule is worth on source validation, by how many norms choose.

    All views of all images count alike. This, and nothing of a target, is what a default rule
    may be chosen by.
    """
    answer, size = predictor(run, trained), run.config.evaluate.batch_size
    seen: dict[str, list[Any]] = {rule: [] for rule in branches.SELECTIONS}
    for name, branch in zip(run.view_names, run.branch_of_view, strict=True):
        view = make_view(name).numpy
        for rows, count in chunks(images.total, size):
            image, mask = images.stack(rows)
            said = answer(view(image))
            dsc = np.array(
                [
                    [metrics.pixel_scores(said.mask(i, b), mask[i])[2] for b in range(len(p))]
                    for i, p in enumerate(said.probability)
                ]
            )
            for rule, found in said.by_norms.items():
                chosen = branches.select(found)  # [n, M]
                agrees = chosen == chosen[:, -1:]
                of_chosen = dsc[np.arange(count)[:, None], chosen]
                seen[rule].append(np.stack([agrees, chosen == branch, of_chosen], axis=-1))
    return {rule: _early(np.concatenate(rows), rule) for rule, rows in seen.items()}


def _early(values: np.ndarray, rule: str) -> Early:
    """From [images, M, (agrees, right, DSC)]: the shortest prefix that agrees, and all means."""
    agreement, accuracy, dsc = values.mean(axis=0).T
    norms = 0 if rule == "image" else 1 + int(np.argmax(agreement >= AGREEMENT))
    return Early(np.int64(norms), agreement, accuracy, dsc)


def _layer_distances(trained: Trained, rule: str, order: tuple[str, ...]) -> Callable[[Any], Any]:
    """`of_layers(moments)` -> [B, layers, k] for the layers in `order`."""
    mean = {layer: trained.bank.mean[layer] for layer in order}
    spread = {layer: trained.bank.spread[layer] for layer in order}
    compiled = jax.jit(partial(branches.layer_distances, metric=rule, order=order))
    return lambda moments: np.asarray(compiled(mean, moments, spread=spread))


def _image_distances(run: Run, trained: Trained, image: np.ndarray) -> np.ndarray:
    """By the rule "image": [n, k]."""
    of_view = branches.image_distances(trained.bank.image, branches.image_features(image))
    return branches.nearest_view(of_view, run.branch_of_view)


def _padded(image: np.ndarray, size: int) -> np.ndarray:
    """Images [n, H, W] as a full batch [size, H, W, 1]."""
    return parallel.pad_rows(image[..., None].astype(np.float32), size)
