import copy
import itertools
import re

import numpy as np
import pytest

from mln_flax.metrics import pixel
from mln_flax.results import tables
from mln_flax.results.table_layout import Table
from mln_flax.types import UserError

BRANCHES = ["identity", "invert"]
NUMBERS = itertools.count()  # each image has its own
EMPTY = np.zeros((3, 4), np.uint8)
LESION = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], np.uint8)  # diagonal of the image: 5
HALF = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], np.uint8)  # DSC 2/3, HD 1, ASD 1/3


def image(domain, mask, predictions, chosen, spacing=(0.1, 0.1), **more):
    union, weighted = np.maximum(*predictions), np.minimum(*predictions)
    return {
        "kind": "image",
        "image_id": f"{domain}-{next(NUMBERS)}",
        "patient_id": "somebody",
        "domain": domain,
        "role": "source" if domain == "ffdm" else "target",
        "spacing_mm": spacing,
        "branches": BRANCHES,
        "selection": "image",
        "answer": "image",
        "distances": {"image": [float(chosen), 0.5], "cosine": [0.1, 0.2]},
        "chosen": {"image": chosen, "cosine": 0},
        "scores": {
            "branch": [pixel.image_scores(each, mask, spacing) for each in predictions],
            "union": pixel.image_scores(union, mask, spacing),
            "weighted": pixel.image_scores(weighted, mask, spacing),
        },
        **more,
    }


def view(name, branch, chosen, cosine=0):
    return {
        "kind": "view",
        "domain": "ffdm",
        "view": name,
        "branch": branch,
        "branches": BRANCHES,
        "selection": "image",
        "chosen": {"image": chosen, "cosine": cosine},
    }


RECORDS = [
    image("film", LESION, (HALF, EMPTY), 1),
    image("ffdm", LESION, (LESION, EMPTY), 0),
    image("ffdm", LESION, (HALF, LESION), 0),
    image("ffdm", EMPTY, (EMPTY, HALF), 1),
    image("ffdm", EMPTY, (EMPTY, HALF), 0),
    *(view("identity", 0, chosen) for chosen in (0, 0, 0, 1)),
    *(view("invert", 1, chosen) for chosen in (1, 1)),
]


def with_early(record, *wrong):
    """The record with early choices that differ from the full ones for some rules."""
    early = {rule: b ^ (rule in wrong) for rule, b in record["chosen"].items()}
    return record | {"chosen_early": early}


def rows(table):
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


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
        "chosen branch": "identity 3, invert 1",
    }
    assert film["DSC"] == "0.000" and film["Pr"] == "-" and film["HD mm"] == "0.50"
    assert film["empty b/p/r"] == "0/1/0" and film["chosen branch"] == "invert 1"
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


def test_every_selection_beside_each_other():
    table = tables.selection_table(RECORDS)
    assert table.columns == (
        *("domain", "n", "cosine", "image*", "union", "weighted"),
        *("only identity", "only invert", "best branch", "best of domain"),
    )
    source, film = rows(table)
    assert source["image*"] == "0.667"
    assert source["cosine"] == source["only identity"] == "0.917"  # 1, 2/3, 1, 1
    assert source["only invert"] == "0.250"
    assert source["union"] == "0.500"  # 1, 1, 0, 0
    assert source["weighted"] == "0.667"  # 0, 2/3, 1, 1
    assert source["best branch"] == "1.000" and source["best of domain"] == "0.917"
    assert film["best branch"] == film["best of domain"] == "0.667" and film["image*"] == "0.000"


@pytest.mark.parametrize(("way", "dsc"), [("union", "0.500"), ("weighted", "0.667")])
def test_all_branches_together_can_be_the_shipped_answer(way, dsc):
    records = [record | {"answer": way} for record in RECORDS]
    table = tables.results_table(records)
    source = rows(table)[0]
    assert source["DSC"] == dsc and source["chosen branch"] == f"{way} 4"
    assert table.title == f"Results (answer: {way})"
    columns = tables.selection_table(records).columns
    assert f"{way}*" in columns and "image" in columns and "image*" not in columns


