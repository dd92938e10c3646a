"""Tables of one run of MLN-net: how it chooses, and what every way to answer is worth."""

import copy
import json

import pytest
from some_records import BRANCHES, RECORDS, rows

from mln_flax.methods.mln import recorded, study
from mln_flax.methods.mln.settings import MlnSettings
from mln_flax.results import records, report, tables
from mln_flax.results.study import settled
from mln_flax.types import UserError


def with_early(record, *wrong):
    """The record with early choices that differ from the full ones for some rules."""
    early = {rule: b ^ (rule in wrong) for rule, b in record["chosen"].items()}
    return record | {"chosen_early": early}


def test_every_selection_beside_each_other():
    table = study.selection_table(RECORDS)
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


def of_first_release(record):
    """A record as the first release wrote it: the branches' scores are a list, nothing answers."""
    if record["kind"] != "image":
        return record
    scores = {"branch": [record["scores"][name] for name in BRANCHES]}
    scores |= {name: record["scores"][name] for name in ("union", "weighted")}
    return {n: v for n, v in record.items() if n != "answered_by"} | {"scores": scores}


def test_records_of_the_first_release_give_the_same_tables(tmp_path):
    path = tmp_path / "records.jsonl"
    older = [of_first_release(record) for record in RECORDS]
    for record in older[:5]:  # before there was another answer, the rule alone was named
        del record["answer"], record["scores"]["weighted"]
    records.write_whole(path, older)
    read = report.answered_records(tmp_path, study.STUDY, MlnSettings(selection="image"))
    for make in (tables.results_table, tables.kinds_table, study.view_accuracy_table):
        assert make(read) == make(RECORDS)
    assert "weighted" not in study.selection_table(read).columns
    records.write_whole(path, map(of_first_release, RECORDS))
    read = report.answered_records(tmp_path, study.STUDY, MlnSettings(selection="image"))
    assert read == json.loads(json.dumps(RECORDS))


def answered(**settings):
    """The records as a run with these settings leaves them."""
    settings = MlnSettings(**{"selection": "image"} | settings)
    way = {"answer": recorded.of_settings(settings)}
    lines = [line | way if line["kind"] == "image" else line for line in RECORDS]
    return settled(lines, study.STUDY, settings)


def test_one_choice_for_a_domain_can_be_the_shipped_answer():
    """Sums of the source: [1, 2]; of the film: [1, 0.5]."""
    lines = answered(level="domain")
    source, film = rows(tables.results_table(lines))
    assert source["answered by"] == "identity 4" and source["DSC"] == "0.917"
    assert film["answered by"] == "invert 1" and film["DSC"] == "0.000"
    table = study.selection_table(lines)
    assert table.columns[2:7] == ("cosine", "image", "union", "weighted", "image@domain*")
    assert rows(table)[0]["image@domain*"] == "0.917" and rows(table)[0]["image"] == "0.667"


@pytest.mark.parametrize(("way", "dsc"), [("union", "0.500"), ("weighted", "0.667")])
def test_all_branches_together_can_be_the_shipped_answer(way, dsc):
    lines = answered(answer=way)
    table = tables.results_table(lines)
    source = rows(table)[0]
    assert source["DSC"] == dsc and source["answered by"] == f"{way} 4"
    assert table.title == f"Results (answer: {way})"
    columns = study.selection_table(lines).columns
    assert f"{way}*" in columns and "image" in columns and "image*" not in columns


def test_view_accuracy():
    cosine, shipped = rows(study.view_accuracy_table(RECORDS))
    assert shipped == {"rule": "image*", "identity": "0.750", "invert": "1.000", "mean": "0.875"}
    assert cosine == {"rule": "cosine", "identity": "1.000", "invert": "0.000", "mean": "0.500"}


def test_choices_are_counted():
    views, domains = study.choice_matrix(RECORDS, "image")
    assert views.rows == ("identity", "invert") and views.columns == tuple(BRANCHES)
    assert views.counts.tolist() == [[3, 1], [0, 2]] and views.expected == (0, 1)
    assert domains.rows == ("ffdm (source)", "film")
    assert domains.counts.tolist() == [[3, 1], [0, 1]]
    with pytest.raises(UserError, match="'nearest'.*known: cosine, image"):
        study.choice_matrix(RECORDS, "nearest")


def test_without_views_there_is_no_view_accuracy():
    with pytest.raises(UserError, match="no view"):
        study.view_accuracy_table(RECORDS[:5])


def test_records_of_two_models_are_refused():
    lines = copy.deepcopy(RECORDS)
    lines[0]["branches"] = ["upright", "inverted"]
    with pytest.raises(UserError, match="different models"):
        study.selection_table(lines)


def test_early_choices_are_compared_with_the_full_ones_by_domain():
    film, *source = RECORDS[:5]
    lines = [with_early(film, "cosine"), *map(with_early, source[:3])]
    lines.append(with_early(source[3], "cosine"))
    assert study.early_agreement(lines) == {
        "cosine": {"ffdm (source)": 0.75, "film": 0.0},
        "image": {"ffdm (source)": 1.0, "film": 1.0},
    }
    table = study.early_table([*lines, *RECORDS[5:]])
    assert table.columns == ("rule", "ffdm (source)", "film")
    assert table.rows == (("cosine", "0.750", "0.000"), ("image*", "1.000", "1.000"))


def test_older_records_have_no_early_choice():
    assert study.early_agreement(RECORDS) == {}
    assert study.early_table(RECORDS).rows == ()


def test_without_images_there_is_no_table():
    with pytest.raises(UserError, match="no image was recorded"):
        study.selection_table(RECORDS[5:])


def test_a_page_shows_the_shipped_rule_beside_those_of_the_paper():
    choices, selections = study.sections(RECORDS)
    assert list(choices.pictures) == ["choices-image", "choices-cosine"]
    assert choices.tables == [study.view_accuracy_table(RECORDS)]  # no early choice was recorded
    assert selections.tables == [study.selection_table(RECORDS)]
    before = copy.deepcopy(RECORDS)
    study.headline(RECORDS)
    assert before == RECORDS
