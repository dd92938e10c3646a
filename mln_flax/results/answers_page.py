"""The pages of a folder of answers: a list of its images, and a page beside each image's files."""

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mln_flax import files, settings
from mln_flax.results import answers_style, image_page, page, records
from mln_flax.results.image_page import Answer
from mln_flax.results.study import Picture, Section
from mln_flax.types import Record, UserError

PAGE = "index.html"
_AGAIN = "give the images to --mode=predict again"
_RESEARCH = (
    "Research use only. This is not a medical device: nothing here may be used to diagnose, to "
    "screen or to decide about a patient."
)
_MOST_CLUSTERS = 3  # that the list shows of an image
_TABLES = {
    "clusters.csv": "clusters.csv: a row per cluster",
    "objects.csv": "objects.csv: a row per calcification",
    "predictions.jsonl": "predictions.jsonl: a line per image",
    "prediction.json": "prediction.json: what the folder was made with",
}


class _Stored(NamedTuple):
    """What a folder of answers holds, read."""

    answers: list[Answer]  # highest score first
    left_out: list[Record]  # `item` and `reason` of what could not be read
    about: Record  # prediction.json


def write(folder: str | Path, sections: Sequence[Section] = ()) -> Path:
    """The path of `index.html`, made anew from the files of a folder of answers alone.

    Beside each image's JSON lies its own page, `STEM_page.html`. The pages need no server, no
    network and no script; a script adds sorting, filters, contrast and a magnifier. They are
    written first, the list of them last.

    Args:
      folder: with `predictions.jsonl`, `prediction.json`, and every image's JSON and pictures.
      sections: what labels say of the answers (FROC, calibration, cases), as pictures and tables.

    Raises:
      UserError: a file is missing, broken, lacks a field, or lies outside of the folder.
    """
    folder = Path(folder)
    try:
        stored = _read(folder)
        names = [answer.page for answer in stored.answers]
        for answer, before, after in zip(
            stored.answers, [None, *names], [*names[1:], None], strict=False
        ):
            content = image_page.content(answer, before, after, PAGE)
            files.write_bytes(folder / answer.page, _encoded(content))
        content = _index(folder, stored, sections)
    except KeyError as error:
        raise UserError(f"{folder}: a file of it lacks the field {error}; {_AGAIN}") from None
    files.write_bytes(folder / PAGE, _encoded(content))
    return folder / PAGE


def examples(folder: str | Path, most: int = 4) -> Section:
    """The overlays of the images with the highest scores, for a report; no image is named.

    Raises UserError as `write` does.
    """
    folder = Path(folder)
    pictures = {}
    for number, answer in enumerate(_read(folder).answers[:most], start=1):
        if not answer.line["clusters"] or "overlay" not in answer.line["files"]:
            continue
        content = (folder / answer.folder / answer.line["files"]["overlay"]).read_bytes()
        caption = f"{_count(len(answer.line['clusters']), 'cluster')}, score {answer.score:.2f}"
        pictures[f"whole-{number:02}"] = Picture(content, caption)
    return Section("Whole images", pictures, ())


def operating_point(point: Mapping[str, Any]) -> str:
    """What an operating point promises, in words."""
    marked = f"probability above {page.number(point['threshold'], 3)}"
    if least := point.get("min_area_mm2"):
        marked += f", calcifications of {page.number(least, 3)} mm² or more"
    asked, reached, images = (point.get(name) for name in ("asked", "reached", "images"))
    if asked is None or reached is None or not images:
        return (
            "Not chosen on whole normal images: how many false clusters to expect is not known "
            f"({marked})."
        )
    more = " That is more than was asked for." if reached > asked else ""
    counted = "normal validation image" if point.get("counted_on") != "all" else "validation image"
    none = " None of them is normal." if point.get("counted_on") == "all" else ""
    return (
        f"At most {asked:g} false clusters per normal image were asked for; on "
        f"{_count(images, counted)} of the source there were "
        f"{reached:.3g} ({marked}).{more}{none}"
    )


def _encoded(content: str) -> bytes:
    # Bytes of a file's name that are no UTF-8 are shown as escapes.
    return content.encode(errors="backslashreplace")


def _read(folder: Path) -> _Stored:
    about = files.read_json(folder / "prediction.json")
    lines = records.read_whole(folder / "predictions.jsonl")
    left_out = list(about.get("left_out", ()))
    left_out += [
        {"item": line["image"], "reason": line["reason"]} for line in lines if "reason" in line
    ]
    answers = [_answer(folder, line) for line in lines if "reason" not in line]
    for page_path, count in Counter(answer.page for answer in answers).items():
        if count > 1:
            raise UserError(f"{folder}: {count} images would have the page {page_path}")
    answers.sort(key=lambda answer: (-answer.score, answer.line["image"], answer.line["frame"]))
    return _Stored(answers, left_out, about)


def _answer(folder: Path, line: Record) -> Answer:
    """An image's own JSON, with the place of its files."""
    path = PurePosixPath(line["image"])
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{folder}: predictions.jsonl names an image outside of it: {path}")
    names = line["files"]
    name = names.get("json") or f"{names['probability'].removesuffix('_probability.png')}.json"
    whole = files.read_json(folder / path.parent / name)
    return Answer(whole, path.parent, name.removesuffix(".json"))


