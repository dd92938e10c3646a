"""Mammogram phantoms with pixel-exact calcification masks: seeded, any size, by domain.

A phantom is one breast, made in millimeters (`anatomy`), with its calcifications (`lesions`), seen
by one machine (`scanners`). The machine is the domain; of the domain `any` each image has its own.
"""

from collections.abc import Sequence

import numpy as np

from mln_flax.config import DataConfig
from mln_flax.data.core import PARTS, DataSet, Example, Part, loaders
from mln_flax.data.phantoms import (
    anatomy,
    any_scanner,
    drawing,
    exposure,
    framing,
    lesions,
    scanners,
)
from mln_flax.data.phantoms.store import Block
from mln_flax.data.prepare import prepared
from mln_flax.registry import nearest
from mln_flax.types import UserError

DOMAINS = tuple(scanners.SCANNERS)  # of the benchmark
ANY = "any"  # each image by a machine of its own: to train a general detector on
KNOWN = (*DOMAINS, ANY)
_WINDOW, _SCANNER, _CUT = 21, 22, 26  # random streams
# Windows show the patients from 0 on. Whole views show others: so many are kept for each part of
# each machine, so that a patient is in one of them, whichever machine is the source.
WHOLE, WHOLE_TRAIN, EACH = 10**9, 2 * 10**9, 10**6
# A breast counts as shown whole along an axis when the field covers this share of it. Chosen.
_WHOLE = 0.85


def phantom(
    seed: int, domain: str, index: int, *, height: int, width: int, spacing_mm: float = 0.1
) -> Example:
    """The phantom of patient `index` as the machine `domain` shows it: a pure function.

    Breast and calcifications depend on (seed, index) alone, so one patient can be shown by every
    machine; noise and artifacts depend on the domain too. A field of view as large as the breast
    shows all of it, chest wall at the image's edge; a smaller one is a window around the cluster,
    or around any place of a breast without one. Even indices are CC views, odd ones MLO.

    The mask is 1 where a calcification covers half of a pixel or more; one that covers no pixel so
    far marks the pixel it covers most. Distractors are not in it.

    Args:
      seed: names the collection, 0 or more.
      domain: one of `KNOWN`.
      index: names the patient, 0 or more.
      height: of the image, pixels, 1 or more.
      width: likewise.
      spacing_mm: side of a pixel.

    Raises:
      UserError: an unknown domain, or a size, spacing, seed or index out of range.
    """
    return shown(seed, (domain,), index, height=height, width=width, spacing_mm=spacing_mm)[0]


def shown(
    seed: int,
    domains: Sequence[str],
    index: int,
    *,
    height: int,
    width: int,
    spacing_mm: float,
    whole: bool = False,
) -> list[Example]:
    """The phantoms of one patient in each of the domains: as `phantom`, with one anatomy for all.

    Args and errors as in `phantom`; with `whole` as in `whole_view`, whose size `size_of` tells.
    """
    for domain in domains:
        check_domain(domain)
    _check_numbers(seed, index, height, width, spacing_mm)
    body = anatomy.breast(seed, index)
    at = lesions.focus(body)
    calcifications = lesions.cluster(body, at)
    if whole:
        grid = framing.whole_grid(body, spacing_mm)
    else:
        grid = _grid(body, at, calcifications, height, width, spacing_mm)
    spots = calcifications + lesions.distractors(body, at, calcifications)
    layer, mask = lesions.draw(spots, grid)
    subject = exposure.Subject(body, tuple(spots), layer, grid, whole)
    tissues: dict[bool, anatomy.Tissue] = {}
    examples = []
    for domain in domains:
        rng = np.random.default_rng([seed, _SCANNER, index, KNOWN.index(domain)])
        machine = any_scanner.machine(rng) if domain == ANY else scanners.SCANNERS[domain]
        if machine.native_mm and machine.native_mm > spacing_mm:
            image = exposure.in_own_pixels(machine, subject, rng)
        else:
            if machine.thin not in tissues:
                tissues[machine.thin] = exposure.tissue(subject, machine.thin)
            scene = exposure.scene(machine, subject, tissues[machine.thin])
            image = scanners.show(machine, scene, rng)
        examples.append(
            Example(
                image=prepared.from_bits(prepared.to_bits(image)) if whole else image,
                mask=mask[:, subject.face].copy(),
                image_id=f"{domain}-{seed}-{index}",
                patient_id=f"{seed}-{index}",
                domain=domain,
                laterality=body.laterality,
                view_position=body.view,
                spacing_mm=(spacing_mm, spacing_mm),
                label_kind="calcification" if mask.any() else "none",
            )
        )
    return examples


