"""Lines of whole images whose counts are given, and known by hand."""

import itertools

from mln_flax.metrics import froc

NUMBERS = itertools.count()  # each image has its own


def record_of(found, false, references=2, normal=False):
    """The counts of one image, its first columns given and the last one repeated."""
    counts = {
        f"{unit}_{what}": list(numbers) + [numbers[-1]] * (40 - len(numbers))
        for unit in froc.UNITS
        for what, numbers in (("found", found), ("false", false))
    }
    key = {"ladder": [40, 0.05, 0.9999], "min_area_mm2": 0.0, "normal": normal}
    return key | {"objects": references, "clusters": references} | counts


def whole(domain, detection, scored=(), patient=None, part="test", level=1):
    """The line of a whole image; `scored` holds pairs of score and hit."""
    number = next(NUMBERS)
    return {
        "kind": "whole",
        "image_id": f"{domain}-{number}",
        "patient_id": f"p{number}" if patient is None else patient,
        "domain": domain,
        "part": part,
        "role": "source" if domain == "ffdm" else "target",
        "label_kind": "none" if detection["normal"] else "calcification",
        "spacing_mm": [0.1, 0.1],
        "height": 90,
        "width": 80,
        "detection": detection,
        "clusters": [{"score": score, "hit": hit} for score, hit in scored],
        "point": {
            "threshold": froc.THRESHOLDS[level],
            "min_area_mm2": 0.02,
            "asked": 0.5,
            "reached": 0.25,
            "images": 4,
        },
    }
