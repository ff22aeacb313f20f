"""What the page shows, as one JSON object: a build report, completed from the artifact itself."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from itertools import accumulate
from math import isfinite
from typing import Any

import numpy as np

from golfpack import __version__
from golfpack.build.report import BuildReport, FailedBuild
from golfpack.compare.report import CompareReport
from golfpack.errors import UsageError
from golfpack.eval.report import EvalReport
from golfpack.inspect.inspect import InspectReport
from golfpack.measure.columns import COLUMNS, ODD
from golfpack.measure.tensors import TensorReport
from golfpack.packer.format.container import TOKENIZER_STREAM
from golfpack.packer.format.loader import Artifact
from golfpack.packer.format.tensors import QTensor
from golfpack.page.checked import CodeFile
from golfpack.page.verdict import verdict

# Bars of a histogram: as many as stay readable at 300 pixels.
BARS = 65
# Codes beyond the range that holds all but this share on either side are counted, not drawn: a few far
# ones would squeeze all others into a few bars.
TAIL = 0.003
# Digits of the tensors' figures: more than the page shows of them, fewer than floats have.
DIGITS = 6
# What reports hold for `build --from` and other readers.
_UNSHOWN = ("options", "allocation", "pruning")
# Other columns are of groups of tensors.
_FIELDS = {f.name for f in fields(TensorReport)}


def page_data(
    title: str,
    build: BuildReport | FailedBuild | None,
    artifact: Artifact | None,
    inspected: InspectReport | None,
    evaluation: EvalReport | None,
    source: str | None = None,
    sweep: CompareReport | None = None,
    code: Sequence[CodeFile] = (),
) -> dict[str, Any]:
    """Everything the page draws.

    Args:
        title: the file's name.
        build: the build report, or None to show what the artifact alone tells.
        artifact: for its distributions of codes; None for the report of a build that failed.
        inspected: what the artifact tells, to complete the report or to stand in for it.
        evaluation: of the artifact.
        source: the file name of the build report.
        sweep: of the same checkpoint.
        code: files that ship beside the artifact.

    Raises:
        UsageError: the build report or the evaluation is not of this artifact, or the sweep is not of
            its checkpoint.
    """
    if artifact is not None:
        _check_same(artifact, build, evaluation)
    if sweep is not None:
        _check_sweep(sweep, build, inspected)
    shown = {**_of_file(inspected), **_told(build)}
    tensors = _completed(shown.pop("tensors", []), inspected, artifact)
    built = build if isinstance(build, BuildReport) else None
    says = verdict(built, evaluation)
    return {
        "title": title,
        "verdict": None if says is None else asdict(says),
        "sweep": None if sweep is None else _finite(_swept(sweep)),
        "code": [asdict(f) for f in code],
        "source": source,
        "build": _finite(shown),
        "tensors": [_finite(t, DIGITS) for t in tensors],
        "eval": None if evaluation is None else _finite(asdict(evaluation)),
        "columns": [asdict(c) for c in COLUMNS.values() if c.name in _FIELDS],
        "odd": _odd(tensors),
        "missing": _missing(build, evaluation, tensors),
        "made_by": f"golfpack {__version__}",
    }


def _check_sweep(
    sweep: CompareReport, build: BuildReport | FailedBuild | None, inspected: InspectReport | None
) -> None:
    of = None if build is None else build.checkpoint_sha256
    weights = build.parameters if build is not None else inspected and inspected.parameters
    if (of is not None and of != sweep.checkpoint_sha256) or weights != sweep.parameters:
        raise UsageError(
            f"the sweep is of another checkpoint: {sweep.checkpoint}, sha256 "
            f"{sweep.checkpoint_sha256[:16]}",
            "sweep the checkpoint that this artifact was built from",
        )


def _swept(sweep: CompareReport) -> dict[str, Any]:
    """What was measured at other sizes, recipe by recipe from the smallest file on."""
    rows = [
        {
            "recipe": r.recipe, "budget": r.budget, "bytes": r.artifact_bytes, "kl": r.kl,
            "bpb": r.val_bpb, "gap": r.quant_gap,
        }
        for r in sorted(sweep.rows, key=lambda r: (r.recipe, r.artifact_bytes or 0))
        if r.artifact_bytes is not None
    ]  # fmt: skip
    return {"kl_source": sweep.kl_source, "rows": rows}


def _odd(tensors: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What explains values that look wrong, by column."""
    return {
        name: says
        for name, (odd, says) in ODD.items()
        if any(odd(t[name]) for t in tensors if t.get(name) is not None)
    }


