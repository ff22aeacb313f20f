"""Reading back the build reports that stand beside artifacts."""

from pathlib import Path
from typing import Any

from golfpack.base.documents import read_json
from golfpack.errors import UsageError

# What every reader of a build report relies on, and its type.
_NEEDED: dict[str, type] = {
    "artifact_sha256": str,
    "artifact_bytes": int,
    "code_bytes": int,
    "checkpoint_sha256": str,
    "family": str,
    "config": dict,
    "recipe": str,
    "parameters": int,
    "tensors": list,
}


def report_beside(artifact: Path) -> Path:
    """Where a build leaves the report of this artifact."""
    return artifact.with_suffix(".report.json")


def read_build_report(path: Path) -> dict[str, Any]:
    """A build report as JSON.

    Raises:
        UsageError: unreadable, not JSON, or not the report of a build that succeeded.
    """
    table = read_json(path, "give the .report.json of a build")
    lacking = [k for k, kind in _NEEDED.items() if not isinstance(table.get(k), kind)]
    rows = table.get("tensors")
    if not lacking and not all(_is_row(row) for row in rows or ()):
        lacking = ["tensors"]
    if lacking:
        raise UsageError(
            f"{path} is no report of a build: it lacks {', '.join(lacking)}",
            "give the .report.json that golfpack build wrote beside the artifact",
        )
    return table


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("name"), str)
        and isinstance(row.get("shape"), list)
        and isinstance(row.get("bytes"), int)
    )
