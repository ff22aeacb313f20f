"""The pass that scales columns by their inputs before anything is quantized (AWQ)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from golfpack.base.convert import require
from golfpack.base.parallel import map_ordered
from golfpack.errors import UsageError
from golfpack.packer.quantize.awq import Factors, find_factors, fold_uses, fold_weights, input_sizes
from golfpack.packer.quantize.clip import make_clip
from golfpack.packer.quantize.schemes import IntN, Ternary
from golfpack.packer.quantize.sensitivity import Sensitivity, combine_uses
from golfpack.packer.state import PackState, Pass, Stage, need, quantized_names
from golfpack.spec import Fold


@dataclass(frozen=True)
class Awq(Pass):
    """Find column factors for every matrix of fixed bit width that has calibrated inputs.

    Matrices that share an input each get factors of their own. A tied embedding gets those of its
    inputs as a head, judged by the error in both of its roles.

    Attributes:
        grid: alphas tried are 0, 1/grid, ..., 1; per matrix.
        fold: undo factors in the producer's rows where the model allows (`ModelSpec.folds`), which
            changes both matrices; otherwise, and elsewhere, they are stored as column steps.
    """

    name: ClassVar[str] = "awq"
    stage: ClassVar[Stage] = "prepare"
    grid: int = 20
    fold: bool = True

    def __post_init__(self) -> None:
        require(1 <= self.grid <= 1000, f"awq.grid is {self.grid}", "choose 1 to 1000")

    def requires(self, state: PackState) -> None:
        need(state, "plan", self.name, "policy")
        if state.sensitivity:
            raise UsageError(
                "pass 'awq' changes what 'sense' measures, and stands behind it",
                "put it between 'policy' and 'sense'",
            )
        if state.stats is None:
            raise UsageError("pass 'awq' needs calibration", "drop --data-free")

    def run(self, state: PackState) -> PackState:
        inputs = {n: x for n in quantized_names(state) if (x := _input_abs(state, n)) is not None}
        if not inputs:
            raise UsageError(
                "pass 'awq' finds no tensor of fixed bit width with calibrated inputs",
                "remove it, or give matrices the scheme 'int' or 'ternary'",
            )
        folds = {f.consumer: f for f in state.spec.folds} if self.fold else {}
        work = map_ordered(
            lambda n: _search(state, n, inputs[n], folds.get(n), self.grid), inputs, state.threads
        )
        out = state
        for done, (name, found) in enumerate(zip(inputs, work, strict=True), 1):
            out = _applied(out, name, folds.get(name), found)
            note = f"{name} alpha {found.alpha:.2f} error x{found.error_ratio:.3f}"
            state.notify("awq", done, len(inputs), note)
        return out


def _input_abs(state: PackState, name: str) -> np.ndarray | None:
    """Mean |x| per column, (cols,), of a tensor that the pass works on; None for others."""
    scheme = state.plan[name]
    if not isinstance(scheme, IntN | Ternary):
        return None
    assert state.stats is not None
    uses = state.stats.uses.get(name, ())
    found = next((u.input_abs for u in uses if u.input_abs is not None), None)
    if found is not None and isinstance(scheme, IntN):
        _check(scheme, name)
    return found


def _check(scheme: IntN, name: str) -> None:
    """Refuse options that contradict column factors judged by rounding to nearest."""
    what = f"pass 'awq' cannot scale tensor {name}"
    require(
        not make_clip(scheme.clip).whole_rows,
        f"{what}, whose clips are tried by feedback",
        'use trial = "nearest"',
    )
    require(
        not scheme.baseline_rounding,
        f"{what}, which is rounded as the challenge's baseline does it",
        "set baseline_rounding = false, or remove the pass",
    )


def _search(
    state: PackState, name: str, input_abs: np.ndarray, fold: Fold | None, grid: int
) -> Factors:
    scheme, w = state.plan[name], state.matrix(name)
    assert state.stats is not None
    assert isinstance(scheme, IntN | Ternary)
    hessian, row_weight = combine_uses(state.stats.uses[name], len(w))
    sizes = input_sizes(input_abs, None if fold is None else fold.rows)
    return find_factors(w, scheme, Sensitivity(hessian, row_weight, None, True), sizes, grid)


def _applied(state: PackState, name: str, fold: Fold | None, found: Factors) -> PackState:
    if not found.logs.any():
        return state
    if fold is None:
        return replace(state, columns={**state.columns, name: found.logs})
    assert state.stats is not None
    uses = fold_uses(state.stats.uses, fold, found.logs, len(state.weights[fold.producer]))
    unpruned = state.unpruned
    if unpruned is not None:
        unpruned = {**unpruned, **fold_weights(unpruned, fold, found.logs)}
    return replace(
        state,
        weights={**state.weights, **fold_weights(state.weights, fold, found.logs)},
        unpruned=unpruned,
        original=state.original or state.weights,
        stats=replace(state.stats, uses={**state.stats.uses, **uses}),
    )
