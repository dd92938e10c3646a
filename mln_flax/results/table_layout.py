"""A table of text cells, laid out for a terminal, as Markdown, HTML, LaTeX or CSV."""

import csv
import html
import io
import itertools
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mln_flax.results.statistics import mean_and_deviation

_WIDTH = 110  # of a terminal
_NARROWEST = 24  # the last column is not wrapped to less
_GAP = 2
_COUNTS = re.compile(r"\S+ \d+(, \S+ \d+)*")  # such as `identity 40, invert 8`
_LONG_WORD = re.compile(r"\S{40}")  # a path, which a browser would never break
_NUMBER = re.compile(r"-|[-+<]?\d[\d.,/%]*( (±|to) [-+]?\d[\d.]*)?")
_WIDE = 8  # columns; with more a LaTeX table is set small
_LATEX_NARROW = r"\scriptsize\setlength{\tabcolsep}{2pt}"
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


class Table(NamedTuple):
    """Cells as they are shown; the first column names the rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def to_text(self) -> str:
        """Aligned columns for a terminal; what is too wide is wrapped or continued below."""
        blocks = ["\n".join(_text_lines(self, part)) for part in _column_blocks(self)]
        note = [textwrap.fill(self.note, _WIDTH)] if self.note else []
        return "\n".join([self.title, "\n\n".join(blocks), *note])

    def to_markdown(self) -> str:
        """A Markdown table under its title in bold."""
        rule = ["---:" if _numeric(self, j) else "---" for j in range(len(self.columns))]
        lines = [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            for row in (self.columns, rule, *self.rows)
        ]
        return "\n\n".join([f"**{self.title}**", "\n".join(lines), *filter(None, [self.note])])

    def to_html(self) -> str:
        """A `<table>` with its title as caption and its note below; all text is escaped."""
        numeric = [_numeric(self, j) for j in range(len(self.columns))]

        def row(cells: Sequence[str], tag: str) -> str:
            body = "".join(
                f"<{tag}{_html_class(cell, number)}>{html.escape(_bound(cell))}</{tag}>"
                for cell, number in zip(cells, numeric, strict=True)
            )
            return f"<tr>{body}</tr>"

        rows = "\n".join(row(cells, "td") for cells in self.rows)
        note = f'<p class="note">{html.escape(self.note)}</p>' if self.note else ""
        return (
            f'<div class="table"><table>\n<caption>{html.escape(self.title)}</caption>\n'
            f"<thead>{row(self.columns, 'th')}</thead>\n"
            f"<tbody>\n{rows}\n</tbody>\n</table></div>\n{note}"
        )

    def to_latex(self) -> str:
        """A LaTeX table (package booktabs) with its title as caption and its note below."""
        columns = "".join("r" if _numeric(self, j) else "l" for j in range(len(self.columns)))
        header, *body = (" & ".join(map(_latex, row)) for row in (self.columns, *self.rows))
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(self.title)}}}",
            *([_LATEX_NARROW] if len(self.columns) > _WIDE else []),
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            rf"{header} \\",
            r"\midrule",
            *(rf"{row} \\" for row in body),
            r"\bottomrule",
            r"\end{tabular}",
            *([rf"\par\smallskip\footnotesize {_latex(self.note)}"] if self.note else []),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """The columns' names and the rows, with commas; neither title nor note."""
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows((self.columns, *self.rows))
        return buffer.getvalue()


def number(value: float, digits: int = 3) -> str:
    """A number as a cell shows it; a dash for what is not defined."""
    return f"{value:z.{digits}f}" if math.isfinite(value) else "-"


def spread(values: Iterable[float], digits: int = 3) -> str:
    """`0.512 ± 0.013`: mean and sample standard deviation; one value alone; of none a dash."""
    mean, deviation = mean_and_deviation(values)
    if not math.isfinite(deviation):
        return number(mean, digits)
    return f"{number(mean, digits)} ± {number(deviation, digits)}"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers only and is aligned to the right."""
    return bool(table.rows) and all(_NUMBER.fullmatch(row[column]) for row in table.rows)


def _html_class(cell: str, numeric: bool) -> str:
    """The attribute by which the style sheet knows a number, and a cell that may break anywhere."""
    if numeric:
        return ' class="number"'
    return ' class="long"' if _LONG_WORD.search(cell) else ""


def _widths(table: Table) -> list[int]:
    return [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]


def _column_blocks(table: Table) -> list[list[int]]:
    """Columns that fit beside each other; every block repeats the first one."""
    widths = _widths(table)
    if not _numeric(table, len(widths) - 1):
        widths[-1] = min(widths[-1], _NARROWEST)  # it is wrapped where it must be
    blocks, room = [[0]], _WIDTH - widths[0]
    for j in range(1, len(widths)):
        if room < widths[j] + _GAP and len(blocks[-1]) > 1:
            blocks.append([0])
            room = _WIDTH - widths[0]
        blocks[-1].append(j)
        room -= widths[j] + _GAP
    return blocks


def _text_lines(table: Table, part: list[int]) -> list[str]:
    """The header, a rule and the rows of some columns; the last one takes the room left."""
    widths = [_widths(table)[j] for j in part]
    room = _WIDTH - sum(width + _GAP for width in widths[:-1])
    widths[-1] = min(widths[-1], max(_NARROWEST, room))
    numeric = [_numeric(table, j) for j in part]

    def lines(row: Sequence[str]) -> list[str]:
        cells = [[row[j]] for j in part[:-1]] + [_wrapped(row[part[-1]], widths[-1])]
        return [
            (" " * _GAP).join(map(_aligned, texts, widths, numeric)).rstrip()
            for texts in itertools.zip_longest(*cells, fillvalue="")
        ]

    rule = (" " * _GAP).join("-" * width for width in widths)
    body = [line for row in table.rows for line in lines(row)]
    return [*lines(table.columns), rule, *body]


def _aligned(text: str, width: int, numeric: bool) -> str:
    return text.rjust(width) if numeric else text.ljust(width)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of a cell."""
    lines = textwrap.wrap(_bound(text), width, break_on_hyphens=False) or [""]
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _bound(text: str) -> str:
    """The text, with a list of counts bound so that a line ends only after a comma."""
    return re.sub("(?<!,) ", "\N{NO-BREAK SPACE}", text) if _COUNTS.fullmatch(text) else text