def windows_of_whole(
    seed: int,
    domains: Sequence[str],
    index: int,
    *,
    height: int,
    width: int,
    spacing_mm: float,
    windows: int,
) -> list[Example]:
    """Windows of one patient's whole view in each of the domains, as prediction meets them.

    They lie anywhere with their middle in the breast or near it, so most show no calcification,
    and many show air, the film's ends, letters or its label.

    Args:
      seed: as in `phantom`.
      domains: as in `shown`.
      index: as in `phantom`.
      height: of a window, pixels.
      width: likewise.
      spacing_mm: side of a pixel.
      windows: of each whole view.

    Raises:
      UserError: as in `phantom`, or a window larger than the view.
    """
    body = anatomy.breast(seed, index)
    grid = framing.whole_grid(body, spacing_mm)
    tall, wide = len(grid.y), len(grid.x)
    if height > tall or width > wide:
        raise UserError(
            f"phantom {seed}-{index} is {tall} x {wide} pixels of {spacing_mm} mm: no window of "
            f"{height} x {width} (--config.data.size) is cut from it (data.phantom.whole_train)"
        )
    wholes = shown(seed, domains, index, height=tall, width=wide, spacing_mm=spacing_mm, whole=True)
    rng = np.random.default_rng([seed, _CUT, index])
    corners = framing.window_corners(body, grid, (height, width), windows, rng)
    examples = []
    for view in wholes:
        for k, (row, column) in enumerate(corners):
            area = slice(row, row + height), slice(column, column + width)
            mask = view.mask[area].copy()
            examples.append(
                view._replace(
                    image=view.image[area].copy(),
                    mask=mask,
                    image_id=f"{view.image_id}-{k}",
                    label_kind="calcification" if mask.any() else "none",
                )
            )
    return examples


def whole_view(seed: int, domain: str, index: int, *, spacing_mm: float = 0.1) -> Example:
    """The whole mammogram of patient `index` as a machine shows it: a pure function.

    The field of view follows the breast, chest wall at the image's edge, with air in front of the
    nipple, above and below, and letters in the air (on a film its label). Gray levels have 16
    bits, as those of files.

    Args and errors as in `phantom`.
    """
    _check_numbers(seed, index, 1, 1, spacing_mm)
    height, width = size_of(seed, index, spacing_mm)
    (example,) = shown(
        seed, (domain,), index, height=height, width=width, spacing_mm=spacing_mm, whole=True
    )
    return example


def size_of(seed: int, index: int, spacing_mm: float) -> tuple[int, int]:
    """Height and width of a patient's whole view, pixels."""
    grid = framing.whole_grid(anatomy.breast(seed, index), spacing_mm)
    return len(grid.y), len(grid.x)


def label_pixels(seed: int, index: int, spacing_mm: float) -> int:
    """How many pixels are labeled in a patient's whole view, of whichever machine."""
    body = anatomy.breast(seed, index)
    calcifications = lesions.cluster(body, lesions.focus(body))
    return int(lesions.draw(calcifications, framing.whole_grid(body, spacing_mm))[1].sum())


@loaders.register("phantom")
def load(data: DataConfig) -> DataSet:
    """The source's three parts and each target's test part, with no patient in two of them.

    Targets that a method sees without labels have a training part too.

    Raises:
      UserError: an unknown domain, a source that is also a target, a target named twice, or a
        count below zero.
    """
    counts = data.phantom
    domains = (data.source, *data.targets)
    for domain in domains:
        check_domain(domain)
    for domain in domains:
        if domains.count(domain) > 1:
            raise UserError(
                f"data.source {data.source!r} and data.targets {data.targets!r}: {domain!r} is "
                "there twice; a target is a domain that training never sees"
            )
    for name in PARTS:
        if getattr(counts, name) < 0:
            raise UserError(f"data.phantom.{name} is {getattr(counts, name)}; it must be 0 or more")
    _check_numbers(counts.seed, 0, data.size, data.size, counts.spacing_mm)
    wanted = [(data.source, name) for name in PARTS] + [(d, "test") for d in data.targets]
    wanted += [(domain, "train") for domain in data.unlabeled]  # last: no other patient changes
    square = data.size, data.size, counts.spacing_mm
    blocks, first = [], 0
    for domain, name in wanted:
        stop = first + getattr(counts, name)
        blocks.append(Block(counts.seed, (domain,), first, stop, *square))
        first = stop
    drawn = drawing.draw(blocks, shown, data.workers)
    if counts.whole_train:
        first = WHOLE_TRAIN + EACH * KNOWN.index(data.source)
        stop, windows = first + counts.whole_train, counts.whole_windows
        cut = Block(counts.seed, (data.source,), first, stop, *square, windows=windows)
        drawn[0] += drawing.draw([cut], windows_of_whole, data.workers)[0]
    parts = tuple(
        Part.of(*names, tuple(examples)) for names, examples in zip(wanted, drawn, strict=True)
    )
    notes = tuple(
        f"{part.domain} {part.name}: {len(part.examples)} phantoms, "
        f"{sum(e.label_kind == 'none' for e in part.examples)} without calcifications"
        for part in parts
    )
    return DataSet(parts, notes=notes)


