"""Tables of an experiment on how branches are chosen, against the records they are made of."""

import numpy as np
import pytest

from mln_flax.methods.mln import comparison, recorded
from mln_flax.results.study import Training

DOMAINS = ("ffdm", "dbt", "film")
BRANCHES = ("identity", "invert")
RULES = ("image", "polarity", "cosine", "euclidean")
IMAGES = 5  # of each domain


def facts(random, branches):
    """What a record says of the choice between some branches."""
    distances = {rule: random.random(len(branches)).tolist() for rule in RULES}
    chosen = {rule: int(np.argmin(values)) for rule, values in distances.items()}
    return {"branches": list(branches), "distances": distances, "chosen": chosen}


def records(source, seed, branches):
    """Random records of one run: its images, then those of the source through the views."""
    random = np.random.default_rng([*map(ord, source), seed, len(branches)])
    lines = []
    for domain in (source, *(other for other in DOMAINS if other != source)):
        for number in range(IMAGES):
            dsc = {name: {"dsc": random.random()} for name in (*branches, "union", "weighted")}
            image = {"image_id": f"{domain}-{number}", "patient_id": f"{number}", "domain": domain}
            lines.append({"kind": "image", **image, **facts(random, branches), "scores": dsc})
    for branch, view in enumerate(branches):
        for _ in range(IMAGES):
            lines.append(
                {"kind": "view", "view": view, "branch": branch, **facts(random, branches)}
            )
    return lines


def trained(source, rows, branches=BRANCHES):
    return Training(source, rows, [records(source, seed, branches) for seed in (0, 1)])


@pytest.fixture
def training():
    return trained("ffdm", ("cosine", "euclidean"))


@pytest.fixture
def trainings(training):
    plain = [trained(source, ("plain",), ("identity",)) for source in ("ffdm", "dbt")]
    return [plain[0], training, plain[1], trained("dbt", ("cosine", "euclidean"))]


def cells(table):
    """The first two cells of a row, which name it -> its cells by column."""
    return {row[:2]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_networks_of_one_branch_are_left_out(trainings):
    tables = comparison.tables(trainings)
    names = [f"cosine, euclidean; trained on {source}" for source in ("ffdm", "dbt")]
    assert [table.title for table in tables] == [
        "View accuracy of the rules",
        *(
            f"{title} ({name})"
            for name in names
            for title in (
                "What the rules are worth",
                "DSC by what shares a choice",
                "Which branch is chosen",
            )
        ),
    ]
    assert [row[:2] for row in tables[0].rows] == [
        ("ffdm", "cosine, euclidean"),
        ("dbt", "cosine, euclidean"),
    ]
    assert comparison.tables([]) == comparison.tables(trainings[:1]) == []


def test_view_accuracy_over_seeds(trainings):
    table = comparison.view_accuracy_table(trainings[3:])
    shares = []
    for lines in trainings[3].seeds:
        views = [line for line in lines if line["kind"] == "view"]
        shares.append(np.mean([line["chosen"]["cosine"] == line["branch"] for line in views]))
    wanted = f"{np.mean(shares):.3f} ± {np.std(shares, ddof=1):.3f}"
    assert cells(table)["dbt", "cosine, euclidean"]["cosine"] == wanted


def test_the_worth_of_a_rule(training):
    table = comparison.worth_table(training)
    row = {r[0]: dict(zip(table.columns, r, strict=True)) for r in table.rows}["euclidean"]
    best, lost, of_domain = [], [], []
    for lines in training.seeds:
        film = [r for r in lines if r["kind"] == "image" and r["domain"] == "film"]
        dsc = np.array([[r["scores"][name]["dsc"] for name in BRANCHES] for r in film])
        chosen = np.array([np.argmin(r["distances"]["euclidean"]) for r in film])
        of_chosen = dsc[np.arange(len(dsc)), chosen]
        best.append(np.mean(of_chosen == dsc.max(axis=1)))
        lost.append(dsc.max(axis=1).mean() - of_chosen.mean())
        of_domain.append(dsc.mean(axis=0).max() - of_chosen.mean())
    assert row["film best"] == f"{np.mean(best):.2f} ± {np.std(best, ddof=1):.2f}"
    assert row["film lost to the image's"] == f"{np.mean(lost):.3f}"
    assert row["film lost to the domain's"] == f"{np.mean(of_domain):.3f}"


def test_ties_are_said(training):
    for lines in training.seeds:
        for domain, tied in (("ffdm", 0), ("dbt", 1), ("film", 3)):
            for number, line in enumerate(comparison.images(lines, domain)):
                for branch, name in enumerate(BRANCHES):
                    line["scores"][name]["dsc"] = 0.25 + 0.1 * branch * (number >= tied)
    note = comparison.worth_table(training).note
    assert "same DSC (share of the images: ffdm 0.00, dbt 0.20, film 0.60) each is best" in note


def test_levels_and_shares(training):
    levels = cells(comparison.level_table(training))
    for level in ("case", "domain"):
        dsc = [
            np.mean(
                [
                    score["dsc"]
                    for score in recorded.scores(comparison.images(lines, "dbt"), f"cosine@{level}")
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


def test_norms(trainings):
    for training in trainings[1::2]:
        for lines in training.seeds:
            for domain in DOMAINS:
                lines.append(
                    {
                        "kind": "norms",
                        "domain": domain,
                        "rule": "cosine",
                        "branches": list(BRANCHES),
                        "norms": ["a", "b", "c"],
                        "distance": [[0.1, 0.2], [0.3, 0.1], [0.0, 0.5]],
                        "best": [0.5, 0.6, 0.7],
                        "dsc": [0.1, 0.2, 0.3],
                    }
                )
    prefix = cells(comparison.prefix_table(trainings[1]))["film", "cosine"]
    assert prefix["first 3 of 3"] == "0.300 ± 0.000" and prefix["first 1 of 3"] == "0.100 ± 0.000"
    by_norm = comparison.distance_table(trainings[1])
    assert by_norm.rows[1] == ("b", *["0.300/0.100"] * 3)
    titles = [table.title for table in comparison.tables(trainings)]
    assert sum("first norms" in title for title in titles) == 2
