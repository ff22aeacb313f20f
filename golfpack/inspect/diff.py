"""`golfpack diff`: what changed between two artifacts, reports or checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golfpack.artifact import names_artifact, split_settings, whole_config
from golfpack.base.progress import Notify, silent
from golfpack.build.reportfile import read_build_report, report_beside
from golfpack.errors import UsageError, unreadable
from golfpack.inspect.diff_report import Change, DiffReport, DiffSide, TensorDiff, TensorSide
from golfpack.measure.tensors import Known, tensor_reports
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.folder import checkpoint_bytes
from golfpack.models.tensors import TENSORS
from golfpack.packer.format.loader import Artifact, load
from golfpack.packer.format.steps import LogSteps, StepField
from golfpack.packer.format.tensors import PackedTensor, QTensor

# Of a build report, what is compared, in this order, and by which name.
_FACTS = {
    "budget_bytes": "budget bytes", "code_bytes": "code bytes", "headroom_bytes": "headroom bytes",
    "measured_kl": "KL", "predicted_kl": "predicted KL", "measured_bpb": "bpb loss",
    "dial": "dial", "recipe": "recipe", "plan": "plan", "settings": "settings", "seed": "seed",
    "checkpoint_sha256": "checkpoint sha256", "warnings": "warnings",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Side:
    """A file, read.

    Attributes:
        rows: every tensor, by name.
        packed: the tensors of an artifact.
        weights: float32, of an artifact or a checkpoint.
    """

    about: DiffSide
    rows: dict[str, TensorSide]
    packed: Mapping[str, PackedTensor] = field(default_factory=dict)
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)


def diff(
    a: Path,
    b: Path,
    original: Path | None = None,
    notify: Notify = silent,
    argv: list[str] | None = None,
    settings: Sequence[str] = (),
) -> DiffReport:
    """Compare two files, each an artifact, the report of a build, or a checkpoint.

    An artifact's KL, recipe and versions are taken from the report beside it, where that is of the
    same file.

    Args:
        original: float checkpoint, for the errors of the artifacts' tensors.
        settings: "model.option=value" of every checkpoint among them.

    Raises:
        UsageError: a file that is none of the three. CorruptError: a damaged artifact.
    """
    options, rest = split_settings(settings)
    if rest:
        raise UsageError(f"--set {rest[0]!r} sets nothing here", "use --set model.OPTION=VALUE")
    floats = None if original is None else _checkpoint(original, options).weights
    sides = []
    for path in (a, b):
        notify("diff", len(sides), 3, f"read {path.name}")
        sides.append(_read(path, floats, options))
    if options and original is None and all(s.about.kind != "checkpoint" for s in sides):
        raise UsageError("neither file is a checkpoint, and only those take --set", "leave it out")
    first, second = sides
    notify("diff", 2, 3, "compare")
    changes = _changes(first.about.facts, second.about.facts)
    names = {**first.rows, **second.rows}
    found = [t for t in (_tensor(name, first, second) for name in names) if t is not None]
    return DiffReport(
        a=first.about,
        b=second.about,
        same=not changes and not found,
        changes=changes,
        tensors=sorted(found, key=lambda t: -abs(_bytes(t.b) - _bytes(t.a))),
        unchanged=len(names) - len(found),
        argv=argv or [],
    )


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    """What differs overall, in the order in which the sides tell it."""
    found = [Change(what, a.get(what), b.get(what)) for what in {**a, **b}]
    return [
        c for c in found if c.a != c.b and ((c.what in a and c.what in b) or _one_sided(c, a, b))
    ]


def _one_sided(c: Change, a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether it matters that only one side tells: of one file with and without a report it does not,
    nor what it says of the machine, or that there is nothing.
    """
    told = c.b if c.a is None else c.a
    return a["sha256"] != b["sha256"] and not c.what.startswith("version ") and told not in ([], 0)


def _bytes(side: TensorSide | None) -> int:
    return 0 if side is None else side.bytes


def _read(path: Path, floats: Mapping[str, np.ndarray] | None, options: Mapping[str, Any]) -> _Side:
    if not path.exists():
        raise unreadable(path)
    if names_artifact(path):
        return _artifact(path, floats)
    if path.suffix == ".json" and not path.name.endswith(".index.json"):
        return _report(path)
    return _checkpoint(path, options)


def _artifact(path: Path, floats: Mapping[str, np.ndarray] | None) -> _Side:
    artifact = load(path)
    weights = artifact.weights()
    told = _beside(path, artifact)
    errors = {row["name"]: row.get("rel_err") for row in told["tensors"]} if told else {}
    if floats is not None:
        _check_same(path, weights, floats)
    rows = {
        t.name: TensorSide(
            t.role, list(t.shape), t.scheme, t.bytes, t.bpw,
            errors.get(t.name) if floats is None else t.rel_err,
        )
        for t in tensor_reports(artifact, Known(weights=floats))
    }  # fmt: skip
    size, sha256 = artifact.container.size, artifact.container.sha256
    facts = {
        **_size(size, sha256, sum(w.size for w in weights.values())),
        "family": artifact.family,
        **_told(told or {}),
        **_nested("config", whole_config(artifact)),
        "coding": artifact.container.manifest["codes"],
        **_versions(told or {}),
    }
    report = None if told is None else str(report_beside(path))
    about = DiffSide(str(path), "artifact", report, size, sha256, facts)
    return _Side(about, rows, {n: t for n, (_, t) in artifact.tensors.items()}, weights)


