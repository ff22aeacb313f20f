"""Tables from outside (TOML, JSON, `--set`) -> dataclasses, checked against the types of their fields.

The one converter: recipes and their passes, reports read back, plan files and model options all come
through here, so that a mistake is told in the same words wherever it was made.
"""

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from golfpack.errors import UsageError

T = TypeVar("T")
# What is wrong with a document that golfpack itself wrote.
EDITED = "it was edited, or another golfpack wrote it"
_WORDS = {
    tuple: "a list", list: "a list", Sequence: "a list", dict: "a table", str: "text",
    float: "a number", int: "an integer", bool: "true or false", Path: "a path", NoneType: "none",
}  # fmt: skip
# How much of a wrong value a message repeats.
_SHOWN = 60
# Seeds are below it: what draws by them adds to them, or wants 64 bits.
SEEDS = 1 << 32


def make(
    kind: type[T], options: Mapping[str, Any], what: str, hidden: frozenset[str] = frozenset()
) -> T:
    """`kind(**options)` for a frozen dataclass whose fields are options that people type.

    Lists become tuples where the field is one, and ints stand for floats.

    Args:
        what: for messages, such as "pass 'sense'".
        hidden: fields that are no options.

    Raises:
        UsageError: an unknown option (with near matches), one that is missing, a value of another type.
    """
    known = [name for name in _names(kind) if name not in hidden]
    for name in options:
        if name not in known:
            raise unknown_option(name, known, what)
    return _complete(kind, options, what, None)


def from_json(kind: type[T], data: Any, what: str, hint: str = EDITED) -> T:
    """A dataclass from a document that a program wrote. Keys that it does not have are passed over.

    Args:
        data: what `json.loads` gave.
        what: for messages, such as the file's name.
        hint: what to do about a document that is none.

    Raises:
        UsageError: a key is missing, or its value is of another type.
    """
    return _complete(kind, data, what, hint)


def options_of(kind: type, options: Mapping[str, Any], what: str, setting: str) -> dict[str, Any]:
    """Those of a dataclass's fields that were given, each of its field's type; texts are read as such.

    Args:
        what: whose they are, for messages: "the model".
        setting: how one is set, up to its name, for hints: "--set model.".

    Raises:
        UsageError: an unknown option (with near matches), or a value of another type.
    """
    hints, known = _hints(kind), _names(kind)
    for name in options:
        if name not in known:
            raise unknown_option(name, known, what)
    return {
        name: to_type(
            hints[name],
            _read(hints[name], value),
            f"{what}'s {name}",
            f"it takes {_described(hints[name])}: {setting}{name}={_example(kind, name)}",
        )
        for name, value in options.items()
    }


