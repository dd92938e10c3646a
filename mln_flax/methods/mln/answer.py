"""The answers of a trained model: in all branches, or in one that is chosen beforehand.

The choice compares moments of the network's layer norms. Those of the first few may choose as all
of them do, and rules that look at the image alone need none: then k branches cost little more
than one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mln_flax import parallel
from mln_flax.engine.build import Run
from mln_flax.engine.input_pipeline import Images, chunks
from mln_flax.methods.mln import branches, image_rules
from mln_flax.methods.mln.bank import Early, Trained, Weighted
from mln_flax.methods.mln.image_features import foreground_mean, image_features
from mln_flax.metrics import decision, pixel
from mln_flax.views.intensity import is_inverted, make_view

AGREEMENT = 0.99  # of the choices from the first norms with those from all of them


class Answer(NamedTuple):
    """What the network says of N images in each of its k branches."""

    probability: np.ndarray  # float32 [N, k, H, W]: of a calcification
    # rule -> [N, M, k], smaller is nearer: by the first 1, 2, ..., M norms; without norms M is 1
    by_norms: dict[str, np.ndarray]
    shares: np.ndarray  # float32 [N, k]: of the branches in the weighted answer
    point: decision.OperatingPoint
    weighted_point: decision.OperatingPoint

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

    def mean(self, i: int) -> np.ndarray:
        """The weighted mean of the branches' probabilities for image i: [H, W]."""
        return branches.combine(self.probability[i][None], self.shares[i][None])[0]

    def weighted(self, i: int) -> np.ndarray:
        """The mask bool [H, W] of image i in the probable branches together."""
        return decision.decide(self.mean(i), self.weighted_point)


class Selected(NamedTuple):
    """What the network says of N images in the branches that answer for them."""

    probability: np.ndarray  # float32 [N, H, W]: of a calcification
    chosen: np.ndarray  # int32 [N]: the nearest branch
    point: decision.OperatingPoint

    def mask(self, i: int) -> np.ndarray:
        """The mask bool [H, W] of image i."""
        return decision.decide(self.probability[i], self.point)


class Selector(NamedTuple):
    """A trained model as the settings of its run let it answer."""

    distances: Callable[[np.ndarray], np.ndarray]  # image [N, H, W] -> [N, k], smaller is nearer
    answer: Callable[[np.ndarray, np.ndarray], Selected]  # image and distances
    at_once: Callable[[np.ndarray], Selected] | None  # image, where one pass gives both

    def __call__(self, image: np.ndarray) -> Selected:
        """The answer for images [N, H, W], each by itself."""
        return self.at_once(image) if self.at_once else self.answer(image, self.distances(image))


def predictor(run: Run, trained: Trained, devices: Any = None) -> Callable[[np.ndarray], Answer]:
    """`answer(image [N, H, W])`: all branches and the distances by every rule.

    An image's answer depends on nothing but the image.
    """

    def network(variables, image):
        prediction = run.method.predict(variables, image)
        return jax.nn.softmax(prediction.logits)[..., 1], prediction.moments

    call = parallel.parallel_map(network, devices)
    order = norm_order(run)
    measure = {rule: _layer_distances(trained, rule, order) for rule in branches.BY_MOMENTS}
    variables, size = jax.device_put(trained.variables), run.config.evaluate.batch_size
    temperature = run.config.method.temperature

    def answer(image: np.ndarray) -> Answer:
        probabilities, measured = [], []
        for rows, count in chunks(len(image), size):
            # Always full batches: one shape, so one compilation, and the same sums for each image.
            probability, moments = call(variables, _padded(image[rows], size))
            moments = {layer: (m[:count], s[:count]) for layer, (m, s) in moments.items()}
            found = {
                rule: np.cumsum(of_layers(moments, image[rows]), axis=1)
                for rule, of_layers in measure.items()
            }
            by_image = _image_distances(run, trained, image[rows])
            found |= {rule: of_image[:, None] for rule, of_image in by_image.items()}
            probabilities.append(probability[:count])
            measured.append(found)
        joined = {rule: np.concatenate([m[rule] for m in measured]) for rule in measured[0]}
        shares = branches.weights(joined["polarity"][:, -1], temperature)
        points = trained.point, trained.weighted.point
        return Answer(np.concatenate(probabilities), joined, shares, *points)

    return answer


