"""From settings to what they describe: views, network, optimizer, method."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn

from mln_flax.config import METHODS, NETWORKS, Config
from mln_flax.engine import device_views, optim
from mln_flax.engine.augment import augmented
from mln_flax.engine.input_pipeline import Plan
from mln_flax.methods.core import Ingredients, Kind, Method
from mln_flax.registry import kind_of
from mln_flax.types import UserError
from mln_flax.views import intensity


class Run(NamedTuple):
    """Everything that a config describes, except the data."""

    config: Config
    view_names: tuple[str, ...]
    kind: Kind  # of the method
    method: Method

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.method.model


def build(config: Config) -> Run:
    """The run that a config describes; raises UserError for what cannot work together."""
    kind = kind_of(METHODS, config.method.name)
    names = intensity.view_names(config.views, config.train.seed)
    _check_stream(config, kind)
    _check_parts(config, kind, len(names))
    ingredients = Ingredients(
        network=lambda num_branches: network(config, num_branches),
        optimizer=optim.optimizer(config.optim, config.train.steps),
        view_names=names,
        side=config.data.size,
        chunk=config.evaluate.batch_size,
        seed=config.train.seed,
        accumulate=config.train.accumulate,
    )
    method = kind.build(config.method, ingredients)
    update = augmented(method.update, config.views.augment, config.train.seed)
    return Run(config, names, kind, method._replace(update=update))


def network(config: Config, num_branches: int) -> nn.Module:
    """The network of a config.

    Raises:
      UserError: sizes that do not fit each other, or images and training crops that are smaller
        than the network needs.
    """
    kind = kind_of(NETWORKS, config.model.name)
    model = kind.build(config.model, num_branches)
    least, needed_for = kind.least_side(config.model)
    crop = config.views.crop_side(config.data.size)
    for flag, side in (
        (f"data.size={config.data.size}", config.data.size),
        (f"views.crop={config.views.crop} gives {crop} pixels", crop),
    ):
        if side < least:
            raise UserError(
                f"--config.{flag}: this network needs {least} pixels or more ({needed_for})"
            )
    return model


def plan(run: Run) -> Plan:
    """How this run's training batches are made."""
    train = run.config.train
    return Plan(
        views=tuple(intensity.make_view(name) for name in run.view_names),
        config=run.config.views,
        batch_size=train.batch_size,
        seed=train.seed,
        foreground=train.foreground,
        unlabeled_batch_size=train.unlabeled_batch_size if run.config.data.unlabeled else 0,
    )


def update_of(run: Run) -> Callable[..., Any]:
    """The method's update, of what the run's input pipeline gives."""
    if run.config.views.on_device:
        return device_views.of_originals(run.method.update, plan(run))
    return run.method.update


def _check_stream(config: Config, kind: Kind) -> None:
    """Refuses images of targets for a method that does not know rows without a label."""
    if config.data.unlabeled and not kind.takes_unlabeled:
        raise UserError(
            f"--config.data.unlabeled={','.join(config.data.unlabeled)}: method.name="
            f"{config.method.name} trains on the source alone; leave it empty"
        )


def _check_parts(config: Config, kind: Kind, views: int) -> None:
    """Refuses parts of a batch that the method does not know, or that do not divide its rows."""
    accumulate, rows = config.train.accumulate, config.train.batch_size * views
    if accumulate > 1 and not kind.takes_parts:
        raise UserError(
            f"--config.train.accumulate={accumulate}: method.name={config.method.name} takes a "
            "batch in one part; allowed is 1"
        )
    if rows % accumulate:
        raise UserError(
            f"--config.train.accumulate={accumulate}: must divide the {rows} rows of "
            f"a batch, {config.train.batch_size} images in {views} views"
        )
