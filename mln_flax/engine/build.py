"""From settings to what they describe: data, views, branches, model, method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import optax

from mln_flax import data as data_rooms
from mln_flax.config import Config, ModelConfig
from mln_flax.data.core import DataSet, collections, loaders
from mln_flax.data.prepare import prepared_set, splits
from mln_flax.engine import optim
from mln_flax.engine.input_pipeline import Plan
from mln_flax.methods.core import Method
from mln_flax.methods.mln.branches import SELECTIONS, check_metric
from mln_flax.methods.mln.update import mln
from mln_flax.models import norm_kinds
from mln_flax.models import swin_unet as swin_unets
from mln_flax.models import unet as unets
from mln_flax.registry import Registry, nearest
from mln_flax.types import AXIS, UserError
from mln_flax.views import intensity

methods = Registry("method")
methods.register("mln")(mln)
networks = Registry("network")  # (config, number of branches) -> the network


class Run(NamedTuple):
    """Everything that a config describes, except the data."""

    config: Config
    view_names: tuple[str, ...]
    branch_of_view: tuple[int, ...]
    branch_names: tuple[str, ...]
    model: nn.Module
    optimizer: optax.GradientTransformation
    method: Method

    @property
    def num_branches(self) -> int:
        """The number k of branches."""
        return len(self.branch_names)


def build(config: Config) -> Run:
    """The run that a config describes; raises UserError for what cannot work together."""
    check_metric(config.method.selection, SELECTIONS)
    names = intensity.view_names(config.views, config.train.seed)
    branch_of_view, branch_names = intensity.branch_map(names, config.method.branch_map)
    rows = config.train.batch_size * len(names)
    if rows % config.train.accumulate:
        raise UserError(
            f"--config.train.accumulate={config.train.accumulate}: must divide the {rows} rows of "
            f"a batch, {config.train.batch_size} images in {len(names)} views"
        )
    model = network(config, len(branch_names))
    optimizer = optim.optimizer(config.optim, config.train.steps)
    method = methods[config.method.name](
        model,
        optimizer,
        config.method,
        len(branch_names),
        config.train.seed,
        config.train.accumulate,
    )
    return Run(config, names, branch_of_view, branch_names, model, optimizer, method)


def network(config: Config, num_branches: int) -> nn.Module:
    """The network of a config.

    Raises:
      UserError: unknown network or preset, sizes that do not fit each other, images smaller than
        one token of the deepest stage, or a setting that only another network knows.
    """
    name = config.model.name
    if name not in networks:
        raise UserError(
            f"--config.model.name={name}: unknown{nearest(name, networks)}; "
            f"known: {', '.join(networks)}"
        )
    return networks[name](config, num_branches)


@networks.register("swin_unet")
def swin_unet(config: Config, num_branches: int) -> swin_unets.SwinUnet:
    """The Swin-Unet of a config; raises as `network` does."""
    sizes = _model_sizes(config.model, swin_unets.PRESETS)
    if config.model.norm != "channel":
        raise UserError(
            f"--config.model.norm={config.model.norm}: swin_unet has layer norms over channels "
            "only; allowed is channel, or --config.model.name=unet"
        )
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
    stages = len(sizes["depths"])
    needed = f"patches of {sizes['patch_size']}, {stages} stages"
    _check_sides(config, sizes["patch_size"] * 2 ** (stages - 1), needed)
    return swin_unets.SwinUnet(
        mlp_ratio=config.model.mlp_ratio,
        drop_path_rate=config.model.drop_path_rate,
        **_common(config, num_branches),
        **sizes,
    )


@networks.register("unet")
def unet(config: Config, num_branches: int) -> unets.UNet:
    """The U-Net of a config; raises as `network` does."""
    sizes = _model_sizes(config.model, unets.PRESETS)
    if config.model.pretrained:
        raise UserError(
            f"--config.model.pretrained={config.model.pretrained}: is for model.name=swin_unet "
            "only; allowed here is nothing"
        )
    if config.model.norm in norm_kinds.FROM_STATISTICS and config.model.statistics == "layer":
        raise UserError(
            f"--config.model.norm={config.model.norm}: normalizes each channel by its own "
            "statistics; allowed is model.statistics=channel"
        )
    stages = len(sizes["widths"])
    _check_sides(config, 2 ** (stages - 1), f"{stages} stages")
    return unets.UNet(norm=config.model.norm, **_common(config, num_branches), **sizes)


def _common(config: Config, num_branches: int) -> dict[str, Any]:
    """What every network is told."""
    return {
        "num_classes": config.model.num_classes,
        "num_branches": num_branches,
        "dtype": jnp.dtype(config.model.dtype),
        "remat": config.model.remat,
        "statistics": config.model.statistics,
        "momentum": config.method.momentum,
        "axis_name": AXIS,
    }


def _model_sizes(config: ModelConfig, presets: Mapping[str, Any]) -> dict[str, Any]:
    """The preset's sizes, with what the config sets itself."""
    if config.preset not in presets:
        raise UserError(
            f"--config.model.preset: unknown preset {config.preset!r}"
            f"{nearest(config.preset, presets)}; known for model.name={config.name}: "
            f"{', '.join(presets)}"
        )
    own = {name: getattr(config, name) for name in presets[config.preset]._fields}
    return presets[config.preset]._asdict() | {name: v for name, v in own.items() if v}


def _check_sides(config: Config, whole: int, needed_for: str) -> None:
    """Refuses images and training crops of fewer than `whole` pixels."""
    crop = config.views.crop_side(config.data.size)
    for flag, side in (
        (f"data.size={config.data.size}", config.data.size),
        (f"views.crop={config.views.crop} gives {crop} pixels", crop),
    ):
        if side < whole:
            raise UserError(
                f"--config.{flag}: this network needs {whole} pixels or more ({needed_for})"
            )


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
        views=tuple(intensity.make_view(name) for name in run.view_names),
        branch_of_view=run.branch_of_view,
        config=run.config.views,
        batch_size=run.config.train.batch_size,
        seed=run.config.train.seed,
        foreground=run.config.train.foreground,
    )
