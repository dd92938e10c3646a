import copy
import csv
import io
import math

import numpy as np
import pytest
import tiny_experiment

from mln_flax.experiments import jobs as experiment_jobs
from mln_flax.experiments import tables
from mln_flax.experiments.core import Row
from mln_flax.experiments.tables import Network
from mln_flax.results import statistics
from mln_flax.results.table_layout import spread
from mln_flax.types import UserError


@pytest.fixture
def experiment():
    return tiny_experiment.experiment()


@pytest.fixture
def jobs(experiment):
    return experiment_jobs.jobs(experiment)


@pytest.fixture
def records(jobs):
    return {job.name: tiny_experiment.records(job) for job in jobs}


@pytest.fixture
def outcome(experiment, jobs, records):
    return tables.outcome(experiment, jobs, records)


def rows(table):
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def answer(line, rule):
    """The map that answers: by a rule, or the only one."""
    return line["branches"][line["chosen"][rule]] if "chosen" in line else line["answered_by"]


def dsc(records, name, domain, rule):
    """Per image, by a loop of its own."""
    return {
        line["image_id"]: line["scores"][answer(line, rule)]["dsc"]
        for line in records[name]
        if line["kind"] == "image" and line["domain"] == domain
    }


def test_every_row_gets_the_scores_of_its_own_answer(outcome, records):
    for rule in ("cosine", "euclidean"):
        for domain in ("ffdm", "dbt", "film"):
            found = outcome[rule, "ffdm", 1][domain]
            wanted = dsc(records, "ffdm-cosine-seed1", domain, rule)
            assert {image: score["dsc"] for image, score in found.items()} == wanted
    assert outcome["cosine", "ffdm", 1] != outcome["euclidean", "ffdm", 1]


def test_the_union_of_the_branches(experiment, records):
    row = Row("union", {"method.answer": "union"})
    more = tiny_experiment.experiment(rows=(*experiment.rows, row))
    jobs = experiment_jobs.jobs(more)
    assert jobs[1].rows == ("cosine", "euclidean", "union")
    found = tables.outcome(more, jobs, records)["union", "dbt", 0]["film"]
    wanted = {
        line["image_id"]: line["scores"]["union"]
        for line in records["dbt-cosine-seed0"]
        if line["kind"] == "image" and line["domain"] == "film"
    }
    assert found == {
        image: score | {tables.LABELED: score["dsc"]} for image, score in wanted.items()
    }


def test_the_table_of_a_source(experiment, outcome, records):
    table = rows(tables.source_table(experiment, outcome, "ffdm"))
    assert list(table) == ["plain", "cosine", "euclidean"]
    found = table["cosine"]
    means = {
        domain: [
            np.mean(list(dsc(records, f"ffdm-cosine-seed{seed}", domain, "cosine").values()))
            for seed in (0, 1)
        ]
        for domain in ("ffdm", "dbt", "film")
    }

    def spread(values):
        return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"

    assert found["seeds"] == "2"
    assert found["ffdm (source)"] == spread(means["ffdm"])
    assert (found["dbt"], found["film"]) == (spread(means["dbt"]), spread(means["film"]))
    assert found["unseen DSC"] == spread(np.mean([means["dbt"], means["film"]], axis=0))
    distances = [
        np.mean(
            [
                np.mean(
                    [score["hausdorff_mm"] for score in outcome["cosine", "ffdm", seed][d].values()]
                )
                for d in ("dbt", "film")
            ]
        )
        for seed in (0, 1)
    ]
    wanted = f"{np.mean(distances):.2f} ± {np.std(distances, ddof=1):.2f}"
    assert found["unseen HD mm"] == wanted
    assert table["plain"]["against plain"] == table["plain"]["p"] == "-"


def test_images_with_lesions_and_the_worth_of_empty_masks(experiment, records, jobs):
    for name, lines in records.items():
        for line in lines:
            if line["kind"] == "image" and line["image_id"] in ("dbt-0", "dbt-1", "film-2"):
                for score in line["scores"].values():
                    score["empty"] = "both" if "plain" in name else "reference"
    outcome = tables.outcome(experiment, jobs, records)
    table = tables.source_table(experiment, outcome, "ffdm")
    kept = [
        [
            np.mean(
                [
                    score
                    for image, score in dsc(
                        records, f"ffdm-cosine-seed{seed}", domain, "cosine"
                    ).items()
                    if image not in ("dbt-0", "dbt-1", "film-2")
                ]
            )
            for domain in ("dbt", "film")
        ]
        for seed in (0, 1)
    ]
    assert rows(table)["cosine"]["with lesions"] == spread(np.mean(kept, axis=1))
    assert "marks nothing anywhere has an unseen DSC of 0.300" in table.note  # of 2 in 5, 1 in 5
    assert math.isnan(tables.nothing_marked({}, experiment, "ffdm"))


