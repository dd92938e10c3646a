"""The page of one answered image: its view with what is marked, its clusters, and why."""

import html
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from mln_flax import files, settings
from mln_flax.results import answers_style, overlay, page, why_panel
from mln_flax.types import Record

_PICTURES = ("view", "marks", "thumbnail")  # which the page shows itself
_MAPS = {"disagreement": "Disagreement", "attribution": "Attribution"}
_LINKS = {
    "json": "JSON: all that was measured",
    "mask": "Mask (PNG, 0 and 255)",
    "probability": "Probability (16-bit PNG)",
    "seg": "Segmentation (DICOM)",
    "sr": "Report (DICOM SR)",
    "overlay": "Overlay (two panels)",
}
_ASSUMED = "The pixel spacing was assumed: lengths and areas in mm hold only if it is true."
_CLOSE_UP = 1.5  # side of a close-up, of its cluster's
_LEAST_PX = 48  # and at least so many pixels of the image


class Answer(NamedTuple):
    """What was marked in one image, or one frame of a volume, and where its files lie."""

    line: Record  # the image's JSON
    folder: PurePosixPath  # of its files, below the folder of answers
    stem: str

    @property
    def name(self) -> str:
        """The image's name as it was given, with its frame."""
        frames = self.line["frames"]
        which = f", frame {self.line['frame'] + 1} of {frames}" if frames > 1 else ""
        return f"{self.line['image']}{which}"

    @property
    def page(self) -> PurePosixPath:
        """The path of the image's page, below the folder of answers."""
        return self.folder / files.fitting(self.stem, "_page.html")

    @property
    def score(self) -> float:
        """The highest score of a cluster; 0 without one."""
        return max((cluster["score"] for cluster in self.line["clusters"]), default=0.0)

    @property
    def warnings(self) -> list[str]:
        """What the answer warns of."""
        return list(self.line["warnings"])


def content(
    answer: Answer, before: PurePosixPath | None, after: PurePosixPath | None, home: str
) -> str:
    """The page as HTML.

    Args:
      answer: of the image.
      before: the page of the image with the next higher score; None for the first.
      after: likewise, the next lower.
      home: the page that lists all images; all of them below the folder of answers.
    """
    line, name = answer.line, html.escape(answer.name)
    up = PurePosixPath(*[".."] * len(answer.folder.parts))
    ways = {"All images": home, "Previous": before, "Next": after}
    nav = "".join(
        f'<a href="{page.href(up / path)}">{text}</a>' if path else f"<span>{text}</span>"
        for text, path in ways.items()
    )
    notes = [*line["notes"], *([_ASSUMED] if line["spacing_from"] == "assumed" else [])]
    warnings = "".join(f'<p class="warned">{html.escape(w)}</p>' for w in line["warnings"])
    why = why_panel.panel(line["why"])
    body = (
        f'<header>\n<nav>{nav}</nav>\n<h1>{name}</h1>\n<p class="lead">'
        f"{html.escape(_lead(answer))}</p>\n{warnings}"
        f"{page.bullets(notes) if notes else ''}</header>\n<main>\n{_viewer(answer)}\n"
        + (f'<section id="why">\n<h2>Why this answer</h2>\n{why}\n</section>\n' if why else "")
        + f"<section>\n<h2>Files and facts</h2>\n{_facts(answer)}\n</section>\n</main>\n"
        '<footer class="note">Research use only; not a medical device.</footer>\n'
    )
    return page.document(answer.name, body, answers_style.IMAGE, answers_style.IMAGE_SCRIPT)


def size(line: Record) -> str:
    """`2600 × 2000 px of 0.1 mm`."""
    pixels = f"{line['height']} × {line['width']} px"
    if not line["spacing_mm"]:
        return f"{pixels}, pixel spacing unknown"
    down, across = line["spacing_mm"]
    each = f"{down:.3g} mm" if down == across else f"{down:.3g} × {across:.3g} mm"
    return f"{pixels} of {each}"


def _lead(answer: Answer) -> str:
    line = answer.line
    count = len(line["clusters"])
    count_text = f"{count} cluster{'' if count == 1 else 's'}" if count else "No cluster"
    best = f", highest score {answer.score:.2f}" if count else ""
    branch = line["facts"].get("branch")
    rule = line["facts"].get("answer")
    by = f" Answered by branch {branch}{f' (rule {rule})' if rule else ''}." if branch else ""
    source = f" ({line['spacing_from']})" if line["spacing_mm"] else ""
    return f"{count_text}{best}. {size(line)}{source}.{by}"


