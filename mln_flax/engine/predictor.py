"""Answers for whole images: what is marked, how sure, by which branch, and why."""

import dataclasses
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mln_flax import settings
from mln_flax.config import Config, validate
from mln_flax.engine import explain, packed, sides, stored, whole, whole_model
from mln_flax.engine import workdir as workdirs
from mln_flax.engine.build import Run, build
from mln_flax.engine.model import load_model
from mln_flax.engine.whole import LEAST_SIDE, Scene, Spacing, Tiling
from mln_flax.engine.whole_model import WholeModel
from mln_flax.metrics import clusters
from mln_flax.metrics.clusters import Marks
from mln_flax.metrics.decision import OperatingPoint, WholePoint, decide
from mln_flax.types import Record, UserError

LEAST_TILE = 256  # pixels: smaller tiles spend much of their time on overlaps
LOOKED_AT = 8  # frames of a volume by which its branch is chosen: neighbors look alike. Chosen.
FAR = "the image is far from everything that the model has seen in training: do not rely on it"
NO_FAR = "this model cannot tell whether an image is far from training: it is of an older version"
NO_POINT = (
    "the operating point is that of tiles full of lesions: on whole images expect many false marks"
)


class Sized(NamedTuple):
    """An image and what is known of its pixels' size."""

    scene: Scene
    image: np.ndarray  # float32 [H, W]
    spacing_mm: Spacing  # by which marks are measured
    known: Spacing | None  # the same, where it is more than assumed
    spacing_from: str  # "file", "setting", "argument" or "assumed"
    notes: tuple[str, ...]


class Prediction(NamedTuple):
    """The answer for one image, or one frame of a volume, in its own pixels."""

    image: np.ndarray  # float32 [H, W] in [0, 1]
    probability: np.ndarray  # float32 [H, W]: of a calcification; 0 outside the breast
    mask: np.ndarray  # bool [H, W]
    breast: np.ndarray  # bool [H, W]
    marks: Marks  # calcifications and clusters at the operating point
    spacing_mm: Spacing | None  # (row, column); None: not known
    spacing_from: str  # "file", "setting", "argument" or "assumed"
    measured_mm: Spacing  # by which marks are measured: assumed where it is not known
    point: WholePoint
    facts: Record  # what the method says of its answer
    why: Record  # and of its reasons
    # Float32 [h, w] at the model's pixel size, 0 where it was not asked: "disagreement" ...
    maps: Mapping[str, np.ndarray]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def clusters(self) -> tuple[clusters.Cluster, ...]:
        """The clusters, the surest first."""
        return self.marks.clusters

    @property
    def branch(self) -> str:
        """The branch that answered; "" of a network without branches."""
        return str(self.facts.get("branch", ""))


class _Unfinished(NamedTuple):
    """An image whose tiles are on their way through the network."""

    sized: Sized
    common: np.ndarray | None  # what decides its branch; None: each tile chooses
    total: np.ndarray  # float32 [h, w]: of the tiles that are through
    facts: list[Record]  # of each of them
    points: list[OperatingPoint]

    @property
    def is_through(self) -> bool:
        return len(self.facts) == len(self.sized.scene.corners)


