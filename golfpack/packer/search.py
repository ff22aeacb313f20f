"""Budget -> dial: the closed loop that makes the real file fit, and its twin for a KL.

Bytes fall smoothly as the dial rises, about one bit per weight and octave. A rate model (entropy of
sampled codes rounded to nearest) finds the first dial; then the weights are quantized and written for
real, and each real size corrects the next dial, until the file is just below the budget.

The search is a driver over a recipe's passes: `round` stands for those that depend on the dial, run
once for every dial that is tried.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log2

import numpy as np

from golfpack.base.convert import check_counts, require
from golfpack.errors import BudgetError
from golfpack.packer.aim import Budget, bits_left, largest_tensors, told_bytes
from golfpack.packer.format.rawfloat import RAW_STORAGE, smallest_exact
from golfpack.packer.quality import fit_quality
from golfpack.packer.quantize.schemes import Keep
from golfpack.packer.rate import RateModel
from golfpack.packer.state import FitRound, PackState, Pass, need, quantized_names, run_passes

# A try this close to the coarsest steps, in octaves, is made at those first. Near them sizes fall by a
# tenth in so many octaves and scatter by a few percent at most, so that a finer try cannot fit by chance
# where the coarsest does not: which budgets are refused then depends on one size alone.
NEAR_FLOOR = 0.25
# A budget of more bits per quantized weight may hold more than the model can use: at so many, KLs of
# 2e-5 and 4e-5 nats per token were found on models of 0.5M and 5M weights, and 1e-6 at 7.3 and 7.8 bits.
AMPLE_BPW = 6.0
# A try at least so close to `least_kl`, as a factor, will do.
NEAR_LEAST = 4.0
# For people who would rather have a small file, the note names the size at this KL.
TOLD_KL = 1e-4
# Unused budget beyond this share is said in a warning.
WORTH_A_WARNING = 0.005


@dataclass(frozen=True)
class Search:
    """The options of the search for a dial; a recipe's table `search`.

    Attributes:
        tolerance: headroom that is good enough, as a fraction of the budget.
        slack: ... or in bytes, whichever is larger.
        max_rounds: real builds at most.
        floor_bpw: the coarsest steps on offer, in bits per quantized weight by the rate model: with
            less than this a quantized model says nothing any more. A budget is refused if, and only
            if, the real file at these steps is larger (pruning after rounding may go further down).
        least_kl: nats per token, far below what any evaluation can tell from none: a budget with room
            for less KL is not filled; 0 fills every budget.
    """

    tolerance: float = 0.0002
    slack: int = 64
    max_rounds: int = 12
    floor_bpw: float = 0.5
    least_kl: float = 1e-6
    in_sequence: bool = False
    sequence_tokens: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.tolerance < 1, f"search.tolerance is {self.tolerance}", "choose 0 to 1")
        require(self.floor_bpw >= 0, f"search.floor_bpw is {self.floor_bpw}", "choose 0 or more")
        require(self.least_kl >= 0, f"search.least_kl is {self.least_kl}", "choose 0 or more")
        counts = {"max_rounds": (self.max_rounds, 1), "slack": (self.slack, 0)}
        counts["sequence_tokens"] = (self.sequence_tokens, 0)
        check_counts(**counts)

    def enough(self, limit: int) -> int:
        """The headroom that is good enough below `limit`, in bytes."""
        return max(self.slack, int(self.tolerance * limit))

    def loses(self, kl: float) -> bool:
        """Whether a measured KL is more than nothing to speak of."""
        return kl > NEAR_LEAST * self.least_kl

    def coarsest(self, rate: RateModel) -> float:
        """log2 of the coarsest dial on offer: what a file of fewer bits says is noise."""
        return rate.solve(self.floor_bpw * rate.weights)


def fit_bytes(
    search: Search, round_: Sequence[Pass], state: PackState, budget: Budget
) -> PackState:
    """The largest artifact within a budget, or with every float exact where that fits, too.

    A budget with room for more than the model can use (`Search.least_kl`) is left unfilled, with a note.

    Args:
        round_: the passes that depend on the dial, the writing ones last.
        state: as the passes before them left it; its `limit` is the budget's.

    Raises:
        BudgetError: the coarsest steps on offer make a larger file; tells how much larger.
    """
    need(state, "plan", "search", "policy")
    if exact_bytes(state.original or state.weights) > budget.artifact:
        enough = _enough(search, round_, state, budget.artifact)
        if enough is not None:
            return _with_pruning_measured(round_, state, enough)
    exact = _exact(round_, state, budget.artifact)
    if exact is not None:
        return exact
    found = _Bracket(search, round_, state, budget).run()
    assert found.size <= budget.artifact
    return _with_pruning_measured(round_, state, found)


def fit_kl(search: Search, round_: Sequence[Pass], state: PackState, target: float) -> PackState:
    """The smallest artifact whose measured KL is at most `target`, nats per token.

    Raises:
        BudgetError: even the finest steps of the recipe stay above the target.
    """
    need(state, "plan", "search", "policy")
    found = fit_quality(state, round_, target, search.max_rounds, search.floor_bpw)
    return _with_pruning_measured(round_, state, found)


def _with_pruning_measured(round_: Sequence[Pass], state: PackState, found: PackState) -> PackState:
    """Code the weights with and without magnitude pruning at the same steps, nothing else pruned."""
    if state.unpruned is None:
        return found
    at = replace(state, dial=found.dial, coding=found.coding, limit=None)
    pruned = run_passes(round_, at).size
    without = run_passes(round_, replace(at, weights=state.unpruned)).size
    measured = tuple(
        replace(p, bytes_saved=without - pruned) if p.method == "magnitude" else p
        for p in found.pruning
    )
    found = replace(found, pruning=measured)
    if without >= pruned:
        return found
    return found.warn(
        f"magnitude pruning made the file {pruned - without:,} bytes larger: "
        f"{without:,} bytes at the same steps without it"
    )


def _enough(
    search: Search, round_: Sequence[Pass], state: PackState, limit: int
) -> PackState | None:
    """An artifact that loses nothing to speak of, well below a budget; None where the budget rules.

    Searching for a file that fills such a budget takes minutes, at steps so fine that coding is slow,
    and changes nothing that can be measured.
    """
    rate = RateModel(state)
    names = quantized_names(state)
    # Where widths and clips end, so does the size, in a round or two.
    endless = names and all(state.plan[n].limit is None for n in names)
    if state.measure is None or search.least_kl == 0 or not endless:
        return None
    if not ample(rate, limit):
        return None
    state.notify(
        "fit", 0, 2, f"{limit:,} bytes hold {bits_left(state.spec, limit):.1f} bits per weight: "
        "looking how few do"
    )  # fmt: skip
    x = rate.solve(AMPLE_BPW * rate.weights)
    first = found = run_passes(round_, replace(state, dial=2.0**x))
    # The KL grows with the square of the dial.
    first_kl = kl = max(state.measure(first.tensors), 1e-12)
    finer = x - 0.5 * log2(kl / search.least_kl)
    if kl > search.least_kl:
        if max(first.size, kept_and_coded(rate, x, first.size, finer)) > limit:
            return None
        found = run_passes(round_, replace(state, dial=2.0**finer, coding=first.coding))
        kl = state.measure(found.tensors)
    if found.size > limit or search.loses(kl):
        return None
    some = kept_and_coded(rate, x, first.size, x + 0.5 * log2(TOLD_KL / first_kl))
    tried = (first,) if found is first else (first, found)
    found = replace(found, trace=tuple(FitRound(t.dial, t.size) for t in tried))
    return found.note(
        f"{limit:,} bytes are more than this model can use: {found.size:,} keep the KL at {kl:.1g} "
        f"nats per token, which no evaluation tells from none; for {TOLD_KL:g} about {some:,} would do; "
        "--set search.least_kl=0 fills the budget"
    )


def ample(rate: RateModel, limit: int) -> bool:
    """Whether so many bytes may be more than the model can use."""
    return 8 * limit - rate.kept_bits > AMPLE_BPW * rate.weights > 0


def kept_and_coded(rate: RateModel, x: float, size: int, other: float) -> int:
    """Bytes to expect at log2(dial) = `other`, where a real file at `x` has `size`."""
    ratio = (8 * size - rate.kept_bits) / max(rate.bits(x), 1.0)
    return round((rate.kept_bits + ratio * rate.bits(other)) / 8)


def _exact(round_: Sequence[Pass], state: PackState, limit: int) -> PackState | None:
    """Every float of the checkpoint kept exactly, when so many bytes allow it."""
    weights = state.original or state.weights
    # Floats hardly compress; only try when the real file has a chance.
    if 0.5 * exact_bytes(weights) > limit or not quantized_names(state):
        return None
    full = run_passes(
        round_, replace(kept_exact(state), weights=weights, unpruned=None, pruning=())
    )
    if full.size > limit:
        return None
    full = replace(full, trace=(FitRound(0.0, full.size),))
    return full.warn("the budget holds every weight exactly; nothing was quantized")


def kept_exact(state: PackState) -> PackState:
    """A plan in place of the recipe's: every tensor in the narrowest float type that is exact."""
    return replace(state, dial=0.0, plan={t.name: Keep("exact") for t in state.spec.tensors})


