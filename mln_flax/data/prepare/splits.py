"""Parts of a data set by patient: hashed, seeded, and never shared."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from mln_flax.config import SplitConfig
from mln_flax.data.core import PARTS
from mln_flax.types import UserError


def split(
    patient_ids: Iterable[str],
    config: SplitConfig,
    stratify: Mapping[str, bool | None] | None = None,
) -> dict[str, str]:
    """The part of each patient, the same in whatever order they come.

    Patients are ordered by their hash, stratum by stratum, and cut by the shares, so that small
    collections fill all parts too: three patients of a stratum are enough for one in each part,
    of two one is for testing, a single one is for training. A part that is empty even so gets
    one of the training patients, as long as one stays.

    Args:
      patient_ids: repeated ones count once.
      config: shares and seed.
      stratify: the stratum of each patient, for example whether there is a lesion; absent: None.

    Raises:
      UserError: the shares leave nothing for training.
    """
    _check_shares(config)
    ordered = sorted(
        set(patient_ids), key=lambda patient: (_position(patient, config.seed), patient)
    )
    stratum_of = {patient: (stratify or {}).get(patient) for patient in ordered}
    assigned = {}
    for stratum in dict.fromkeys(stratum_of.values()):
        patients = [patient for patient in ordered if stratum_of[patient] == stratum]
        test, validation = _counts(len(patients), config)
        for index, patient in enumerate(patients):
            held_out = "test" if index < test else "validation"
            assigned[patient] = held_out if index < test + validation else "train"
    for part, share in (("test", config.test), ("validation", config.validation)):
        training = [patient for patient in ordered if assigned[patient] == "train"]
        if share and part not in assigned.values() and len(training) > 1:
            sizes = Counter(stratum_of[patient] for patient in training)
            # The stratum that can best spare one; max keeps the first of equals.
            assigned[max(training, key=lambda patient: sizes[stratum_of[patient]])] = part
    return {patient: assigned[patient] for patient in ordered}


def _counts(patients: int, config: SplitConfig) -> tuple[int, int]:
    """How many of a stratum's patients are for testing and for validation."""
    test = max(1, round(config.test * patients)) if config.test else 0
    validation = max(1, round(config.validation * patients)) if config.validation else 0
    # One is kept for training, and from three on one for validation.
    test = max(0, min(test, patients - 1 - (validation > 0 and patients > 2)))
    return test, min(validation, patients - 1 - test)


def check_disjoint(parts: Mapping[str, Iterable[str]]) -> None:
    """Nothing, if no patient is in two parts.

    Raises:
      UserError: naming the patient as given (hash real ids before) and both parts.
    """
    seen: dict[str, str] = {}
    for part, patients in parts.items():
        for patient in sorted(set(patients)):
            if patient in seen:
                raise UserError(
                    f"patient {patient!r} is in the parts {seen[patient]!r} and {part!r}; "
                    "a patient may be in one part only"
                )
            seen[patient] = part


def manifest(assigned: Mapping[str, str], config: SplitConfig) -> dict[str, Any]:
    """The split in plain words, ready for JSON: seed, shares, patients of each part, sha256.

    `sha256` is the hash of all the rest as JSON with sorted keys and no spaces, so that two runs
    can tell whether they saw the same split.

    Args:
      assigned: the part of each patient, from `split`.
      config: what it was made with.
    """
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for patient in sorted(assigned):
        parts[assigned[patient]].append(patient)
    content = {
        "seed": config.seed,
        "shares": {"validation": config.validation, "test": config.test},
        "parts": parts,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return {**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _position(patient_id: str, seed: int) -> float:
    """A number in [0, 1) that stands for a patient; evenly spread over patients and seeds."""
    digest = hashlib.sha256(f"{seed}:{patient_id}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # 48 bits are exact in a float


def _check_shares(config: SplitConfig) -> None:
    validation, test = config.validation, config.test
    if not (validation >= 0 and test >= 0 and validation + test < 1):  # refuses NaN as well
        raise UserError(
            f"data.split: validation={validation} and test={test}; "
            "each must be at least 0 and their sum below 1"
        )
