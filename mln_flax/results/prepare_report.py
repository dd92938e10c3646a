"""The report of prepared data: a page and a contact sheet, made from its own files alone."""

import collections
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mln_flax import files
from mln_flax.results import page, plots
from mln_flax.results.table_layout import Table
from mln_flax.types import UserError

PAGE = "report.html"
SHEET = "contact_sheet.png"
_FILES = ("prepare.json", "splits.json", "settings.json")
_MOST_LINES = 20  # of a list in the terminal
_MOST_OPEN = 20  # a longer list on the page is folded, reason by reason
_MOST_NAMED = 4  # sizes or spacings of a domain
_NUMBERS = re.compile(r"(?:[+-]?\w*\d\w*(?:\.\w+)*)+")  # and every other word with a digit in it
_AGAIN = "remove the folder and prepare it again"
_WHAT_TO_CHECK = (
    "Small copies of some images of every domain and part, labeled ones first. A thin blue line "
    "runs one pixel outside of each label. Are the lines where calcifications are, is every "
    "breast whole and alone, are the gray levels those of a mammogram?"
)
_IDS = (
    "Ids of images and patients are salted hashes, the same in all records of this data. Files "
    "are named below the data folder, with names and ids of patients replaced by hashes."
)

# Domain -> what `prepare.json` says of each of its images.
_Domains = Mapping[str, Sequence[Mapping[str, Any]]]


def write(folder: str | Path) -> Path:
    """The path of `report.html`, made anew from the files of a prepared folder.

    The page holds the contact sheet, which also lies beside it as `contact_sheet.png`. The same
    files give the same bytes. The page is written last, in one step.

    Raises:
      UserError: a file of the folder is missing, broken or lacks a field; or the folder cannot
        be written.
    """
    folder = Path(folder)
    for name in (*_FILES, "sheet.npz"):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing; {_AGAIN}")
    summary, splits, settings = (files.read_json(folder / name) for name in _FILES)
    sheet = plots.thumbnail_sheet(_read_sheet(folder / "sheet.npz"))
    try:
        content = _page(summary, splits, settings, sheet)
    except KeyError as error:
        raise UserError(f"{folder}: a file of it lacks the field {error}; {_AGAIN}") from None
    try:
        files.write_bytes(folder / SHEET, sheet)
        files.write_bytes(folder / PAGE, content.encode())
    except OSError as error:
        raise UserError(
            f"{folder}: the report cannot be written ({error.strerror}); make room, or make the "
            "folder writable"
        ) from None
    return folder / PAGE


def table(summary: Mapping[str, Any]) -> Table:
    """The counts of every domain and part, and of all: images, patients, tiles, label area.

    Args:
      summary: what `prepare.json` says.
    """
    totals = summary["totals"]
    columns = (
        *("domain", "part", "images", "patients", "tiles", "labeled tiles", "megapixels"),
        *("label pixels", "label mm2"),
    )
    rows = [(part["domain"], part["part"], *_cells(part)) for part in totals["parts"]]
    notes = []
    if sum(part["patients"] for part in totals["parts"]) > totals["patients"]:
        notes.append("A patient with images of several domains counts once in the total.")
    if 0 < totals["images_with_spacing"] < totals["images"]:
        notes.append(
            f"Label mm2 is of the {totals['images_with_spacing']:,} of {totals['images']:,} images "
            "whose spacing is known."
        )
    total = ("total", "", *_cells(totals))
    return Table("Prepared images", columns, (*rows, total), " ".join(notes))


def lines(summary: Mapping[str, Any]) -> list[str]:
    """What was left out and repaired, for a terminal: the commonest reasons first.

    Reasons that differ in their numbers only share a line.

    Args:
      summary: what `prepare.json` says.
    """
    totals = summary["totals"]
    return [
        *_counted_lines("left out", totals["left_out_by_reason"]),
        *_counted_lines("repaired", totals["repaired_by_reason"]),
    ]


