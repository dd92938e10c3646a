"""Every image once, through every branch: one record per image, and what the report shows."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mln_flax import branches, checkpoint, decision, files, metrics, parallel, records, source_bank
from mln_flax.build import Run
from mln_flax.data import phantom
from mln_flax.data.core import DataSet, Example
from mln_flax.input_pipeline import chunks
from mln_flax.source_bank import Trained
from mln_flax.train import MODEL, random_state
from mln_flax.types import Record, UserError
from mln_flax.views import make_view


class Answer(NamedTuple):
    """What the network says of N images."""

    probability: np.ndarray  # float32 [N, k, H, W]: of a calcification, in each branch
    distances: dict[str, np.ndarray]  # rule -> [N, k], smaller is nearer
    point: decision.OperatingPoint

    def mask(self, i: int, branch: int) -> np.ndarray:
        """The mask bool [H, W] of image i in one branch."""
        return decision.decide(self.probability[i, branch], self.point)

    def union(self, i: int) -> np.ndarray:
        """The mask bool [H, W] of image i in all branches together."""
        return decision.decide(branches.combine(self.probability[i][None])[0], self.point)


def predictor(run: Run, trained: Trained, devices: Any = None) -> Any:
    """`answer(image [N, H, W])`: all branches and the distances by every rule.

    An image's answer depends on nothing but the image.
    """

    def network(variables, image):
        prediction = run.method.predict(variables, image)
        return jax.nn.softmax(prediction.logits)[..., 1], prediction.moments

    call = parallel.parallel_map(network, devices)
    rules = {
        metric: jax.jit(partial(branches.distances, metric=metric)) for metric in branches.METRICS
    }
    bank, size = trained.bank, run.config.evaluate.batch_size

    def answer(image: np.ndarray) -> Answer:
        probabilities, measured = [], []
        for rows, count in chunks(len(image), size):
            # Always full batches: one shape, so one compilation, and the same sums for each image.
            batch = parallel.pad_rows(image[rows, ..., None].astype(np.float32), size)
            probability, moments = call({"params": trained.params}, batch)
            found = {
                metric: rule(bank.mean, moments, spread=bank.spread)
                for metric, rule in rules.items()
            }
            features = branches.image_features(image[rows])
            of_view = branches.image_distances(bank.image, features)
            found = {name: np.asarray(value)[:count] for name, value in found.items()}
            found["image"] = branches.nearest_view(of_view, run.branch_of_view)
            probabilities.append(probability[:count])
            measured.append(found)
        joined = {name: np.concatenate([m[name] for m in measured]) for name in measured[0]}
        return Answer(np.concatenate(probabilities), joined, trained.point)

    return answer


def load_model(run: Run, workdir: Path) -> Trained:
    """The trained model of a workdir.

    Raises:
      UserError: there is none yet.
    """
    if not (workdir / MODEL).exists():
        raise UserError(f"--workdir={workdir}: holds no trained model; run --mode=train first")
    state = jax.eval_shape(partial(random_state, run))
    layers, views, size = state.domain_stats, len(run.view_names), branches.FEATURES
    # What is numpy here comes back as numpy: jax would make float32 of float64.
    like = {
        "params": state.params,
        "domain_stats": layers,
        "mean": layers,
        "spread": layers,
        "image": {
            "mean": np.zeros((views, size)),
            "precision": np.zeros((views, size, size)),
            "log_determinant": np.zeros(views),
        },
        "point": {name: np.zeros(()) for name in decision.OperatingPoint._fields},
    }
    return source_bank.from_tree(checkpoint.load_tree(workdir / MODEL, like))


def evaluate(run: Run, data: DataSet, workdir: Path) -> list[Record]:
    """Measures source and targets, writes examples.npz and, last, records.jsonl."""
    answer = predictor(run, load_model(run, workdir))
    config, lines, shown = run.config.data, [], []
    for domain in (config.source, *config.targets):
        examples = data.examples(domain, "test")
        role = "source" if domain == config.source else "target"
        of_domain = list(image_records(run, answer, examples, role))
        lines += of_domain
        shown += pictures(run, answer, examples, of_domain)
        print(f"evaluation: {domain}, {len(examples)} images", flush=True)
    lines += view_records(run, answer, data.examples(config.source, "test"))
    worth = validation_choice(run, answer, data.examples(config.source, "validation"))
    for rule, values in worth.items():
        print(
            f"selection on source validation: {rule}, DSC {values['dsc']:.3f}, "
            f"view accuracy {values['view_accuracy']:.3f}"
        )
    if parallel.is_main_process():
        write_examples(workdir / "examples.npz", shown)
        files.write_json(workdir / "selection.json", worth)
        records.write(workdir / "records.jsonl", lines)
    return lines


def image_records(
    run: Run, answer: Any, examples: Sequence[Example], role: str
) -> Iterator[Record]:
    """One record per image: distances, choices, and the scores of every branch and their union."""
    for rows, _ in chunks(len(examples), run.config.evaluate.batch_size):
        group = examples[rows]
        said = answer(np.stack([example.image for example in group]))
        for i, example in enumerate(group):
            score = partial(
                metrics.image_scores, reference=example.mask, spacing_mm=example.spacing_mm
            )
            yield {
                "kind": "image",
                "image_id": example.image_id,
                "patient_id": example.patient_id,
                "domain": example.domain,
                "part": "test",
                "role": role,
                "label_kind": example.label_kind,
                "spacing_mm": example.spacing_mm,
                "height": example.mask.shape[0],
                "width": example.mask.shape[1],
                "label_pixels": int(example.mask.sum()),
                "threshold": float(said.point.threshold),
                "min_pixels": int(said.point.min_pixels),
                **_choice(run, said, i),
                "scores": {
                    "branch": [score(said.mask(i, branch)) for branch in range(run.num_branches)],
                    "union": score(said.union(i)),
                },
            }


class Seen(NamedTuple):
    """One source image seen through one view, and what the network says of it."""

    view: str
    branch: int  # the view's own
    example: Example
    said: Answer
    i: int  # the image's place in the answer


def through_views(run: Run, answer: Any, examples: Sequence[Example]) -> Iterator[Seen]:
    """Every image through every view, few at a time: a part may be larger than the memory."""
    for name, branch in zip(run.view_names, run.branch_of_view, strict=True):
        view = make_view(name).numpy
        for rows, _ in chunks(len(examples), run.config.evaluate.batch_size):
            group = examples[rows]
            said = answer(view(np.stack([example.image for example in group])))
            for i, example in enumerate(group):
                yield Seen(name, branch, example, said, i)


def view_records(run: Run, answer: Any, examples: Sequence[Example]) -> Iterator[Record]:
    """Source images passed through every view: which branch do they choose?"""
    for seen in through_views(run, answer, examples):
        yield {
            "kind": "view",
            "image_id": seen.example.image_id,
            "domain": seen.example.domain,
            "part": "test",
            "view": seen.view,
            "branch": seen.branch,
            **_choice(run, seen.said, seen.i),
        }


def validation_choice(
    run: Run, answer: Any, examples: Sequence[Example]
) -> dict[str, dict[str, float]]:
    """What every rule is worth on source validation: rule -> {"dsc", "view_accuracy"}.

    The means are over all views of all images; this, and nothing of a target, is what a default
    selection may be chosen by.
    """
    dsc: dict[str, list[float]] = {}
    right: dict[str, list[bool]] = {}
    for seen in through_views(run, answer, examples):
        of_branch = [
            metrics.pixel_scores(seen.said.mask(seen.i, b), seen.example.mask)[2]
            for b in range(run.num_branches)
        ]
        for rule, chosen in _choice(run, seen.said, seen.i)["chosen"].items():
            dsc.setdefault(rule, []).append(of_branch[chosen])
            right.setdefault(rule, []).append(chosen == seen.branch)
    return {
        rule: {"dsc": float(np.mean(dsc[rule])), "view_accuracy": float(np.mean(right[rule]))}
        for rule in dsc
    }


def _choice(run: Run, said: Answer, i: int) -> Record:
    """What is said of image i about branches: names, distances and choices by every rule."""
    distances = {rule: values[i] for rule, values in said.distances.items()}
    return {
        "branches": list(run.branch_names),
        "selection": run.config.method.selection,
        "distances": {rule: [float(v) for v in values] for rule, values in distances.items()},
        "chosen": {rule: int(np.argmin(values)) for rule, values in distances.items()},
    }


def pictures(run: Run, answer: Any, examples: Sequence[Example], lines: list[Record]) -> list[Any]:
    """A few images for the report: spread evenly from the best to the worst DSC."""
    rule = run.config.method.selection
    labeled = [i for i, line in enumerate(lines) if line["label_pixels"]]
    scores = {i: lines[i]["scores"]["branch"][lines[i]["chosen"][rule]]["dsc"] for i in labeled}
    ranked = sorted(labeled, key=lambda i: -scores[i])
    wanted = min(run.config.evaluate.examples, len(ranked))
    places = np.linspace(0.1, 0.9, wanted) * max(len(ranked) - 1, 0)
    shown = []
    for i in (ranked[round(place)] for place in places):
        branch = lines[i]["chosen"][rule]
        said = answer(examples[i].image[None])
        shown.append(
            {
                "image": np.round(examples[i].image * 255).astype(np.uint8),
                "mask": examples[i].mask,
                "prediction": said.mask(0, branch).astype(np.uint8),
                "domain": examples[i].domain,
                "image_id": examples[i].image_id,
                "branch": run.branch_names[branch],
                "dsc": scores[i],
            }
        )
    return shown


def write_examples(path: Path, shown: list[dict[str, Any]]) -> None:
    """The pictures' arrays as one .npz file."""
    names = ("image", "mask", "prediction", "domain", "image_id", "branch", "dsc")
    files.write_npz(path, {name: np.array([one[name] for one in shown]) for name in names})


