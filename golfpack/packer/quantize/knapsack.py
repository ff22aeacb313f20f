# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (scipy has no types)
"""Mixed precision under a budget: one option per tensor, least total error, a limit on total bytes.

This is the multiple-choice knapsack problem. Its Lagrangian relaxation puts a price on a byte; every
tensor then takes the vertex of its own (bytes, error) hull where that price is met (Shoham & Gersho,
"Efficient bit allocation for an arbitrary set of quantizers", IEEE Trans. ASSP 36(9), 1988). The budget
lies between two such choices, and `milp` searches only there, among the options that reduced costs
leave (Sinha & Zoltners, "The multiple-choice knapsack problem", Operations Research 27(3), 1979).
"""

from dataclasses import dataclass
from math import ceil, isfinite

import numpy as np
from scipy import optimize, sparse

from golfpack.errors import BudgetError, UsageError

# Sizes are multiples of this many bytes: float64 then adds them exactly, in any order, below 2^43 bytes.
GRAIN = 2.0**-10

# Hull vertices above the budget that `lagrangian` tries: 4 halve its distance to the best choice, and
# 40 found nothing more (40 to 100 tensors, 4 options).
OVERSHOOT = 4

# The solver stops within 1e-6 of its objective, which is the gain looked for in this many shares.
SHARES = 1e3


@dataclass(frozen=True, eq=False)
class Menu:
    """What every tensor costs at every option.

    Attributes:
        names: (n,) tensors.
        labels: (k,) options, the same for all tensors.
        bytes: (n, k) float64 coded sizes; fractions are rounded up to 1/1024 byte.
        errors: (n, k) float64, at least 0, in a unit that adds up: each tensor's share of the KL.

    Raises:
        UsageError: shapes that disagree, no tensor, no option, or a figure that is not finite and >= 0.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    bytes: np.ndarray
    errors: np.ndarray

    def __post_init__(self) -> None:
        sizes = self._checked("bytes", self.bytes)
        object.__setattr__(self, "bytes", np.ceil(sizes / GRAIN) * GRAIN)
        object.__setattr__(self, "errors", self._checked("errors", self.errors))

    def _checked(self, what: str, values: np.ndarray) -> np.ndarray:
        values, shape = np.array(values, np.float64), (len(self.names), len(self.labels))
        if values.shape != shape or not values.size:
            raise UsageError(
                f"{what} of {shape[0]} tensors at {shape[1]} options cannot have shape {values.shape}",
                "give one row per tensor and one column per option, and at least one of each",
            )
        bad = np.argwhere(~(np.isfinite(values) & (values >= 0)))
        if len(bad):
            i, j = bad[0]
            raise UsageError(
                f"{what} of {self.names[i]} at {self.labels[j]} cannot be {values[i, j]}",
                "measure it again: sizes and errors are finite and not negative",
            )
        return values


@dataclass(frozen=True, eq=False)
class Choice:
    """One option per tensor, within the budget."""

    index: np.ndarray  # (n,) int64
    bytes: float  # total
    error: float  # total
    bound: float  # no choice within the budget has less error than this


@dataclass(frozen=True)
class _Hull:
    """Steps along the lower convex hulls of all tensors, steepest first."""

    start: np.ndarray  # (n,) the cheapest option of each tensor
    tensor: np.ndarray  # (m,) which tensor a step moves
    option: np.ndarray  # (m,) where to
    rate: np.ndarray  # (m,) error drop per byte, not rising
    bytes: np.ndarray  # (m + 1,) totals before the first step and after each one
    errors: np.ndarray  # (m + 1,)

    def fitting(self, budget: float) -> int:
        """How many of the first steps fit into `budget` bytes."""
        return int(np.searchsorted(self.bytes, budget, side="right")) - 1

    def index(self, steps: int) -> np.ndarray:
        """(n,) the options after the first `steps` steps."""
        index = self.start.copy()
        for t, option in zip(self.tensor[:steps], self.option[:steps], strict=True):
            index[t] = option
        return index

    def bound(self, budget: float) -> float:
        """The relaxation's least error: the first step that does not fit, taken in part."""
        steps = self.fitting(budget)
        price = self.rate[steps] if steps < len(self.rate) else 0.0
        return float(self.errors[steps] - price * (budget - self.bytes[steps]))


def frontier(menu: Menu) -> list[tuple[float, float]]:
    """(bytes, error) of the joint lower convex hull, cheapest first; no choice lies below it."""
    hull = _hull(menu)
    return list(zip(hull.bytes.tolist(), hull.errors.tolist(), strict=True))


