"""The notebooks run from top to bottom, store no output, and hold no logic of their own."""

import ast
import pathlib

import pytest
import tiny

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ("quickstart", "tables")
# A run of seconds: put behind the notebook's own settings.
SHORT = """
STEPS = {steps}
WORKDIR = {workdir!r}
OVERRIDES = {overrides!r}
PLAIN = {plain!r}
"""
UNET = {"model__name": "unet", "model__widths": "4"}  # compiles faster than the Swin-Unet


def read(name):
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(ROOT / "colab" / f"{name}.ipynb", as_version=4)


@pytest.fixture(params=NAMES)
def notebook(request):
    return read(request.param)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def without_magics(source):
    """The cell's Python: lines for IPython (%cd, !git) become `pass`."""
    lines = source.splitlines()
    bare = [line.lstrip() for line in lines]
    return "\n".join(
        line[: len(line) - len(text)] + "pass" if text.startswith(("%", "!")) else line
        for line, text in zip(lines, bare, strict=True)
    )


def test_notebook_is_well_formed_and_stores_no_output(notebook):
    import nbformat

    nbformat.validate(notebook)
    assert notebook.nbformat == 4
    for cell in code_cells(notebook):
        assert cell.outputs == [], cell.id
        assert cell.execution_count is None, cell.id


def test_notebook_holds_no_logic(notebook):
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.While, ast.Try)
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(without_magics(cell.source))):
            assert not isinstance(node, defined), f"{cell.id}: {ast.unparse(node)}"


def run(notebook, tmp_path, monkeypatch, overrides, plain=()):
    """The outputs of each code cell, after a run with a few settings of its own."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    places = [i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", ())]
    assert len(places) == 1
    steps = tiny.SETTINGS["train.steps"]
    short = SHORT.format(
        steps=steps, workdir=str(tmp_path / "run"), overrides=overrides, plain=list(plain)
    )
    notebook.cells.insert(places[0] + 1, nbformat.v4.new_code_cell(short))
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=300,
        resources={"metadata": {"path": str(ROOT)}},
    )
    client.execute()  # raises CellExecutionError where a cell fails
    outputs = {cell.id: cell.outputs for cell in code_cells(notebook)}
    assert outputs["install"] == []
    return outputs


def printed(outputs):
    return "".join(out.text for out in outputs if out.output_type == "stream")


def shown(outputs):
    """The HTML of the tables, and how many pictures there are."""
    data = [out.data for out in outputs if out.output_type == "display_data"]
    page = "".join(one.get("text/html", "") for one in data)
    return page, sum("image/png" in one for one in data)


def test_quickstart_runs(tmp_path, monkeypatch):
    overrides = [f"--config.{name}={value}" for name, value in tiny.values(UNET).items()]
    outputs = run(read("quickstart"), tmp_path, monkeypatch, overrides, plain=overrides)
    text = printed(outputs["train"])
    steps = tiny.SETTINGS["train.steps"]
    assert f"step {steps}/{steps}" in text and "Results (answer: polarity)" in text
    page, _ = shown(outputs["tables"])
    for text in ("Results (answer: polarity)", "ffdm (source)", "film", "View accuracy"):
        assert text in page
    assert "image/png" in outputs["phantoms"][0].data
    assert shown(outputs["pictures"])[1] == 1 + 3 + 4  # training, three rules, four domains
    assert "Results (answer" not in printed(outputs["plain"])
    page, _ = shown(outputs["plain"])
    assert "<caption>Results</caption>" in page and "ffdm (source)" in page


def test_tables_run(tmp_path, monkeypatch):
    few = {"rows": "Basenet,MLN-net", "sources": "ffdm", "domains": "ffdm,film", "seeds": "0"}
    base = {f"base.{name}": value for name, value in tiny.values(UNET).items()}
    overrides = [f"--config.{name}={value}" for name, value in (few | base).items()]
    outputs = run(read("tables"), tmp_path, monkeypatch, overrides)
    assert "2 runs in shard 1/1" in printed(outputs["run"])
    assert "All 2 runs are done." in printed(outputs["records"])
    page, _ = shown(outputs["tables"])
    for text in ("Trained on ffdm", "Basenet", "Parameters of the networks", "View accuracy of"):
        assert text in page
    assert shown(outputs["figures"])[1] == 1 and "a dot is a seed" in printed(outputs["figures"])
    assert "Comparison(difference=" in printed(outputs["compare"])
    assert r"\toprule" in printed(outputs["paper"]) and "Basenet,ffdm,0" in printed(
        outputs["paper"]
    )
