"""From settings to what they describe: data, views, branches, model, method."""

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from mln_flax import data as data_rooms
from mln_flax import optim, parallel, views
from mln_flax.branches import SELECTIONS, check_metric
from mln_flax.config import Config, ModelConfig
from mln_flax.data import prepared_set, splits
from mln_flax.data.core import DataSet, collections, loaders
from mln_flax.input_pipeline import Plan
from mln_flax.methods.core import Method
from mln_flax.methods.mln import mln
from mln_flax.models.swin_unet import PRESETS, SwinUnet
from mln_flax.registry import Registry, nearest
from mln_flax.types import UserError

methods = Registry("method")
methods.register("mln")(mln)


class Run(NamedTuple):
    """Everything that a config describes, except the data."""

    config: Config
    view_names: tuple[str, ...]
    branch_of_view: tuple[int, ...]
    branch_names: tuple[str, ...]
    model: SwinUnet
    optimizer: optax.GradientTransformation
    method: Method

    @property
    def num_branches(self) -> int:
        """The number k of branches."""
        return len(self.branch_names)


def build(config: Config) -> Run:
    """The run that a config describes; raises UserError for what cannot work together."""
    check_metric(config.method.selection, SELECTIONS)
    names = views.view_names(config.views, config.train.seed)
    branch_of_view, branch_names = views.branch_map(names, config.method.branch_map)
    model = swin_unet(config, len(branch_names))
    optimizer = optim.optimizer(config.optim, config.train.steps)
    method = methods[config.method.name](
        model,
        optimizer,
        config.method,
        len(branch_names),
        config.train.seed,
        config.train.accumulate,
        len(names),
    )
    return Run(config, names, branch_of_view, branch_names, model, optimizer, method)


def swin_unet(config: Config, num_branches: int) -> SwinUnet:
    """The network of a config.

    Raises:
      UserError: unknown preset, sizes that do not fit each other, or images smaller than the
        deepest token.
    """
    sizes = _model_sizes(config.model)
    if len(sizes["depths"]) != len(sizes["num_heads"]):
        raise UserError(
            f"--config.model: depths {sizes['depths']} and num_heads {sizes['num_heads']} "
            "must have one entry per stage each"
        )
    for stage, heads in enumerate(sizes["num_heads"]):
        width = sizes["embed_dim"] * 2**stage
        if heads < 1 or width % heads:
            raise UserError(
                f"--config.model.num_heads: {heads} heads do not divide the {width} channels "
                f"of stage {stage}"
            )
    whole = sizes["patch_size"] * 2 ** (len(sizes["depths"]) - 1)
    crop = config.views.crop_side(config.data.size)
    for flag, side in (
        (f"data.size={config.data.size}", config.data.size),
        (f"views.crop={config.views.crop} gives {crop} pixels", crop),
    ):
        if side < whole:
            raise UserError(
                f"--config.{flag}: this network needs {whole} pixels or more (patches of "
                f"{sizes['patch_size']}, {len(sizes['depths'])} stages)"
            )
    return SwinUnet(
        num_classes=config.model.num_classes,
        num_branches=num_branches,
        mlp_ratio=config.model.mlp_ratio,
        drop_path_rate=config.model.drop_path_rate,
        dtype=jnp.dtype(config.model.dtype),
        remat=config.model.remat,
        statistics=config.model.statistics,
        momentum=config.method.momentum,
        axis_name=parallel.AXIS,
        **sizes,
    )


def _model_sizes(config: ModelConfig) -> dict[str, Any]:
    """The preset's sizes, with what the config sets itself."""
    if config.preset not in PRESETS:
        raise UserError(
            f"--config.model.preset: unknown preset {config.preset!r}"
            f"{nearest(config.preset, PRESETS)}; known: {', '.join(PRESETS)}"
        )
    own = {name: getattr(config, name) for name in PRESETS[config.preset]._fields}
    return PRESETS[config.preset]._asdict() | {name: v for name, v in own.items() if v}


def load_data(config: Config, prepared_dir: Path | None = None) -> DataSet:
    """The data set of a config: drawn, or from its prepared folder.

    Raises:
      UserError: the data set is unknown, its folder is not prepared, a domain of it is missing, a
        part is empty, or a patient is in two parts, whatever their domains.
    """
    data_rooms.enter_all()
    if is_drawn(config):
        data = loaders[config.data.name](config.data)
    else:
        assert prepared_dir is not None
        data = prepared_set.load(config.data, prepared_dir)
    patients: dict[str, set[str]] = {}
    for part in data.parts:
        patients.setdefault(part.name, set()).update(part.patient_ids)
    splits.check_disjoint(patients)
    for part in ("train", "validation", "test"):
        if not data.examples(config.data.source, part):
            raise UserError(
                f"--config.data: domain {config.data.source!r} has no {part} images; "
                "change data.split or add images"
            )
    return data


def is_drawn(config: Config) -> bool:
    """Whether the data set is drawn in memory, and needs no preparation.

    Raises:
      UserError: there is no data set of this name.
    """
    data_rooms.enter_all()
    name = config.data.name
    if name not in loaders and name not in collections:
        known = sorted({*loaders, *collections})
        raise UserError(
            f"--config.data.name: unknown data set {name!r}{nearest(name, known)}; "
            f"known: {', '.join(known)}"
        )
    return name in loaders


def plan(run: Run) -> Plan:
    """How this run's training batches are made."""
    return Plan(
        views=tuple(views.make_view(name) for name in run.view_names),
        branch_of_view=run.branch_of_view,
        config=run.config.views,
        batch_size=run.config.train.batch_size,
        seed=run.config.train.seed,
        foreground=run.config.train.foreground,
    )
