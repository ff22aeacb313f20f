# pyright: standard
# (numba finds the types of compiled loops when they run; strict would ask for them in the source.)
"""Compiled loops of the code coder: encoding, decoding (twin of `rans.decode_run`), cost sums.

Imported on use, because numba takes most of a second to load and a decoder can do without it.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from golfpack.packer.format.rans.lanes import CODE_LIMIT, STATE_START, Reader, corrupt
from golfpack.packer.format.rans.tables import (
    ESCAPE_BYTE_COST,
    LEVELS,
    PRECISION,
    TABLES,
    Tables,
    symbol_costs,
)
from golfpack.packer.format.rans.vectors import TREND
from golfpack.packer.format.trellis import NEXT

_SLOTS = (1 << PRECISION) - 1
_NO_WORD, _NO_ESCAPE, _RANGE = 1, 2, 3  # what a decoder loop found wrong
_COMPLAINTS = {
    _NO_WORD: "it ends too early",
    _NO_ESCAPE: "its escape list is too short",
    _RANGE: "a code leaves the 32-bit range",
}


def decode_run(
    reader: Reader, levels: NDArray[np.uint8], tables: Tables, paths: int = 0
) -> NDArray[np.int32]:
    """Twin of `rans.decode_run`: the same codes, the same errors."""
    codes = np.empty(len(levels), np.int32)
    reader.word, reader.escape, fault = _decode(
        reader.states, reader.lane, reader.words, reader.word, reader.escapes, reader.escape, levels,
        tables.freq, tables.start, tables.symbol, tables.escape, tables.table, tables.shift,
        np.zeros(max(paths, 1), np.uint8), NEXT if paths else np.zeros_like(NEXT), tables.fine_from,
        codes,
    )  # fmt: skip
    reader.lane = (reader.lane + len(levels)) % len(reader.states)
    if fault:
        raise corrupt(_COMPLAINTS[fault])
    return codes


def encode_runs(
    runs: list[tuple[NDArray[np.int32], NDArray[np.uint8]]], lanes: int, tables: Tables
) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.int64]]:
    """Encode runs of (codes, levels), each run from lane 0 on.

    Returns:
        The (lanes,) states, the words and the escapes that a Reader starts from.
    """
    states = np.full(lanes, STATE_START, np.uint64)
    words = np.empty(sum(len(codes) for codes, _ in runs), np.uint32)  # at most one a code
    escapes = np.empty(len(words), np.int64)
    word = escape = len(words)  # both are filled from the end: rANS is last in, first out
    for codes, levels in reversed(runs):
        word, escape = _encode(
            states, words, word, escapes, escape, levels,
            tables.freq, tables.start, tables.escape, tables.table, tables.shift, codes,
        )  # fmt: skip
    return states, words[word:], escapes[escape:]


def class_costs(
    codes: NDArray[np.int32],
    row_term: NDArray[np.int32],
    col_term: NDArray[np.int32],
    tables: Tables,
    *,
    of_rows: bool,
    reach: int,
    step: int,
) -> NDArray[np.int64]:
    """Cost of each row (or column) of codes if its term moved by k steps, -reach <= k <= reach.

    Args:
        codes: (rows, cols).
        row_term: (rows,) in quarter levels; a code's level is (row_term + col_term) >> 2.
        col_term: (cols,).
        tables: what the codes are to be coded with.
        of_rows: sum over rows, else over columns.
        reach: how many steps to try to either side.
        step: in quarter levels.

    Returns:
        (rows or cols, 2 reach + 1), in 1/256 bit.
    """
    return _class_costs(
        codes, row_term, col_term, of_rows, reach, step,
        symbol_costs(), tables.escape, tables.table, tables.shift,
    )  # fmt: skip


def cheapest_head(
    left: NDArray[np.int64],
    told: NDArray[np.int64],
    last: NDArray[np.int64],
    head_costs: NDArray[np.int64],
    spread_costs: NDArray[np.int64],
) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """The head of a vector that takes the fewest bits with its rest (`fit_vectors`).

    Args:
        left: (tellings, n) the vector less what each telling says of it.
        told: (tellings, 4) lags and weights, as a head tells them.
        last: (2,) middle and spread that heads differ from.
        head_costs: (7, magnitudes) costs of a head's entries.
        spread_costs: (spreads, magnitudes) costs of a rest's entries.

    Returns:
        Their cost, -1 where every rest leaves the range of codes; its (7,) entries; the (n,) rest.
    """
    cost, head, rest = _cheapest_head(left, told, last, head_costs, spread_costs)
    return int(cost), head, rest


@njit(cache=True)
def _decode(
    states, first, words, word, escapes, escape, levels, freq, start, symbols, last, tabs, shifts,
    path, after, fine_from, codes,
):  # fmt: skip
    lanes, paths, row = len(states), len(path), 0
    for k in range(len(levels)):
        table = np.int64(tabs[levels[k]]) + TABLES * (path[row] & (levels[k] < TABLES))
        shift = np.int64(shifts[levels[k]])
        lane = (first + k) & (lanes - 1)
        state = states[lane]
        slot = state & np.uint64(_SLOTS)
        symbol = np.int64(symbols[table, slot])
        state = (state >> np.uint64(PRECISION)) * np.uint64(freq[table, symbol])
        state += slot - np.uint64(start[table, symbol])
        magnitude = symbol
        if symbol == last[table]:
            if escape == len(escapes):
                return word, escape, _NO_ESCAPE
            magnitude += escapes[escape]
            escape += 1
        if symbol > 0:
            if state & np.uint64(1):
                magnitude = -magnitude
            state >>= np.uint64(1)
        bins = np.int64(1) << shift
        low = np.int64(state & np.uint64(bins - 1))
        state >>= np.uint64(shift)
        code = magnitude * bins + low - (bins >> 1)
        if state < np.uint64(STATE_START):
            if word == len(words):
                return word, escape, _NO_WORD
            state = (state << np.uint64(32)) | np.uint64(words[word])
            word += 1
        if code >= CODE_LIMIT or code < -CODE_LIMIT:
            return word, escape, _RANGE
        states[lane] = state
        codes[k] = code
        turned = path[row] & 1 if code < 0 and levels[k] >= fine_from else 0
        path[row] = after[path[row], code & 1 ^ turned]
        row = row + 1 if row + 1 < paths else 0
    return word, escape, 0


@njit(cache=True)
def _encode(states, words, word, escapes, escape, levels, freq, start, last, tabs, shifts, codes):
    lanes = len(states)
    for k in range(len(levels) - 1, -1, -1):
        table = np.int64(tabs[levels[k]])
        shift = np.int64(shifts[levels[k]])
        bins = np.int64(1) << shift
        code = np.int64(codes[k]) + (bins >> 1)
        low = code & (bins - 1)
        code >>= shift
        magnitude = abs(code)
        symbol = min(magnitude, np.int64(last[table]))
        if symbol == last[table]:
            escape -= 1
            escapes[escape] = magnitude - symbol
        signed = np.int64(1) if symbol > 0 else np.int64(0)
        raw = (low << signed) | (np.int64(1) if code < 0 else np.int64(0))
        f = np.uint64(freq[table, symbol])
        lane = k & (lanes - 1)
        state = states[lane]
        if state >= f << np.uint64(64 - PRECISION - shift - signed):
            word -= 1
            words[word] = np.uint32(state & np.uint64(0xFFFFFFFF))
            state >>= np.uint64(32)
        state = (state << np.uint64(shift + signed)) | np.uint64(raw)
        quotient = state // f
        states[lane] = (quotient << np.uint64(PRECISION)) + (state - quotient * f)
        states[lane] += np.uint64(start[table, symbol])
    return word, escape


@njit(cache=True)
def _cost(level, magnitude, cost, last, tabs, shifts):
    level = min(max(level, 0), LEVELS - 1)
    table = np.int64(tabs[level])
    shift = np.int64(shifts[level])
    magnitude = (magnitude + ((np.int64(1) << shift) >> 1)) >> shift
    bits = shift << 8
    if magnitude < last[table]:
        return bits + cost[table, magnitude]
    excess = magnitude - last[table]
    bits += cost[table, last[table]] + ESCAPE_BYTE_COST
    while excess > 127:
        bits += ESCAPE_BYTE_COST
        excess >>= 7
    return bits


@njit(cache=True, nogil=True)
def _class_costs(codes, row_term, col_term, of_rows, reach, step, cost, last, tabs, shifts):
    rows, cols = codes.shape
    total = np.zeros((rows if of_rows else cols, 2 * reach + 1), np.int64)
    for i in range(rows):
        for j in range(cols):
            magnitude = abs(np.int64(codes[i, j]))
            term = row_term[i] + col_term[j] - reach * step
            line = i if of_rows else j
            for k in range(2 * reach + 1):
                level = (term + k * step) >> 2
                total[line, k] += _cost(level, magnitude, cost, last, tabs, shifts)
    return total


@njit(cache=True, nogil=True)
def _cheapest_head(left, told, last, head_costs, spread_costs):
    least = np.int64(-1)
    best = np.zeros(7, np.int64)
    head = np.zeros(7, np.int64)
    far = spread_costs.shape[1] - 1
    counts = np.zeros(far + 1, np.int64)
    n = left.shape[1]
    rest = np.empty(n, np.int64)
    best_rest = np.empty(n, np.int64)
    for telling in range(len(left)):
        mean = _mean(left[telling])
        # A quarter of the range, so that how far middles are apart stays within it.
        mean = min(max(mean, -CODE_LIMIT // 4), CODE_LIMIT // 4)
        put(head[2:6], told[telling])
        # No middle, the mean, the next above it (the mean is rounded down), the mean with a trend.
        for trial in range(1 if n == 0 else 4 if n > TREND else 3):
            middle = 0 if trial == 0 else mean + 1 if trial == 2 else mean
            head[6] = 1 if trial == 3 else 0
            reach = _rest(left[telling], middle, head[6], rest, counts)
            if reach < 0:
                continue
            spread, cost = last[1], np.int64(0)
            if n:
                spread, cost = _cheapest_spread(counts[: reach + 1], spread_costs)
            head[0], head[1] = middle - last[0], spread - last[1]
            for k in range(7):
                cost += head_costs[k, min(abs(head[k]), far)]
            if least < 0 or cost < least:
                least = cost
                put(best, head)
                put(best_rest, rest)
    return least, best, best_rest


@njit(cache=True, nogil=True)
def put(into, values):
    """Fill `into` with as many of `values`.

    Numba takes seconds to compile an array that is assigned to another, for the error that may raise.
    """
    for k in range(len(into)):
        into[k] = values[k]


@njit(cache=True, nogil=True)
def _mean(values):
    total = np.int64(0)
    for k in range(len(values)):
        total += values[k]
    return total // max(len(values), 1)


@njit(cache=True, nogil=True)
def _cheapest_spread(counts, costs):
    """The spread by which magnitudes that stand so often cost least, and what they cost."""
    best, least = 0, np.int64(0)
    for spread in range(len(costs)):
        total = np.int64(0)
        for magnitude in range(len(counts)):
            total += counts[magnitude] * costs[spread, magnitude]
        if spread == 0 or total < least:
            best, least = spread, total
    return best, least


@njit(cache=True, nogil=True)
def _rest(left, middle, trend, rest, counts):
    """Fill in a rest and the counts of its magnitudes; the largest of them, -1 where one is no code."""
    counts[:] = 0
    far = len(counts) - 1
    reach = 0
    before = np.int64(0)  # sum of the TREND entries before this one
    for k in range(len(left)):
        rest[k] = left[k] - middle
        if trend:
            rest[k] -= (before + TREND // 2) // TREND
            before += left[k] - middle
            if k >= TREND:
                before -= left[k - TREND] - middle
        if rest[k] >= CODE_LIMIT or rest[k] < -CODE_LIMIT:
            return -1
        magnitude = min(abs(rest[k]), far)
        counts[magnitude] += 1
        reach = max(reach, magnitude)
    return reach