def selected(run: Run, trained: Trained, devices: Any = None) -> Selector:
    """The model as the run's settings let it answer: by which rule, and in which branches.

    Where the choice can be early, only the branches that answer are run to the end. Else one pass
    in all branches gives both the distances and the answer.
    """
    config, size = run.config.method, run.config.evaluate.batch_size
    variables = jax.device_put(trained.variables)
    point = trained.weighted.point if config.answer == "weighted" else trained.point

    def network(variables, image, branch):
        logits, _ = run.model.apply(variables, image, branch, train=False)
        return jax.nn.softmax(logits)[..., 1]

    call = parallel.parallel_map(network, devices)

    def answer(image: np.ndarray, distances: np.ndarray) -> Selected:
        shares = branches.shares(distances, config.answer, config.temperature)
        asked, branch = (places.astype(np.int32) for places in np.nonzero(shares))
        probability = np.zeros((*shares.shape, *image.shape[1:]), np.float32)
        for rows, count in chunks(len(asked), size):
            batch = _padded(image[asked[rows]], size), parallel.pad_rows(branch[rows], size)
            probability[asked[rows], branch[rows]] = call(variables, *batch)[:count]
        return joined(probability, distances, shares)

    def joined(probability: np.ndarray, distances: np.ndarray, shares: np.ndarray) -> Selected:
        together = branches.combine(probability, None if config.answer == "union" else shares)
        return Selected(together, branches.select(distances), point)

    if config.selection in branches.BY_IMAGE:
        return Selector(partial(_by_image, run, trained), answer, None)
    layers = norm_order(run)
    if is_early(run, trained):
        layers = layers[: int(trained.early[config.selection].norms)]
        return Selector(_by_norms(run, trained, variables, layers, devices), answer, None)
    full = predictor(run, trained, devices)

    def at_once(image: np.ndarray) -> Selected:
        said = full(image)
        distances = said.distances[config.selection]
        shares = branches.shares(distances, config.answer, config.temperature)
        return joined(said.probability, distances, shares)

    return Selector(_by_norms(run, trained, variables, layers, devices), answer, at_once)


def is_early(run: Run, trained: Trained) -> bool:
    """Whether the choice is made before the network has run to the end.

    Always by the image; by the first norms where the settings allow it and it saves time: they
    are run in all k branches, and then the rest in one.
    """
    config, early = run.config.method, trained.early.get(run.config.method.selection)
    if config.selection in branches.BY_IMAGE:
        return True
    if not config.early or early is None:
        return False
    return int(early.norms) / len(trained.bank.mean) < 1 - 1 / run.num_branches


def _by_image(run: Run, trained: Trained, image: np.ndarray) -> np.ndarray:
    distances = [
        _image_distances(run, trained, image[rows])[run.config.method.selection]
        for rows, _ in chunks(len(image), run.config.evaluate.batch_size)
    ]
    return np.concatenate(distances)


def _by_norms(run, trained, variables, layers, devices):
    """`distances(image [N, H, W]) -> [N, k]` from the moments of `layers`."""
    rule, size = run.config.method.selection, run.config.evaluate.batch_size
    call = parallel.parallel_map(partial(first_moments, run, layers), devices)
    of_layers = _layer_distances(trained, rule, layers)

    def distances(image: np.ndarray) -> np.ndarray:
        found = []
        for rows, count in chunks(len(image), size):
            moments = call(variables, _padded(image[rows], size))
            moments = {layer: (m[:count], s[:count]) for layer, (m, s) in moments.items()}
            found.append(of_layers(moments, image[rows]).sum(axis=1))
        return np.concatenate(found)

    return distances


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


