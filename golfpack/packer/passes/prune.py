"""Pruning passes: the smallest weights before quantizing, or +-1 codes after it, down to the budget."""

from dataclasses import dataclass, replace
from math import log, log2
from typing import ClassVar

import numpy as np

from golfpack.base.convert import require
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.passes.encode import encoded
from golfpack.packer.quantize.prune import Pruned, prune_at, saved_by_share
from golfpack.packer.state import PackState, Pass, Pruning, Stage, need, quantized_names
from golfpack.spec import ROLES

# The price of a bit is searched so many octaves around its worth in theory, in so many halvings.
PRICE_OCTAVES = 12.0
PRICE_ROUNDS = 10
# A price that saves a little more than is wanted will do: it is then applied in part.
NEAR_ENOUGH = 1.5
TINY_PRICE = 1e-30
# Real coders save a part of what order 0 promises.
FIRST_ASKS = 1.2


@dataclass(frozen=True)
class PruneMagnitude(Pass):
    """Zero the smallest weights of every quantized matrix (record of 2026-03-20).

    It often makes files larger: zeros that the step would not have made are spread where the coder
    expects small codes. `fit` measures that at the end, and the report says it.

    Attributes:
        share: of each matrix's weights.
        roles: tensors of other roles are left alone.
    """

    name: ClassVar[str] = "prune_magnitude"
    stage: ClassVar[Stage] = "prepare"
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
        for name in quantized_names(state):
            if state.spec[name].role not in self.roles or not weights[name].size:
                continue
            size = np.abs(weights[name])
            small = size < np.quantile(size, self.share)
            zeroed += int(np.count_nonzero(small & (size > 0)))
            weights[name] = np.where(small, np.float32(0), weights[name])
        return replace(
            state,
            weights=weights,
            unpruned=state.weights,
            original=state.original or state.weights,
            pruning=(*state.pruning, Pruning("magnitude", zeroed, None)),
        )


@dataclass(frozen=True)
class PruneOnes(Pass):
    """Where the file is a little over the budget, zero just enough +-1 codes to fit.

    Codes go by added KL per saved bit (`quantize.prune`), and the price at which the file fits is
    found on its real coded size. A file far over the budget is left as it is: there the dial of `fit`
    is cheaper.

    Attributes:
        most: prune this share of all +-1 codes at most.
        tolerance: headroom that is good enough, as a fraction of the budget.
        max_tries: real encodings at most.
    """

    name: ClassVar[str] = "prune_ones"
    stage: ClassVar[Stage] = "write"
    most: float = 0.1
    tolerance: float = 0.0005
    max_tries: int = 12

    def __post_init__(self) -> None:
        require(0 < self.most <= 1, f"prune_ones.most is {self.most}", "choose 0 to 1")
        inside = 0 <= self.tolerance < 1
        require(inside, f"prune_ones.tolerance is {self.tolerance}", "choose 0 to 1")
        require(self.max_tries >= 1, f"prune_ones.max_tries is {self.max_tries}", "1 or more")

    def requires(self, state: PackState) -> None:
        need(state, "blob", self.name, "encode")

    def run(self, state: PackState) -> PackState:
        codes = any(isinstance(t, QTensor) for t in state.tensors.values())
        if state.limit is None or state.size <= state.limit or not codes:
            return state
        return self._down_to(state, state.limit) or state

    def _down_to(self, state: PackState, limit: int) -> PackState | None:
        """The largest file within the budget that pruning gives, or None where it takes too much.

        Some coders' sizes scatter by a few tenths of a percent over nearly equal codes, so every try
        corrects the last one, and no bracket is trusted.
        """
        aim = limit - 0.5 * self.tolerance * limit
        prices = _Prices(state, self.most)
        best, wanted = None, FIRST_ASKS * (state.size - aim)
        for tries in range(self.max_tries):
            pruned = prices.saving(wanted)
            if pruned is None:
                break
            tensors = {**state.tensors, **pruned.tensors}
            pruning = (*state.pruning, Pruning("ones", pruned.zeroed, None))
            done = encoded(replace(state, tensors=tensors, pruning=pruning))
            size = done.size
            note = f"{pruned.zeroed:,} codes, {size:,} bytes"
            state.notify("prune", tries + 1, self.max_tries, note)
            if size <= limit:
                if best is None or size > best.size:
                    best = done
                if limit - size <= self.tolerance * limit:
                    break
            wanted = max(wanted + (1.0 if tries == 0 else 0.5) * (size - aim), 1.0)
        return best


class _Prices:
    """Prices per bit, by what they save."""

    def __init__(self, state: PackState, most: float) -> None:
        self.state = state
        self.tensors = {n: t for n, t in state.tensors.items() if isinstance(t, QTensor)}
        self.weights = {n: state.matrix(n) for n in self.tensors}
        counts = [np.count_nonzero(np.abs(t.codes) == 1) for t in self.tensors.values()]
        self.ones = int(sum(counts))
        self.most = most * self.ones
        self.seen: dict[float, Pruned] = {}
        # What a bit is worth where the codes are: 2 ln 2 KL / weights, for uniform errors.
        kl = sum(
            state.sensitivity[n].kl(t.dequantize() - self.weights[n])
            for n, t in self.tensors.items()
        )
        count = sum(t.codes.size for t in self.tensors.values())
        self.middle = log2(max(2 * log(2) * kl / max(count, 1), TINY_PRICE))

    def saving(self, wanted: float) -> Pruned | None:
        """About `wanted` bytes less, by the order-0 estimate; None where that takes too many codes."""
        if self._most_bytes() < wanted:
            return None
        low, high = self.middle - PRICE_OCTAVES, self.middle + PRICE_OCTAVES
        best = self._known(wanted)
        for _ in range(PRICE_ROUNDS):
            if best is not None and best.saved_bits / 8 <= NEAR_ENOUGH * wanted:
                break
            middle = (low + high) / 2
            found = self._at(middle)
            enough = found.saved_bits / 8 >= wanted
            low, high = (low, middle) if enough or found.zeroed > self.most else (middle, high)
            best = self._known(wanted)
        return None if best is None else best.in_part(self.tensors, 8 * wanted)

    def _known(self, wanted: float) -> Pruned | None:
        """Of the prices seen, what saves enough with the fewest codes, and not too many."""
        enough = [p for p in self.seen.values() if p.saved_bits / 8 >= wanted]
        best = min(enough, key=lambda p: p.zeroed, default=None)
        return None if best is None or best.zeroed > self.most else best

    def _most_bytes(self) -> float:
        """What a price at which as many codes go as may go could save, by the order-0 estimate."""
        share = self.most / max(self.ones, 1)
        return sum(saved_by_share(t.codes, share) for t in self.tensors.values()) / 8

    def _at(self, log2_price: float) -> Pruned:
        if log2_price not in self.seen:
            s = self.state
            self.seen[log2_price] = prune_at(
                2.0**log2_price, self.tensors, self.weights, s.sensitivity, s.threads
            )
        return self.seen[log2_price]
