"""Imports point down only (the agreed order of the rooms), and heavy libraries come lazily."""

import ast
import pathlib
from typing import NamedTuple

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "mln_flax"

# From top to bottom: a room imports from the lines below its own, and no room beside it. Within a
# room files may import each other, as long as nothing goes in a circle.
ORDER = """
main
modes
experiments benchmark
engine
methods
results models data views
metrics
parallel settings config locks files registry types cpu
"""
GROUND = ORDER.split("\n")[-2].split()  # imports within the ground point to the right
# What all methods share. The others are methods, each reached by its name in the settings alone.
OF_ALL_METHODS = ("attribution", "core", "losses", "optimize", "validation")
LAZY = "tensorflow tensorflow_datasets clu pydicom highdicom matplotlib PIL torch".split()
NOT_IN_DATA = "jax jaxlib flax optax orbax".split()  # nor in what data imports


class Import(NamedTuple):
    """One imported module of one file."""

    file: str  # mln_flax.data.prepare.tiles
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
    name: -row for row, line in enumerate(ORDER.strip().splitlines()) for name in line.split()
}


def room(module):
    """`mln_flax.data.prepare.tiles` -> `data`; the package itself -> ''."""
    return (module.split(".") + [""])[1]


def is_allowed(found):
    importer, imported = room(found.file), room(found.module)
    if not importer:  # the package offers what is imported when it is asked for, but for flags
        return not found.at_import or imported == "cpu"
    if importer in GROUND and imported in GROUND:
        return GROUND.index(importer) < GROUND.index(imported)
    return importer == imported or HEIGHT[imported] < HEIGHT[importer]


def method(module):
    """`mln_flax.methods.mln.bank` -> `mln`; "" for what belongs to no single method."""
    parts = module.split(".")
    is_shared = len(parts) < 3 or parts[1] != "methods" or parts[2] in OF_ALL_METHODS
    return "" if is_shared else parts[2]


def test_every_file_has_its_place_in_the_order():
    assert {room(module) for module in MODULES} - set(HEIGHT) - {""} == set()


def test_imports_point_down_only():
    inside = [i for i in IMPORTS if i.module.split(".")[0] == "mln_flax" and room(i.module)]
    assert len(inside) > 50
    assert [str(found) for found in inside if not is_allowed(found)] == []


def test_a_method_is_reached_by_its_name_alone():
    wrong = [i for i in IMPORTS if method(i.module) not in ("", method(i.file))]
    assert [str(found) for found in wrong] == []


@pytest.mark.parametrize(
    ("file", "module", "allowed"),
    [
        ("main", "config", True),
        ("types", "config", False),
        ("settings", "config", True),
        ("data.prepare.tiles", "models.swin", False),
        ("models.swin", "models.norms", True),
        ("models.unet", "methods.losses", False),
        ("methods.supervised", "engine.train", False),
        ("results.report", "methods.core", False),
        ("results.report", "models.core", False),
        ("experiments.run", "modes", False),
        ("experiments.run", "benchmark.cost", False),
        ("engine.evaluate", "metrics.pixel", True),
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
