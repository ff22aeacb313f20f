"""Passes: a frozen dataclass each, whose fields are its options, over one immutable state.

A recipe has three lists of passes: `prepare` runs once, `quantize` and `write` run again for every dial
that the search (`search.py`) tries, so what does not depend on the dial belongs into the first.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np

from golfpack.base.progress import Notify, silent
from golfpack.errors import GolfpackError, UsageError
from golfpack.packer.autocode import Coding
from golfpack.packer.engine import Engine, HostEngine
from golfpack.packer.format.attached import TokenizerFile
from golfpack.packer.format.steps import COL_OCTAVE, F16Steps, StepField, exp2_log
from golfpack.packer.format.tensors import PackedTensor
from golfpack.packer.quantize.schemes import IntN, Keep, RateDistortion, Scheme, Ternary
from golfpack.packer.quantize.sensitivity import Sensitivity
from golfpack.spec import CalibStats, ModelSpec, as_matrix


@dataclass(frozen=True)
class FitRound:
    """One try of the search: the dial and the real size of the artifact it gave."""

    dial: float
    artifact_bytes: int


@dataclass(frozen=True)
class Allocation:
    """What `mix` chose among. Pairs are (coded bytes by entropy, H-weighted error).

    With gradients the error is the expected KL in nats per token.

    Attributes:
        widths: bits per tensor.
        frontier: every vertex of the convex hull of all choices, cheapest first.
        chosen: what was taken: the integer program's choice where it is proven to be the best one, else
            the Lagrangian one.
        lagrangian, exact: the two answers: a Lagrangian sweep, and the integer program.
        budget: bytes that the choice had to keep within.
    """

    widths: Mapping[str, int]
    frontier: tuple[tuple[float, float], ...]
    chosen: tuple[float, float]
    lagrangian: tuple[float, float]
    exact: tuple[float, float]
    budget: float


@dataclass(frozen=True)
class Pruning:
    """What a pruning pass did.

    Attributes:
        method: "magnitude" or "ones".
        zeroed: how many weights (magnitude) or +-1 codes (ones).
        bytes_saved: what magnitude pruning saved at the same steps, below 0 where the file grew; None
            until the search has measured it, and for ones, whose saving is what was asked for.
    """

    method: str
    zeroed: int
    bytes_saved: int | None


@dataclass(frozen=True, eq=False)
class PackState:
    """Everything known so far about one build. Passes return a changed copy and mutate nothing.

    Attributes:
        weights: float32, each in its tensor's own shape.
        limit: bytes that the artifact may have; None where a target rules, or nothing does.
        dial: the one number behind every step; larger is smaller files.
        plan: per tensor, its scheme (set by `policy`).
        columns: per tensor, (cols,) int32: log2 of what AWQ multiplies its columns by before they
            are quantized, in 1/16 octave (set by `awq`; tensors without an entry are left alone).
        sensitivity: per tensor (set by `sense`).
        clips: per tensor, what its scheme found once for all dials (set by `clip`).
        steps, tensors: per tensor (set by `steps` and `round`).
        blob: the finished artifact (set by `encode`).
        coding: how all codes are coded, once `encode` has chosen; later rounds of the search reuse it.
        allocation: what `mix` chose among, or None.
        pruning: what pruning passes did, in order.
        unpruned: the weights before magnitude pruning, or None.
        original: the weights before any pass changed them, or None while none has.
        warnings: what fell short of what was asked; `--strict` makes them errors.
        notes: what is worth knowing besides, and falls short of nothing.
        trace: the rounds of the search.
        measure: KL(float || candidate) of quantized tensors on held-out calibration tokens, nats per
            token; None without calibration.
        engine: factors and rounds.
        tokenizer: what goes into the artifact beside the weights, or None.
    """

    spec: ModelSpec
    weights: Mapping[str, np.ndarray]
    stats: CalibStats | None
    limit: int | None = None
    threads: int = 1
    notify: Notify = silent
    dial: float = 1.0
    plan: Mapping[str, Scheme] = field(default_factory=dict[str, Scheme])
    columns: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    sensitivity: Mapping[str, Sensitivity] = field(default_factory=dict[str, Sensitivity])
    clips: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    steps: Mapping[str, StepField] = field(default_factory=dict[str, StepField])
    tensors: Mapping[str, PackedTensor] = field(default_factory=dict[str, PackedTensor])
    blob: bytes | None = None
    coding: Coding | None = None
    allocation: Allocation | None = None
    pruning: tuple[Pruning, ...] = ()
    unpruned: Mapping[str, np.ndarray] | None = None
    original: Mapping[str, np.ndarray] | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    trace: tuple[FitRound, ...] = ()
    measure: Callable[[Mapping[str, PackedTensor]], float] | None = None
    engine: Engine = field(default_factory=HostEngine)
    tokenizer: TokenizerFile | None = None

    @property
    def size(self) -> int:
        """Bytes of the finished artifact."""
        assert self.blob is not None
        return len(self.blob)

    @property
    def floats(self) -> Mapping[str, np.ndarray]:
        """The weights that errors are measured against: folded as `weights` are, but not pruned."""
        return self.unpruned or self.weights

    def matrix(self, name: str) -> np.ndarray:
        """The tensor as it is quantized: (rows, cols) float32."""
        w = self.weights[name]
        return w.reshape(as_matrix(w.shape))

    def warn(self, message: str) -> "PackState":
        """The state with one more warning (said once)."""
        if message in self.warnings:
            return self
        return replace(self, warnings=(*self.warnings, message))

    def note(self, message: str) -> "PackState":
        """The state with one more note."""
        return replace(self, notes=(*self.notes, message))


Stage = Literal["prepare", "quantize", "write"]


class Pass(ABC):
    """One step of a recipe.

    Attributes:
        name: as recipes write it.
        stage: when it runs: once to "prepare", or for every dial to "quantize" or to "write".
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]

    def requires(self, state: PackState) -> None:
        """Raise UsageError when an earlier pass is missing."""
        del state  # most passes need nothing

    @abstractmethod
    def run(self, state: PackState) -> PackState:
        """The state after this pass."""

    def ensures(self, state: PackState) -> None:
        """Assert what later passes rely on."""
        del state  # nothing to check


