# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (scipy and numba have no types)
"""Rounding: to nearest, or with GPTQ's error feedback (Frantar et al., arXiv 2210.17323, section 3).

With H = E[x x^T] damped and H^-1 = U^T U (U upper triangular), columns are rounded from first to last
and each column's error, divided by U_ii, is pushed onto the columns not yet rounded along U[i, :].
The final cost e H e^T of a row then is the sum over its columns of (rounding error / U_ii)^2.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky

from golfpack.kernels.rounding import BLOCK, HALF_LOG2_E
from golfpack.packer.format.rans.tables import LEVELS
from golfpack.packer.format.steps import F16Steps, StepField, step_matrix
from golfpack.packer.format.tensors import States
from golfpack.packer.format.trellis import NEXT
from golfpack.packer.quantize.listsearch import (
    LOOK_AHEAD,
    code_lengths,
    scale_levels,
    search_corner,
)

# When the damped Hessian still is not positive definite, the damp grows tenfold up to this.
MAX_DAMP = 10.0
TINY_POWER = 1e-12
# Rows that one thread takes at a time where rows are independent.
ROWS = 512


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


def factorize(
    matrix: np.ndarray, *, damp: float, own_damp: float = 0.0, order: np.ndarray | None = None
) -> Factor:
    """Factor a positive semi-definite matrix after adding to its diagonal.

    Args:
        damp: as a fraction of the mean of the diagonal, as GPTQ has it.
        own_damp: of each entry itself.
        order: of rounding; None for the columns as they stand.

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
    if order is None:
        order = np.arange(len(m))
    else:
        m = m[np.ix_(order, order)]
    while True:
        try:
            damped = m + np.diag(damp * mean + own_damp * m.diagonal())
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
    survivors: int = 1,
    states: States | None = None,
    threads: int = 1,
) -> np.ndarray:
    """Codes (rows, cols) int32 of `w` with error feedback through `factor`, column after column.

    With `row_factor`, of the covariance B = E[g g^T] of output gradients, feedback is two-sided: the
    errors e_i of one column cost e_i^T B e_i, so within a column each row's rounding error moves the
    targets of the rows below it (a Babai pass; cf. YAQA, arXiv 2505.22988). A cell depends on its row to
    the left and on its column above, nothing else: what a block of rows and columns pushes onto those to
    its right and below is a matrix product each, and blocks along a diagonal are rounded at once.

    Args:
        limit: clamps codes to [-limit, limit]; the clamping error is fed back like any other.
        rate_weight: lambda. With one survivor, the smaller of two neighbouring codes k and k + 1 is
            taken while the target lies less than 1/2 + lambda (bits(k + 1) - bits(k)) above k, in steps,
            with the bits of a Gaussian of the row's and column's own scale; the slope of the
            distortion-rate curve is lambda = ln 2 / 12.
        survivors: with more than one, a list search in place of the greedy choice of each code, for the
            least squared error in steps^2 plus lambda bits: see `listsearch.search_corner`.
        states: where codes have some (`format.trellis`), and so many sequences are kept of each state.
            Paths go along rows in the order of the columns, which then is that of `factor`.
        threads: changes nothing but the time.
    """
    rows, cols = w.shape
    order = factor.order
    row_order = np.arange(rows) if row_factor is None else row_factor.order
    bound = float(np.iinfo(np.int32).max if limit is None else limit)
    rounding = _Rounding(
        work=np.ascontiguousarray(w.astype(np.float64)[np.ix_(row_order, order)]),
        upper=factor.upper.astype(np.float64),
        row_upper=np.empty((0, 0)) if row_factor is None else row_factor.upper.astype(np.float64),
        offset=np.zeros((0, 0) if row_factor is None else (rows, cols)),
        sides=_sides(w, steps, row_order, factor, states),
        bound=bound, rate_weight=rate_weight, survivors=survivors, states=states,
        at=np.zeros(rows, np.uint8), codes=np.empty((rows, cols), np.int32),
    )  # fmt: skip
    with ThreadPoolExecutor(threads) as pool:  # which starts none before it needs it
        for tiles in _in_turn(rows, cols, row_factor is not None, rounding.ahead > 0):
            if threads > 1 and len(tiles) > 1:
                list(pool.map(rounding.tile, tiles))
            else:
                for tile in tiles:
                    rounding.tile(tile)
    unordered = np.empty((rows, cols), np.int32)
    unordered[np.ix_(row_order, order)] = rounding.codes
    return unordered


