"""The code coder's decoder on any device: the words of `packer.coding.rans`, bit for bit.

All lanes of a step decode at once. Their states are unsigned 64-bit numbers; torch has those as int64
only, so the twin shifts in zeros by hand. Which word goes to which lane is a running count of the
lanes that need one, on the device like everything else: no step waits for the host.

`packer.devicecoding` makes a `Decoder` for `packer.coding.codes.decode_codes` of it.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from golfpack.kernels.select import use_kernels

# What `position` says of a run that went wrong, in the order in which a step looks.
NO_WORD, NO_ESCAPE, OUT_OF_RANGE = 1, 2, 3
# Fields of `LaneTables.entry`: frequency and offset of 12 bits each, symbol of 6, escape of 1.
OFFSET_BIT, SYMBOL_BIT, ESCAPE_BIT = 12, 24, 30
SHIFT_BIT = 20  # of `LaneTables.level`; the table's first entry is below
WORD_BITS = 32


class Tables(Protocol):
    """The arrays of `packer.coding.tables.Tables`."""

    @property
    def freq(self) -> np.ndarray: ...
    @property
    def start(self) -> np.ndarray: ...
    @property
    def symbol(self) -> np.ndarray: ...
    @property
    def escape(self) -> np.ndarray: ...
    @property
    def table(self) -> np.ndarray: ...
    @property
    def shift(self) -> np.ndarray: ...


@dataclass(frozen=True)
class LaneTables:
    """The probability tables, packed so that one look-up a code is enough.

    Attributes:
        entry: (TABLES << precision,) int32, of a table's slot: the frequency of its symbol, how far into
            the symbol it is, the symbol, and whether that is the escape.
        level: (LEVELS,) int32, where a level's table begins in `entry`, and its shift.
        precision: bits of a slot.
    """

    entry: torch.Tensor
    level: torch.Tensor
    precision: int


@dataclass(frozen=True)
class Lanes:
    """What is left of a stream.

    Attributes:
        states: (N,) int64, the bits of each lane's unsigned state; N a power of two.
        words: (W,) int32, the bits of unsigned words.
        escapes: (E,) int64.
        position: (3,) int64: words read, escapes read, what went wrong first (0: nothing).
    """

    states: torch.Tensor
    words: torch.Tensor
    escapes: torch.Tensor
    position: torch.Tensor


def pack_tables(tables: Tables, device: torch.device) -> LaneTables:
    """The tables on a device."""
    count, slots = tables.symbol.shape
    precision = slots.bit_length() - 1
    every = np.arange(count)[:, None]
    symbol = tables.symbol.astype(np.int32)
    freq, start = (a[every, symbol].astype(np.int32) for a in (tables.freq, tables.start))
    escaped = (symbol == tables.escape[:, None]).astype(np.int32)
    offset = np.arange(slots, dtype=np.int32) - start
    entry = freq | offset << OFFSET_BIT | symbol << SYMBOL_BIT | escaped << ESCAPE_BIT
    level = tables.table.astype(np.int32) * slots | tables.shift.astype(np.int32) << SHIFT_BIT
    return LaneTables(
        torch.from_numpy(entry.reshape(-1)).to(device),
        torch.from_numpy(level).to(device),
        precision,
    )


def decode_run(
    lanes: Lanes, levels: torch.Tensor, tables: LaneTables, *, kernel: bool | None = None
) -> tuple[torch.Tensor, Lanes]:
    """Decode one code per level.

    After a fault codes are meaningless, and `position` holds the first fault of the stream.

    Args:
        lanes: the stream, unchanged by this.
        levels: (count,) uint8.
        tables: on the same device.
        kernel: Triton's kernel or the plain twin; None: the kernel where it can run.

    Returns:
        (count,) int32 codes, and what is left of the stream.
    """
    if use_kernels(levels.device) if kernel is None else kernel:
        from golfpack.kernels.rans_triton import decode_kernel

        return decode_kernel(lanes, levels, tables)
    return decode_plain(lanes, levels, tables)


def decode_plain(
    lanes: Lanes, levels: torch.Tensor, tables: LaneTables
) -> tuple[torch.Tensor, Lanes]:
    """The twin: some forty operations of torch a step."""
    codes = torch.empty(len(levels), dtype=torch.int32, device=levels.device)
    states, position, width = lanes.states.clone(), lanes.position.clone(), len(lanes.states)
    # One word and one escape more than there are: what is read past the end must be something.
    words = torch.cat([lanes.words, lanes.words.new_zeros(1)])
    escapes = torch.cat([lanes.escapes, lanes.escapes.new_zeros(1)])
    left = Lanes(states, words, escapes, position)
    for at in range(0, len(levels), width):
        codes[at : at + width] = _step(left, levels[at : at + width], tables)
    return codes, Lanes(states, lanes.words, lanes.escapes, position)


def _step(lanes: Lanes, levels: torch.Tensor, tables: LaneTables) -> torch.Tensor:
    """One code (int64) of each of the first len(levels) lanes; advances states and position."""
    state = lanes.states[: len(levels)]
    level = tables.level[levels.to(torch.int64)].to(torch.int64)
    shift, slots = level >> SHIFT_BIT, 1 << tables.precision
    slot = state & (slots - 1)
    entry = tables.entry[(level & ((1 << SHIFT_BIT) - 1)) + slot].to(torch.int64)
    symbol = entry >> SYMBOL_BIT & 63
    moved = _shifted(state, torch.full_like(state, tables.precision))
    moved = moved * (entry & (slots - 1)) + (entry >> OFFSET_BIT & (slots - 1))
    signed = (symbol > 0).to(torch.int64)
    negative = moved & signed
    moved = _shifted(moved, signed)
    bins = 1 << shift
    low = moved & (bins - 1)
    moved = _shifted(moved, shift)
    hungry, escaped = moved >> WORD_BITS == 0, entry >> ESCAPE_BIT > 0
    word, needed_words = _drawn(lanes.words, lanes.position[0], hungry)
    excess, needed_escapes = _drawn(lanes.escapes, lanes.position[1], escaped)
    word &= (1 << WORD_BITS) - 1
    state.copy_(torch.where(hungry, moved << WORD_BITS | word, moved))
    magnitude = symbol + torch.where(escaped, excess, 0)
    code = torch.where(negative == 1, -magnitude, magnitude) * bins + low - (bins >> 1)
    outside = ((code >= 1 << 31) | (code < -(1 << 31))).any()
    lanes.position[0] += needed_words
    lanes.position[1] += needed_escapes
    # The lists are one longer than the stream's.
    fault = torch.where(outside, OUT_OF_RANGE, 0)
    fault = torch.where(lanes.position[1] >= len(lanes.escapes), NO_ESCAPE, fault)
    fault = torch.where(lanes.position[0] >= len(lanes.words), NO_WORD, fault)
    lanes.position[2] = torch.where(lanes.position[2] == 0, fault, lanes.position[2])
    return code


def _shifted(state: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Unsigned state >> by, 0 <= by < 64."""
    return (state >> by) & ~(torch.full_like(state, -1) << (63 - by) << 1)


def _drawn(
    values: torch.Tensor, at: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each lane that wants a value gets of `values` from `at` on (any, if not), and how many."""
    upto = wanted.to(torch.int64).cumsum(0)
    index = (at + upto - 1).clamp(0, len(values) - 1)
    return values[index].to(torch.int64), upto[-1]
