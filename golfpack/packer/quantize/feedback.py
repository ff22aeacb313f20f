"""Rounding: to nearest, or with GPTQ's error feedback (Frantar et al., arXiv 2210.17323, section 3).

With H = E[x x^T] damped and H^-1 = U^T U (U upper triangular), columns are rounded from first to last
and each column's error, divided by U_ii, is pushed onto the columns not yet rounded along U[i, :].
The final cost e H e^T of a row then is the sum over its columns of (rounding error / U_ii)^2.
"""

from dataclasses import dataclass

import numba
import numpy as np
from scipy.linalg import LinAlgError, cholesky, lapack

from golfpack.packer.steps import StepField

# Columns whose feedback is applied at once as one matrix product; within a block it is column by
# column. Any value gives the same codes up to float64 rounding.
BLOCK = 128
# When the damped Hessian still is not positive definite, the damp grows tenfold up to this.
MAX_DAMP = 10.0


@dataclass(frozen=True, eq=False)
class Factor:
    """U of one tensor, in rounding order.

    Attributes:
        upper: (cols, cols) float64 upper triangular U, rows and columns permuted by `order`.
        order: (cols,) column indices in the order they are rounded.
        damp: the damp that was used, as a fraction of H's mean diagonal.
    """

    upper: np.ndarray
    order: np.ndarray
    damp: float

    def diagonal(self) -> np.ndarray:
        """U_ii of every column, (cols,), in the tensor's own column order."""
        out = np.empty(len(self.order))
        out[self.order] = np.diag(self.upper)
        return out


def factorize(hessian: np.ndarray, *, damp: float, activation_order: bool) -> Factor:
    """Factor a (cols, cols) Hessian after adding `damp` times its mean diagonal.

    Columns that calibration never saw (zero diagonal) get the mean diagonal, so they are rounded to
    nearest and disturb nobody. An all-zero Hessian counts as the identity.

    Raises:
        LinAlgError: never for a positive semi-definite H; the damp is raised until Cholesky succeeds.
    """
    h = np.array(hessian, np.float64)
    diag = h.diagonal().copy()
    mean = diag.mean() if diag.size and diag.mean() > 0 else 1.0
    dead = diag <= 0
    h[dead, :] = 0
    h[:, dead] = 0
    h[dead, dead] = mean
    order = np.arange(len(diag))
    if activation_order:
        order = np.argsort(-h.diagonal(), kind="stable")
        h = h[np.ix_(order, order)]
    while True:
        try:
            damped = h + damp * mean * np.eye(len(h))
            # H^-1 = U^T U: invert through Cholesky, then factor the inverse.
            inverse, info = lapack.dpotri(cholesky(damped, lower=True), lower=1)
            if info:
                raise LinAlgError(f"dpotri returned {info}")
            inverse = np.tril(inverse) + np.tril(inverse, -1).T
            return Factor(cholesky(inverse, lower=False), order, damp)
        except LinAlgError:
            if damp > MAX_DAMP:
                raise
            damp = max(damp * 10, 1e-4)


def round_nearest(w: np.ndarray, steps: StepField, limit: int | None) -> np.ndarray:
    """Codes (rows, cols) int32 of `w` by rounding each weight to its nearest multiple of the step."""
    return _clip(np.rint(w / _step_matrix(steps, w.shape)), limit).astype(np.int32)


def round_gptq(w: np.ndarray, steps: StepField, factor: Factor, limit: int | None) -> np.ndarray:
    """Codes (rows, cols) int32 of `w` with error feedback through `factor`.

    `limit` clamps codes to [-limit, limit]; the clamping error is fed back like any other.
    """
    rows, cols = w.shape
    order, upper = factor.order, factor.upper
    work = w.astype(np.float64)[:, order]
    col_step = np.ones(cols) if steps.col is None else steps.col.astype(np.float64)[order]
    row_step = steps.row.astype(np.float64)
    codes = np.empty((rows, cols), np.int32)
    bound = np.iinfo(np.int32).max if limit is None else limit
    for start in range(0, cols, BLOCK):
        end = min(start + BLOCK, cols)
        block = np.ascontiguousarray(work[:, start:end])
        errors = np.empty_like(block)
        block_codes = np.empty(block.shape, np.int32)
        _gptq_block(
            block, row_step, col_step[start:end], upper[start:end, start:end], bound,
            block_codes, errors,
        )  # fmt: skip
        codes[:, start:end] = block_codes
        work[:, end:] -= errors @ upper[start:end, end:]
    out = np.empty_like(codes)
    out[:, order] = codes
    return out


@numba.njit(cache=True, nogil=True)
def _gptq_block(block, row_step, col_step, upper, bound, codes, errors):  # pragma: no cover
    rows, cols = block.shape
    for r in range(rows):
        for i in range(cols):
            step = row_step[r] * col_step[i]
            q = np.rint(block[r, i] / step)
            q = min(max(q, -bound), bound)
            codes[r, i] = np.int32(q)
            err = (block[r, i] - q * step) / upper[i, i]
            errors[r, i] = err
            for j in range(i + 1, cols):
                block[r, j] -= err * upper[i, j]


def weighted_error(error: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """e_r H e_r^T of every row of `error` (rows, cols), float64 (rows,)."""
    e = error.astype(np.float64)
    return np.einsum("ri,ri->r", e @ hessian.astype(np.float64), e)


def _step_matrix(steps: StepField, shape: tuple[int, ...]) -> np.ndarray:
    row = steps.row.astype(np.float64)[:, None]
    return np.broadcast_to(row if steps.col is None else row * steps.col, shape)


def _clip(q: np.ndarray, limit: int | None) -> np.ndarray:
    bound = np.iinfo(np.int32).max if limit is None else limit
    return np.clip(q, -bound, bound)
