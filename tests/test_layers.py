"""Imports point down only (the agreed order of the rooms), and heavy libraries come lazily."""

import ast
import pathlib
from typing import NamedTuple

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "mln_flax"

# From top to bottom: a file may import what stands in a line below its own, a folder is one name,
# and names of one line do not import each other.
LAYERS = """
main
experiment
modes
train evaluate predict report prepare_report summary benchmark experiment_report
experiment_tables experiment_plots selection_tables
selection train_step
build source_bank growth speeds yardstick
methods input_pipeline checkpoint optim parallel metrics records tables table_layout plots page
models data views branches losses decision answers
experiment_config
settings
config files memory timing cost statistics
types registry
"""
GROUPS = {  # files that stand as one name and may import one another
    "views": ("views", "geometry", "jitter"),
    "input_pipeline": ("input_pipeline", "order"),
    "metrics": ("metrics", "surface"),
    "branches": ("branches", "image_rules", "image_features"),
    "experiment_config": ("experiment_config", "experiment_jobs"),
}
BESIDE = {  # the only imports within one line: who -> whom
    "evaluate": ("train",),
    "predict": ("evaluate",),
    "source_bank": ("build",),
    "speeds": ("build",),
    "benchmark": ("train",),
    "plots": ("tables",),
    "experiment_plots": ("experiment_tables",),
    "tables": ("table_layout",),
    "registry": ("types",),
    "checkpoint": ("parallel",),
}
LAZY = "tensorflow tensorflow_datasets clu pydicom highdicom matplotlib PIL torch".split()
NOT_IN_DATA = "jax jaxlib flax optax orbax".split()  # nor in what data imports


class Import(NamedTuple):
    """One imported module of one file."""

    file: str  # mln_flax.data.tiles
    module: str
    line: int
    at_import: bool  # runs as soon as the file is imported

    def __str__(self):
        return f"{self.file}:{self.line} imports {self.module}"


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def walk(node, at_import=True):
    """Every statement below a node, and whether it runs when the file is imported."""
    for child in ast.iter_child_nodes(node):
        deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            deferred = True
        yield child, at_import
        yield from walk(child, at_import and not deferred)


def imports_in(file, text):
    for node, at_import in walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are written in full"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in whole]
        else:
            continue
        for name in names:
            yield Import(file, name, node.lineno, at_import)


IMPORTS = [
    found
    for name, path in MODULES.items()
    for found in imports_in(name, path.read_text(encoding="utf-8"))
]
HEIGHT = {
    name: -row for row, line in enumerate(LAYERS.strip().splitlines()) for name in line.split()
}


def room(module):
    """`mln_flax.data.tiles` -> `data`, `mln_flax.geometry` -> `views`; the package itself -> ''."""
    name = (module.split(".") + [""])[1]
    return next((group for group, files in GROUPS.items() if name in files), name)


def is_allowed(found):
    importer, imported = room(found.file), room(found.module)
    return (
        importer == imported
        or imported in BESIDE.get(importer, ())
        or HEIGHT[imported] < HEIGHT[importer]
    )


def test_every_file_has_its_place_in_the_order():
    assert {room(module) for module in MODULES} - set(HEIGHT) - {""} == set()


def test_imports_point_down_only():
    inside = [i for i in IMPORTS if i.module.split(".")[0] == "mln_flax" and room(i.module)]
    assert len(inside) > 50
    assert [str(found) for found in inside if not is_allowed(found)] == []


@pytest.mark.parametrize(
    ("file", "module", "allowed"),
    [
        ("main", "config", True),
        ("types", "config", False),
        ("data.tiles", "models.swin", False),
        ("geometry", "views", True),
        ("models.swin", "models.norms", True),
        ("branches", "losses", False),
        ("train", "evaluate", False),
        ("evaluate", "train", True),
    ],
)
def test_the_rule_itself(file, module, allowed):
    assert is_allowed(Import(f"mln_flax.{file}", f"mln_flax.{module}", 1, True)) == allowed


def test_no_file_imports_itself_in_a_circle():
    edges = {name: {i.module for i in IMPORTS if i.file == name} & set(MODULES) for name in MODULES}
    while free := [name for name, below in edges.items() if not below & set(edges)]:
        for name in free:
            del edges[name]
    assert sorted(edges) == []


def test_heavy_libraries_are_imported_lazily():
    at_once = [i for i in IMPORTS if i.at_import and i.module.split(".")[0] in LAZY]
    assert [str(found) for found in at_once] == []


def test_data_knows_no_jax():
    reached = {name for name in MODULES if room(name) == "data"}
    while more := {i.module for i in IMPORTS if i.file in reached} & set(MODULES) - reached:
        reached |= more
    wrong = [i for i in IMPORTS if i.file in reached and i.module.split(".")[0] in NOT_IN_DATA]
    assert [str(found) for found in wrong] == []


def test_the_reader_sees_what_is_lazy():
    text = """
import jax
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from matplotlib.figure import Figure
try:
    import clu
except ImportError:
    pass
def draw():
    import PIL.Image
class A:
    import pydicom
"""
    seen = {i.module: i.at_import for i in imports_in("x", text)}
    assert seen == {
        "jax": True,
        "typing": True,
        "matplotlib.figure": False,
        "clu": True,
        "PIL.Image": False,
        "pydicom": True,
    }
