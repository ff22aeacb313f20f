# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (scipy and numba have no types)
"""Rounding: to nearest, or with GPTQ's error feedback (Frantar et al., arXiv 2210.17323, section 3).

With H = E[x x^T] damped and H^-1 = U^T U (U upper triangular), columns are rounded from first to last
and each column's error, divided by U_ii, is pushed onto the columns not yet rounded along U[i, :].
The final cost e H e^T of a row then is the sum over its columns of (rounding error / U_ii)^2.
"""

from dataclasses import dataclass

import numba
import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky

from golfpack.kernels.rounding import BLOCK, HALF_LOG2_E
from golfpack.packer.format.steps import F16Steps, StepField, step_matrix

# When the damped Hessian still is not positive definite, the damp grows tenfold up to this.
MAX_DAMP = 10.0
TINY_POWER = 1e-12


@dataclass(frozen=True, eq=False)
class Factor:
    """U of one tensor, in rounding order.

    Attributes:
        upper: (cols, cols) float32 upper triangular U, rows and columns permuted by `order`. (Worked
            out in float64; a large network's factors would fill the memory in it.)
        order: (cols,) column indices in the order they are rounded.
        damp: the damp that was used, as a fraction of H's mean diagonal.
    """

    upper: np.ndarray
    order: np.ndarray
    damp: float

    def diagonal(self) -> np.ndarray:
        """U_ii of every column, (cols,), in the tensor's own column order."""
        out = np.empty(len(self.order))
        out[self.order] = np.diag(self.upper).astype(np.float64)
        return out


def factorize(matrix: np.ndarray, *, damp: float, activation_order: bool = False) -> Factor:
    """Factor a positive semi-definite matrix after adding `damp` times its mean diagonal.

    Zero rows (inputs that calibration never saw) keep the damp alone on their diagonal. An all-zero
    matrix counts as the identity.

    Raises:
        LinAlgError: the matrix is not positive semi-definite by far. Until MAX_DAMP, the damp is
            raised tenfold whenever Cholesky fails; `Factor.damp` tells what was used.
    """
    m = np.array(matrix, np.float64)
    diag = m.diagonal()
    mean = float(diag.mean()) if diag.size else 0.0
    if mean <= 0:
        m, mean = np.eye(len(m)), 1.0
    order = np.arange(len(m))
    if activation_order:
        order = np.argsort(-diag, kind="stable")
        m = m[np.ix_(order, order)]
    while True:
        try:
            damped = m + damp * mean * np.eye(len(m))
            # M^-1 = U^T U: invert through Cholesky, then factor the inverse.
            inverse = cho_solve((cholesky(damped, lower=True), True), np.eye(len(m)))
            return Factor(cholesky(inverse, lower=False).astype(np.float32), order, damp)
        except LinAlgError:
            more = raised_damp(damp)
            if more is None:
                raise
            damp = more


def raised_damp(damp: float) -> float | None:
    """What to try after a damp at which Cholesky failed; None where there is nothing left to try."""
    return None if damp >= MAX_DAMP else min(max(damp * 10, 1e-4), MAX_DAMP)


def round_nearest(w: np.ndarray, steps: StepField, limit: int | None) -> np.ndarray:
    """Codes (rows, cols) int32 of `w` by rounding each weight to its nearest multiple of the step."""
    if isinstance(steps, F16Steps) and steps.encoder is not None:
        return _clip(steps.encoder.codes(w), limit)
    return _clip(np.rint(w / step_matrix(steps, w.shape)), limit)


