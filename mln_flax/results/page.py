"""Pieces of an HTML page that fetches nothing from anywhere."""

import base64
import html
import os
import pathlib
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mln_flax.results.study import Section

_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --ink: #1d2023; --soft: #5d646b; --line: #d9dcdf; --band: #f1f3f4;
  --link: #0b5c9c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16191c; --ink: #e3e6e8; --soft: #a2aab1; --line: #363c42; --band: #20252a;
    --link: #7ab8ec;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 78rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", "Helvetica Neue", sans-serif;
}
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 {
  font-size: 1.25rem; margin: 3rem 0 .8rem; padding-top: .8rem; border-top: 1px solid var(--line);
}
h3 { font-size: 1rem; margin: 1.8rem 0 .5rem; }
p, ul, dl { max-width: 52rem; }
.lead { color: var(--soft); margin: 0 0 1.2rem; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; font-size: .9rem; }
.table { overflow-x: auto; margin: 1.2rem 0 .5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { text-align: left; padding: .32rem .7rem; vertical-align: top; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
td:first-child, td.number { white-space: nowrap; }
td.long { overflow-wrap: anywhere; min-width: 16rem; }
.number { text-align: right; }
thead tr { border-bottom: 2px solid var(--line); }
tbody tr { border-bottom: 1px solid var(--line); }
tbody tr:hover { background: var(--band); }
.headline table { font-size: 1rem; }
.headline tbody tr:first-child { font-weight: 600; }
.note, figcaption { color: var(--soft); font-size: .85rem; margin: .3rem 0 0; max-width: 52rem; }
figure { margin: 1.2rem 0; }
figure img {
  display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 4px;
}
pre, code { font: .85rem/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
pre {
  background: var(--band); padding: .8rem 1rem; border-radius: 4px; white-space: pre-wrap;
  overflow-wrap: anywhere;
}
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.4rem; font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--link); font-size: .95rem; }
@media print { nav { display: none; } h2, figure, .table { break-inside: avoid; } }
"""


def page(title: str, lead: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole page from a title, a line below it, and (heading, HTML) sections with a list."""
    return document(
        title,
        f'<h1>{html.escape(title)}</h1>\n<p class="lead">{html.escape(lead)}</p>\n'
        f"{contents(sections)}\n{headed(sections)}\n",
    )


def document(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole page from the HTML of its body, with more style and a script of its own."""
    ending = f"<script>{script}</script>\n" if script else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n"
        f"{body}{ending}</body>\n</html>\n"
    )


def contents(sections: Sequence[tuple[str, str]]) -> str:
    """Links to the sections of a page, (heading, HTML) each."""
    links = "".join(
        f'<a href="#s{number}">{html.escape(heading)}</a>'
        for number, (heading, _) in enumerate(sections)
    )
    return f"<nav>{links}</nav>"


def headed(sections: Sequence[tuple[str, str]]) -> str:
    """The sections of a page under their headings, which `contents` links to."""
    return "\n".join(
        f'<section id="s{number}">\n<h2>{html.escape(heading)}</h2>\n{content}\n</section>'
        for number, (heading, content) in enumerate(sections)
    )


def section(part: Section) -> tuple[str, str]:
    """The heading of a section of records, and its pictures and tables as HTML."""
    figures = [figure(picture.png, picture.caption) for picture in part.pictures.values()]
    return part.title, "".join([*figures, *(table.to_html() for table in part.tables)])


def href(path: str | pathlib.PurePath) -> str:
    """A relative path as the address of a link: whatever a file's name holds is encoded."""
    return urllib.parse.quote(os.fsencode(pathlib.PurePath(path).as_posix()))


def links(names: Mapping[str, str | pathlib.PurePath]) -> str:
    """A list of links: text -> relative path."""
    items = (
        f'<li><a href="{href(path)}">{html.escape(text)}</a></li>' for text, path in names.items()
    )
    return f'<ul class="links">{"".join(items)}</ul>'


def number(value: Any, digits: int = 2) -> str:
    """A number as a page shows it; a dash for None, which JSON has for what is not defined."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:z,.{digits}f}"


def shown(value: Any) -> str:
    """A value of JSON in a few words."""
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) if value not in ("", None) else "none"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def heading(text: str) -> str:
    """A heading inside a section."""
    return f"<h3>{html.escape(text)}</h3>"


def bullets(texts: Iterable[str]) -> str:
    """A list of plain texts."""
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>"


def preformatted(text: str) -> str:
    """A block of text in a fixed-width font, as it is: a command, a log."""
    return f"<pre>{html.escape(text)}</pre>"


def definitions(items: Mapping[str, str]) -> str:
    """Names with their values in two columns."""
    return (
        "<dl>"
        + "".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
            for name, value in items.items()
        )
        + "</dl>"
    )


def folded(summary: str, content: str) -> str:
    """HTML content behind a line that opens it."""
    return f"<details><summary>{html.escape(summary)}</summary>\n{content}\n</details>"


def box(content: str, kind: str) -> str:
    """HTML content in a `<div>` of a class of the style sheet."""
    return f'<div class="{kind}">{content}</div>'


def figure(png: bytes, description: str) -> str:
    """A picture inside the page (a data URI) with its description below."""
    data = base64.b64encode(png).decode()
    text = html.escape(description)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )
