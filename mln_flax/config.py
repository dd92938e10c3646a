"""Typed settings: all that can be set, each with its limits beside it.

The settings of a network and of a method stand beside their code, in `models/` and `methods/`;
`model.name` and `method.name` choose them.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from mln_flax.registry import Room, kind_of, nearest
from mln_flax.types import UserError

PROGRAMS = ("forward", "train", "train_views", "predict", "predict_all", "input")
GROWTH = ("size", "k", "devices")

AFTER_TRAINING = "after training"  # marks a field that changes nothing of what is trained

# Where names in the settings are files.
NETWORKS = Room("mln_flax.models", "network")
METHODS = Room("mln_flax.methods", "method")
METRICS = Room("mln_flax.metrics", "metric")  # (prediction, reference, spacing_mm) -> scores

# A limit stands in a field's `Annotated`: what is wrong with a value, or nothing.
Limit = Callable[[Any], str]


def positive(value: float) -> str:
    """The complaint about a number that is not above 0 and finite."""
    return "" if 0 < value < math.inf else "must be above 0"


def not_negative(value: float) -> str:
    """The complaint about a number below 0, or not finite."""
    return "" if 0 <= value < math.inf else "must be 0 or more"


def share(value: float) -> str:
    """The complaint about a number outside [0, 1]."""
    return "" if 0 <= value <= 1 else "must lie between 0 and 1"


def below_one(value: float) -> str:
    """The complaint about a number outside [0, 1)."""
    return "" if 0 <= value < 1 else "must be 0 or more, below 1"


def overlap_share(value: float) -> str:
    """The complaint about a number outside [0, 0.5]: further tiles would add nothing."""
    return "" if 0 <= value <= 0.5 else "must lie between 0 and 0.5"


def random_seed(value: int) -> str:
    """The complaint about a number that is no seed.

    No limit may have the name of a field: a class looks it up when the field has its default.
    """
    return not_negative(value) or ("" if value < 2**31 else "must be below 2^31")


def each_positive(values: tuple[int, ...]) -> str:
    """The complaint about no numbers, or some of which one is not above 0."""
    if not values:
        return "needs one or more"
    return "" if all(value > 0 for value in values) else "each must be above 0"


def one_of(*known: str) -> Limit:
    """A limit: the value, or each of several, is one of these words."""

    def complaint(value: str | tuple[str, ...]) -> str:
        for word in (value,) if isinstance(value, str) else value:
            if word not in known:
                names = ", ".join(name or "nothing" for name in known)
                return f"unknown{nearest(word, known)}; known: {names}"
        return ""

    return complaint


# Of `data`: what says which whole images a model is measured on; all else of it is the model's.
OF_THE_SET = ("name", "dir", "label", "point_radius_mm", "on_error", "hide_names")


@dataclass(frozen=True)
class PhantomConfig:
    """How many phantoms are drawn for each domain, windows and whole views, and their pixels."""

    train: Annotated[int, positive] = 240
    # Whole views whose windows are trained on too, cut anywhere, and how many windows of each.
    whole_train: Annotated[int, not_negative] = 0
    whole_windows: Annotated[int, positive] = 24
    validation: Annotated[int, positive] = 24
    test: Annotated[int, positive] = 48
    # Whole views for source validation, and for the test of each domain, of which half are normal.
    whole_normal: Annotated[int, not_negative, AFTER_TRAINING] = 8
    whole_lesions: Annotated[int, not_negative, AFTER_TRAINING] = 4
    whole_test: Annotated[int, not_negative, AFTER_TRAINING] = 12
    spacing_mm: Annotated[float, positive] = 0.1
    seed: Annotated[int, random_seed] = 0


@dataclass(frozen=True)
class SplitConfig:
    """Shares of the patients of a real data set; the rest is for training."""

    validation: Annotated[float, share] = 0.15
    test: Annotated[float, share] = 0.25
    seed: Annotated[int, random_seed] = 0

    def check(self) -> None:
        """Raises UserError where no patient is left to train on."""
        if self.validation + self.test >= 1:
            raise UserError("--config.data.split: validation and test leave nothing to train on")


@dataclass(frozen=True)
class TilesConfig:
    """How a whole image is cut."""

    rows: Annotated[int, not_negative] = 2
    columns: Annotated[int, not_negative] = 2
    # Training tiles with a smaller share of breast are dropped.
    min_breast: Annotated[float, share] = 0.05


@dataclass(frozen=True)
class DataConfig:
    """Which images: the data set, its one source domain, and the targets never trained on."""

    name: str = "phantom"
    dir: str = ""  # the folder of a real data set
    prepared_dir: str = ""  # where its tiles are stored once; "" means beside the workdir
    also: tuple[str, ...] = ()  # prepared folders of other data sets, whose domains are targets
    # The data folders that those of `also` were prepared from, in their order, for whole images.
    also_dirs: Annotated[tuple[str, ...], AFTER_TRAINING] = ()
    source: str = "ffdm"
    targets: tuple[str, ...] = ("dbt", "film", "processing")
    # Targets whose training images a method may see without their labels; records then say so.
    unlabeled: tuple[str, ...] = ()
    size: Annotated[int, positive] = 128  # height and width of what the network sees, pixels
    phantom: PhantomConfig = PhantomConfig()
    split: SplitConfig = SplitConfig()
    tiles: TilesConfig = TilesConfig()
    # Where a data set has both; "" is its usual one.
    label: Annotated[str, one_of("", "calcification", "cluster")] = ""
    point_radius_mm: Annotated[float, positive] = 0.25  # a calcification marked by a point: a disc
    on_error: Annotated[str, one_of("report", "stop")] = "report"  # of what cannot be used
    hide_names: bool = False  # hash every file name in reports, not only patients' ids in them
    # Processes that prepare or draw; 0: one for each core.
    workers: Annotated[int, not_negative, AFTER_TRAINING] = 0
    # Prepared tiles that fit are kept in memory.
    cache_gb: Annotated[float, not_negative, AFTER_TRAINING] = 4.0

    def check(self) -> None:
        """Raises UserError where `unlabeled` or `also_dirs` do not fit targets and `also`."""
        if self.also_dirs and len(self.also_dirs) != len(self.also):
            raise UserError(
                f"--config.data.also_dirs={','.join(self.also_dirs)}: must be one data folder for "
                f"each prepared folder of data.also, which are {len(self.also)}"
            )
        for domain in self.unlabeled:
            if domain not in self.targets:
                raise UserError(
                    f"--config.data.unlabeled={','.join(self.unlabeled)}: {domain!r} is no target"
                    f"{nearest(domain, self.targets)}; known: {', '.join(self.targets) or 'none'}"
                )
            if self.unlabeled.count(domain) > 1:
                raise UserError(
                    f"--config.data.unlabeled={','.join(self.unlabeled)}: {domain!r} is named twice"
                )


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
    # Crop, flip, scale and views are made by the step: k views send an image once. The random
    # numbers are the same as without it; grays between pixels are rounded differently.
    on_device: bool = False
    augment: tuple[str, ...] = ()  # on the device, behind the views: `jitter(0.5)`, files of views/

    def crop_side(self, side: int) -> int:
        """The side of the training crop of a square image, pixels."""
        return round(self.crop * side)

    def check(self) -> None:
        """Raises UserError for a crop or a range of scales that is none."""
        if not 0 < self.crop <= 1:
            raise UserError(
                f"--config.views.crop={self.crop}: is the side's share that a training crop keeps; "
                "must be above 0, at most 1 (the whole image)"
            )
        low, high = self.scale
        if not 0 < low <= high:
            raise UserError(f"--config.views.scale={low},{high}: must be 0 < low <= high")


@dataclass(frozen=True)
class NetworkSettings:
    """What every network has; each adds its own, in its file in `models/`."""

    num_classes: Annotated[int, positive] = 2
    dtype: Annotated[str, one_of("float32", "bfloat16")] = "float32"
    remat: bool = False
    # Moments per channel, or of the whole layer (Eq. 10-11).
    statistics: Annotated[str, one_of("channel", "layer")] = "channel"
    momentum: Annotated[float, share] = 0.95  # of the running statistics
    # Noise on the channel statistics of the first stages in training; 0.75 as published, 0 is none.
    perturbation: Annotated[float, not_negative] = 0.0
    equalize_noise: bool = False  # a generalized Anscombe transform of each image, as input
    # Training starts from these weights: "detector", those in the box, or the folder of a trained
    # run or of a packed model. Read once, before the first step.
    init_from: str = ""

    def check(self) -> None:
        """Raises UserError for masks of more than two classes."""
        if self.num_classes != 2:
            raise UserError("--config.model.num_classes: the masks know 2 classes")


@dataclass(frozen=True)
class OptimConfig:
    """Adam as in the paper; the learning rate and its schedule are ours."""

    name: Annotated[str, one_of("adam", "adamw")] = "adam"  # adam adds L2 decay to the gradient
    learning_rate: Annotated[float, positive] = 1e-3
    b1: Annotated[float, below_one] = 0.9
    b2: Annotated[float, below_one] = 0.999
    weight_decay: Annotated[float, not_negative] = 1e-3
    warmup_steps: Annotated[int, not_negative] = 50
    clip_norm: Annotated[float, not_negative] = 0.0  # 0 does not clip
    # All parameters as one vector: fewer and larger kernels on an accelerator, for a copy of the
    # gradients and one of the parameters.
    flat: bool = False


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    steps: Annotated[int, positive] = 1000
    batch_size: Annotated[int, positive] = 4  # images; each gives as many rows as there are views
    unlabeled_batch_size: Annotated[int, positive] = 4  # images of data.unlabeled beside them
    accumulate: Annotated[int, positive] = 1  # parts of a batch's rows; docs/performance.md, Memory
    seed: Annotated[int, random_seed] = 0
    # Share of a batch's places that only images with a label take.
    foreground: Annotated[float, share] = 0.0
    log_every_steps: Annotated[int, positive] = 20
    evaluate_every_steps: Annotated[int, positive] = 200  # source validation and checkpoint
    cache_compiled: Annotated[bool, AFTER_TRAINING] = True
    distributed: Annotated[bool, AFTER_TRAINING] = False  # several processes of one run


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured after training."""

    batch_size: Annotated[int, positive] = 8
    examples: Annotated[int, not_negative] = 3  # pictures per domain in the report
    metrics: tuple[str, ...] = ()  # beside the usual ones: files of metrics/, such as "area"
    whole: bool = False  # whole images too: clusters found against false ones
    # Of --mode=froc, where the data set names its parts itself; "" is all images.
    part: Annotated[str, one_of("", "train", "test")] = ""

    def check(self) -> None:
        """Raises UserError for a metric that there is not."""
        for name in self.metrics:
            try:
                kind_of(METRICS, name)
            except UserError as error:
                raise UserError(f"--config.evaluate.metrics={name}: {error}") from None


