import dataclasses

import pytest

from mln_flax.config import METHODS, NETWORKS
from mln_flax.registry import Registry, Room, call_named, kind_of, kinds, nearest
from mln_flax.types import UserError


@pytest.fixture
def shapes():
    registry = Registry("shape")

    @registry.register("circle")
    def circle(radius=1.0, filled=False):
        return ("circle", radius, filled)

    @registry.register("square")
    def square(side):
        return ("square", side)

    return registry


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("circle", ("circle", 1.0, False)),
        ("circle()", ("circle", 1.0, False)),
        (" circle( 2 ) ", ("circle", 2, False)),
        ("circle(0.5, True)", ("circle", 0.5, True)),
        ("square((1, 2))", ("square", (1, 2))),
        ("square('a)b')", ("square", "a)b")),
        ("square(None)", ("square", None)),
    ],
)
def test_make_calls_the_named_function_with_its_literals(shapes, text, made):
    assert shapes.make(text) == made


@pytest.mark.parametrize(
    "text",
    [
        "square(x)",
        "square(open('f'))",
        "square(side=1)",
        "square(1",
        "square(",
        "square(1)2",
        "square(1)(2)",
        "square(,)",
        "square(1))",
    ],
)
def test_arguments_must_be_literals(shapes, text):
    with pytest.raises(UserError, match=r"^shape .*must be literals, as in square\(0\.3\)$"):
        shapes.make(text)


@pytest.mark.parametrize("text", ["square", "square()", "square(1, 2)"])
def test_arguments_must_fit(shapes, text):
    with pytest.raises(UserError, match="wrong number or kind of arguments"):
        shapes.make(text)


def test_an_unknown_name_gives_the_nearest_and_all_known(shapes):
    with pytest.raises(UserError) as error:
        shapes.make("sqare(1)")
    assert str(error.value) == (
        "unknown shape 'sqare' (did you mean 'square'?); known: circle, square"
    )
    with pytest.raises(UserError, match="^unknown shape 'zzz'; known: circle, square$"):
        shapes["zzz"]
    with pytest.raises(UserError, match="unknown shape ''"):
        shapes.make("")


def test_a_name_is_taken_once(shapes):
    with pytest.raises(ValueError, match="shape 'circle' is registered twice"):
        shapes.register("circle")(lambda: None)
    assert list(shapes) == ["circle", "square"]


def test_register_gives_the_function_back(shapes):
    def line():
        return "line"

    assert shapes.register("line")(line) is line
    assert shapes["line"] is line


def test_nearest_says_nothing_where_nothing_is_near():
    assert nearest("dice", ["dise", "loss"]) == " (did you mean 'dise'?)"
    assert nearest("dice", ["momentum"]) == nearest("dice", []) == ""


def test_functions_of_a_table_are_called_by_name():
    known = {"circle": lambda radius=1.0: ("circle", radius)}
    assert call_named(known, "circle(2)", "shape") == ("circle", 2)
    with pytest.raises(
        UserError, match=r"^unknown shape 'circel' \(did you mean 'circle'\?\); kno"
    ):
        call_named(known, "circel(2)", "shape")


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A package with a kind in a file, one in a folder, and a file that is none."""
    folder = tmp_path / "room_of_a_test"
    (folder / "deep").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "core": "KINDS = 3",
        "flat": "KIND = 'flat kind'",
        "deep/__init__": "KIND = 'is not looked at'",
        "deep/method": "KIND = 'deep kind'",
    }.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return Room("room_of_a_test", "thing")


def test_a_name_of_a_room_is_a_file_or_a_folder(room):
    assert kinds(room) == {"deep": "deep kind", "flat": "flat kind"}
    assert kind_of(room, "deep") == "deep kind"
    with pytest.raises(UserError) as error:
        kind_of(room, "flt")
    assert str(error.value) == "unknown thing 'flt' (did you mean 'flat'?); known: deep, flat"


@pytest.mark.parametrize("room", [NETWORKS, METHODS], ids=lambda room: room.word)
def test_the_settings_of_a_kind_name_its_file(room):
    for name, kind in kinds(room).items():
        first = dataclasses.fields(kind.settings)
        assert {entry.name: entry.default for entry in first}["name"] == name
        assert kind.settings().name == name  # without any value it is complete


def test_the_networks_and_methods_that_there_are():
    assert set(kinds(NETWORKS)) >= {"swin_unet", "unet"}
    assert set(kinds(METHODS)) >= {"mln", "supervised"}
