"""The passes that turn weights into codes: sense, clip, steps, round. Thin shells, no maths."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast, get_args

import numpy as np

from golfpack.base.convert import require
from golfpack.base.parallel import map_ordered
from golfpack.errors import UsageError
from golfpack.packer.engine import ToRound
from golfpack.packer.format.rawfloat import raw_from_float32
from golfpack.packer.format.steps import StepField, col_logs_of
from golfpack.packer.format.tensors import PackedTensor, QTensor, Raw
from golfpack.packer.format.trellis import path_order
from golfpack.packer.quantize.gptq import MAX_DAMP
from golfpack.packer.quantize.schemes import IntN, Keep, Ternary, kept_type
from golfpack.packer.quantize.sensitivity import Damp, Order, measure_sensitivity, reordered
from golfpack.packer.state import (
    PackState,
    Pass,
    Stage,
    clips_of,
    has_states,
    need,
    quantized_names,
    step_field,
)
from golfpack.spec import as_matrix

_MOST_SURVIVORS = 64
# Survivors where none are told, up to so many weights and above: of a row, or of each of its states.
_FEW_WEIGHTS = 10_000_000
_WHOLE, _EACH = (16, 8), (4, 1)
_F16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Sense(Pass):
    """Boil calibration down to one Sensitivity per tensor, and factor the Hessians.

    Attributes:
        damp: added to every Hessian's diagonal, as a fraction of its mean.
        own_damp: added to every entry of that diagonal, as a fraction of itself. Where a few inputs are
            much larger than the others, a share of the mean drowns those (docs/LOG.md).
        order: of rounding. natural: as the columns stand; falling: by the Hessian's diagonal, the
            largest first, as GPTQ has it; rising: the least active first, so that all others can still
            make up for what they lose. With two-sided feedback the rows alike (docs/LOG.md). Codes with
            states go by the column steps that follow, the largest first, as a decoder knows them.
        two_sided: feed errors back along rows too, where calibration measured output gradients.
        row_damp, own_row_damp: the same, for the covariance of output gradients.
        norms: where gradients tell that an embedding's rows are normalised, errors count against what is
            left of a row (`quantize.schemes.RateDistortion`).
    """

    name: ClassVar[str] = "sense"
    stage: ClassVar[Stage] = "prepare"
    damp: float = 0.01
    own_damp: float = 0.0
    order: str = "natural"
    two_sided: bool = False
    row_damp: float = 0.1
    own_row_damp: float = 0.0
    norms: bool = True

    def __post_init__(self) -> None:
        require(
            self.order in get_args(Order),
            f"sense.order is {self.order!r}",
            f"choose from {', '.join(get_args(Order))}",
        )
        for option in ("damp", "own_damp", "row_damp", "own_row_damp"):
            value = getattr(self, option)
            require(
                0 <= value <= MAX_DAMP, f"sense.{option} is {value}", f"choose 0 to {MAX_DAMP:g}"
            )

    def requires(self, state: PackState) -> None:
        need(state, "plan", self.name, "policy")

    def run(self, state: PackState) -> PackState:
        names = quantized_names(state)
        order, damp = cast(Order, self.order), Damp(self.damp, self.own_damp)
        found = measure_sensitivity(
            {n: state.weights[n] for n in names},
            state.stats,
            damp=damp,
            row_damp=Damp(self.row_damp, self.own_row_damp) if self.two_sided else None,
            order=order,
            engine=state.engine,
            threads=state.threads,
            notify=state.notify,
        )
        for n, s in found.items():
            if s.factor is not None and s.factor.damp > self.damp:
                state = state.warn(
                    f"{n}: Hessian not positive definite at damp {self.damp:g}; "
                    f"used {s.factor.damp:g}"
                )
        if not self.norms:
            found = {n: replace(s, normalised=False) for n, s in found.items()}
        state = replace(state, sensitivity=found)
        # The dial has no say in the columns' steps.
        orders = {
            n: _path(state, n, step_field(state, n, 1.0)) for n in names if has_states(state, n)
        }
        found = reordered(found, orders, damp=damp, engine=state.engine, threads=state.threads)
        return replace(state, sensitivity=found)


@dataclass(frozen=True)
class Clip(Pass):
    """Find the clips of every tensor of fixed bit width, once: no dial changes them.

    Raises UsageError where a step is more than float16, which it is stored as, can hold.
    """

    name: ClassVar[str] = "clip"
    stage: ClassVar[Stage] = "prepare"

    def requires(self, state: PackState) -> None:
        need(state, "plan", self.name, "policy")
        if quantized_names(state):
            need(state, "sensitivity", self.name, "sense")

    def run(self, state: PackState) -> PackState:
        state = clipped(state)
        for name, clips in state.clips.items():
            scheme = state.plan[name]
            assert isinstance(scheme, IntN | Ternary)
            step = clips.max(initial=0) / scheme.limit
            if step > _F16_MAX:  # stored as _F16_MAX, it would cut off the weights in silence
                held = f"quantizes it to {scheme.label} with float16 steps, here of {step:.3g}"
                raise _too_large(name, state.weights[name], held)
        return state


def clipped(state: PackState) -> PackState:
    """The state with the clips of every tensor of fixed bit width."""
    names = [n for n in quantized_names(state) if isinstance(state.plan[n], IntN | Ternary)]
    work = map_ordered(lambda n: clips_of(state, n, state.plan[n]), names, state.threads)
    clips: dict[str, np.ndarray] = {}
    for n, found in zip(names, work, strict=True):
        assert found is not None
        clips[n] = found
        state.notify("clip", len(clips), len(names), n)
    return replace(state, clips=clips)


@dataclass(frozen=True)
class Steps(Pass):
    """Every quantized tensor's step field, from its scheme, its clips and the dial."""

    name: ClassVar[str] = "steps"
    stage: ClassVar[Stage] = "quantize"

    def requires(self, state: PackState) -> None:
        need(state, "plan", self.name, "policy")
        if quantized_names(state):
            need(state, "sensitivity", self.name, "sense")

    def run(self, state: PackState) -> PackState:
        steps = {n: step_field(state, n, state.dial) for n in quantized_names(state)}
        return replace(state, steps=steps)


