"""The pass that adds low-rank corrections to what rounding left (LQER)."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from golfpack.base.convert import require
from golfpack.base.parallel import map_ordered
from golfpack.errors import UsageError
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.quantize.lowrank import FACTOR_CODINGS, FactorCoding, low_rank
from golfpack.packer.state import PackState, Pass, Stage, need


@dataclass(frozen=True)
class Correct(Pass):
    """Correct the tensors with the largest rounding errors by a product of two coarse factors.

    A correction stays only where it lowers the expected KL once its factors are coarse.

    Attributes:
        rank: of the corrections.
        top: how many tensors are tried.
        select: largest by "frobenius", the norm of the error, as the records do, or by "hessian", the
            expected KL it causes.
        weighting: approximate the error in plain squares ("none") or as inputs weigh it ("hessian",
            where there is one).
        factors: how they are coded; see `FACTOR_CODINGS`.
    """

    name: ClassVar[str] = "lowrank"
    stage: ClassVar[Stage] = "quantize"
    rank: int = 4
    top: int = 3
    select: Literal["frobenius", "hessian"] = "frobenius"
    weighting: Literal["none", "hessian"] = "none"
    factors: FactorCoding = "asymmetric"

    def __post_init__(self) -> None:
        require(1 <= self.rank <= 255, f"lowrank.rank is {self.rank}", "choose 1 to 255")
        require(self.top >= 1, f"lowrank.top is {self.top}", "choose 1 or more, or remove the pass")

    def requires(self, state: PackState) -> None:
        need(state, "tensors", self.name, "round")

    def run(self, state: PackState) -> PackState:
        chosen = self._chosen(state)
        work = map_ordered(lambda n: self._corrected(state, n), chosen, state.threads)
        better = {n: t for n, t in zip(chosen, work, strict=True) if t is not None}
        if len(better) < len(chosen):
            state = state.warn(
                f"lowrank: {len(chosen) - len(better)} of {len(chosen)} corrections would not have "
                "lowered the expected KL and were left out"
            )
        return replace(state, tensors={**state.tensors, **better})

    def _chosen(self, state: PackState) -> list[str]:
        """The tensors with the largest errors, largest first."""
        codes = {n: t for n, t in state.tensors.items() if isinstance(t, QTensor)}
        large = [n for n, t in codes.items() if min(t.codes.shape) > self.rank]
        if codes and not large:
            raise UsageError(
                f"pass 'lowrank' finds no quantized tensor with more than {self.rank} rows and "
                "columns",
                "choose a smaller rank, or remove the pass",
            )
        sizes = {n: self._size(state, n, _error(state, n, codes[n])) for n in large}
        return sorted(large, key=lambda n: -sizes[n])[: self.top]

    def _size(self, state: PackState, name: str, error: np.ndarray) -> float:
        if self.select == "hessian":
            return state.sensitivity[name].kl(error)
        return float(np.linalg.norm(error))

    def _corrected(self, state: PackState, name: str) -> QTensor | None:
        """The tensor with a correction, or None where that would not help."""
        tensor, known = state.tensors[name], state.sensitivity[name]
        assert isinstance(tensor, QTensor)
        error = _error(state, name, tensor)
        factor = known.factor if self.weighting == "hessian" else None
        correction = FACTOR_CODINGS[self.factors](*low_rank(error, self.rank, factor))
        corrected = replace(tensor, correction=correction)
        helps = known.kl(_error(state, name, corrected)) < known.kl(error)
        return corrected if helps else None


def _error(state: PackState, name: str, tensor: QTensor) -> np.ndarray:
    """(rows, cols) float64: what is missing from the weights."""
    return state.matrix(name).astype(np.float64) - tensor.dequantize()
