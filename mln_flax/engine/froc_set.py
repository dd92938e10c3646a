"""Which whole images a model is measured on: all of a data set's folders, under names to show."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mln_flax.config import DataConfig
from mln_flax.data import enter_all
from mln_flax.data.core import Entry, Example, Index, LeftOut, Unusable, collections
from mln_flax.data.prepare import borders, identity
from mln_flax.engine.hashes import file_hash, text_hash
from mln_flax.registry import nearest
from mln_flax.types import UserError

OTHER_FINDINGS = "other findings, no marked calcifications: false clusters are counted on it"


class MeasuredImage(NamedTuple):
    """One image of the set; `entry` and `data` are never shown."""

    entry: Entry
    data: DataConfig  # with the folder that it lies in
    name: str  # its file, as it may be shown
    image_id: str
    patient_id: str
    note: str  # what is to be said of its label; "" is nothing

    def digest(self) -> str:
        """A hash of its files and of all that its label rests on.

        Raises:
          Unusable: a file cannot be opened.
        """
        try:
            hashes = [file_hash(Path(path)) for path in self.entry.files]
        except OSError as error:
            raise Unusable(f"cannot be opened: {(error.strerror or '').lower()}") from None
        return text_hash(repr((hashes, self.entry.details, self.note)))

    def read(self) -> tuple[Example, tuple[str, ...]]:
        """The whole image with its mask, and what was repaired or is to be said of it.

        Raises:
          Unusable: it cannot be read, or its label cannot be used.
        """
        reading = collections[self.data.name]().read(self.entry, self.data)
        image, mended = borders.without_frame(reading.example.image)  # as in prediction
        example = reading.example._replace(
            image=image, image_id=self.image_id, patient_id=self.patient_id
        )
        return example, (*reading.repaired, *mended, *filter(None, [self.note]))


class MeasuredSet(NamedTuple):
    """The images in their order, and what of the folders is not among them: name and reason."""

    images: tuple[MeasuredImage, ...]
    left_out: tuple[LeftOut, ...]
    names: identity.Names


def images(data: DataConfig, folders: Sequence[Path], part: str = "") -> MeasuredSet:
    """All images of a data set's folders, with those of other findings; nothing is read or cut.

    The same word of a patient in two folders is the same patient. What the first folder calls its
    own salt names all. A file that one folder lacks and another has is not said to be missing.

    Args:
      data: the data settings.
      folders: each in the layout of the data set.
      part: "train" or "test", where the data set names its parts itself; "" is all.

    Raises:
      UserError: the data set is not known or drawn, a folder is none of it or is named twice, or
        no image is left.
    """
    enter_all()
    if data.name not in collections:
        known = sorted(collections)
        raise UserError(
            f"--config.data.name={data.name}: not a data set of files{nearest(data.name, known)}; "
            f"known: {', '.join(known)}"
        )
    if not folders:
        raise UserError("--mode=froc: give the data set's folder, --config.data.dir=FOLDER")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("--mode=froc: a folder is named twice, and no image counts twice")
    own = [replace(data, dir=str(folder)) for folder in folders]
    indices = [collections[data.name]().index(each) for each in own]
    secrets = frozenset().union(*(index.secrets for index in indices))
    names = identity.names(folders[0], secrets, data.hide_names)
    found = [
        (number, each, entry, note)
        for number, (each, index) in enumerate(zip(own, indices, strict=True), start=1)
        for entry, note in _entries(index, part)
    ]
    if not found:
        raise UserError(_why_none(indices, part))
    shown = _shown(names, folders)
    keys = Counter(entry.key for _, _, entry, _ in found)
    measured = tuple(
        MeasuredImage(
            entry=entry,
            data=each,
            name=shown(number, entry.files[0]),
            image_id=names.image(entry.key if keys[entry.key] == 1 else f"{number}/{entry.key}"),
            patient_id=names.patient(entry.patient),
            note=note,
        )
        for number, each, entry, note in found
    )
    left_out = [
        LeftOut(shown(number, item), names.text(reason))
        for number, (item, reason) in _absent(indices)
    ]
    return MeasuredSet(measured, tuple(left_out), names)


def _entries(index: Index, part: str) -> list[tuple[Entry, str]]:
    usual = [(entry, "") for entry in index.entries]
    other = [(entry, OTHER_FINDINGS) for entry in index.other_findings]
    return sorted(
        ((entry, note) for entry, note in usual + other if part in ("", entry.part)),
        key=lambda each: each[0].key,
    )


def _absent(indices: Sequence[Index]) -> list[tuple[int, LeftOut]]:
    """What is left out, with the number of its folder, but for what is counted after all.

    What none of the folders has is named once, what another one has is not.
    """
    counted = {entry.files[0] for index in indices for entry in index.other_findings}
    known = {Path(entry.files[0]).name for index in indices for entry in index.entries}
    known |= {Path(path).name for path in counted}
    items = [
        (number, absent)
        for number, index in enumerate(indices, start=1)
        for absent in index.left_out
        if absent.item not in counted
    ]
    there = [Path(absent.item).exists() for _, absent in items]
    known |= {
        Path(absent.item).name
        for (_, absent), is_there in zip(items, there, strict=True)
        if is_there
    }
    kept = []
    for (number, absent), is_there in zip(items, there, strict=True):
        name = Path(absent.item).name
        if is_there or name not in known:
            kept.append((number, absent))
            known.add(name)
    return kept


def _shown(names: identity.Names, folders: Sequence[Path]) -> Callable[[int, str], str]:
    """How a file of the n-th folder (from 1) is shown: with that number where there are several."""

    def shown(number: int, path: str) -> str:
        root = names._replace(root=str(folders[number - 1]))
        return f"{number}/{root.file(path)}" if len(folders) > 1 else root.file(path)

    return shown


def _why_none(indices: Sequence[Index], part: str) -> str:
    parts = {entry.part for index in indices for entry in index.entries}
    if part and parts == {""}:
        return (
            f"--config.evaluate.part={part}: this data set names no parts itself; leave it away, "
            "or measure a run's own test part by --mode=evaluate --config.evaluate.whole=true"
        )
    reasons = Counter(reason for index in indices for _, reason in index.left_out)
    why = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    return f"--mode=froc: no image can be used{': ' if why else ''}{why}"