@dataclass(frozen=True)
class Round(Pass):
    """Weights to codes.

    Attributes:
        feedback: GPTQ's error feedback where there is a Hessian (two-sided where `sense` prepared
            it); otherwise round to nearest.
        rate_weight: prefer cheaper codes by this much (rate-distortion-optimal rounding; the theory's
            slope is ln 2 / 12 = 0.058). 0 rounds to nearest; docs/LOG.md says what it gave.
        survivors: with feedback, how many sequences of codes a search keeps for every row, see
            `listsearch`. 1 rounds each code as it comes; 0 chooses by time: 16 up to ten million
            weights, 8 above. A search weighs bits as the coder has them, by the same lambda. Of codes
            with states so many are kept in each of the 8 states; 0 then chooses 4 and 1.
    """

    name: ClassVar[str] = "round"
    stage: ClassVar[Stage] = "quantize"
    feedback: bool = True
    rate_weight: float = 0.0
    survivors: int = 1

    def __post_init__(self) -> None:
        holds = 0 <= self.rate_weight <= 1
        require(holds, f"round.rate_weight is {self.rate_weight}", "choose 0 to 1")
        holds = 0 <= self.survivors <= _MOST_SURVIVORS
        require(holds, f"round.survivors is {self.survivors}", f"choose 0 to {_MOST_SURVIVORS}")

    def requires(self, state: PackState) -> None:
        need(state, "plan", self.name, "policy")
        if quantized_names(state):
            need(state, "steps", self.name, "steps")

    def run(self, state: PackState) -> PackState:
        names = list(state.plan)
        # The largest tensors first, so that threads end together; results return to spec order.
        queue = sorted(
            names, key=lambda n: -state.spec[n].numel * as_matrix(state.spec[n].shape)[1]
        )
        # Kept tensors cost nothing and are not handed over.
        rounded = self.rounded(state, [n for n in queue if not isinstance(state.plan[n], Keep)])
        results: dict[str, PackedTensor] = {}
        for done, name in enumerate(queue, 1):
            keep = isinstance(state.plan[name], Keep)
            results[name] = kept(state, name) if keep else next(rounded)
            state.notify("round", done, len(names), name)
        return replace(state, tensors={n: results[n] for n in names})

    def rounded(self, state: PackState, names: Sequence[str]) -> Iterator[QTensor]:
        """The codes of some quantized tensors, one by one, as `state` has their weights and steps."""
        few = sum(state.spec[n].numel for n in quantized_names(state)) <= _FEW_WEIGHTS
        work: list[ToRound] = []
        for n in names:
            each = _EACH if has_states(state, n) else _WHOLE
            survivors = self.survivors or each[0 if few else 1]
            work.append(
                to_round(state, n, state.steps[n], self.feedback, self.rate_weight, survivors)
            )
        for one, codes in zip(work, state.engine.codes(work, state.threads), strict=True):
            yield QTensor(codes, one.steps, states=one.states)

    def ensures(self, state: PackState) -> None:
        for name, t in state.tensors.items():
            limit = state.plan[name].limit
            if isinstance(t, QTensor) and limit is not None:
                assert np.abs(t.codes).max(initial=0) <= limit, name


def _path(state: PackState, name: str, steps: StepField) -> np.ndarray:
    return path_order(col_logs_of(steps, state.matrix(name).shape[1]))


def kept(state: PackState, name: str) -> Raw:
    """One tensor that stays floats. Raises UsageError where its type is too small for it."""
    w = state.weights[name]
    dtype = kept_type(state.plan[name], w)
    if dtype == "f16" and np.abs(w).max(initial=0) > _F16_MAX:
        raise _too_large(name, w, "keeps it as float16")
    return Raw(raw_from_float32(w, dtype), dtype)


def _too_large(name: str, w: np.ndarray, held: str) -> UsageError:
    return UsageError(
        f"tensor {name} holds {np.abs(w).max():.3g}, and the recipe {held}; float16 ends at "
        f"{_F16_MAX:g}",
        'give it scheme = "keep" with dtype = "bf16" in a recipe of your own, or use recipe rd',
    )


def to_round(
    state: PackState,
    name: str,
    steps: StepField,
    feedback: bool,
    rate_weight: float = 0.0,
    survivors: int = 1,
) -> ToRound:
    """The rounding of one quantized tensor under its scheme; `steps` is its step field."""
    w, limit, known = state.matrix(name), state.plan[name].limit, state.sensitivity[name]
    if not feedback or known.factor is None:
        return ToRound(w, steps, limit)
    states = has_states(state, name)
    assert not states or np.array_equal(known.factor.order, _path(state, name, steps)), name
    return ToRound(w, steps, limit, known.factor, known.row_factor, rate_weight, survivors, states)
