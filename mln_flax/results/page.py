"""Pieces of a self-contained HTML page: no script, nothing fetched from anywhere."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

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
    links = "".join(
        f'<a href="#s{number}">{html.escape(heading)}</a>'
        for number, (heading, _) in enumerate(sections)
    )
    body = "\n".join(
        f'<section id="s{number}">\n<h2>{html.escape(heading)}</h2>\n{content}\n</section>'
        for number, (heading, content) in enumerate(sections)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{html.escape(title)}</h1>\n<p class="lead">{html.escape(lead)}</p>\n'
        f"<nav>{links}</nav>\n{body}\n</body>\n</html>\n"
    )


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