def lagrangian(menu: Menu, budget: float) -> Choice:
    """The last hull vertex within the budget, its left-over bytes spent on upgrades that fit.

    The next few vertices are tried too, each after the one downgrade that makes it fit, and every
    option that all tensors can share. So the result is never worse than the best shared option, and
    worse than the best choice by at most one hull step's error, the first that does not fit.

    Raises:
        UsageError: a budget that is no number of bytes.
        BudgetError: the cheapest options are already over it.
    """
    _check_budget(menu, budget)
    hull = _hull(menu)
    steps, bound = hull.fitting(budget), hull.bound(budget)
    above = [hull.index(s) for s in range(steps + 1, steps + 1 + OVERSHOOT)]
    starts = [hull.index(steps), *(_downgraded(menu, s, budget) for s in above)]
    starts += [np.full_like(hull.start, j) for j in range(len(menu.labels))]
    starts = [s for s in starts if _picked(menu.bytes, s).sum() <= budget]
    found = [_choice(menu, _upgraded(menu, s, budget), bound) for s in starts]
    return min(found, key=lambda c: c.error)


def milp(menu: Menu, budget: float, time_limit: float = 30.0, *, gap: float = 1e-9) -> Choice:
    """The best choice within the budget, by branch and bound from `lagrangian`'s choice.

    The solver counts in shares of all there is left to gain, so errors of any span, 1e-12 to 1, are
    safe from its absolute tolerances. When time runs out, the best choice so far comes back, and its
    `bound` says how far from the best it may be; only then does the result depend on the machine.

    Args:
        time_limit: seconds.
        gap: stop once the error is above the proven bound by no more than this share of it.

    Raises:
        UsageError: a budget, time limit or gap that is no such number.
        BudgetError: as `lagrangian`.
    """
    if not (time_limit > 0 and gap >= 0):
        message = f"a search cannot have time limit {time_limit} and gap {gap}"
        raise UsageError(message, "give a time limit above 0 seconds and a gap of 0 or more")
    known = lagrangian(menu, budget)
    if known.error - known.bound <= gap * known.bound:
        return known
    return _search(menu, budget, known, time_limit, gap)


def _search(menu: Menu, budget: float, known: Choice, time_limit: float, gap: float) -> Choice:
    """Branch and bound for a choice with less error than `known`.

    With c the hull vertex below the budget, p its price of a byte and s the bytes left over, a choice
    x has error = bound + p s + the sum of its reduced costs e_x - e_c + p (b_x - b_c), none below 0:
    an option whose reduced cost exceeds `gain` = known.error - bound is in no better choice.
    """
    hull, gain = _hull(menu), known.error - known.bound
    steps = hull.fitting(budget)
    price, base, spare = hull.rate[steps], hull.index(steps), budget - hull.bytes[steps]
    extra = menu.bytes - _picked(menu.bytes, base)[:, None]
    reduced = np.maximum(menu.errors - _picked(menu.errors, base)[:, None] + price * extra, 0.0)
    kept = reduced <= gain
    kept[np.arange(len(base)), base] = False  # c is what a tensor has that takes nothing else
    tensor, option = np.nonzero(kept)
    m = len(tensor)
    if not m:
        return _choice(menu, known.index, known.error)
    _, row = np.unique(tensor, return_inverse=True)
    one_each = sparse.csr_array((np.ones(m), (row, np.arange(m))), shape=(row[-1] + 1, m + 1))
    unit = np.abs(extra[kept]).max()
    spent = np.append(extra[kept] / unit, 1.0)[None]
    limits = {"time_limit": time_limit, "mip_rel_gap": gap * known.bound / gain}
    result = optimize.milp(
        np.append(reduced[kept], price * unit) * (SHARES / gain),
        integrality=np.append(np.ones(m), 0),
        constraints=[
            optimize.LinearConstraint(one_each, -np.inf, 1.0),
            optimize.LinearConstraint(spent, spare / unit, spare / unit),
        ],
        options=limits
        | {"presolve": False},  # which takes twice the time, and leaves 1e-7 unproven
    )
    proven = 0.0 if result.mip_dual_bound is None else max(0.0, result.mip_dual_bound)
    bound = known.bound + gain * min(1.0, proven / SHARES)
    index = base.copy()
    if result.x is not None:
        taken = result.x[:m] > 0.5
        index[tensor[taken]] = option[taken]
    # The solver meets constraints within a tolerance; a budget has none.
    found = [_choice(menu, i, bound) for i in (index, known.index)]
    return min((c for c in found if c.bytes <= budget), key=lambda c: c.error)


