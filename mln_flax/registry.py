"""Names with literal arguments, such as `bezier(0.3)`, that stand for objects."""

import ast
import difflib
from collections.abc import Callable, Iterable
from typing import Any

from mln_flax.types import UserError


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint ` (did you mean X?)` for a mistyped name, or nothing where no name is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


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
        if name not in self._entries:
            raise UserError(
                f"unknown {self.kind} {name!r}{nearest(name, self._entries)}; "
                f"known: {', '.join(self._entries)}"
            )
        return self._entries[name]

    def make(self, text: str) -> Any:
        """What the function named in `text` returns; its arguments must be literals.

        Raises:
          UserError: the name is unknown, or the arguments are not literals or do not fit.
        """
        name, parenthesis, rest = text.strip().partition("(")
        function = self[name]
        arguments: tuple[Any, ...] = ()
        if parenthesis:
            try:
                arguments = ast.literal_eval(f"({rest[:-1]},)") if rest[:-1].strip() else ()
                if not rest.endswith(")"):
                    raise SyntaxError
            except (SyntaxError, ValueError):
                raise UserError(
                    f"{self.kind} {text!r}: arguments must be literals, as in {name}(0.3)"
                ) from None
        try:
            return function(*arguments)
        except TypeError:
            raise UserError(f"{self.kind} {text!r}: wrong number or kind of arguments") from None
