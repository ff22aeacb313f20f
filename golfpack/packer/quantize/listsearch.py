# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (numba has no types)
"""A search over the codes of a matrix under error feedback, in place of rounding each as it comes.

Feedback turns the choice of codes into a closest-point search in a lattice: with H^-1 = U^T U and
B^-1 = V^T V the cost of all errors is the sum over cells of ((target - code step) / (U_ii V_rr))^2,
where a cell's target depends on the codes to its left and above. Rounding each target is Babai's nearest
plane; here every row keeps several sequences of codes, the best so far, each with feedback of its own
(the M-algorithm: Anderson and Mohan, IEEE Trans. Comm. 32, 1984). The bits of the codes are part of what
is minimised: a code costs lambda times its length in the coder's own table of its cell's scale.
"""

from functools import cache

import numba
import numpy as np

from golfpack.kernels.rounding import HALF_LOG2_E
from golfpack.packer.format.rans.fit import side_mean_levels
from golfpack.packer.format.rans.tables import (
    COST_UNITS,
    ESCAPE_BYTE_COST,
    LEVELS_PER_OCTAVE,
    MAX_SYMBOLS,
    TABLES,
    UNIT_LEVEL,
    symbol_costs,
    tables,
)
from golfpack.packer.format.steps import StepField, step_matrix

# Columns of the next block that a row's sequences are followed into before the block is decided.
LOOK_AHEAD = 16


@cache
def code_lengths() -> np.ndarray:
    """Bits of codes of magnitude 0, 1, ... by the coder's tables, (TABLES, MAX_SYMBOLS + 1)."""
    costs, last = symbol_costs().astype(np.float64), tables().escape.astype(np.int64)
    lengths = np.empty((TABLES, MAX_SYMBOLS + 1))
    for level in range(TABLES):
        sent = np.minimum(np.arange(MAX_SYMBOLS + 1), last[level])
        lengths[level] = costs[level, sent] + ESCAPE_BYTE_COST * (sent == last[level])
    return lengths / COST_UNITS


def scale_levels(w: np.ndarray, steps: StepField) -> tuple[np.ndarray, np.ndarray]:
    """(rows,) and (cols,) whose sums are about the coder's levels of the codes."""
    if not w.size:
        return np.zeros(w.shape[0]), np.zeros(w.shape[1])
    rows, cols, whole = side_mean_levels(np.rint(w / step_matrix(steps, w.shape)))
    return rows, cols - whole


@numba.njit(cache=True, nogil=True)
def search_corner(
    work: np.ndarray,
    offset: np.ndarray,
    row_step: np.ndarray,
    group_of: np.ndarray,
    col_step: np.ndarray,
    upper: np.ndarray,
    row_upper: np.ndarray,
    bound: float,
    rate_weight: float,
    survivors: int,
    lengths: np.ndarray,
    weight: np.ndarray,
    row_level: np.ndarray,
    col_level: np.ndarray,
    codes: np.ndarray,
    errors: np.ndarray,
    push: np.ndarray,
) -> None:
    """Codes of a block of rows and columns, row after row.

    Args:
        work: (rows, seen) targets with the feedback of all columns before; `seen` are those of the block
            and a few behind it, which are searched too and decided later.
        offset: (rows, seen) the feedback of all rows before; of no rows where rows are independent.
        row_step: (rows, groups) and group_of, col_step: (seen,), steps.
        upper: (seen, seen) U; row_upper: (rows, rows) V, or empty.
        bound: of the magnitude of codes.
        rate_weight: lambda, squared steps per bit.
        survivors: sequences that are kept.
        lengths: `code_lengths`.
        weight: (seen,) what a squared error in steps costs.
        row_level: (rows,) and col_level: (seen,), of `scale_levels`.
        codes: (rows, cols) int32, to be filled.
        errors: (rows, cols) what is fed back to the columns behind, to be filled.
        push: (rows, cols) what is fed back to the rows below, to be filled; empty with `offset`.
    """
    rows, seen = work.shape
    decided = codes.shape[1]
    two_sided = len(row_upper) > 0
    # What the columns behind the block are told here is not final, and must not stay in `offset`.
    down = offset.copy() if two_sided else np.zeros((rows, seen))
    targets = np.empty((2, survivors, seen), np.float32)
    costs, single = np.empty((2, survivors)), upper.astype(np.float32)
    parents, chosen = np.empty((seen, survivors), np.int64), np.empty((seen, survivors))
    step, level, best = np.empty(seen), np.empty(seen, np.int64), np.empty(seen)
    for r in range(rows):
        for i in range(seen):
            step[i] = row_step[r, group_of[i]] * col_step[i]
            level[i] = int(max(np.rint(row_level[r] + col_level[i]), 0.0))
        _search_row(
            work[r], down[r], step, weight, level, single, bound, rate_weight, lengths, targets, costs,
            parents, chosen, best,
        )  # fmt: skip
        row, pivot = work[r].copy(), row_upper[r, r] if two_sided else 1.0
        for i in range(seen):
            short = row[i] - best[i] * step[i]
            error = short / upper[i, i]
            if i < decided:
                codes[r, i] = np.int32(best[i])
                errors[r, i] = error
            for j in range(i + 1, seen):
                row[j] -= error * upper[i, j]
            best[i] = (short + down[r, i]) / pivot  # from here on what is pushed down the rows
        if two_sided:
            push[r] = best[:decided]
            for k in range(r + 1, rows):
                for i in range(seen):
                    down[k, i] -= best[i] * row_upper[r, k]