def _read_sheet(path: Path) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Image and mask uint8 [h, w], title."""
    try:
        # Opened here: numpy leaves the file of a broken archive open.
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as stored:
            return [
                (stored[f"image{number}"], stored[f"mask{number}"], str(title))
                for number, title in enumerate(stored["title"])
            ]
    except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path}: cannot be read as thumbnails; {_AGAIN}") from None


def _page(
    summary: Mapping[str, Any], splits: Mapping[str, Any], settings: Mapping[str, Any], sheet: bytes
) -> str:
    totals = summary["totals"]
    lead = (
        f"{settings['name']}: {_count(totals['images'], 'image')} of "
        f"{_count(totals['patients'], 'patient')}, {totals['labeled_images']:,} with a label, cut "
        f"into {_count(totals['tiles'], 'tile')} of {settings['size']} x {settings['size']} "
        f"pixels. {_count(totals['left_out'], 'item')} left out, "
        f"{_count(totals['repaired'], 'image')} repaired."
    )
    known = {name: str(value) or "none" for name, value in settings.items()}
    sections = [
        ("Counts", table(summary).to_html()),
        ("Left out", _left_out(summary)),
        ("Repaired", _repaired(summary)),
        ("Contact sheet", page.figure(sheet, _WHAT_TO_CHECK)),
        ("Images", _images(summary["images"])),
        ("Split", _split(splits)),
        ("Settings", page.definitions(known)),
        ("About this page", page.paragraph(_IDS)),
    ]
    return page.page("Prepared mammograms", lead, sections)


def _left_out(summary: Mapping[str, Any]) -> str:
    entries = [(item["reason"], (item["file"],)) for item in summary["left_out"]]
    return _itemized(entries, ("file",), "reason") or page.paragraph("Nothing was left out.")


def _repaired(summary: Mapping[str, Any]) -> str:
    entries = [
        (line, (image["image_id"], image["domain"], image["part"]))
        for image in summary["images"]
        for line in image["repaired"]
    ]
    columns = ("image", "domain", "part")
    return _itemized(entries, columns, "repair") or page.paragraph("Nothing was repaired.")


def _itemized(
    entries: Sequence[tuple[str, tuple[str, ...]]], columns: tuple[str, ...], reason: str
) -> str:
    """Every item with its reason: one table, or where that is long one folded for each reason."""

    def listed(title: str, items: Iterable[tuple[str, tuple[str, ...]]]) -> str:
        # The reason first: a path may be so long that what follows is out of sight. Numbered,
        # because the first column is never wrapped.
        rows = [(str(n), why, *names) for n, (why, names) in enumerate(items, start=1)]
        return Table(title, ("", reason, *columns), tuple(rows)).to_html()

    if len(entries) <= _MOST_OPEN:
        return listed("One by one", entries) if entries else ""
    groups = _grouped(collections.Counter(why for why, _ in entries))
    folded = []
    for name, reasons in groups.items():
        items = [entry for entry in entries if entry[0] in reasons]
        folded.append(page.folded(f"{len(items):,} x {name}", listed("", items)))
    text = f"{len(entries):,} in all. Open a line to see them one by one."
    return page.paragraph(text) + "".join(folded)


def _counted_lines(what: str, counts: Mapping[str, int]) -> list[str]:
    groups = {name: sum(reasons.values()) for name, reasons in _grouped(counts).items()}
    shown = list(groups.items())[:_MOST_LINES]
    rest = list(groups.values())[_MOST_LINES:]
    more = [f"{what}: {sum(rest):,} more, for {_count(len(rest), 'other reason')}"] if rest else []
    none = [] if groups else [f"{what}: nothing"]
    return [*(f"{what}: {count:,} x {name}" for name, count in shown), *more, *none]


def _grouped(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Reasons that differ in numbers only under one name, the commonest first."""
    groups: dict[str, dict[str, int]] = {}
    for reason, count in counts.items():
        groups.setdefault(_NUMBERS.sub("...", reason), {})[reason] = count
    named = {
        next(iter(reasons)) if len(reasons) == 1 else name: reasons
        for name, reasons in groups.items()
    }
    return dict(sorted(named.items(), key=lambda item: (-sum(item[1].values()), item[0])))


