"""The report of a workdir: one self-contained page, a function of the workdir's files alone."""

import pathlib
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mln_flax import files, settings
from mln_flax.config import Config
from mln_flax.results import page, plots, records, tables, whole_section
from mln_flax.results.study import PLAIN, Section, Study, settled
from mln_flax.types import Record, UserError

# What the page is made of, and the mode that writes it.
_WRITTEN_BY = {
    "config.json": "train",
    "environment.json": "train",
    "data.json": "train",
    "train.jsonl": "train",
    "records.jsonl": "evaluate",
    "examples.npz": "evaluate",
}
_EXAMPLE_FIELDS = ("image", "mask", "prediction", "domain", "image_id", "answered_by", "dsc")
# Fields of the first release's files -> as they are called now.
_RENAMED = {"branch": "answered_by"}
_LIMITS = (
    "Research use. This is not a medical device: nothing here may be used to diagnose, to screen "
    "or to decide about a patient.",
    "The numbers hold for the images listed under Data and for one training run. Without several "
    "seeds a difference of a few hundredths of DSC means nothing.",
)
_PHANTOMS = (
    "Phantoms are drawn, not acquired. Results on them show that the method runs and how it "
    "answers a known shift; they say nothing about a clinic."
)
_CLUSTERS = (
    "The labels mark whole clusters, not single calcifications, on: {}. Their scores cannot be "
    "compared with those of domains whose calcifications are labeled pixel by pixel."
)
_VALIDATION = (
    "Validation is source data that training never sees; thin lines are its views. Nothing about "
    "a target selects anything."
)
_READING = (
    "DSC is the Dice coefficient, TPR the share of labeled pixels that were found, Pr the share "
    "of marked pixels that are labeled: 1 is best.",
    "HD is the largest distance from one boundary to the other, HD95 its 95th percentile (in each "
    "direction, then the larger), ASD the mean over both boundaries: 0 is best.",
    "Both masks empty: DSC 1 and distances 0. One mask empty: DSC 0 and distances equal to the "
    "image's diagonal, so a few such images move the mean distances a lot. The table of empty "
    "masks counts them, and gives the means without them.",
    "TPR has no meaning where the reference is empty, Pr none where the prediction is; such "
    "images are left out of that one mean.",
    "Every mean is over images, each with the same weight.",
)


class _Work(NamedTuple):
    """The files of a workdir, read."""

    config: dict[str, Any]
    environment: dict[str, Any]
    data: dict[str, Any]
    train: list[Record]
    records: list[Record]
    examples: dict[str, np.ndarray]
    sheet: dict[str, np.ndarray] | None
    sections: list[Section]  # of whole images, and what the method adds


def write(
    workdir: str | pathlib.Path,
    study: Study = PLAIN,
    method_settings: Any = None,
) -> pathlib.Path:
    """The path of `report/index.html`, made anew from the files of `workdir`.

    What only the run's method shows is handed in as its `study`, with the method's settings.

    The page holds its pictures; the same pictures lie beside it as PNG files. No patient or image
    is named in it. The page is replaced in one step, after everything it needs was made.

    Raises:
      UserError: a file is missing (says which mode makes it), broken, or lacks a field.
    """
    folder = pathlib.Path(workdir)
    try:
        work = _read(folder, study, method_settings)
        pictures = _pictures(work)
        content = _page(work, pictures)
    except KeyError as error:
        raise UserError(f"{folder}: a record or file lacks the field {error}") from None
    report = folder / "report"
    report.mkdir(exist_ok=True)
    for stale in report.glob("*.png"):
        if stale.stem not in pictures:
            stale.unlink()
    for name, png in pictures.items():
        files.write_bytes(report / f"{name}.png", png)
    files.write_bytes(report / "index.html", content.encode())
    return report / "index.html"


def answered_records(folder: pathlib.Path, study: Study, method_settings: Any) -> list[Record]:
    """The records of a workdir, each of an image with the map that answers for it."""
    lines = records.read_whole(folder / "records.jsonl")
    if all("answered_by" in line for line in lines if line["kind"] == "image"):
        return lines
    return settled(lines, study, method_settings)  # of the first release


def _read(folder: pathlib.Path, study: Study, method_settings: Any) -> _Work:
    for name, mode in _WRITTEN_BY.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: --mode={mode} makes it")
    sheet = folder / "sheet.npz"
    lines = answered_records(folder, study, method_settings)
    return _Work(
        config=files.read_json(folder / "config.json"),
        environment=files.read_json(folder / "environment.json"),
        data=files.read_json(folder / "data.json"),
        train=records.read(folder / "train.jsonl", tolerant=True),
        records=lines,
        examples=_arrays(folder / "examples.npz", _EXAMPLE_FIELDS),
        sheet=_arrays(sheet, ("image", "mask", "title")) if sheet.is_file() else None,
        sections=[*whole_section.sections(lines, folder), *study.sections(lines)],
    )


