import copy
import re

import pytest
from some_records import EMPTY, HALF, LESION, RECORDS, image, rows

from mln_flax.results import tables
from mln_flax.results.table_layout import Table
from mln_flax.types import UserError


def test_the_headline():
    source, film = rows(tables.results_table(RECORDS))
    # Shipped scores: 1, 2/3, 0 (marked an empty image), 1 (both empty).
    assert source == {
        "domain": "ffdm (source)",
        "n": "4",
        "DSC": "0.667",
        "TPR": "0.750",  # 1 and 1/2; the empty references are left out
        "Pr": "0.667",  # 1, 1 and 0; the empty prediction is left out
        "HD mm": "0.15",  # 0, 0.1, 0.5, 0
        "ASD mm": "0.13",  # 0, 1/30, 0.5, 0
        "empty b/p/r": "1/0/1",
        "answered by": "identity 3, invert 1",
    }
    assert film["DSC"] == "0.000" and film["Pr"] == "-" and film["HD mm"] == "0.50"
    assert film["empty b/p/r"] == "0/1/0" and film["answered by"] == "invert 1"
    assert tables.results_table(RECORDS).title == "Results (answer: image)"


def test_one_image_without_spacing_makes_the_unit_pixels():
    records = [*RECORDS, image("film", LESION, (HALF, EMPTY), 0, spacing=None)]
    source, film = rows(tables.results_table(records))
    assert "HD mm" not in source
    assert source["HD px"] == "1.50" and film["HD px"] == "3.00"
    assert "HD px neither" in tables.kinds_table(records).columns
    distances = rows(tables.distance_table(records))[1]
    assert distances["HD px"] == "3.00" and distances["HD mm"] == "0.50"


def test_images_of_each_kind_are_counted():
    source, film = rows(tables.kinds_table(RECORDS))
    assert [source[name] for name in ("n", "neither empty", "both empty")] == ["4", "2", "1"]
    assert [source[name] for name in ("prediction empty", "reference empty")] == ["0", "1"]
    assert source["DSC with label"] == source["DSC neither"] == "0.833"
    assert source["HD mm neither"] == "0.05"
    assert film["DSC with label"] == "0.000" and film["DSC neither"] == "-"


@pytest.mark.parametrize(
    "make",
    [tables.results_table, tables.kinds_table, tables.distance_table],
)
def test_without_images_there_is_no_table(make):
    with pytest.raises(UserError, match="no image was recorded"):
        make([])
    with pytest.raises(UserError, match="no image was recorded"):
        make(RECORDS[5:])


def test_tables_change_nothing():
    before = copy.deepcopy(RECORDS)
    for make in (tables.results_table, tables.kinds_table, tables.distance_table):
        make(RECORDS)
    assert before == RECORDS


def test_text_is_aligned():
    table = Table("Title", ("name", "n"), (("a", "5"), ("long name", "12.5")), "A note.")
    assert table.to_text().splitlines() == [
        "Title",
        "name          n",
        "---------  ----",
        "a             5",
        "long name  12.5",
        "A note.",
    ]


def test_wide_text_is_wrapped_or_continued():
    many = ", ".join(f"bezier(0.{number}) {number}" for number in range(30))
    wrapped = Table("Title", ("domain", "n", "chosen"), (("ffdm", "3", many),))
    lines = wrapped.to_text().splitlines()
    assert max(map(len, lines)) <= 110 and len(lines) > 5
    assert all(line.rstrip(",")[-1].isdigit() for line in lines[3:])  # no name without its count
    columns = ("domain", *(f"column {number}" for number in range(20)))
    continued = Table("Title", columns, (("ffdm", *["1.000"] * 20),)).to_text()
    assert max(map(len, continued.splitlines())) <= 110
    assert continued.count("ffdm") > 1
    assert all(continued.count(f"{name} ") + continued.count(f"{name}\n") for name in columns)


