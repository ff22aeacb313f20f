"""The JSON documents that golfpack writes and reads again: read, written, and of which software."""

import json
import platform
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from golfpack import __version__
from golfpack.base.files import write_atomically
from golfpack.errors import UsageError, unreadable

SCHEMA_VERSION = 1
# What the bytes of an artifact go through.
_LIBRARIES = ("torch", "numpy", "scipy", "numba", "brotli", "zstandard", "sentencepiece")


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


def to_json(report: Any) -> str:
    """A report, or a list of them, as indented JSON."""
    data = [asdict(r) for r in report] if isinstance(report, list) else asdict(report)
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)


def save(report: Any, path: Path) -> None:
    """Write a report as JSON, whole or not at all."""
    write_atomically(path, (to_json(report) + "\n").encode())


def versions() -> dict[str, str]:
    """What the figures of a report depend on besides its inputs."""
    return {
        "golfpack": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: metadata.version(name) for name in _LIBRARIES},
    }
