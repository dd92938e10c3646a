"""The page of a measurement on whole images: tables, the curve, and every place to look at."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mln_flax import files
from mln_flax.results import froc_tables, page, records
from mln_flax.types import Record

PAGE, NUMBERS, RECORDS, PICTURE = "index.html", "detection.json", "records.jsonl", "froc.png"
_STYLE = """
td { white-space: nowrap; }
.table table { font-size: .82rem; }
.table th, .table td { padding: .32rem .4rem; }
.places { display: grid; grid-template-columns: repeat(auto-fill, minmax(32rem, 1fr)); gap: 1rem; }
.places figure { margin: 0; break-inside: avoid; }
.places img { width: 100%; background: none; border: 0; border-radius: 2px; }
.places figcaption { max-width: none; line-height: 1.4; }
.places b { color: var(--ink); font-weight: 600; }
@media (max-width: 36rem) { .places { grid-template-columns: 1fr; } }
"""
_CROPS = (
    "Left the place as it is (bar: 5 mm), in the middle with its marks (orange: marked clusters; "
    "blue: the label), right where it lies in the image."
)


def write(
    folder: Path, lines: Sequence[Record], left_out: Sequence[Record], about: Mapping[str, Any]
) -> Path:
    """Writes records, numbers, tables as CSV, the picture and, last, the page; gives its path.

    Args:
      folder: for all; the crops that the records name lie in it.
      lines: of the images, one or more.
      left_out: `image` and `reason` of what is not counted.
      about: `command`, `warnings`.
    """
    records.write_whole(folder / RECORDS, lines)
    shown = froc_tables.tables(lines)
    detailed = {
        "curve": froc_tables.curve_table(lines),
        "images": froc_tables.image_table(lines),
        "clusters": froc_tables.place_table(lines),
    }
    for name, table in {**shown, **detailed}.items():
        files.write_bytes(folder / f"{name}.csv", table.to_csv().encode())
    numbers = {
        "rule": froc_tables.RULE,
        **about,
        "left_out": list(left_out),
        "results": froc_tables.numbers(lines),
    }
    files.write_json(folder / NUMBERS, numbers)
    png = froc_tables.picture(lines)
    files.write_bytes(folder / PICTURE, png)
    tables = "".join(table.to_html() for table in shown.values())
    sections = [
        ("Results", "".join([*map(page.paragraph, about["warnings"]), tables])),
        ("Curve", page.figure(png, froc_tables.RULE)),
        *_places(lines),
        ("Not counted", _not_counted(left_out)),
        ("Files", _files([*shown, *detailed], about["command"])),
    ]
    lead = (
        f"{len(lines)} images. Research use only: nothing here may be used to diagnose, to screen "
        "or to decide about a patient."
    )
    title = "Clusters found in whole images"
    body = (
        f'<h1>{title}</h1>\n<p class="lead">{html.escape(lead)}</p>\n'
        f"{page.contents(sections)}\n{page.headed(sections)}\n"
    )
    content = page.document(title, body, _STYLE)
    files.write_bytes(folder / PAGE, content.encode(errors="backslashreplace"))
    return folder / PAGE


def _places(lines: Sequence[Record]) -> list[tuple[str, str]]:
    """The sections of crops: missed, false, found, and what lies beside labeled clusters."""
    truths = [(line, truth) for line in lines for truth in line["truths"]]
    marks = [(line, mark) for line in lines for mark in line["clusters"] if not mark["hit"]]
    marks.sort(key=lambda each: -each[1]["score"])
    named = {
        "Missed clusters": [each for each in truths if not each[1]["hit"]],
        "False clusters": [each for each in marks if each[0]["detection"]["normal"]],
        "Found clusters": [each for each in truths if each[1]["hit"]],
        "Marks that find no label, on images with calcifications": [
            each for each in marks if not each[0]["detection"]["normal"]
        ],
    }
    return [(f"{name} ({len(some)})", _sheet(some)) for name, some in named.items()]


def _sheet(places: Sequence[tuple[Record, Record]]) -> str:
    """Cards with the crops of places, each an image's line and what lies there."""
    drawn = [(line, place) for line, place in places if place["crop"]]
    if not places:
        return page.paragraph("None.")
    cards = "".join(_card(line, place) for line, place in drawn)
    missing = len(places) - len(drawn)
    more = f" {missing} more, of lower scores in their images, are in clusters.csv alone."
    note = page.paragraph(_CROPS + (more if missing else ""))
    return note + f'<div class="places">{cards}</div>'


def _card(line: Record, place: Record) -> str:
    words = [f"at row {place['row_px']:.0f}, column {place['column_px']:.0f}"]
    words.append(f"{place['extent_mm']:.1f} mm")
    if "score" in place:
        words = [f"score {place['score']:.3f}", f"{place['count']} objects", *words]
    elif place["hit"]:
        scores = [m["score"] for m in line["clusters"] if m["number"] in place["found_by"]]
        words = [f"score {max(scores):.3f}", *words]
    else:
        words = [f"highest probability in it {page.number(place['peak'], 3)}", *words]
    caption = (
        f"<b>{html.escape(line['image'])}</b> #{place['number']}: {html.escape(', '.join(words))}"
        f"<br>{html.escape(line['image_id'])}"
    )
    if line["notes"]:
        caption += f"<br>{html.escape('; '.join(line['notes']))}"
    picture = f'<img loading="lazy" src="{page.href(place["crop"])}" alt="">'
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _not_counted(left_out: Sequence[Record]) -> str:
    if not left_out:
        return page.paragraph("Every image was counted.")
    all_names = page.bullets(f"{each['image']}: {each['reason']}" for each in left_out)
    return page.bullets(froc_tables.by_reason(left_out)) + page.folded("all by name", all_names)


def _files(tables: Sequence[str], command: str) -> str:
    names = [RECORDS, NUMBERS, PICTURE, *(f"{name}.csv" for name in tables)]
    return page.links({name: name for name in names}) + page.preformatted(command)
