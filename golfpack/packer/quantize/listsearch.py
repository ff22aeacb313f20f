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
from golfpack.packer.format.rans.context_model import ScaleModel, terms
from golfpack.packer.format.rans.fast import put
from golfpack.packer.format.rans.fit import fit_scales, side_mean_levels
from golfpack.packer.format.rans.tables import (
    COST_UNITS,
    ESCAPE_BYTE_COST,
    LEVELS,
    LEVELS_PER_OCTAVE,
    MAX_SYMBOLS,
    TABLES,
    UNIT_LEVEL,
    symbol_costs,
    tables,
)
from golfpack.packer.format.steps import StepField, step_matrix
from golfpack.packer.format.tensors import States, code_matrix

# Columns of the next block that a row's sequences are followed into before the block is decided.
LOOK_AHEAD = 16
# Up to so many steps a price on bits keeps codes small.
SHY = 1.5


@cache
def code_lengths(fine_from: int = LEVELS) -> np.ndarray:
    """Bits of codes of magnitude 0, 1, ... by the coder's tables, (2, TABLES, MAX_SYMBOLS + 1)."""
    costs = symbol_costs(fine_from).astype(np.float64)
    last = tables(fine_from).escape.astype(np.int64)
    lengths = np.empty((2 * TABLES, MAX_SYMBOLS + 1))
    for table in range(2 * TABLES):
        sent = np.minimum(np.arange(MAX_SYMBOLS + 1), last[table])
        lengths[table] = costs[table, sent] + ESCAPE_BYTE_COST * (sent == last[table])
    return lengths.reshape(2, TABLES, -1) / COST_UNITS


def scales_of(w: np.ndarray, steps: StepField) -> ScaleModel:
    """The coder's scale model of codes that weights (rows, cols) are about to get.

    Fitted to weights rounded as a search with a price on bits does it: what is below 0.6 becomes 0.
    """
    size = np.abs(w / step_matrix(steps, w.shape))
    codes = np.floor(size + np.where(size < SHY, 0.4, 0.5)) * np.sign(w)
    bound = np.iinfo(np.int32).max
    codes = np.clip(codes, -bound, bound).astype(np.int32)
    return fit_scales(codes, code_matrix(w.shape, steps))


def scale_levels(
    w: np.ndarray, steps: StepField, states: States | None
) -> tuple[np.ndarray, np.ndarray]:
    """(rows,) and (cols,) whose sums, rounded down, are the coder's levels of the codes.

    Exactly where codes have states, and about those else.
    """
    if not w.size:
        return np.zeros(w.shape[0]), np.zeros(w.shape[1])
    if states is not None:
        rows, cols = terms(code_matrix(w.shape, steps, states.fine_from), states.scales)
        return rows / 4, cols / 4
    rows, cols, whole = side_mean_levels(np.rint(w / step_matrix(steps, w.shape)))
    return rows, cols - whole + 0.5


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
    after: np.ndarray,
    fine_from: int,
    weight: np.ndarray,
    row_level: np.ndarray,
    col_level: np.ndarray,
    states: np.ndarray,
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
        survivors: sequences that are kept, of every state.
        lengths: `code_lengths`.
        after: (states, 2), the state behind a code of either parity; of one state without a trellis.
        fine_from: the level from which codes with states are fine.
        weight: (seen,) what a squared error in steps costs.
        row_level: (rows,) and col_level: (seen,), of `scale_levels`.
        states: (rows,) uint8 of every row's path at the block's first column; moved to its end.
        codes: (rows, cols) int32, to be filled.
        errors: (rows, cols) what is fed back to the columns behind, to be filled.
        push: (rows, cols) what is fed back to the rows below, to be filled; empty with `offset`.
    """
    rows, seen = work.shape
    decided = codes.shape[1]
    two_sided = len(row_upper) > 0
    # What the columns behind the block are told here is not final, and must not stay in `offset`.
    down = offset.copy() if two_sided else np.zeros((rows, seen))
    kept = survivors * len(after)
    targets = np.empty((2, kept, seen), np.float32)
    costs, single = np.empty((2, kept)), upper.astype(np.float32)
    parents, chosen = np.empty((seen, kept), np.int64), np.empty((seen, kept))
    step, level, best = np.empty(seen), np.empty(seen, np.int64), np.empty(seen)
    for r in range(rows):
        for i in range(seen):
            step[i] = row_step[r, group_of[i]] * col_step[i]
            level[i] = int(max(np.floor(row_level[r] + col_level[i]), 0.0))
        _search_row(
            work[r], down[r], step, weight, level, single, bound, rate_weight, lengths, after, fine_from,
            states[r], targets, costs, parents, chosen, best,
        )  # fmt: skip
        row, pivot = work[r].copy(), row_upper[r, r] if two_sided else 1.0
        state = states[r]
        for i in range(seen):
            point = best[i] - 0.5 * np.sign(best[i]) * (state & 1)
            short = row[i] - point * step[i]
            error = short / upper[i, i]
            if i < decided:
                codes[r, i] = np.int32(best[i])
                errors[r, i] = error
            state = after[state, _parity(best[i], state & 1 == 1 and level[i] >= fine_from)]
            if i == decided - 1:
                states[r] = state
            for j in range(i + 1, seen):
                row[j] -= error * upper[i, j]
            best[i] = (short + down[r, i]) / pivot  # from here on what is pushed down the rows
        if two_sided:
            put(push[r], best)
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
    after: np.ndarray,
    fine_from: int,
    start: int,
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
        start: the state at the first column.
        targets: (2, sequences, cols) float32 and costs: (2, sequences), of the sequences so far and
            with one code more, a list per state; parents, chosen: (cols, sequences), how each came
            about. Scratch.
    """
    states, cols, now = len(after), len(step), 0
    room = costs.shape[1] // states
    counts = np.zeros((2, states), np.int64)
    counts[0, start] = 1
    costs[0, start * room] = 0.0
    for j in range(cols):
        targets[0, start * room, j] = work[j]
    for i in range(cols):
        _grow(
            targets[now, :, i], down[i], step[i], weight[i], level[i], bound, rate_weight, lengths,
            after, level[i] >= fine_from, counts[now], costs[now], counts[1 - now], costs[1 - now],
            parents[i], chosen[i],
        )  # fmt: skip
        _tell(
            i,
            counts[1 - now],
            parents[i],
            chosen[i],
            step[i],
            upper[i],
            targets[now],
            targets[1 - now],
        )
        now = 1 - now
    at, lowest = 0, np.inf  # lists are sorted: the first of each is its best
    for state in range(states):
        if counts[now, state] > 0 and costs[now, state * room] < lowest:
            at, lowest = state * room, costs[now, state * room]
    for i in range(cols - 1, -1, -1):
        best[i] = chosen[i, at]
        at = parents[i, at]