def _check_same(
    path: Path, weights: Mapping[str, np.ndarray], floats: Mapping[str, np.ndarray]
) -> None:
    for name, w in weights.items():
        if name not in floats or floats[name].shape != w.shape:
            raise UsageError(
                f"tensor {name!r} of {path} is not in the float checkpoint, or has another shape",
                "give the checkpoint it was built from, or leave --float out",
            )


def _beside(path: Path, artifact: Artifact) -> dict[str, Any] | None:
    """The report of this very artifact, if it stands beside it."""
    beside = report_beside(path)
    if not beside.is_file():
        return None
    try:
        told = read_build_report(beside)
    except UsageError:
        return None  # of another program, or of a build that failed
    return told if told["artifact_sha256"] == artifact.container.sha256 else None


def _report(path: Path) -> _Side:
    told = read_build_report(path)
    rows = {
        row["name"]: TensorSide(
            row["role"], row["shape"], row["scheme"], row["bytes"], row["bpw"], row.get("rel_err")
        )
        for row in told["tensors"]
    }
    size, sha256 = told["artifact_bytes"], told["artifact_sha256"]
    codes = told.get("codes") or []
    facts = {
        **_size(size, sha256, told["parameters"]),
        "family": told["family"],
        **_told(told),
        **_nested("config", told["config"]),
        "coding": codes[0] if len(codes) == 1 else codes,
        **_versions(told),
    }
    return _Side(DiffSide(str(path), "report", str(path), size, sha256, facts), rows)


def _checkpoint(path: Path, options: Mapping[str, Any]) -> _Side:
    c = load_checkpoint(path, options, fallback=TENSORS)
    rows = {}
    for t in c.spec.tensors:
        size = getattr(torch, c.dtypes[t.name]).itemsize
        rows[t.name] = TensorSide(
            t.role, list(t.shape), c.dtypes[t.name], size * t.numel, 8.0 * size, None
        )
    size = checkpoint_bytes(path)
    facts = {
        **_size(size, c.sha256, c.spec.numel),
        "family": c.family.name,
        "checkpoint sha256": c.sha256,
        **_nested("config", c.config),
    }
    about = DiffSide(str(path), "checkpoint", None, size, c.sha256, facts)
    return _Side(about, rows, weights=c.weights)


def _size(size: int, sha256: str, parameters: int) -> dict[str, Any]:
    bpw = 8 * size / max(parameters, 1)
    return {"bytes": size, "bpw": bpw, "parameters": parameters, "sha256": sha256}


def _told(report: Mapping[str, Any]) -> dict[str, Any]:
    facts = {name: report[key] for key, name in _FACTS.items() if key in report}
    return {**facts, **_nested("calibration", report.get("calibration") or {})}


def _versions(report: Mapping[str, Any]) -> dict[str, Any]:
    return _nested("version", report.get("versions") or {})


def _nested(what: str, table: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{what} {key}": value for key, value in table.items()}


def _tensor(name: str, a: _Side, b: _Side) -> TensorDiff | None:
    """How a tensor differs, or None where it does not."""
    before, after = a.rows.get(name), b.rows.get(name)
    weights = _weights(a.weights.get(name), b.weights.get(name))
    codes, steps = _codes(a.packed.get(name), b.packed.get(name))
    if _same_row(before, after) and not weights and not codes and not steps:
        return None
    return TensorDiff(name, before, after, weights, codes, steps)


def _same_row(a: TensorSide | None, b: TensorSide | None) -> bool:
    """Whether two sides say the same of a tensor; an error that one does not know is no difference."""
    if a is None or b is None:
        return a is b
    if a.rel_err is None or b.rel_err is None:
        a, b = replace(a, rel_err=None), replace(b, rel_err=None)
    return a == b


def _weights(a: np.ndarray | None, b: np.ndarray | None) -> float | None:
    if a is None or b is None or a.shape != b.shape:
        return None
    before, change = a.astype(np.float64), b.astype(np.float64) - a
    norm = float(np.linalg.norm(before))
    return float(np.linalg.norm(change)) / (norm or 1.0)


def _codes(a: PackedTensor | None, b: PackedTensor | None) -> tuple[float | None, bool | None]:
    """The fraction of codes that differ, and whether the steps do."""
    if not isinstance(a, QTensor) or not isinstance(b, QTensor) or a.codes.shape != b.codes.shape:
        return None, None
    changed = float(np.mean(a.codes != b.codes)) if a.codes.size else 0.0
    return changed, not _same_steps(a.steps, b.steps)


def _same_steps(a: StepField, b: StepField) -> bool:
    if isinstance(a, LogSteps) != isinstance(b, LogSteps) or a.group != b.group:
        return False
    return np.array_equal(a.row, b.row) and (
        (a.col is None) == (b.col is None)
        and (a.col is None or b.col is None or np.array_equal(a.col, b.col))
    )
