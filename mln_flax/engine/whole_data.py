"""Whole images of a config's domains: phantoms as they are drawn, files as they are read."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mln_flax.config import Config
from mln_flax.data.core import LeftOut, Part
from mln_flax.data.phantoms import whole as phantoms
from mln_flax.data.prepare import whole as prepared
from mln_flax.engine.load_data import is_drawn

PARTS = ("validation", "test")


class WholeSet(NamedTuple):
    """The whole images of one part: for each domain a `Part`, read one by one.

    `left_out` lists domains without whole images, `notes` are lines for the user on both.
    """

    parts: tuple[Part, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


def whole_images(config: Config, part: str, prepared_dir: Path | None = None) -> WholeSet:
    """The whole images for validation, of the source alone, or for test, of source and targets.

    Patients stand in the part that their tiles stand in; whole phantoms are of patients of their
    own. A domain that has none is left out by name.

    Args:
      config: the run's settings.
      part: "validation" or "test".
      prepared_dir: the prepared folder of a data set of files.

    Raises:
      UserError: the data set or a domain is unknown, or the files that were prepared are not
        there, or others; when an image is asked for, if it reads otherwise than then.
      ValueError: another part.
    """
    if part not in PARTS:
        raise ValueError(f"whole images of {part!r}; allowed: {', '.join(PARTS)}")
    data = config.data
    parts: Sequence[Part] = ()
    if not is_drawn(config):
        assert prepared_dir is not None
        parts, left_out = prepared.parts(data, prepared_dir, part)
    else:
        domains = (data.source, *(data.targets if part == "test" else ()))
        left_out = []
        if data.name == "phantom":
            parts = [phantoms.part(data, domain, part) for domain in domains]
        else:
            reason = f"the data set {data.name!r} is drawn as windows alone"
            left_out = [LeftOut(domain, reason) for domain in domains]
    notes = [
        *map(_describe, parts),
        *(f"{domain}: no whole images; {reason}" for domain, reason in left_out),
    ]
    return WholeSet(tuple(parts), tuple(left_out), tuple(notes))


def _describe(part: Part) -> str:
    """A line on a part: its whole images, and those of them with a label."""
    labeled = sum(pixels > 0 for pixels in part.label_pixels)
    return (
        f"{part.domain} {part.name}: {len(part.examples)} whole images, "
        f"{len(part.examples) - labeled} normal, {labeled} with a label"
    )