@numba.njit(cache=True, nogil=True, inline="always")
def _grow(
    targets: np.ndarray,
    down: float,
    step: float,
    weight: float,
    level: int,
    bound: float,
    rate_weight: float,
    lengths: np.ndarray,
    after: np.ndarray,
    fine: bool,
    before: np.ndarray,
    costs: np.ndarray,
    found: np.ndarray,
    grown: np.ndarray,
    parent: np.ndarray,
    code: np.ndarray,
) -> None:
    """Sequences one code longer: those of least cost, a list per state.

    Args:
        fine: whether the column's codes in this row are.
        targets: (sequences,) of this column, by `before` (states,) and `costs` (sequences,): how many
            there are of each state, and what they cost.
        found: (states,), grown, parent, code: (sequences,), the same of the longer ones, to be filled.
    """
    room = len(costs) // len(before)
    found[:] = 0
    for state in range(len(before)):
        second = state & 1
        table, no_zero = lengths[second], second == 1 and fine
        for m in range(state * room, state * room + before[state]):
            x = (targets[m] + down) / step
            size, sign = abs(x), 1.0 if x >= 0.0 else -1.0
            # The nearest code, that on the other side of the target, and the next smaller one.
            some = no_zero or size >= 0.25
            middle = np.rint(size) if second == 0 else np.floor(size) + 1.0 if some else 0.0
            middle = min(middle, bound)
            above = size > _point(middle, second)
            parity = _parity(sign * middle, no_zero)
            for choice in range(3 if above and middle > 0.0 else 2):
                q = (
                    middle
                    if choice == 0
                    else middle + 1.0
                    if choice == 1 and above
                    else middle - 1.0
                )
                if no_zero and q == 0.0:
                    q = -1.0
                if abs(q) <= bound:
                    error = size - _point(q, second)
                    bits = _length(abs(q), level, table)
                    cost = costs[m] + weight * error * error + rate_weight * bits
                    into = after[state, parity if choice == 0 else 1 - parity]
                    found[into] = _insert(
                        cost, m, sign * q, into * room, int(found[into]), room, grown, parent, code
                    )


@numba.njit(cache=True, nogil=True, inline="always")
def _parity(q: float, turned: bool) -> int:
    """Of code `q`; the other one of negative codes where `turned`."""
    return int((np.int64(q) & 1) ^ (turned and q < 0.0))


@numba.njit(cache=True, nogil=True, inline="always")
def _point(q: float, second: int) -> float:
    """What code `q` stands for, in steps, under Q0 or Q1."""
    half = 0.5 * second
    return q - half if q > 0.0 else q + half if q < 0.0 else 0.0


@numba.njit(cache=True, nogil=True, inline="always")
def _tell(
    i: int,
    found: np.ndarray,
    parent: np.ndarray,
    code: np.ndarray,
    step: float,
    upper: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
) -> None:
    """The targets behind column `i` of sequences `after` one code more than those `before` had."""
    room = len(code) // len(found)
    for state in range(len(found)):
        for m in range(state * room, state * room + found[state]):
            then, now = before[parent[m]], after[m]
            point = _point(code[m], parent[m] // room & 1)
            error = np.float32((then[i] - point * step) / upper[i])
            for j in range(i + 1, len(upper)):
                now[j] = then[j] - error * upper[j]


@numba.njit(cache=True, nogil=True, inline="always")
def _insert(
    cost: float,
    m: int,
    q: float,
    low: int,
    found: int,
    room: int,
    costs: np.ndarray,
    parent: np.ndarray,
    code: np.ndarray,
) -> int:
    """Add code `q` behind sequence `m` to the sorted list from `low` on; returns how long it then is."""
    if found == room:
        if cost >= costs[low + found - 1]:
            return found
    else:
        found += 1
    at = low + found - 1
    while at > low and costs[at - 1] > cost:
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
