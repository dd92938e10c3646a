import copy
import io

import numpy as np
import pytest
import tiny_experiment
from PIL import Image

from mln_flax.experiments import jobs as experiment_jobs
from mln_flax.experiments import plots, tables
from mln_flax.experiments.core import Row

PAIRS = tuple(
    Row(f"{strategy} {pairs}", {"views.strategy": strategy, "views.pairs": str(pairs)})
    for strategy in ("mean", "random")
    for pairs in (3, 1)
)
EXPERIMENTS = {
    "": tiny_experiment.experiment(),
    "pairs": tiny_experiment.experiment(rows=PAIRS, against="", figure="pairs"),
    "augmentation": tiny_experiment.experiment(figure="augmentation"),
}


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def recorded(experiment):
    jobs = experiment_jobs.jobs(experiment)
    return jobs, {job.name: tiny_experiment.records(job) for job in jobs}


@pytest.mark.parametrize("kind", EXPERIMENTS)
def test_pictures_are_functions_of_the_records(kind):
    experiment = EXPERIMENTS[kind]
    jobs, records = recorded(experiment)
    found = plots.pictures(experiment, tables.outcome(experiment, jobs, records))
    names = [
        f"{name}-{source}" for source in ("ffdm", "dbt") for name in filter(None, ("dots", kind))
    ]
    assert list(found) == names
    changed = copy.deepcopy(records)
    for line in changed[jobs[0].name]:
        if line["kind"] == "image":
            for score in line["scores"].values():
                score["dsc"] *= 0.9
    others = plots.pictures(experiment, tables.outcome(experiment, jobs, changed))
    for name in names:
        same = np.array_equal(pixels(found[name].png), pixels(others[name].png))
        assert same == name.endswith("dbt"), name  # the changed run was trained on ffdm


def test_a_source_without_a_run_has_no_picture():
    experiment = EXPERIMENTS["augmentation"]
    jobs, records = recorded(experiment)
    some = {name: lines for name, lines in records.items() if name.startswith("dbt-plain")}
    found = plots.pictures(experiment, tables.outcome(experiment, jobs, some))
    assert list(found) == ["dots-dbt", "augmentation-dbt"]


def test_a_picture_of_nothing_but_zeros():
    experiment = EXPERIMENTS[""]
    jobs, _ = recorded(experiment)
    records = {job.name: tiny_experiment.records(job, chance=0) for job in jobs}
    outcome = tables.outcome(experiment, jobs, records)
    assert pixels(plots.dot_plot(experiment, outcome, "ffdm")).std() > 1