def sheet(
    seed: int = 0, *, rows: int = 2, size: tuple[int, int] = (600, 480), spacing_mm: float = 0.4
) -> list[list[Example]]:
    """Whole breasts for a contact sheet: each row one patient (CC and MLO in turn), by machine.

    Args:
      seed: as in `phantom`.
      rows: patients, from index 0.
      size: height and width of each image, pixels; the default shows 240 x 192 mm.
      spacing_mm: side of a pixel.
    """
    block = Block(seed, DOMAINS, 0, rows, *size, spacing_mm)
    (examples,) = drawing.draw([block], shown)
    return [examples[i : i + len(DOMAINS)] for i in range(0, len(examples), len(DOMAINS))]


def check_domain(domain: str) -> None:
    """Raises UserError for a domain that no scanner makes."""
    if domain not in KNOWN:
        raise UserError(
            f"unknown phantom domain {domain!r}{nearest(domain, KNOWN)}; known: {', '.join(KNOWN)}"
        )


def _check_numbers(seed: int, index: int, height: int, width: int, spacing_mm: float) -> None:
    if min(height, width) < 1 or not spacing_mm > 0 or min(seed, index) < 0:
        raise UserError(
            f"phantom of {height} x {width} pixels, spacing {spacing_mm} mm, seed {seed}, index "
            f"{index}: sizes and spacing must be positive, seed and index not negative"
        )


def _grid(
    body: anatomy.Breast,
    at: lesions.Focus,
    calcifications: list[lesions.Spot],
    height: int,
    width: int,
    spacing_mm: float,
) -> anatomy.Grid:
    """The pixels' centers in the breast: all of it, or a window that shows some of the cluster.

    All windows that show the middle of a calcification or more are as likely, so labels are as
    likely in each pixel of a window, and windows cut clusters as tiles of a whole view do. Where
    the breast has no cluster the window is placed as if it had one at its focus, which then lies
    anywhere (`clusters.focus`).
    """
    rng = np.random.default_rng([body.seed, _WINDOW, body.patient])
    field = np.array([width, height]) * spacing_mm
    whole_x, whole_y = field >= _WHOLE * np.array([body.nipple[0], body.bottom - body.top])
    shown = calcifications or lesions.cluster(body, at._replace(lesion=True))
    left, top = _corner(rng, np.array([(spot.x, spot.y) for spot in shown]), field)
    left = 0.0 if whole_x else max(0.0, left)
    if whole_y:
        top = (body.top + body.bottom - field[1]) / 2 if body.view == "CC" else body.top
    return anatomy.Grid(
        x=left + (np.arange(width) + 0.5) * spacing_mm,
        y=top + (np.arange(height) + 0.5) * spacing_mm,
        spacing_mm=spacing_mm,
        whole=bool(whole_x and whole_y),
    )


def _corner(rng: np.random.Generator, places: np.ndarray, field: np.ndarray) -> tuple[float, float]:
    """The corner (x, y) of a window that holds one of the places [n, 2] or more.

    Uniform over all such windows: one place is put anywhere in the window, which counts with one
    over the number of places that the window then holds (Karp and Luby 1983).
    """
    while True:
        corners = places[rng.integers(len(places), size=32)] - field * rng.random((32, 2))
        offsets = places - corners[:, None]
        held = np.all((offsets >= 0) & (offsets < field), axis=2).sum(axis=1)
        taken = np.flatnonzero(held * rng.random(32) < 1)
        if len(taken):
            left, top = corners[taken[0]]
            return float(left), float(top)
