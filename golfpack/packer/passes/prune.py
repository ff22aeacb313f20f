"""Pruning passes: the smallest weights before quantising, or +-1 codes after it, down to the budget."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from golfpack.packer.ir import ROLES, QTensor
from golfpack.packer.options import require
from golfpack.packer.quantize.prune import Ones, order_ones
from golfpack.packer.state import (
    PackState,
    Pass,
    Pruning,
    need,
    quantised_names,
    run_passes,
)

# Prices of +-1 codes are worked out anew this often on the way.
HELPINGS = 4
# More codes are lined up than the estimate asks for: real coders save less than order 0 says.
MARGIN = 1.6


@dataclass(frozen=True)
class PruneMagnitude(Pass):
    """Zero the smallest weights of every quantised matrix (record of 2026-03-20).

    It often makes files larger: zeros that the step would not have made are spread where the coder
    expects small codes. `fit` measures that at the end, and the report says it.

    Attributes:
        share: of each matrix's weights.
        roles: tensors of other roles are left alone.
    """

    name: ClassVar[str] = "prune_magnitude"
    share: float = 0.03
    roles: tuple[str, ...] = tuple(r for r in ROLES if r != "vector")

    def __post_init__(self) -> None:
        what = f"prune_magnitude.share is {self.share}"
        require(0 < self.share < 1, what, "choose a share between 0 and 1")
        for role in self.roles:
            known = f"roles: {', '.join(ROLES)}"
            require(role in ROLES, f"prune_magnitude.roles: unknown role {role!r}", known)

    def requires(self, state: PackState) -> None:
        need(state, "plan", self.name, "policy")

    def run(self, state: PackState) -> PackState:
        weights, zeroed = dict(state.weights), 0
        for name in quantised_names(state):
            if state.spec[name].role not in self.roles or not weights[name].size:
                continue
            size = np.abs(weights[name])
            small = size < np.quantile(size, self.share)
            zeroed += int(np.count_nonzero(small & (size > 0)))
            weights[name] = np.where(small, np.float32(0), weights[name])
        pruning = Pruning("magnitude", zeroed, None)
        return replace(
            state,
            weights=weights,
            unpruned=state.weights,
            original=state.original or state.weights,
            pruning=pruning,
        )


@dataclass(frozen=True)
class PruneOnes(Pass):
    """Where the file is a little over the budget, zero just enough +-1 codes to fit.

    The price of a code is its added KL per saved bit (`quantize.prune`); how many must go is found on
    the real coded size. A file far over the budget is left as it is: the dial of `fit` is cheaper.

    Attributes:
        most: prune this share of all +-1 codes at most.
        tolerance: headroom that is good enough, as a fraction of the budget.
        max_tries: real encodings at most.
        body: the passes behind this one; the recipe fills it in.
    """

    name: ClassVar[str] = "prune_ones"
    writes: ClassVar[bool] = True
    most: float = 0.1
    tolerance: float = 0.0005
    max_tries: int = 8
    body: tuple[Pass, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        require(0 < self.most <= 1, f"prune_ones.most is {self.most}", "choose 0 to 1")
        require(self.max_tries >= 1, f"prune_ones.max_tries is {self.max_tries}", "1 or more")

    def requires(self, state: PackState) -> None:
        need(state, "tensors", self.name, "round")

    def run(self, state: PackState) -> PackState:
        whole = run_passes(self.body, state)
        limit = state.budget.artifact
        excess = _size(whole) - limit
        if excess <= 0 or state.target_kl is not None:
            return whole
        quantised = {n: t for n, t in state.tensors.items() if isinstance(t, QTensor)}
        ones = order_ones(
            quantised,
            {n: state.matrix(n) for n in quantised},
            state.sensitivity,
            8 * excess * MARGIN,
            HELPINGS,
        )
        available = sum(int(np.count_nonzero(np.abs(t.codes) == 1)) for t in quantised.values())
        most = min(len(ones.position), int(self.most * available))
        if ones.saved_bits[:most].sum() < 8 * excess:
            return whole
        return self._down_to(replace(state, coding=whole.coding), ones, most, excess) or whole

    def _down_to(self, state: PackState, ones: Ones, most: int, excess: int) -> PackState | None:
        """The largest file within the budget that pruning at most `most` codes gives, or None."""
        limit = state.budget.artifact
        aim = limit - 0.5 * self.tolerance * limit
        saved = np.concatenate([[0.0], np.cumsum(ones.saved_bits[:most])]) / 8
        over, fits = (0.0, limit + excess), None
        best, count = None, int(np.searchsorted(saved, limit + excess - aim))
        for tries in range(self.max_tries):
            count = min(max(count, 1), most)
            done = self._without(state, ones, count)
            size = _size(done)
            state.notify("prune", tries + 1, self.max_tries, f"{count:,} codes, {size:,} bytes")
            point = (float(saved[count]), size)
            if size <= limit:
                fits = point
                if best is None or size > _size(best):
                    best = done
                if limit - size <= self.tolerance * limit:
                    break
            else:
                over = point
                if count == most:
                    break
            count = int(np.searchsorted(saved, _between(over, fits, aim)))
        return best

    def _without(self, state: PackState, ones: Ones, count: int) -> PackState:
        quantised = {n: t for n, t in state.tensors.items() if isinstance(t, QTensor)}
        pruned = {**state.tensors, **ones.without(quantised, count)}
        done = replace(state, tensors=pruned, pruning=Pruning("ones", count, None))
        return run_passes(self.body, done)


def _between(over: tuple[float, int], fits: tuple[float, int] | None, aim: float) -> float:
    """The estimated saving (bytes) at which the real size should meet `aim`, by the secant."""
    (a, big) = over
    if fits is None:
        # Real coders save a part of what order 0 promises; ask for the rest, and a little more.
        return a + 1.3 * (big - aim)
    (b, small) = fits
    share = (big - aim) / max(big - small, 1)
    return a + (b - a) * min(max(share, 0.05), 0.95)


def _size(state: PackState) -> int:
    assert state.blob is not None
    return len(state.blob)