@dataclass(frozen=True)
class Predictor:
    """A trained model, ready to answer whole images of any size; by itself that in the box."""

    run: Run = None  # type: ignore[assignment]  # None: all is that of the weights in the box
    fitted: Any = None
    whole: WholeModel | None = None
    tiling: Tiling = Tiling(0, 0)
    trained_side: int = 0  # of the training images, pixels
    weights: str = "weights in memory"  # where they come from

    def __post_init__(self) -> None:
        """Takes the weights in the box where none are given; raises UserError without them."""
        if self.run is None:
            of_box = type(self).from_workdir()
            for entry in dataclasses.fields(self):
                object.__setattr__(self, entry.name, getattr(of_box, entry.name))

    @classmethod
    def from_workdir(
        cls, workdir: str | Path | None = None, changes: Mapping[str, str] | None = None
    ) -> "Predictor":
        """The predictor of a trained workdir.

        Args:
          workdir: of the run, or a packed model; None: the weights in the box.
          changes: of settings, such as `{"predict.keep": "all"}`.

        Raises:
          UserError: there is no trained model, or a setting that does not exist.
        """
        path = packed.DETECTOR if workdir is None else Path(workdir)
        config = settings.override_all(stored.config_of(path), dict(changes or {}))
        validate(config)
        workdirs.refuse_other_settings(path, config)
        return cls.of(config, path)

    @classmethod
    def of(cls, config: Config, workdir: Path) -> "Predictor":
        """The predictor of a config and its workdir or packed model."""
        workdirs.cache_compiled(config)
        run = run_of_tiles(config)
        fitted = load_model(run, workdir)
        predictor = cls.of_model(config, fitted, whole_model.read(workdir))
        return dataclasses.replace(predictor, weights=packed.title(workdir))

    @classmethod
    def of_model(cls, config: Config, fitted: Any, kept: WholeModel | None) -> "Predictor":
        """The predictor of what a method kept of training, as it lies in memory."""
        run = run_of_tiles(config)
        side = run.config.data.size
        tiling = Tiling(side, round(side * config.predict.overlap))
        return cls(run, fitted, kept, tiling, config.data.size)

    def __call__(self, image: np.ndarray, spacing_mm: float | Spacing | None = None) -> Prediction:
        """The answer for an image [H, W] in [0, 1], with its pixels' size in millimeters.

        Raises:
          UserError: not such an image, or a size that is none.
        """
        return self.volume([image], spacing_mm)[0]

    def volume(
        self, frames: Sequence[np.ndarray], spacing_mm: float | Spacing | None = None
    ) -> list[Prediction]:
        """The answers for frames of one case, which share a branch as `predict.choice` says."""
        spacing = spacing_of(spacing_mm)
        sized = [self.sized(checked(frame), spacing, "argument") for frame in frames]
        shared = self.run.config.predict.choice == "case"
        common = self.look([sized[i] for i in looked_at(len(sized))]) if shared else None
        return list(self.answers((one, common if shared else self.look([one])) for one in sized))

    def many(
        self, images: Iterable[np.ndarray], spacing_mm: float | Spacing | None = None
    ) -> Iterator[Prediction]:
        """The answers for many images, in their order; small ones go through the network together.

        No more is held than one pass of tiles has images.
        """
        spacing = spacing_of(spacing_mm)
        sized = (self.sized(checked(image), spacing, "argument") for image in images)
        return self.answers((one, self.look([one])) for one in sized)

    def sized(self, image: np.ndarray, spacing_mm: Spacing | None, spacing_from: str) -> Sized:
        """An image as the network will see it, and its pixels' size.

        Args:
          image: float32 [H, W] in [0, 1].
          spacing_mm: (row, column), or None where it is not known.
          spacing_from: who says so.

        Raises:
          UserError: more pixels than can be worked on.
        """
        chosen, trained = self.run.config.predict, self.whole.spacing_mm if self.whole else None
        if spacing_mm is None and chosen.spacing_mm:
            spacing_mm, spacing_from = (chosen.spacing_mm, chosen.spacing_mm), "setting"
        known, notes = spacing_mm, []
        if spacing_mm is not None and trained is not None:
            scale = (spacing_mm[0] / trained[0], spacing_mm[1] / trained[1])
        else:
            scale, how = self._scale_of_training(image)
            whose = "image" if spacing_mm is None else "model"
            notes.append(f"the pixel size of the {whose} is not known: {how}")
        if spacing_mm is None:
            usual = trained or (whole_model.USUAL_MM, whole_model.USUAL_MM)
            spacing_mm, spacing_from = (usual[0] * scale[0], usual[1] * scale[1]), "assumed"
            notes.append(
                f"lengths rest on assumed pixels of {spacing_mm[0]:.3g} x {spacing_mm[1]:.3g} mm; "
                "--config.predict.spacing_mm says what they are"
            )
        try:
            scene = whole.scene(image, scale, self.tiling)
        except ValueError as error:
            raise UserError(str(error)) from None
        if not scene.corners:
            notes.append("no breast is visible: nothing is marked")
        return Sized(scene, image, spacing_mm, known, spacing_from, tuple(notes))

    def _scale_of_training(self, image: np.ndarray) -> tuple[Spacing, str]:
        """The scale at which an image has as many pixels as training made of one; what it is."""
        cut = self.run.config.data.tiles
        if not cut.rows:
            return (1.0, 1.0), "not resampled"
        height, width = image.shape
        scale = (cut.rows * self.trained_side / height, cut.columns * self.trained_side / width)
        return scale, f"resampled as training does, to {cut.rows}x{cut.columns} of its tiles"

    def look(self, frames: Iterable[Sized]) -> np.ndarray | None:
        """What the method looks at, summed over these images' full tiles; None: each alone.

        Where the air tells whether they are inverted, what is for others is infinitely far. Where
        nothing is looked at, none of the images is asked for.
        """
        look = self.run.method.look
        if look is None or self.run.config.predict.choice == "tile":
            return None
        side, total, votes = self.trained_side, None, 0
        for one in frames:
            if corners := whole.full_corners(one.scene, side) or one.scene.corners[:1]:
                seen = look(self.fitted, whole.cut_at(one.scene, corners, side)).sum(axis=0)
                total = seen if total is None else total + seen
                votes += {None: 0, False: -1, True: 1}[one.scene.inverted]
        inverted = votes > 0 if votes else None
        return total if total is None else sides.of_side(total, self.run.method.inverted, inverted)

    def answer(self, sized: Sized, common: np.ndarray | None) -> Prediction:
        """The answer for an image, by a choice that was made for it and others.

        Args:
          sized: the image.
          common: what `look` says of all that share the choice; None: each tile chooses.
        """
        return next(self.answers([(sized, common)]))

    def answers(self, images: Iterable[tuple[Sized, np.ndarray | None]]) -> Iterator[Prediction]:
        """As `answer`, for many images in their order; all passes are full but the last one."""
        waiting: deque[_Unfinished] = deque()
        tiles: list[tuple[_Unfinished, int]] = []
        for sized, common in images:
            total = np.zeros(sized.scene.image.shape, np.float32)
            waiting.append(_Unfinished(sized, common, total, [], []))
            for number in range(len(sized.scene.corners)):
                tiles.append((waiting[-1], number))
                if len(tiles) == self.run.config.evaluate.batch_size:
                    self._pass(tiles)
                    tiles = []
            while waiting and waiting[0].is_through:
                yield self._finished(waiting.popleft())
        if tiles:
            self._pass(tiles)
        while waiting:
            yield self._finished(waiting.popleft())

    def _pass(self, tiles: Sequence[tuple[_Unfinished, int]]) -> None:
        """Sends tiles, perhaps of several images, through the network in one pass."""
        cut = np.concatenate([whole.tiles_of(image.sized.scene, [n]) for image, n in tiles])
        commons = [image.common for image, _ in tiles if image.common is not None]
        shared = (np.stack(commons),) if commons else ()
        answers = self.run.method.answer(self.fitted, cut, *shared)
        for i, (image, number) in enumerate(tiles):
            name = answers.chosen[i]
            whole.add(image.total, image.sized.scene, number, answers.maps[name][i])
            image.facts.append(dict(answers.facts[i]))
            image.points.append(answers.points[name])

    def _finished(self, image: _Unfinished) -> Prediction:
        """What is marked in an image, all of whose tiles are through."""
        sized, chosen = image.sized, self.run.config.predict
        probability = whole.in_own_pixels(sized.scene, image.total)
        np.minimum(probability, 1, out=probability)  # weights add up to 1 but for rounding
        if not np.isfinite(probability).all():
            raise UserError(
                "the network's answer is no number (NaN): nothing can be marked; see whether "
                "--mode=evaluate gives numbers with this model"
            )
        of_tiles = image.points[0] if image.points else OperatingPoint()
        point = whole_model.point(self.whole, self.run.config, of_tiles)
        mask = decide(probability, in_pixels(point, sized.spacing_mm))
        rule = whole_model.cluster_rule(chosen)
        marks = clusters.marks(probability, mask, sized.spacing_mm, rule)
        why, maps = self.reasons(sized.scene, image.total, marks, image.common)
        return Prediction(
            image=sized.image,
            probability=probability,
            mask=kept(marks, chosen.keep),
            breast=sized.scene.breast,
            marks=marks,
            spacing_mm=sized.known,
            spacing_from=sized.spacing_from,
            measured_mm=sized.spacing_mm,
            point=point,
            facts=facts_of(image.facts, image.common is not None)
            | sides.polarity(image.common, self.run.method.inverted),
            why=why,
            maps=maps,
            notes=sized.notes + ((NO_FAR,) if "distances" in why and "far" not in why else ()),
            warnings=self.warnings + ((FAR,) if why.get("far", {}).get("is_far") else ()),
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is to be said of every answer of this model."""
        chosen = self.run.config.predict
        doubt = whole_model.doubt(self.whole, self.run.config)
        return (f"{NO_POINT} ({doubt})",) if doubt and not chosen.threshold else ()

    def reasons(
        self, scene: Scene, probability: np.ndarray, marks: Marks, common: np.ndarray | None
    ) -> tuple[Record, dict[str, np.ndarray]]:
        """Why it is answered so, and maps float32 [h, w] of it; nothing where none are wanted.

        Args:
          scene: of the image.
          probability: [h, w], at the model's pixel size.
          marks: of the image.
          common: what chose the branch.
        """
        method, chosen = self.run.method, self.run.config.predict
        if not chosen.explain_tiles:
            return {}, {}
        given = method, self.fitted, scene
        why, maps = explain.reasons(
            *given, probability, common, self.trained_side, chosen.explain_tiles
        )
        if chosen.attribution and marks.clusters and method.probability is not None:
            figures, marked = explain.attributed(*given, marks.clusters[0], common)
            why, maps = why | {"attribution": figures}, maps | {"attribution": marked}
        return why, maps


def run_of_tiles(config: Config) -> Run:
    """The run of a config, with passes of tiles of whole images."""
    chosen = config.predict
    side = chosen.tile or max(config.data.size, LEAST_TILE)
    data = dataclasses.replace(config.data, size=side)
    passes = dataclasses.replace(config.evaluate, batch_size=chosen.batch_size)
    return build(dataclasses.replace(config, data=data, evaluate=passes))


def looked_at(frames: int) -> list[int]:
    """The numbers of the frames by which the branch of a volume is chosen, evenly spread."""
    return whole.spread(frames, LOOKED_AT)


def facts_of(tiles: Sequence[Record], one_choice: bool) -> Record:
    """The facts of an image: those that all its tiles share, else those of each."""
    if not tiles or one_choice or all(of_tile == tiles[0] for of_tile in tiles):
        return dict(tiles[0]) if tiles else {}
    usual = Counter(str(of_tile["branch"]) for of_tile in tiles if "branch" in of_tile)
    return {"tiles": list(tiles)} | ({"branch": usual.most_common(1)[0][0]} if usual else {})


def in_pixels(point: WholePoint, spacing_mm: Spacing) -> OperatingPoint:
    """The operating point in an image's own pixels."""
    return OperatingPoint(point.threshold, clusters.least_pixels(point.min_area_mm2, spacing_mm))


def kept(marks: Marks, which: str) -> np.ndarray:
    """The mask bool [H, W] of the calcifications in "clusters", or of "all" of them."""
    if which == "all":
        return marks.labels > 0
    clustered = [False, *(calcification.cluster > 0 for calcification in marks.calcifications)]
    return np.array(clustered)[marks.labels]


def checked(image: np.ndarray) -> np.ndarray:
    """The image as float32; raises UserError where it is none [H, W] in [0, 1]."""
    values = np.asarray(image)
    if values.ndim != 2 or min(values.shape) < LEAST_SIDE:
        raise UserError(
            f"an image of shape {values.shape}; allowed is [H, W], each {LEAST_SIDE} or more"
        )
    if values.dtype.kind != "f" or not (values.min() >= 0 and values.max() <= 1):
        raise UserError(
            f"an image of {values.dtype} from {values.min()} to {values.max()}; allowed are floats "
            "in [0, 1]: divide by the largest gray level of its depth, or take `read_image`"
        )
    return values.astype(np.float32, copy=False)


def spacing_of(spacing_mm: float | Spacing | None) -> Spacing | None:
    """The spacing (row, column) of a number or a pair; raises UserError for one that is none."""
    if spacing_mm is None:
        return None
    row, column = np.broadcast_to(np.asarray(spacing_mm, float), 2).tolist()
    if not (0 < row < np.inf and 0 < column < np.inf):
        raise UserError(f"spacing_mm={spacing_mm}: must be above 0, in millimeters")
    return row, column
