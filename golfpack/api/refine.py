"""`golfpack build --refine`: train the codes by self-distillation, then round them to the budget."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from golfpack.api.prepare import BuildOptions, Prepared, written_text
from golfpack.calib.distil import Latent, distil, latent
from golfpack.calib.sources import CalibTokens, training_text
from golfpack.errors import UsageError
from golfpack.models.checkpoint import build_model
from golfpack.packer.allocate import Fit
from golfpack.packer.ir import PackedTensor, QTensor
from golfpack.packer.state import UNLIMITED, Budget, PackState, Pass, run_passes
from golfpack.packer.steps import step_matrix
from golfpack.report.reports import Refinement

# Text to train on is the model's own distribution, as KL is measured by it.
TEMPERATURE = 1.0
# Training leaves a file's size as it is, within 0.4% (docs/LOG.md). Where it ends a little too large,
# boundaries between codes move outwards, by this much at most, in steps. Many end right at one, as
# both codes are as good, but only as long as about as many end on either side: going all one way costs.
MAX_SHIFT = 0.001
SHIFT_ROUNDS = 12
# Where that is not enough it starts again from coarser steps, by so much more than what was missing.
BACK_OFF = 1.25
ATTEMPTS = 3
# A KL this share below its target is good enough.
NEAR = 0.05
# What training leaves of the KL, where it is not yet known.
FIRST_GAIN = 0.6


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
            return rounded.warn("--refine: nothing is quantised, so nothing was trained"), None
        rounded_kl = rounded.measure(rounded.tensors)
        found = self._within_budget() if rounded.target_kl is None else self._within_target()
        if found is not None:
            done, kl, start, shift = found
            better = kl < rounded_kl if rounded.target_kl is None else done.size < rounded.size
            if better:
                changed = _changed(start.tensors, done.tensors)
                text, written = self._text
                report = Refinement(
                    text.size, written, rounded.size, rounded_kl, kl, changed, shift
                )
                return self._finished(done), report
        return rounded.warn("--refine found nothing better than rounding"), None

    def _finished(self, done: PackState) -> PackState:
        """`done` as a build's result."""
        done = replace(
            done, budget=self.rounded.budget, target_kl=self.rounded.target_kl,
            trace=self.rounded.trace, pruning=self.ready.pruning,
        )  # fmt: skip
        return done if done.target_kl is not None else self.fit.told_headroom(done, SHIFT_ROUNDS)

    def _within_budget(self) -> "_Found | None":
        limit, octaves = self.rounded.budget.artifact, 0.0
        bits = 8.0 / sum(
            t.codes.size for t in self.rounded.tensors.values() if isinstance(t, QTensor)
        )
        for _ in range(ATTEMPTS):
            start = self._start(self.rounded.dial * 2.0**octaves) if octaves else self.rounded
            latents = self._trained(start)
            shift, done, over = self._fitted(start, latents, limit)
            if done is not None:
                assert self.rounded.measure is not None
                return done, self.rounded.measure(done.tensors), start, shift
            octaves += BACK_OFF * bits * over  # about one bit per weight and octave of the dial
        return None

    def _within_target(self) -> "_Found | None":
        target, best, gain = self.rounded.target_kl, None, FIRST_GAIN
        assert target is not None
        assert self.rounded.measure is not None
        for _ in range(ATTEMPTS):
            start = run_passes([self.fit], replace(self.ready, target_kl=target / gain))
            done = self._encoded(start, _rounded(start, self._trained(start), 0.0))
            kl = self.rounded.measure(done.tensors)
            if kl <= target and (best is None or done.size < best[0].size):
                best = done, kl, start, 0.0
            if (1 - NEAR) * target <= kl <= target:
                break
            gain *= kl / target / (1 - NEAR / 2)
        return best

    def _start(self, dial: float) -> PackState:
        # What passes behind `round` cut down to a budget is not to be cut before training.
        free = replace(self.ready, dial=dial, coding=self.rounded.coding, budget=Budget(UNLIMITED))
        return run_passes(self.fit.body, free)

    def _trained(self, start: PackState) -> dict[str, Latent]:
        c = self.prepared.checkpoint
        latents = {
            n: _latent(start, n, t) for n, t in start.tensors.items() if isinstance(t, QTensor)
        }
        distil(
            build_model(c.family, c.config, c.weights), self.prepared.model_of(start.tensors),
            latents, self._text[0], threads=start.threads,
            device=self.prepared.backend.device if self.prepared.backend.batched else None,
            progress=lambda done, total, note: start.notify("refine", done, total, note),
        )  # fmt: skip
        return latents

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

    def _fitted(
        self, start: PackState, latents: Mapping[str, Latent], limit: int
    ) -> tuple[float, PackState | None, int]:
        """(shift, the largest file within `limit`, bytes over it): None where no shift gets there."""
        tolerance = self.fit.enough(limit)
        over, size = 0.0, (whole := self._encoded(start, _rounded(start, latents, 0.0))).size
        if size <= limit:
            return 0.0, whole, 0
        fits, best = MAX_SHIFT, self._encoded(start, _rounded(start, latents, MAX_SHIFT))
        if best.size > limit:
            return fits, None, best.size - limit
        for _ in range(SHIFT_ROUNDS):
            if limit - best.size <= tolerance:
                break
            share = (size - limit + tolerance / 2) / (size - best.size)
            shift = over + (fits - over) * min(max(share, 0.02), 0.98)
            tried = self._encoded(start, _rounded(start, latents, shift))
            if tried.size <= limit:
                fits, best = shift, tried
            else:
                over, size = shift, tried.size
        return fits, best, 0

    def _encoded(self, start: PackState, tensors: Mapping[str, PackedTensor]) -> PackState:
        return run_passes([_writer(self.fit.body)], replace(start, tensors=tensors))


# The artifact, its measured KL, what it was trained from, and the last rounding's shift.
_Found = tuple[PackState, float, PackState, float]


def _writer(body: tuple[Pass, ...]) -> Pass:
    """The pass that writes the file and does nothing else."""
    last = body[-1]
    behind = getattr(last, "body", ())
    return _writer(behind) if behind else last


def _latent(state: PackState, name: str, tensor: QTensor) -> Latent:
    step = step_matrix(tensor.steps, tensor.codes.shape)
    offset = None
    if tensor.correction is not None:
        offset = np.zeros(tensor.codes.shape, np.float32)
        tensor.correction.add_to(offset)
    limit, shape = state.plan[name].limit, state.spec[name].shape
    return latent(state.matrix(name), tensor.codes, step, limit, shape, offset)


def _rounded(
    start: PackState, latents: Mapping[str, Latent], shift: float
) -> dict[str, PackedTensor]:
    """The tensors of `start` with codes of the latents, every boundary `shift` steps further out."""
    tensors = dict(start.tensors)
    for name, x in latents.items():
        t, z = tensors[name], x.z.numpy()
        assert isinstance(t, QTensor)
        codes = np.rint(z) if shift == 0 else np.sign(z) * np.floor(np.abs(z) + (0.5 - shift))
        tensors[name] = replace(t, codes=codes.astype(np.int32))
    return tensors


def _changed(before: Mapping[str, PackedTensor], after: Mapping[str, PackedTensor]) -> float:
    moved = count = 0
    for name, t in before.items():
        u = after[name]
        if isinstance(t, QTensor) and isinstance(u, QTensor):
            moved += int(np.count_nonzero(t.codes != u.codes))
            count += t.codes.size
    return moved / max(count, 1)