def _in_turn(
    rows: int, cols: int, two_sided: bool, search: bool
) -> Iterator[list[tuple[slice, slice]]]:
    """Blocks of rows and columns, in lists of those that do not depend on each other.

    A block depends on that to its left and, if two-sided, on that above it; a search sees a few columns
    of the next one, too, and so depends on that above the next.
    """
    heights = _slices(rows, BLOCK if two_sided else ROWS)
    widths = _slices(cols, BLOCK)
    skew = 0 if not two_sided else 2 if search else 1
    for turn in range(skew * (len(heights) - 1) + len(widths)):
        found = [
            (height, widths[turn - skew * i])
            for i, height in enumerate(heights)
            if 0 <= turn - skew * i < len(widths)
        ]
        if found:
            yield found


def _slices(size: int, each: int) -> list[slice]:
    return [slice(start, min(start + each, size)) for start in range(0, size, each)]


@dataclass(frozen=True, eq=False)
class _Rounding:
    """A matrix that is being rounded; all in rounding order. Blocks of one turn may be taken at once.

    Attributes:
        work: (rows, cols) targets with the feedback of all blocks to the left that are done.
        upper: (cols, cols) U.
        row_upper: (rows, rows) V, or empty where rows are independent.
        offset: (rows, cols) the feedback of all rows above that are done; or empty.
        sides, bound, rate_weight, survivors, states: of `round_feedback`.
        at: (rows,) the state of each row's path where it has come to.
        codes: (rows, cols), to be filled.
    """

    work: np.ndarray
    upper: np.ndarray
    row_upper: np.ndarray
    offset: np.ndarray
    sides: "_Sides"
    bound: float
    rate_weight: float
    survivors: int
    states: States | None
    at: np.ndarray
    codes: np.ndarray

    @property
    def ahead(self) -> int:
        """Columns behind its own that a block looks at."""
        return LOOK_AHEAD if self.states is not None or self.survivors > 1 else 0

    def tile(self, place: tuple[slice, slice]) -> None:
        """Round one block, and tell those to its right and below."""
        height, width = place
        top, bottom, start, end = height.start, height.stop, width.start, width.stop
        seen = min(end + self.ahead, self.work.shape[1])
        sides, two_sided = self.sides, len(self.row_upper) > 0
        codes = np.empty((bottom - top, end - start), np.int32)
        errors = np.empty(codes.shape)
        push = np.empty((bottom - top, end - start if two_sided else 0))
        # Rows one after the other in memory: another layout would be compiled for itself.
        work, offset, upper, row_upper = map(
            np.ascontiguousarray,
            (
                self.work[height, start:seen], self.offset[height, start:seen],
                self.upper[start:seen, start:seen], self.row_upper[height, height],
            ),
        )  # fmt: skip
        corner = (
            work, offset, sides.row_step[height], sides.group_of[start:seen],
            sides.col_step[start:seen], upper, row_upper, self.bound, self.rate_weight,
        )  # fmt: skip
        out = codes, errors, push
        if self.ahead:
            fine_from = LEVELS if self.states is None else self.states.fine_from
            after = np.zeros((1, 2), np.uint8) if self.states is None else NEXT
            search_corner(
                *corner, self.survivors, code_lengths(fine_from), after, fine_from,
                sides.weight[start:seen], sides.row_level[height], sides.col_level[start:seen],
                self.at[height], *out,
            )  # fmt: skip
        else:
            _round_corner(*corner, sides.row_precision[height], sides.col_precision[width], *out)
        self.codes[height, width] = codes
        self.work[height, end:] -= errors @ self.upper[width, end:]
        if two_sided:
            self.offset[bottom:, width] -= self.row_upper[height, bottom:].T @ push


