"""`golfpack build --refine`: self-distillation of what rounding leaves, in turn or code by code."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log2
from typing import Literal

import numpy as np

from golfpack.build.distil import distil
from golfpack.build.in_sequence import InSequence, loosely, rounds_in_sequence
from golfpack.build.in_turn import InTurn
from golfpack.build.latents import TINY, Latent, latent
from golfpack.build.losses import measure_losses
from golfpack.build.prepare import Prepared
from golfpack.build.report import Refinement, TextLoss
from golfpack.calib.sources import CalibTokens, training_text
from golfpack.errors import UsageError
from golfpack.packer.aim import Budget
from golfpack.packer.format.steps import step_matrix
from golfpack.packer.format.tensors import PackedTensor, QTensor
from golfpack.packer.passes.encode import encoded
from golfpack.packer.passes.lowrank import Correct
from golfpack.packer.passes.policy import without_states
from golfpack.packer.passes.quantize import Steps
from golfpack.packer.search import fit_bytes, fit_kl
from golfpack.packer.state import PackState, run_passes

# Tokens per sequence of training text: at equal tokens more updates win (docs/LOG.md), and a long
# sequence costs more per token.
LENGTH = 256
# What the model writes to train on is its own distribution, as KL is measured by it.
TEMPERATURE = 1.0
# Share of the next token in what is aimed at, by what `--refine-on` says: a gradient of labels is many
# times as noisy as that of a small KL, so that more of them leaves little of the other (docs/LOG.md).
Aim = Literal["kl", "labels"]
LABELS: Mapping[Aim, float] = {"kl": 0.0, "labels": 0.1}
# Training aims at a file this share below the limit, as it does not end on the byte.
MARGIN = 0.0005
# The price of a bit at the start, in what it is worth by theory (`toll.USUAL_PRICE`); how far a look
# may change it; how many times the bits that gradients promise a price saves, as latents gather where
# codes turn (docs/LOG.md).
PRICE: Mapping[Aim, float] = {"kl": 1.0, "labels": 2.0}
CHANGE, ANSWER = 1.4, 4.0
# Where it ends over the limit all the same, steps get coarser once more, by so much more than is over,
# and nothing mends what that costs.
BACK_OFF = 1.25
LAST_TRIES = 6
ATTEMPTS = 3
# A KL this share below its target is good enough.
NEAR = 0.05
# Codes with states are rounded in turn where rounding loses no more than this, nats per token, and has
# as many bits per weight. Elsewhere, training codes that stand by themselves may gain more than states
# do, and is tried first (docs/LOG.md).
IN_TURN, FEW_BITS = 0.03, 2.25
# What training leaves of the KL, where it is not yet known: of codes that stand by themselves, and of
# those with states.
FIRST_GAIN = 0.6, 0.8
NOTHING_BETTER = "--refine found nothing better than rounding; more tokens may (docs/recipes.md)"


@dataclass(frozen=True, eq=False)
class Refined:
    """What refinement ends with.

    Attributes:
        state: the artifact.
        report: what training did; None where it found nothing better.
        losses: of the artifact, see `losses.measure_losses`; empty where nothing was trained.
    """

    state: PackState
    report: Refinement | None = None
    losses: tuple[TextLoss, ...] = ()


@dataclass(frozen=True, eq=False)
class Refiner:
    """Refinement of one build.

    Attributes:
        prepared: what the build works on.
        ready: as the recipe's `prepare` left it.
        searched: as the search left it.
        rounded: the same, or rounded in sequence: what training has to be better than.
        tokens: to train on.
        one_way: whether to be content with the way that is tried first.
        on: what is trained for: the float model's predictions, or what training text goes on with, too.
        limit: bytes that the artifact may have; None where a target rules.
        target: KL that it may have, nats per token; None where a budget rules.
    """

    prepared: Prepared
    ready: PackState
    searched: PackState
    rounded: PackState
    tokens: int
    one_way: bool
    on: Aim
    limit: int | None
    target: float | None

    def run(self) -> "Refined":
        """The refined artifact; the rounded one, with a warning, where that is no worse.

        Raises:
            UsageError: nothing was calibrated, so there are no tokens to train on.
        """
        rounded = self.rounded
        if self.prepared.used is None:
            raise UsageError(
                "--refine needs calibration tokens", "drop --data-free, or give --calib"
            )
        if not any(isinstance(t, QTensor) for t in rounded.tensors.values()):
            return Refined(rounded.warn("--refine: nothing is quantized, so nothing was trained"))
        before = measure_losses(self.prepared, rounded.tensors, rounded.notify)
        for turns in self._ways(before[0].kl):
            found = self._refined(before, turns)
            if found is not None:
                return found
        return Refined(rounded.warn(NOTHING_BETTER), None, before)

    def _ways(self, kl: float) -> tuple[bool, ...]:
        """Whether to round in turn, or not to and train codes; or both, until one is better."""
        codes = [t for t in self.rounded.tensors.values() if isinstance(t, QTensor)]
        # Turns would leave corrections of rounding at once behind.
        if not any(t.states is not None for t in codes) or any(
            t.correction is not None for t in codes
        ):
            return (False,)
        few = self._fits and 8 * self.rounded.size < FEW_BITS * self.prepared.model.spec.numel
        ways = (False, True) if kl > IN_TURN or few else (True,)
        return ways[:1] if self.one_way else ways

    def _refined(self, before: tuple[TextLoss, ...], turns: bool) -> "Refined | None":
        """What one way ends with; None where rounding, whose losses are `before`, is no worse."""
        rounded = self.rounded
        within_budget = self._in_turn_within if turns else self._within_budget
        found = self._within_target(turns) if self.limit is None else within_budget(self.limit)
        if found is None:
            return None
        trained, start = found
        after = measure_losses(self.prepared, trained.tensors, rounded.notify)
        smaller, lower = trained.size < rounded.size, self._aim(after) < self._aim(before)
        if not (smaller if self.limit is None else lower):
            return None
        text, written = self._text
        report = Refinement(
            on=self.on, tokens=text.size, written=written, rounded_bytes=rounded.size,
            rounded_kl=before[0].kl, kl=after[0].kl,
            changed=_changed(start.tensors, trained.tensors),
            octaves=log2(trained.dial / (self.searched if turns else self._plain).dial),
            rounded_losses=list(before),
        )  # fmt: skip
        return Refined(self._finished(trained), report, after)

    def _aim(self, losses: Sequence[TextLoss]) -> float:
        """What training lowers, on held-out calibration tokens."""
        share, held_out = LABELS[self.on], losses[0]
        return (1 - share) * held_out.kl + share * held_out.ce_rise

    def _finished(self, trained: PackState) -> PackState:
        """A trained state as a build's result."""
        rounded = self.rounded
        return replace(
            trained, limit=rounded.limit, weights=rounded.weights, trace=rounded.trace,
            pruning=self.ready.pruning,
            warnings=tuple(dict.fromkeys((*rounded.warnings, *trained.warnings))),
        )  # fmt: skip

    def _within_budget(self, limit: int) -> "_Found | None":
        first = self._first(limit)
        start, latents = first, self._trained(first, round((1 - MARGIN) * limit))
        back = 0.0
        for _ in range(LAST_TRIES):
            trained = self._encoded(start, latents)
            if trained.size <= limit:
                return trained, first
            # A few bytes change no step: by twice as many each time.
            back = max(BACK_OFF * (trained.size - limit), 2 * back)
            start, latents = self._resized(start, latents, back)
        return None

    def _in_turn_within(self, limit: int) -> "_Found | None":
        # What the search left unused, where a model cannot use it, stays unused.
        start = self.searched
        search = self.prepared.recipe.search
        left = loosely(search) if search.in_sequence else search
        spare = limit - start.size > left.enough(limit)
        trained = self._in_turn(start, start.size if spare else limit)
        return None if trained is None else (trained, start)

    def _within_target(self, turns: bool) -> "_Found | None":
        target, best, gain = self.target, None, FIRST_GAIN[turns]
        ready = self.ready if turns else self._ready
        recipe = self.prepared.recipe
        assert target is not None
        for _ in range(ATTEMPTS):
            start = fit_kl(recipe.search, recipe.round, ready, target / gain)
            if turns:
                trained = self._in_turn(start, None)
                assert trained is not None
            else:
                start = self._in_sequence(start, start.size) or start
                trained = self._encoded(start, self._trained(start, None))
            kl = self.prepared.measure_kl(trained.tensors, start.notify)
            if kl <= target and (best is None or trained.size < best[0].size):
                best = trained, start
            if (1 - NEAR) * target <= kl <= target:
                break
            gain *= kl / target / (1 - NEAR / 2)
        return best

    @cached_property
    def _ready(self) -> PackState:
        """`ready` with codes that stand by themselves: no gradient moves those that follow a trellis."""
        return replace(self.ready, plan=without_states(self.ready.plan))

    @cached_property
    def _plain(self) -> PackState:
        """What training starts from: `searched`, but with codes that stand by themselves."""
        if self._ready.plan == self.ready.plan:
            return self.searched
        recipe = self.prepared.recipe
        if self.limit is not None:
            search = loosely(recipe.search) if self._fits else recipe.search
            return fit_bytes(search, recipe.round, self._ready, Budget(self.limit))
        assert self.target is not None
        return fit_kl(recipe.search, recipe.round, self._ready, self.target)

    def _in_turn(self, start: PackState, limit: int | None) -> PackState | None:
        """The network rounded in turn at the steps of `start`, see `in_turn`."""
        return InTurn(self.prepared, start, self._text[0], LABELS[self.on]).run(limit)

    @cached_property
    def _fits(self) -> bool:
        return rounds_in_sequence(self.prepared, self._ready)

    def _in_sequence(self, start: PackState, size: int) -> PackState | None:
        """`start` rounded in sequence to about `size` bytes; None where that is no better."""
        if not self._fits:
            return None
        return InSequence(self.prepared, self._ready, start).at_one_dial(size)

    def _first(self, limit: int) -> PackState:
        """A rounding of about the size that training is to end with."""
        if (fitted := self._in_sequence(self._plain, limit)) is not None:
            return fitted
        over = self._plain.size - limit
        latents = _latents(self._plain)
        search = self.prepared.recipe.search
        # A loose search leaves a little unused; more than that is left where a model cannot use it.
        loose = self._fits and search.enough(limit) < -over <= loosely(search).enough(limit)
        if not latents or (over <= 0 and not loose):
            return self._plain
        octaves = _octaves(over, latents)
        return self._rounded_at(self._plain.dial * 2.0**octaves)

    def _rounded_at(self, dial: float) -> PackState:
        # What passes behind `round` cut down to a budget is not to be cut before training.
        free = replace(self._ready, dial=dial, coding=self._plain.coding, limit=None)
        return run_passes(self.prepared.recipe.round, free)

    def _on_steps_of(self, start: PackState, dial: float) -> PackState:
        """`start` with the steps of another dial, its codes as they were."""
        passes = self.prepared.recipe.round
        if any(isinstance(p, Correct) for p in passes):
            return self._rounded_at(dial)  # corrections are of what rounding leaves
        free = replace(self._ready, dial=dial, coding=self._plain.coding, limit=None)
        steps = run_passes([p for p in passes if p.name == Steps.name], free).steps
        tensors = {
            name: replace(t, steps=steps[name]) if isinstance(t, QTensor) else t
            for name, t in start.tensors.items()
        }
        return replace(free, steps=steps, tensors=tensors)

    def _trained(self, start: PackState, aim: int | None) -> Mapping[str, Latent]:
        """What was trained on the steps of `start`, for a file of `aim` bytes, if any."""
        usual = PRICE[self.on]

        def size(latents: Mapping[str, Latent]) -> int:
            return self._encoded(start, latents).size

        return distil(
            self.prepared.model.module(), self.prepared.module_of(start.tensors),
            _latents(start), self._text[0], threads=start.threads, labels=LABELS[self.on],
            device=self.prepared.backend.device if self.prepared.backend.batched else None,
            price=(lambda *_: usual) if aim is None else _Steering(usual, aim, size),
            progress=lambda done, total, note: start.notify("refine", done, total, note),
            helpers=self.prepared.backend.helpers,
        )  # fmt: skip

    def _resized(
        self, start: PackState, latents: Mapping[str, Latent], over: float
    ) -> tuple[PackState, Mapping[str, Latent]]:
        """The same weights on steps that give a file about `over` bytes smaller."""
        found = self._on_steps_of(start, start.dial * 2.0 ** _octaves(over, latents))
        other = _latents(found)
        if other.keys() != latents.keys():  # a tensor that is kept now: leave all as it is
            return start, latents
        return found, {name: x.onto(other[name]) for name, x in latents.items()}

    @cached_property
    def _text(self) -> tuple[np.ndarray, int]:
        """What to train on, and how many tokens of it the model wrote for that."""
        p = self.prepared
        assert p.used is not None
        assert p.held_out is not None

        def write(shape: tuple[int, int]) -> CalibTokens:
            # Another seed than calibration's own text has, which tokens to measure with are part of.
            return p.written_text(
                shape, temperature=TEMPERATURE, seed=p.seed + 1, purpose="training",
                notify=self.rounded.notify,
            )  # fmt: skip

        # What the model writes has no other labels than its own predictions.
        return training_text(
            p.used, p.held_out, self.tokens, LENGTH, p.seed, write if self.on == "kl" else None,
            half=p.writes_quickly,
        )  # fmt: skip

    def _encoded(self, start: PackState, latents: Mapping[str, Latent]) -> PackState:
        """The file of `start` with the latents' codes."""
        tensors = dict(start.tensors)
        for name, x in latents.items():
            t = tensors[name]
            assert isinstance(t, QTensor)
            tensors[name] = replace(t, codes=np.rint(x.z.numpy()).astype(np.int32))
        return encoded(replace(start, tensors=tensors))


class _Steering:
    """The price of a bit while codes are trained, such that the file ends with `aim` bytes."""

    def __init__(self, price: float, aim: int, size: Callable[[Mapping[str, Latent]], int]) -> None:
        self.price, self.aim, self.size = price, aim, size
        self.behind, self.before = 0.0, 0

    def __call__(self, latents: Mapping[str, Latent], behind: float, saved: float | None) -> float:
        """See `toll.Price`."""
        size = self.size(latents)
        if saved is not None:
            growth = (size - self.before) / (behind - self.behind)
            over = size + growth * (1 - behind) - self.aim
            wanted = self.price + over / max(ANSWER * saved / 8, TINY)
            self.price = min(max(wanted, self.price / CHANGE), self.price * CHANGE)
        self.behind, self.before = behind, size
        return self.price


# The artifact, and the rounding that it was trained from.
_Found = tuple[PackState, PackState]


def _octaves(over: float, latents: Mapping[str, Latent]) -> float:
    """How much coarser steps make a file about `over` bytes smaller: a bit per weight and octave."""
    return 8 * over / sum(x.z.numel() for x in latents.values())


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
