"""The notebook runs from top to bottom, stores no output, and holds no logic of its own."""

import ast
import pathlib

import pytest
import tiny

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOK = ROOT / "colab" / "quickstart.ipynb"
# A run of seconds: put behind the notebook's own settings.
SHORT = """
STEPS = {steps}
WORKDIR = {workdir!r}
OVERRIDES = {overrides!r}
"""


@pytest.fixture
def notebook():
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(NOTEBOOK, as_version=4)


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


def test_notebook_runs(notebook, tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    places = [i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", ())]
    assert len(places) == 1
    steps = tiny.SETTINGS["train.steps"]
    overrides = [f"--config.{name}={value}" for name, value in tiny.SETTINGS.items()]
    short = SHORT.format(steps=steps, workdir=str(tmp_path / "run"), overrides=overrides)
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
    printed = "".join(out.text for out in outputs["train"] if out.output_type == "stream")
    assert f"step {steps}/{steps}" in printed and "Results (selection: image)" in printed
    shown = [out.data for out in outputs["tables"] if out.output_type == "display_data"]
    page = "".join(data["text/html"] for data in shown)
    for text in ("Results (selection: image)", "ffdm (source)", "film", "View accuracy"):
        assert text in page
    assert "image/png" in outputs["phantoms"][0].data
    pictures = [out.data for out in outputs["pictures"] if "image/png" in out.get("data", {})]
    assert len(pictures) >= 3
