"""What each way to answer takes from the records, against choices made by hand."""

import copy

import numpy as np
import pytest

from mln_flax.methods.mln import recorded
from mln_flax.methods.mln.settings import MlnSettings
from mln_flax.types import UserError

BRANCHES = ["identity", "curve", "invert"]


def image(domain, patient, number, cosine, dsc, **more):
    """The record of an image: its distances by a rule, and the DSC of its branches."""
    return {
        "domain": domain,
        "patient_id": patient,
        "image_id": f"{domain}-{number}",
        "branches": BRANCHES,
        "distances": {"cosine": cosine, "image": cosine[::-1]},
        "scores": {
            **{name: {"dsc": value} for name, value in zip(BRANCHES, dsc, strict=True)},
            "union": {"dsc": 0.5 + number / 100},
            "weighted": {"dsc": 0.6 + number / 100},
        },
        **more,
    }


# Patient 1 is in both domains, under two names that only the domain tells apart.
RECORDS = [
    image("ffdm", "1", 0, [0.1, 0.2, 0.9], [0.9, 0.4, 0.0]),
    image("film", "1", 1, [0.5, 0.3, 0.4], [0.2, 0.3, 0.1]),
    image("ffdm", "1", 2, [0.8, 0.3, 0.4], [0.1, 0.8, 0.2]),
    image("ffdm", "2", 3, [0.3, 0.9, 0.4], [0.7, 0.1, 0.8]),
    image("film", "2", 4, [0.6, 0.9, 0.15], [0.3, 0.5, 0.9]),
    image("film", "2", 5, [0.2, 0.8, 0.7], [0.6, 0.6, 0.0]),
]


@pytest.mark.parametrize(
    ("way", "chosen"),
    [
        ("cosine", [0, 1, 1, 0, 2, 0]),
        ("cosine@image", [0, 1, 1, 0, 2, 0]),
        ("image", [2, 1, 1, 2, 0, 2]),
        # Sums: ffdm 1 [0.9 0.5 1.3], film 1 as above, ffdm 2 as above, film 2 [0.8 1.7 0.85].
        ("cosine@case", [1, 1, 1, 0, 0, 0]),
        # ffdm [1.2 1.4 1.7], film [1.3 2.0 1.25].
        ("cosine@domain", [0, 2, 0, 0, 2, 2]),
        ("image@domain", [2, 0, 2, 2, 0, 0]),
        ("oracle", [0, 1, 1, 2, 2, 0]),  # of equals the first
        # DSC: ffdm 1 [1.0 1.2 0.2], film 2 [0.9 1.1 0.9].
        ("oracle@case", [1, 1, 1, 2, 1, 1]),
        # ffdm [1.7 1.3 1.0], film [1.1 1.4 1.0].
        ("oracle@domain", [0, 1, 0, 0, 1, 1]),
        ("only identity", [0] * 6),
        ("only invert", [2] * 6),
    ],
)
def test_every_way_that_takes_one_branch(way, chosen):
    before = copy.deepcopy(RECORDS)
    assert recorded.branches(RECORDS, way) == chosen
    names = [BRANCHES[branch] for branch in chosen]
    assert recorded.maps(RECORDS, way) == names
    expected = [record["scores"][name] for record, name in zip(RECORDS, names, strict=True)]
    assert recorded.scores(RECORDS, way) == expected
    assert before == RECORDS
    order = [4, 2, 0, 5, 1, 3]
    mixed = recorded.branches([RECORDS[i] for i in order], way)
    assert mixed == [chosen[i] for i in order]


@pytest.mark.parametrize("way", ["union", "weighted"])
def test_ways_that_take_all_branches(way):
    assert recorded.maps(RECORDS, way) == [way] * len(RECORDS)
    found = recorded.scores(RECORDS, way)
    assert found == [record["scores"][way] for record in RECORDS]
    assert recorded.maps([], way) == recorded.scores([], way) == []


def test_the_scores_of_the_branches_stand_in_their_order():
    assert [score["dsc"] for score in recorded.of_branches(RECORDS[3])] == [0.7, 0.1, 0.8]
    turned = RECORDS[3] | {"branches": BRANCHES[::-1]}
    assert [score["dsc"] for score in recorded.of_branches(turned)] == [0.8, 0.1, 0.7]


def test_an_image_alone_is_its_own_case_and_domain():
    for record in RECORDS:
        nearest = int(np.argmin(record["distances"]["cosine"]))
        for level in ("image", "case", "domain"):
            assert recorded.branches([record], f"cosine@{level}") == [nearest]


@pytest.mark.parametrize(
    ("way", "message"),
    [
        (
            "cosin",
            "answer 'cosin': not recorded; known: cosine, image, union, weighted; evaluate again",
        ),
        ("cosin@domain", "answer 'cosin': not recorded"),
        ("branch", "answer 'branch': not recorded"),
        ("union@domain", "answer 'union': not recorded"),
        ("cosine@patient", "level 'patient': unknown; known: image, case, domain"),
        ("oracle@all", "level 'all': unknown; known: image, case, domain"),
        ("only inverted", "answer 'only inverted': no such branch; known: identity, curve, invert"),
        ("only ", "no such branch"),
    ],
)
def test_ways_that_were_not_recorded(way, message):
    for read in (recorded.scores, recorded.maps, recorded.branches):
        with pytest.raises(UserError) as error:
            read(RECORDS, way)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_older_records_have_no_weighted_answer():
    older = copy.deepcopy(RECORDS)
    for record in older:
        del record["scores"]["weighted"]
    with pytest.raises(UserError, match="'weighted': not recorded; known: cosine, image, union;"):
        recorded.scores(older, "weighted")


@pytest.mark.parametrize(
    ("settings", "way"),
    [
        ({}, "image"),
        ({"selection": "cosine+"}, "cosine+"),
        ({"selection": "cosine", "level": "case"}, "cosine@case"),
        ({"selection": "polarity", "level": "domain"}, "polarity@domain"),
        ({"selection": "cosine", "answer": "union"}, "union"),
        ({"selection": "polarity", "answer": "weighted"}, "weighted"),
        ({"selection": "polarity"}, "polarity"),
    ],
)
def test_the_way_of_the_settings(settings, way):
    method = MlnSettings(**{"selection": "image"} | settings)
    assert recorded.of_settings(method) == way
    rule, _, level = way.partition("@")
    lines = [r | {"distances": {rule: r["distances"]["cosine"]}} for r in RECORDS]
    by_rule = recorded.maps(RECORDS, f"cosine@{level or 'image'}")
    expected = [way] * len(RECORDS) if way in recorded.TOGETHER else by_rule
    assert recorded.answering(lines, method) == expected
