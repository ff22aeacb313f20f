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
_BLOCK = 1 << 20  # codes put together at a time


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
    if paths:
        return _decode_paths(reader, levels, tables, paths)
    symbols = np.empty(len(levels), np.uint8)
    raw = np.empty(len(levels), np.uint32)
    at = 0
    while at < len(levels):
        step = slice(at, at + len(reader.states) - reader.lane)
        symbols[step], raw[step] = _decode_step(reader, levels[step], tables)
        at = step.stop
    codes = np.empty(len(levels), np.int32)
    for at in range(0, len(levels), _BLOCK):
        block = slice(at, at + _BLOCK)
        codes[block] = _codes(reader, levels[block], symbols[block], raw[block], tables)
    return codes


def _decode_paths(
    reader: Reader, levels: NDArray[np.uint8], tables: Tables, paths: int
) -> NDArray[np.int32]:
    """Codes with states: a step ends with its column, as the next tables follow from its codes."""
    codes = np.empty(len(levels), np.int32)
    path = np.zeros(paths, np.uint8)  # the state of every row
    at, row = 0, 0
    while at < len(levels):
        count = min(len(reader.states) - reader.lane, paths - row)
        state, level = path[row : row + count], levels[at : at + count]
        told = level + np.uint8(LEVELS) * (state & (level < TABLES))
        found = _codes(reader, told, *_decode_step(reader, told, tables), tables)
        codes[at : at + count] = found
        turned = (found < 0) & (level >= tables.fine_from) & state & 1
        path[row : row + count] = NEXT[state, found & 1 ^ turned]
        at, row = at + count, (row + count) % paths
    return codes


def _decode_step(
    reader: Reader, levels: NDArray[np.uint8], tables: Tables
) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    """Symbol and raw bits (sign, then low bits) of one code from each of the next lanes.

    What the states do not depend on is left to `_codes`: a step is all that has to be done in turn.
    """
    lanes = slice(reader.lane, reader.lane + len(levels))
    state = reader.states[lanes]
    slot = tables.first_slot[levels] + (state & ((1 << PRECISION) - 1))
    state = tables.slot_freq[slot] * (state >> PRECISION) + tables.slot_rest[slot]
    symbol = tables.symbol.reshape(-1)[slot]
    bits = tables.shift[levels] + (symbol > 0)
    rest = state >> bits
    raw = state - (rest << bits)
    hungry = np.flatnonzero(rest < STATE_START)
    words = reader.words[reader.word : reader.word + len(hungry)]
    if len(words) < len(hungry):
        raise corrupt("it ends too early")
    rest[hungry] = rest[hungry] << 32 | words
    reader.word += len(hungry)
    reader.states[lanes] = rest
    reader.lane = lanes.stop % len(reader.states)
    return symbol, raw


def _codes(
    reader: Reader,
    levels: NDArray[np.uint8],
    symbols: NDArray[np.uint8],
    raw: NDArray[np.integer],
    tables: Tables,
) -> NDArray[np.int64]:
    """Codes from what the steps gave, in one go."""
    magnitude = symbols.astype(np.int64)
    escaped = np.flatnonzero(symbols == tables.escape[tables.table[levels]])
    excess = reader.escapes[reader.escape : reader.escape + len(escaped)]
    if len(excess) < len(escaped):
        raise corrupt("its escape list is too short")
    magnitude[escaped] += excess
    reader.escape += len(escaped)
    signed = symbols > 0
    negative = (raw & signed).astype(bool)
    shift = tables.shift[levels].astype(np.int64)
    code = np.where(negative, -magnitude, magnitude) << shift
    code += (raw >> signed).astype(np.int64) - ((1 << shift) >> 1)
    if code.max() >= CODE_LIMIT or code.min() < -CODE_LIMIT:
        raise corrupt("a code leaves the 32-bit range")
    return code