def run_passes(passes: Sequence[Pass], state: PackState) -> PackState:
    """Run passes in order; an error names the pass it came from and those before it."""
    done: list[str] = []
    for p in passes:
        try:
            p.requires(state)
            state = p.run(state)
            p.ensures(state)
        except GolfpackError:
            raise
        except Exception as e:
            e.add_note(f"in pass {p.name!r} after {done}")
            raise
        done.append(p.name)
    return state


def quantized_names(state: PackState) -> list[str]:
    """Tensors whose scheme makes codes, in spec order."""
    return [n for n, scheme in state.plan.items() if not isinstance(scheme, Keep)]


def has_states(state: PackState, name: str) -> bool:
    """Whether the codes of a quantized tensor have states: its scheme says so, and it is searched."""
    scheme = state.plan[name]
    states = isinstance(scheme, RateDistortion) and scheme.trellis
    return states and state.sensitivity[name].factor is not None


def clips_of(state: PackState, name: str, scheme: Scheme) -> np.ndarray | None:
    """What `scheme` would have to find once for all dials, were it the tensor's."""
    w, sensitivity = state.matrix(name), state.sensitivity[name]
    if name in state.columns:
        factors = exp2_log(state.columns[name], COL_OCTAVE)
        w, sensitivity = w * factors, sensitivity.scaled(factors)
    return scheme.find_clips(w, sensitivity)


def step_field(state: PackState, name: str, dial: float) -> StepField:
    """The step field of one quantized tensor at a dial.

    Raises:
        UsageError: its scheme needs clips, and nothing found them.
    """
    scheme, clips = state.plan[name], state.clips.get(name)
    if clips is None and isinstance(scheme, IntN | Ternary):
        raise UsageError(
            f"tensor {name} has a fixed bit width ({scheme.label}) and no clips",
            "add the pass 'clip' to the recipe, before 'steps'",
        )
    steps = scheme.steps(state.matrix(name), state.sensitivity[name], dial, clips)
    if name in state.columns and isinstance(steps, F16Steps):
        return replace(steps, col_log=-state.columns[name])
    return steps


def need(state: PackState, attribute: str, by: str, earlier: str) -> None:
    """Raise UsageError when `state.attribute` is empty."""
    if not getattr(state, attribute):
        raise UsageError(f"pass {by!r} needs {earlier!r} before it", "fix the order in the recipe")
