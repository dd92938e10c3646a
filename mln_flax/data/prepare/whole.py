"""Whole images of prepared folders, read again from the files that their tiles were cut from."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mln_flax import files
from mln_flax.config import DataConfig
from mln_flax.data import enter_all
from mln_flax.data.core import Entry, Example, LeftOut, Part, Unusable, collections
from mln_flax.data.prepare import identity, prepare, prepared_set, staging
from mln_flax.data.prepare.prepared_set import Image
from mln_flax.types import UserError


class Originals(NamedTuple):
    """The files that a folder was prepared from, known by their names and sizes to be the same."""

    flag: str  # how the user gives their folder
    folder: Path  # the prepared one
    data: DataConfig  # the settings that they were read with
    entries: Mapping[str, Entry]  # by the id of the image


class WholeImages(Sequence[Example]):
    """Whole images as preparation read them, each read when it is asked for."""

    def __init__(self, originals: Originals, images: Sequence[Image]):
        self._originals, self._images = originals, tuple(images)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return _read(self._originals, self._images[index])


def parts(data: DataConfig, folder: Path, name: str) -> tuple[list[Part], list[LeftOut]]:
    """The whole images of a part of each domain, and the domains whose files are not known.

    They are the images whose tiles `prepared_set.load` has in that part, under the same ids.

    Args:
      data: the data settings.
      folder: of the prepared data.
      name: "validation", of the source alone, or "test", of source and targets.

    Raises:
      UserError: as `prepared_set.load`; or a data folder is not there, or holds other files than
        were prepared. When an image is asked for: its file reads otherwise than it did then.
    """
    places = {folder: ("data.dir", data.dir)}
    for other, place in zip(data.also, data.also_dirs or [""] * len(data.also), strict=True):
        places[Path(other)] = ("data.also_dirs", place)
    found, left_out = [], []
    known: dict[Path, Originals] = {}
    for domain, (home, images) in prepared_set.images_of_part(data, folder, name).items():
        flag, place = places[home]
        if home != folder and not place:
            reason = f"where the files of {home} are is not known; give --config.{flag}=FOLDER"
            left_out.append(LeftOut(domain, reason))
            continue
        if home not in known:
            known[home] = originals(data, home, flag, place)
        _refuse_others(known[home], images)
        found.append(
            Part(
                domain=domain,
                name=name,
                examples=WholeImages(known[home], images),
                patient_ids=frozenset(image["patient"] for image in images),
                label_pixels=tuple(image["label_pixels"] for image in images),
            )
        )
    return found, left_out


def originals(data: DataConfig, folder: Path, flag: str, place: str) -> Originals:
    """What a folder was prepared from; no file is opened but for what `index` reads of it.

    Args:
      data: the data settings.
      folder: the prepared folder.
      flag: the setting that says where its data folder is.
      place: that folder.

    Raises:
      UserError: it is not there, or holds other files than were prepared.
    """
    where = f"--config.{flag}={place}"
    if not place or not Path(place).is_dir():
        what = "no such folder" if place else "not given"
        raise UserError(
            f"{where}: {what}; whole images are read again from the files that {folder} was "
            "prepared from"
        )
    stored = files.read_json(folder / prepare.SETTINGS)
    names = ("name", "label", "point_radius_mm")
    data = dataclasses.replace(data, dir=place, **{name: stored[name] for name in names})
    enter_all()
    if data.name not in collections:
        raise UserError(f"{folder}: was prepared from a data set {data.name!r}, which is not known")
    if prepare.has_changed(data, prepared_set.report_of(folder, data.size)):
        raise UserError(
            f"{where}: holds other files than those that were prepared in {folder}; bring them "
            f"back, or remove {folder} and prepare again"
        )
    called = identity.Names(identity.kept_salt(Path(place)), (), place, hide=False)
    index = collections[data.name]().index(data)
    entries = {called.image(entry.key): entry for entry in index.entries}
    entries = {
        image: entry._replace(patient=called.patient(entry.patient))
        for image, entry in entries.items()
    }
    return Originals(where, folder, data, entries)


def _refuse_others(known: Originals, images: Sequence[Image]) -> None:
    """Raises UserError where images have another id or patient now than when they were prepared."""
    for image in images:
        entry = known.entries.get(image["image_id"])
        if entry is None or entry.patient != image["patient"]:
            raise UserError(
                f"{known.flag}: image {image['image_id']} of {known.folder} is not in it under "
                f"that id and that of its patient; a table in it has changed, or its "
                f"{identity.SALT_FILE} is another one or missing: bring it back, or remove "
                f"{known.folder} and prepare again"
            )


def _read(known: Originals, image: Image) -> Example:
    """The whole image, the same that was prepared."""
    entry, name = known.entries[image["image_id"]], image["image_id"]
    try:
        whole, _ = staging.read(entry, known.data, name, image["patient"])
    except (Unusable, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(_changed(known, name, f"cannot be read: {why}")) from None
    facts = json.loads(json.dumps(files.plain(staging.facts_of(whole))))
    different = [key for key, value in facts.items() if image[key] != value]
    if different:
        raise UserError(_changed(known, name, f"has another {', '.join(different)}"))
    return whole


def _changed(known: Originals, image: str, what: str) -> str:
    return (
        f"{known.flag}: image {image} (its file stands in {identity.NAMES_FILE} there) was "
        f"prepared in {known.folder}, and now {what}. Bring it back, or remove {known.folder} and "
        "prepare again"
    )