def _viewer(answer: Answer) -> str:
    """The view under its layers, which native controls switch; beside it the clusters."""
    names = answer.line["files"]
    if "view" not in names:
        return _clusters(answer) + page.paragraph("No pictures were written for this image.")
    maps = {name: label for name, label in _MAPS.items() if name in names}
    layers = {"marks": "Marks", **maps} if "marks" in names else maps
    boxes = "".join(
        f'<label><input type="checkbox" id="show-{name}"'
        f"{' checked' if name == 'marks' else ''}>{label}</label>"
        for name, label in layers.items()
    )
    ratio = _ratio(answer.line)
    spots = "".join(_spot(answer.line, cluster) for cluster in answer.line["clusters"])
    stack = _stack(answer, (*layers,), f"View of {answer.name}")
    return (
        '<section class="viewer">\n<div class="tools">'
        f'{boxes}<label><input type="checkbox" id="invert">Invert</label>'
        f'{answers_style.IMAGE_TOOLS}<a href="{page.href(names["view"])}">Full picture</a></div>\n'
        f'<div class="shown"><div class="stack" id="stack"{ratio}>{stack}{spots}</div>'
        f"{_legend(maps)}</div>\n"
        f'<div class="beside">\n{_clusters(answer)}\n</div>\n{_branches(answer)}\n</section>'
    )


def _ratio(line: Record) -> str:
    return f' style="--ratio:{line["width"] / line["height"]:.4f}"'


def _stack(answer: Answer, layers: Iterable[str], text: str, place: str = "") -> str:
    """The view and, over it, layers of the same size."""
    names = answer.line["files"]
    height, width = overlay.shown_size(answer.line["height"], answer.line["width"])
    kinds = {"view": "view", **{name: f"layer {name.split()[0]}" for name in layers}}
    return "".join(
        f'<img class="{kind}" src="{page.href(names[name])}" loading="lazy" '
        f'width="{width}" height="{height}"{place} '
        f'alt="{html.escape(text) if name == "view" else ""}">'
        for name, kind in kinds.items()
    )


def _spot(line: Record, cluster: Record) -> str:
    """A link in the view, at the place of a cluster, to what the page says of it."""
    top, left, bottom, right = _surround(cluster)
    height, width = line["height"], line["width"]
    shares = {
        "top": top / height,
        "left": left / width,
        "height": (bottom - top) / height,
        "width": (right - left) / width,
    }
    style = ";".join(f"{side}:{100 * share:.2f}%" for side, share in shares.items())
    number = cluster["number"]
    return (
        f'<a class="spot" id="spot-{number}" href="#cluster-{number}" style="{style}" '
        f'aria-label="Cluster {number}" title="Cluster {number}"></a>'
    )


def _surround(cluster: Record) -> tuple[float, float, float, float]:
    """Top, left, bottom, right of a cluster's outline."""
    if not cluster["outline"]:
        top, left, bottom, right = cluster["box"]
        return top, left, bottom, right
    rows, columns = zip(*cluster["outline"], strict=True)
    return min(rows), min(columns), max(rows) + 1, max(columns) + 1


def _legend(maps: Mapping[str, str]) -> str:
    if not maps:
        return ""
    return (
        '<p class="note legend">Maps: clear is zero, <span class="scale"></span> the largest '
        "values of this image; where a map has both signs, orange is for and blue against.</p>"
    )


def _clusters(answer: Answer) -> str:
    clusters = answer.line["clusters"]
    if not clusters:
        return '<h2>Clusters</h2><p class="none">Nothing was marked at this operating point.</p>'
    items = "\n".join(_cluster(answer, cluster) for cluster in clusters)
    return f'<h2>Clusters</h2>\n<ol class="clusters">\n{items}\n</ol>'