def describe_data(run: Run, data: DataSet, workdir: Path) -> None:
    """Writes data.json, what was read and left out, and sheet.npz, a look at the images."""
    parts = [
        {
            "domain": part.domain,
            "part": part.name,
            "images": len(part.examples),
            "patients": len(part.patient_ids),
            "label_pixels": sum(part.label_pixels),
        }
        for part in data.parts
    ]
    left_out = [{"item": one.item, "reason": one.reason} for one in data.left_out]
    files.write_json(
        workdir / "data.json", {"notes": data.notes, "left_out": left_out, "parts": parts}
    )
    shown = _sheet_examples(run, data)
    files.write_npz(
        workdir / "sheet.npz",
        {
            "image": np.stack([np.round(e.image * 255).astype(np.uint8) for e in shown]),
            "mask": np.stack([example.mask for example in shown]),
            "title": np.array([f"{e.domain} {e.view_position}".strip() for e in shown]),
        },
    )


def _sheet_examples(run: Run, data: DataSet) -> list[Example]:
    """Whole phantoms in every domain, or the first labeled and unlabeled test tiles."""
    if run.config.data.name == "phantom":
        return [example for row in phantom.sheet(run.config.data.phantom.seed) for example in row]
    part = data.part(run.config.data.source, "test")
    first = sorted(range(len(part.examples)), key=lambda i: not part.label_pixels[i])[:8]
    return [part.examples[i] for i in first]
