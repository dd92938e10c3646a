"""Where settings come from: a Python file, the command line, or a workdir's config.json."""

import ast
import dataclasses
import importlib.util
import json
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mln_flax.config import (
    AFTER_TRAINING,
    NETWORKS,
    Config,
    hints_of,
    marks,
    network_of_first_release,
)
from mln_flax.registry import Room, kind_of, nearest
from mln_flax.types import UserError

# Where the data lies, which may change as long as its content stays.
PLACES = frozenset({"data.dir", "data.prepared_dir", "data.also"})
# What a Python file of settings defines, and the modes that it is for.
FUNCTIONS = {
    "get_config": "--mode=train and the others of one run",
    "get_experiment": "--mode=experiment",
}
# Modules that config files of the first release import, by their names then.
MOVED = {"experiment_config": "experiments.core"}


def load_file(path: str) -> Config:
    """What `get_config()` of a Python file returns.

    Raises:
      UserError: there is no such file, or it does not give a Config.
    """
    config = load(path, "get_config")
    if not isinstance(config, Config):
        raise UserError(f"--config={path}: get_config() must return a mln_flax.config.Config")
    return config


def load(path: str, function: str) -> Any:
    """What one of FUNCTIONS in a Python file returns.

    Raises:
      UserError: there is no such file, it fails, or it defines another of FUNCTIONS instead.
    """
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        present = (
            sorted(f for f in os.listdir(folder) if f.endswith(".py"))
            if os.path.isdir(folder)
            else []
        )
        raise UserError(
            f"--config={path}: no such file{nearest(os.path.basename(path), present)}"
            + (f"; in {folder}: {', '.join(present)}" if present else "")
        )

    def take(module: Any) -> Any:
        for other, modes in FUNCTIONS.items():
            if not hasattr(module, function) and hasattr(module, other):
                raise UserError(f"--config={path}: defines {other}(), which is for {modes}")
        return getattr(module, function)()

    return from_python(path, f"--config={path}", take)


