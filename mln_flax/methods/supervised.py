"""A plain network without branches, trained by masks on the views or on the images alone."""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mln_flax import parallel
from mln_flax.config import one_of
from mln_flax.data.images import Images, chunks
from mln_flax.methods import validation
from mln_flax.methods.core import Answers, Ingredients, Kind, Method, TrainState, point_tree
from mln_flax.methods.losses import LossSettings, segmentation_loss
from mln_flax.methods.optimize import descend, device_key, first_state
from mln_flax.metrics.decision import OperatingPoint
from mln_flax.types import Batch, Record

MAP = "network"  # the one map


@dataclass(frozen=True)
class SupervisedSettings(LossSettings):
    """Those of the loss; which views the network sees stands in `views.names`."""

    name: Annotated[str, one_of("supervised")] = "supervised"


class Fitted(NamedTuple):
    """What is kept: the network's variables, and what of its map is marked."""

    variables: Any
    point: OperatingPoint


def build(settings: SupervisedSettings, ingredients: Ingredients) -> Method:
    """The method of its settings for a network with one set of norm parameters."""
    model, optimizer = ingredients.network(1), ingredients.optimizer
    views, chunk = ingredients.view_names, ingredients.chunk

    def apply(variables, image):
        logits, _ = model.apply(variables, image, _first_branch(image), train=False)
        return jax.nn.softmax(logits)[..., 1]

    compiled = parallel.parallel_map(apply, ingredients.devices)

    def init(key, batch: Batch) -> TrainState:
        variables = model.init(key, batch.image, jnp.zeros(len(batch.image), jnp.int32))
        return first_state(variables, optimizer)

    def update(state: TrainState, batch: Batch):
        group = jnp.where(batch.valid & batch.labeled, 0, -1)

        def loss(params):
            variables = {"params": params, "domain_stats": state.domain_stats}
            rngs = {"dropout": device_key(ingredients.seed, state.step)}
            (logits, _), updated = model.apply(
                variables, batch.image, group, train=True, mutable=["domain_stats"], rngs=rngs
            )
            value, dice = segmentation_loss(settings, state.step, logits, batch.mask, group, 1)
            return value, (dice[0, 1:].mean(), updated["domain_stats"])

        (value, (dice, stats)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        return descend(optimizer, state, gradients, stats), {"loss": 1 + value, "dice": dice}

    def of_images(variables, image: np.ndarray) -> np.ndarray:
        parts = [
            compiled(variables, parallel.pad_rows(image[rows, ..., None], chunk))[:count]
            for rows, count in chunks(len(image), chunk)
        ]
        return np.concatenate(parts)

    def validated(state: TrainState, images: Images):
        return validation.of_views(lambda x, _: of_images(state.variables, x), views, images, chunk)

    def validate(state: TrainState, images: Images) -> Record:
        return validated(state, images)[0]

    def fit(state: TrainState, _: Images, images: Images) -> Fitted:
        return Fitted(state.variables, validated(state, images)[1])

    def answer(fitted: Fitted, image: np.ndarray) -> Answers:
        maps = {MAP: of_images(fitted.variables, image)}
        return Answers(maps, {MAP: fitted.point}, [MAP] * len(image), [{}] * len(image))

    def probability(fitted: Fitted, _, image):
        return apply(fitted.variables, image[..., None])

    def traced(fitted: Fitted):
        return lambda image: {
            "probability": apply(fitted.variables, image[..., None]),
            "branch": _first_branch(image),
        }

    return Method(
        model,
        init,
        update,
        validate,
        fit,
        answer,
        answer_all=answer,
        traced=traced,
        probability=probability,
    )


def _first_branch(image: Any) -> jax.Array:
    return jnp.zeros(image.shape[0], jnp.int32)


def to_tree(fitted: Fitted) -> dict[str, Any]:
    """What is kept, as nested dicts of arrays."""
    return {**fitted.variables, "point": point_tree(fitted.point)}


def from_tree(tree: dict[str, Any]) -> Fitted:
    """What `to_tree` took apart."""
    variables = {name: tree[name] for name in ("params", "domain_stats")}
    return Fitted(jax.device_put(variables), OperatingPoint(**tree["point"]))


KIND = Kind(SupervisedSettings, build, to_tree, from_tree)