def _cluster(answer: Answer, cluster: Record) -> str:
    number = cluster["number"]
    own = [c for c in answer.line["calcifications"] if c["cluster"] == number]
    place = f"row {cluster['row_px']:.0f}, column {cluster['column_px']:.0f}"
    if cluster.get("row_mm") is not None:
        place += f" ({cluster['row_mm']:.1f}, {cluster['column_mm']:.1f} mm)"
    return (
        f'<li id="cluster-{number}">{_close_up(answer, cluster)}<div>'
        f'<h3><a href="#spot-{number}">Cluster {number}</a></h3>'
        f'<p class="score"><b>{page.number(cluster["score"])}</b>'
        f'<span class="full"><span style="width:{100 * cluster["score"]:.1f}%"></span></span></p>'
        f"<p>{cluster['count']} calcifications, {page.number(cluster['extent_mm'], 1)}&nbsp;mm "
        f"across, {page.number(cluster['area_mm2'], 1)}&nbsp;mm²</p>"
        f'<p class="facts">{place}</p>{_calcifications(own)}</div></li>'
    )


def _close_up(answer: Answer, cluster: Record) -> str:
    """A square window on the view around a cluster, by placing the same picture larger."""
    line = answer.line
    layers = [name for name in ("marks", *_MAPS) if name in line["files"]]
    if "view" not in line["files"]:
        return ""
    top, left, bottom, right = _surround(cluster)
    side = max(_CLOSE_UP * max(bottom - top, right - left), _LEAST_PX)
    top, left = (top + bottom - side) / 2, (left + right - side) / 2
    sides = {"width": line["width"], "height": line["height"], "top": -top, "left": -left}
    style = ";".join(f"{name}:{100 * value / side:.2f}%" for name, value in sides.items())
    place = f' style="{style}"'
    text = f"Close-up of cluster {cluster['number']}"
    return f'<div class="close-up">{_stack(answer, layers, text, place)}</div>'


def _calcifications(own: list[Record]) -> str:
    if not own:
        return ""
    rows = "".join(
        f"<tr><td class=number>{c['number']}</td><td class=number>{c['row_px']:.1f}</td>"
        f"<td class=number>{c['column_px']:.1f}</td>"
        f"<td class=number>{page.number(c['length_mm'])}</td>"
        f"<td class=number>{page.number(c['area_mm2'], 3)}</td>"
        f"<td class=number>{page.number(c['mean'])}</td>"
        f"<td class=number>{page.number(c['peak'])}</td></tr>"
        for c in own
    )
    heads = ("no.", "row", "column", "length, mm", "area, mm²", "mean", "peak")
    head = "".join(f'<th scope="col" class="number">{name}</th>' for name in heads)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return page.folded("Its calcifications", page.box(table, "table"))


def _branches(answer: Answer) -> str:
    """The probability of every branch that has a map, beside each other."""
    line = answer.line
    names = [name for name in line["files"] if name.startswith("branch ")]
    if not names:
        return ""
    chosen = line["facts"].get("branch")
    figures = []
    for name in names:
        branch = name.removeprefix("branch ")
        mark = " chosen" if branch == chosen else ""
        text = f"Probability by branch {branch}"
        figures.append(
            f'<figure class="branch-view{mark}">'
            f'<div class="stack"{_ratio(line)}>{_stack(answer, [name], text)}</div><figcaption>'
            f"{html.escape(branch)}{' (answered)' if mark else ''}</figcaption></figure>"
        )
    return (
        f'<div class="branches"><h2>Branches side by side</h2>\n<div class="row">'
        f'{"".join(figures)}</div>\n<p class="note">Probability of each branch over the view: '
        'clear is 0, <span class="scale"></span> 1; spots are shown larger than they are.</p></div>'
    )


def _facts(answer: Answer) -> str:
    line = answer.line
    names = {"json": f"{answer.stem}.json", **line["files"]}
    shown = [*_LINKS, *_PICTURES, *_MAPS]
    links = {
        _LINKS.get(name, f"{name[:1].upper()}{name[1:]} (picture)"): names[name]
        for name in (*(n for n in shown if n in names), *(n for n in names if n not in shown))
    }
    facts = {
        **line["facts"],
        "operating_point": line["operating_point"],
        "model_spacing_mm": line.get("model_spacing_mm"),
        "seconds": line.get("seconds"),
    }
    proof = {"hash": line.get("hashes", {}), "version": line.get("versions", {})}
    return (
        page.links(links)
        + page.definitions(
            {name: page.shown(v) for name, v in settings.flat(facts).items() if v is not None}
        )
        + page.folded(
            "Hashes and versions",
            page.definitions({name: page.shown(v) for name, v in settings.flat(proof).items()}),
        )
    )
