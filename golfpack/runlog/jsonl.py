"""Reading logs of one JSON object a line, with errors that name the file and the line."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golfpack.errors import CorruptError, UsageError


@dataclass(frozen=True)
class Line:
    """One object of a log.

    Attributes:
        number: line of the file, from 1; 0 where the file is one object.
    """

    path: Path
    number: int
    data: dict[str, Any]

    @property
    def kind(self) -> str:
        """What the event calls itself; "" where it does not."""
        return str(self.data.get("type", ""))

    def number_at(self, key: str) -> float | None:
        """A number; None where it is left out, NaN where it is null (as JavaScript writes NaN)."""
        if key not in self.data:
            return None
        value = self.data[key]
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(f"{key} is {value!r}, not a number")
        return float(value)

    def required(self, key: str) -> float:
        """A number that must be there; NaN where it is null."""
        value = self.number_at(key)
        if value is None:
            raise self.wrong(f"{key} is missing")
        return value

    def first_number(self, *keys: str) -> float | None:
        """The number at the first of `keys` that is there."""
        return next((self.number_at(key) for key in keys if key in self.data), None)

    def step(self) -> int:
        """The step of the event, which it must have."""
        value = self.data.get("step")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_STEPS:
            raise self.wrong(f"step is {value!r}, not a number of steps")
        return value

    def object_at(self, key: str) -> dict[str, Any]:
        """An object; {} where it is left out or null."""
        value = self.data.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.wrong(f"{key} is not a JSON object")
        return value

    def wrong(self, what: str) -> CorruptError:
        """The error that says where `what` is."""
        place = f"{self.path}, line {self.number}" if self.number else str(self.path)
        return CorruptError(f"{place}: {what}", _REPAIR)


MOST_STEPS = 10**12
_REPAIR = "repair or delete that entry; nothing was reported"


def whole(value: Any) -> int | None:
    """A setting as a whole number of 1 or more, or None where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def text(value: Any) -> str | None:
    """A setting as text, or None where it is none."""
    return value if isinstance(value, str) else None


def texts(value: Any) -> tuple[str, ...]:
    """A list of settings as text; () where it is none."""
    return tuple(map(str, value)) if isinstance(value, list) else ()


def counted(rows: Mapping[str, Any]) -> dict[str, str]:
    """The rows that are whole numbers, with thousands set off."""
    return {name: f"{n:,}" for name, n in rows.items() if whole(n) is not None}


def read_lines(path: Path) -> tuple[list[Line], list[str]]:
    """All objects of a log, and warnings.

    A last line without its end, which is what a running or killed job leaves, is left out with a
    warning.

    Raises:
        UsageError: there is no such file.
        CorruptError: a line is not a JSON object.
    """
    if not path.is_file():
        raise UsageError(f"there is no log {path}", "name the folder a training run wrote to")
    parts = path.read_bytes().split(b"\n")
    lines = []
    for number, part in enumerate(parts, 1):
        if not part.strip():
            continue
        data = _parse(part)
        if isinstance(data, dict):
            lines.append(Line(path, number, data))
        elif number == len(parts):
            warning = f"{path}, line {number}: cut short, as by a job still running; left out"
            return lines, [warning]
        else:
            raise Line(path, number, {}).wrong("not a JSON object")
    return lines, []


def read_object(path: Path) -> Line:
    """The one JSON object of a file, as a line numbered 0.

    Raises:
        UsageError: there is no such file.
        CorruptError: it holds something else.
    """
    if not path.is_file():
        raise UsageError(f"there is no {path}", "name the folder a training run wrote to")
    data = _parse(path.read_bytes())
    if not isinstance(data, dict):
        raise CorruptError(f"{path} is not a JSON object", "copy the file again")
    return Line(path, 0, data)


def _parse(text: bytes) -> Any:
    """The value, or None where there is none to read."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError covers bad UTF-8, too
        return None
