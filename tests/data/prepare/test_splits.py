import hashlib
import json
from collections import Counter

import pytest

from mln_flax.config import SplitConfig
from mln_flax.data.core import PARTS
from mln_flax.data.prepare import splits
from mln_flax.types import UserError

SHARES = SplitConfig()


def names(count):
    return [f"patient_{index}" for index in range(count)]


def test_the_split_is_pinned():
    # A split must outlive versions of this package: trained models rely on it.
    def place(patient):
        return hashlib.sha256(f"0:{patient}".encode()).digest()[:6]

    ordered = sorted(names(20), key=place)
    assigned = splits.split(names(20), SHARES)
    assert [assigned[patient] for patient in ordered] == ["test"] * 5 + ["validation"] * 3 + [
        "train"
    ] * 12


@pytest.mark.parametrize("seed", range(20))
def test_small_collections_fill_every_part_with_both_strata(seed):
    patients = names(25)
    lesion = {patient: index < 11 for index, patient in enumerate(patients)}
    assigned = splits.split(patients, SplitConfig(seed=seed), lesion)
    assert set(assigned) == set(patients)
    for part in PARTS:
        strata = Counter(lesion[patient] for patient in patients if assigned[patient] == part)
        assert strata[True] >= 1 and strata[False] >= 1
    # 11 and 14 patients, each stratum rounded by itself: 3 + 4 for testing, 2 + 2 for validation.
    assert Counter(assigned.values()) == {"train": 14, "validation": 4, "test": 7}


def test_split_depends_on_neither_order_nor_repetition():
    patients = names(30)
    lesion = {patient: index % 2 == 0 for index, patient in enumerate(patients)}
    once = splits.split(patients, SHARES, lesion)
    again = splits.split([*patients[::-1], *patients], SHARES, dict(reversed(lesion.items())))
    assert list(once.items()) == list(again.items())
    assert once != splits.split(patients, SplitConfig(seed=7), lesion)


@pytest.mark.parametrize("strata", [[3], [2, 1], [1, 1, 1], [2, 2], [1, 2], [3, 1, 1]])
def test_three_patients_are_enough_for_three_parts(strata):
    kinds = [kind for kind, count in zip((True, False, None), strata) for _ in range(count)]  # noqa: B905
    lesion = dict(zip(names(len(kinds)), kinds, strict=True))
    assert set(splits.split(lesion, SHARES, lesion).values()) == set(PARTS)


def test_what_is_too_small_keeps_a_training_patient():
    assert splits.split([], SHARES) == {}
    assert splits.split(["a"], SHARES) == {"a": "train"}
    assert sorted(splits.split(["a", "b"], SHARES).values()) == ["test", "train"]
    heavy = SplitConfig(validation=0.3, test=0.69)
    assert set(splits.split(names(3), heavy).values()) == set(PARTS)


def test_a_share_of_zero_is_an_empty_part():
    assigned = splits.split(names(20), SplitConfig(validation=0.0, test=0.0))
    assert set(assigned.values()) == {"train"}


@pytest.mark.parametrize("shares", [(-0.1, 0.2), (0.5, 0.5), (0.2, float("nan"))])
def test_impossible_shares_are_refused(shares):
    config = SplitConfig(validation=shares[0], test=shares[1])
    with pytest.raises(UserError, match="data.split.*sum below 1"):
        splits.split(names(5), config)


def test_a_shared_patient_is_named():
    splits.check_disjoint({"train": ["a", "a", "b"], "test": ["c"]})
    with pytest.raises(UserError, match="'b' is in the parts 'train' and 'test'"):
        splits.check_disjoint({"train": ["a", "b"], "validation": [], "test": iter(["b"])})


def test_manifest_holds_its_own_hash():
    assigned = splits.split(names(10), SHARES)
    found = splits.manifest(assigned, SHARES)
    assert json.loads(json.dumps(found)) == found
    assert sorted(sum(found["parts"].values(), [])) == sorted(assigned)
    assert set(found["parts"]) == set(PARTS)
    content = {key: value for key, value in found.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert found["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    shuffled = dict(reversed(assigned.items()))
    assert splits.manifest(shuffled, SHARES) == found
    moved = {**assigned, next(iter(assigned)): "validation"}
    assert splits.manifest(moved, SHARES)["sha256"] != found["sha256"]
