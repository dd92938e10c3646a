"""Typed settings: what can be set, how a command line overrides it, and what is refused."""

import ast
import dataclasses
import importlib.util
import json
import os
import typing
from dataclasses import dataclass
from typing import Any

from mln_flax.registry import nearest
from mln_flax.types import UserError


@dataclass(frozen=True)
class PhantomConfig:
    """How many phantoms are drawn for each domain, and their pixels."""

    train: int = 240
    validation: int = 24
    test: int = 48
    spacing_mm: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class SplitConfig:
    """Shares of the patients of a real data set; the rest is for training."""

    validation: float = 0.15
    test: float = 0.25
    seed: int = 0


@dataclass(frozen=True)
class TilesConfig:
    """How a whole image is cut."""

    rows: int = 2
    columns: int = 2
    min_breast: float = 0.05  # training tiles with a smaller share of breast are dropped


@dataclass(frozen=True)
class DataConfig:
    """Which images: the data set, its one source domain, and the targets never trained on."""

    name: str = "phantom"
    dir: str = ""  # the folder of a real data set
    source: str = "ffdm"
    targets: tuple[str, ...] = ("dbt", "film", "processing")
    size: int = 128  # height and width of what the network sees, pixels
    phantom: PhantomConfig = PhantomConfig()
    split: SplitConfig = SplitConfig()
    tiles: TilesConfig = TilesConfig()


@dataclass(frozen=True)
class ViewsConfig:
    """The intensity versions of each source image, and the geometry that all of them share."""

    strategy: str = "listed"  # "listed" takes `names`; "mean" and "random" draw `pairs` curves
    names: tuple[str, ...] = ("identity", "bezier(0.3)", "bezier(0.7)", "invert")
    pairs: int = 2
    invert_all: bool = False  # with "mean" and "random": invert every view, not the original only
    flip: bool = True
    scale: tuple[float, float] = (0.9, 1.1)  # of the crop, drawn uniformly
    crop: int = 0  # side of the training crop, pixels; 0 keeps the whole image


@dataclass(frozen=True)
class ModelConfig:
    """The Swin-Unet; a preset fills what is left at its default."""

    preset: str = "tiny"
    num_classes: int = 2
    patch_size: int = 0  # zero and () mean: as the preset says
    embed_dim: int = 0
    depths: tuple[int, ...] = ()
    num_heads: tuple[int, ...] = ()
    window_size: int = 0
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.1
    dtype: str = "float32"
    remat: bool = False
    statistics: str = "channel"  # moments per channel, or of the whole layer (Eq. 10-11)
    pretrained: str = ""  # a PyTorch Swin-Unet checkpoint, .npz or .pth


@dataclass(frozen=True)
class MethodConfig:
    """What is trained and how it answers."""

    name: str = "mln"
    branch_map: str = "per_view"  # or "grouped" (upright, inverted) or "shared" (one branch)
    foreground_only: bool = False  # Dice of the calcifications alone
    cross_entropy: float = 0.0  # weight of an added cross-entropy
    class_weights: tuple[float, ...] = ()  # of the cross-entropy
    hard_negatives: float = 1.0  # share of the background pixels, hardest first, that it counts
    selection: str = "image"  # the shipped rule: see branches.SELECTIONS
    momentum: float = 0.95  # of the running statistics


@dataclass(frozen=True)
class OptimConfig:
    """Adam as in the paper; the learning rate and its schedule are ours."""

    name: str = "adam"  # L2 decay added to the gradient; "adamw" decouples it
    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 1e-3
    warmup_steps: int = 50
    clip_norm: float = 0.0  # 0 does not clip


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    steps: int = 1000
    batch_size: int = 4  # images; each gives as many rows as there are views
    seed: int = 0
    log_every_steps: int = 20
    evaluate_every_steps: int = 200  # source validation and checkpoint
    cache_compiled: bool = True
    distributed: bool = False  # several processes: jax.distributed.initialize


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured after training."""

    batch_size: int = 8
    examples: int = 3  # pictures per domain in the report


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    data: DataConfig = DataConfig()
    views: ViewsConfig = ViewsConfig()
    model: ModelConfig = ModelConfig()
    method: MethodConfig = MethodConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


def load_file(path: str) -> Config:
    """What `get_config()` of a Python file returns.

    Raises:
      UserError: there is no such file, or it does not give a Config.
    """
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        found = sorted(f for f in os.listdir(folder) if f.endswith(".py")) if os.path.isdir(
            folder
        ) else []
        raise UserError(
            f"--config={path}: no such file{nearest(os.path.basename(path), found)}"
            + (f"; in {folder}: {', '.join(found)}" if found else "")
        )
    spec = importlib.util.spec_from_file_location("mln_flax_config", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # whatever a user's file may do
        raise UserError(f"--config={path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UserError(f"--config={path}: get_config() must return a mln_flax.config.Config")
    return config


def override(config: Any, path: str, text: str) -> Any:
    """The settings with one of them changed: override(config, "optim.learning_rate", "3e-4").

    Raises:
      UserError: no such field (the nearest known name is given), or a value of another type.
    """
    return _replace(config, path.split("."), text, flag=f"--config.{path}")


def _replace(node: Any, parts: list[str], text: str, flag: str) -> Any:
    name, rest = parts[0], parts[1:]
    known = [f.name for f in dataclasses.fields(node)]
    if name not in known:
        raise UserError(
            f"{flag}: unknown setting {name!r}{nearest(name, known)}; known here: "
            + ", ".join(known)
        )
    value = getattr(node, name)
    if dataclasses.is_dataclass(value):
        if not rest:
            inner = ", ".join(f.name for f in dataclasses.fields(value))
            raise UserError(f"{flag}: {name!r} is a group of settings; set one of {inner}")
        return dataclasses.replace(node, **{name: _replace(value, rest, text, flag)})
    if rest:
        raise UserError(f"{flag}: {name!r} is a value, it has no {'.'.join(rest)!r}")
    hint = typing.get_type_hints(type(node))[name]
    return dataclasses.replace(node, **{name: _parse(text, hint, flag)})


def _parse(text: str, hint: Any, flag: str) -> Any:
    """The value that a text stands for, of the field's type."""
    if hint is str:
        return text
    if hint is bool:
        words = {"true": True, "1": True, "false": False, "0": False}
        if text.lower() in words:
            return words[text.lower()]
        raise UserError(f"{flag}={text}: allowed are true and false")
    if typing.get_origin(hint) is tuple:
        return _parse_tuple(text, hint, flag)
    try:
        return hint(text)
    except ValueError:
        kind = {int: "a whole number", float: "a number"}[hint]
        raise UserError(f"{flag}={text}: must be {kind}") from None


