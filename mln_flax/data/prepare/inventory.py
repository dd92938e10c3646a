"""What a preparation found: which patient is in which part, the counts, and a look at it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mln_flax import files
from mln_flax.config import DataConfig, SplitConfig
from mln_flax.data.core import PARTS, Entry
from mln_flax.data.prepare import prepared, splits, staging
from mln_flax.types import UserError

SHEET_IMAGES = 24


class Staged(NamedTuple):
    """An entry that could be read: where its tiles are, and what is known of it."""

    entry: Entry
    path: Path
    facts: dict[str, Any]


def parts(staged: Sequence[Staged], data: DataConfig) -> dict[str, str]:
    """The part of every patient, by the collection's own ids.

    Where the collection names parts itself, its test patients stay the test part, and validation
    comes from its training patients. All others are split by `data.split`. A patient is in the
    same part in all domains.

    Raises:
      UserError: the collection has a patient both in its training and its test part.
    """
    official: dict[str, set[str]] = {}
    has_label: dict[str, bool | None] = {}
    for image in staged:
        patient = image.entry.patient
        official.setdefault(patient, set()).add(image.entry.part)
        has_label[patient] = bool(has_label.get(patient) or image.facts["label_pixels"])
    both = [patient for patient, names in official.items() if len(names) > 1]
    if both:
        ids = sorted({image.facts["patient"] for image in staged if image.entry.patient in both})
        verb = "patients are" if len(both) > 1 else "patient is"
        raise UserError(
            f"{len(both)} {verb} in more than one part of the collection ({', '.join(ids[:3])} as "
            "they are called in records); a patient may be in one only"
        )
    fixed = {patient: names.pop() for patient, names in official.items()}
    free = [patient for patient, name in fixed.items() if not name]
    training = [patient for patient, name in fixed.items() if name == "train"]
    known_test = SplitConfig(data.split.validation, 0.0, data.split.seed)
    return {
        **{patient: "test" for patient, name in fixed.items() if name == "test"},
        **splits.split(training, known_test, has_label),
        **splits.split(free, data.split, has_label),
    }


def report(
    staged: Sequence[Staged], left_out: Sequence[dict[str, str]], part_of: Mapping[str, str]
) -> dict[str, Any]:
    """What `prepare.json` says: every image, everything left out, and the totals.

    An image's tiles stand in their split in this order, from number `first_tile` on.
    """
    images, next_tile = [], dict[str, int]()
    for image in staged:
        part = part_of[image.entry.patient]
        split = prepared.split_name(image.facts["domain"], part)
        first = next_tile.get(split, 0)
        next_tile[split] = first + image.facts["tiles"]
        images.append({**image.facts, "part": part, "first_tile": first})
    return {"images": images, "left_out": list(left_out), "totals": totals(images, left_out)}


def totals(
    images: Sequence[Mapping[str, Any]], left_out: Sequence[dict[str, str]]
) -> dict[str, Any]:
    """Counts over all images, and for each domain and part of it."""
    reasons: dict[str, int] = {}
    for item in left_out:
        reasons[item["reason"]] = reasons.get(item["reason"], 0) + 1
    repairs: dict[str, int] = {}
    for image in images:
        for line in image["repaired"]:
            repairs[line] = repairs.get(line, 0) + 1
    domains = dict.fromkeys(image["domain"] for image in images)
    groups = [
        (domain, part, [i for i in images if (i["domain"], i["part"]) == (domain, part)])
        for domain in domains
        for part in PARTS
    ]
    return {
        **_count(images),
        "left_out": len(left_out),
        "left_out_by_reason": reasons,
        "repaired": sum(bool(image["repaired"]) for image in images),
        "repaired_by_reason": repairs,
        "parts": [
            {"domain": domain, "part": part, **_count(group)}
            for domain, part, group in groups
            if group
        ],
    }


def _count(images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    areas = [_label_area_mm2(image) for image in images]
    known = [area for area in areas if area is not None]
    return {
        "images": len(images),
        "labeled_images": sum(image["label_pixels"] > 0 for image in images),
        "patients": len({image["patient"] for image in images}),
        "tiles": sum(image["tiles"] for image in images),
        "labeled_tiles": sum(n > 0 for image in images for n in image["tile_label_pixels"]),
        "pixels": sum(image["height"] * image["width"] for image in images),
        "label_pixels": sum(image["label_pixels"] for image in images),
        # Of the images whose spacing is known; null where none is.
        "label_area_mm2": round(sum(known), 3) if known else None,
        "images_with_spacing": len(known),
    }


def _label_area_mm2(image: Mapping[str, Any]) -> float | None:
    spacing = image["spacing_mm"]
    return image["label_pixels"] * spacing[0] * spacing[1] if spacing else None


def write_sheet(staged: Sequence[Staged], part_of: Mapping[str, str], path: Path) -> None:
    """Small copies of images of every domain and part with their masks, labeled ones first."""
    groups: dict[tuple[str, str], list[Staged]] = {}
    for image in staged:
        key = (image.facts["domain"], part_of[image.entry.patient])
        groups.setdefault(key, []).append(image)
    each = max(1, SHEET_IMAGES // len(groups))
    shown: list[tuple[str, Staged]] = []
    arrays: dict[str, np.ndarray] = {}
    for (domain, part), group in sorted(groups.items()):
        first = sorted(group, key=lambda image: not image.facts["label_pixels"])[:each]
        for image in first:
            words = (domain, part, image.facts["view_position"], image.facts["image_id"])
            shown.append((" ".join(filter(None, words)), image))
    for number, (_, image) in enumerate(shown):
        arrays[f"image{number}"], arrays[f"mask{number}"] = staging.read_thumbnail(image.path)
    files.write_npz(path, {"title": np.array([title for title, _ in shown]), **arrays})
