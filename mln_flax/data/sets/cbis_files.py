"""Which files below a folder belong to which mammogram of CBIS-DDSM, whatever their layout.

A file is known by the deepest part of its path that names a case, else by its row in
dicom_info.csv, else by a folder that is one of the tables' series, else by its DICOM header.
Names decide here what a file is said to be; what it really is, its pixels decide later.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mln_flax.data import disk
from mln_flax.data.core import LeftOut, Unusable
from mln_flax.data.readers import raster, reader
from mln_flax.data.sets import cbis_names, cbis_table, pairs

_OTHER = "other"  # the role of what is named as neither mammogram nor mask nor crop


class File(NamedTuple):
    """A mask or crop: its path, and which of both it is called ("" where nothing says it)."""

    path: str
    role: str


class Archive(NamedTuple):
    """The files of a folder by mammogram and abnormality."""

    wholes: Mapping[str, tuple[str, ...]]  # case -> paths
    regions: Mapping[str, Mapping[int, tuple[File, ...]]]  # case -> abnormality -> files
    unnumbered: Mapping[str, str]  # case -> a mask or crop of none of its abnormalities
    left_out: tuple[LeftOut, ...]
    secrets: frozenset[str]


class _Claim(NamedTuple):
    path: Path
    name: cbis_names.Name
    role: str  # as its own name or its row says


class _Lists(NamedTuple):
    """What tables say of files: by FOLDER/FILE, and by series."""

    listed: Mapping[str, cbis_table.Listed]
    series: Mapping[str, cbis_names.Name]


def find(root: Path, cases: Mapping[str, cbis_table.Case]) -> Archive:
    """All files of calcification cases below a folder; those of masses count for nothing.

    Headers are read only of DICOM files whose path says nothing; no pixels are decoded.
    """
    lists = _Lists(cbis_table.listed_files(root), _series(cases.values()))
    claims: list[_Claim] = []
    left_out: list[LeftOut] = []
    secrets: set[str] = set()
    for item, reason in disk.listing(root).absent:
        claim = _by_path(Path(item), Path(item).relative_to(root), lists)
        if claim:
            secrets.add(claim.name.patient)
        # As with files that are here, those of masses or without a name count for nothing.
        if not claim.name.is_mass if claim else _has_header(item):
            left_out.append(LeftOut(item, reason))
    for path in sorted(reader.find(root)):
        claim = _by_path(path, path.relative_to(root), lists)
        if not claim and _has_header(path.name):
            try:
                header = reader.header(path)
            except Unusable as unusable:
                left_out.append(LeftOut(str(path), str(unusable)))
                continue
            secrets.update(word for word in header.secrets if not cbis_names.parse(word))
            claim = _by_header(path, header, lists)
        if claim:
            secrets.add(claim.name.patient)
            if not claim.name.is_mass and claim.role != _OTHER:
                claims.append(claim)
    return _archive(claims, cases, left_out, secrets)


def _has_header(name: str) -> bool:
    """Whether a file of this name may be DICOM; names of files without a suffix have dots too."""
    return reader.may_be_image(name) and Path(name).suffix.lower() not in raster.SUFFIXES


def _series(cases: Iterable[cbis_table.Case]) -> dict[str, cbis_names.Name]:
    """What each series of the tables shows."""
    names = {}
    for case in cases:
        names[cbis_names.series_uid(case.image)] = case.name
        for abnormality in case.abnormalities:
            name = case.name._replace(abnormality=abnormality.number)
            for path in (abnormality.mask, abnormality.crop):
                names[cbis_names.series_uid(path)] = name
    names.pop("", None)
    return names


def _by_path(path: Path, relative: Path, lists: _Lists) -> _Claim | None:
    """Whose file it is by the names in its path or by its row in a table of files."""
    for part in (pairs.stem(relative.name), *reversed(relative.parts[:-1])):
        if name := cbis_names.parse(part):
            return _Claim(path, name, cbis_names.role(name.word))
    if listed := lists.listed.get(cbis_names.last_two(relative.as_posix())):
        return _Claim(path, listed.name, _described(listed.description))
    for part in reversed(relative.parts[:-1]):
        if series := lists.series.get(part):
            return _Claim(path, series, "")
    return None


def _by_header(path: Path, header: reader.Header, lists: _Lists) -> _Claim | None:
    name = cbis_names.parse(header.patient) or lists.series.get(header.series_uid)
    return _Claim(path, name, _described(header.series_description)) if name else None


def _described(description: str) -> str:
    """The role in a description; one that is not understood says nothing."""
    return cbis_names.role(description).removeprefix(_OTHER)


def _archive(
    claims: Sequence[_Claim],
    cases: Mapping[str, cbis_table.Case],
    left_out: Iterable[LeftOut],
    secrets: Iterable[str],
) -> Archive:
    wholes: dict[str, list[str]] = defaultdict(list)
    grouped: dict[tuple[str, int], list[_Claim]] = defaultdict(list)
    unnumbered: dict[str, str] = {}
    for claim in claims:
        name = claim.name.case
        number = claim.name.abnormality
        if number is None and claim.role in ("mask", "crop"):
            known = cases[name].abnormalities if name in cases else ()
            if len(known) != 1:
                unnumbered.setdefault(name, str(claim.path))
                continue
            number = known[0].number
        if number is None:
            wholes[name].append(str(claim.path))
        else:
            grouped[name, number].append(claim)
    regions: dict[str, dict[int, tuple[File, ...]]] = defaultdict(dict)
    for (name, number), group in sorted(grouped.items()):
        rows = cases[name].abnormalities if name in cases else ()
        row = next((row for row in rows if row.number == number), None)
        regions[name][number] = tuple(_with_roles(group, row))
    return Archive(
        {name: tuple(paths) for name, paths in wholes.items()},
        dict(regions),
        unnumbered,
        tuple(left_out),
        frozenset(secrets),
    )


def _with_roles(group: Sequence[_Claim], row: cbis_table.Abnormality | None) -> list[File]:
    """The files of one abnormality, each with what it is called.

    The file's own name or row says it, or its folder if no other of these files is in there, else
    its number and its series in the table, where 000000 is the first file of a folder.
    """
    folders: dict[Path, list[_Claim]] = defaultdict(list)
    for claim in group:
        folders[claim.path.parent].append(claim)
    roles = []
    for claim in group:
        alone = len(folders[claim.path.parent]) == 1
        role = claim.role or (cbis_names.role(claim.path.parent.name) if alone else "")
        roles.append(role if role in ("mask", "crop") else "")
    if len(group) > 1 and len(set(roles)) == 1:
        roles = [""] * len(group)  # one description for mask and crop together
    files = []
    for claim, role in zip(group, roles, strict=True):
        siblings = sorted(folders[claim.path.parent], key=lambda sibling: _numbers(sibling.path))
        rank = siblings.index(claim) if len(siblings) > 1 else None
        files.append(File(str(claim.path), role or _by_table(claim.path, rank, row)))
    return files


def _numbers(path: Path) -> tuple[list[int], str]:
    """An order in which 1-2 comes before 1-10."""
    return [int(digits) for digits in re.findall(r"\d+", pairs.stem(path.name))], path.name


def _by_table(path: Path, rank: int | None, row: cbis_table.Abnormality | None) -> str:
    """What the table says of a file: "mask", "crop" or ""."""
    if not row:
        return ""
    of_mask, of_crop = (_is_of(path, cbis_names.series_uid(p)) for p in (row.mask, row.crop))
    if of_mask != of_crop:
        return "mask" if of_mask else "crop"
    stem = pairs.stem(path.name)
    number = int(stem) if re.fullmatch(r"\d{6}", stem) else rank
    mask, crop = (Path(source).stem.lstrip("0") or "0" for source in (row.mask, row.crop))
    if number is None or mask == crop:
        return ""
    return {mask: "mask", crop: "crop"}.get(str(number), "")


def _is_of(path: Path, uid: str) -> bool:
    """Whether a path lies in a series: its folders have the uid, or its last five digits."""
    tail = f"-{uid[-5:]}"
    return bool(uid) and (uid in path.parts or path.parent.name.endswith(tail))
