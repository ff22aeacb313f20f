"""The pass that gives every tensor its own bit width: measured sizes and errors, one knapsack.

A dial scales all steps together, so under an entropy coder one width at one dial is about the width
below at half of it. What differs is which tensors are finer than which. So for every width on offer
the dial is found at which it alone would fill the budget, every tensor is rounded there at all widths,
and the best choice over all of these menus is kept. Each menu contains the single width it came from
at exactly its own size, so the choice is never worse than the best single width (by the quadratic
model, which is what it minimises). `fit` then turns the dial the last bit.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from golfpack.errors import UsageError
from golfpack.packer.ir import ROLES, QTensor
from golfpack.packer.options import require
from golfpack.packer.parallel import map_ordered
from golfpack.packer.passes.quantise import clipped, round_tensor
from golfpack.packer.quantize.choice import Choice, Menu, frontier, greedy, lagrangian, milp
from golfpack.packer.quantize.schemes import IntN, Scheme
from golfpack.packer.rate import RateModel, entropy
from golfpack.packer.state import Allocation, PackState, Pass, need, quantised_names, step_field

# Seconds the exact solver gets to check the Lagrangian answer, and the gap that is worth a warning.
CHECK_SECONDS = 5.0
WIDE_GAP = 0.01


@dataclass(frozen=True)
class Mix(Pass):
    """Choose the bits of every tensor planned as "int", for the least H-weighted error at the budget.

    Attributes:
        widths: bits on offer.
        roles: tensors of other roles keep the bits of their rule.
        feedback: measure with GPTQ's error feedback, as `round` will round.
    """

    name: ClassVar[str] = "mix"
    widths: tuple[int, ...] = (5, 6, 7, 8)
    roles: tuple[str, ...] = ROLES
    feedback: bool = True

    def __post_init__(self) -> None:
        for bits in self.widths:
            holds = type(bits) is int and 2 <= bits <= 8
            require(holds, f"mix.widths has {bits!r}", "choose from 2 to 8")
        distinct = len(set(self.widths)) == len(self.widths) > 1
        require(distinct, f"mix.widths is {list(self.widths)}", "give two or more different ones")
        for role in self.roles:
            require(
                role in ROLES, f"mix.roles: unknown role {role!r}", f"roles: {', '.join(ROLES)}"
            )

    def requires(self, state: PackState) -> None:
        need(state, "sensitivity", self.name, "sense")
        if state.target_kl is not None:
            raise UsageError(
                "mixed precision follows a budget, not a target KL",
                "give --budget, or use recipe rd",
            )

    def run(self, state: PackState) -> PackState:
        names = [
            n
            for n in quantised_names(state)
            if isinstance(state.plan[n], IntN) and state.spec[n].role in self.roles
        ]
        if not names:
            raise UsageError(
                'mix has nothing to choose: no tensor of its roles has the scheme "int"',
                "add a policy rule with scheme int, or remove the pass",
            )
        singles = [clipped(replace(state, plan=_at(state, names, b))) for b in self.widths]
        anchors = _anchors(state, singles)
        best: tuple[Menu, float, Choice] | None = None
        for done, (x, budget_bits, column) in enumerate(anchors):
            state.notify("mix", done, len(anchors), f"dial {2**x:.4g}")
            menu = self._menu(names, singles, 2.0**x)
            # What the rate model calls the budget, in the menu's own bytes.
            rate = RateModel(singles[column])
            budget = budget_bits * float(menu.bytes[:, column].sum()) / max(rate.bits(x), 1.0)
            budget = max(budget, float(menu.bytes.min(1).sum()))
            choice = lagrangian(menu, budget)
            if best is None or choice.error < best[2].error:
                best = (menu, budget, choice)
        assert best is not None
        return self._chosen(state, names, *best)

    def _menu(self, names: list[str], singles: list[PackState], dial: float) -> Menu:
        """Every quantised tensor at every width; one that `mix` leaves alone offers one and the same."""
        every = quantised_names(singles[0])
        jobs = [(n, s) for n in every for s in (singles if n in names else singles[:1])]

        def measure(job: tuple[str, PackState]) -> tuple[float, float]:
            name, state = job
            done = round_tensor(state, name, step_field(state, name, dial), self.feedback)
            assert isinstance(done, QTensor)
            error = done.dequantize() - state.matrix(name)
            return (
                entropy(done.codes) * done.codes.size / 8,
                max(state.sensitivity[name].kl(error), 0.0),
            )

        found = iter(list(map_ordered(measure, jobs, singles[0].threads)))
        rows = [
            [next(found) for _ in singles] if n in names else [next(found)] * len(singles)
            for n in every
        ]
        table = np.array(rows).reshape(len(every), len(singles), 2)
        labels = tuple(f"int{b}" for b in self.widths)
        return Menu(tuple(every), labels, table[:, :, 0], table[:, :, 1])

    def _chosen(
        self, state: PackState, names: list[str], menu: Menu, budget: float, choice: Choice
    ) -> PackState:
        exact = milp(menu, budget, CHECK_SECONDS)
        simple = greedy(menu, budget)
        widths = {
            n: self.widths[i] for n, i in zip(menu.names, choice.index, strict=True) if n in names
        }
        allocation = Allocation(
            widths=widths,
            frontier=tuple(frontier(menu)),
            chosen=(choice.bytes, choice.error),
            exact=(exact.bytes, exact.error),
            greedy=(simple.bytes, simple.error),
            budget=budget,
        )
        if choice.error > (1 + WIDE_GAP) * exact.error:
            state = state.warn(
                f"mixed precision: the Lagrangian choice has {choice.error / exact.error - 1:.1%} "
                "more error than the exact solver's; too few tensors for it to come closer"
            )
        plan = dict(state.plan)
        for n, bits in widths.items():
            plan[n] = _with_bits(state, n, bits)
        return replace(state, plan=plan, allocation=allocation)


def _at(state: PackState, names: list[str], bits: int) -> dict[str, Scheme]:
    """The plan with one width for all of `names`."""
    return {**state.plan, **{n: _with_bits(state, n, bits) for n in names}}


def _with_bits(state: PackState, name: str, bits: int) -> IntN:
    scheme = state.plan[name]
    assert isinstance(scheme, IntN)
    return replace(scheme, bits=bits)


def _anchors(state: PackState, singles: list[PackState]) -> list[tuple[float, float, int]]:
    """(log2 dial, budget in bits, width's index) at which each width alone fills the budget.

    Widths whose dials make the same steps (clips that no dial shrinks) share an anchor.
    """
    seen: dict[tuple[int, ...], tuple[float, float, int]] = {}
    rates = [RateModel(s) for s in singles]
    for i, rate in enumerate(rates):
        bits = max(8.0 * state.budget.artifact - rate.kept_bits, 1.0)
        x = rate.solve(bits)
        seen.setdefault(tuple(round(r.bits(x)) for r in rates), (x, bits, i))
    return list(seen.values())
