"""A breast before a machine: on the image's grid, or on the machine's own coarser pixels."""

from typing import NamedTuple

import numpy as np

from mln_flax.data.phantoms import anatomy, folds, framing, lesions, native, scanners


class Subject(NamedTuple):
    """A breast with its spots, and the pixels that show it."""

    body: anatomy.Breast
    spots: tuple[lesions.Spot, ...]
    layer: np.ndarray  # the spots' attenuation on the grid, float32 [H, W]
    grid: anatomy.Grid
    letters: bool  # of lead, on the table

    @property
    def face(self) -> slice:
        """The order of an image's columns: the chest wall is left of a left breast."""
        return slice(None, None, 1 if self.body.laterality == "L" else -1)


def tissue(subject: Subject, thin: bool) -> anatomy.Tissue:
    """The tissue, a projection or (`thin`) a slice, with the folds of its skin."""
    body, grid = subject.body, subject.grid
    plain = anatomy.tissue(body, grid, thin=thin)
    added = folds.attenuation(body, grid, plain.depth_mm)
    return plain if added is None else plain._replace(attenuation=plain.attenuation + added)


def scene(machine: scanners.Machine, subject: Subject, shown: anatomy.Tissue) -> scanners.Scene:
    """What a machine sees of a subject and its tissue, with the chest wall as in the image."""
    body, grid, face = subject.body, subject.grid, subject.face
    attenuation = shown.attenuation[:, face]
    if subject.letters and not machine.film:  # which has a label of its own
        lead = framing.letters(body, shown.depth_mm[:, face], grid.spacing_mm)
        attenuation = attenuation + lead
    return scanners.Scene(
        attenuation=np.ascontiguousarray(attenuation),
        spots=np.ascontiguousarray((subject.layer * (shown.depth_mm > 0))[:, face]),
        depth_mm=np.ascontiguousarray(shown.depth_mm[:, face]),
        rim=np.ascontiguousarray(shown.rim[:, face]),
        fat=anatomy.MU_FAT * body.thickness_mm,
        spacing_mm=grid.spacing_mm,
        whole=grid.whole,
        chest_left=body.laterality == "L",
    )


def in_own_pixels(
    machine: scanners.Machine, subject: Subject, rng: np.random.Generator
) -> np.ndarray:
    """The image [H, W] of a machine with coarser pixels than the grid's, resampled to the grid."""
    assert machine.native_mm is not None
    coarse = native.coarse_grid(subject.grid, machine.native_mm, rng.random(2))
    layer, _ = lesions.draw(list(subject.spots), coarse)
    own = subject._replace(layer=layer, grid=coarse)
    image = scanners.show(machine, scene(machine, own, tissue(own, machine.thin)), rng)
    image = native.on_grid(image[:, subject.face], coarse, subject.grid)
    return np.ascontiguousarray(image[:, subject.face])
