"""The logs of a submission: what was trained and what it scored, over seeds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golfpack.base.documents import read_json
from golfpack.errors import UsageError, unreadable
from golfpack.eval.report import StatsReport
from golfpack.eval.stats import is_evaluation, significance
from golfpack.submission.count import LOG_KINDS

# What evaluations must share for a mean over them to say anything.
_SAME = ("tokens_sha256", "scored_bytes", "mode", "ttt", "window")


@dataclass(frozen=True)
class Logs:
    """Files, and the scores in them.

    Attributes:
        files: as they were named; of no two the same file name.
        evaluations: those that `golfpack eval --json` wrote, by file name.
        stats: against a baseline, if one was given.
    """

    files: tuple[Path, ...]
    evaluations: dict[str, dict[str, Any]]
    stats: StatsReport | None

    def mean(self, key: str) -> float | None:
        """Of a figure over the evaluations; None without any."""
        values = [e[key] for e in self.evaluations.values()]
        return statistics.fmean(values) if values else None

    def std(self, key: str) -> float | None:
        """Its spread (n - 1); None of fewer than two."""
        values = [e[key] for e in self.evaluations.values()]
        return statistics.stdev(values) if len(values) > 1 else None


def read_logs(files: Sequence[Path], baseline: str | None) -> Logs:
    """Look into logs.

    Raises:
        UsageError: a file is missing, of a kind that would count as code, or named as another; the
            evaluations among them are of different streams or modes; a baseline without two of them.
    """
    evaluations: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    for path in files:
        if not path.is_file():
            raise unreadable(path, what="log ")
        if path.suffix not in LOG_KINDS:
            raise UsageError(
                f"{path} is no log: a file of its kind counts as code",
                f"logs end in {', '.join(sorted(LOG_KINDS))}; --code FILE adds code",
            )
        if path.name in seen:
            raise UsageError(f"two logs are named {path.name}", "give each a name of its own")
        seen.add(path.name)
        found = (
            read_json(path, "logs that end in .json are reports") if path.suffix == ".json" else {}
        )
        if is_evaluation(found):
            evaluations[path.name] = found
    _check_same(evaluations)
    stats = None
    if baseline is not None:
        stats = significance([p for p in files if p.name in evaluations], baseline)
    return Logs(tuple(files), evaluations, stats)


def _check_same(evaluations: dict[str, dict[str, Any]]) -> None:
    (first, told), *others = evaluations.items() or [("", {})]
    for name, other in others:
        for key in _SAME:
            if other.get(key) != told.get(key):
                raise UsageError(
                    f"{name} and {first} differ in {key}: {other.get(key)} and {told.get(key)}",
                    "evaluate every seed on the same tokens, in the same way",
                )


def figure(value: float | None) -> float | None:
    """A figure as records give it: eight decimals."""
    return None if value is None or not math.isfinite(value) else round(value, 8)