def parse_value(text: str) -> Any:
    """A value as typed on the command line: JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def to_type(hint: Any, value: Any, what: str, tell: str | None = None) -> Any:
    """`value` as the annotation `hint` has it.

    Args:
        what: for messages, where the value stands.
        tell: the hint of the error; None for the types that would do.

    Raises:
        UsageError: it is of another type.
    """
    kind: Any = get_origin(hint) or hint
    args = get_args(hint)
    value = _plain(kind, value)
    if kind in (Union, UnionType):
        return _first_of(hint, value, what, tell)
    if kind is Any or (kind is Literal and value in args):
        return value
    if is_dataclass(kind) and isinstance(kind, type):
        return value if isinstance(value, kind) else _complete(kind, value, what, tell)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is dict and isinstance(value, dict):
        each = args[1] if args else Any
        return {k: to_type(each, v, f"{what}.{k}", tell) for k, v in value.items()}
    if kind in (list, tuple, Sequence) and isinstance(value, list | tuple):
        each = args[0] if args else Any
        items = [to_type(each, v, f"{what}[{i}]", tell) for i, v in enumerate(value)]
        return tuple(items) if kind is tuple else items
    if kind is float and type(value) is int:
        return float(value)
    # TOML knows nan and inf. What a program wrote comes with a hint, and may have such figures.
    if kind is float and isinstance(value, float) and not isfinite(value) and tell is None:
        raise UsageError(f"{what} cannot be {value}", "it takes a finite number")
    # A bool is an int to Python, and to nobody who writes a file.
    if (
        isinstance(kind, type)
        and isinstance(value, kind)
        and (kind is bool or not isinstance(value, bool))
    ):
        return value
    raise UsageError(f"{what} cannot be {_shown(value)}", tell or f"it takes {_described(hint)}")


def _plain(kind: Any, value: Any) -> Any:
    """NumPy's numbers as Python's own; a path as text where a name or a glob would do."""
    if kind in (Path, str) and isinstance(value, os.PathLike):
        return os.fspath(value)
    numpys = type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0
    return value.item() if numpys else value


def _complete(kind: type[T], table: Any, what: str, tell: str | None) -> T:
    assert is_dataclass(kind)
    if not isinstance(table, Mapping):
        raise UsageError(f"{what} is not an object", tell)
    hints, values = _hints(kind), {}
    for f in fields(kind):
        if f.name in table:
            values[f.name] = to_type(hints[f.name], table[f.name], f"{what}: {f.name}", tell)
        elif f.default is MISSING and f.default_factory is MISSING:
            raise UsageError(f"{what} has no {f.name!r}", tell)
    return kind(**values)


def _first_of(hint: Any, value: Any, what: str, tell: str | None) -> Any:
    """`value` as the first type of a union that takes it."""
    choices = get_args(hint)
    if value == "none" and NoneType in choices and str not in choices:  # as one types it
        return None
    for choice in choices:
        try:
            return to_type(choice, value, what, tell)
        except UsageError as e:
            # An object of the right kind with a wrong key: that key is what the message is about.
            if isinstance(value, dict | list) and e.message.startswith(f"{what}:"):
                raise
    raise UsageError(f"{what} cannot be {_shown(value)}", tell or f"it takes {_described(hint)}")


def _read(hint: Any, value: Any) -> Any:
    """A text as the number or truth that its field asks for; anything else as it is."""
    if hint is str:
        return str(value) if type(value) is int else value  # "9" as an option that lists numbers
    if not isinstance(value, str):
        return value
    if hint in (int, float):  # such as ".5", which is no JSON
        with suppress(ValueError):
            return hint(value)
    return parse_value(value.lower() if hint is bool else value)


def _example(kind: type, name: str) -> str:
    """A field's default as one types it, where it has one."""
    default = next(f.default for f in fields(kind) if f.name == name)  # type: ignore[arg-type]
    if default is MISSING or default in ("", None):
        return "VALUE"
    return default if isinstance(default, str) else json.dumps(default)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _names(kind: type) -> list[str]:
    assert is_dataclass(kind)
    return [f.name for f in fields(kind)]


def unknown_option(name: str, known: Sequence[str], what: str) -> UsageError:
    """The error for an option that nobody knows, with those it may have meant."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    meant = " or ".join(repr(n) for n in near)
    return UsageError(
        f"{what} has no option {name!r}",
        f"did you mean {meant}?" if near else f"its options: {', '.join(known)}",
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _described(hint: Any) -> str:
    kind, args = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(_described(a) for a in args)
    if kind is Literal:
        return ", ".join(map(str, args))
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def check_counts(**counts: tuple[int | None, int]) -> None:
    """Raise UsageError unless each count is None or at least what stands beside it."""
    for name, (count, least) in counts.items():
        holds = count is None or count >= least
        require(holds, f"{name} is {count}", f"give {least} or more")


def check_seed(seed: int) -> None:
    """Raise UsageError unless everything that draws can take the seed."""
    require(0 <= seed < SEEDS, f"a seed of {seed} cannot be", f"give one from 0 to {SEEDS - 1}")


def require(holds: bool, what: str, hint: str) -> None:
    """Raise UsageError unless an option's value is in its range."""
    if not holds:
        raise UsageError(what, hint)
