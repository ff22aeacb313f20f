"""The reports a page is made of, read back from disk: checked, as they may come from anywhere."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from golfpack.base.convert import from_json
from golfpack.base.documents import SCHEMA_VERSION, read_json
from golfpack.build.report import BuildReport, FailedBuild
from golfpack.compare.report import CompareReport
from golfpack.errors import UsageError
from golfpack.eval.report import EvalReport

T = TypeVar("T")
_NAMES: dict[type, str] = {
    BuildReport: "a build report",
    FailedBuild: "a build report",
    EvalReport: "an evaluation report",
    CompareReport: "the report of a sweep",
}
# Lists and objects within one another: far more than a report has, far fewer than Python can recurse.
MAX_DEPTH = 50


def read_build(path: Path) -> BuildReport | FailedBuild:
    """A build's report. Raises UsageError: unreadable, not one, or of another schema version."""
    hint = "give the .report.json that golfpack build wrote beside its artifact"
    data = read_json(path, hint)
    if data.get("status") == "failed":
        return _read(FailedBuild, data, path, hint, "error")
    return _read(BuildReport, data, path, hint, "artifact_sha256")


def read_eval(path: Path) -> EvalReport:
    """What `golfpack eval --json` printed. Raises UsageError as `read_build`."""
    hint = "write it with golfpack eval ... --json > FILE"
    return _read(EvalReport, read_json(path, hint), path, hint, "val_bpb")


def read_sweep(path: Path) -> CompareReport:
    """What `golfpack sweep` left. Raises UsageError as `read_build`, and for a prediction."""
    hint = "give the sweep.report.json that golfpack sweep wrote into its folder"
    found = _read(CompareReport, read_json(path, hint), path, hint, "kl_source")
    if found.kl_source == "prediction":
        raise UsageError(f"{path} measured nothing: it is a prediction", "sweep without --predict")
    return found


@dataclass(frozen=True)
class CodeFile:
    """A file that ships beside the artifact and counts.

    Attributes:
        path: its name.
        bytes: as it ships.
        what: it is for.
    """

    path: str
    bytes: int
    what: str = ""


@dataclass(frozen=True)
class _Code:
    """The section `code` of a report: what an export wrote, file by file."""

    files: list[CodeFile]


def read_code(path: Path, build: BuildReport | FailedBuild) -> list[CodeFile]:
    """The files that make up `code_bytes`: of the report's section `code`, or those of `--code`.

    Raises:
        UsageError: they do not add up to `code_bytes`.
    """
    told = read_json(path, "give a build report").get("code")
    if told is None:
        files = [CodeFile(f.path, f.bytes, "--code") for f in build.inputs if f.use == "code"]
    else:
        files = from_json(_Code, told, f"{path}: code").files
    if files and sum(f.bytes for f in files) != build.code_bytes:
        raise UsageError(
            f"{path}: the files of code do not add up to its code_bytes", "it was edited"
        )
    return files


def _read(kind: type[T], data: dict[str, Any], path: Path, hint: str, mark: str) -> T:
    """`mark` is a key that no other report has."""
    if mark not in data:
        name = _NAMES[kind]
        raise UsageError(f"{path} is not {name}: it has no {mark}", hint)
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has schema version {json.dumps(version)}; this golfpack reads {SCHEMA_VERSION}",
            "use the golfpack that wrote it",
        )
    if _deeper(data, MAX_DEPTH):
        raise UsageError(f"{path} nests lists or objects more than {MAX_DEPTH} deep", hint)
    return from_json(kind, data, str(path))


def _deeper(data: Any, limit: int) -> bool:
    level = [data]
    for _ in range(limit):
        inner = [list(v.values()) if isinstance(v, dict) else v for v in level]
        level = [v for part in inner if isinstance(part, list) for v in part]
    return any(isinstance(v, dict | list) for v in level)