@dataclass(frozen=True)
class PredictConfig:
    """How a trained model answers whole images."""

    # Of a pixel, of images whose file does not say it; 0: not known.
    spacing_mm: Annotated[float, not_negative] = 0.0
    tile: Annotated[int, not_negative] = 0  # side, pixels; 0: that of training, at least 256
    overlap: Annotated[float, overlap_share] = 0.125  # of neighboring tiles, as a share of a side
    batch_size: Annotated[int, positive] = 4  # tiles
    # What shares one branch: a "tile", an "image" (a frame), a "case" (all frames of a file).
    choice: Annotated[str, one_of("case", "image", "tile")] = "case"
    # False clusters per normal image, on source validation, that set what is marked.
    false_clusters: Annotated[float, positive] = 0.5
    threshold: Annotated[float, below_one] = 0.0  # of the probability; 0: by `false_clusters`
    min_mm2: Annotated[float, not_negative] = 0.03  # area of a calcification: smaller is noise
    min_count: Annotated[int, positive] = 3  # calcifications of a cluster ...
    cluster_mm2: Annotated[float, positive] = 100.0  # ... in a circle of this area
    keep: Annotated[str, one_of("clusters", "all")] = "clusters"  # calcifications in the mask
    explain_tiles: Annotated[int, not_negative] = 8  # where branches are compared; 0: no reasons
    attribution: bool = True  # for the first cluster of an image
    # Segments of a DICOM answer: each cluster, all together, or probabilities.
    dicom: Annotated[str, one_of("clusters", "binary", "fractional", "none")] = "clusters"


