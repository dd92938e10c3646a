"""A trained model as one file that answers whole images without this package.

It is a zip of the programs in StableHLO (`jax.export`), for any number of tiles, on CPUs, NVIDIA
GPUs and TPUs; of the parameters that they share; of what is marked in whole images and by which
rule; of `standalone.py`, which runs them with jax and numpy alone; and of FlatBuffers, which jax
reads programs with and does not bring along.
"""

import contextlib
import importlib.util
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np

from mln_flax import files
from mln_flax.config import Config
from mln_flax.engine import standalone, whole_model
from mln_flax.engine.origin import origin_of
from mln_flax.engine.predictor import Predictor
from mln_flax.methods.core import Answers
from mln_flax.metrics.decision import OperatingPoint
from mln_flax.types import Record, UserError

PLATFORMS = ("cpu", "cuda", "tpu")
NOTE = "Research only: no medical device, and not for diagnosis."
# No frames, and no name of a file.
PLACES = {
    "jax_traceback_in_locations_limit": 0,
    "jax_hlo_source_file_canonicalization_regex": ".+",
}
MOST_APART = 1e-3  # of probabilities: products of an accelerator in lower precision differ so much
LICENSE = Path(__file__).parents[2] / "LICENSE"  # Apache 2.0, which FlatBuffers has too
# Python runs the `__main__.py` of a zip that it is given.
DOOR = "import sys\n\nimport run\n\nsys.exit(run.main(sys.argv))\n"


class Parameters(NamedTuple):
    """The parameters of a fitted model apart from the rest, which is constant in its programs."""

    names: tuple[str, ...]
    arrays: tuple[jax.Array, ...]
    fitted: Callable[[Any], Any]  # arrays in their order -> what the method takes


class Checked(NamedTuple):
    """What the exported programs say of a tile beside the method itself."""

    branches: tuple[str, ...]  # names, by their numbers in the programs; none of a plain network
    point: OperatingPoint  # of tiles
    apart: float  # the largest difference of a probability


def export(config: Config, workdir: Path, output: str, overwrite: bool = False) -> int:
    """Writes the trained model of a workdir as one file; returns 0.

    Args:
      config: of the run.
      workdir: that holds its model, or a packed model.
      output: the file.
      overwrite: a file that is there is replaced.

    Raises:
      UserError: no output, or one that is there; attention in a kernel for GPUs; no trained model;
        a method that offers no function to export, or programs that answer otherwise than it.
      OSError: the disk is full, or refuses it.
    """
    begun, path = time.monotonic(), destination(output, overwrite)
    if getattr(config.model, "attention", "plain") != "plain":
        raise UserError(
            f"--config.model.attention={config.model.attention}: a kernel for GPUs alone, and the "
            "file runs everywhere; add --config.model.attention=plain, with the same answers"
        )
    reader()  # is there, before anything is computed
    predictor = Predictor.of(config, workdir)
    content = exported(predictor)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, content)
    print(
        f"export: {path}: {len(content) / 1e6:.1f} MB in {time.monotonic() - begun:.0f} s\n"
        f"export: a mask: python {path} image.npy --spacing-mm 0.1 --output mask.npy",
        flush=True,
    )
    return 0


def destination(output: str, overwrite: bool) -> Path:
    """The file to write; raises UserError where it cannot be, before anything is computed."""
    if not output:
        raise UserError("--output is missing: the file for the exported model, such as model.zip")
    path = Path(output)
    if path.is_dir():
        raise UserError(
            f"--output={output}: is a folder; give a file, such as {path / 'model.zip'}"
        )
    if path.parent.exists() and not path.parent.is_dir():
        raise UserError(f"--output={output}: {path.parent} is a file; give another name")
    if path.exists() and not overwrite:
        raise UserError(f"--output={output}: is there already; take another name, or --overwrite")
    return path


def exported(predictor: Predictor) -> bytes:
    """The content of the file; its programs have answered a tile as the method does.

    Raises:
      UserError: the method offers no function to export, or the programs answer otherwise.
    """
    parameters = parameters_of(predictor.fitted)
    stored = programs(predictor, parameters)
    facts = facts_of(predictor, list(stored))
    first = packed(facts | {"branches": []}, parameters, stored)
    checked = check(predictor, standalone.load(io.BytesIO(first)))
    facts |= {"branches": checked.branches, "largest_difference": checked.apart}
    return packed(facts | marking(predictor, checked.point), parameters, stored)