def _index(folder: Path, stored: _Stored, sections: Sequence[Section]) -> str:
    tables = [name for name in _TABLES if (folder / name).is_file()]
    parts = [
        ("Images", _images(stored.answers)),
        *map(page.section, sections),
        *([("Not read", _left_out(stored.left_out))] if stored.left_out else []),
        ("How this was made", _provenance(stored)),
        ("Tables", page.links({_TABLES[name]: name for name in tables})),
    ]
    title = "Marked calcifications"
    head = "\n".join([_counts(stored), _model(stored), _points(stored.answers)])
    body = (
        f'<header>\n<h1>{title}</h1>\n<p class="research">{_RESEARCH}</p>\n{head}\n'
        f"{page.contents(parts)}\n</header>\n<main>\n"
        f"{page.headed(parts)}\n</main>\n"
    )
    return page.document(title, body, answers_style.LIST, answers_style.LIST_SCRIPT)


def _counts(stored: _Stored) -> str:
    lines = [answer.line for answer in stored.answers]
    # Frames of a volume are images; a cluster that goes through several counts once.
    clusters = {(line["image"], c["number"]) for line in lines for c in line["clusters"]}
    counts = {
        "files": len({line["image"] for line in lines}),
        "images": len(lines),
        "with clusters": sum(bool(line["clusters"]) for line in lines),
        "clusters": len(clusters),
        "with warnings": sum(bool(answer.warnings) for answer in stored.answers),
        "not read": len(stored.left_out),
    }
    items = "".join(
        f"<div><dt>{name}</dt><dd>{count:,}</dd></div>" for name, count in counts.items()
    )
    return f'<dl class="counts">{items}</dl>'


def _model(stored: _Stored) -> str:
    """Network, method, the beginning of the model's hash, and where its weights come from."""
    config = stored.about.get("config") or {}
    names = [(config.get(group) or {}).get("name") for group in ("model", "method")]
    hashes = {(answer.line.get("hashes") or {}).get("model") for answer in stored.answers}
    parts = [*names, *(f"hash {each[:12]}" for each in sorted(filter(None, hashes)))]
    parts.append(stored.about.get("weights"))
    text = html.escape(", ".join(map(str, filter(None, parts))))
    return f"<p><strong>Model.</strong> {text}.</p>" if text else ""


def _points(answers: Iterable[Answer]) -> str:
    points = dict.fromkeys(
        operating_point(answer.line["operating_point"]) for answer in answers
    )  # one, unless folders were put together
    return "".join(
        f"<p><strong>Operating point.</strong> {html.escape(point)}</p>" for point in points
    )


def _images(answers: Sequence[Answer]) -> str:
    if not answers:
        return page.paragraph("No image was answered.")
    entries = "\n".join(map(_entry, answers))
    return f'{answers_style.LIST_TOOLS}\n<ul class="images" id="images">\n{entries}\n</ul>'


def _entry(answer: Answer) -> str:
    line, address = answer.line, page.href(answer.page)
    name = html.escape(answer.name).replace("/", "/<wbr>")  # where a long path may break
    flags = "".join(f'<li class="{kind}">{html.escape(text)}</li>' for kind, text in _flags(answer))
    return (
        f'<li data-score="{answer.score:.4f}" data-clusters="{len(line["clusters"])}"'
        f' data-warnings="{len(answer.warnings)}">{_thumbnail(answer)}'
        f'<div><h3><a href="{address}">{name}</a></h3>'
        f'<p class="facts">{html.escape(image_page.size(line))}</p>'
        f'{_chips(answer)}<ul class="flags">{flags}</ul></div></li>'
    )


def _thumbnail(answer: Answer) -> str:
    name = answer.line["files"].get("thumbnail")
    if not name:
        return "<span></span>"
    height, width = answer.line["height"], answer.line["width"]
    factor = 128 / max(height, width)
    # The name beside it is the link for the keyboard.
    return (
        f'<a class="thumbnail" href="{page.href(answer.page)}" tabindex="-1">'
        f'<img src="{page.href(answer.folder / name)}" loading="lazy" decoding="async" '
        f'width="{max(1, round(width * factor))}" height="{max(1, round(height * factor))}" '
        f'alt="Thumbnail of {html.escape(answer.name)}"></a>'
    )


def _chips(answer: Answer) -> str:
    clusters = answer.line["clusters"]
    if not clusters:
        return '<p class="none">No cluster</p>'
    address = page.href(answer.page)
    chips = "".join(
        f'<li><a href="{address}#cluster-{cluster["number"]}">'
        f"<b>{page.number(cluster['score'])}</b> {cluster['count']} calc., "
        f"{page.number(cluster['extent_mm'], 1)} mm</a></li>"
        for cluster in clusters[:_MOST_CLUSTERS]
    )
    rest = len(clusters) - _MOST_CLUSTERS
    return f'<ol class="chips">{chips}{f"<li>and {rest} more</li>" if rest > 0 else ""}</ol>'


def _flags(answer: Answer) -> Iterable[tuple[str, str]]:
    """(class, text) of what else the list says of an image."""
    line = answer.line
    if branch := line["facts"].get("branch"):
        yield "plain", f"branch {branch}"
    if line["spacing_from"] == "assumed":
        yield "warning", "spacing assumed"
    if count := len(line["warnings"]):
        yield "warning", _count(count, "warning")


def _left_out(items: Sequence[Record]) -> str:
    return page.definitions({str(item["item"]): str(item["reason"]) for item in items})


def _provenance(stored: _Stored) -> str:
    about = {name: value for name, value in stored.about.items() if name != "left_out"}
    flat = {
        name: page.shown(value)
        for name, value in settings.flat(about).items()
        if value not in ("", None)
    }
    brief = {name: value for name, value in flat.items() if not name.startswith("config.")}
    rest = {name: value for name, value in flat.items() if name not in brief}
    return page.definitions(brief) + (
        page.folded("All settings", page.definitions(rest)) if rest else ""
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
