"""The data set of a config: drawn in memory, or from its prepared folder."""

from pathlib import Path

from mln_flax import data as data_rooms
from mln_flax.config import Config
from mln_flax.data.core import PARTS, DataSet, collections, loaders
from mln_flax.data.prepare import prepare, prepared_set, splits
from mln_flax.registry import nearest
from mln_flax.types import UserError


def load_data(config: Config, prepared_dir: Path | None = None) -> DataSet:
    """The data set of a config: drawn, or from its prepared folder.

    Raises:
      UserError: the data set is unknown, its folder is not prepared, a domain of it is missing, a
        part is empty, or a patient is in two parts, whatever their domains.
    """
    data_rooms.enter_all()
    if is_drawn(config):
        data = loaders[config.data.name](config.data)
    else:
        assert prepared_dir is not None
        data = prepared_set.load(config.data, prepared_dir)
    patients: dict[str, set[str]] = {}
    for part in data.parts:
        patients.setdefault(part.name, set()).update(part.patient_ids)
    splits.check_disjoint(patients)
    for part in PARTS:
        if not data.examples(config.data.source, part):
            raise UserError(
                f"--config.data: domain {config.data.source!r} has no {part} images; "
                "change data.split or add images"
            )
    for domain in config.data.unlabeled:
        if not data.examples(domain, "train"):
            raise UserError(
                f"--config.data.unlabeled={','.join(config.data.unlabeled)}: domain {domain!r} has "
                "no train images; change data.split, or leave it out"
            )
    return data


def is_drawn(config: Config) -> bool:
    """Whether the data set is drawn in memory, and needs no preparation.

    Raises:
      UserError: there is no data set of this name.
    """
    data_rooms.enter_all()
    name = config.data.name
    if name not in loaders and name not in collections:
        known = sorted({*loaders, *collections})
        raise UserError(
            f"--config.data.name: unknown data set {name!r}{nearest(name, known)}; "
            f"known: {', '.join(known)}"
        )
    return name in loaders


def prepared_folder(config: Config, workdir: Path) -> Path:
    """Where the prepared tiles of a data set of files lie."""
    return Path(config.data.prepared_dir or prepare.default_folder(config.data, workdir))
