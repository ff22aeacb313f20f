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

from golfpack.base.convert import require
from golfpack.base.parallel import map_ordered
from golfpack.errors import UsageError
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.passes.quantize import clipped, to_round
from golfpack.packer.quantize.knapsack import Choice, Menu, frontier, lagrangian, milp
from golfpack.packer.quantize.schemes import IntN, Scheme
from golfpack.packer.rate import RateModel, entropy
from golfpack.packer.state import (
    Allocation,
    PackState,
    Pass,
    Stage,
    need,
    quantized_names,
    step_field,
)
from golfpack.spec import ROLES, check_roles

# Seconds the exact solver gets to better the Lagrangian choice: a hundred times what 300 tensors take.
# What it has not proven by then is not taken, so that no machine's speed picks among unproven choices.
SOLVER_SECONDS = 30.0
# A choice this close to the bound, as a share of it, is the best one.
PROVEN = 1e-9


@dataclass(frozen=True)
class Mix(Pass):
    """Choose the bits of every tensor planned as "int", for the least H-weighted error at the budget.

    Attributes:
        widths: bits on offer.
        roles: tensors of other roles keep the bits of their rule.
        feedback: measure with GPTQ's error feedback, as `round` will round.
    """

    name: ClassVar[str] = "mix"
    stage: ClassVar[Stage] = "prepare"
    widths: tuple[int, ...] = (5, 6, 7, 8)
    roles: tuple[str, ...] = ROLES
    feedback: bool = True

    def __post_init__(self) -> None:
        for bits in self.widths:
            holds = type(bits) is int and 2 <= bits <= 8
            require(holds, f"mix.widths has {bits!r}", "choose from 2 to 8")
        distinct = len(set(self.widths)) == len(self.widths) > 1
        require(distinct, f"mix.widths is {list(self.widths)}", "give two or more different ones")
        check_roles(self.roles, "mix.roles")

    def requires(self, state: PackState) -> None:
        need(state, "sensitivity", self.name, "sense")
        if state.clips:
            raise UsageError(
                "pass 'mix' stands behind 'clip', whose clips are those of other widths",
                "mix stands before clip: fix the order in the recipe",
            )
        if state.limit is None:
            raise UsageError(
                "mixed precision follows a budget, not a target KL",
                "give --budget, or use recipe rd",
            )

    def run(self, state: PackState) -> PackState:
        names = [
            n
            for n in quantized_names(state)
            if isinstance(state.plan[n], IntN) and state.spec[n].role in self.roles
        ]
        if not names:
            raise UsageError(
                'mix has nothing to choose: no tensor of its roles has the scheme "int"',
                "add a policy rule with scheme int, or remove the pass",
            )
        singles = [clipped(replace(state, plan=_at(state, names, b))) for b in self.widths]
        assert state.limit is not None
        anchors = _anchors(state.limit, singles)
        best: tuple[Menu, float, Choice] | None = None
        for done, anchor in enumerate(anchors):
            state.notify("mix", done, len(anchors), f"dial {anchor.dial:.4g}")
            menu = self._menu(names, singles, anchor.dial)
            # What the rate model calls the budget, in the menu's own bytes.
            budget = anchor.filled * float(menu.bytes[:, anchor.column].sum())
            budget = max(budget, float(menu.bytes.min(1).sum()))
            choice = lagrangian(menu, budget)
            if best is None or choice.error < best[2].error:
                best = (menu, budget, choice)
        assert best is not None
        return self._chosen(state, names, *best)

    def _menu(self, names: list[str], singles: list[PackState], dial: float) -> Menu:
        """Every quantized tensor at every width; one that `mix` leaves alone offers one and the same."""
        every = quantized_names(singles[0])
        jobs = [(n, s) for n in every for s in (singles if n in names else singles[:1])]

        def measure(job: tuple[str, PackState]) -> tuple[float, float]:
            name, state = job
            steps = step_field(state, name, dial)
            work = to_round(state, name, steps, self.feedback)
            done = QTensor(work.run(), steps, states=work.states)
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
        relaxed = choice
        exact = milp(menu, budget, SOLVER_SECONDS)
        if exact.error - exact.bound <= PROVEN * exact.bound:
            choice = exact
        else:
            state = state.warn(
                f"mixed precision: {SOLVER_SECONDS:g} s did not prove a best choice; the one taken has "
                f"an error of {choice.error:.3g}, and none has less than {exact.bound:.3g}"
            )
        chosen: list[int] = choice.index.tolist()
        widths = {n: self.widths[i] for n, i in zip(menu.names, chosen, strict=True) if n in names}
        allocation = Allocation(
            widths=widths,
            frontier=tuple(frontier(menu)),
            chosen=(choice.bytes, choice.error),
            lagrangian=(relaxed.bytes, relaxed.error),
            exact=(exact.bytes, exact.error),
            budget=budget,
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


@dataclass(frozen=True)
class _Anchor:
    """A dial at which one width alone would fill the budget.

    Attributes:
        column: the width's index.
        filled: the budget over what the rate model gives there: 1 but where no dial meets it.
    """

    dial: float
    column: int
    filled: float


def _anchors(limit: int, singles: list[PackState]) -> list[_Anchor]:
    """One anchor a width; where no dial shrinks clips, widths with the same steps share one."""
    seen: dict[tuple[int, ...], _Anchor] = {}
    rates = [RateModel(s) for s in singles]
    for i, rate in enumerate(rates):
        bits = max(8.0 * limit - rate.kept_bits, 1.0)
        x = rate.solve(bits)
        filled = bits / max(rate.bits(x), 1.0)
        seen.setdefault(tuple(round(r.bits(x)) for r in rates), _Anchor(2.0**x, i, filled))
    return list(seen.values())