@dataclass(frozen=True)
class PhantomsConfig:
    """What --mode=export-phantoms writes; seed and pixels are those of `data.phantom`."""

    format: Annotated[str, one_of("png", "dicom", "nnunet", "npz")] = "png"
    count: Annotated[int, positive] = 200  # images of each domain, each of a patient of its own
    domains: tuple[str, ...] = ("ffdm", "dbt", "film", "processing")
    whole: bool = False  # whole breasts; else windows of `data.size` pixels
    normal: Annotated[float, share] = 0.5  # of the patients, without calcifications
    # Shares of the patients; the rest is for training. Both 0: there are no parts.
    validation: Annotated[float, share] = 0.0
    test: Annotated[float, share] = 0.0

    def check(self) -> None:
        """Raises UserError for no domain, one that is named twice, or too large parts."""
        shown = f"--config.phantoms.domains={','.join(self.domains)}"
        if not self.domains:
            raise UserError(f"{shown}: needs one or more")
        if twice := [name for name in self.domains if self.domains.count(name) > 1]:
            raise UserError(f"{shown}: {twice[0]!r} is named twice")
        if self.validation + self.test > 1:
            raise UserError("--config.phantoms: validation and test are more than all")


@dataclass(frozen=True)
class BenchmarkConfig:
    """What --mode=benchmark times."""

    # Of each program, in turns; 0 compiles only: compile time, memory, operations.
    runs: Annotated[int, not_negative] = 7
    only: Annotated[tuple[str, ...], one_of(*PROGRAMS)] = ()  # () is all of them
    # A Python file with a PyTorch SwinUnet or UNet, as model.name is, timed in turns with ours.
    against: str = ""
    against_compiled: bool = False  # that network through torch.compile
    against_channels_last: bool = False  # it and its images in that memory format of PyTorch
    growth: Annotated[tuple[str, ...], one_of(*GROWTH)] = ()  # tables of the time against each

    def check(self) -> None:
        """Refuses what would be measured without being asked for, or asked for and not measured."""
        for name in ("only", "against") if self.growth else ():
            if getattr(self, name):
                raise UserError(
                    f"--config.benchmark.{name}: growth times programs of its own, and ours alone; "
                    "leave it empty"
                )
        for name, does in (
            ("against_compiled", "compiles"),
            ("against_channels_last", "is the memory format of"),
        ):
            if getattr(self, name) and not self.against:
                raise UserError(
                    f"--config.benchmark.{name}=true: {does} the network of a PyTorch file; "
                    "name one by --config.benchmark.against=FILE"
                )
        if self.runs:
            return
        if self.growth or self.against:
            name = "growth" if self.growth else "against"
            raise UserError(
                f"--config.benchmark.runs=0: compiles and runs nothing, so there is nothing to "
                f"compare; with {name} it must be above 0"
            )
        if self.only and not {"train", "train_views"} & set(self.only):
            raise UserError(
                f"--config.benchmark.only={','.join(self.only)}: with runs=0 only train and "
                "train_views are compiled"
            )


