"""How much an error in each weight of one tensor matters: calibration boiled down for the quantizers.

The model everywhere is KL = 1/2 sum_r row_weight[r] e_r H e_r^T per token, e_r the error of row r.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from golfpack.packer.engine import Engine, ToFactor
from golfpack.packer.quantize.gptq import Factor
from golfpack.spec import CalibStats, Use, as_matrix

Order = Literal["natural", "falling", "rising"]
# A tensor no gradient reached still may matter on other text. Its weight per element is floored at
# this share of the network's mean, so that it gets bits last, not never.
FLOOR = 1e-9
# Share of an embedding's gradients along its rows (1 where they have no such bias) from which down the
# what is looked up is normalised: 1e-13 where it is, and 1.4 in a model without (docs/LOG.md).
RADIAL = 0.01
# What stands in for zero where nothing at all was measured: any positive number.
TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """One tensor, seen as (rows, cols).

    Attributes:
        hessian: (cols, cols), or None for the identity (vectors, no calibration).
        row_weight: (rows,) float64 > 0.
        factor: GPTQ's factor of `hessian`, or None with it.
        measured: False where nothing was measured and relative error stands in.
        row_cov: (rows, rows), whose diagonal is row_weight: rows are then not independent and
            KL = 1/2 sum_rs row_cov[r, s] e_r H e_s^T. None for independent rows.
        row_factor: the factor of `row_cov`, or None with it.
        step_diagonal: (cols,) U_ii that steps follow; None for those of `factor`.
        normalised: rows are looked up by tokens, and normalised before anything reads them (but for a
            head that is tied to them): see `schemes.RateDistortion`.
    """

    hessian: np.ndarray | None
    row_weight: np.ndarray
    factor: Factor | None
    measured: bool
    row_cov: np.ndarray | None = None
    row_factor: Factor | None = None
    step_diagonal: np.ndarray | None = None
    normalised: bool = False

    def diagonal(self) -> np.ndarray | None:
        """(cols,) U_ii, by which errors of the columns weigh once feedback has done its part."""
        if self.step_diagonal is not None or self.factor is None:
            return self.step_diagonal
        return self.factor.diagonal()

    @property
    def step_weight(self) -> np.ndarray:
        """(rows,) what a row's own rounding error weighs once feedback has done its part."""
        if self.row_factor is None:
            return self.row_weight
        return self.row_factor.diagonal() ** -2.0

    def columns(self, part: slice) -> "Sensitivity":
        """What is known of some columns by themselves; factors do not split."""
        hessian = None if self.hessian is None else self.hessian[part, part]
        return Sensitivity(hessian, self.row_weight, None, self.measured)

    def scaled(self, s: np.ndarray) -> "Sensitivity":
        """The sensitivity of the same matrix with column j multiplied by `s[j]`, s (cols,)."""
        hessian = None if self.hessian is None else self.hessian / np.outer(s, s)
        factor = self.factor
        if factor is not None:
            factor = replace(factor, upper=(factor.upper * s[factor.order]).astype(np.float32))
        diagonal = None if self.step_diagonal is None else self.step_diagonal * s
        return replace(self, hessian=hessian, factor=factor, step_diagonal=diagonal)

    def kl(self, error: np.ndarray) -> float:
        """Expected KL increase, nats per token, of an error (rows, cols)."""
        e = error.astype(np.float64)
        return self.kl_through(self.through_hessian(e), e)

    def through_hessian(self, e: np.ndarray) -> np.ndarray:
        """`e` H, (rows, cols) float64."""
        return e if self.hessian is None else e @ self.hessian

    def kl_through(self, he: np.ndarray, e: np.ndarray) -> float:
        """`kl` of an error `e` whose product with the Hessian, `he`, is known."""
        if self.row_cov is not None:
            return 0.5 * float(np.vdot(self.row_cov, he @ e.T))
        return 0.5 * float(self.row_weight @ np.einsum("ri,ri->r", he, e))


@dataclass(frozen=True)
class Damp:
    """What is added to the diagonal of a matrix before it is factored.

    Attributes:
        mean: of the diagonal's mean, this fraction.
        own: of each entry itself, this fraction: shrinkage towards independence, which says the same
            whatever units the columns are in.
    """

    mean: float
    own: float

    def to_factor(self, matrix: np.ndarray, order: np.ndarray | None) -> ToFactor:
        """The work of factoring a matrix in an order of rounding."""
        return ToFactor(matrix, self.mean, order, self.own)