def round_feedback(
    w: np.ndarray,
    steps: StepField,
    factor: Factor,
    limit: int | None,
    row_factor: Factor | None = None,
    rate_weight: float = 0.0,
) -> np.ndarray:
    """Codes (rows, cols) int32 of `w` with error feedback through `factor`, column after column.

    With `row_factor`, of the covariance B = E[g g^T] of output gradients, feedback is two-sided: the
    errors e_i of one column cost e_i^T B e_i, so within a column each row's rounding error moves the
    targets of the rows below it (a Babai pass; cf. YAQA, arXiv 2505.22988).

    `limit` clamps codes to [-limit, limit]; the clamping error is fed back like any other.

    `rate_weight` lambda > 0 prefers the smaller of two neighbouring codes k and k + 1 while the target
    lies less than 1/2 + lambda (bits(k + 1) - bits(k)) above k, in steps, with the bits of a Gaussian of
    the row's and column's own scale. The slope of the distortion-rate curve is lambda = ln 2 / 12.
    """
    rows, cols = w.shape
    order, upper = factor.order, factor.upper.astype(np.float64)
    # Column by column: a column of W is a row here, so that the inner loops run over memory.
    work = np.ascontiguousarray(w.astype(np.float64)[:, order].T)
    col_step = np.ones(cols) if steps.col is None else steps.col.astype(np.float64)[order]
    # One row of `row_step` per group of columns; `group_of` tells each column's.
    row_step = np.ascontiguousarray(steps.row.reshape(rows, -1).T.astype(np.float64))
    group_of = np.zeros(cols, np.int64) if steps.group is None else np.arange(cols) // steps.group
    row_upper = np.empty((0, 0)) if row_factor is None else row_factor.upper.astype(np.float64)
    bound = np.iinfo(np.int32).max if limit is None else limit
    row_precision, col_precision = precisions(w, steps)
    codes = np.empty((cols, rows), np.int32)
    for start in range(0, cols, BLOCK):
        end = min(start + BLOCK, cols)
        errors = np.empty((end - start, rows))
        _round_block(
            work[start:end], row_step, group_of[order][start:end], col_step[start:end],
            upper[start:end, start:end], row_upper, bound, rate_weight * row_precision,
            col_precision[order][start:end], codes[start:end], errors,
        )  # fmt: skip
        work[end:] -= upper[start:end, end:].T @ errors
    out = np.empty((rows, cols), np.int32)
    out[:, order] = codes.T
    return out


@numba.njit(cache=True, nogil=True)
def _round_block(
    work: np.ndarray,
    row_step: np.ndarray,
    group_of: np.ndarray,
    col_step: np.ndarray,
    upper: np.ndarray,
    row_upper: np.ndarray,
    bound: float,
    row_rate: np.ndarray,
    col_rate: np.ndarray,
    codes: np.ndarray,
    errors: np.ndarray,
) -> None:
    cols, rows = work.shape
    target = np.empty(rows)
    for i in range(cols):
        target[:] = work[i]
        for r in range(rows):
            step = row_step[group_of[i], r] * col_step[i]
            q = np.rint(target[r] / step)
            if row_rate[r] > 0.0:
                size = abs(target[r] / step)
                low = np.floor(size)
                bits = HALF_LOG2_E * (2.0 * low + 1.0) * col_rate[i]
                if size - low <= 0.5 + row_rate[r] * bits:
                    q = low if target[r] > 0 else -low
            q = min(max(q, -bound), bound)
            codes[i, r] = np.int32(q)
            errors[i, r] = (work[i, r] - q * step) / upper[i, i]
            if len(row_upper):
                push = (target[r] - q * step) / row_upper[r, r]
                for k in range(r + 1, rows):
                    target[k] -= push * row_upper[r, k]
        for j in range(i + 1, cols):
            for r in range(rows):
                work[j, r] -= errors[i, r] * upper[i, j]


def precisions(w: np.ndarray, steps: StepField) -> tuple[np.ndarray, np.ndarray]:
    """(rows,) and (cols,) whose products are about 1 / variance of each code, scales separable."""
    power = np.square(w / step_matrix(steps, w.shape))
    if not power.size:
        return np.ones(w.shape[0]), np.ones(w.shape[1])
    whole = max(float(power.mean()), TINY_POWER)
    rows, cols = (np.maximum(power.mean(axis), TINY_POWER) for axis in (1, 0))
    # A code that is nearly always 0 anyway needs no more persuasion than this.
    return np.minimum(np.sqrt(whole) / rows, 1e3), np.minimum(np.sqrt(whole) / cols, 1e3)


def _clip(q: np.ndarray, limit: int | None) -> np.ndarray:
    bound = np.iinfo(np.int32).max if limit is None else limit
    return np.clip(q, -bound, bound).astype(np.int32)
