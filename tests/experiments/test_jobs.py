import dataclasses

import pytest
import tiny_experiment

from mln_flax.experiments import jobs as experiment_jobs
from mln_flax.experiments.core import Row, Shard


@pytest.fixture
def experiment():
    return tiny_experiment.experiment()


def names(experiment):
    return [job.name for job in experiment_jobs.jobs(experiment)]


def test_rows_that_differ_in_the_answer_alone_share_their_runs(experiment):
    jobs = experiment_jobs.jobs(experiment)
    assert [(job.name, job.rows) for job in jobs[:3]] == [
        ("ffdm-plain-seed0", ("plain",)),
        ("ffdm-cosine-seed0", ("cosine", "euclidean")),
        ("ffdm-plain-seed1", ("plain",)),
    ]
    assert len(jobs) == 2 * 2 * 2  # trainings x sources x seeds
    found = {(job.source, job.seed, job.config.views.names) for job in jobs}
    assert len(found) == len(jobs)
    assert all(
        set(job.config.data.targets) | {job.source} == {"ffdm", "dbt", "film"} for job in jobs
    )


@pytest.mark.parametrize(
    ("setting", "shared"),
    [
        ({"method.selection": "image"}, True),
        ({"method.early": "false"}, True),
        ({"method.answer": "union"}, True),
        ({"method.level": "case"}, True),
        ({"evaluate.examples": "0"}, True),
        ({"method.temperature": "3"}, False),  # a run holds the answer of one temperature
        ({"method.cross_entropy": "0.5"}, False),
        ({"model.statistics": "layer"}, False),
        ({"data.phantom.seed": "1"}, False),
        ({"method.name": "supervised"}, False),  # one branch, or another way to train one
    ],
)
def test_only_what_changes_no_record_is_shared(setting, shared, experiment):
    rows = (Row("one"), Row("two", setting))
    jobs = experiment_jobs.jobs(dataclasses.replace(experiment, rows=rows))
    assert {job.rows for job in jobs} == ({("one", "two")} if shared else {("one",), ("two",)})


def test_a_row_on_some_sources_only(experiment):
    rows = (Row("plain"), Row("cosine", {"train.steps": "5"}, ("dbt",)))
    found = names(dataclasses.replace(experiment, rows=rows, seeds=(0,)))
    assert found == ["ffdm-plain-seed0", "dbt-plain-seed0", "dbt-cosine-seed0"]


def test_the_names_depend_on_no_choice(experiment):
    every = names(experiment)
    chosen = dataclasses.replace(experiment, only=("euclidean",), seeds=(1,), sources=("dbt",))
    assert names(chosen) == ["dbt-cosine-seed1"] and names(chosen)[0] in every
    (job,) = experiment_jobs.asked(experiment, chosen)
    assert (job.name, job.rows) == ("dbt-cosine-seed1", ("cosine", "euclidean"))


def test_no_two_runs_share_a_folder(experiment):
    steps = [{"train.steps": str(number)} for number in range(1, 7)]
    words = ("a b", "a-b", "A.B", "a-b-2", "+", "*")
    rows = tuple(map(Row, words, steps))
    found = names(dataclasses.replace(experiment, rows=rows, against=""))
    assert len(set(found)) == len(found) == 6 * 2 * 2
    assert found[:6] == [
        f"ffdm-{slug}-seed0" for slug in ("a-b", "a-b-2", "a-b-3", "a-b-2-2", "plus", "star")
    ]


@pytest.mark.parametrize("parts", [1, 2, 3, 8, 11])
def test_shards_are_a_partition(parts, experiment):
    jobs = experiment_jobs.jobs(experiment)
    shards = [experiment_jobs.part_of(jobs, Shard(first, parts)) for first in range(parts)]
    assert sorted(job.name for shard in shards for job in shard) == sorted(names(experiment))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


def test_no_shard_gets_all_the_long_runs(experiment):
    """Of two trainings that take turns, each of two shards gets one for each seed."""
    shards = [
        experiment_jobs.part_of(experiment_jobs.jobs(experiment), Shard(n, 2)) for n in (0, 1)
    ]
    for shard in shards:
        assert ["plain" in job.name for job in shard].count(True) == 2