def combine_uses(uses: tuple[Use, ...], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """One (hessian, row_weight) pair for all uses of a matrix with `rows` rows.

    The exact form sum_u row_weight_u[r] H_u differs from row to row when a weight has two roles (a
    tied embedding). It is replaced by the product of one matrix and one weight per row that has the
    same trace in every row and the same sum over rows; with one use that is the use itself.
    Without gradients the first linear use's Hessian stands alone with equal rows, as GPTQ has it.
    """
    weights = [u.row_weight for u in uses if u.row_weight is not None]
    if len(weights) < len(uses):
        use = next((u for u in uses if u.kind == "linear"), uses[0])
        return use.hessian, np.ones(rows)
    if len(uses) == 1:
        return uses[0].hessian, weights[0]
    hessians = [u.hessian.astype(np.float64) for u in uses]
    total, row_trace = np.zeros_like(hessians[0]), np.zeros(rows)
    for w, h in zip(weights, hessians, strict=True):
        total += w.sum() * h
        row_trace += w * h.trace()
    mass = sum(float(w.sum()) for w in weights)
    if mass <= 0 or total.trace() <= 0:
        return hessians[0], np.zeros(rows)
    return total / mass, row_trace * (mass / total.trace())


def measure_sensitivity(
    weights: dict[str, np.ndarray],
    stats: CalibStats | None,
    *,
    damp: Damp,
    row_damp: Damp | None,
    order: Order,
    engine: Engine,
    threads: int,
    notify: Callable[[str, int, int, str], None],
) -> dict[str, Sensitivity]:
    """Sensitivity of every tensor in `weights`, with GPTQ's factor where there is a Hessian.

    `order` is that of rounding, by the diagonal of the matrix: falling is GPTQ's activation order.
    `row_damp` asks for two-sided feedback where calibration kept output covariances; None does not.
    Without `stats` (data-free) every tensor counts by its relative error.
    """
    plain = {n: _unfactored(n, w, stats, row_damp is not None) for n, w in weights.items()}
    work: list[ToFactor] = []
    for s in plain.values():
        if s.hessian is not None:
            work.append(damp.to_factor(s.hessian, _sorted(s.hessian, order)))
        if s.row_cov is not None:
            assert row_damp is not None
            work.append(row_damp.to_factor(s.row_cov, _sorted(s.row_cov, order)))
    factors = engine.factors(work, threads)
    found: dict[str, Sensitivity] = {}
    for name, s in plain.items():
        factor = None if s.hessian is None else next(factors)
        row_factor = None if s.row_cov is None else next(factors)
        found[name] = replace(s, factor=factor, row_factor=row_factor)
        notify("sense", len(found), len(weights), name)
    return _floored(found)


def reordered(
    found: dict[str, Sensitivity],
    orders: dict[str, np.ndarray],
    *,
    damp: Damp,
    engine: Engine,
    threads: int,
) -> dict[str, Sensitivity]:
    """Sensitivities whose columns are rounded in the given orders, on the steps that they have now."""
    work: list[ToFactor] = []
    for name, order in orders.items():
        hessian = found[name].hessian
        assert hessian is not None
        work.append(damp.to_factor(hessian, order))
    out = dict(found)
    for name, factor in zip(orders, engine.factors(work, threads), strict=True):
        out[name] = replace(found[name], factor=factor, step_diagonal=found[name].diagonal())
    return out


def _unfactored(name: str, w: np.ndarray, stats: CalibStats | None, two_sided: bool) -> Sensitivity:
    """What calibration says of a tensor, without factors."""
    rows, _ = as_matrix(w.shape)
    if stats is not None and name in stats.uses:
        uses = stats.uses[name]
        hessian, row_weight = combine_uses(uses, rows)
        cov = uses[0].output_cov if two_sided and len(uses) == 1 and row_weight.any() else None
        normalised = any(u.radial is not None and u.radial[0] < RADIAL for u in uses)
        return Sensitivity(hessian, row_weight, None, True, cov, normalised=normalised)
    if stats is not None and name in stats.vector_fisher:
        fisher = stats.vector_fisher[name].reshape(as_matrix(w.shape))
        weight = fisher.sum(1) / max(fisher.shape[1], 1)  # of no columns, as of a parameter of none
        return Sensitivity(None, weight, None, measured=True)
    power = float(np.square(w, dtype=np.float64).sum()) / max(w.size, 1) or 1.0
    return Sensitivity(None, np.full(rows, 1.0 / power), None, measured=False)


def _sorted(matrix: np.ndarray, order: Order) -> np.ndarray | None:
    """The order of rounding by the diagonal of a matrix; None for that of the columns."""
    if order == "natural":
        return None
    key = matrix.diagonal().astype(np.float64)
    return np.argsort(key if order == "rising" else -key, kind="stable")


def _floored(found: dict[str, Sensitivity]) -> dict[str, Sensitivity]:
    """Raise row weights that are as good as zero to a sliver of the network's mean."""
    costs = [s.row_weight * _mean_diagonal(s) for s in found.values() if s.measured]
    floor = FLOOR * float(np.mean(np.concatenate(costs))) if costs else 0.0
    out: dict[str, Sensitivity] = {}
    for name, s in found.items():
        lowest = floor / (_mean_diagonal(s) or 1.0)
        if not s.measured or lowest == 0:
            lowest = TINY
        # Then the rows' covariance says nothing either.
        if s.row_weight.size and s.row_weight.mean() < lowest:
            s = replace(s, row_cov=None, row_factor=None)
        out[name] = replace(s, row_weight=np.maximum(s.row_weight, lowest))
    return out


def _mean_diagonal(s: Sensitivity) -> float:
    return 1.0 if s.hessian is None else float(s.hessian.diagonal().mean())