@numba.njit(cache=True, nogil=True)
def _search_row(
    work: np.ndarray,
    down: np.ndarray,
    step: np.ndarray,
    weight: np.ndarray,
    level: np.ndarray,
    upper: np.ndarray,
    bound: float,
    rate_weight: float,
    lengths: np.ndarray,
    targets: np.ndarray,
    costs: np.ndarray,
    parents: np.ndarray,
    chosen: np.ndarray,
    best: np.ndarray,
) -> None:
    """The best sequence of codes of one row, (cols,) into `best`.

    Args:
        work: (cols,) targets without the feedback of rows, and `down` (cols,) that feedback.
        step, weight, level: (cols,) of each cell.
        upper: (cols, cols) float32: how well a sequence does is not worth more digits.
        targets: (2, survivors, cols) float32 and costs: (2, survivors), of the sequences so far and
            with one code more; parents, chosen: (cols, survivors), how each came about. Scratch.
    """
    cols, alive, now = len(step), 1, 0
    costs[0, 0] = 0.0
    for j in range(cols):
        targets[0, 0, j] = work[j]
    for i in range(cols):
        found, parent, code = 0, parents[i], chosen[i]
        for m in range(alive):
            x = (targets[now, m, i] + down[i]) / step[i]
            # The nearest code, that on the other side of the target, and the next smaller one.
            middle = min(max(np.rint(x), -bound), bound)
            beyond = middle + 1.0 if x > middle else middle - 1.0
            smaller = middle - 1.0 if middle > 0.0 else middle + 1.0
            for choice in range(3):
                q = middle if choice == 0 else beyond if choice == 1 else smaller
                if abs(q) > bound or (choice == 2 and (middle == 0.0 or smaller == beyond)):
                    continue
                cost = costs[now, m] + weight[i] * (x - q) * (x - q)
                cost += rate_weight * _length(abs(q), level[i], lengths)
                found = _insert(cost, m, q, found, costs[1 - now], parent, code)
        for m in range(found):
            before, after = targets[now, parent[m]], targets[1 - now, m]
            error = np.float32((before[i] - code[m] * step[i]) / upper[i, i])
            for j in range(i + 1, cols):
                after[j] = before[j] - error * upper[i, j]
        alive, now = found, 1 - now
    at = 0  # lists are sorted: the first is the best
    for i in range(cols - 1, -1, -1):
        best[i] = chosen[i, at]
        at = parents[i, at]


@numba.njit(cache=True, nogil=True, inline="always")
def _insert(
    cost: float,
    m: int,
    q: float,
    found: int,
    costs: np.ndarray,
    parent: np.ndarray,
    code: np.ndarray,
) -> int:
    """Add code `q` behind sequence `m` to a list sorted by cost; returns how many it then has."""
    if found == len(costs):
        if cost >= costs[found - 1]:
            return found
    else:
        found += 1
    at = found - 1
    while at > 0 and costs[at - 1] > cost:
        costs[at], parent[at], code[at] = costs[at - 1], parent[at - 1], code[at - 1]
        at -= 1
    costs[at], parent[at], code[at] = cost, m, q
    return found


@numba.njit(cache=True, nogil=True)
def _length(size: float, level: int, lengths: np.ndarray) -> float:
    """Bits of a code of this magnitude, but for what all codes of its cell have in common."""
    levels, codes = lengths.shape
    if level < levels:
        return lengths[level, min(int(size), codes - 1)]
    octaves = (level - UNIT_LEVEL) / LEVELS_PER_OCTAVE  # of the standard deviation
    return HALF_LOG2_E * size * size * 2.0 ** (-2.0 * octaves)