def parameters_of(fitted: Any) -> Parameters:
    """What of a fitted model is a parameter: the arrays that its method keeps on the device.

    As arguments of the programs they are stored once, however many programs take them.
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(fitted)
    moving = [isinstance(leaf, jax.Array) for _, leaf in paths]

    def refitted(arrays: Any) -> Any:
        rest = iter(arrays)
        leaves = [
            next(rest) if moves else leaf for moves, (_, leaf) in zip(moving, paths, strict=True)
        ]
        return jax.tree_util.tree_unflatten(tree, leaves)

    chosen = [pair for pair, moves in zip(paths, moving, strict=True) if moves]
    names = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in chosen)
    return Parameters(tuple(names), tuple(leaf for _, leaf in chosen), refitted)


def programs(predictor: Predictor, parameters: Parameters) -> dict[str, bytes]:
    """The programs by their names in `standalone.Model`, as StableHLO.

    Raises:
      UserError: the method offers no function to export.
    """
    method, settings = predictor.run.method, predictor.run.config
    traced, side = method.traced, predictor.tiling.side
    if traced is None:
        raise UserError(
            f"method.name={settings.method.name}: offers no function that can be exported "
            "(`Method.traced`)"
        )

    def respond(arrays: Any, *given: Any) -> dict[str, Any]:
        return traced(parameters.fitted(arrays))(*given)

    def answer(arrays: Any, *given: Any) -> dict[str, Any]:
        out = respond(arrays, *given)
        return {name: out[name] for name in ("probability", "branch")}

    def look(arrays: Any, tiles: Any) -> Any:
        return respond(arrays, tiles)["look"]

    rows, height, width = jax.export.symbolic_shape("rows, height, width")
    tiles = jax.ShapeDtypeStruct((rows, side, side), np.float32)
    if method.look is None:
        any_size = jax.ShapeDtypeStruct((rows, height, width), np.float32)
        with contextlib.suppress(TypeError, ValueError, jax.errors.InconclusiveDimensionOperation):
            return {"alone": written(answer, parameters, any_size)}
    stored = {"alone": written(answer, parameters, tiles)}
    if method.look is None or settings.predict.choice == "tile":
        return stored
    seen = jax.ShapeDtypeStruct((rows, *[predictor.trained_side] * 2), np.float32)
    count = jax.eval_shape(look, parameters.arrays, seen).shape[-1]
    distances = jax.ShapeDtypeStruct((rows, count), np.float32)
    return stored | {
        "look": written(look, parameters, seen),
        "answer": written(answer, parameters, tiles, distances),
    }


def written(function: Callable[..., Any], parameters: Parameters, *given: Any) -> bytes:
    """A function of (parameters, *given) as StableHLO for all platforms."""
    arrays = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in parameters.arrays)
    with without_places():
        program = jax.export.export(jax.jit(function), platforms=PLATFORMS)(arrays, *given)
    return bytes(program.serialize())


@contextlib.contextmanager
def without_places() -> Iterator[None]:
    """Leaves out of programs where their sources lie: folders of this machine name its users."""
    before = {name: getattr(jax.config, name) for name in PLACES}
    try:
        for name, value in PLACES.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def facts_of(predictor: Predictor, names: list[str]) -> Record:
    """What the script must know of images, tiles and origin: plain numbers and names."""
    config, whole = predictor.run.config, predictor.whole
    chosen, cut = config.predict, config.data.tiles
    pixels = (cut.rows * predictor.trained_side, cut.columns * predictor.trained_side)
    origin = origin_of(predictor)
    return {
        "format": standalone.FORMAT,
        "note": NOTE,
        "programs": names,
        "platforms": PLATFORMS,
        "spacing_mm": whole.spacing_mm if whole else None,
        "usual_spacing_mm": chosen.spacing_mm or None,
        "assumed_mm": [whole_model.USUAL_MM] * 2,
        "training_pixels": pixels if cut.rows else None,
        "look_side": predictor.trained_side,
        "tile": predictor.tiling.side,
        "overlap": predictor.tiling.overlap,
        "batch": chosen.batch_size,
        "choice": chosen.choice,
        "inverted": predictor.run.method.inverted,
        "views": predictor.run.view_names,
        "method": config.method.name,
        "network": config.model.name,
        "weights": predictor.weights,
        "hashes": {"model": origin.model, "config": origin.config},
        "versions": origin.versions,
    }


def marking(predictor: Predictor, of_tiles: OperatingPoint) -> Record:
    """What is marked in whole images, with what to be warned of."""
    chosen = predictor.run.config.predict
    point = whole_model.point(predictor.whole, predictor.run.config, of_tiles)
    rule = whole_model.cluster_rule(chosen)
    return {
        "threshold": point.threshold,
        "min_area_mm2": point.min_area_mm2,
        "false_clusters": {"asked": point.asked, "reached": point.reached, "images": point.images},
        "min_count": rule.min_count,
        "cluster_mm2": rule.area_mm2,
        "keep": chosen.keep,
        "warnings": predictor.warnings,
    }


def check(predictor: Predictor, model: standalone.Model) -> Checked:
    """What the programs say of drawn tiles, in every branch, held against the method.

    Raises:
      UserError: they answer otherwise.
    """
    method, fitted = predictor.run.method, predictor.fitted
    side, rows = predictor.trained_side, model.facts["batch"]
    texture = np.random.default_rng(0).random((max(side, predictor.tiling.side),) * 2, np.float32)
    # From bright to dark: what is looked at is capped, and of a single tile perhaps all of it.
    powers = np.geomspace(1 / 3, 3, rows, dtype=np.float32)
    tiles = np.stack([texture**power for power in powers])
    small, tiles = tiles[:, :side, :side], tiles[:, : model.facts["tile"], : model.facts["tile"]]
    if method.look is None:
        out = model.programs["alone"](tiles)
        return agreed((), method.answer(fitted, tiles), out["probability"])
    looks = method.look(fitted, small)
    count = looks.shape[-1]
    # So far apart that even a weighted answer is that of one branch.
    common = np.float32(100) * (1 - np.eye(count, dtype=np.float32))
    answers = method.answer(fitted, tiles[np.arange(count) % rows], common)
    names = tuple(str(fact["branch"]) for fact in answers.facts)
    if "answer" not in model.programs:
        own, out = method.answer(fitted, tiles), model.programs["alone"](tiles)
        return agreed(names, own, out["probability"])
    seen = model.programs["look"](small)
    nearness = farthest(looks, seen) / max(1.0, float(np.abs(looks).max()))
    chosen = np.arange(-(-count // rows) * rows).reshape(-1, rows) % count  # full batches
    parts = [model.programs["answer"](tiles, common[part])["probability"] for part in chosen]
    return agreed(names, answers, np.concatenate(parts)[:count], nearness)


def agreed(
    names: tuple[str, ...], answers: Answers, probability: np.ndarray, apart: float = 0.0
) -> Checked:
    """What was found where programs and method agree; raises UserError where they do not."""
    expected = np.stack([answers.maps[name][i] for i, name in enumerate(answers.chosen)])
    apart = max(apart, farthest(expected, probability))
    if not apart <= MOST_APART:  # nan is apart too
        raise UserError(
            f"the exported programs differ by {apart:.2g} from the model (allowed: {MOST_APART}): "
            "nothing is written; please report it"
        )
    return Checked(names, answers.points[answers.chosen[0]], apart)


def farthest(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference."""
    return float(np.abs(one - other).max())


