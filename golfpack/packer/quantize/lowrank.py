# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (scipy has no types)
"""Low-rank error correction: a rounding's error E is met by a product of two thin, coarse factors.

LQER (Zhang et al., arXiv 2402.02446, section 3): W is stored as codes plus A B, where A B is the best
approximation of E = W - Wq of a given rank. Plain, that is E's singular value decomposition. Weighted
by the inputs, it is that of E L with H = L L^T, whose error tr(E H E^T) is what the layer's output
sees; LQER's own scaled variant (section 3.2) takes a diagonal L.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy.linalg import eigh, solve_triangular

from golfpack.packer.format.steps import f16_steps, spread_rows
from golfpack.packer.format.tensors import LowRank, QTensor
from golfpack.packer.quantize.gptq import Factor

# Consecutive columns of B that share a step, as in the record of 2026-04-27. Errors often lie in a few
# columns (those a clip cut off), and with one step per row of B all others would pay for them.
GROUP = 64


def low_rank(error: np.ndarray, rank: int, factor: Factor | None) -> tuple[np.ndarray, np.ndarray]:
    """A (rows, rank) and B (rank, cols), float64, of the best approximation A B of `error`.

    Args:
        error: (rows, cols) with more than `rank` rows and columns.
        rank: at least 1.
        factor: of the Hessian H, for the least tr((E - AB) H (E - AB)^T), H as damped as the factor;
            None for the least squared error.

    Signs are such that the largest entry of every column of A is negative.
    """
    assert 0 < rank < min(error.shape), (rank, error.shape)
    e = error.astype(np.float64)
    if factor is None:
        return _signed(*_leading(e, rank))
    # H^-1 = U^T U, so one root of H is L = U^-1. U is in rounding order.
    upper = factor.upper.astype(np.float64)
    a, b = _leading(solve_triangular(upper.T, e[:, factor.order].T, lower=True).T, rank)
    return _signed(a, (b @ upper)[:, np.argsort(factor.order)])


def _leading(m: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Left singular vectors times values (rows, rank), and right ones (rank, cols), largest first."""
    cols = m.shape[1]
    _, v = eigh(m.T @ m, subset_by_index=[cols - rank, cols - 1])
    v = v[:, ::-1]
    return m @ v, v.T


def _signed(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same product, signs as `low_rank` promises: 2-bit codes reach further down than up."""
    peak = a[np.abs(a).argmax(axis=0), np.arange(a.shape[1])]
    sign = np.where(peak > 0, -1.0, 1.0)
    return a * sign, b * sign[:, None]


def pack_asymmetric(a: np.ndarray, b: np.ndarray) -> LowRank:
    """A in 2 bits, codes -2 to 1 with one step; B in 4 bits, -8 to 7, a step per 64 columns of a row.

    As the record of 2026-04-27 has it (there groups run on over the ends of rows).
    """
    largest = np.full(a.shape[1], np.abs(a).max())
    return LowRank(
        _pack(a.T, largest / 1.5, None, -2, 1),
        _pack(b, _group_maximum(b) / 7.5, GROUP, -8, 7),
    )


def pack_symmetric(a: np.ndarray, b: np.ndarray) -> LowRank:
    """Both in 4 bits, codes -7 to 7: a step per column of A, and per 64 columns of a row of B."""
    return LowRank(
        _pack(a.T, np.abs(a).max(axis=0) / 7, None, -7, 7),
        _pack(b, _group_maximum(b) / 7, GROUP, -7, 7),
    )


FactorCoding = Literal["asymmetric", "symmetric"]
FACTOR_CODINGS: dict[FactorCoding, Callable[[np.ndarray, np.ndarray], LowRank]] = {
    "asymmetric": pack_asymmetric,
    "symmetric": pack_symmetric,
}


def _pack(m: np.ndarray, steps: np.ndarray, group: int | None, low: int, high: int) -> QTensor:
    field = f16_steps(np.where(steps > 0, steps, 1.0), group)
    codes = np.rint(m / spread_rows(field.row.astype(np.float64), group, m.shape[1]))
    return QTensor(np.clip(codes, low, high).astype(np.int32), field)


def _group_maximum(m: np.ndarray) -> np.ndarray:
    """(rows, groups) largest |m|; the last group may be shorter."""
    return np.maximum.reduceat(np.abs(m), np.arange(0, m.shape[1], GROUP), axis=1)