def network(name: str, **values: Any) -> Any:
    """The settings of a network, by the name of its file in `models/`."""
    return kind_of(NETWORKS, name).settings(**values)


def method(name: str, **values: Any) -> Any:
    """The settings of a method, by the name of its file in `methods/`."""
    return kind_of(METHODS, name).settings(**values)


# What some networks have; the first release gave all of them to every network.
_OF_SOME = (
    *("norm", "widths", "patch_size", "embed_dim", "depths", "num_heads", "window_size"),
    *("mlp_ratio", "drop_path_rate", "pretrained"),
)


def network_of_first_release(name: str, **values: Any) -> dict[str, Any]:
    """The settings of a network, from those that the first release gave it.

    There a network passed over what others have, and 0 and () meant "as the preset says".
    """
    fields = dataclasses.fields(kind_of(NETWORKS, name).settings)
    defaults = {entry.name: entry.default for entry in fields}
    own: dict[str, Any] = {"name": name}
    for key, value in values.items():
        if key in defaults:
            own[key] = None if defaults[key] is None and not value else value
        elif key not in _OF_SOME or (key == "norm" and value != "channel"):
            own[key] = value  # was refused then, and is now
    return own


def ModelConfig(preset: str = "tiny", name: str = "swin_unet", **values: Any) -> Any:  # noqa: N802
    """The settings of a network, as config files of the first release write them."""
    return network(**network_of_first_release(name, preset=preset, **values))


