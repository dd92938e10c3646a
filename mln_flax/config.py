"""Typed settings: all that can be set, with what is refused."""

import math
from dataclasses import dataclass
from typing import Any

from mln_flax.registry import nearest
from mln_flax.types import UserError

PROGRAMS = ("forward", "train", "train_views", "predict", "predict_all", "input")
GROWTH = ("size", "k", "devices")


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
    prepared_dir: str = ""  # where its tiles are stored once; "" means beside the workdir
    also: tuple[str, ...] = ()  # prepared folders of other data sets, whose domains are targets
    source: str = "ffdm"
    targets: tuple[str, ...] = ("dbt", "film", "processing")
    size: int = 128  # height and width of what the network sees, pixels
    phantom: PhantomConfig = PhantomConfig()
    split: SplitConfig = SplitConfig()
    tiles: TilesConfig = TilesConfig()
    label: str = ""  # "calcification" or "cluster" where a data set has both; "" is its usual one
    point_radius_mm: float = 0.25  # a calcification marked by a point becomes a disc
    on_error: str = "report"  # leave out what cannot be used, and say so; or "stop" at the first
    hide_names: bool = False  # hash every file name in reports, not only patients' ids in them
    workers: int = 0  # processes that prepare; 0: as many as there are cores, up to 4
    cache_gb: float = 4.0  # prepared tiles that fit are kept in memory


@dataclass(frozen=True)
class ViewsConfig:
    """The intensity versions of each source image, and the geometry that all of them share."""

    strategy: str = "listed"  # "listed" takes `names`; "mean" and "random" draw `pairs` curves
    names: tuple[str, ...] = ("identity", "bezier(0.3)", "bezier(0.7)", "invert")
    pairs: int = 2
    invert_all: bool = False  # with "mean" and "random": invert every view, not the original only
    flip: bool = True
    scale: tuple[float, float] = (0.9, 1.1)  # of the crop, drawn uniformly
    crop: float = 1.0  # side of the training crop, as a share of the image's; 1 keeps it whole

    def crop_side(self, side: int) -> int:
        """The side of the training crop of a square image, pixels."""
        return round(self.crop * side)


@dataclass(frozen=True)
class ModelConfig:
    """The network; a preset of it fills what is left at its default."""

    preset: str = "tiny"
    name: str = "swin_unet"  # or "unet", which knows no sizes but `widths`
    num_classes: int = 2
    norm: str = "channel"  # over what: of a U-Net also "sample", "instance" or "batch"
    widths: tuple[int, ...] = ()  # of a U-Net; zero and () mean: as the preset says
    patch_size: int = 0
    embed_dim: int = 0
    depths: tuple[int, ...] = ()
    num_heads: tuple[int, ...] = ()
    window_size: int = 0
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.1
    dtype: str = "float32"
    remat: bool = False
    statistics: str = "channel"  # moments per channel, or of the whole layer (Eq. 10-11)
    pretrained: str = ""  # a PyTorch Swin-Unet checkpoint as .npz


@dataclass(frozen=True)
class MethodConfig:
    """What is trained and how it answers."""

    name: str = "mln"
    branch_map: str = "per_view"  # or "grouped" (upright, inverted) or "shared" (one branch)
    foreground_only: bool = False  # Dice of the calcifications alone
    cross_entropy: float = 0.0  # weight of an added cross-entropy
    cross_entropy_from_step: int = 0  # it grows from nothing over as many steps again
    class_weights: tuple[float, ...] = ()  # of the cross-entropy
    hard_negatives: float = 1.0  # share of the background pixels, hardest first, that it counts
    selection: str = "polarity"  # how branches are chosen: see branches.SELECTIONS
    answer: str = "branch"  # the nearest alone; or "weighted" (polarity only), or "union"
    temperature: float = 4.0  # "weighted": above 1 evens out the branches' probabilities
    level: str = "image"  # what shares one choice: an "image", a "case" or a "domain"
    early: bool = True  # choose by the first norms where they suffice; false: by all of them
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
    accumulate: int = 1  # parts of a batch's rows; see docs/performance.md, Memory
    seed: int = 0
    foreground: float = 0.0  # share of a batch's places that only images with a label take
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
class BenchmarkConfig:
    """What --mode=benchmark times."""

    runs: int = 7  # of each program, in turns; 0 compiles only: compile time, memory, operations
    only: tuple[str, ...] = ()  # some of PROGRAMS; () is all of them
    against: str = ""  # a Python file with a PyTorch SwinUnet, which is timed in turns with ours
    against_compiled: bool = False  # that network through torch.compile
    growth: tuple[str, ...] = ()  # some of GROWTH: a table of the time against each, instead


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
    benchmark: BenchmarkConfig = BenchmarkConfig()


