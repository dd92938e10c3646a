"""A small experiment and records as its runs would leave them; shared by the tests of both."""

import numpy as np
import tiny

from mln_flax.experiments.core import Experiment, Row
from mln_flax.metrics import pixel

SIZE = 8
VIEWS = ("identity", "invert")
# Smaller than tiny: what takes its time is to compile each network anew.
SETTINGS = tiny.SETTINGS | {
    "views.names": ",".join(VIEWS),
    "model.depths": "1",
    "model.num_heads": "1",
    "train.steps": "2",
    "train.evaluate_every_steps": "1",
}
ROWS = (
    Row("plain", {"views.names": "identity"}),
    Row("cosine", {"method.selection": "cosine"}),
    Row("euclidean", {"method.selection": "euclidean"}),
)
# The same as a user writes it; it is made tiny by the overrides that `flags` gives.
FILE = f"""
from mln_flax import settings
from mln_flax.experiment_config import Experiment, Row

def get_experiment():
    return Experiment(
        title="A tiny experiment",
        base=settings.load_file({tiny.PHANTOM!r}),
        rows=(
            Row("plain", {{"views.names": "identity"}}),
            Row("cosine", {{"method.selection": "cosine"}}),
            Row("euclidean", {{"method.selection": "euclidean"}}),
        ),
        sources=("ffdm",),
        domains=("ffdm", "film"),
        seeds=(0, 1),
        against="plain",
    )
"""


def experiment(**changes):
    """An experiment of three rows, two of which share their trainings."""
    values = {
        "title": "A tiny experiment",
        "base": tiny.config(),
        "rows": ROWS,
        "sources": ("ffdm", "dbt"),
        "domains": ("ffdm", "dbt", "film"),
        "seeds": (0, 1),
        "against": "plain",
    }
    return Experiment(**(values | changes))


def flags(file, workdir, **changes):
    """The words of a command line; a keyword `base__train__steps` is `base.train.steps`."""
    values = {f"base.{name}": value for name, value in SETTINGS.items()}
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    words = [f"--config.{name}={value}" for name, value in values.items()]
    return ["--mode=experiment", f"--config={file}", f"--workdir={workdir}", *words]


def records(job, images=5, chance=0.5):
    """Random records of one run, a function of its name: other branches, other scores."""
    random = np.random.default_rng([*map(ord, job.name)])
    branches = ["identity"] if job.rows == ("plain",) else ["identity", "invert"]
    lines = []
    for domain in (job.source, *job.config.data.targets):
        for number in range(images):
            mask = random.random((SIZE, SIZE)) < 0.3
            masks = [mask & (random.random((SIZE, SIZE)) < chance) for _ in branches]
            lines.append(
                {
                    "kind": "image",
                    "image_id": f"{domain}-{number}",
                    "patient_id": f"{number}",
                    "domain": domain,
                    "role": "source" if domain == job.source else "target",
                    "spacing_mm": [0.1, 0.1],
                    **_choice(random, branches),
                    "scores": {
                        "branch": [pixel.image_scores(one, mask, (0.1, 0.1)) for one in masks],
                        "union": pixel.image_scores(np.any(masks, axis=0), mask, (0.1, 0.1)),
                        "weighted": pixel.image_scores(masks[0], mask, (0.1, 0.1)),
                    },
                }
            )
    for branch, name in enumerate(branches):
        for number in range(images):
            line = {"kind": "view", "image_id": f"{job.source}-{number}", "domain": job.source}
            lines.append(line | {"view": name, "branch": branch, **_choice(random, branches)})
    return lines


def _choice(random, branches):
    rules = ("image", "polarity", "cosine", "euclidean")
    distances = {rule: random.random(len(branches)).tolist() for rule in rules}
    chosen = {rule: int(np.argmin(values)) for rule, values in distances.items()}
    return {
        "branches": branches,
        "selection": "image",
        "distances": distances,
        "chosen": chosen,
        "chosen_early": chosen,
    }