def MethodConfig(name: str = "mln", **values: Any) -> Any:  # noqa: N802
    """The settings of a method, as config files of the first release write them.

    Raises:
      UserError: another momentum than the usual one is given: it is the network's now.
    """
    momentum = values.pop("momentum", NetworkSettings.momentum)
    if momentum != NetworkSettings.momentum:
        raise UserError(f"MethodConfig(momentum=...) is ModelConfig(momentum={momentum}) now")
    return method(name, **values)


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    data: DataConfig = DataConfig()
    views: ViewsConfig = ViewsConfig()
    model: Annotated[Any, NETWORKS] = field(default_factory=lambda: network("swin_unet"))
    method: Annotated[Any, METHODS] = field(default_factory=lambda: method("mln"))
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    evaluate: Annotated[EvaluateConfig, AFTER_TRAINING] = EvaluateConfig()
    predict: Annotated[PredictConfig, AFTER_TRAINING] = PredictConfig()
    benchmark: Annotated[BenchmarkConfig, AFTER_TRAINING] = BenchmarkConfig()
    phantoms: Annotated[PhantomsConfig, AFTER_TRAINING] = PhantomsConfig()


def validate(config: Any) -> None:
    """Raises UserError for numbers and names that cannot work, each with what is allowed."""
    for path, value, limits in _limited(config):
        for limit in limits if value is not None else ():
            if callable(limit) and (complaint := limit(value)):
                shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
                raise UserError(f"--config.{path}={shown}: {complaint}")
    for group in _groups(config):
        if hasattr(group, "check"):
            group.check()


def _limited(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, tuple[Limit, ...]]]:
    """Path, value and limits of every setting."""
    hints = hints_of(type(node))
    for entry in dataclasses.fields(node):
        value, path = getattr(node, entry.name), f"{prefix}{entry.name}"
        if dataclasses.is_dataclass(value):
            yield from _limited(value, f"{path}.")
        else:
            yield path, value, marks(hints[entry.name])


def hints_of(kind: type) -> dict[str, Any]:
    """The types of a group's fields, with what is annotated to them."""
    return typing.get_type_hints(kind, include_extras=True)


def marks(hint: Any) -> tuple[Any, ...]:
    """What is annotated to a field: its limits, its room, whether it comes after training."""
    return getattr(hint, "__metadata__", ())


def _groups(node: Any) -> Iterator[Any]:
    """Every group of settings, the inner ones first."""
    for entry in dataclasses.fields(node):
        value = getattr(node, entry.name)
        if dataclasses.is_dataclass(value):
            yield from _groups(value)
    yield node
