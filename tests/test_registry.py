import pytest

from mln_flax.registry import Registry, nearest
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