def test_one_choice_for_a_domain_can_be_the_shipped_answer():
    """Sums of the source: [1, 2]; of the film: [1, 0.5]."""
    records = [record | {"answer": "image@domain"} for record in RECORDS]
    source, film = rows(tables.results_table(records))
    assert source["chosen branch"] == "identity 4" and source["DSC"] == "0.917"
    assert film["chosen branch"] == "invert 1" and film["DSC"] == "0.000"
    table = tables.selection_table(records)
    assert table.columns[2:7] == ("cosine", "image", "union", "weighted", "image@domain*")
    assert rows(table)[0]["image@domain*"] == "0.917" and rows(table)[0]["image"] == "0.667"


def test_older_records_name_the_rule_alone():
    older = copy.deepcopy(RECORDS)
    for record in older[:5]:
        del record["answer"], record["scores"]["weighted"]
    assert rows(tables.results_table(older)) == rows(tables.results_table(RECORDS))
    assert tables.results_table(older).title == "Results (answer: image)"
    assert "weighted" not in tables.selection_table(older).columns


def test_view_accuracy():
    cosine, shipped = rows(tables.view_accuracy_table(RECORDS))
    assert shipped == {"rule": "image*", "identity": "0.750", "invert": "1.000", "mean": "0.875"}
    assert cosine == {"rule": "cosine", "identity": "1.000", "invert": "0.000", "mean": "0.500"}


def test_choices_are_counted():
    views, domains = tables.choice_matrix(RECORDS, "image")
    assert views.rows == ("identity", "invert") and views.columns == tuple(BRANCHES)
    assert views.counts.tolist() == [[3, 1], [0, 2]] and views.expected == (0, 1)
    assert domains.rows == ("ffdm (source)", "film")
    assert domains.counts.tolist() == [[3, 1], [0, 1]]
    with pytest.raises(UserError, match="'nearest'.*known: cosine, image"):
        tables.choice_matrix(RECORDS, "nearest")


@pytest.mark.parametrize(
    "make",
    [tables.results_table, tables.kinds_table, tables.distance_table, tables.selection_table],
)
def test_without_images_there_is_no_table(make):
    with pytest.raises(UserError, match="no image was recorded"):
        make([])
    with pytest.raises(UserError, match="no image was recorded"):
        make(RECORDS[5:])


def test_without_views_there_is_no_view_accuracy():
    with pytest.raises(UserError, match="no view"):
        tables.view_accuracy_table(RECORDS[:5])


def test_records_of_two_models_are_refused():
    records = copy.deepcopy(RECORDS)
    records[0]["branches"] = ["upright", "inverted"]
    with pytest.raises(UserError, match="different models"):
        tables.selection_table(records)


def test_tables_change_nothing():
    before = copy.deepcopy(RECORDS)
    tables.results_table(RECORDS)
    tables.choice_matrix(RECORDS, "image")
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


def test_early_choices_are_compared_with_the_full_ones_by_domain():
    film, *source = RECORDS[:5]
    lines = [with_early(film, "cosine"), *map(with_early, source[:3])]
    lines.append(with_early(source[3], "cosine"))
    assert tables.early_agreement(lines) == {
        "cosine": {"ffdm (source)": 0.75, "film": 0.0},
        "image": {"ffdm (source)": 1.0, "film": 1.0},
    }
    table = tables.early_table([*lines, *RECORDS[5:]])
    assert table.columns == ("rule", "ffdm (source)", "film")
    assert table.rows == (("cosine", "0.750", "0.000"), ("image*", "1.000", "1.000"))


def test_older_records_have_no_early_choice():
    assert tables.early_agreement(RECORDS) == {}
    assert tables.early_table(RECORDS).rows == ()
