"""Finished rows of `golfpack compare` and `sweep`, by what they depend on, so that a rerun goes on."""

import hashlib
import json
from pathlib import Path
from typing import Any

import golfpack
from golfpack.base.documents import versions
from golfpack.base.files import write_atomically
from golfpack.errors import UsageError

# Code that a row's figures come from: any change of it is another key.
_CODE = ("base", "build", "calib", "compare", "data", "eval", "models", "packer")


def software() -> dict[str, str]:
    """What rows depend on besides their inputs: versions, and this package's own code."""
    root = Path(golfpack.__file__).parent
    files = sorted(f for folder in _CODE for f in (root / folder).rglob("*.py"))
    code = hashlib.sha256()
    for file in files:
        code.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return {**versions(), "code": code.hexdigest()}


class Store:
    """A JSON file of finished results, each under the hash of everything it depends on."""

    def __init__(self, path: Path) -> None:
        """Open `path`, or start it. Raises UsageError for a file that is something else."""
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        if not path.exists():
            return
        try:
            rows = json.loads(path.read_text())["rows"]
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise _damaged(path) from e
        if not isinstance(rows, dict) or not all(isinstance(r, dict) for r in rows.values()):
            raise _damaged(path)
        self.rows = rows

    def get(self, key: str) -> dict[str, Any] | None:
        """What was stored under a key, or None."""
        return self.rows.get(key)

    def put(self, key: str, row: dict[str, Any]) -> None:
        """Store a result at once; the file is replaced whole or not at all."""
        self.rows[key] = row
        write_atomically(self.path, json.dumps({"rows": self.rows}, indent=1).encode())


def key_of(inputs: dict[str, Any]) -> str:
    """The key of a result that depends on these JSON-safe inputs."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def _damaged(path: Path) -> UsageError:
    return UsageError(
        f"{path} holds no rows of an earlier {path.stem}", "delete it, or choose another --out"
    )
