"""Options of passes and schemes, as recipes and `--set` give them: checked against dataclass fields."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from golfpack.errors import UsageError
from golfpack.packer.ir import ROLES

T = TypeVar("T")


def make(
    kind: type[T], options: Mapping[str, Any], what: str, hidden: frozenset[str] = frozenset()
) -> T:
    """`kind(**options)` for a frozen dataclass, every option checked against its field's type.

    Lists become tuples, and ints stand for floats.

    Args:
        what: for messages, such as "pass 'sense'".
        hidden: fields that are no options.

    Raises:
        UsageError: an unknown option (with near matches), or a value of another type.
    """
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind) if f.name not in hidden]  # type: ignore[arg-type]
    checked = {}
    for name, value in options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise UsageError(
                f"{what} has no option {name!r}",
                f"did you mean {near[0]!r}?" if near else f"its options: {', '.join(known)}",
            )
        checked[name] = _converted(value, hints[name], f"{what}: {name}")
    return kind(**checked)


def _converted(value: Any, hint: Any, what: str) -> Any:
    for choice in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
        if get_origin(choice) is Literal:
            if value in get_args(choice):
                return value
            continue
        kind = get_origin(choice) or choice
        if kind is tuple and isinstance(value, list | tuple):
            return tuple(value)
        if kind is float and type(value) is int:
            return float(value)
        if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
            return value
    raise UsageError(f"{what} cannot be {value!r}", f"it takes {_described(hint)}")


def _described(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_described(a) for a in get_args(hint))
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    kind = get_origin(hint) or hint
    names = {tuple: "a list", dict: "a table", str: "text", float: "a number", int: "an integer"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def require(holds: bool, what: str, hint: str) -> None:
    """Raise UsageError unless an option's value is in its range."""
    if not holds:
        raise UsageError(what, hint)


def check_roles(roles: Sequence[str], what: str) -> None:
    """Raise UsageError unless all of `roles` are tensor roles; `what` names the option."""
    for role in roles:
        require(role in ROLES, f"{what}: unknown role {role!r}", f"roles: {', '.join(ROLES)}")