def test_markdown_and_html():
    table = Table("A & B", ("name", "n"), (("a|b <i>", "5"),), "1 < 2")
    assert table.to_markdown().splitlines() == [
        "**A & B**",
        "",
        "| name | n |",
        "| --- | ---: |",
        "| a\\|b <i> | 5 |",
        "",
        "1 < 2",
    ]
    html = table.to_html()
    assert "<caption>A &amp; B</caption>" in html
    assert "<td>a|b &lt;i&gt;</td>" in html and '<td class="number">5</td>' in html
    assert "1 &lt; 2" in html


def test_latex_and_csv():
    rows = (("50% of a_b & {c}", "0.5 ± 0.1"), ('say "x, y"', "-"))
    table = Table("A #1", ("name", "DSC"), rows, r"1 < 2 ~ \x^2 $")
    assert table.to_latex().splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\caption{A \#1}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"name & DSC \\",
        r"\midrule",
        r"50\% of a\_b \& \{c\} & 0.5 $\pm$ 0.1 \\",
        r'say "x, y" & - \\',
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip\footnotesize 1 $<$ 2 \textasciitilde{} "
        r"\textbackslash{}x\textasciicircum{}2 \$",
        r"\end{table}",
    ]
    lines = table.to_csv().split("\n")
    assert lines == ["name,DSC", "50% of a_b & {c},0.5 ± 0.1", '"say ""x, y""",-', ""]


@pytest.mark.parametrize("cell", ["0.512 ± 0.013", "0.5", "<0.001", "-0.02 to +0.10", "2/3"])
def test_what_is_aligned_as_a_number(cell):
    assert '<td class="number">' in Table("", ("row", "x"), (("a", cell),)).to_html()
    assert '<td class="number">' not in Table("", ("row", "x"), (("a", f"{cell} x"),)).to_html()


def test_only_cells_with_a_path_may_break_anywhere():
    path = "folder/" * 10 + "1-1.dcm"
    cells = ("1", "a reason of many words " * 5, path, "9" * 60)
    html = Table("", ("", "reason", "file", "pixels"), (cells,)).to_html()
    assert re.findall(r'<td class="long">(.*?)</td>', html) == [path]
    assert html.count('class="number"') == 4  # two columns, with their heads


def plain(domain, mask, prediction, **more):
    """The record of an image that a network without branches has answered."""
    record = image(domain, mask, (prediction, prediction), 0, **more)
    scores = {"network": record["scores"]["identity"]}
    facts = ("branches", "selection", "answer", "distances", "chosen")
    kept = {name: value for name, value in record.items() if name not in facts}
    return kept | {"scores": scores, "answered_by": "network"}


def test_of_one_map_nothing_is_said_to_have_answered():
    table = tables.results_table([plain("ffdm", LESION, LESION), plain("film", LESION, HALF)])
    assert table.title == "Results" and "answered by" not in table.columns
    assert [row["DSC"] for row in rows(table)] == ["1.000", "0.667"]


def test_a_target_seen_without_labels_is_not_shown_as_unseen():
    unlabeled = {"unlabeled": ["film"]}
    lines = [plain(name, LESION, HALF, **unlabeled) for name in ("film", "ffdm", "dbt")]
    for make in (tables.results_table, tables.kinds_table, tables.distance_table):
        names = [row["domain"] for row in rows(make(lines))]
        assert names == ["ffdm (source)", "film (seen without labels)", "dbt"]
    note = "Training saw images of film without their labels: not unseen."
    assert note in tables.results_table(lines).note
    assert "without" not in tables.results_table([plain("ffdm", LESION, HALF)]).note


def test_operating_points_are_said():
    at = {"threshold": 0.4, "min_pixels": 3}
    note = tables.results_table([image("ffdm", LESION, (HALF, EMPTY), 0, **at)]).note
    assert "above 0.4, in objects of 3 pixels or more: both chosen on source validation" in note