def validate(config: Config) -> None:
    """Raises UserError for numbers and names that cannot work, each with what is allowed."""
    _positive(
        config,
        "data.size",
        "data.phantom.train",
        "data.phantom.validation",
        "data.phantom.test",
        "data.phantom.spacing_mm",
        "data.point_radius_mm",
        "model.num_classes",
        "model.mlp_ratio",
        "method.temperature",
        "optim.learning_rate",
        "train.steps",
        "train.batch_size",
        "train.accumulate",
        "train.log_every_steps",
        "train.evaluate_every_steps",
        "evaluate.batch_size",
    )
    _not_negative(
        config,
        "data.phantom.seed",
        "data.split.seed",
        "data.tiles.rows",
        "data.tiles.columns",
        "data.workers",
        "data.cache_gb",
        "model.patch_size",
        "model.embed_dim",
        "model.window_size",
        "method.cross_entropy",
        "optim.weight_decay",
        "optim.warmup_steps",
        "optim.clip_norm",
        "train.seed",
        "evaluate.examples",
        "benchmark.runs",
    )
    _between(config, 0, 1, "method.momentum", "method.hard_negatives", "data.tiles.min_breast")
    _between(config, 0, 1, "train.foreground", "data.split.validation", "data.split.test")
    _below_one(config, "optim.b1", "optim.b2", "model.drop_path_rate")
    _one_of(config, "model.dtype", ("float32", "bfloat16"))
    _one_of(config, "model.statistics", ("channel", "layer"))
    _one_of(config, "model.norm", ("channel", "sample", "instance", "batch"))
    _one_of(config, "method.branch_map", ("per_view", "grouped", "shared"))
    _one_of(config, "method.answer", ("branch", "weighted", "union"))
    _one_of(config, "method.level", ("image", "case", "domain"))
    _one_of(config, "optim.name", ("adam", "adamw"))
    _one_of(config, "data.label", ("", "calcification", "cluster"))
    _one_of(config, "data.on_error", ("report", "stop"))
    _each_of(config, "benchmark.only", PROGRAMS)
    _each_of(config, "benchmark.growth", GROWTH)
    for path in ("data.phantom.seed", "data.split.seed", "train.seed"):
        if _value(config, path) >= 2**31:
            raise UserError(f"--config.{path}={_value(config, path)}: must be below 2^31")
    if config.method.answer == "weighted" and config.method.selection != "polarity":
        raise UserError(
            f"--config.method.answer=weighted: with selection={config.method.selection} there are "
            "no probabilities to weigh by; only polarity gives them"
        )
    if config.method.answer != "branch" and config.method.level != "image":
        raise UserError(
            f"--config.method.level={config.method.level}: only answer=branch has one choice for "
            f"several images, not {config.method.answer}"
        )
    _check_benchmark(config.benchmark)
    if config.model.num_classes != 2:
        raise UserError("--config.model.num_classes: the masks know 2 classes")
    _each_positive(config, "model.depths", "model.widths")
    weights = config.method.class_weights
    if weights and (len(weights) != config.model.num_classes or not all(w > 0 for w in weights)):
        raise UserError(
            f"--config.method.class_weights={weights}: allowed are none, or one above 0 for each "
            f"of {config.model.num_classes} classes"
        )
    if config.data.split.validation + config.data.split.test >= 1:
        raise UserError("--config.data.split: validation and test leave nothing to train on")
    if not 0 < config.views.crop <= 1:
        raise UserError(
            f"--config.views.crop={config.views.crop}: is the side's share that a training crop "
            "keeps; must be above 0, at most 1 (the whole image)"
        )
    low, high = config.views.scale
    if not 0 < low <= high:
        raise UserError(f"--config.views.scale={low},{high}: must be 0 < low <= high")


def _check_benchmark(benchmark: BenchmarkConfig) -> None:
    """Refuses what would be measured without being asked for, or asked for and not measured."""
    for name in ("only", "against") if benchmark.growth else ():
        if getattr(benchmark, name):
            raise UserError(
                f"--config.benchmark.{name}: growth times programs of its own, and ours alone; "
                "leave it empty"
            )
    if benchmark.against_compiled and not benchmark.against:
        raise UserError(
            "--config.benchmark.against_compiled=true: compiles the network of a PyTorch file; "
            "name one by --config.benchmark.against=FILE"
        )
    if benchmark.runs:
        return
    if benchmark.growth or benchmark.against:
        name = "growth" if benchmark.growth else "against"
        raise UserError(
            f"--config.benchmark.runs=0: compiles and runs nothing, so there is nothing to "
            f"compare; with {name} it must be above 0"
        )
    if benchmark.only and not {"train", "train_views"} & set(benchmark.only):
        raise UserError(
            f"--config.benchmark.only={','.join(benchmark.only)}: with runs=0 only train and "
            "train_views are compiled"
        )


def _value(config: Config, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _positive(config: Config, *paths: str) -> None:
    for path in paths:
        if not 0 < _value(config, path) < math.inf:
            raise UserError(f"--config.{path}={_value(config, path)}: must be above 0")


def _each_positive(config: Config, *paths: str) -> None:
    for path in paths:
        if any(value < 1 for value in _value(config, path)):
            raise UserError(f"--config.{path}={_value(config, path)}: each must be above 0")


def _not_negative(config: Config, *paths: str) -> None:
    for path in paths:
        if not 0 <= _value(config, path) < math.inf:
            raise UserError(f"--config.{path}={_value(config, path)}: must be 0 or more")


def _below_one(config: Config, *paths: str) -> None:
    for path in paths:
        if not 0 <= _value(config, path) < 1:
            raise UserError(f"--config.{path}={_value(config, path)}: must be 0 or more, below 1")


def _between(config: Config, low: float, high: float, *paths: str) -> None:
    for path in paths:
        if not low <= _value(config, path) <= high:
            raise UserError(
                f"--config.{path}={_value(config, path)}: must lie between {low} and {high}"
            )


def _one_of(config: Config, path: str, known: tuple[str, ...]) -> None:
    _known(path, _value(config, path), known)


def _each_of(config: Config, path: str, known: tuple[str, ...]) -> None:
    for value in _value(config, path):
        _known(path, value, known)


def _known(path: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        names = ", ".join(name or "nothing" for name in known)
        raise UserError(f"--config.{path}={value}: unknown{nearest(value, known)}; known: {names}")