def _hull(menu: Menu) -> _Hull:
    """Walk every tensor from its cheapest option along its lower convex hull."""
    start = _cheapest(menu)
    index, rate = start.copy(), np.full(len(start), np.inf)
    found: list[tuple[np.ndarray, ...]] = []
    while True:
        rates = _rates(menu, index)
        best = rates.max(1)
        moved = np.flatnonzero(best > 0)
        if not len(moved):
            break
        # Of several options on one line the nearest comes first.
        nearest = np.where(rates == best[:, None], menu.bytes, np.inf).argmin(1)
        rate = np.minimum(rate, best)  # rounding must not make a later step the steeper one
        extra = _picked(menu.bytes, nearest) - _picked(menu.bytes, index)
        drop = _picked(menu.errors, index) - _picked(menu.errors, nearest)
        found.append((moved, nearest[moved], rate[moved], extra[moved], drop[moved]))
        index[moved] = nearest[moved]
    columns = [np.concatenate(c) for c in zip(*found, strict=True)] or [np.zeros(0, np.int64)] * 5
    order = np.argsort(-columns[2], kind="stable")  # a tensor's steps of one rate stay in order
    tensor, option, rate, extra, drop = (c[order] for c in columns)
    sizes = _picked(menu.bytes, start).sum() + np.append(0.0, np.cumsum(extra))
    # Summed from the dear end, so that no small error is a difference of large ones.
    errors = _picked(menu.errors, index).sum() + np.append(np.cumsum(drop[::-1])[::-1], 0.0)
    return _Hull(start, tensor, option, rate, sizes, errors)


def _upgraded(menu: Menu, index: np.ndarray, budget: float) -> np.ndarray:
    """Take the upgrade with the largest error drop per byte that fits, until none fits."""
    index = index.copy()
    while True:
        rates = np.where(_fitting(menu, index, budget), _rates(menu, index), 0.0)
        tensor, option = np.unravel_index(rates.argmax(), rates.shape)
        if rates[tensor, option] <= 0:
            return index
        index[tensor] = option


def _downgraded(menu: Menu, index: np.ndarray, budget: float) -> np.ndarray:
    """Take the one downgrade of least error that brings `index` within the budget, if one does."""
    rise = menu.errors - _picked(menu.errors, index)[:, None]
    rise = np.where(_fitting(menu, index, budget), rise, np.inf)
    tensor, option = np.unravel_index(rise.argmin(), rise.shape)
    index = index.copy()
    index[tensor] = option
    return index


def _fitting(menu: Menu, index: np.ndarray, budget: float) -> np.ndarray:
    """(n, k) whether `index` is within the budget once that tensor moves to that option."""
    sizes = _picked(menu.bytes, index)
    return menu.bytes - sizes[:, None] + sizes.sum() <= budget


def _rates(menu: Menu, index: np.ndarray) -> np.ndarray:
    """(n, k) error drop per extra byte of moving one tensor away from `index`; 0 if it is no upgrade."""
    extra = menu.bytes - _picked(menu.bytes, index)[:, None]
    drop = _picked(menu.errors, index)[:, None] - menu.errors
    return np.where((extra > 0) & (drop > 0), drop / np.where(extra > 0, extra, 1.0), 0.0)


def _cheapest(menu: Menu) -> np.ndarray:
    """(n,) the option of the fewest bytes; of equal ones that of the least error."""
    fewest = menu.bytes == menu.bytes.min(1, keepdims=True)
    return np.where(fewest, menu.errors, np.inf).argmin(1)


def _picked(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    return values[np.arange(len(index)), index]


def _choice(menu: Menu, index: np.ndarray, bound: float) -> Choice:
    error = float(_picked(menu.errors, index).sum())
    return Choice(index, float(_picked(menu.bytes, index).sum()), error, min(bound, error))


def _check_budget(menu: Menu, budget: float) -> None:
    if not isfinite(budget):
        raise UsageError(f"a budget cannot be {budget} bytes", "give a number of bytes")
    cheapest = float(menu.bytes.min(1).sum())
    if cheapest > budget:
        shortfall = ceil(cheapest - budget)
        raise BudgetError(
            f"the cheapest options are {shortfall:,} bytes over the budget of {budget:,.0f} bytes",
            f"raise the budget to {ceil(cheapest):,} bytes, or offer cheaper options",
            shortfall=shortfall,
        )