def from_python(path: str, flag: str, take: Callable[[Any], Any]) -> Any:
    """What `take` finds in the module that a user's Python file is.

    Raises:
      UserError: it is no Python file, or it or `take` fails; `flag` says where the path stands.
    """
    spec = importlib.util.spec_from_file_location("mln_flax_users_file", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{flag}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return take(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's file may do
        raise UserError(f"{flag}: {type(error).__name__}: {error}{_moved(error)}") from error


def _moved(error: BaseException) -> str:
    """Where that stands now which a file of the first release fails to import."""
    names = [name for name in MOVED if isinstance(error, ImportError) and name in str(error)]
    return "".join(f"; it is mln_flax.{MOVED[name]} now" for name in names)


def override_all(config: Any, texts: Mapping[str, str]) -> Any:
    """The settings with several changed, as `override` changes one.

    The names of a network and a method come first, wherever they stand: the others are of theirs.
    """
    for path in choices_first(texts):
        config = override(config, path, texts[path])
    return config


def choices_first(paths: Iterable[str]) -> list[str]:
    """The paths, those that choose a group of settings before all others."""
    return sorted(paths, key=lambda path: not path.endswith(CHOICES))


CHOICES = ("model.name", "method.name")  # ends of the paths that choose a group of settings


def override(config: Any, path: str, text: str) -> Any:
    """The settings with one of them changed, as in `(config, "optim.learning_rate", "3e-4")`.

    Where a name chooses another network or method, what both know keeps its value.

    Raises:
      UserError: no such field (the nearest known name is given), or a value of another type.
    """
    return _replace(config, path.split("."), text, flag=f"--config.{path}")


def _replace(node: Any, parts: list[str], text: str, flag: str) -> Any:
    name, rest = parts[0], parts[1:]
    known = [f.name for f in dataclasses.fields(node)]
    if name not in known:
        raise UserError(
            f"{flag}: unknown setting {name!r}{nearest(name, known)}; known here: "
            + ", ".join(known)
        )
    value, hint = getattr(node, name), hints_of(type(node))[name]
    if dataclasses.is_dataclass(value):
        if not rest:
            inner = ", ".join(f.name for f in dataclasses.fields(value))
            raise UserError(f"{flag}: {name!r} is a group of settings; set one of {inner}")
        room = _room(hint)
        if room is not None and rest == ["name"]:
            return dataclasses.replace(node, **{name: _chosen(value, room, text, flag)})
        return dataclasses.replace(node, **{name: _replace(value, rest, text, flag)})
    if rest:
        raise UserError(f"{flag}: {name!r} is a value, it has no {'.'.join(rest)!r}")
    return dataclasses.replace(node, **{name: _parse(text, _plain(hint), flag)})


def _plain(hint: Any) -> Any:
    """The type alone."""
    return typing.get_args(hint)[0] if marks(hint) else hint


def _room(hint: Any) -> Room | None:
    """Where the name in a group of settings is looked up, if anywhere."""
    return next((mark for mark in marks(hint) if isinstance(mark, Room)), None)


def _kind(room: Room, name: str, flag: str) -> type:
    try:
        return kind_of(room, name).settings
    except UserError as error:
        raise UserError(f"{flag}={name}: {error}") from None


def _chosen(old: Any, room: Room, name: str, flag: str) -> Any:
    """The settings of another network or method, with those of the old that it allows too."""
    kind = _kind(room, name, flag)
    if isinstance(old, kind):
        return old
    hints, kept = hints_of(kind), {}
    for entry in dataclasses.fields(old):
        value = getattr(old, entry.name)
        if entry.name == "name" or entry.name not in hints:
            continue
        limits = [mark for mark in marks(hints[entry.name]) if callable(mark)]
        same = _plain(hints[entry.name]) == _plain(hints_of(type(old))[entry.name])
        if same and (value is None or not any(limit(value) for limit in limits)):
            kept[entry.name] = value
    return kind(**kept)


def _parse(text: str, hint: Any, flag: str) -> Any:
    """The value that a text stands for, of the field's type."""
    if isinstance(hint, types.UnionType):  # a value or None: as the preset says
        if text.lower() in ("none", ""):
            return None
        hint = typing.get_args(hint)[0]
    if hint is str:
        return text
    if hint is bool:
        words = {"true": True, "1": True, "false": False, "0": False}
        if text.lower() in words:
            return words[text.lower()]
        raise UserError(f"{flag}={text}: allowed are true and false")
    if typing.get_origin(hint) is tuple:
        return _parse_tuple(text, hint, flag)
    try:
        return hint(text)
    except ValueError:
        kind = {int: "a whole number", float: "a number"}[hint]
        raise UserError(f"{flag}={text}: must be {kind}") from None


def _parse_tuple(text: str, hint: Any, flag: str) -> tuple[Any, ...]:
    """`2,2,2`, `(2, 2, 2)` or `identity,bezier(0.3)`; nothing is the empty tuple."""
    kinds = typing.get_args(hint)
    if kinds[0] is str:
        return tuple(part.strip() for part in split_outside_brackets(text) if part.strip())
    try:
        value = ast.literal_eval(f"({text.strip('()[] ')},)") if text.strip("()[] ") else ()
        items = tuple(kinds[0](item) for item in value)
        if any(isinstance(item, bool | str) for item in value) or items != value:
            raise ValueError  # 2.5 is no depth; int() would cut it
    except (ValueError, SyntaxError, TypeError):
        raise UserError(f"{flag}={text}: must be numbers with commas between them") from None
    if len(kinds) == 2 and kinds[1] is not Ellipsis and len(items) != 2:
        raise UserError(f"{flag}={text}: must be two numbers")
    return items


def split_outside_brackets(text: str) -> list[str]:
    """The parts of a text between commas that stand in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested values, as config.json holds them."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested values as `section.name`."""
    if not isinstance(value, dict):
        return {prefix: value}
    flattened: dict[str, Any] = {}
    for name, item in value.items():
        flattened.update(flat(item, f"{prefix}.{name}" if prefix else str(name)))
    return flattened


def from_dict(values: dict[str, Any], kind: type = Config, where: str = "config.json") -> Any:
    """The settings that `to_dict` made plain; what is absent keeps its default.

    Raises:
      UserError: a field that is not known, or a value of another type.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: must be a group of settings, not {values!r}")
    if kind is Config:
        values = of_first_release(values)
    hints = hints_of(kind)
    fields = {}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"{where}: unknown setting {name!r}{nearest(name, hints)}")
        fields[name] = _typed(value, hints[name], f"{where}: {name}")
    return kind(**fields)


def _typed(value: Any, hint: Any, where: str) -> Any:
    """A plain value in its field's type: a list as a tuple, a whole number also for a float."""
    room, hint = _room(hint), _plain(hint)
    if room is not None:
        name = value.get("name") if isinstance(value, dict) else None
        if not isinstance(name, str):
            raise UserError(f"{where}: must be a group of settings with a name, not {value!r}")
        return from_dict(value, _kind(room, name, f"{where}: name"), where)
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = typing.get_args(hint)[0]
    if dataclasses.is_dataclass(hint):
        return from_dict(value, typing.cast(type, hint), where)
    kinds = typing.get_args(hint)
    if typing.get_origin(hint) is Mapping and isinstance(value, dict):
        return {name: _typed(item, kinds[1], f"{where}: {name}") for name, item in value.items()}
    if kinds and isinstance(value, list) and (kinds[1] is Ellipsis or len(value) == len(kinds)):
        return tuple(_typed(item, kinds[0], where) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    if kinds or type(value) is not hint:  # a bool is an int, but not here
        kind = str(hint) if kinds else hint.__name__
        raise UserError(f"{where}: must be of type {kind}, not {value!r}")
    return value


def read_json(path: Any) -> Config:
    """The settings in a workdir's config.json."""
    try:
        with open(path, encoding="utf-8") as file:
            return from_dict(json.load(file), where=str(path))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the settings of a run ({error})") from None


def differences(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines such as `optim.learning_rate: 0.001 -> 0.01` for what differs."""
    lines = []
    for name in sorted(set(before) | set(after)):
        a, b = before.get(name), after.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            lines.append(f"{prefix}{name}: {a} -> {b}")
    return lines


def after_training(node: Any, prefix: str = "") -> set[str]:
    """The paths of the settings that touch nothing trained: how it answers, what is measured."""
    paths = set()
    for entry in dataclasses.fields(node):
        path, value = f"{prefix}{entry.name}", getattr(node, entry.name)
        is_after = AFTER_TRAINING in marks(hints_of(type(node))[entry.name])
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            below = flat(to_dict(value), path)
            paths |= set(below) if is_after else after_training(value, f"{path}.")
        elif is_after:
            paths.add(path)
    return paths


def of_first_release(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run as they are now, where the first release wrote them.

    It knew the sizes of all networks at once, with 0 and () for "as the preset says", and kept
    the momentum of the running statistics with the method.
    """
    model, method = values.get("model", {}), values.get("method", {})
    if not isinstance(model, dict) or not isinstance(method, dict) or "momentum" not in method:
        return values
    model = {"name": "swin_unet"} | model | {"momentum": method["momentum"]}
    _kind(NETWORKS, model["name"], "model.name")  # is there
    model = network_of_first_release(**model)
    method = {name: value for name, value in method.items() if name != "momentum"}
    return values | {"model": model, "method": {"name": "mln"} | method}