def _arrays(path: pathlib.Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        # Opened here: numpy leaves the file of a broken archive open.
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            stored = {_RENAMED.get(name, name): file[name] for name in file.files}
            return {name: stored[name] for name in names}
    except KeyError as error:
        raise UserError(f"{path}: has no {error}") from None
    except (OSError, TypeError, ValueError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path}: cannot be read as a file of arrays") from None


def _pictures(work: _Work) -> dict[str, bytes]:
    """Every picture of the page by the name of its file."""
    pictures = {"training": plots.training_curve(work.train)}
    for section in work.sections:
        pictures |= {name: picture.png for name, picture in section.pictures.items()}
    for name, index in _example_names(work).items():
        shown = (work.examples[field][index] for field in ("image", "mask", "prediction"))
        pictures[name] = plots.example(*shown)
    if work.sheet is not None:
        arrays = (work.sheet[field] for field in ("image", "mask", "title"))
        rows = [(image, mask, str(title)) for image, mask, title in zip(*arrays, strict=True)]
        pictures["sheet"] = plots.contact_sheet(rows)
    return pictures


def _example_names(work: _Work) -> dict[str, int]:
    """File name -> row of the examples; numbered, never named by image or patient."""
    slugs = (re.sub("[^A-Za-z0-9]+", "-", name).strip("-") for name in work.examples["domain"])
    return {f"example-{index + 1:02}-{slug}": index for index, slug in enumerate(slugs)}


def _page(work: _Work, pictures: Mapping[str, bytes]) -> str:
    data = work.config.get("data", {})
    images = [record for record in work.records if record["kind"] == "image"]
    domains = list(dict.fromkeys(record["domain"] for record in images))
    lead = f"{data.get('name', '?')}: trained on {data.get('source', '?')}, measured on "
    results = tables.results_table(work.records).to_html()
    sections = [
        ("Results", page.box(results, "headline")),
        ("What was trained", _trained(work)),
        (
            "Training",
            page.figure(pictures["training"], _VALIDATION),
        ),
        *map(page.section, work.sections),
        ("Examples", _examples(work, pictures)),
        ("Distances and empty masks", _details(work)),
        ("Data", _data(work)),
        ("Contact sheet", _sheet(pictures)),
        ("How to read the metrics", page.bullets(_READING)),
        ("Limits", page.bullets(_limits(work))),
    ]
    return page.page("Results", f"{lead}{', '.join(domains)}.", sections)


def _trained(work: _Work) -> str:
    environment = dict(work.environment)
    command = environment.pop("command", None)
    defaults = settings.flat(settings.to_dict(Config()))
    changed = {
        name: f"{page.shown(value)} (default {page.shown(defaults[name])})"
        if name in defaults
        else page.shown(value)
        for name, value in settings.flat(work.config).items()
        if name not in defaults or value != defaults[name]
    }
    shown = " ".join(command) if isinstance(command, list) else command
    everything = {name: page.shown(value) for name, value in settings.flat(work.config).items()}
    return "\n".join(
        [
            page.preformatted(str(shown)) if shown else "",
            page.heading("Settings that differ from the defaults"),
            page.definitions(changed) if changed else page.paragraph("None."),
            page.folded("All settings", page.definitions(everything)),
            page.heading("Environment"),
            page.definitions(
                {name: page.shown(value) for name, value in settings.flat(environment).items()}
            ),
        ]
    )


def _details(work: _Work) -> str:
    return (
        tables.kinds_table(work.records).to_html()
        + tables.distance_table(work.records).to_html()
        + (further.to_html() if (further := tables.further_table(work.records)).rows else "")
    )


def _examples(work: _Work, pictures: Mapping[str, bytes]) -> str:
    """Pictures per domain; a line number leads to the image's record without naming it."""
    lines = {
        record["image_id"]: number
        for number, record in enumerate(work.records, start=1)
        if record["kind"] == "image"
    }
    parts = []
    domain = None
    for name, index in _example_names(work).items():
        row = {
            field: work.examples[field][index] for field in ("domain", "image_id", "answered_by")
        }
        if row["domain"] != domain:
            domain = row["domain"]
            parts.append(page.heading(str(domain)))
        line = lines.get(str(row["image_id"]))
        where = f", line {line} of records.jsonl" if line else ""
        text = f"DSC {work.examples['dsc'][index]:.3f}, by {row['answered_by']}{where}"
        parts.append(page.figure(pictures[name], text))
    return "\n".join(parts) or page.paragraph("No example was kept.")


def _data(work: _Work) -> str:
    columns = ("domain", "part", "images", "patients", "label_pixels")
    rows = tuple(tuple(str(part[name]) for name in columns) for part in work.data["parts"])
    header = ("domain", "part", "images", "patients", "label pixels")
    left_out = Counter(entry["reason"] for entry in work.data.get("left_out", ()))
    counted = tuple((reason, str(count)) for reason, count in left_out.most_common())
    return "\n".join(
        [
            page.bullets(work.data.get("notes", ())),
            tables.Table("Parts", header, rows).to_html(),
            tables.Table(
                "Left out", ("reason", "items"), counted, "data.json names them."
            ).to_html()
            if counted
            else page.paragraph("Nothing was left out."),
        ]
    )


def _sheet(pictures: Mapping[str, bytes]) -> str:
    if "sheet" not in pictures:
        return page.paragraph("This workdir holds no contact sheet.")
    return page.figure(pictures["sheet"], "Images as the network sees them, labels outlined.")


def _limits(work: _Work) -> list[str]:
    phantoms = [_PHANTOMS] if work.config.get("data", {}).get("name") == "phantom" else []
    labels = (record for record in work.records if record.get("label_kind") == "cluster")
    domains = dict.fromkeys(record["domain"] for record in labels)
    return [*_LIMITS, *phantoms, *([_CLUSTERS.format(", ".join(domains))] if domains else [])]
