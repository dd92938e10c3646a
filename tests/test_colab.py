"""The notebooks run from top to bottom, store no output, and hold no logic of their own."""

import ast
import pathlib
import zipfile

import boxes
import pytest
import tiny

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ("quickstart", "own_images", "detector", "tables")
STEPS = int(tiny.SETTINGS["train.steps"])
UNET = {"model__name": "unet", "model__widths": "4"}  # compiles faster than the Swin-Unet
# Whole phantoms of a tile or two, with some for the operating point.
PIXEL_MM = 0.8
COARSE = {
    "data.phantom.spacing_mm": str(PIXEL_MM),
    "data.phantom.whole_normal": "1",
    "data.phantom.whole_lesions": "1",
    "predict.attribution": "false",
}


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


@pytest.fixture(scope="module", autouse=True)
def _own_jupyter(tmp_path_factory):
    """Nothing of the user's Jupyter is read or written."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        yield


def run(notebook, **values):
    """The outputs of each code cell; the values stand behind the notebook's own settings."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    places = [i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", ())]
    assert len(places) == 1
    known = notebook.cells[places[0]].source
    assert all(f"{name} = " in known for name in values)
    short = "\n".join(f"{name} = {value!r}" for name, value in values.items())
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


def flags(changes):
    return [f"--config.{name}={value}" for name, value in changes.items()]


def printed(outputs):
    return "".join(out.text for out in outputs if out.output_type == "stream")


def shown(outputs):
    """The HTML of the tables, and how many pictures there are."""
    data = [out.data for out in outputs if out.output_type == "display_data"]
    page = "".join(one.get("text/html", "") for one in data)
    return page, sum("image/png" in one for one in data)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The workdir that the quickstart trained, its settings, and what its cells showed."""
    workdir = str(tmp_path_factory.mktemp("quickstart") / "run")
    overrides = flags(tiny.values(UNET) | COARSE)
    values = {"STEPS": STEPS, "WORKDIR": workdir, "OVERRIDES": overrides, "PLAIN": overrides}
    return workdir, overrides, run(read("quickstart"), PIXEL_MM=PIXEL_MM, **values)


def test_quickstart_runs(quickstart):
    _, _, outputs = quickstart
    text = printed(outputs["train"])
    assert f"step {STEPS}/{STEPS}" in text and "Results (answer: mixed by polarity)" in text
    page, _ = shown(outputs["tables"])
    for text in ("Results (answer: mixed by polarity)", "ffdm (source)", "film", "View accuracy"):
        assert text in page
    assert "image/png" in outputs["phantoms"][0].data
    assert shown(outputs["pictures"])[1] == 1 + 3 + 4  # training, three rules, four domains
    assert "image/png" in outputs["label"][0].data
    assert shown(outputs["answers"])[1] == 4  # of each machine
    assert "film, branch " in printed(outputs["answers"])
    assert "Results (answer" not in printed(outputs["plain"])
    page, _ = shown(outputs["plain"])
    assert "<caption>Results</caption>" in page and "ffdm (source)" in page


def test_own_images_without_images_or_a_model(quickstart, tmp_path):
    workdir, overrides, _ = quickstart
    phantoms, output = tmp_path / "phantoms", tmp_path / "answers"
    values = {"STEPS": STEPS, "DEMO": workdir, "OVERRIDES": overrides, "PIXEL_MM": PIXEL_MM}
    places = {"PHANTOMS": str(phantoms), "OUTPUT": str(output)}
    outputs = run(read("own_images"), **values, **places)
    assert "training: done already" in printed(outputs["model"])
    assert f"3 images in {phantoms}, the first is ffdm.png" in printed(outputs["images"])
    assert "image/png" in outputs["answer"][0].data
    assert "branch " in printed(outputs["facts"])
    assert "3 images answered" in printed(outputs["folder"])
    assert "<caption>clusters.csv</caption>" in outputs["table"][0].data["text/html"]
    page, _ = shown(outputs["page"])
    assert page.startswith("<div><iframe") and "data:image/png;base64" in page
    assert "src=&quot;ffdm" not in page  # every picture is inside
    with zipfile.ZipFile(f"{output}.zip") as archive:
        assert {"index.html", "clusters.csv", "film_mask.png"} <= set(archive.namelist())


def test_the_detector_answers_and_is_trained_further(plain_workdir, tmp_path):
    packed = boxes.pack(plain_workdir, tmp_path / "packed")
    network = {"model.name": "unet", "model.widths": "4", "train.steps": "2"}
    few = {"size": "32", "tiles.rows": "2", "tiles.columns": "2", "workers": "1"}
    changes = network | {f"data.{name}": value for name, value in few.items()}
    changes |= {"views.names": "identity", "train.batch_size": "2", "train.cache_compiled": "false"}
    places = {"WEIGHTS": packed, "OUTPUT": tmp_path / "out", "TUNED": tmp_path / "tuned"}
    values = {name: str(path) for name, path in places.items()} | {"DRAWN": str(tmp_path / "drawn")}
    sizes = {"PIXEL_MM": PIXEL_MM, "SIDE": 96}
    outputs = run(read("detector"), OVERRIDES=flags(changes), **values, **sizes)
    assert "2 images in" in printed(outputs["images"])
    assert "image/png" in outputs["answer"][0].data
    assert "weights of a packed model; probability above" in printed(outputs["facts"])
    assert "2 images answered" in printed(outputs["folder"])
    assert "10 images with masks in" in printed(outputs["labeled"])
    assert "parameters: 10 arrays taken as they are" in printed(outputs["tune"])
    assert str(packed) in printed(outputs["tune"]).splitlines()[-1]
    assert "weights of a workdir: " in printed(outputs["tuned"])
    assert "folder (source)" in printed(outputs["tuned"])


def test_tables_run(tmp_path):
    few = {"rows": "Basenet,MLN-net", "sources": "ffdm", "domains": "ffdm,film", "seeds": "0"}
    base = {f"base.{name}": value for name, value in tiny.values(UNET).items()}
    workdir = str(tmp_path / "run")
    outputs = run(read("tables"), WORKDIR=workdir, OVERRIDES=flags(few | base))
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
