"""FFDM-DBT: digital mammograms and tomosynthesis slices, with masks of their calcifications.

The layout of the data of MLN-net, which is private but for a few published images:

    FFDM/*.bmp          mammograms
    DBT/<view>/*.bmp    slices; a DICOM volume of many frames may stand for all slices of a view

Masks lie in a folder that says so (`mask`, `label`, `gt` or `roi`: `FFDM_mask/a.bmp`,
`DBT/LCC/masks/a.bmp`, `masks/FFDM/a.bmp`), with their image's name or that name and `_mask`, or
as `a_mask.bmp` beside `a.bmp`. Of a volume `a.dcm` they are `a_1.bmp`, `a_2.bmp` ..., one for a
frame. A mask all zero says that there is nothing; an image without a mask is left out.

The domain is the innermost folder that is called FFDM or DBT. The patient is the header's patient
id, or else the first word that is one of a patient: in the folders above FFDM and DBT if there
are several such; in the folders below; in the file's name, of which in DBT the number at its end
is that of the slice. Views, sides, and words such as `case` and `slice` are no patients; words end
at whatever is no letter or digit. So `FFDM/012_LCC.bmp`, `FFDM/012/LCC.bmp`, `DBT/012_LCC/7.bmp`
and `DBT/LCC/case012_LCC_7.bmp` are two patients, `012` and `case012`. All files whose patient
cannot be told count as one, for their images might be of the same woman.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mln_flax.config import DataConfig
from mln_flax.data import disk
from mln_flax.data.core import (
    PROCESSING,
    Collection,
    Entry,
    Example,
    Index,
    LeftOut,
    Reading,
    Unusable,
    collections,
)
from mln_flax.data.readers import reader
from mln_flax.data.sets import pairs
from mln_flax.types import UserError

DOMAINS = ("ffdm", "dbt")
LABEL = "calcification"
UNNAMED = "unnamed"  # stands for the patient of all files that name none
MASK_WORDS = frozenset("mask masks label labels gt roi rois".split())
IMAGE_WORDS = frozenset("image images img imgs".split())
NO_PATIENT = IMAGE_WORDS.union(
    "ffdm dbt case cases patient pat subject id slice frame view".split(),
    "data train training test testing val validation left right l r".split(),
    "removed anonymous anonymized anon unknown none".split(),
)

_EXPECTED = "expected a folder with FFDM/ or DBT/: set --config.data.dir=FOLDER"
_VIEW = re.compile(r"(l|r|left|right)?(cc|mlo|ml|lm|lmo|xccl|xccm)(l|r|left|right)?\d*|view\d+")
_SIDES = {"l": "L", "left": "L", "r": "R", "right": "R"}
_SLICE = re.compile(r"(slice|frame|image|img|im|z)?\d+")


class Details(NamedTuple):
    """What `read` must know of an entry besides its files; "" is as the header says."""

    frame: int  # from 0
    laterality: str
    view_position: str


class _Place(NamedTuple):
    """What the path of a file tells."""

    path: Path
    name: str  # the same for an image and its mask
    is_mask: bool
    domain: str  # one of DOMAINS, or ""
    above: tuple[str, ...]  # words of the folders above that of the domain, in order
    below: tuple[str, ...]  # of that one and those below it
    stem: tuple[str, ...]  # of the file's name


class _Image(NamedTuple):
    """An image file that can be read, with its header."""

    place: _Place
    header: reader.Header


@collections.register("ffdm_dbt")
def ffdm_dbt() -> Collection:
    """The collection of mammograms and tomosynthesis slices."""
    return Collection(index, read)


def index(data: DataConfig) -> Index:
    """The images that have a mask, by domain; the slices and frames of a volume follow each other.

    Raises:
      UserError: there is no folder, no image in FFDM or DBT, or `data.label` is "cluster".
    """
    if data.label not in ("", LABEL):
        raise UserError(f"data.label={data.label!r}: the masks of ffdm_dbt show {LABEL}s")
    root = pairs.open_folder(data.dir, _EXPECTED)
    pictures = pairs.images(root)
    places = [_place(path, root) for paths in pictures.by_stem.values() for path in paths]
    if not any(place.domain for place in places):
        raise UserError(f"data.dir={data.dir!r} holds no image below FFDM/ or DBT/; {_EXPECTED}")
    images, left_out = _images([place for place in places if not place.is_mask])
    masks = defaultdict(list)
    for place in places:
        if place.is_mask:
            masks[place.name].append(place.path)
    frames = {name: image.header.frames for name, image in images.items()}
    known = pairs.Names(place.name for place in places if not place.is_mask)
    paired, orphans = pairs.pair(masks, known, frames)
    left_out += [*orphans, *pictures.absent]
    several = len({image.place.above for image in images.values()}) > 1
    entries: list[Entry] = []
    for name, image in sorted(images.items(), key=lambda item: _natural(item[0])):
        kept, reasons = _kept(image.header.frames, paired.get(name, {}))
        patient = _patient(image, several)
        for frame, mask in kept:
            key = f"{name}_{frame:03d}" if frame else name
            if frame and key in images:
                reasons.append(f"frame {frame} has the name of another image; rename that one")
            else:
                entries.append(_entry(key, image, frame, mask, patient))
        left_out += [LeftOut(str(image.place.path), reason) for reason in reasons]
    places += [_place(Path(item), root) for item, _ in pictures.absent]
    secrets = {patient_of(place, several) for place in places}.union(
        {entry.patient for entry in entries},
        *(image.header.secrets | {image.header.patient} for image in images.values()),
    )
    secrets = {secret for secret in secrets if secret.lower() not in NO_PATIENT | {"", UNNAMED}}
    return Index(tuple(entries), tuple(sorted(left_out)), frozenset(secrets))


def read(entry: Entry, data: DataConfig) -> Reading:
    """The image or frame of an entry, whole, with its mask.

    Raises:
      Unusable: a file cannot be read, or the mask has other than two values or another size,
        labels every pixel, or is inverted.
    """
    details: Details = entry.details
    mammogram = reader.read(Path(entry.files[0]), details.frame)
    frames = mammogram.header.frames
    mask = pairs.read_mask(entry.files[1], mammogram.image, frames)
    header = mammogram.header
    example = Example(
        image=mammogram.image,
        mask=mask,
        image_id="",
        patient_id="",
        domain=entry.domain,
        laterality=header.laterality or details.laterality,
        view_position=header.view_position or details.view_position,
        spacing_mm=header.spacing_mm,
        label_kind=LABEL if mask.any() else "none",
    )
    return Reading(example, mammogram.repaired)


def _place(path: Path, root: Path) -> _Place:
    """What a path below the data folder tells."""
    inside, folders, is_mask = path.relative_to(root), [], False
    for part in inside.parts[:-1]:
        # Also of one word: FFDMmask, DBTlabels.
        words = _words(re.sub(r"(mask|label)s?(?![^\W_])", r" \1", part.lower()))
        is_mask |= not MASK_WORDS.isdisjoint(words)
        folders.append([word for word in words if word not in MASK_WORDS | IMAGE_WORDS])
    stem = _words(pairs.stem(inside.name))
    if len(stem) > 1 and stem[-1] in MASK_WORDS:
        is_mask, stem = True, stem[:-1]
    # A folder with both words, such as FFDM-DBT, is neither.
    at = [n for n, words in enumerate(folders) if len({*words}.intersection(DOMAINS)) == 1]
    split = at[-1] if at else len(folders)
    domain = next(word for word in folders[split] if word in DOMAINS) if at else ""
    name = "/".join("_".join(words) for words in (*folders, stem) if words)
    above, below = sum(folders[:split], []), sum(folders[split:], [])
    return _Place(path, name, is_mask, domain, tuple(above), tuple(below), tuple(stem))


def _words(text: str) -> list[str]:
    """The words of a name in lower case; of one without letters and digits the name itself."""
    text = disk.spelled(text)  # or an accent of its own would part a word
    return re.findall(r"[^\W_]+", text.lower()) or [text]


def patient_of(place: _Place, several: bool, is_volume: bool = False) -> str:
    """The patient that a path names, UNNAMED if it names none.

    Args:
      place: of the file.
      several: whether there are several folders above those of the domains.
      is_volume: the file holds all slices, so that its name ends in the number of none.
    """
    stem = place.stem
    if place.domain == "dbt" and not is_volume and _SLICE.fullmatch(stem[-1]):
        stem = stem[:-1]
    words = (*(place.above if several else ()), *place.below, *stem)
    named = (word for word in words if word not in NO_PATIENT and not _VIEW.fullmatch(word))
    return next(named, UNNAMED)


def _patient(image: _Image, several: bool) -> str:
    stated = image.header.patient.strip().lower()
    if stated and stated not in NO_PATIENT:
        return stated
    return patient_of(image.place, several, image.header.frames > 1)


def _natural(name: str) -> list[str | int]:
    """A key that sorts slice 9 before slice 10; texts and numbers alternate in it."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if odd % 2 else part for odd, part in enumerate(parts)]


