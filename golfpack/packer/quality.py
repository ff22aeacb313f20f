"""Quality -> dial: the smallest artifact whose measured KL stays within a target."""

from collections.abc import Sequence
from dataclasses import replace
from math import log2

from golfpack.errors import BudgetError
from golfpack.packer.rate import RateModel
from golfpack.packer.state import FitRound, PackState, Pass, run_passes

# The search starts where most targets lie.
START_BPW = 3.0
# KL within this fraction below the target is good enough.
TOLERANCE = 0.01
# A result below this share of the target is said in a warning.
FAR_BELOW = 0.8


def fit_quality(
    state: PackState, round_: Sequence[Pass], target: float, max_rounds: int, floor_bpw: float
) -> PackState:
    """Run the passes of a round for real until the measured KL is just below `target`.

    KL grows about with the square of the dial, so each measurement leads close to the target. The
    search stops at `floor_bpw` bits per weight, where a quantized model says nothing any more.

    Raises:
        BudgetError: even the finest steps of the recipe stay above the target.
    """
    measure = state.measure
    assert measure is not None
    rate = RateModel(state)
    x, floor = rate.solve(START_BPW * rate.weights), rate.solve(floor_bpw * rate.weights)
    good: tuple[float, float] | None = None
    bad: tuple[float, float] | None = None
    best, best_kl = None, 0.0
    trace: list[FitRound] = []
    for _ in range(max_rounds):
        tried = run_passes(round_, replace(state, dial=2.0**x))
        kl = max(measure(tried.tensors), 1e-12)
        state = replace(state, coding=tried.coding)
        trace.append(FitRound(2.0**x, tried.size))
        state.notify("fit", len(trace), max_rounds, f"KL {kl:.3g} at {tried.size:,} bytes")
        # Against the target, in octaves: a little below is the aim.
        excess = log2(kl / target) - log2(1 - TOLERANCE / 2)
        if kl <= target:
            if best is None or tried.size < best.size:
                best, best_kl = tried, kl
            good = (x, excess) if good is None else max(good, (x, excess))
            if kl >= (1 - TOLERANCE) * target or x >= floor:
                break
        else:
            bad = (x, excess) if bad is None else min(bad, (x, excess))
        x = min(_next(x - 0.5 * excess, good, bad), floor)
    if best is None:
        raise BudgetError(
            f"no artifact of this recipe keeps the KL below {target:g} nats per token",
            "ask for a larger KL; recipe rd goes furthest",
        )
    if best_kl < FAR_BELOW * target:
        best = best.warn(
            f"the KL is {best_kl:.3g}, well below the {target:.3g} asked for: "
            "the recipe has no smaller artifact to offer near it"
        )
    return replace(best, trace=tuple(trace))


def _next(guess: float, good: tuple[float, float] | None, bad: tuple[float, float] | None) -> float:
    """Inside the bracket of (log2 dial, excess) by interpolation; until there is one, the guess."""
    if good is None or bad is None or good[0] >= bad[0]:
        return guess
    (a, below), (b, above) = good, bad
    return a + (b - a) * min(max(below / (below - above), 0.05), 0.95)
