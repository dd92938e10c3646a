"""The data set of a run, read from prepared folders."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mln_flax import files
from mln_flax.config import DataConfig
from mln_flax.data.core import PARTS, DataSet, LeftOut, Part
from mln_flax.data.prepare import prepared
from mln_flax.data.prepare.prepare import FORMAT, REPORT, SETTINGS
from mln_flax.registry import nearest
from mln_flax.types import UserError

Image = Mapping[str, Any]  # one of the images of prepare.json


class Domain(NamedTuple):
    """A domain of a prepared folder, with its images as `prepare.json` has them."""

    folder: Path
    images: tuple[Image, ...]


def load(data: DataConfig, folder: Path) -> DataSet:
    """The source's three parts and the targets' test parts; tiles are read when asked for.

    A target in one of the folders of `data.also` counts whole, whatever part an image has there,
    unless a method sees its training part without labels (`data.unlabeled`).

    Raises:
      UserError: a domain is missing or in two folders, a folder is not prepared to the end or has
        tiles of another size, or the source has masks of two kinds.
    """
    names = (data.source, *data.targets)
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"--config.data.targets={','.join(data.targets)}: {name!r} is also the source, or "
                "named twice; a target is a domain that training never sees"
            )
    report = report_of(folder, data.size)
    domains = _all_domains(data, folder, report)
    _refuse_copies(domains[data.source], {name: domains[name] for name in data.targets})
    wanted = [(data.source, name) for name in PARTS]
    wanted += [(name, "test") for name in data.targets]
    wanted += [(name, "train") for name in data.unlabeled]
    parts = [
        _part(data, name, part, _in_part(data, folder, domains[name], name, part))
        for name, part in wanted
    ]
    left_out = tuple(LeftOut(item["file"], item["reason"]) for item in report["left_out"])
    notes = (
        f"prepared in {folder}: {report['totals']['images']} images, "
        f"{report['totals']['left_out']} left out (see {REPORT} there)",
        *map(describe, parts),
        *_on_kinds({name: domains[name] for name in (data.source, *data.targets)}, data.source),
    )
    used = [domains[name] for name in sorted(names)]  # whichever of them is the source
    elsewhere = [domain for domain in used if domain.folder != folder]
    images = [*report["images"], *(image for domain in elsewhere for image in domain.images)]
    return DataSet(tuple(parts), left_out, notes, content(images))


def images_of_part(data: DataConfig, folder: Path, part: str) -> dict[str, Domain]:
    """For each domain that a run has in a part, its images there: those whose tiles `load` gives.

    Args:
      data: the data settings.
      folder: of the prepared data.
      part: "validation", of the source alone, or "test", of source and targets.

    Raises:
      UserError: as `load`, for domains and folders.
    """
    domains = _all_domains(data, folder, report_of(folder, data.size))
    names = (data.source, *(data.targets if part == "test" else ()))
    return {name: _in_part(data, folder, domains[name], name, part) for name in names}


def content(images: Sequence[Image]) -> str:
    """A hash of images as `prepare.json` has them, wherever they lie.

    It holds pixels, masks, parts and order; not the ids, which another copy of the data may have
    drawn anew.
    """
    facts = [{k: v for k, v in image.items() if k not in _CALLED} for image in images]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


_CALLED = ("image_id", "patient", "repaired")  # what is said of an image, not what it is


def check_also(data: DataConfig) -> None:
    """Raises UserError for a folder of `data.also` that is not prepared, or of another size."""
    for other in data.also:
        report_of(Path(other), data.size)


def describe(part: Part) -> str:
    """A line on a part: its patients, tiles, and tiles with a label."""
    labeled = sum(pixels > 0 for pixels in part.label_pixels)
    patients = len(part.patient_ids)
    return (
        f"{part.domain} {part.name}: {patients} patient{'s' if patients != 1 else ''}, "
        f"{len(part.examples)} tiles, {labeled} with a label"
    )


def report_of(folder: Path, size: int) -> dict[str, Any]:
    """What `prepare.json` of a prepared folder says.

    Raises:
      UserError: it is not prepared to the end, by another version, or with tiles of another size.
    """
    if not (folder / REPORT).exists():
        raise UserError(f"{folder}: is not prepared to the end; run --mode=prepare for it first")
    settings = files.read_json(folder / SETTINGS)
    if settings.get("format") != FORMAT:
        raise UserError(
            f"{folder}: was prepared by another version of this program; remove it and prepare "
            "again"
        )
    stored_size = settings["size"]
    if stored_size != size:
        raise UserError(
            f"{folder}: its tiles have {stored_size} pixels a side, and --config.data.size is "
            f"{size}; prepare both with the same size"
        )
    return files.read_json(folder / REPORT)


def _domains(folder: Path, report: Mapping[str, Any]) -> dict[str, Domain]:
    names = dict.fromkeys(image["domain"] for image in report["images"])
    return {
        name: Domain(folder, tuple(image for image in report["images"] if image["domain"] == name))
        for name in names
    }


def _all_domains(data: DataConfig, folder: Path, report: Mapping[str, Any]) -> dict[str, Domain]:
    """The domains of the prepared folder and of `data.also` by name.

    Raises:
      UserError: a domain is in two folders, or the source or a target in none.
    """
    domains = _domains(folder, report)
    for other in map(Path, data.also):
        for name, domain in _domains(other, report_of(other, data.size)).items():
            if name in domains:
                raise UserError(
                    f"--config.data.also={other}: domain {name!r} is also in "
                    f"{domains[name].folder}; each domain may be in one folder"
                )
            domains[name] = domain
    for name in (data.source, *data.targets):
        if name not in domains:
            raise UserError(
                f"--config.data: no domain {name!r}{nearest(name, domains)} in the prepared data; "
                f"it has: {', '.join(domains)}"
            )
    return domains


def _in_part(data: DataConfig, folder: Path, domain: Domain, name: str, part: str) -> Domain:
    """The images of a domain that belong to a part of the run.

    A target from another folder is tested on as a whole, unless its training part is trained on.
    """
    is_elsewhere = name != data.source and domain.folder != folder
    if is_elsewhere and part == "test" and name not in data.unlabeled:
        return domain
    return domain._replace(images=tuple(i for i in domain.images if i["part"] == part))


def _part(data: DataConfig, name: str, part: str, chosen: Domain) -> Part:
    # Only training may choose its tiles, and never by their labels.
    least = data.tiles.min_breast if part == "train" else 0.0
    tiles = [
        (prepared.split_name(name, image["part"]), image["first_tile"] + i, pixels)
        for image in chosen.images
        for i, pixels in enumerate(image["tile_label_pixels"])
        if image["tile_breast"][i] >= least
    ]
    return Part(
        domain=name,
        name=part,
        examples=prepared.read(chosen.folder, [(split, number) for split, number, _ in tiles]),
        patient_ids=frozenset(image["patient"] for image in chosen.images),
        label_pixels=tuple(pixels for _, _, pixels in tiles),
    )


def _refuse_copies(source: Domain, targets: Mapping[str, Domain]) -> None:
    """Raises UserError for a target from another folder that has images of the source's.

    Its patients have other hashes there, so that they cannot be compared; equal pixels can.
    """
    known = {image["pixels"] for image in source.images}
    for name, target in targets.items():
        same = sum(image["pixels"] in known for image in target.images)
        if same and target.folder != source.folder:
            raise UserError(
                f"{same} images of target {name!r} in {target.folder} are also in the source's "
                f"{source.folder}: its patients would be trained on and tested on; take other data"
            )


def _on_kinds(domains: Mapping[str, Domain], source: str) -> Sequence[str]:
    """A line where the targets' masks show another thing than the source's.

    Raises:
      UserError: the source itself has both kinds.
    """
    kinds = {
        name: {image["label_kind"] for image in domain.images} - {"none"}
        for name, domain in domains.items()
    }
    if len(kinds[source]) > 1:
        raise UserError(
            f"domain {source!r} has masks of two kinds, {' and '.join(sorted(kinds[source]))}; "
            "choose one with --config.data.label, or keep them in domains of their own"
        )
    return [
        f"ATTENTION: masks of {name} are of kind {'/'.join(sorted(other))}, those that are trained "
        f"on of kind {'/'.join(sorted(kinds[source]))}: its scores compare unlike things"
        for name, other in kinds.items()
        if other and kinds[source] and other != kinds[source]
    ]