def _images(places: Sequence[_Place]) -> tuple[dict[str, _Image], list[LeftOut]]:
    """The images that can be read, by name, and the others."""
    by_name = defaultdict(list)
    for place in places:
        by_name[place.name].append(place)
    images, left_out = {}, []
    for name, group in by_name.items():
        try:
            if len(group) > 1:
                raise Unusable("several images have this name, and a mask fits one; rename them")
            if not group[0].domain:
                raise Unusable("lies neither below FFDM nor below DBT, so its domain is not known")
            images[name] = _Image(group[0], reader.header(group[0].path))
        except Unusable as reason:
            left_out += [LeftOut(str(place.path), str(reason)) for place in group]
    return images, left_out


def _kept(
    frames: int, masks: Mapping[int, Sequence[Path]]
) -> tuple[list[tuple[int, Path]], list[str]]:
    """Frames with their masks (from 1; WHOLE of a single one), and why others are not used."""
    numbers = range(1, frames + 1) if frames > 1 else (pairs.WHOLE,)
    kept = [(number, masks[number][0]) for number in numbers if len(masks.get(number, ())) == 1]
    reasons = []
    if frames > 1 and pairs.WHOLE in masks:
        reasons.append("a mask of the whole volume; name masks by frames: NAME_1, NAME_2 ...")
    if twice := sum(len(masks.get(number, ())) > 1 for number in numbers):
        which = f" of {twice} of {frames} frames" if frames > 1 else ""
        reasons.append(f"several masks{which}; keep one")
    if missing := sum(number not in masks for number in numbers):
        which = f" of {missing} of {frames} frames" if frames > 1 else ""
        reasons.append(
            f"no mask{which}, so nobody has said that there is nothing; draw it, or add one that "
            "is all zero"
        )
    return kept, reasons


def _entry(key: str, image: _Image, frame: int, mask: Path, patient: str) -> Entry:
    """The entry of an image, or of one of its frames, and its mask."""
    words = (*image.place.below, *image.place.stem)
    views = [match for word in words if (match := _VIEW.fullmatch(word)) and match[2]]
    sides = [side for match in views if (side := match[1] or match[3])]
    sides += [word for word in words if word in _SIDES]
    details = Details(
        frame=max(0, frame - 1),
        laterality=_SIDES[sides[0]] if sides else "",
        view_position=views[0][2].upper() if views else "",
    )
    domain = image.place.domain + (PROCESSING if image.header.for_processing else "")
    return Entry(key, patient, domain, "", (str(image.place.path), str(mask)), details)
