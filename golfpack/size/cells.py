"""Finished work of a folder, a file each, whole or not at all: a rerun takes what fits its settings."""

import json
from pathlib import Path
from typing import Any

from golfpack.base.files import make_folder, write_atomically
from golfpack.compare.store import key_of
from golfpack.errors import UsageError

# Inputs that are files of the folder themselves.
_FILES = ("model", "checkpoint")


class Cells:
    """Results by what they are of and by everything they depend on.

    Several processes may work in one folder, as long as no two of them work on one cell.

    Attributes:
        folder: of the whole.
        notes: what was not taken from an earlier run though it had a result of the same name, and why.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder, or make it. Raises UsageError where it cannot be."""
        self.folder = folder
        self.notes: list[str] = []
        make_folder(folder / "cells")

    def key(self, inputs: dict[str, Any]) -> str:
        """What stands for these inputs in the names of files."""
        return key_of(inputs)[:12]

    def get(self, name: str, inputs: dict[str, Any]) -> dict[str, Any] | None:
        """The result of that name and of equal inputs, or None."""
        path = self._path(name, inputs)
        if path.exists():
            return self._read(path)["result"]
        self._note(name, _plain(inputs))
        return None

    def _note(self, name: str, inputs: dict[str, Any]) -> None:
        """Say how the newest result of that name differs, unless by a file that was made anew itself."""
        others = [self._read(p) for p in self._of(name)]
        alike = [o for o in others if all(o["inputs"].get(f) == inputs.get(f) for f in _FILES)]
        if alike:
            why = _difference(alike[-1]["inputs"], inputs)
            self.notes.append(f"{name} is made anew: the one in {self.folder} has {why}")

    def _of(self, name: str) -> list[Path]:
        """Results of a name, oldest first."""
        found = (self.folder / "cells").glob(f"{name}@*.json")
        return sorted(found, key=lambda p: (p.stat().st_mtime, p.name))

    def put(self, name: str, inputs: dict[str, Any], result: dict[str, Any]) -> None:
        """Keep a result."""
        whole = {"inputs": inputs, "result": result}
        write_atomically(self._path(name, inputs), json.dumps(whole, indent=1).encode())

    def _path(self, name: str, inputs: dict[str, Any]) -> Path:
        return self.folder / "cells" / f"{name}@{self.key(inputs)}.json"

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            whole = json.loads(path.read_text())
            if isinstance(whole["inputs"], dict) and isinstance(whole["result"], dict):
                return whole
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise UsageError(
            f"{path} is no result of an earlier run", "delete it, or choose another --out"
        )


def _plain(inputs: dict[str, Any]) -> dict[str, Any]:
    """As they are read back."""
    return json.loads(json.dumps(inputs))


def _difference(kept: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first thing that differs, in words."""
    for name in wanted:
        if kept.get(name) != wanted[name]:
            if name == "software":
                return "figures of other versions or code"
            return f"{name} = {_short(kept.get(name))}, not {_short(wanted[name])}"
    return "further settings"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