def measure(run: Run, trained: Trained, images: Images) -> Trained:
    """The trained model with what its answers are worth on source validation.

    Every rule by how many norms choose, and the weighted answer at its best operating point. All
    views of all images count alike. This, and nothing of a target, is what a default may be
    chosen by.
    """
    answer, size = predictor(run, trained), run.config.evaluate.batch_size
    seen: dict[str, list[Any]] = {rule: [] for rule in branches.SELECTIONS}
    weighted: list[list[float]] = []
    for name, branch in zip(run.view_names, run.branch_of_view, strict=True):
        view = make_view(name).numpy
        for rows, count in chunks(images.total, size):
            image, mask = images.stack(rows)
            said = answer(view(image))
            dsc = np.array(
                [
                    [pixel.pixel_scores(said.mask(i, b), mask[i])[2] for b in range(len(p))]
                    for i, p in enumerate(said.probability)
                ]
            )
            for rule, found in said.by_norms.items():
                chosen = branches.select(found)  # [n, M]
                agrees = chosen == chosen[:, -1:]
                of_chosen = dsc[np.arange(count)[:, None], chosen]
                seen[rule].append(np.stack([agrees, chosen == branch, of_chosen], axis=-1))
            weighted += [
                decision.dsc_on_grid(said.mean(i), mask[i].astype(bool)) for i in range(count)
            ]
    early = {rule: _early(np.concatenate(rows), rule) for rule, rows in seen.items()}
    point, of_point = decision.best(np.array(weighted))
    return trained._replace(early=early, weighted=Weighted(point, of_point.mean()))


def _early(values: np.ndarray, rule: str) -> Early:
    """From [images, M, (agrees, right, DSC)]: the shortest prefix that agrees, and all means."""
    agreement, accuracy, dsc = values.mean(axis=0).T
    norms = 0 if rule in branches.BY_IMAGE else 1 + int(np.argmax(agreement >= AGREEMENT))
    return Early(np.int64(norms), agreement, accuracy, dsc)


def _layer_distances(trained: Trained, rule: str, order: tuple[str, ...]) -> Callable[..., Any]:
    """`of_layers(moments, image [B, H, W])` -> [B, layers, k] for the layers in `order`."""
    mean = {layer: trained.bank.mean[layer] for layer in order}
    spread = {layer: trained.bank.spread[layer] for layer in order}
    metric = branches.WITH_FOREGROUND.get(rule, rule)
    compiled = jax.jit(partial(branches.layer_distances, metric=metric, order=order))
    if metric == rule:
        return lambda moments, image: np.asarray(compiled(mean, moments, spread=spread))
    mean = branches.with_foreground(mean, trained.bank.image.foreground)

    def of_layers(moments: Any, image: np.ndarray) -> np.ndarray:
        with_gray = branches.with_foreground(moments, foreground_mean(image))
        return np.asarray(compiled(mean, with_gray, spread=spread))

    return of_layers


def _image_distances(run: Run, trained: Trained, image: np.ndarray) -> dict[str, np.ndarray]:
    """By the rules that look at the image alone: rule -> [n, k]."""
    bank, seen = trained.bank.image, image_features(image)
    of_view = image_rules.image_distances(bank.gaussian, seen.view)
    inverted = [is_inverted(name) for name in run.view_names]
    margin = seen.polarity @ bank.polarity
    return {
        "image": image_rules.nearest_view(of_view, run.branch_of_view),
        "polarity": image_rules.polarity_distances(of_view, margin, inverted, run.branch_of_view),
    }


def _padded(image: np.ndarray, size: int) -> np.ndarray:
    """Images [n, H, W] as a full batch [size, H, W, 1]."""
    return parallel.pad_rows(image[..., None].astype(np.float32), size)
