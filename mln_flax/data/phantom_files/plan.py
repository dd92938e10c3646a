"""Which phantoms are written, and each of them drawn, with what is known of it in numbers."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from mln_flax.config import Config
from mln_flax.data.core import PARTS, Example
from mln_flax.data.phantoms import phantom, whole
from mln_flax.data.phantoms.store import SOURCES
from mln_flax.metrics import clusters
from mln_flax.types import UserError

# The patients of the whole phantoms that a run of this package is tested on: none trains on them.
SLOT = "test"


class Task(NamedTuple):
    """One phantom to be drawn: a patient of its own, shown by one machine."""

    seed: int
    domain: str
    patient: int  # its number
    part: str  # one of PARTS, or "" where no parts are asked for
    size: int  # height and width of a window, pixels; 0: the whole breast
    spacing_mm: float


class Shares(NamedTuple):
    """Of the patients: how many are normal, and how many are in which part."""

    normal: float
    validation: float = 0.0
    test: float = 0.0

    @property
    def has_parts(self) -> bool:
        """Whether parts are asked for."""
        return self.validation + self.test > 0


def tasks(config: Config) -> tuple[Task, ...]:
    """The phantoms that the settings `phantoms` ask for, domain by domain.

    Raises:
      UserError: an unknown domain, or more patients than there are.
    """
    group, drawn = config.phantoms, config.data.phantom
    shares = Shares(group.normal, group.validation, group.test)
    size = 0 if group.whole else config.data.size
    chosen: list[Task] = []
    for domain in group.domains:
        try:
            phantom.check_domain(domain)
        except UserError as error:
            flag = f"--config.phantoms.domains={','.join(group.domains)}"
            raise UserError(f"{flag}: {error}") from None
        chosen += of_domain(domain, drawn.seed, group.count, shares, size, drawn.spacing_mm)
    return tuple(chosen)


def of_domain(
    domain: str, seed: int, count: int, shares: Shares, size: int, spacing_mm: float
) -> list[Task]:
    """So many phantoms of one domain, in the order of their patients.

    Normal patients and those with lesions are shared out to the parts alike.

    Args:
      domain: the machine.
      seed: names the collection.
      count: of patients, each with one image.
      shares: of them.
      size: side of a window, pixels; 0 for whole breasts.
      spacing_mm: side of a pixel.

    Raises:
      UserError: more patients than a seed has.
    """
    normal = round(shares.normal * count)
    part_of: dict[int, str] = {}
    for amounts in ((normal, 0), (0, count - normal)):
        patients = whole.indices(seed, domain, SLOT, *amounts)
        if len(patients) < sum(amounts):
            raise UserError(
                f"--config.phantoms.count={count}: a seed has fewer patients of a kind; write the "
                "rest by another --config.data.phantom.seed into another folder"
            )
        part_of |= dict(zip(patients, _parts(len(patients), shares), strict=True))
    return [Task(seed, domain, i, part_of[i], size, spacing_mm) for i in sorted(part_of)]


def _parts(count: int, shares: Shares) -> list[str]:
    """The part of each of so many patients: the last ones are for testing."""
    if not shares.has_parts:
        return [""] * count
    test = _at_least(shares.test * count)
    validation = min(_at_least(shares.validation * count), count - test)
    amounts = (count - test - validation, validation, test)
    return [name for name, amount in zip(PARTS, amounts, strict=True) for _ in range(amount)]


def _at_least(amount: float) -> int:
    """The whole number from an amount up: a part that is asked for has an image of each kind."""
    return math.ceil(amount - 1e-9)  # the sum of rounding errors is no further image


def draw(task: Task, sources: str = SOURCES) -> Example:
    """The phantom of a task; the image is in [0, 1].

    Args:
      task: which one.
      sources: the hash of the drawing code that it is to be drawn by.

    Raises:
      RuntimeError: this process has read other drawing code.
    """
    if sources != SOURCES:
        raise RuntimeError("its code has been changed meanwhile")
    if not task.size:
        return phantom.whole_view(task.seed, task.domain, task.patient, spacing_mm=task.spacing_mm)
    return phantom.phantom(
        task.seed,
        task.domain,
        task.patient,
        height=task.size,
        width=task.size,
        spacing_mm=task.spacing_mm,
    )


IMAGE_COLUMNS = (
    *("image", "patient", "domain", "part", "laterality", "view", "height", "width"),
    *("spacing_mm", "kind", "calcifications", "clusters", "label_pixels"),
    *("image_file", "mask_file", "image_sha256", "mask_sha256"),
)
OBJECT_COLUMNS = ("image", "number", "row", "column", "area_mm2", "length_mm", "cluster")


def image_row(example: Example, part: str, marks: clusters.Marks) -> dict[str, Any]:
    """What is known of an image, by the names of IMAGE_COLUMNS but for its files."""
    assert example.spacing_mm
    return {
        "image": example.image_id,
        "patient": example.patient_id,
        "domain": example.domain,
        "part": part,
        "laterality": example.laterality,
        "view": example.view_position,
        "height": example.image.shape[0],
        "width": example.image.shape[1],
        "spacing_mm": example.spacing_mm[0],
        "kind": "lesions" if marks.calcifications else "normal",
        "calcifications": len(marks.calcifications),
        "clusters": len(marks.clusters),
        "label_pixels": int(example.mask.sum()),
    }


def object_rows(image: str, calcifications: Sequence[clusters.Calcification]) -> list[dict]:
    """The calcifications of an image by the names of OBJECT_COLUMNS; places in pixels.

    The middle of the first pixel is (0, 0). A cluster's number is 0 where there is none.
    """
    return [
        {
            "image": image,
            "number": spot.number,
            "row": round(spot.row_px, 3),
            "column": round(spot.column_px, 3),
            "area_mm2": round(spot.area_mm2, 6),
            "length_mm": round(spot.length_mm, 4),
            "cluster": spot.cluster,
        }
        for spot in calcifications
    ]


def marks_of(example: Example) -> clusters.Marks:
    """The calcifications and clusters of a phantom's mask, by the usual rule."""
    assert example.spacing_mm
    return clusters.marks(example.mask, example.mask, example.spacing_mm)
