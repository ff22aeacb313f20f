# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (numba has no types)
"""Which +-1 codes to set to zero: those whose added error is worth their bits, at a price per bit.

Zeroing the code of weight (r, j) changes the error by -v, v = +-step, and the expected KL
1/2 tr(B e H e^T) by -v (B e H)_rj + 1/2 B_rr v^2 H_jj. The first term is what error feedback left
behind: GPTQ balances errors within a row, and a price that looks at steps alone (the records') breaks
that balance without knowing it. Every zero changes what the others cost, so they are taken one by one:
row by row, always the code that gains most, until none gains anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numba
import numpy as np

from golfpack.base.parallel import map_ordered
from golfpack.packer.format.steps import step_matrix
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.quantize.sensitivity import Sensitivity
from golfpack.packer.rate import entropy

# Prices of zeros are worked out anew this often.
ROUNDS = 3


@dataclass(frozen=True, eq=False)
class Pruned:
    """What one price did to a model.

    Attributes:
        tensors: all of them; those that lost codes are new.
        zeroed: how many codes went.
        saved_bits: what an order-0 coder saves by it.
    """

    tensors: Mapping[str, QTensor]
    zeroed: int
    saved_bits: float

    def in_part(self, before: Mapping[str, QTensor], wanted_bits: float) -> "Pruned":
        """Only so many rows of it, from the first on, as save about `wanted_bits`.

        Even the lowest price may save too much, as some zeros lower the KL.
        """
        tensors, zeroed, left = dict(before), 0, wanted_bits
        for name, after in self.tensors.items():
            by_row = np.count_nonzero(after.codes != before[name].codes, axis=1)
            if not by_row.any():
                continue
            bits = (_order0_bits(before[name].codes) - _order0_bits(after.codes)) / by_row.sum()
            rows = int(np.searchsorted(bits * np.cumsum(by_row), left)) + 1
            codes = np.concatenate([after.codes[:rows], before[name].codes[rows:]])
            tensors[name] = replace(after, codes=codes)
            zeroed += int(by_row[:rows].sum())
            left -= bits * float(by_row[:rows].sum())
            if left <= 0:
                break
        return Pruned(tensors, zeroed, wanted_bits - left)


def prune_at(
    price: float,
    tensors: Mapping[str, QTensor],
    weights: Mapping[str, np.ndarray],
    sensitivity: Mapping[str, Sensitivity],
    threads: int,
) -> Pruned:
    """Zero every +-1 code that adds less KL than its saved bits are worth.

    Args:
        price: nats per token that a bit is worth, above 0. More saves more.
        weights: the float weights, (rows, cols) each.
    """
    names = list(tensors)
    work = map_ordered(
        lambda n: _pruned(price, tensors[n], weights[n], sensitivity[n]), names, threads
    )
    found = dict(zip(names, work, strict=True))
    return Pruned(
        {n: t for n, (t, _, _) in found.items()},
        sum(count for _, count, _ in found.values()),
        sum(bits for _, _, bits in found.values()),
    )


def _pruned(
    price: float, tensor: QTensor, w: np.ndarray, s: Sensitivity
) -> tuple[QTensor, int, float]:
    """(tensor, zeroed codes, saved bits)."""
    cols = tensor.codes.shape[1]
    hessian = np.eye(cols) if s.hessian is None else s.hessian.astype(np.float64)
    # Rows that do not touch each other have a diagonal B, kept as a vector.
    coupling = np.empty((0, 0)) if s.row_cov is None else s.row_cov.astype(np.float64)
    curvature = s.row_weight if s.row_cov is None else np.diag(coupling).copy()
    step = np.ascontiguousarray(step_matrix(tensor.steps, tensor.codes.shape))
    done = tensor
    for _ in range(ROUNDS):  # zeros get cheaper as they get more frequent
        codes = done.codes.copy()
        eh = (done.dequantize().astype(np.float64) - w) @ hessian
        gradient = s.row_weight[:, None] * eh if s.row_cov is None else coupling @ eh
        bits = _saved_bits(codes)
        _prune_rows(price, codes, step, bits, gradient, hessian, curvature, coupling)
        if np.array_equal(codes, done.codes):
            break
        done = replace(done, codes=codes)
    zeroed = int(np.count_nonzero(done.codes != tensor.codes))
    saved = _order0_bits(tensor.codes) - _order0_bits(done.codes) if zeroed else 0.0
    return done, zeroed, saved


@numba.njit(cache=True, nogil=True)
def _prune_rows(
    price: float,
    codes: np.ndarray,
    step: np.ndarray,
    bits: np.ndarray,
    gradient: np.ndarray,
    hessian: np.ndarray,
    curvature: np.ndarray,
    coupling: np.ndarray,
) -> None:
    rows, cols = codes.shape
    moved = np.zeros(cols)
    for r in range(rows):
        moved[:] = 0.0
        while True:
            at = _best(price, codes[r], step[r], bits, gradient[r], hessian, curvature[r])
            if at < 0:
                break
            v = codes[r, at] * step[r, at]
            codes[r, at] = 0
            moved[at] = v
            for j in range(cols):
                gradient[r, j] -= curvature[r] * v * hessian[at, j]
        if len(coupling) and moved.any():
            change = moved @ hessian
            for k in range(r + 1, rows):
                for j in range(cols):
                    gradient[k, j] -= coupling[k, r] * change[j]


@numba.njit(cache=True, nogil=True)
def _best(
    price: float,
    codes: np.ndarray,
    step: np.ndarray,
    bits: np.ndarray,
    gradient: np.ndarray,
    hessian: np.ndarray,
    curvature: float,
) -> int:
    """The column of a row whose +-1 gains most by going; -1 where none gains anything."""
    best, at = 0.0, -1
    for j in range(len(codes)):
        q = codes[j]
        if abs(q) == 1 and bits[q + 1] > 0.0:
            v = q * step[j]
            gain = v * gradient[j] - 0.5 * curvature * v * v * hessian[j, j]
            gain += price * bits[q + 1]
            if gain > best:
                best, at = gain, j
    return at


def saved_by_share(codes: np.ndarray, share: float) -> float:
    """Bits that an order-0 coder saves once this share of all -1 and +1 codes are zeros."""
    size = np.abs(codes)
    counts = np.bincount(np.minimum(size, 2).ravel(), minlength=3).astype(np.float64)
    gone = share * counts[1]
    # Of the entropy's sum of n log n only the terms of -1 (half of the ones), 0 and +1 change.
    before = _n_log_n(counts[0]) + 2 * _n_log_n(counts[1] / 2)
    after = _n_log_n(counts[0] + gone) + 2 * _n_log_n((counts[1] - gone) / 2)
    return after - before


def _n_log_n(n: float) -> float:
    return float(n * np.log2(n)) if n > 0 else 0.0


def _order0_bits(codes: np.ndarray) -> float:
    return entropy(codes) * codes.size


def _saved_bits(codes: np.ndarray) -> np.ndarray:
    """(3,) bits that zeroing a -1, a 0 and a +1 saves under order 0; not above 0 where it costs."""
    counts = np.array([max(int(np.count_nonzero(codes == q)), 1) for q in (-1, 0, 1)])
    return np.log2(counts[1] / counts)