@dataclass(frozen=True, eq=False)
class _Sides:
    """What is known of rows and of columns, both in rounding order.

    Attributes:
        row_step: (rows, groups) steps.
        group_of: (cols,) the group of each column.
        col_step: (cols,) steps; a cell's is the product.
        row_precision, col_precision: from `precisions`.
        row_level, col_level: from `listsearch.scale_levels`.
        weight: (cols,) what a squared error in steps costs in each column, relative to the mean
            of a row's: (step / U_ii)^2. With the rd optimum's steps it is about 1 everywhere.
    """

    row_step: np.ndarray
    group_of: np.ndarray
    col_step: np.ndarray
    row_precision: np.ndarray
    col_precision: np.ndarray
    row_level: np.ndarray
    col_level: np.ndarray
    weight: np.ndarray


def _sides(
    w: np.ndarray,
    steps: StepField,
    row_order: np.ndarray,
    factor: Factor,
    states: States | None,
) -> _Sides:
    rows, cols = w.shape
    order = factor.order
    row_step = steps.row.reshape(rows, -1).astype(np.float64)[row_order]
    group_of = np.zeros(cols, np.int64) if steps.group is None else order // steps.group
    col_step = np.ones(cols) if steps.col is None else steps.col.astype(np.float64)[order]
    row_precision, col_precision = precisions(w, steps)
    row_level, col_level = scale_levels(w, steps, states)
    # Steps of groups differ from row to row; on the average over rows will do for what errors cost.
    of_group = np.square(row_step).mean(0) if rows else np.ones(row_step.shape[1])
    weight = of_group[group_of] * np.square(col_step / np.diag(factor.upper).astype(np.float64))
    return _Sides(
        row_step, group_of, col_step, row_precision[row_order], col_precision[order],
        row_level[row_order], col_level[order],
        weight / weight.mean() if cols else weight,
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _round_corner(
    work: np.ndarray,
    offset: np.ndarray,
    row_step: np.ndarray,
    group_of: np.ndarray,
    col_step: np.ndarray,
    upper: np.ndarray,
    row_upper: np.ndarray,
    bound: float,
    rate_weight: float,
    row_rate: np.ndarray,
    col_rate: np.ndarray,
    codes: np.ndarray,
    errors: np.ndarray,
    push: np.ndarray,
) -> None:
    """Codes of a block of rows and columns, cell by cell; `work` and `offset` are used up."""
    rows, cols = work.shape
    two_sided = len(row_upper) > 0
    for r in range(rows):
        for i in range(cols):
            step = row_step[r, group_of[i]] * col_step[i]
            target = work[r, i] + offset[r, i] if two_sided else work[r, i]
            q = np.rint(target / step)
            if rate_weight > 0.0:
                size = abs(target / step)
                low = np.floor(size)
                bits = HALF_LOG2_E * (2.0 * low + 1.0) * col_rate[i]
                if size - low <= 0.5 + rate_weight * row_rate[r] * bits:
                    q = low if target > 0 else -low
            q = min(max(q, -bound), bound)
            codes[r, i] = np.int32(q)
            error = (work[r, i] - q * step) / upper[i, i]
            errors[r, i] = error
            for j in range(i + 1, cols):
                work[r, j] -= error * upper[i, j]
            if two_sided:
                push[r, i] = (target - q * step) / row_upper[r, r]
        if two_sided:
            for k in range(r + 1, rows):
                share = row_upper[r, k]
                for i in range(cols):
                    offset[k, i] -= push[r, i] * share


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