def _parse_tuple(text: str, hint: Any, flag: str) -> tuple[Any, ...]:
    """`2,2,2`, `(2, 2, 2)` or `identity,bezier(0.3)`; nothing is the empty tuple."""
    kinds = typing.get_args(hint)
    if kinds[0] is str:
        return tuple(part.strip() for part in split_outside_brackets(text) if part.strip())
    try:
        value = ast.literal_eval(f"({text.strip('()[] ')},)") if text.strip("()[] ") else ()
        items = tuple(kinds[0](item) for item in value)
    except (ValueError, SyntaxError, TypeError):
        raise UserError(f"{flag}={text}: must be numbers with commas between them") from None
    if len(kinds) == 2 and kinds[1] is not Ellipsis and len(items) != 2:
        raise UserError(f"{flag}={text}: must be two numbers")
    return items


def split_outside_brackets(text: str) -> list[str]:
    """The parts of a text between commas that stand in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested values, as config.json holds them."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict[str, Any], kind: type = Config, where: str = "config.json") -> Any:
    """The settings that `to_dict` made plain; what is absent keeps its default.

    Raises:
      UserError: a field that is not known.
    """
    hints = typing.get_type_hints(kind)
    fields = {}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"{where}: unknown setting {name!r}{nearest(name, hints)}")
        if dataclasses.is_dataclass(hints[name]):
            value = from_dict(value, typing.cast(type, hints[name]), f"{where}: {name}")
        fields[name] = tuple(value) if isinstance(value, list) else value
    return kind(**fields)


def read_json(path: Any) -> Config:
    """The settings in a workdir's config.json."""
    try:
        with open(path, encoding="utf-8") as file:
            return from_dict(json.load(file), where=str(path))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not the settings of a run ({error})") from None


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines such as `optim.learning_rate: 0.001 -> 0.01` for what differs."""
    lines = []
    for name in sorted(set(old) | set(new)):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            lines.append(f"{prefix}{name}: {a} -> {b}")
    return lines


def validate(config: Config) -> None:
    """Raises UserError for numbers and names that cannot work, each with what is allowed."""
    _positive(
        config,
        "data.size",
        "data.phantom.train",
        "data.phantom.validation",
        "data.phantom.test",
        "data.phantom.spacing_mm",
        "model.num_classes",
        "model.mlp_ratio",
        "optim.learning_rate",
        "train.steps",
        "train.batch_size",
        "train.log_every_steps",
        "train.evaluate_every_steps",
        "evaluate.batch_size",
    )
    _between(config, 0, 1, "optim.b1", "optim.b2", "model.drop_path_rate", "method.momentum")
    _between(config, 0, 1, "data.split.validation", "data.split.test", "method.hard_negatives")
    _between(config, 0, 1, "data.tiles.min_breast")
    _one_of(config, "model.dtype", ("float32", "bfloat16"))
    _one_of(config, "model.statistics", ("channel", "layer"))
    _one_of(config, "method.branch_map", ("per_view", "grouped", "shared"))
    _one_of(config, "optim.name", ("adam", "adamw"))
    if config.model.num_classes != 2:
        raise UserError("--config.model.num_classes: the masks know 2 classes")
    if config.data.split.validation + config.data.split.test >= 1:
        raise UserError("--config.data.split: validation and test leave nothing to train on")
    if not 0 <= config.views.crop <= config.data.size:
        raise UserError(
            f"--config.views.crop={config.views.crop}: allowed are 0 (whole image) to "
            f"data.size={config.data.size}"
        )
    low, high = config.views.scale
    if not 0 < low <= high:
        raise UserError(f"--config.views.scale={low},{high}: must be 0 < low <= high")


def _value(config: Config, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _positive(config: Config, *paths: str) -> None:
    for path in paths:
        if not _value(config, path) > 0:
            raise UserError(f"--config.{path}={_value(config, path)}: must be above 0")


def _between(config: Config, low: float, high: float, *paths: str) -> None:
    for path in paths:
        if not low <= _value(config, path) <= high:
            raise UserError(
                f"--config.{path}={_value(config, path)}: must lie between {low} and {high}"
            )


def _one_of(config: Config, path: str, known: tuple[str, ...]) -> None:
    value = _value(config, path)
    if value not in known:
        raise UserError(
            f"--config.{path}={value}: unknown{nearest(value, known)}; known: {', '.join(known)}"
        )