def _images(images: Sequence[Mapping[str, Any]]) -> str:
    domains: dict[str, list[Mapping[str, Any]]] = {}
    for image in images:
        domains.setdefault(image["domain"], []).append(image)
    return _views(domains).to_html() + _labels(domains).to_html() + _sizes(domains).to_html()


def _views(domains: _Domains) -> Table:
    counts = {domain: collections.Counter(map(_view, group)) for domain, group in domains.items()}
    columns = sorted(set().union(*counts.values()))
    rows = [
        (domain, *(f"{per_view[view]:,}" for view in columns))
        for domain, per_view in counts.items()
    ]
    note = "Side and view of the images; ? where their files do not say it."
    return Table("Views", ("domain", *columns), tuple(rows), note)


def _view(image: Mapping[str, Any]) -> str:
    side, view = image["laterality"], image["view_position"]
    return f"{side or '?'} {view or '?'}" if side or view else "unknown"


def _labels(domains: _Domains) -> Table:
    rows = []
    for domain, group in domains.items():
        for kind in sorted({image["label_kind"] for image in group}):
            of_kind = [image for image in group if image["label_kind"] == kind]
            labeled = [image["label_pixels"] for image in of_kind if image["label_pixels"]]
            numbers = (len(of_kind), len(labeled), sum(image["objects"] for image in of_kind))
            median = f"{np.median(labeled):,.0f}" if labeled else "-"
            rows.append((domain, kind, *(f"{number:,}" for number in numbers), median))
    header = ("domain", "label", "images", "with label", "abnormalities", "median px")
    note = (
        "A calcification is labeled pixel by pixel, a cluster as a whole: their scores cannot be "
        "compared. Median px: label pixels of an image with a label."
    )
    return Table("Labels", header, tuple(rows), note)


def _sizes(domains: _Domains) -> Table:
    rows = []
    for domain, group in domains.items():
        sizes = [f"{image['height']}x{image['width']}" for image in group]
        spacings = [_spacing(image["spacing_mm"]) for image in group]
        ranges = (_range([image[side] for image in group]) for side in ("height", "width"))
        rows.append((domain, *ranges, _commonest(sizes), _commonest(spacings)))
    header = ("domain", "height px", "width px", "sizes (images)", "spacing mm (images)")
    note = "Sizes are height and width, spacings row and column."
    return Table("Sizes and spacings", header, tuple(rows), note)


def _range(lengths: Sequence[int]) -> str:
    low, high = min(lengths), max(lengths)
    return str(low) if low == high else f"{low} to {high}"


def _spacing(spacing_mm: Sequence[float] | None) -> str:
    return "{:.4g}x{:.4g}".format(*spacing_mm) if spacing_mm else "unknown"


def _commonest(names: Iterable[str]) -> str:
    """`a (12), b (3) and 5 others (7)`."""
    counts = collections.Counter(names)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = ordered[_MOST_NAMED:]
    text = ", ".join(f"{name} ({count:,})" for name, count in ordered[:_MOST_NAMED])
    others = f" and {_count(len(rest), 'other')} ({sum(count for _, count in rest):,})"
    return text + (others if rest else "")


def _split(splits: Mapping[str, Any]) -> str:
    shares = ", ".join(f"{part} {share:g}" for part, share in splits["shares"].items())
    patients = ", ".join(f"{part} {len(ids):,}" for part, ids in splits["parts"].items())
    text = (
        "By patient: all images of a patient are in one part. The second hash is of the same split "
        "by the collection's own patient ids: it does not depend on the salt of the ids."
    )
    known = {
        "patients": patients,
        "seed": str(splits["seed"]),
        "shares": shares,
        "sha256": splits["sha256"],
        "archive sha256": splits["archive_sha256"],
    }
    return page.paragraph(text) + page.definitions(known)


def _cells(counts: Mapping[str, Any]) -> tuple[str, ...]:
    area = counts["label_area_mm2"]
    return (
        *(f"{counts[name]:,}" for name in ("images", "patients", "tiles", "labeled_tiles")),
        f"{counts['pixels'] / 1e6:,.1f}",
        f"{counts['label_pixels']:,}",
        "-" if area is None else f"{area:,.2f}",
    )


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