def _check_same(
    artifact: Artifact, build: BuildReport | FailedBuild | None, evaluation: EvalReport | None
) -> None:
    sha256 = artifact.container.sha256
    if isinstance(build, FailedBuild):
        raise UsageError(
            "the report is of a build that failed, not of this artifact",
            "name the artifact's own with --report, or give that report alone",
        )
    if build is not None and build.artifact_sha256 != sha256:
        raise UsageError(
            f"the report is of another build: of sha256 {build.artifact_sha256[:16]}, the artifact "
            f"has {sha256[:16]}",
            "name its own with --report, or move this one away to see what the artifact alone tells",
        )
    if build is not None and sorted(t.name for t in build.tensors) != sorted(artifact.tensors):
        raise UsageError("the report lists other tensors than the artifact has", "it was edited")
    if evaluation is not None and evaluation.model_sha256 != sha256:
        raise UsageError(
            f"the evaluation is of another model: of sha256 {evaluation.model_sha256[:16]}, the "
            f"artifact has {sha256[:16]}",
            "evaluate this artifact: golfpack eval X.golf ... --json > FILE",
        )


def _of_file(inspected: InspectReport | None) -> dict[str, Any]:
    """What an artifact tells without any report."""
    if inspected is None:
        return {}
    return {
        "family": inspected.family,
        "config": inspected.config,
        "parameters": inspected.parameters,
        "artifact_bytes": inspected.bytes,
        "artifact_sha256": inspected.sha256,
        "fixed_bytes": _fixed_bytes(inspected.streams),
        "bits_per_weight": 8 * inspected.bytes / max(inspected.parameters, 1),
        "tensors": [asdict(t) for t in inspected.tensors],
    }


def _fixed_bytes(streams: Mapping[str, int]) -> int | None:
    """What of an artifact is no weights, as a build's report counts it; None of a checkpoint."""
    header = streams.get("header")
    return None if header is None else header + streams.get(TOKENIZER_STREAM, 0)


def _told(build: BuildReport | FailedBuild | None) -> dict[str, Any]:
    if build is None:
        return {}
    return {k: v for k, v in asdict(build).items() if v is not None and k not in _UNSHOWN}


def _completed(
    rows: Sequence[Mapping[str, Any]], inspected: InspectReport | None, artifact: Artifact | None
) -> list[dict[str, Any]]:
    """The rows, with what they lack from what was inspected, and their histograms in bars."""
    more = {} if inspected is None else {t.name: asdict(t) for t in inspected.tensors}
    found = []
    for row in rows:
        told = {k: v for k, v in row.items() if v is not None}
        full = {**more.get(row["name"], {}), "block": row.get("block"), **told}
        found.append({**full, "histogram": _histogram(full, artifact)})
    return found


def _histogram(row: Mapping[str, Any], artifact: Artifact | None) -> dict[str, Any] | None:
    """From the artifact's codes; without one from the report, which does not tell codes far out."""
    if artifact is not None:
        tensor = artifact.tensors[row["name"]][1]
        if not isinstance(tensor, QTensor) or not tensor.codes.size:
            return None
        codes, counts = np.unique(tensor.codes, return_counts=True)
        pairs = list(zip(codes.tolist(), counts.tolist(), strict=True))
        return bars(pairs) | {"least": pairs[0][0], "most": pairs[-1][0]}
    told = row.get("histogram")
    if told is None or not told["counts"]:
        return None
    return bars([(told["first"] + i, n) for i, n in enumerate(told["counts"])])


def bars(codes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """A histogram of at most `BARS` bars, of its bulk.

    Args:
        codes: (code, how often), by code; not empty.

    Returns:
        first: the smallest code drawn; width: codes per bar; counts: per bar; below, above: how many
        codes are not drawn.
    """
    lo, hi = codes[0][0], codes[-1][0]
    if hi - lo >= BARS:
        running = list(accumulate(n for _, n in codes))
        least, most = TAIL * running[-1], (1 - TAIL) * running[-1]
        lo = next(code for (code, _), upto in zip(codes, running, strict=True) if upto > least)
        hi = next(code for (code, _), upto in zip(codes, running, strict=True) if upto >= most)
    width = -(-(hi - lo + 1) // BARS)
    counts = [0] * -(-(hi - lo + 1) // width)
    for code, n in codes:
        if lo <= code <= hi:
            counts[(code - lo) // width] += n
    return {
        "first": lo,
        "width": width,
        "counts": counts,
        "below": sum(n for code, n in codes if code < lo),
        "above": sum(n for code, n in codes if code > hi),
    }


def _missing(
    build: BuildReport | FailedBuild | None,
    evaluation: EvalReport | None,
    tensors: Sequence[Mapping[str, Any]],
) -> list[str]:
    """What the page cannot show, and what would let it."""
    if isinstance(build, FailedBuild):
        return []
    found = []
    if build is None:
        found.append(
            "no build report: the budget, the KL and how it was built are not known; keep the "
            ".report.json beside the artifact, or name it with --report"
        )
    if not any(t.get("rel_err") is not None for t in tensors):
        found.append("no errors per tensor: they need the float checkpoint, --float CKPT")
    if evaluation is None:
        found.append("no evaluation: golfpack eval ... --json > FILE, then --eval FILE")
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
