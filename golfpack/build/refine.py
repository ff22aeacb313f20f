"""`golfpack build --refine`: train the codes by self-distillation, then round them to the budget."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import log2

import numpy as np

from golfpack.build.distil import (
    Latent,
    distil,
    latent,
)
from golfpack.build.prepare import (
    BuildOptions,
    Prepared,
    written_text,
)
from golfpack.build.report import Refinement
from golfpack.calib.sources import (
    CalibTokens,
    training_text,
)
from golfpack.errors import UsageError
from golfpack.packer.format.steps import step_matrix
from golfpack.packer.format.tensors import (
    PackedTensor,
    QTensor,
)
from golfpack.packer.search import Fit
from golfpack.packer.state import (
    UNLIMITED,
    Budget,
    PackState,
    Pass,
    run_passes,
)

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
        ready: as the passes before `fit` left it.
        rounded: as `fit` left it.
    """

    options: BuildOptions
    prepared: Prepared
    ready: PackState
    rounded: PackState
    fit: Fit

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
        found = self._within_budget() if rounded.target_kl is None else self._within_target()
        if found is not None:
            done, kl, start = found
            better = kl < rounded_kl if rounded.target_kl is None else done.size < rounded.size
            if better:
                changed = _changed(start.tensors, done.tensors)
                text, written = self._text
                octaves = log2(start.dial / rounded.dial)
                report = Refinement(
                    text.size, written, rounded.size, rounded_kl, kl, changed, octaves
                )
                return self._finished(done), report
        return rounded.warn(NOTHING_BETTER), None

    def _finished(self, done: PackState) -> PackState:
        """`done` as a build's result."""
        return replace(
            done, budget=self.rounded.budget, target_kl=self.rounded.target_kl,
            trace=self.rounded.trace, pruning=self.ready.pruning,
        )  # fmt: skip

    def _within_budget(self) -> "_Found | None":
        limit = self.rounded.budget.artifact
        start, latents = self._trained(self.rounded, round((1 - MARGIN) * limit))
        for _ in range(LAST_TRIES):
            done = self._encoded(start, latents)
            if done.size <= limit:
                assert self.rounded.measure is not None
                return done, self.rounded.measure(done.tensors), start
            start, latents = self._resized(start, latents, BACK_OFF * (done.size - limit))
        return None

    def _within_target(self) -> "_Found | None":
        target, best, gain = self.rounded.target_kl, None, FIRST_GAIN
        assert target is not None
        assert self.rounded.measure is not None
        for _ in range(ATTEMPTS):
            start = run_passes([self.fit], replace(self.ready, target_kl=target / gain))
            start, latents = self._trained(start, None)
            done = self._encoded(start, latents)
            kl = self.rounded.measure(done.tensors)
            if kl <= target and (best is None or done.size < best[0].size):
                best = done, kl, start
            if (1 - NEAR) * target <= kl <= target:
                break
            gain *= kl / target / (1 - NEAR / 2)
        return best

    def _start(self, dial: float) -> PackState:
        # What passes behind `round` cut down to a budget is not to be cut before training.
        free = replace(self.ready, dial=dial, coding=self.rounded.coding, budget=Budget(UNLIMITED))
        return run_passes(self.fit.body, free)

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
            self.prepared.checkpoint.module(), self.prepared.model_of(start.tensors),
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
            return written_text(
                p.checkpoint, p.backend, self.options, (count, used.sequences.shape[1]),
                temperature=TEMPERATURE, seed=self.options.seed + 1, purpose="training",
                notify=self.rounded.notify,
            )  # fmt: skip

        return training_text(used, self.options.refine, self.options.seed, write)

    def _encoded(self, start: PackState, latents: Mapping[str, Latent]) -> PackState:
        """The file of `start` with the latents' codes."""
        tensors = dict(start.tensors)
        for name, x in latents.items():
            t = tensors[name]
            assert isinstance(t, QTensor)
            tensors[name] = replace(t, codes=np.rint(x.z.numpy()).astype(np.int32))
        return run_passes([_writer(self.fit.body)], replace(start, tensors=tensors))


# The artifact, its measured KL, and the rounding whose steps it has.
_Found = tuple[PackState, float, PackState]


def _writer(body: tuple[Pass, ...]) -> Pass:
    """The pass that writes the file and does nothing else."""
    last = body[-1]
    behind = getattr(last, "body", ())
    return _writer(behind) if behind else last


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
