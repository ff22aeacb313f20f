"""What the Python API's functions take alike."""

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

AnyPath = str | PathLike[str]


def settings_of(settings: Mapping[str, Any] | Sequence[str]) -> tuple[str, ...]:
    """Settings as `--set` takes them."""
    if not isinstance(settings, Mapping):
        return tuple(settings)
    return tuple(f"{name}={_text(value)}" for name, value in settings.items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
