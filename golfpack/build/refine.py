"""`golfpack build --refine`: train the codes by self-distillation, then round them to the budget."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import log2

import numpy as np

from golfpack.build.distil import Latent, distil, latent
from golfpack.build.prepare import Prepared
from golfpack.build.report import Refinement
from golfpack.calib.sources import CalibTokens, training_text
from golfpack.errors import UsageError
from golfpack.packer.format.steps import step_matrix
from golfpack.packer.format.tensors import PackedTensor, QTensor
from golfpack.packer.passes.encode import encoded
from golfpack.packer.search import fit_kl
from golfpack.packer.state import PackState, run_passes

# Text to train on is the model's own distribution, as KL is measured by it.
TEMPERATURE = 1.0
# Training can make a file larger, by some tenths of a percent (docs/LOG.md). Steps then get coarser
# while it runs, to this share below the limit: what is trained after the last look adds a little.
MARGIN = 0.0005
# Where it ends over the limit all the same, steps get coarser once more, by so much more than is over,
# and nothing mends what that costs.
BACK_OFF = 1.25
LAST_TRIES = 6
ATTEMPTS = 3
# A KL this share below its target is good enough.
NEAR = 0.05
# What training leaves of the KL, where it is not yet known.
FIRST_GAIN = 0.6
NOTHING_BETTER = "--refine found nothing better than rounding; more tokens may (docs/recipes.md)"


@dataclass(frozen=True, eq=False)
class Refiner:
    """Refinement of one build.

    Attributes:
        prepared: what the build works on.
        ready: as the recipe's `prepare` left it.
        rounded: as the search left it.
        tokens: to train on.
        limit: bytes that the artifact may have; None where a target rules.
        target: KL that it may have, nats per token; None where a budget rules.
    """

    prepared: Prepared
    ready: PackState
    rounded: PackState
    tokens: int
    limit: int | None
    target: float | None

    def run(self) -> tuple[PackState, Refinement | None]:
        """The artifact with trained codes; the rounded one, with a warning, where that is no worse.

        Raises:
            UsageError: nothing was calibrated, so there are no tokens to train on.
        """
        rounded = self.rounded
        if self.prepared.used is None or rounded.measure is None:
            raise UsageError(
                "--refine needs calibration tokens", "drop --data-free, or give --calib"
            )
        if not any(isinstance(t, QTensor) for t in rounded.tensors.values()):
            return rounded.warn("--refine: nothing is quantized, so nothing was trained"), None
        rounded_kl = rounded.measure(rounded.tensors)
        found = self._within_target() if self.limit is None else self._within_budget(self.limit)
        if found is not None:
            trained, kl, start = found
            better = trained.size < rounded.size if self.limit is None else kl < rounded_kl
            if better:
                changed = _changed(start.tensors, trained.tensors)
                text, written = self._text
                octaves = log2(start.dial / rounded.dial)
                report = Refinement(
                    text.size, written, rounded.size, rounded_kl, kl, changed, octaves
                )
                return self._finished(trained), report
        return rounded.warn(NOTHING_BETTER), None

    def _finished(self, trained: PackState) -> PackState:
        """A trained state as a build's result."""
        rounded = self.rounded
        return replace(
            trained, limit=rounded.limit, trace=rounded.trace, pruning=self.ready.pruning
        )

    def _within_budget(self, limit: int) -> "_Found | None":
        start, latents = self._trained(self.rounded, round((1 - MARGIN) * limit))
        for _ in range(LAST_TRIES):
            trained = self._encoded(start, latents)
            if trained.size <= limit:
                assert self.rounded.measure is not None
                return trained, self.rounded.measure(trained.tensors), start
            start, latents = self._resized(start, latents, BACK_OFF * (trained.size - limit))
        return None

    def _within_target(self) -> "_Found | None":
        target, best, gain = self.target, None, FIRST_GAIN
        recipe = self.prepared.recipe
        assert target is not None
        assert self.rounded.measure is not None
        for _ in range(ATTEMPTS):
            start = fit_kl(recipe.search, recipe.round, self.ready, target / gain)
            start, latents = self._trained(start, None)
            trained = self._encoded(start, latents)
            kl = self.rounded.measure(trained.tensors)
            if kl <= target and (best is None or trained.size < best[0].size):
                best = trained, kl, start
            if (1 - NEAR) * target <= kl <= target:
                break
            gain *= kl / target / (1 - NEAR / 2)
        return best

    def _start(self, dial: float) -> PackState:
        # What passes behind `round` cut down to a budget is not to be cut before training.
        free = replace(self.ready, dial=dial, coding=self.rounded.coding, limit=None)
        return run_passes(self.prepared.recipe.round, free)

    def _trained(self, start: PackState, aim: int | None) -> tuple[PackState, Mapping[str, Latent]]:
        """What was trained, and the state whose steps it has: those that give `aim` bytes, if any."""

        def resize(latents: Mapping[str, Latent]) -> Mapping[str, Latent]:
            nonlocal start
            assert aim is not None
            over = self._encoded(start, latents).size - aim
            if over > 0:  # finer steps would not be worth the codes that flip
                start, latents = self._resized(start, latents, over)
            return latents

        latents = distil(
            self.prepared.model.module(), self.prepared.module_of(start.tensors),
            _latents(start), self._text[0], threads=start.threads,
            device=self.prepared.backend.device if self.prepared.backend.batched else None,
            resize=None if aim is None else resize,
            progress=lambda done, total, note: start.notify("refine", done, total, note),
        )  # fmt: skip
        return start, latents

    def _resized(
        self, start: PackState, latents: Mapping[str, Latent], over: float
    ) -> tuple[PackState, Mapping[str, Latent]]:
        """The same weights on steps that give a file about `over` bytes smaller."""
        # About one bit per weight and octave.
        octaves = 8 * over / sum(x.z.numel() for x in latents.values())
        found = self._start(start.dial * 2.0**octaves)
        other = _latents(found)
        if other.keys() != latents.keys():  # a tensor that is kept now: leave all as it is
            return start, latents
        return found, {name: x.onto(other[name]) for name, x in latents.items()}

    @cached_property
    def _text(self) -> tuple[np.ndarray, int]:
        """What to train on, and how many tokens of it the model wrote for that."""
        used, p = self.prepared.used, self.prepared
        assert used is not None

        def write(count: int) -> CalibTokens:
            # Another seed than calibration's own text has, which tokens to measure with are part of.
            return p.written_text(
                (count, used.sequences.shape[1]), temperature=TEMPERATURE, seed=p.seed + 1,
                purpose="training", notify=self.rounded.notify,
            )  # fmt: skip

        return training_text(used, self.tokens, p.seed, write)

    def _encoded(self, start: PackState, latents: Mapping[str, Latent]) -> PackState:
        """The file of `start` with the latents' codes."""
        tensors = dict(start.tensors)
        for name, x in latents.items():
            t = tensors[name]
            assert isinstance(t, QTensor)
            tensors[name] = replace(t, codes=np.rint(x.z.numpy()).astype(np.int32))
        return encoded(replace(start, tensors=tensors))


# The artifact, its measured KL, and the rounding whose steps it has.
_Found = tuple[PackState, float, PackState]


def _latents(state: PackState) -> dict[str, Latent]:
    return {n: _latent(state, n, t) for n, t in state.tensors.items() if isinstance(t, QTensor)}


def _latent(state: PackState, name: str, tensor: QTensor) -> Latent:
    step = step_matrix(tensor.steps, tensor.codes.shape)
    offset = None
    if tensor.correction is not None:
        offset = np.zeros(tensor.codes.shape, np.float32)
        tensor.correction.add_to(offset)
    limit, shape = state.plan[name].limit, state.spec[name].shape
    return latent(state.matrix(name), tensor.codes, step, limit, shape, offset)


def _changed(before: Mapping[str, PackedTensor], after: Mapping[str, PackedTensor]) -> float:
    moved = count = 0
    for name, t in before.items():
        u = after[name]
        if isinstance(t, QTensor) and isinstance(u, QTensor):
            moved += int(np.count_nonzero(t.codes != u.codes))
            count += t.codes.size
    return moved / max(count, 1)
