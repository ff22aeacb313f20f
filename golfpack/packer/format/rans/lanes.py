"""Interleaved rANS over the tables of `tables`: codes and their levels <-> words.

N lanes (a power of two) each hold a state in [2^32, 2^64). Code k of a run belongs to lane k mod N,
so N codes are decoded at a time, and all lanes draw their 32-bit words from one stream, in lane
order. A code is one operation on a state: its magnitude's symbol, its sign, its raw low bits.

This is the reference decoder, vectorised over lanes; `fast` decodes and encodes the same words with
compiled loops. Source: Duda, arXiv 1311.2540; Giesen, arXiv 1402.3392 (interleaving).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from golfpack.errors import CorruptError
from golfpack.packer.format.rans.tables import LEVELS, PRECISION, TABLES, Tables
from golfpack.packer.format.trellis import NEXT

STATE_START = 1 << 32  # a lane's state before anything is encoded, so after all is decoded
CODE_LIMIT = 1 << 31  # codes are int32


@dataclass
class Reader:
    """What is left of a stream while it is decoded; a decoder call advances it in place.

    Attributes:
        states: (N,) uint64, one state a lane.
        words: (W,) uint32, read from `word` on.
        escapes: (E,) int64, excess magnitudes of escaped codes, read from `escape` on.
        lane: whose code is next.
    """

    states: NDArray[np.uint64]
    words: NDArray[np.uint32]
    escapes: NDArray[np.int64]
    word: int = 0
    escape: int = 0
    lane: int = 0

    def check_finished(self) -> None:
        """Raise CorruptError unless everything was read and every lane is back at its start."""
        consumed = self.word == len(self.words) and self.escape == len(self.escapes)
        if not consumed or np.any(self.states != STATE_START):
            raise corrupt("the lanes do not end in their start state")


def corrupt(what: str) -> CorruptError:
    """The error for a payload that no encoder wrote."""
    return CorruptError(f"damaged code payload: {what}", "fetch or build the file again")


def decode_run(
    reader: Reader, levels: NDArray[np.uint8], tables: Tables, paths: int = 0
) -> NDArray[np.int32]:
    """Decode one code per level. Reference implementation: numpy only.

    Args:
        reader: is advanced.
        levels: in the order of the codes.
        tables: of `tables`.
        paths: of codes with states, how many rows the matrix has, whose codes stand column by column.

    Raises:
        CorruptError: words or escapes run out, or a code leaves int32.
    """
    codes = np.empty(len(levels), np.int32)
    path = np.zeros(paths, np.uint8)  # the state of every row
    at, row = 0, 0
    while at < len(levels):
        count = min(len(levels) - at, len(reader.states) - reader.lane)
        if not paths:
            codes[at : at + count] = _decode_step(reader, levels[at : at + count], tables)
        else:
            count = min(count, paths - row)
            state, level = path[row : row + count], levels[at : at + count]
            of_second = (state & 1).astype(bool) & (level < TABLES)
            found = _decode_step(reader, level + np.uint8(LEVELS) * of_second, tables)
            codes[at : at + count] = found
            path[row : row + count] = NEXT[state, found & 1]
            row = (row + count) % paths
        at += count
    return codes


def _decode_step(reader: Reader, levels: NDArray[np.uint8], tables: Tables) -> NDArray[np.int64]:
    """One code from each of the next len(levels) lanes, of which there are as many until the last."""
    table, shift = tables.table[levels], tables.shift[levels].astype(np.uint64)
    state = reader.states[
        reader.lane : reader.lane + len(levels)
    ]  # a view: changes are the reader's
    reader.lane = (reader.lane + len(levels)) % len(reader.states)
    slot = state & np.uint64((1 << PRECISION) - 1)
    symbol = tables.symbol[table, slot]
    state >>= np.uint64(PRECISION)
    state *= tables.freq[table, symbol]
    state += slot - tables.start[table, symbol]
    signed = (symbol > 0).astype(np.uint64)
    negative = state & signed
    state >>= signed
    bins = np.uint64(1) << shift
    low = state & (bins - np.uint64(1))
    state >>= shift
    _refill(reader, state)
    magnitude = symbol.astype(np.int64) + _excess(reader, symbol == tables.escape[table])
    code = np.where(negative == 1, -magnitude, magnitude) * bins.astype(np.int64)
    code += low.astype(np.int64) - (bins >> np.uint64(1)).astype(np.int64)
    if code.max() >= CODE_LIMIT or code.min() < -CODE_LIMIT:
        raise corrupt("a code leaves the 32-bit range")
    return code


def _refill(reader: Reader, state: NDArray[np.uint64]) -> None:
    """Give each state below 2^32 the next word."""
    hungry = np.flatnonzero(state < STATE_START)
    words = reader.words[reader.word : reader.word + len(hungry)]
    if len(words) < len(hungry):
        raise corrupt("it ends too early")
    state[hungry] = state[hungry] << np.uint64(32) | words
    reader.word += len(hungry)


def _excess(reader: Reader, escaped: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The excess of each escaped code, zero elsewhere."""
    count = int(np.count_nonzero(escaped))
    values = reader.escapes[reader.escape : reader.escape + count]
    if len(values) < count:
        raise corrupt("its escape list is too short")
    reader.escape += count
    excess = np.zeros(len(escaped), np.int64)
    excess[escaped] = values
    return excess
