"""`golfpack stats`: runs of several seeds against a baseline, in nats and in bits per byte."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from golfpack.base.documents import read_json
from golfpack.errors import UsageError
from golfpack.eval.report import StatsReport
from golfpack.eval.significance import MARGIN_NATS, SIGNIFICANCE, nats_per_bpb, t_test

_KEYS = ("val_loss", "val_bpb", "scored_tokens", "scored_bytes")


def significance(paths: list[Path], baseline: str) -> StatsReport:
    """Hold evaluation reports against a baseline.

    Args:
        paths: JSON reports of `golfpack eval`, on the same tokens.
        baseline: such a report, or a figure: bits per byte, or nats per token as "2.94nats".

    Raises:
        UsageError: a file that is no such report, reports of other tokens, a run that is there
            twice or was not legal, or too few runs.
    """
    runs = [_read(p) for p in paths]
    first = runs[0]
    for path, run in zip(paths, runs, strict=True):
        _check_same_stream(path, run, first)
    per_bpb = nats_per_bpb(first["scored_tokens"], first["scored_bytes"])
    loss, bpb = _baseline(baseline, first, per_bpb)
    nats = t_test([r["val_loss"] for r in runs], loss, MARGIN_NATS)
    bits = t_test([r["val_bpb"] for r in runs], bpb, MARGIN_NATS / per_bpb)
    _check_runs(paths, runs)
    return StatsReport(
        runs=[str(p) for p in paths],
        val_loss=[r["val_loss"] for r in runs],
        val_bpb=[r["val_bpb"] for r in runs],
        baseline=baseline,
        bytes_per_token=first["scored_bytes"] / first["scored_tokens"],
        nats=asdict(nats),
        bpb=asdict(bits),
        margin_nats=MARGIN_NATS,
        margin_bits_per_token=MARGIN_NATS / math.log(2),
        margin_bpb=MARGIN_NATS / per_bpb,
        significance=SIGNIFICANCE,
        meets_rule=nats.improvement >= MARGIN_NATS and nats.p_margin < SIGNIFICANCE,
    )


def is_evaluation(report: dict[str, Any]) -> bool:
    """Whether a JSON object is a report of `golfpack eval`, as far as its figures go."""
    figures = all(isinstance(report.get(k), int | float) for k in _KEYS)
    return figures and min(report["scored_tokens"], report["scored_bytes"]) > 0


def _read(path: Path) -> dict[str, Any]:
    report = read_json(path, "give eval --json reports")
    if "val_bpb" in report and report["val_bpb"] is None:
        raise UsageError(
            f"{path} has no bits per byte: that evaluation had no tokenizer",
            "evaluate again with --tokenizer FILE",
        )
    if not is_evaluation(report):
        raise UsageError(
            f"{path} is no evaluation report: it lacks one of {', '.join(_KEYS)}",
            "write one with golfpack eval ... --json > run.json",
        )
    return report


def _check_runs(paths: Sequence[Path], runs: Sequence[dict[str, Any]]) -> None:
    """Raise UsageError for a run that is there twice, or that was not legal."""
    seen: dict[tuple[Any, Any], Path] = {}
    for path, run in zip(paths, runs, strict=True):
        failed = [c.get("name") for c in run.get("legality") or () if not c.get("passed")]
        if failed:
            raise UsageError(
                f"{path} is of no legal evaluation: {failed[0]} failed",
                "evaluate it in a legal way",
            )
        first = seen.setdefault((run.get("model_sha256"), run["val_loss"]), path)
        if first is not path:
            raise UsageError(
                f"{path} is the run of {first} again: the same model and the same loss",
                "give runs of different seeds, not one run several times",
            )


def _check_same_stream(path: Path, run: dict[str, Any], first: dict[str, Any]) -> None:
    """Raise UsageError unless two reports are of the same tokens and bytes."""
    for key in ("scored_tokens", "scored_bytes", "tokens_sha256"):
        if run.get(key) != first.get(key):
            raise UsageError(
                f"{path} scored another stream: its {key} is {run.get(key)}, not {first.get(key)}",
                "compare runs on the same tokens, counted the same way",
            )


def _baseline(text: str, first: dict[str, Any], per_bpb: float) -> tuple[float, float]:
    """(nats per token, bits per byte) of a baseline."""
    path = Path(text)
    if path.is_file():
        report = _read(path)
        _check_same_stream(path, report, first)
        return report["val_loss"], report["val_bpb"]
    try:
        value = float(text.removesuffix("nats"))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UsageError(
            f"the baseline {text!r} is neither a report nor a figure",
            "give a JSON report, bits per byte such as 1.0810, or a loss such as 2.94nats",
        )
    return (value, value / per_bpb) if text.endswith("nats") else (value * per_bpb, value)