def test_the_comparison_takes_images_with_their_mean_over_shared_seeds(experiment, records, jobs):
    del records["ffdm-plain-seed1"]  # so that seed 0 alone is shared
    outcome = tables.outcome(experiment, jobs, records)
    found = tables.compared(outcome, experiment, "cosine", "plain", "ffdm")
    groups = []
    for domain in ("dbt", "film"):
        a = dsc(records, "ffdm-cosine-seed0", domain, "cosine")
        b = dsc(records, "ffdm-plain-seed0", domain, "cosine")
        groups.append(np.array([a[image] - b[image] for image in a]))
    assert found == statistics.paired_bootstrap(groups)
    assert found.difference == pytest.approx(np.mean([group.mean() for group in groups]))
    # Rows of one training: their difference is that of their answers, over both seeds.
    found = tables.compared(outcome, experiment, "cosine", "euclidean", "ffdm")
    mean = [
        np.mean(
            [
                list(dsc(records, f"ffdm-cosine-seed{seed}", domain, rule).values())
                for seed in (0, 1)
                for domain in ("dbt", "film")
            ]
        )
        for rule in ("cosine", "euclidean")
    ]
    assert found.difference == pytest.approx(mean[0] - mean[1])


def test_what_is_missing_is_seen(experiment, records, jobs):
    for name in ("ffdm-plain-seed0", "ffdm-plain-seed1", "ffdm-cosine-seed0"):
        del records[name]
    outcome = tables.outcome(experiment, jobs, records)
    table = rows(tables.source_table(experiment, outcome, "ffdm"))
    assert set(table["plain"].values()) == {"plain", "0/2", "-"}
    assert table["cosine"]["seeds"] == "1/2" and table["cosine"]["unseen DSC"].count("±") == 0
    assert table["cosine"]["against plain"] == "-"
    overall = rows(tables.overall_table(experiment, outcome))
    assert overall["plain"]["seeds"] == "0" and overall["cosine"]["seeds"] == "1"


def test_all_sources_together(experiment, outcome):
    table = rows(tables.overall_table(experiment, outcome))
    pairs = [("ffdm", "dbt"), ("ffdm", "film"), ("dbt", "ffdm"), ("dbt", "film")]
    means = [
        np.mean(
            [
                np.mean([s["dsc"] for s in outcome["euclidean", source, seed][target].values()])
                for source, target in pairs
            ]
        )
        for seed in (0, 1)
    ]
    wanted = f"{np.mean(means):.3f} ± {np.std(means, ddof=1):.3f}"
    assert table["euclidean"]["unseen DSC"] == wanted
    some = tiny_experiment.experiment(rows=(*experiment.rows[:2], Row("few", {}, ("ffdm",))))
    assert list(rows(tables.overall_table(some, outcome))) == ["plain", "cosine"]


def test_the_raw_numbers_suffice_for_the_table(experiment, outcome):
    text = tables.raw_table(experiment, outcome).to_csv()
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == 3 * 2 * 2 * 3 * len(tables.METRICS)
    table = rows(tables.source_table(experiment, outcome, "dbt"))
    for row in ("plain", "cosine", "euclidean"):
        per_seed = [
            np.mean(
                [
                    float(line["mean"])
                    for line in lines
                    if (line["row"], line["source"], line["seed"]) == (row, "dbt", seed)
                    and line["metric"] == "dsc"
                    and line["role"] == "target"
                ]
            )
            for seed in ("0", "1")
        ]
        wanted = f"{np.mean(per_seed):.3f} ± {np.std(per_seed, ddof=1):.3f}"
        assert table[row]["unseen DSC"] == wanted
    assert {line["images"] for line in lines if line["metric"] == "dsc"} == {"5"}


def test_a_changed_record_changes_tables(experiment, jobs, records, outcome):
    changed = copy.deepcopy(records)
    changed["ffdm-plain-seed0"][7]["scores"]["network"]["dsc"] += 0.5
    other = tables.outcome(experiment, jobs, changed)
    for table in (tables.source_table, tables.raw_table):
        more = ("ffdm",) if table is tables.source_table else ()
        assert table(experiment, other, *more) != table(experiment, outcome, *more)


def test_pixels_where_a_spacing_is_not_known(experiment, jobs, records):
    records["dbt-plain-seed0"][0]["scores"]["network"]["hausdorff_mm"] = None
    outcome = tables.outcome(experiment, jobs, records)
    table = tables.source_table(experiment, outcome, "ffdm")
    assert "unseen HD px" in table.columns and "unseen HD mm" not in table.columns


def test_nothing_is_compared_where_no_row_is_named(outcome):
    alone = tiny_experiment.experiment(against="")
    table = tables.source_table(alone, outcome, "ffdm")
    assert "p" not in table.columns and "p by paired" not in table.note


def test_an_answer_that_was_not_recorded(jobs, records, experiment):
    row = Row("literal", {"method.selection": "literal"})
    more = tiny_experiment.experiment(rows=(*experiment.rows, row))
    with pytest.raises(UserError, match="row 'literal', run ffdm-cosine-seed0: answer 'literal':"):
        tables.outcome(more, experiment_jobs.jobs(more), records)


def test_the_parameters_of_networks():
    table = tables.network_table([Network(("a", "b"), 3, 1000, 20)])
    assert table.rows == (("a, b", "3", "1,060", "1,000", "20", "5.7%"),)


def test_spread():
    assert spread([0.5, 0.7]) == "0.600 ± 0.141"
    assert spread([0.5], 2) == "0.50" and spread([]) == "-"
    assert spread([]) == spread([math.nan]) == "-"
