"""Budget -> dial: the closed loop that makes the real file fit.

Bytes fall smoothly as the dial rises, about one bit per weight and octave. A rate model (entropy of
sampled codes rounded to nearest) finds the first dial; then the passes behind `fit` run for real, and
each real size corrects the next dial, until the file is just below the budget.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil, log2
from typing import ClassVar

import numpy as np

from golfpack.errors import BudgetError
from golfpack.packer.format.rawfloat import (
    RAW_STORAGE,
    smallest_exact,
)
from golfpack.packer.quality import fit_quality
from golfpack.packer.quantize.schemes import Keep
from golfpack.packer.rate import RateModel
from golfpack.packer.state import (
    UNLIMITED,
    Budget,
    FitRound,
    PackState,
    Pass,
    need,
    quantized_names,
    run_passes,
)
from golfpack.spec import ModelSpec

# A try this close to the coarsest steps, in octaves, is made at those first. Near them sizes fall by a
# tenth in so many octaves and scatter by a few percent at most, so that a finer try cannot fit by chance
# where the coarsest does not: which budgets are refused then depends on one size alone.
NEAR_FLOOR = 0.25
# A budget below this many bytes is a slip: no file is that small.
SLIP = 1000
# Unused budget beyond this share is said in a warning.
WORTH_A_WARNING = 0.005


@dataclass(frozen=True)
class Fit(Pass):
    """Find the dial whose artifact is the largest that fits, by running `body` for real.

    Attributes:
        tolerance: headroom that is good enough, as a fraction of the budget.
        slack: ... or in bytes, whichever is larger.
        max_rounds: real builds at most.
        floor_bpw: the coarsest steps on offer, in bits per quantized weight by the rate model: with
            less than this a quantized model says nothing any more. A budget is refused if, and only
            if, the real file at these steps is larger (pruning after rounding may go further down).
        body: the passes behind this one; the recipe fills it in.

    With a target KL in the state, the search is for the smallest file within it (`quality.py`).
    """

    name: ClassVar[str] = "fit"
    tolerance: float = 0.0002
    slack: int = 64
    max_rounds: int = 12
    floor_bpw: float = 0.5
    body: tuple[Pass, ...] = field(default=(), repr=False)

    def requires(self, state: PackState) -> None:
        need(state, "plan", self.name, "policy")

    def run(self, state: PackState) -> PackState:
        if state.target_kl is not None:
            done = fit_quality(state, self.body, self.max_rounds, self.floor_bpw)
            return self._with_pruning_measured(state, done)
        lossless = self._lossless(state)
        if lossless is not None:
            return lossless
        return self._with_pruning_measured(state, _Search(self, state).run())

    def _with_pruning_measured(self, state: PackState, done: PackState) -> PackState:
        """Code the weights with and without magnitude pruning at the same steps, nothing else pruned."""
        if state.unpruned is None:
            return done
        at = replace(state, dial=done.dial, coding=done.coding, budget=Budget(UNLIMITED))
        pruned = run_passes(self.body, at).size
        without = run_passes(self.body, replace(at, weights=state.unpruned)).size
        measured = tuple(
            replace(p, bytes_saved=without - pruned) if p.method == "magnitude" else p
            for p in done.pruning
        )
        done = replace(done, pruning=measured)
        if without >= pruned:
            return done
        return done.warn(
            f"magnitude pruning made the file {pruned - without:,} bytes larger: "
            f"{without:,} bytes at the same steps without it"
        )

    def ensures(self, state: PackState) -> None:
        blob = state.blob
        assert blob is not None
        if state.target_kl is None:
            assert len(blob) <= state.budget.artifact

    def enough(self, limit: int) -> int:
        """The headroom that is good enough below `limit`, in bytes."""
        return max(self.slack, int(self.tolerance * limit))

    def told_headroom(self, state: PackState, tries: int) -> PackState:
        """The state, with a warning where much of the budget is left after so many tries."""
        limit = state.budget.artifact
        headroom = limit - state.size
        if headroom <= max(self.enough(limit), WORTH_A_WARNING * limit):
            return state
        return state.warn(
            f"{headroom:,} bytes of the budget stay unused: no try of {tries} came closer "
            "(clips and bit widths end somewhere, and some coders' sizes jump)"
        )

    def _lossless(self, state: PackState) -> PackState | None:
        """Every float of the checkpoint kept exactly, when the budget allows that much."""
        kept = {n: Keep("exact") for n in state.plan}
        weights = state.original or state.weights
        # Floats hardly compress; only try when the real file has a chance.
        if 0.5 * exact_bytes(weights) > state.budget.artifact or not quantized_names(state):
            return None
        exact = replace(state, plan=kept, weights=weights, unpruned=None, pruning=())
        full = run_passes(self.body, exact)
        assert full.blob is not None
        if len(full.blob) > state.budget.artifact:
            return None
        full = replace(full, trace=(FitRound(0.0, len(full.blob)),))
        return full.warn("the budget holds every weight exactly; nothing was quantized")


def exact_bytes(weights: Mapping[str, np.ndarray]) -> int:
    """Bytes of all weights in the narrowest types that are exact."""
    return sum(w.size * RAW_STORAGE[smallest_exact(w)].itemsize for w in weights.values())


def coarsest(fit: Fit, rate: RateModel) -> float:
    """log2 of the coarsest dial on offer: what a file of fewer bits says is noise."""
    return rate.solve(fit.floor_bpw * rate.weights)


class _Search:
    """One search: real tries, the bracket they leave, and the best that fits."""

    def __init__(self, fit: Fit, state: PackState) -> None:
        self.fit, self.state = fit, state
        self.limit = state.budget.artifact
        self.tolerance = fit.enough(self.limit)
        # Aim for the middle of what is good enough: real sizes scatter a little around the model.
        self.aim = self.limit - self.tolerance // 2
        self.rate = RateModel(state)
        self.floor = coarsest(fit, self.rate)
        self.floor_tried = False
        self.best: PackState | None = None
        self.trace: list[FitRound] = []
        # The bracket, as (log2 dial, bytes): the finest try that fits, the coarsest that does not.
        self.fits: tuple[float, int] | None = None
        self.over: tuple[float, int] | None = None

    def run(self) -> PackState:
        x = self._reachable(self.rate.solve(8 * self.aim - self.rate.kept_bits))
        for _ in range(self.fit.max_rounds):
            size = self._attempt(x)
            if size > self.limit and x >= self.floor:
                raise _over_budget(self.state, size, self.limit)
            if 0 <= self.limit - size <= self.tolerance or self._ends_here(x, size):
                break
            x = self._reachable(self._next(x, size))
        leap = 2.0**-8
        while self.best is None:  # sizes may scatter: go on until one fits, in growing steps
            x, leap = self._reachable(x + leap), 2 * leap
            size = self._attempt(x)
            if size > self.limit and x >= self.floor:
                raise _over_budget(self.state, size, self.limit)
        return self._finished(self.best)

    def _reachable(self, x: float) -> float:
        """`x`, but no coarser than the floor, and the floor itself before anything near it."""
        near = x > self.floor - NEAR_FLOOR and not self.floor_tried
        return self.floor if near else min(x, self.floor)

    def _attempt(self, x: float) -> int:
        last = f", last {self.trace[-1].artifact_bytes:,} bytes" if self.trace else ""
        self.state.notify(
            "fit", len(self.trace), self.fit.max_rounds, f"for {self.limit:,} bytes{last}"
        )
        if x >= self.floor:
            # Its size is to be the same whatever was tried before it.
            self.state, self.floor_tried = replace(self.state, coding=None), True
        done = run_passes(self.fit.body, replace(self.state, dial=2.0**x))
        assert done.blob is not None
        # What `encode` chose holds for the whole search: sizes then follow the dial.
        self.state = replace(self.state, coding=done.coding)
        size = len(done.blob)
        self.trace.append(FitRound(2.0**x, size))
        if size > self.limit:
            self.over = (x, size) if self.over is None else max(self.over, (x, size))
            return size
        self.fits = (x, size) if self.fits is None else min(self.fits, (x, size))
        if self.best is None or self.best.blob is None or size > len(self.best.blob):
            self.best = done
        return size

    def _next(self, x: float, size: int) -> float:
        """Inside the bracket by interpolation; until there is one, by the rate model's slope."""
        if self.fits is not None and self.over is not None and self.over[0] < self.fits[0]:
            (a, big), (b, small) = self.over, self.fits
            share = log2(big / self.aim) / log2(big / small) if big > self.aim > small else 0.5
            return a + (b - a) * min(max(share, 0.02), 0.98)
        kept = self.rate.kept_bits
        share = max(8 * self.aim - kept, 1.0) / max(8 * size - kept, 1.0)
        guess = self.rate.solve(self.rate.bits(x) * share)
        # Move on at least a little, and further every time, so that no try is repeated.
        least = 2.0 ** (len(self.trace) - 11)
        return max(guess, x + least) if size > self.limit else min(guess, x - least)

    def _ends_here(self, x: float, size: int) -> bool:
        """Whether the recipe has no finer steps to offer (its bit widths or its clip end here)."""
        return size <= self.limit and abs(self.rate.bits(x - 1) - self.rate.bits(x)) < 1.0

    def _finished(self, best: PackState) -> PackState:
        return self.fit.told_headroom(replace(best, trace=tuple(self.trace)), len(self.trace))


