"""The searches behind `tune-cache`: over a cache's formats, and over ways to read them.

Formats: a greedy climb. Neighbours of a policy differ by one step in one thing: the residual, the block
of all quantized tensors, or the kind of one tensor. Of those within the budget the fastest is taken, of
several within 2% of it the smallest, and only while it is at least 2% faster than what there is. The
climb's steps are then held to limits of quality, the last first, and the first that keeps them is the
answer; fp16 where none does.

Plans: the fastest, but the one in use stays unless another is at least 3% faster.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from golfpack.kv.layout import PLAIN_BYTES, CacheLayout, tuning_budget
from golfpack.kv.plans import Plan
from golfpack.kv.policy import residual_of

RESIDUALS = (0, 32, 64, 128)
BLOCKS = (16, 32, 64)
KINDS = ("q4_0", "nf4", "q8_0", "fp16")
# A policy must be this much faster to be taken, and within this much the smaller one is.
FASTER = 0.02
# A plan must be this much faster than the one in use.
HYSTERESIS = 0.03


@dataclass(frozen=True)
class Tried:
    """A policy that was timed: bytes at the context, seconds a token, and whether it was taken."""

    layout: CacheLayout
    bytes: int
    seconds: float
    taken: bool


def neighbours(layout: CacheLayout) -> Iterator[CacheLayout]:
    """Policies one step away."""
    quantized = [t for t in layout.tensors if t.format not in PLAIN_BYTES]
    if quantized:
        for residual in _beside(RESIDUALS, residual_of(layout)):
            yield _with(layout, residual=residual)
        for block in _beside(BLOCKS, quantized[0].block):
            yield _with(layout, block=block)
    for i, t in enumerate(layout.tensors):
        if t.format not in KINDS:
            continue
        for kind in _beside(KINDS, t.format):
            changed = replace(t, format=kind, residual=residual_of(layout))
            yield replace(layout, tensors=(*layout.tensors[:i], changed, *layout.tensors[i + 1 :]))


def _beside(steps: Sequence[object], at: object) -> list[object]:
    """The steps before and after a value; all of them for a value that is none of the steps."""
    if at not in steps:
        return list(steps)
    i = steps.index(at)
    return [*steps[max(0, i - 1) : i], *steps[i + 1 : i + 2]]


def _with(layout: CacheLayout, **changes: object) -> CacheLayout:
    tensors = (
        t if t.format in PLAIN_BYTES else replace(t, **changes)  # type: ignore[arg-type]
        for t in layout.tensors
    )
    return replace(layout, tensors=tuple(tensors))


def start_of(base: CacheLayout, context: int, budget: int) -> CacheLayout:
    """The base with the largest residual, no larger than its own, that the budget has room for."""
    own = residual_of(base)
    for residual in sorted({own, *(r for r in RESIDUALS if r < own)}, reverse=True):
        tried = _with(base, residual=residual)
        if tried.bytes(context) <= budget:
            return tried
    return _with(base, residual=0)


def climb(
    base: CacheLayout,
    seconds: Callable[[CacheLayout], float],
    context: int,
    budget: int | None = None,
) -> list[Tried]:
    """Everything that was timed, in order; what was taken is the climb's path.

    Args:
        base: where it begins, with the largest residual that fits.
        seconds: of one token under a policy.
        context: positions that bytes are counted for.
        budget: bytes at most; None for those of the base without residual, and 10% more.
    """
    budget = tuning_budget(base, context) if budget is None else budget
    current = start_of(base, context, budget)
    now = Tried(current, current.bytes(context), seconds(current), True)
    tried, seen = [now], {current}
    while True:
        fresh = [n for n in dict.fromkeys(neighbours(now.layout)) if n not in seen]
        seen.update(fresh)
        sized = [(n, n.bytes(context)) for n in fresh]
        found = [Tried(n, size, seconds(n), False) for n, size in sized if size <= budget]
        best = _best(found)
        if best is None or best.seconds > now.seconds * (1 - FASTER):
            return tried + found
        now = replace(best, taken=True)
        tried += [now if t is best else t for t in found]


def _best(found: Sequence[Tried]) -> Tried | None:
    if not found:
        return None
    fastest = min(t.seconds for t in found)
    near = [t for t in found if t.seconds <= fastest * (1 + FASTER)]
    return min(near, key=lambda t: (t.bytes, t.seconds))


def choose_plan(
    plans: Sequence[Plan], seconds: Callable[[Plan], float], in_use: Plan
) -> tuple[Plan, dict[Plan, float]]:
    """The plan to use from now on, and every plan's seconds a token."""
    times = {plan: seconds(plan) for plan in plans}
    fastest = min(times, key=lambda plan: times[plan])
    if in_use in times and times[fastest] > times[in_use] * (1 - HYSTERESIS):
        return in_use, times
    return fastest, times
