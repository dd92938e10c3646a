"""Records of a few images as MLN-net leaves them, whose scores are known by hand."""

import itertools

import numpy as np

from mln_flax.metrics import pixel

BRANCHES = ["identity", "invert"]
NUMBERS = itertools.count()  # each image has its own
EMPTY = np.zeros((3, 4), np.uint8)
LESION = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], np.uint8)  # diagonal of the image: 5
HALF = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], np.uint8)  # DSC 2/3, HD 1, ASD 1/3


def image(domain, mask, predictions, chosen, spacing=(0.1, 0.1), **more):
    """The record of an image that two branches, their union and their mean have answered."""
    maps = dict(zip(BRANCHES, predictions, strict=True))
    maps |= {"union": np.maximum(*predictions), "weighted": np.minimum(*predictions)}
    return {
        "kind": "image",
        "image_id": f"{domain}-{next(NUMBERS)}",
        "patient_id": "somebody",
        "domain": domain,
        "role": "source" if domain == "ffdm" else "target",
        "spacing_mm": spacing,
        "branches": BRANCHES,
        "selection": "image",
        "answer": "image",
        "distances": {"image": [float(chosen), 0.5], "cosine": [0.1, 0.2]},
        "chosen": {"image": chosen, "cosine": 0},
        "scores": {name: pixel.image_scores(each, mask, spacing) for name, each in maps.items()},
        "answered_by": BRANCHES[chosen],
        **more,
    }


def view(name, branch, chosen, cosine=0):
    """The record of an image of the source seen through a view."""
    return {
        "kind": "view",
        "domain": "ffdm",
        "view": name,
        "branch": branch,
        "branches": BRANCHES,
        "selection": "image",
        "chosen": {"image": chosen, "cosine": cosine},
    }


RECORDS = [
    image("film", LESION, (HALF, EMPTY), 1),
    image("ffdm", LESION, (LESION, EMPTY), 0),
    image("ffdm", LESION, (HALF, LESION), 0),
    image("ffdm", EMPTY, (EMPTY, HALF), 1),
    image("ffdm", EMPTY, (EMPTY, HALF), 0),
    *(view("identity", 0, chosen) for chosen in (0, 0, 0, 1)),
    *(view("invert", 1, chosen) for chosen in (1, 1)),
]


def rows(table):
    """The rows of a table, each by the names of its columns."""
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]
