"""Every image once, through every branch: one record per image, and what the report shows."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mln_flax import files, parallel
from mln_flax.data.core import DataSet, Example
from mln_flax.data.phantoms import phantom
from mln_flax.engine import checkpoint
from mln_flax.engine.build import Run
from mln_flax.engine.input_pipeline import chunks
from mln_flax.engine.train import random_state
from mln_flax.engine.workdir import MODEL
from mln_flax.methods.mln import answer as selection
from mln_flax.methods.mln import bank, branches
from mln_flax.methods.mln import choice as answers
from mln_flax.methods.mln.answer import Answer
from mln_flax.methods.mln.bank import Early, Trained
from mln_flax.methods.mln.image_features import POLARITY_NUMBERS, VIEW_NUMBERS
from mln_flax.metrics import decision, pixel
from mln_flax.results import records, tables
from mln_flax.types import Record, UserError
from mln_flax.views.intensity import make_view


def load_model(run: Run, workdir: Path) -> Trained:
    """The trained model of a workdir.

    Raises:
      UserError: there is none yet, or one of another form.
    """
    if not (workdir / MODEL).exists():
        raise UserError(f"--workdir={workdir}: holds no trained model; run --mode=train first")
    state = jax.eval_shape(partial(random_state, run))
    layers, views, size = state.domain_stats, len(run.view_names), VIEW_NUMBERS
    norms = len(jax.tree.leaves(layers)) // 2
    # What is numpy here comes back as numpy: jax would make float32 of float64.
    like = {
        "params": state.params,
        "domain_stats": layers,
        "mean": layers,
        "spread": layers,
        "image": {
            "gaussian": {
                "mean": np.zeros((views, size)),
                "precision": np.zeros((views, size, size)),
                "log_determinant": np.zeros(views),
            },
            "polarity": np.zeros(POLARITY_NUMBERS),
            "foreground": np.zeros(run.num_branches),
        },
        "point": {name: np.zeros(()) for name in decision.OperatingPoint._fields},
        "weighted": {name: np.zeros(()) for name in (*decision.OperatingPoint._fields, "dsc")},
        "early": {
            rule: {
                name: np.zeros(1 if rule in branches.BY_IMAGE else norms) for name in Early._fields
            }
            | {"norms": np.zeros((), np.int64)}
            for rule in branches.SELECTIONS
        },
    }
    try:
        return bank.from_tree(checkpoint.load_tree(workdir / MODEL, like))
    except UserError:  # it is damaged
        raise
    except ValueError:
        raise UserError(
            f"--workdir={workdir}: its model was written by another version, which kept other "
            "things; train again in another workdir"
        ) from None


def evaluate(run: Run, data: DataSet, workdir: Path) -> list[Record]:
    """Measures source and targets, writes examples.npz and, last, records.jsonl."""
    trained = load_model(run, workdir)
    answer = selection.predictor(run, trained)
    config, lines, shown = run.config.data, [], []
    for domain in (config.source, *config.targets):
        examples = data.examples(domain, "test")
        role = "source" if domain == config.source else "target"
        measured = list(image_records(run, answer, trained.early, examples, role))
        of_domain = [one.record for one in measured]
        lines += [*of_domain, *norm_records(run, measured)]
        shown += pictures(run, examples, measured)
        print(f"evaluation: {domain}, {len(examples)} images", flush=True)
    of_source = [line for line in lines if (line["kind"], line["role"]) == ("image", "source")]
    examples = data.examples(config.source, "test")
    lines += view_records(run, answer, trained.early, examples, of_source)
    for rule, early in trained.early.items():
        print(_worth_line(rule, early))
    print(f"answer on source validation: weighted, DSC {trained.weighted.dsc:.3f}")
    print(tables.early_table(lines).to_text())
    if parallel.is_main_process():
        write_examples(workdir / "examples.npz", shown)
        said = worth(trained.early, lines) | {"weighted": {"dsc": float(trained.weighted.dsc)}}
        files.write_json(workdir / "selection.json", said)
        records.write_whole(workdir / "records.jsonl", lines)
    return lines


class Measured(NamedTuple):
    """The record of one image, and its masks packed into bits: of all branches, then together."""

    record: Record
    bits: np.ndarray  # uint8 [k + len(TOGETHER), bytes]
    by_norms: dict[str, np.ndarray]  # rule -> distances by the first 1, 2, ... norms: [M, k]

    def mask(self, row: int) -> np.ndarray:
        """One of the masks, uint8 [H, W]."""
        height, width = self.record["height"], self.record["width"]
        return np.unpackbits(self.bits[row], count=height * width).reshape(height, width)


TOGETHER = ("union", "weighted")  # answers of several branches, in the order of their masks


def image_records(
    run: Run, answer: Any, early: dict[str, Early], examples: Sequence[Example], role: str
) -> Iterator[Measured]:
    """One record per image: distances, choices, and the scores of every branch and their union."""
    for rows, _ in chunks(len(examples), run.config.evaluate.batch_size):
        group = examples[rows]
        said = answer(np.stack([example.image for example in group]))
        for i, (example, choice) in enumerate(zip(group, choices(run, said, early), strict=True)):
            score = partial(
                pixel.image_scores, reference=example.mask, spacing_mm=example.spacing_mm
            )
            masks = [said.mask(i, branch) for branch in range(run.num_branches)]
            together = {"union": said.union(i), "weighted": said.weighted(i)}
            own = said.weighted_point if run.config.method.answer == "weighted" else said.point
            record = {
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
                "threshold": float(own.threshold),
                "min_pixels": int(own.min_pixels),
                "answer": answers.of_settings(run.config.method),
                **choice,
                "scores": {
                    "branch": [score(mask) for mask in masks],
                    **{name: score(together[name]) for name in TOGETHER},
                },
            }
            every = np.stack([*masks, *(together[name] for name in TOGETHER)])
            by_norms = {rule: said.by_norms[rule][i] for rule in branches.BY_MOMENTS}
            yield Measured(record, np.packbits(every.reshape(len(every), -1), axis=1), by_norms)


def norm_records(run: Run, measured: Sequence[Measured]) -> Iterator[Record]:
    """For each rule by moments a line on one domain's images: what every norm adds to the choice.

    "distance" [norms][k] is the mean over images of what the norm adds to the distance from each
    branch; "best" and "dsc" [norms] are the share of images for which the first norms up to this
    one choose a branch with the highest DSC, and the mean DSC of the chosen ones.
    """
    if not measured:
        return
    first = measured[0].record
    dsc = np.array([[s["dsc"] for s in one.record["scores"]["branch"]] for one in measured])
    for rule in branches.BY_MOMENTS:
        found = np.stack([one.by_norms[rule] for one in measured])  # [n, M, k]
        of_chosen = np.take_along_axis(dsc, branches.select(found), axis=1)
        yield {
            "kind": "norms",
            "domain": first["domain"],
            "part": first["part"],
            "role": first["role"],
            "rule": rule,
            "branches": list(run.branch_names),
            "norms": list(selection.norm_order(run)),
            "distance": np.diff(found, axis=1, prepend=0).mean(axis=0).tolist(),
            "best": (of_chosen == dsc.max(axis=1, keepdims=True)).mean(axis=0).tolist(),
            "dsc": of_chosen.mean(axis=0).tolist(),
        }


def view_records(
    run: Run,
    answer: Any,
    early: dict[str, Early],
    examples: Sequence[Example],
    lines: list[Record],
) -> Iterator[Record]:
    """Source images passed through every view: which branch do they choose?

    `lines` are the images' own records, which say it of the view that leaves an image as it is.
    """
    for name, branch in zip(run.view_names, run.branch_of_view, strict=True):
        if name == "identity":
            found = [{key: line[key] for key in CHOICE} for line in lines]
        else:
            found = list(_choices_through(run, answer, early, examples, name))
        for line, choice in zip(lines, found, strict=True):
            yield {
                "kind": "view",
                "image_id": line["image_id"],
                "domain": line["domain"],
                "part": "test",
                "view": name,
                "branch": branch,
                **choice,
            }


def _choices_through(run, answer, early, examples, name: str) -> Iterator[Record]:
    """The choices for every image seen through a view; few at a time, a part may be large."""
    view = make_view(name).numpy
    for rows, _ in chunks(len(examples), run.config.evaluate.batch_size):
        said = answer(view(np.stack([example.image for example in examples[rows]])))
        yield from choices(run, said, early)


CHOICE = ("branches", "selection", "distances", "chosen", "chosen_early")


def choices(run: Run, said: Answer, early: dict[str, Early]) -> Iterator[Record]:
    """What is said of each image about branches, as CHOICE names it.

    Distances and choices are those of every rule by all norms; "chosen_early" holds the choices
    by as many of the first norms as `early` says.
    """
    distances = {rule: found.tolist() for rule, found in said.distances.items()}
    full = {rule: said.chosen(rule).tolist() for rule in distances}
    first = {rule: said.chosen(rule, int(one.norms)).tolist() for rule, one in early.items()}
    for i in range(len(said.probability)):
        yield {
            "branches": list(run.branch_names),
            "selection": run.config.method.selection,
            "distances": {rule: values[i] for rule, values in distances.items()},
            "chosen": {rule: values[i] for rule, values in full.items()},
            "chosen_early": {rule: values[i] for rule, values in first.items()},
        }


def worth(early: dict[str, Early], lines: Sequence[Record]) -> dict[str, Any]:
    """What every rule is worth: on source validation, and how its early choice agrees on `lines`.

    Rule -> "dsc" and "view_accuracy" of the full choice, and "early": how many norms choose, what
    that is worth, and the agreement on each domain's test images. "by_norms" has the same for the
    first 1, 2, ... norms.
    """
    agreement = tables.early_agreement(lines)
    return {
        rule: {
            "dsc": float(one.dsc[-1]),
            "view_accuracy": float(one.view_accuracy[-1]),
            "early": {
                "norms": int(one.norms),
                **{name: float(values[one.at]) for name, values in _by_norms(one).items()},
                "agreement_on_test": agreement[rule],
            },
            "by_norms": {name: values.tolist() for name, values in _by_norms(one).items()},
        }
        for rule, one in early.items()
    }


def _by_norms(early: Early) -> dict[str, np.ndarray]:
    return {name: values for name, values in early._asdict().items() if name != "norms"}


def _worth_line(rule: str, early: Early) -> str:
    full, at = f"DSC {early.dsc[-1]:.3f}, view accuracy {early.view_accuracy[-1]:.3f}", early.at
    line = f"selection on source validation: {rule}, {full}"
    if not int(early.norms):
        return f"{line}; no norm needed"
    return (
        f"{line}; {int(early.norms)} of {len(early.dsc)} norms: agreement "
        f"{early.agreement[at]:.3f}, DSC {early.dsc[at]:.3f}, "
        f"view accuracy {early.view_accuracy[at]:.3f}"
    )


def pictures(
    run: Run, examples: Sequence[Example], measured: Sequence[Measured]
) -> list[dict[str, Any]]:
    """A few images for the report: spread evenly from the best to the worst DSC."""
    lines = [one.record for one in measured]
    if not lines:
        return []
    way = lines[0]["answer"]
    dsc = [score["dsc"] for score in answers.scores(lines, way)]
    labeled = [i for i, line in enumerate(lines) if line["label_pixels"]]
    ranked = sorted(labeled, key=lambda i: -dsc[i])
    wanted = min(run.config.evaluate.examples, len(ranked))
    places = np.linspace(0.1, 0.9, wanted) * max(len(ranked) - 1, 0)
    if way in TOGETHER:
        row = [run.num_branches + TOGETHER.index(way)] * len(lines)
    else:
        row = answers.branches(lines, way)
    names = (*run.branch_names, *TOGETHER)
    return [
        {
            "image": np.round(examples[i].image * 255).astype(np.uint8),
            "mask": examples[i].mask,
            "prediction": measured[i].mask(row[i]),
            "domain": examples[i].domain,
            "image_id": examples[i].image_id,
            "branch": names[row[i]],
            "dsc": dsc[i],
        }
        for i in (ranked[round(place)] for place in places)
    ]


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
        workdir / "data.json",
        {
            "notes": data.notes,
            "left_out": left_out,
            "parts": parts,
            "content": data.content,
        },
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