def check_reach(fit: Fit, spec: ModelSpec, budget: Budget) -> None:
    """Refuse a budget of fewer bits per weight than `fit` has on offer, on the shapes alone.

    Before a large model is read: a build that fails takes as long as one that succeeds.

    Raises:
        BudgetError: without a shortfall, which only the weights tell exactly.
    """
    least = ceil(fit.floor_bpw * spec.numel / 8)
    if budget.artifact >= least:
        return
    raise BudgetError(
        f"{told_bytes(budget)} leave {told_bits(spec, budget)}; this recipe needs at least "
        f"{fit.floor_bpw:g}",
        f"raise the budget to {least + budget.code:,} bytes or more, or train a smaller model",
    )


def told_bytes(budget: Budget) -> str:
    """A budget for messages; one of a few bytes was meant in another unit."""
    code = f" (of which {budget.code:,} for code)" if budget.code else ""
    n = budget.total
    unit = f" ({n} is bytes; {n}bpw would be bits per weight, {n}MB megabytes)"
    return f"{n:,} bytes{code}{unit if 0 < n < SLIP else ''}"


def told_bits(spec: ModelSpec, budget: Budget) -> str:
    """What a budget leaves for each parameter, for messages, and where the parameters are."""
    bits = _bits_left(spec, budget)
    return f"{bits:.3f} bits per parameter for {spec.numel:,} parameters ({_largest(spec)})"


def _bits_left(spec: ModelSpec, budget: Budget) -> float:
    return max(0.0, 8 * budget.artifact / max(spec.numel, 1))


def _largest(spec: ModelSpec) -> str:
    largest = sorted(spec.tensors, key=lambda t: -t.numel)[:3]
    return "largest tensors: " + ", ".join(f"{t.name} {t.numel:,}" for t in largest)


def _over_budget(state: PackState, size: int, limit: int) -> BudgetError:
    shortfall, spec, budget = size - limit, state.spec, state.budget
    needed = 8 * size / max(spec.numel, 1)
    return BudgetError(
        f"the coarsest steps of this recipe make {size:,} bytes, {shortfall:,} over the budget of "
        f"{told_bytes(budget)}: they need {needed:.3f} bits per parameter, and "
        f"{_bits_left(spec, budget):.3f} are left for {spec.numel:,} parameters ({_largest(spec)})",
        f"raise the budget to {budget.total + shortfall:,} bytes, or train a smaller model",
        shortfall=shortfall,
    )
