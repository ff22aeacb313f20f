"""What the Python API's functions take alike."""

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from golfpack.base.convert import to_type
from golfpack.errors import UsageError

AnyPath = str | PathLike[str]


def path_of(path: AnyPath, what: str) -> Path:
    """A path, or a UsageError that says what cannot be one."""
    return to_type(Path, path, what)


def path_or_none(path: AnyPath | None, what: str) -> Path | None:
    """The same, where there may be none."""
    return None if path is None else path_of(path, what)


def settings_of(settings: Mapping[str, Any] | Sequence[str]) -> tuple[str, ...]:
    """Settings as `--set` takes them. Raises UsageError for what is none."""
    if isinstance(settings, Mapping):
        return tuple(f"{name}={_text(name, value)}" for name, value in settings.items())
    return to_type(tuple[str, ...], settings, "settings", "give {'pass.option': value, ...}")


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as e:
        kind = type(value).__name__
        raise UsageError(
            f"settings: {name} cannot be of type {kind}", "give a text, a number or a list"
        ) from e
