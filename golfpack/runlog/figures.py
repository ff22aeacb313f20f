"""The figures of a run report: pure functions of a log's records.

Everything counts records. Steps that have none are reported as missing, never assumed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from golfpack.runlog.log import PHASES, LogStep

PERCENTILES = (1, 10, 25, 50, 75, 90, 99)
SPIKES = (100.0, 1000.0)
FINAL_STEPS = 5
# Steps that tell how a run began; beyond them milestones come at even distances.
EARLY = (1, 10, 50, 100, 250, 500, 750, 1000)
MOST_RANGES = 6


@dataclass(frozen=True)
class Coverage:
    """Which steps have records.

    Attributes:
        records: how many there are, repeats included.
        expected: steps that should have one, by the run's own interval; None where that is unknown.
        missing: how many of those have none.
        duplicates: records beyond the first of their step.
        nonfinite: records whose loss or gradient norm is no finite number.
    """

    records: int
    expected: int | None
    missing: int | None
    duplicates: int
    nonfinite: int


@dataclass(frozen=True)
class LossRange:
    """Training losses of the records in a range of steps, nats per token.

    Attributes:
        first: the range begins after this step; the first range holds step 0, too.
        last: the last step of the range.
        mean: of the finite losses; None where there are none.
        min: the lowest.
        records: how many records lie in the range.
    """

    first: int
    last: int
    mean: float | None
    min: float | None
    records: int


@dataclass(frozen=True)
class Spikes:
    """Records whose gradient norm exceeds a threshold.

    Attributes:
        threshold: the norm to exceed.
        count: how many records do.
        share: of the records that have a norm.
    """

    threshold: float
    count: int
    share: float


@dataclass(frozen=True)
class GradientNorms:
    """Global gradient norms before clipping, over the records that have a finite one.

    Attributes:
        records: how many those are.
        mean: of their norms.
        min, max: lowest and highest norm.
        percentiles: with linear interpolation, as numpy's default; keys "p1" to "p99".
        spikes: norms above 100 and above 1,000.
    """

    records: int
    mean: float
    min: float
    max: float
    percentiles: dict[str, float]
    spikes: list[Spikes]


@dataclass(frozen=True)
class Phase:
    """One phase of a step.

    Attributes:
        name: as the report writes it.
        ms: mean milliseconds.
        share: of the step.
    """

    name: str
    ms: float
    share: float


@dataclass(frozen=True)
class Timing:
    """Where a step's time goes, as means over the records that have a breakdown.

    Attributes:
        records: how many those are.
        step_ms: the whole step; the sum of the phases where the log has no time of steps.
        phases: "Other" is what of the step no phase accounts for.
    """

    records: int
    step_ms: float
    phases: list[Phase]


def finite(values: Sequence[float | None]) -> list[float]:
    """The numbers among them."""
    return [v for v in values if v is not None and math.isfinite(v)]


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the finite ones, or None."""
    numbers = finite(values)
    return math.fsum(numbers) / len(numbers) if numbers else None


def coverage(steps: Sequence[LogStep], interval: int | None) -> Coverage:
    """Records against the steps that should have one: multiples of `interval` up to the last."""
    seen = {s.step for s in steps}
    expected = missing = None
    if interval and seen:
        expected = max(seen) // interval
        missing = expected - sum(step > 0 and step % interval == 0 for step in seen)
    return Coverage(
        records=len(steps),
        expected=expected,
        missing=missing,
        duplicates=len(steps) - len(seen),
        nonfinite=sum(_nonfinite(s) for s in steps),
    )


def _nonfinite(step: LogStep) -> bool:
    return any(v is not None and not math.isfinite(v) for v in (step.loss, step.grad_norm))


def edges(last: int) -> list[int]:
    """Round boundaries from 0 to the last step: about six ranges, the first cut in half.

    5,539 gives 0, 500, 1000, 2000, 3000, 4000, 5539: a remainder joins the range before it.
    """
    if last < 1:
        return [0, max(last, 0)]
    width = _range_width(last)
    marks = list(range(width, last - width + 1, width))
    return sorted({0, last, *marks, *({width // 2} if marks else ())})


def _range_width(last: int) -> int:
    """The smallest of 1, 2, 5, 10, ... that cuts the steps into `MOST_RANGES` or fewer."""
    for power in range(20):
        for digit in (1, 2, 5):
            if last <= MOST_RANGES * digit * 10**power:
                return digit * 10**power
    raise AssertionError("no run has that many steps")


def loss_ranges(steps: Sequence[LogStep]) -> list[LossRange]:
    """The losses by ranges of steps; their record counts sum to the number of records."""
    if not steps:
        return []
    marks = edges(max(s.step for s in steps))
    ranges = []
    for first, last in pairwise(marks):
        inside = [s for s in steps if first < s.step <= last or s.step == first == 0]
        losses = finite([s.loss for s in inside])
        ranges.append(LossRange(first, last, mean(losses), min(losses, default=None), len(inside)))
    return ranges


def milestones(steps: Sequence[LogStep]) -> list[LogStep]:
    """Records of early steps and of evenly spaced ones; of repeated steps the last."""
    if not steps:
        return []
    last = max(s.step for s in steps)
    width = _range_width(last)
    spacing = width if last <= EARLY[-1] else max(1, width // 2)
    regular = range(spacing, last + 1, spacing)
    wanted = {*EARLY, *(s for s in regular if s > EARLY[-1] or last <= EARLY[-1])}
    by_step = {s.step: s for s in steps}
    return [by_step[step] for step in sorted(wanted & by_step.keys())]


def final_steps(steps: Sequence[LogStep]) -> list[LogStep]:
    """The last records by step."""
    return sorted(steps, key=lambda s: s.step)[-FINAL_STEPS:]


def gradient_norms(steps: Sequence[LogStep]) -> GradientNorms | None:
    """Statistics of the norms before clipping, or None where the log has none."""
    norms = np.array(finite([s.grad_norm for s in steps]))
    if not norms.size:
        return None
    values = np.percentile(norms, PERCENTILES)
    spikes = [Spikes(t, int((norms > t).sum()), float((norms > t).mean())) for t in SPIKES]
    return GradientNorms(
        records=int(norms.size),
        mean=math.fsum(norms) / norms.size,
        min=float(norms.min()),
        max=float(norms.max()),
        percentiles={f"p{p}": float(v) for p, v in zip(PERCENTILES, values, strict=True)},
        spikes=spikes,
    )


def timing(steps: Sequence[LogStep]) -> Timing | None:
    """The breakdown of a step's time, or None where no record has one."""
    timed = [s for s in steps if s.phases and all(map(math.isfinite, s.phases.values()))]
    if not timed:
        return None
    names = [name for name in PHASES if any(name in s.phases for s in timed)]
    times = {n: math.fsum(s.phases.get(n, 0.0) for s in timed) / len(timed) for n in names}
    accounted = math.fsum(times.values())
    whole = mean([s.step_ms for s in timed])
    total = accounted if whole is None else max(whole, accounted)
    if total > accounted:
        times["other"] = times.get("other", 0.0) + total - accounted
    share = (lambda ms: ms / total) if total else (lambda ms: 0.0)
    phases = [Phase(PHASES[n], times[n], share(times[n])) for n in PHASES if n in times]
    return Timing(len(timed), total, phases)