def reader() -> dict[str, bytes]:
    """The files of the Python package by which jax reads and writes programs, and their license.

    Raises:
      UserError: it is not installed.
    """
    package = importlib.util.find_spec("flatbuffers")
    if package is None or package.origin is None:
        raise UserError("--mode=export needs flatbuffers: python -m pip install flatbuffers")
    sources = sorted(Path(package.origin).parent.glob("*.py"))
    license_text = {"LICENSE": LICENSE.read_bytes()} if LICENSE.exists() else {}
    return {f"flatbuffers/{path.name}": path.read_bytes() for path in sources} | license_text


def packed(facts: Record, parameters: Parameters, stored: dict[str, bytes]) -> bytes:
    """The file: a zip of facts, parameters, programs and the script."""
    parts = {
        "model.json": json.dumps(files.plain(facts), indent=2, allow_nan=False).encode(),
        "run.py": Path(standalone.__file__).read_bytes(),
        "__main__.py": DOOR.encode(),
        **{f"{name}.bin": program for name, program in stored.items()},
        **reader(),
    }
    for name, array in zip(parameters.names, jax.device_get(parameters.arrays), strict=True):
        values = io.BytesIO()
        np.save(values, array)
        parts[f"parameters/{name}.npy"] = values.getvalue()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as whole:
        for name, part in parts.items():
            # Without the date of today: the same model is the same file.
            whole.writestr(zipfile.ZipInfo(name), part, zipfile.ZIP_DEFLATED)
    return content.getvalue()
