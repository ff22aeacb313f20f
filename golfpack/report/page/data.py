"""What the page shows, as one JSON object: a build report, completed from the artifact itself."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np

from golfpack import __version__
from golfpack.errors import UsageError
from golfpack.models.roles import block_of
from golfpack.packer.ir import QTensor
from golfpack.packer.loader import Artifact
from golfpack.report.columns import COLUMNS
from golfpack.report.tensors import TensorReport

# Bars of a histogram: as many as stay readable at 300 pixels.
BARS = 65
# Codes beyond the range that holds all but this share of either side are counted, not drawn: one
# outlier in a heavy tail would squeeze all others into a single bar.
TAIL = 0.001
# Digits of the tensors' figures: more than the page shows of them, fewer than floats have.
DIGITS = 6


def page_data(
    title: str,
    build: Mapping[str, Any] | None,
    artifact: Artifact | None,
    rows: Sequence[TensorReport],
    evaluation: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Everything the page draws.

    Args:
        title: the file's name.
        build: a checked build report, or None to show what the artifact alone tells.
        artifact: for histograms and for all a report lacks; None for a report of a failed build.
        rows: of the artifact's tensors, to complete the report's; empty without an artifact.
        evaluation: a checked evaluation report.

    Raises:
        UsageError: the report is not of this artifact.
    """
    told = _of_artifact(artifact, rows) if artifact is not None else {}
    if build is not None and artifact is not None:
        _check_same(build, artifact)
    shown = {**told, **(build or {})}
    tensors = _completed(shown.pop("tensors"), told.get("tensors", []))
    return {
        "title": title,
        "build": _finite(shown),
        "tensors": [_finite(_finished(t, artifact), DIGITS) for t in _shares(tensors)],
        "eval": None if evaluation is None else _finite(dict(evaluation)),
        "columns": [asdict(column) for column in COLUMNS],
        "missing": _missing(build, artifact, evaluation, tensors),
        "made_by": f"golfpack {__version__}",
    }


def _of_artifact(artifact: Artifact, rows: Sequence[TensorReport]) -> dict[str, Any]:
    container = artifact.container
    parameters = sum(int(np.prod(entry.shape)) for entry, _ in artifact.tensors.values())
    codes = container.manifest.get("codes")
    return {
        "family": artifact.family,
        "config": artifact.config,
        "parameters": parameters,
        "artifact_bytes": container.size,
        "artifact_sha256": container.sha256,
        "fixed_bytes": container.overhead,
        "bits_per_weight": 8 * container.size / max(parameters, 1),
        "codes": codes if isinstance(codes, list) else [codes],
        "tensors": [asdict(row) for row in rows],
    }


def _check_same(build: Mapping[str, Any], artifact: Artifact) -> None:
    if build["artifact_sha256"] == artifact.container.sha256:
        named = {t["name"] for t in build["tensors"]}
        if named != set(artifact.tensors):
            raise UsageError("the report lists other tensors than the artifact has", None)
        return
    raise UsageError(
        f"the report is of another build: of sha256 {str(build['artifact_sha256'])[:16]}, the artifact "
        f"has {artifact.container.sha256[:16]}",
        "name the artifact's own with --report, or move it away to see what the artifact alone tells",
    )


def _completed(
    rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The rows, with what they lack from others of the same name."""
    more = {row["name"]: row for row in others}
    return [
        {**more.get(row["name"], {}), **{k: v for k, v in row.items() if v is not None}}
        for row in rows
    ]


def _shares(tensors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `kl_share`, the part of the predicted KL a tensor causes."""
    total = sum(t.get("predicted_kl") or 0.0 for t in tensors)
    if total <= 0:
        return tensors
    return [{"kl_share": (t.get("predicted_kl") or 0.0) / total, **t} for t in tensors]


def _finished(row: dict[str, Any], artifact: Artifact | None) -> dict[str, Any]:
    histogram = row.get("histogram")
    if histogram is None and artifact is not None:
        tensor = artifact.tensors[row["name"]][1]
        histogram = code_histogram(tensor.codes) if isinstance(tensor, QTensor) else None
    bars = None if histogram is None else binned(histogram["first"], histogram["counts"])
    return {"block": block_of(row["name"]), **row, "histogram": bars}


def code_histogram(codes: np.ndarray) -> dict[str, Any]:
    """How often each code occurs, from the smallest one on."""
    if not codes.size:
        return {"first": 0, "counts": []}
    first = int(codes.min())
    return {"first": first, "counts": np.bincount(codes.reshape(-1) - first).tolist()}


def binned(first: int, counts: Sequence[int]) -> dict[str, Any]:
    """A histogram of at most `BARS` bars around its bulk.

    Returns:
        first: the smallest code drawn; width: codes per bar; counts: per bar; below, above: codes
        outside; least, most: the smallest and the largest code.
    """
    n = np.asarray(counts, dtype=np.int64)
    total = int(n.sum())
    if not total:
        return {"first": 0, "width": 1, "counts": [], "below": 0, "above": 0, "least": 0, "most": 0}
    used = np.flatnonzero(n)
    lo, hi = int(used[0]), int(used[-1])
    if hi - lo >= BARS:
        running = np.cumsum(n)
        lo = int(np.searchsorted(running, TAIL * total, side="right"))
        hi = int(np.searchsorted(running, (1 - TAIL) * total, side="left"))
    width = -(-(hi - lo + 1) // BARS)
    starts = np.arange(lo, hi + 1, width)
    return {
        "first": first + lo,
        "width": width,
        "counts": np.add.reduceat(n[lo : hi + 1], starts - lo).tolist(),
        "below": int(n[:lo].sum()),
        "above": int(n[hi + 1 :].sum()),
        "least": first + int(used[0]),
        "most": first + int(used[-1]),
    }


def _missing(
    build: Mapping[str, Any] | None,
    artifact: Artifact | None,
    evaluation: Mapping[str, Any] | None,
    tensors: Sequence[Mapping[str, Any]],
) -> list[str]:
    """What the page cannot show, and what would let it."""
    found = []
    if build is None:
        found.append(
            "No build report: the budget, the KL and how it was built are not known. Keep the "
            ".report.json beside the artifact, or name it with --report."
        )
    if artifact is None and not any(t.get("histogram") for t in tensors):
        found.append("No artifact: the distributions of codes are in the file itself.")
    if not any(t.get("rel_err") is not None for t in tensors):
        found.append("No errors per tensor: they need the float checkpoint; name it with --float.")
    if evaluation is None:
        found.append(
            "No evaluation: run golfpack eval with --json, and name what it prints with --eval."
        )
    return found


def _finite(value: Any, digits: int | None = None) -> Any:
    """JSON of the value: what is no number becomes null, floats keep so many digits, or all."""
    if isinstance(value, float):
        if not isfinite(value):
            return None
        return value if digits is None else float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {k: _finite(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v, digits) for v in value]
    return value