def exact_bytes(weights: Mapping[str, np.ndarray]) -> int:
    """Bytes of all weights in the narrowest types that are exact."""
    return sum(w.size * RAW_STORAGE[smallest_exact(w)].itemsize for w in weights.values())


class _Bracket:
    """One search: real tries, the bracket they leave, and the best that fits."""

    def __init__(
        self, search: Search, round_: Sequence[Pass], state: PackState, budget: Budget
    ) -> None:
        self.search, self.round, self.state, self.budget = search, round_, state, budget
        self.limit = budget.artifact
        self.tolerance = search.enough(self.limit)
        # Aim for the middle of what is good enough: real sizes scatter a little around the model.
        self.aim = self.limit - self.tolerance // 2
        self.rate = RateModel(state)
        self.floor = search.coarsest(self.rate)
        self.floor_tried = False
        self.best: PackState | None = None
        self.trace: list[FitRound] = []
        # The bracket, as (log2 dial, bytes): the finest try that fits, the coarsest that does not.
        self.fits: tuple[float, int] | None = None
        self.over: tuple[float, int] | None = None

    def run(self) -> PackState:
        """The best that fits. Raises BudgetError where the coarsest steps do not."""
        x = self._reachable(self.rate.solve(8 * self.aim - self.rate.kept_bits))
        for _ in range(self.search.max_rounds):
            size = self._attempt(x)
            if 0 <= self.limit - size <= self.tolerance or self._ends_here(x, size):
                break
            x = self._reachable(self._next(x, size))
        leap = 2.0**-8
        while self.best is None:  # sizes may scatter: go on until one fits, in growing steps
            x, leap = self._reachable(x + leap), 2 * leap
            self._attempt(x)
        return self._finished(self.best)

    def _reachable(self, x: float) -> float:
        """`x`, but no coarser than the floor, and the floor itself before anything near it."""
        near = x > self.floor - NEAR_FLOOR and not self.floor_tried
        return self.floor if near else min(x, self.floor)

    def _attempt(self, x: float) -> int:
        """The size of the file at log2(dial) = x. Raises BudgetError where nothing is coarser."""
        last = f", last {self.trace[-1].artifact_bytes:,} bytes" if self.trace else ""
        self.state.notify(
            "fit", len(self.trace), self.search.max_rounds, f"for {self.limit:,} bytes{last}"
        )
        if x >= self.floor:
            # Its size is to be the same whatever was tried before it.
            self.state, self.floor_tried = replace(self.state, coding=None), True
        tried = run_passes(self.round, replace(self.state, dial=2.0**x))
        # What `encode` chose holds for the whole search: sizes then follow the dial.
        self.state = replace(self.state, coding=tried.coding)
        size = tried.size
        self.trace.append(FitRound(2.0**x, size))
        if size > self.limit:
            self.over = (x, size) if self.over is None else max(self.over, (x, size))
            if x >= self.floor:
                raise self._over_budget(size)
            return size
        self.fits = (x, size) if self.fits is None else min(self.fits, (x, size))
        if self.best is None or size > self.best.size:
            self.best = tried
        return size

    def _next(self, x: float, size: int) -> float:
        """Inside the bracket by interpolation; until there is one, by the rate model's slope."""
        if self.fits is not None and self.over is not None and self.over[0] < self.fits[0]:
            (a, big), (b, small) = self.over, self.fits
            above, below = log2(big / self.aim), log2(small / self.aim)
            if size > self.limit:
                below *= self._held()
            else:
                above *= self._held()
            share = above / (above - below) if above > 0 > below else 0.5
            return a + (b - a) * min(max(share, 0.02), 0.98)
        kept = self.rate.kept_bits
        share = max(8 * self.aim - kept, 1.0) / max(8 * size - kept, 1.0)
        guess = self.rate.solve(self.rate.bits(x) * share)
        # Move on at least a little, and further every time, so that no try is repeated.
        least = 2.0 ** (len(self.trace) - 11)
        return max(guess, x + least) if size > self.limit else min(guess, x - least)

    def _held(self) -> float:
        """What the end of the bracket that no try has moved lately still counts, of 1.

        Where sizes bend, tries come from one side by ever smaller steps. From the third on the other end
        counts less, by what each has come nearer (Anderson and Bjoerck, BIT 13, 1973).
        """
        off = [log2(r.artifact_bytes / self.aim) for r in self.trace]
        sides = [r.artifact_bytes > self.limit for r in self.trace]
        alike = next((n for n, side in enumerate(sides[::-1]) if side != sides[-1]), len(sides))
        held = 1.0
        for before, after in pairwise(off[-alike:][1:]):
            held *= 1 - after / before if 0 < after / before < 1 else 0.5
        return held

    def _ends_here(self, x: float, size: int) -> bool:
        """Whether the recipe has no finer steps to offer (its bit widths or its clip end here)."""
        return size <= self.limit and abs(self.rate.bits(x - 1) - self.rate.bits(x)) < 1.0

    def _finished(self, best: PackState) -> PackState:
        """The best try with the trace, and a warning where much of the budget is left."""
        best = replace(best, trace=tuple(self.trace))
        headroom = self.limit - best.size
        if headroom <= max(self.tolerance, WORTH_A_WARNING * self.limit):
            return best
        return best.warn(
            f"{headroom:,} bytes of the budget stay unused: no try of {len(self.trace)} came closer "
            "(clips and bit widths end somewhere, and some coders' sizes jump)"
        )

    def _over_budget(self, size: int) -> BudgetError:
        what = "the coarsest steps of this recipe make"
        if (exact := _exact(self.round, self.state, size)) is not None:
            what, size = "every float as it is takes", exact.size
        shortfall, spec, budget = size - self.limit, self.state.spec, self.budget
        needed = 8 * size / max(spec.numel, 1)
        return BudgetError(
            f"{what} {size:,} bytes, {shortfall:,} over the budget of "
            f"{told_bytes(budget)}: they need {needed:.3f} bits per parameter, and "
            f"{bits_left(spec, self.limit):.3f} are left for {spec.numel:,} parameters "
            f"({largest_tensors(spec)})",
            f"raise the budget to {budget.total + shortfall:,} bytes, or train a smaller model",
            shortfall=shortfall,
        )
