"""Names that stand for files of a room or for functions, such as `unet` and `bezier(0.3)`."""

import ast
import difflib
import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from mln_flax.types import UserError


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint ` (did you mean X?)` for a mistyped name, or nothing where no name is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


class Room(NamedTuple):
    """A package in which a name is a file: `unet` is `models/unet.py`.

    Nothing is entered anywhere: a file belongs to the room by what it calls its `KIND`.
    """

    package: str  # mln_flax.models
    word: str  # what its names stand for, in messages: "network"


@functools.cache
def kinds(room: Room) -> dict[str, Any]:
    """Name -> the `KIND` of every file of a room that has one; of a folder that of `method.py`."""
    package = importlib.import_module(room.package)
    names = (module.name for module in pkgutil.iter_modules(package.__path__))
    by_name = {name: _kind(room, name) for name in names}
    return {name: kind for name, kind in by_name.items() if kind is not None}


def kind_of(room: Room, name: str) -> Any:
    """The `KIND` that a name of a room stands for; no other file of the room is imported.

    Raises:
      UserError: there is no such file; the nearest known name is given.
    """
    kind = _kind(room, name) if name.isidentifier() else None
    return entry(kinds(room), name, room.word) if kind is None else kind


def _kind(room: Room, name: str) -> Any:
    """The `KIND` of one file, or of the `method.py` of a folder; None where there is none."""
    path = f"{room.package}.{name}"
    spec = importlib.util.find_spec(path)
    if spec is not None and spec.submodule_search_locations is not None:
        path = f"{path}.method"
        spec = importlib.util.find_spec(path)
    return None if spec is None else getattr(importlib.import_module(path), "KIND", None)


class Registry:
    """A table from names to functions; `make` calls the one that a text such as `f(1, 2)` names."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Callable[..., Any]] = {}

    def __iter__(self):
        return iter(self._entries)

    def register(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """A decorator that enters a function under `name`; a name can be taken only once."""

        def enter(function: Callable[..., Any]) -> Callable[..., Any]:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = function
            return function

        return enter

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return entry(self._entries, name, self.kind)

    def make(self, text: str) -> Any:
        """What the function named in `text` returns; raises UserError as `call_named` does."""
        return call_named(self._entries, text, self.kind)


def call_named(known: Mapping[str, Callable[..., Any]], text: str, word: str) -> Any:
    """What the function returns that a text such as `f(1, 2)` names and gives literals to.

    Args:
      known: the functions by their names.
      text: what a user wrote.
      word: what such a function is, for messages.

    Raises:
      UserError: the name is unknown, or the arguments are not literals or do not fit.
    """
    name, parenthesis, _ = text.strip().partition("(")
    function = entry(known, name, word)
    arguments: list[Any] = []
    if parenthesis:
        try:
            call = ast.parse(text.strip(), mode="eval").body
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
                raise SyntaxError
            if call.keywords:
                raise SyntaxError
            arguments = [ast.literal_eval(argument) for argument in call.args]
        except (SyntaxError, ValueError):
            raise UserError(
                f"{word} {text!r}: arguments must be literals, as in {name}(0.3)"
            ) from None
    try:
        return function(*arguments)
    except TypeError:
        raise UserError(f"{word} {text!r}: wrong number or kind of arguments") from None


def entry(known: Mapping[str, Any], name: str, word: str) -> Any:
    """What a name stands for; raises UserError with the nearest known one where it is unknown."""
    if name not in known:
        raise UserError(f"unknown {word} {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return known[name]
