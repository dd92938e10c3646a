"""What docs/answers.md says of settings, files and fields is what the code has."""

import ast
import dataclasses
import inspect
import re

import pytest
import tiny

from mln_flax.config import PredictConfig
from mln_flax.engine import answers
from mln_flax.results import answer_tables

DOCS = tiny.ROOT / "docs"
PAGE = (DOCS / "answers.md").read_text(encoding="utf-8")


def section(heading):
    """The text below a heading, up to the next of any level."""
    return re.split(r"\n#+ ", PAGE.split(f"\n{heading}\n")[1])[0]


def rows(text):
    """The cells of each row of the tables in a text, without heads."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def names(text):
    return re.findall(r"`([^`]+)`", text)


def written(value):
    """A setting as the command line takes it."""
    return str(value).lower() if isinstance(value, bool | str) else f"{value:g}"


def test_settings_have_their_names_and_defaults():
    shown = {
        names(name)[0]: default.strip("`") for name, default, *_ in rows(section("## Settings"))
    }
    known = {field.name: field.default for field in dataclasses.fields(PredictConfig)}
    assert shown == {name: written(default) for name, default in known.items()}


def test_fields_of_an_answer_are_listed():
    (returned,) = ast.parse(inspect.getsource(answers.record_of)).body[0].body[-1:]
    fields = [key.value for key in returned.value.keys]
    table = PAGE.split("**`STEM.json`**")[1].split("\n\n**")[0]
    assert [name for first, *_ in rows(table) for name in names(first)] == fields


def test_columns_of_the_tables_are_listed():
    for name, columns in (
        (answer_tables.CLUSTERS, answer_tables.CLUSTER_COLUMNS),
        (answer_tables.OBJECTS, answer_tables.OBJECT_COLUMNS),
    ):
        assert f"**`{name}`**: `{', '.join(columns)}`" in " ".join(PAGE.split())


def test_files_of_an_answer_are_listed():
    listed = {name for first, *_ in rows(section("## What is written")) for name in names(first)}
    endings = ("_probability.png", "_mask.png", "_overlay.png", "_seg.dcm", "_sr.dcm", ".json")
    assert {f"STEM{ending}" for ending in endings} <= listed
    source = inspect.getsource(answers)
    assert all(ending in source for ending in endings if ending != "_overlay.png")


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_links_lead_somewhere(page):
    """Files and headings on other pages too; addresses of the web are not asked."""
    for link in re.findall(r"\]\(([^)\s]+)\)", (DOCS / page).read_text(encoding="utf-8")):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = (DOCS / path).resolve() if path else DOCS / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {address(heading) for heading in headings}, link


def address(heading):
    """What a heading is linked by on GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
