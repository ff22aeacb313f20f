"""Reading back the build reports that stand beside artifacts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golfpack.base.convert import from_json
from golfpack.base.documents import read_json
from golfpack.errors import UsageError


@dataclass(frozen=True)
class _Row:
    """What every reader relies on in a tensor's row."""

    name: str
    shape: list[int]
    bytes: int


@dataclass(frozen=True)
class _Needed:
    """What every reader of a build report relies on."""

    artifact_sha256: str
    artifact_bytes: int
    code_bytes: int
    checkpoint_sha256: str
    family: str
    config: dict[str, Any]
    recipe: str
    parameters: int
    tensors: list[_Row]


def report_beside(artifact: Path) -> Path:
    """Where a build leaves the report of this artifact."""
    return artifact.with_suffix(".report.json")


def read_build_report(path: Path) -> dict[str, Any]:
    """A build report as JSON.

    Raises:
        UsageError: unreadable, not JSON, or not the report of a build that succeeded.
    """
    table = read_json(path, "give the .report.json of a build")
    try:
        from_json(_Needed, table, "it")
    except UsageError as e:
        raise UsageError(
            f"{path} is no report of a build: {e.message}",
            "give the .report.json that golfpack build wrote beside the artifact",
        ) from e
    return table
