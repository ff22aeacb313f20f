"""Reports read back: JSON -> dataclasses, every value checked against its field's type."""

import json
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from golfpack.errors import UsageError, unreadable

T = TypeVar("T")
_HINT = "it was edited, or another golfpack wrote it"


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """The JSON object in a file. Raises UsageError with `hint` where there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise unreadable(path, e) from e
    except UnicodeDecodeError as e:
        raise UsageError(f"{path} is not JSON: it is not even text", hint) from e
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{path} is not JSON: {e}", hint) from e
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no JSON object", hint)
    return data


def from_json(kind: type[T], data: Any, what: str) -> T:
    """A report dataclass from its JSON. Keys that it does not have are passed over.

    Args:
        data: what `json.loads` gave.
        what: for messages, such as the file's name.

    Raises:
        UsageError: a key is missing, or its value is of another type.
    """
    assert is_dataclass(kind)
    if not isinstance(data, dict):
        raise UsageError(f"{what} is not an object", _HINT)
    hints = get_type_hints(kind)
    values = {}
    for f in fields(kind):
        if f.name in data:
            values[f.name] = _value(hints[f.name], data[f.name], f"{what}: {f.name}")
        elif f.default is MISSING and f.default_factory is MISSING:
            raise UsageError(f"{what} has no {f.name!r}", _HINT)
    return kind(**values)


def _value(hint: Any, value: Any, what: str) -> Any:
    """`value` as `hint` has it. Raises UsageError."""
    kind, args = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return _first_of(args, value, what)
    if kind is Any or (kind is Literal and value in args):
        return value
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return from_json(kind, value, what)
    if kind is dict and isinstance(value, dict):
        each = args[1] if args else Any
        return {k: _value(each, v, f"{what}.{k}") for k, v in value.items()}
    if kind in (list, tuple, Sequence) and isinstance(value, list):
        items = [_value(args[0] if args else Any, v, f"{what}[{i}]") for i, v in enumerate(value)]
        return tuple(items) if kind is tuple else items
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise UsageError(f"{what} cannot be {json.dumps(value)[:40]}", _HINT)


def _first_of(choices: Sequence[Any], value: Any, what: str) -> Any:
    for choice in choices[:-1]:
        try:
            return _value(choice, value, what)
        except UsageError:
            continue
    return _value(choices[-1], value, what)
