"""The integer probability tables of the code coder: discretised Gaussians, one per scale level.

Level l means a standard deviation of 2^((l - 24) / 8): an eighth of an octave per level, from 1/8
up to 2^20. Levels 0..55 have a table each. A higher level sends `shift` low bits of the code raw, and
shares the tables of the octave 8 <= sigma < 16, whose bins are flat enough for that.

A table is part of the file format, so it is defined by integer arithmetic alone: the density is
sampled at 16 points per bin with a binary exponential whose factors come from integer square roots.

Codes with states (`trellis`) take the same tables under quantizer Q0. Under Q1, whose cells are others,
levels 0..55 have tables of their own, which count as levels LEVELS + level; wide ones are the same. From
level `fine_from` on Q1 has no zero.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from math import isqrt

import numpy as np
from numpy.typing import NDArray

PRECISION = 12  # a table's frequencies sum to 1 << PRECISION
LEVELS = 184  # levels a code may have
TABLES = 56  # levels with a table of their own, under either quantizer
LEVELS_PER_OCTAVE = 8
UNIT_LEVEL = 24  # the level of sigma = 1
MAX_SYMBOLS = 64  # no table has more, escape included; shift stays below 17 for LEVELS levels
COST_UNITS = 256  # a bit, where an encoder weighs costs
ESCAPE_BYTE_COST = 8 * COST_UNITS
FAR = 1023  # magnitudes from here on are taken to cost the same

_TOP = TABLES - LEVELS_PER_OCTAVE  # the octave whose tables higher levels share
_ONE = 30  # fraction bits of the density
_EXPONENT = 32  # fraction bits of its binary exponent
_HALF_LOG2_E = 3098164009  # log2(e) / 2 in 2^-32


@dataclass(frozen=True)
class Tables:
    """The tables in the forms that coding needs.

    Attributes:
        freq: (2 TABLES, MAX_SYMBOLS) uint32, zero beyond the escape symbol; those of Q1 come second.
        start: (2 TABLES, MAX_SYMBOLS) uint32, the sum of the frequencies before a symbol.
        symbol: (2 TABLES, 1 << PRECISION) uint8, the symbol that owns a slot.
        escape: (2 TABLES,) uint8, the last symbol: every magnitude from this one on.
        table: (LEVELS + TABLES,) uint8, the table of a level; from LEVELS on of Q1.
        shift: (LEVELS + TABLES,) uint8, how many low bits of a code go raw at a level.
        fine_from: the level from which codes with states are fine; LEVELS: none is.
    """

    freq: NDArray[np.uint32]
    start: NDArray[np.uint32]
    symbol: NDArray[np.uint8]
    escape: NDArray[np.uint8]
    table: NDArray[np.uint8]
    shift: NDArray[np.uint8]
    fine_from: int

    # For decoders that look slots up, all tables one after the other:

    @cached_property
    def first_slot(self) -> NDArray[np.uint64]:
        """(LEVELS + TABLES,) where the table of a level begins."""
        return self.table.astype(np.uint64) << np.uint64(PRECISION)

    @cached_property
    def slot_freq(self) -> NDArray[np.uint64]:
        """(slots,) frequency of the symbol that owns a slot."""
        return np.take_along_axis(self.freq, self.symbol.astype(int), 1).reshape(-1).astype("u8")

    @cached_property
    def slot_rest(self) -> NDArray[np.uint64]:
        """(slots,) how far a slot lies behind the first of its symbol."""
        start = np.take_along_axis(self.start, self.symbol.astype(int), 1)
        return (np.arange(1 << PRECISION) - start).reshape(-1).astype(np.uint64)


@cache
def tables(fine_from: int = LEVELS) -> Tables:
    """Build every table; the same integers on every machine."""
    freq = np.zeros((2 * TABLES, MAX_SYMBOLS), np.uint32)
    escape = np.zeros(2 * TABLES, np.uint8)
    for table in range(2 * TABLES):
        level, half_steps = table % TABLES, table >= TABLES
        row = _frequencies(_bin_masses(level, half_steps=half_steps, zero=level < fine_from))
        freq[table, : len(row)] = row
        escape[table] = len(row) - 1
    start = np.cumsum(freq, axis=1, dtype=np.uint32) - freq
    every = np.arange(MAX_SYMBOLS, dtype=np.uint8)
    symbol = np.stack([np.repeat(every, row) for row in freq])
    octave, within = np.divmod(np.arange(LEVELS) - _TOP, LEVELS_PER_OCTAVE)
    table = np.where(octave > 0, _TOP + within, np.arange(LEVELS))
    table = np.concatenate([table, np.arange(TABLES, 2 * TABLES)]).astype(np.uint8)
    shift = np.concatenate([np.maximum(octave, 0), np.zeros(TABLES)]).astype(np.uint8)
    return Tables(freq, start, symbol, escape, table, shift, fine_from)


@cache
def symbol_costs(fine_from: int = LEVELS) -> NDArray[np.int64]:
    """(2 TABLES, MAX_SYMBOLS) cost of a symbol with its sign, in COST_UNITS: for encoders only."""
    freq = np.maximum(tables(fine_from).freq, 1).astype(np.float64)
    cost = np.rint(COST_UNITS * (PRECISION - np.log2(freq))).astype(np.int64)
    cost[:, 1:] += COST_UNITS
    return cost


@cache
def magnitude_costs() -> NDArray[np.int64]:
    """(LEVELS, FAR + 1) cost of an integer by its magnitude, in COST_UNITS: for encoders only."""
    table = tables().table[:LEVELS, None]
    shift = tables().shift[:LEVELS, None].astype(np.int64)
    last = tables().escape[table]
    magnitude = (np.arange(FAR + 1) + (1 << shift >> 1)) >> shift
    symbols = symbol_costs()[table, np.minimum(magnitude, last)]
    return symbols + ESCAPE_BYTE_COST * (magnitude >= last) + COST_UNITS * shift


def _bin_masses(level: int, *, half_steps: bool, zero: bool) -> NDArray[np.int64]:
    """Unnormalised mass of |code| = 0, 1, 2, ...: far enough that the rest is nothing.

    With `half_steps` of Q1: its points are 1/2, 3/2, ..., its cells end at 1, 2, ...; with `zero`
    it has a point there too, whose cell ends at 1/4.
    """
    magnitude = np.arange(2 * MAX_SYMBOLS, dtype=np.int64)[:, None]
    first = 32 * magnitude - (32 if half_steps else 16)  # where a bin starts, in 1/32
    x = first + (2 * np.arange(16, dtype=np.int64) + 1)
    inside = np.full(x.shape, True)
    if half_steps:
        inside[0], inside[1] = zero & (np.abs(x[0] + 16) < 8), x[1] > 8 * zero
        x[0] += 16
    octaves, quarter = divmod(level - UNIT_LEVEL, 4)
    # log2 of the density is -x^2 log2(e) / (2 sigma^2), and 1 / sigma^2 = 2^(-(level - 24) / 4).
    scale = (_HALF_LOG2_E * _root_power(quarter, 4)) >> _ONE
    exponent = (x * x * scale) >> (10 + octaves)
    mass = np.where(inside, _exp2_negative(exponent), 0).sum(axis=1)
    mass[1:] *= 2  # both signs
    return mass


def _root_power(k: int, n: int) -> int:
    """2^(-k/n) in 2^-30, for n a power of two."""
    value = 1 << (_ONE * n - k)
    while n > 1:
        value, n = isqrt(value), n // 2
    return value


def _exp2_negative(t: NDArray[np.int64]) -> NDArray[np.int64]:
    """2^-t in 2^-30, t >= 0 in 2^-32; reads 16 fraction bits."""
    value = np.full(t.shape, 1 << _ONE, np.int64)
    factor = 1 << _ONE - 1
    for bit in range(1, 17):
        factor = isqrt(factor << _ONE)  # 2^(-2^-bit)
        chosen = (t >> (_EXPONENT - bit)) & 1
        value = np.where(chosen == 1, (value * factor) >> _ONE, value)
    value >>= np.minimum(t >> _EXPONENT, 62)
    return value


def _frequencies(mass: NDArray[np.int64]) -> list[int]:
    """Frequencies of 0, 1, ..., escape, summing to 1 << PRECISION, none of them zero but a 0's."""
    total, scale = int(mass.sum()), 1 << PRECISION
    rounded = (2 * scale * mass + total) // (2 * total)
    first = int(mass[0] == 0)
    kept = min(int(np.count_nonzero(rounded)) + first, MAX_SYMBOLS - 1)
    freq = [int(f) for f in rounded[:kept]]
    escape = max(1, (2 * scale * int(mass[kept:].sum()) + total) // (2 * total))
    freq[first] += scale - sum(freq) - escape
    return [*freq, escape]
