"""Rounding once more, behind the search: layer by layer along the forward pass, each fitted to the last.

The search rounds all tensors at once, a few times over, until the file fits. What it ends with is
rounded anew by `in_step`, at much the same steps: that takes a forward pass, and at equal bytes leaves
four fifths of the KL (docs/LOG.md). What is fitted takes a little more to code. So on the way the real
size of what is done tells how coarse the rest has to be, and in the end the steps of the last layer,
behind which nothing comes, are chosen so that the file fills its budget.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log2
from typing import cast

import numpy as np
from scipy.optimize import brentq

from golfpack.build.fitted import change, fit_tokens, fitted_layers, fitted_rounding, rounded
from golfpack.build.in_step import Layer
from golfpack.build.prepare import Prepared
from golfpack.build.report import SequenceReport
from golfpack.calib.sources import training_text
from golfpack.packer.format.steps import StepField
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.passes.encode import encoded
from golfpack.packer.rate import RateModel
from golfpack.packer.search import Search
from golfpack.packer.state import FitRound, PackState, quantized_names, step_field

# By how much of its bits a fit makes a tensor larger, while less than this share of the file tells: so
# much from FEW bits a weight on, below them three times as much for every bit less (docs/LOG.md).
GROWTH, FEW, USUAL = 0.003, 2.1, 0.1
# After these shares of all weights steps are chosen anew for those that are left, so that a little is
# left for the last layer: so much of the budget, in so many tries. Octaves it may take in all.
LOOKS, LEFT, TRIES, OCTAVES = (0.3, 0.6, 0.85, 0.95), 0.001, 10, 3.0
# Passes at most.
PASSES = 3
# As near has a file at one dial to come to its size, as a share of it.
CLOSE = 0.004
# A KL this share below its target is good enough.
NEAR = 0.05
# So near to the budget, as a share of it, the search in front need come: steps change anyway.
LOOSE = 0.01


def loosely(search: Search) -> Search:
    """The options of the search in front: it finds about the steps, and need not fill the budget."""
    return replace(search, tolerance=max(search.tolerance, LOOSE))


def rounds_in_sequence(prepared: Prepared, ready: PackState) -> bool:
    """Whether the recipe asks for it, and there is something to fit.

    Args:
        ready: as the recipe's `prepare` left it.
    """
    if not prepared.recipe.search.in_sequence or prepared.used is None:
        return False
    return bool(fitted_layers(prepared, prepared.model.module(), quantized_names(ready)))


@dataclass(frozen=True, eq=False)
class InSequence:
    """One build's.

    Attributes:
        prepared: what the build works on.
        ready: as the recipe's `prepare` left it.
        found: as the search left it.
    """

    prepared: Prepared
    ready: PackState
    found: PackState

    def run(
        self, limit: int | None, target: float | None
    ) -> tuple[PackState, SequenceReport] | None:
        """The network rounded in sequence; None where that is no better than it was found.

        Args:
            limit: bytes that the artifact may have; None where a target rules.
            target: KL that it may have, nats per token; None where a budget rules.
        """
        found = self.found
        if not self._layers or (limit is not None and self.has_spare(limit)):
            return None
        if limit is not None:
            other = self._within(limit)
        else:
            assert target is not None
            other = self._within_target(target)
        if other is None:
            return None
        before, after = self._kl(found), self._kl(other)
        better = after < self._at(other.size, before) if target is None else other.size < found.size
        if not better:
            return None
        return self._finished(other), SequenceReport(self._text.size, found.size, before, after)

    def at_one_dial(self, size: int) -> PackState | None:
        """Rounded in sequence at the steps of one dial, in about `size` bytes; None where no better.

        Training codes goes on from there, and gives all steps another dial on its way.
        """
        if not self._layers:
            return None
        state, growth, now = self.found, self._growth, self._bits_at(0.0)
        for _ in range(PASSES):
            octaves = self._octaves(self._rate.names, 8.0 * (size - self.found.size), growth)
            state = self._rounded(octaves, None)
            if abs(state.size - size) <= CLOSE * size:
                break
            of_steps = self._bits_at(octaves) - now
            growth = (8 * (state.size - self.found.size) - of_steps) / now
        better = self._kl(state) < self._at(state.size, self._kl(self.found))
        return replace(state, weights=self.found.weights) if better else None

    def has_spare(self, limit: int) -> bool:
        """Whether the search left bytes unused, as the model or the recipe could not use them."""
        return limit - self.found.size > loosely(self.prepared.recipe.search).enough(limit)

    @property
    def _growth(self) -> float:
        """GROWTH of a file at one dial; where steps are steered on the way it matters less."""
        bits = 8 * self.found.size / self._rate.weights
        return GROWTH * max(1.0, 3.0 ** (FEW - bits))

    def _bits_at(self, octaves: float) -> float:
        """Of all tensors, `octaves` coarser than `found`."""
        return self._rate.bits(log2(self.found.dial) + octaves)

    def at_the_same_dial(self) -> PackState:
        """`found` rounded in sequence at its own steps, as large as that gets."""
        return self._rounded(0.0, None) if self._layers else self.found

    def _at(self, size: int, kl: float) -> float:
        """What a KL of `found` would be at `size` bytes: a bit a weight is worth a factor 4."""
        return kl * 4.0 ** (8 * (self.found.size - size) / self._rate.weights)

    def _kl(self, state: PackState) -> float:
        return self.prepared.measure_kl(state.tensors, self.found.notify)

    def _within(self, limit: int) -> PackState | None:
        """The largest file that was found within a budget."""
        octaves = self._octaves(
            self._rate.names, 8 * (1 - LEFT) * limit - 8 * self.found.size, GROWTH
        )
        aim = (1 - LEFT) * limit
        for _ in range(PASSES):
            state = self._rounded(octaves, round(aim))
            found = self._filled(state, limit)
            if found is not None:
                return found
            aim -= 2 * max(state.size - limit, 0)  # more than its last layers can make up for
        return None

    def _filled(self, state: PackState, limit: int) -> PackState | None:
        """The last layer rounded at the steps that fill `limit`: the largest file found within it."""
        enough = self.prepared.recipe.search.enough(limit)
        last = self._layers[-1].names
        weights = sum(state.spec[n].numel for n in last)
        best, octaves, tried, per_octave = None, 0.0, state, weights / 8
        for _ in range(TRIES):
            if tried.size <= limit and (best is None or tried.size > best.size):
                best = tried
            if 0 <= limit - tried.size <= enough:
                break
            # Half of what is good enough stays free.
            by = (tried.size - limit + enough / 2) / per_octave
            by = min(max(octaves + by, -OCTAVES), OCTAVES) - octaves
            if by == 0:
                break
            octaves, before = octaves + by, tried.size
            steps = {n: self._steps(n, log2(state.dial) + octaves) for n in last}
            tried = replace(state, steps={**state.steps, **steps})
            tried = encoded(
                replace(tried, tensors={**state.tensors, **rounded(self.prepared, tried, last)})
            )
            # Where few bits are left, an octave takes less than one from every weight.
            per_octave = min(max((before - tried.size) / by, weights / 80), weights / 8)
        return best

    def _within_target(self, target: float) -> PackState | None:
        """The smallest file found whose KL is at most `target`."""
        best, octaves = None, 0.0
        for _ in range(PASSES + 1):
            state = self._rounded(octaves, None)
            kl = self._kl(state)
            if kl <= target and (best is None or state.size < best.size):
                best = state
            if (1 - NEAR) * target <= kl <= target:
                break
            # A KL grows with the square of the dial.
            octaves += log2((1 - NEAR / 2) * target / max(kl, 1e-12)) / 2
        return best

    def _rounded(self, octaves: float, aim: int | None) -> PackState:
        """All tensors rounded, the fitted layers one after the other.

        Args:
            octaves: by how much coarser than `found` to begin.
            aim: bytes to come to; None to stay with those steps.
        """
        x = log2(self.found.dial)
        state = replace(self.ready, dial=2.0 ** (x + octaves), coding=self.found.coding, limit=None)
        fitted = [n for layer in self._layers for n in layer.names]
        at_once = [n for n in quantized_names(state) if n not in self._fitted]
        fields = {n: self._steps(n, x + octaves) for n in quantized_names(state)}
        state = replace(state, steps=fields, tensors=self.found.tensors)
        state = replace(state, tensors={**state.tensors, **rounded(self.prepared, state, at_once)})
        done = dict.fromkeys(at_once, octaves)
        looks = list(LOOKS)

        def steps(state: PackState, names: Sequence[str]) -> dict[str, StepField]:
            nonlocal octaves
            rest = [n for n in fitted if n not in done]
            share = 1 - sum(state.spec[n].numel for n in rest) / self._rate.weights
            if aim is not None and looks and share >= looks[0]:
                del looks[: sum(share >= look for look in looks)]
                octaves = self._steered(state, done, rest, aim)
            done.update(dict.fromkeys(names, octaves))
            state.notify("in sequence", len(done), len(at_once) + len(fitted), names[0])
            return {n: self._steps(n, x + octaves) for n in names}

        model = self.prepared.model
        state = fitted_rounding(
            self.prepared, state, model.module(), self._layers, self._text, steps,
            {n: change(state, n) for n in at_once if state.spec[n].hooks},
        )  # fmt: skip
        return encoded(replace(state, dial=2.0 ** (x + octaves)))

    def _steered(
        self, state: PackState, done: Mapping[str, float], rest: Sequence[str], aim: int
    ) -> float:
        """By how many octaves the rest has to be coarser than `found`, for a file of `aim` bytes.

        Args:
            state: with tensors as they are done, the rest as they were found.
            done: by how many octaves those are coarser.
        """
        x, size = log2(self.found.dial), encoded(state).size
        fits = [n for n in done if n in self._fitted]
        of_steps = sum(self._bits(n, x + octaves) - self._bits(n, x) for n, octaves in done.items())
        growth = 8 * (size - self.found.size) - of_steps
        # Little that is done says little: the usual growth counts as much as a part of the file.
        usual = USUAL * 8 * self.found.size
        growth = (growth + GROWTH * usual) / (sum(self._bits(n, x) for n in fits) + usual)
        return self._octaves(rest, 8.0 * (aim - size), growth)

    def _octaves(self, names: Sequence[str], bits: float, growth: float) -> float:
        """By how much coarser than `found` some tensors are to be, to take so many more bits.

        Args:
            growth: what comes to them besides, as a share of what they have.
        """
        x = log2(self.found.dial)
        now = sum(self._bits(n, x) for n in names)
        over = lambda o: sum(self._bits(n, x + o) for n in names) + growth * now - now - bits  # noqa: E731
        if over(-OCTAVES) <= 0 or over(OCTAVES) >= 0:
            return OCTAVES if over(0.0) > 0 else -OCTAVES
        return cast(float, brentq(over, -OCTAVES, OCTAVES, xtol=1e-4))

    def _bits(self, name: str, x: float) -> float:
        return self._rate.tensor_bits(name, x)

    def _steps(self, name: str, x: float) -> StepField:
        """Of a tensor at log2(dial) = x; fits change weights, and no steps."""
        return step_field(self.ready, name, 2.0**x)

    def _finished(self, state: PackState) -> PackState:
        """As a build's result: errors are told from the weights as they were."""
        trace = (*self.found.trace, FitRound(state.dial, state.size))
        return replace(
            self.found, dial=state.dial, steps=state.steps, tensors=state.tensors, blob=state.blob,
            trace=trace,
        )  # fmt: skip

    @cached_property
    def _rate(self) -> RateModel:
        return RateModel(self.ready)

    @cached_property
    def _fitted(self) -> frozenset[str]:
        return frozenset(n for layer in self._layers for n in layer.names)

    @cached_property
    def _layers(self) -> list[Layer]:
        """What is fitted."""
        if self.prepared.used is None:
            return []
        coded = [n for n, t in self.found.tensors.items() if isinstance(t, QTensor)]
        return fitted_layers(self.prepared, self.prepared.model.module(), coded)

    @cached_property
    def _text(self) -> np.ndarray:
        """(n, length) tokens: windows of all that calibration's source has."""
        used, held_out = self.prepared.used, self.prepared.held_out
        assert used is not None
        assert held_out is not None
        tokens, length = fit_tokens(self.prepared), used.sequences.shape[1]
        return training_text(used, held_out, tokens, length, self.prepared.seed, None)[0]
