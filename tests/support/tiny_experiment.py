"""A small experiment and records as its runs would leave them; shared by the tests of both."""

import numpy as np
import tiny

from mln_flax import settings
from mln_flax.experiments.core import Experiment, Row
from mln_flax.metrics import pixel

SIZE = 8
VIEWS = ("identity", "invert")
# Smaller than tiny: what takes its time is to compile each network anew.
SETTINGS = {name: text for name, text in tiny.SETTINGS.items() if not name.startswith("model.")} | {
    "model.name": "unet",
    "model.widths": "4",
    "views.names": ",".join(VIEWS),
    "train.steps": "2",
    "train.evaluate_every_steps": "1",
}
PLAIN = {"method.name": "supervised", "views.names": "identity"}
ROWS = (
    Row("plain", PLAIN),
    Row("cosine", {"method.selection": "cosine"}),
    Row("euclidean", {"method.selection": "euclidean"}),
)
# The same as a user writes it; it is made tiny by the overrides that `flags` gives.
FILE = f"""
from mln_flax import settings
from mln_flax.experiments.core import Experiment, Row

def get_experiment():
    return Experiment(
        title="A tiny experiment",
        base=settings.load_file({tiny.PHANTOM!r}),
        rows=(
            Row("plain", {PLAIN}),
            Row("cosine", {{"method.selection": "cosine"}}),
            Row("euclidean", {{"method.selection": "euclidean"}}),
        ),
        sources=("ffdm",),
        domains=("ffdm", "film"),
        seeds=(0, 1),
        against="plain",
    )
"""


def base():
    """The settings that all rows start from."""
    return settings.override_all(settings.load_file(tiny.PHANTOM), SETTINGS)


def experiment(**changes):
    """An experiment of three rows, two of which share their trainings."""
    values = {
        "title": "A tiny experiment",
        "base": base(),
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
    """Random records of one run, a function of its name: other answers, other scores.

    A run of MLN-net has two branches, whatever its views; another has one map.
    """
    random = np.random.default_rng([*map(ord, job.name)])
    branches = ["identity", "invert"] if job.config.method.name == "mln" else []
    lines = []
    for domain in (job.source, *job.config.data.targets):
        for number in range(images):
            mask = random.random((SIZE, SIZE)) < 0.3
            maps = {
                name: mask & (random.random((SIZE, SIZE)) < chance)
                for name in branches or ["network"]
            }
            choice = _choice(random, branches) if branches else {}
            answer = branches[choice["chosen"]["image"]] if branches else "network"
            if branches:
                maps |= {"union": np.any([*maps.values()], axis=0), "weighted": maps["identity"]}
            lines.append(
                {
                    "kind": "image",
                    "image_id": f"{domain}-{number}",
                    "patient_id": f"{number}",
                    "domain": domain,
                    "role": "source" if domain == job.source else "target",
                    "spacing_mm": [0.1, 0.1],
                    **choice,
                    "scores": {
                        name: pixel.image_scores(one, mask, (0.1, 0.1))
                        for name, one in maps.items()
                    },
                    "answered_by": answer,
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
        "answer": "image",
        "distances": distances,
        "chosen": chosen,
        "chosen_early": chosen,
    }
