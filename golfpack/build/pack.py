"""From weights that are ready to a file that meets its target: the search, and rounding in sequence."""

from dataclasses import dataclass

from golfpack.build.in_sequence import InSequence, loosely, rounds_in_sequence
from golfpack.build.prepare import Prepared
from golfpack.build.report import SequenceReport
from golfpack.packer.aim import Budget
from golfpack.packer.search import Search, fit_bytes, fit_kl
from golfpack.packer.state import PackState


@dataclass(frozen=True)
class Target:
    """What the search is held to: bytes, or else a KL in nats per token; neither where all is kept."""

    budget: Budget | None
    kl: float | None = None

    @property
    def limit(self) -> int | None:
        """Bytes that the artifact may have."""
        return None if self.budget is None else self.budget.artifact


@dataclass(frozen=True)
class Packed:
    """What came of it.

    Attributes:
        searched: as the search left it.
        state: as it is.
        sequence: what rounding in sequence did; None where `state` is as searched.
    """

    searched: PackState
    state: PackState
    sequence: SequenceReport | None = None


def searched(prepared: Prepared, ready: PackState, target: Target) -> PackState:
    """What the recipe's search finds; roughly, where rounding in sequence follows.

    Raises:
        BudgetError: nothing fits.
    """
    options = prepared.recipe.search
    follows = rounds_in_sequence(prepared, ready)
    return _search(loosely(options) if follows else options, prepared, ready, target)


def in_sequence(prepared: Prepared, ready: PackState, found: PackState, target: Target) -> Packed:
    """What `searched` found, rounded in sequence where the recipe has that and it is better."""
    if not rounds_in_sequence(prepared, ready):
        return Packed(found, found)
    rounding = InSequence(prepared, ready, found)
    done = rounding.run(target.limit, target.kl)
    if done is not None:
        return Packed(found, *done)
    if target.limit is not None and not rounding.has_spare(target.limit):
        # Then the rest of the budget is the search's to fill.
        found = _search(prepared.recipe.search, prepared, ready, target)
    return Packed(found, found)


def _search(options: Search, prepared: Prepared, ready: PackState, target: Target) -> PackState:
    passes = prepared.recipe.round
    if target.budget is not None:
        return fit_bytes(options, passes, ready, target.budget)
    assert target.kl is not None
    return fit_kl(options, passes, ready, target.kl)
