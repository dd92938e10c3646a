"""Whole phantoms by part: normal ones and ones with lesions, of patients that no window shows."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from mln_flax.config import DataConfig
from mln_flax.data.core import Example, Part
from mln_flax.data.phantoms import anatomy, drawing, lesions, phantom
from mln_flax.data.phantoms.store import Block

PARTS = ("validation", "test")


class WholePhantoms(Sequence[Example]):
    """Whole phantoms, each read from the cache, or drawn, when it is asked for."""

    def __init__(self, blocks: Sequence[Block], workers: int):
        self._blocks = tuple(blocks)
        drawing.keep(self._blocks, phantom.shown, workers)

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        ((example,),) = drawing.draw([self._blocks[index]], phantom.shown, workers=1)
        return example


def part(data: DataConfig, domain: str, name: str) -> Part:
    """The whole phantoms of a domain for validation or test, drawn into the cache now.

    As many are normal as `data.phantom.whole_normal` says for validation, and half of
    `whole_test` for test; more of them are the same ones and others.

    Args:
      data: the data settings.
      domain: of the phantoms.
      name: one of `PARTS`.

    Raises:
      UserError: there is no such domain.
    """
    phantom.check_domain(domain)
    counts = data.phantom
    if name == "validation":
        normal, labeled = counts.whole_normal, counts.whole_lesions
    else:
        labeled = counts.whole_test // 2
        normal = counts.whole_test - labeled
    patients = indices(counts.seed, domain, name, normal, labeled)
    spacing = counts.spacing_mm
    blocks = [
        Block(
            counts.seed,
            (domain,),
            i,
            i + 1,
            *phantom.size_of(counts.seed, i, spacing),
            spacing,
            True,
        )
        for i in patients
    ]
    return Part(
        domain=domain,
        name=name,
        examples=WholePhantoms(blocks, data.workers),
        patient_ids=frozenset(f"{counts.seed}-{i}" for i in patients),
        label_pixels=tuple(phantom.label_pixels(counts.seed, i, spacing) for i in patients),
    )


def indices(seed: int, domain: str, name: str, normal: int, labeled: int) -> list[int]:
    """The patients of a part in order, as many normal ones and ones with a lesion as asked for."""
    slot = len(PARTS) * phantom.KNOWN.index(domain) + PARTS.index(name)
    first = phantom.WHOLE + phantom.EACH * slot

    def of(has_lesion: bool) -> Iterator[int]:
        for index in range(first, first + phantom.EACH):
            if lesions.focus(anatomy.breast(seed, index)).lesion == has_lesion:
                yield index

    chosen = (itertools.islice(of(False), normal), itertools.islice(of(True), labeled))
    return sorted(itertools.chain(*chosen))
