import numpy as np
import pytest
import tiny_experiment

from mln_flax.experiments import jobs as experiment_jobs
from mln_flax.methods.mln import choice, comparison


@pytest.fixture
def jobs():
    return experiment_jobs.jobs(tiny_experiment.experiment())


@pytest.fixture
def records(jobs):
    return {job.name: tiny_experiment.records(job) for job in jobs}


def cells(table):
    """The first cells of a row that name it -> its other cells by column."""
    return {row[:2]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_networks_of_one_branch_are_left_out(jobs, records):
    found = comparison.trainings(jobs, records)
    assert [(one.source, one.rows) for one in found] == [
        ("ffdm", ("cosine", "euclidean")),
        ("dbt", ("cosine", "euclidean")),
    ]
    assert all(len(one.seeds) == 2 for one in found)
    assert found[1].domains() == ["dbt", "ffdm", "film"]
    assert comparison.tables(jobs, {}) == []


def test_view_accuracy_over_seeds(jobs, records):
    table = comparison.view_accuracy_table(comparison.trainings(jobs, records))
    shares = []
    for seed in (0, 1):
        views = [r for r in records[f"dbt-cosine-seed{seed}"] if r["kind"] == "view"]
        shares.append(np.mean([r["chosen"]["cosine"] == r["branch"] for r in views]))
    wanted = f"{np.mean(shares):.3f} ± {np.std(shares, ddof=1):.3f}"
    assert cells(table)["dbt", "cosine, euclidean"]["cosine"] == wanted


def test_the_worth_of_a_rule(jobs, records):
    training = comparison.trainings(jobs, records)[0]
    table = comparison.worth_table(training)
    row = {r[0]: dict(zip(table.columns, r, strict=True)) for r in table.rows}["euclidean"]
    best, lost, of_domain = [], [], []
    for lines in training.seeds:
        film = [r for r in lines if r["kind"] == "image" and r["domain"] == "film"]
        dsc = np.array([[s["dsc"] for s in r["scores"]["branch"]] for r in film])
        chosen = np.array([np.argmin(r["distances"]["euclidean"]) for r in film])
        of_chosen = dsc[np.arange(len(dsc)), chosen]
        best.append(np.mean(of_chosen == dsc.max(axis=1)))
        lost.append(dsc.max(axis=1).mean() - of_chosen.mean())
        of_domain.append(dsc.mean(axis=0).max() - of_chosen.mean())
    assert row["film best"] == f"{np.mean(best):.2f} ± {np.std(best, ddof=1):.2f}"
    assert row["film lost to the image's"] == f"{np.mean(lost):.3f}"
    assert row["film lost to the domain's"] == f"{np.mean(of_domain):.3f}"


def test_ties_are_said(jobs, records):
    training = comparison.trainings(jobs, records)[0]
    for lines in training.seeds:
        for domain, tied in (("ffdm", 0), ("dbt", 1), ("film", 3)):
            for number, line in enumerate(comparison.images(lines, domain)):
                for branch, score in enumerate(line["scores"]["branch"]):
                    score["dsc"] = 0.25 + 0.1 * branch * (number >= tied)
    note = comparison.worth_table(training).note
    assert "same DSC (share of the images: ffdm 0.00, dbt 0.20, film 0.60) each is best" in note


def test_levels_and_shares(jobs, records):
    training = comparison.trainings(jobs, records)[0]
    levels = cells(comparison.level_table(training))
    for level in ("case", "domain"):
        dsc = [
            np.mean(
                [
                    score["dsc"]
                    for score in choice.scores(comparison.images(lines, "dbt"), f"cosine@{level}")
                ]
            )
            for lines in training.seeds
        ]
        assert levels["cosine", level]["dbt"].startswith(f"{np.mean(dsc):.3f}")
    shares = cells(comparison.share_table(training))
    for row in shares.values():
        assert float(row["identity"]) + float(row["invert"]) == pytest.approx(1, abs=0.011)
    chosen = [
        np.argmin(r["distances"]["cosine"])
        for lines in training.seeds
        for r in comparison.images(lines, "film")
    ]
    assert shares["film", "cosine"]["invert"] == f"{np.mean(chosen):.2f}"


def test_norms(jobs, records):
    norms = ["a", "b", "c"]
    for name, lines in records.items():
        if "plain" in name:
            continue
        for domain in ("ffdm", "dbt", "film"):
            lines.append(
                {
                    "kind": "norms",
                    "domain": domain,
                    "rule": "cosine",
                    "branches": ["identity", "invert"],
                    "norms": norms,
                    "distance": [[0.1, 0.2], [0.3, 0.1], [0.0, 0.5]],
                    "best": [0.5, 0.6, 0.7],
                    "dsc": [0.1, 0.2, 0.3],
                }
            )
    training = comparison.trainings(jobs, records)[0]
    prefix = cells(comparison.prefix_table(training))["film", "cosine"]
    assert prefix["first 3 of 3"] == "0.300 ± 0.000" and prefix["first 1 of 3"] == "0.100 ± 0.000"
    by_norm = comparison.distance_table(training)
    assert by_norm.rows[1] == ("b", *["0.300/0.100"] * 3)
    titles = [table.title for table in comparison.tables(jobs, records)]
    assert sum("first norms" in title for title in titles) == 2
