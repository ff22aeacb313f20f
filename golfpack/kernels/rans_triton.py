"""The lanes' decoder as one Triton kernel: one program, whose loop is over steps.

Lanes draw their words from one stream, so steps follow one another; within a step all lanes work at
once, and where each finds its word is a running count over them. What takes time is the chain of a step:
a table look-up, the count, the words: an estimated microsecond on an H100. 36 M codes in 1,024 lanes are
35,000 steps. The state is two registers a lane, the tables (0.9 MB) stay in the second-level cache.
"""

import torch
import triton
import triton.language as tl

from golfpack.kernels.rans import (
    ESCAPE_BIT,
    NO_ESCAPE,
    NO_WORD,
    OFFSET_BIT,
    OUT_OF_RANGE,
    SHIFT_BIT,
    SYMBOL_BIT,
    Lanes,
    LaneTables,
)

# Lanes that one warp of 32 threads takes, at most; a program has 32 warps, and up to 4,096 lanes.
LANES_PER_WARP = 64
MAX_WARPS = 32
# Constants that a kernel may read.
_OFFSET, _SYMBOL, _ESCAPE = (tl.constexpr(b) for b in (OFFSET_BIT, SYMBOL_BIT, ESCAPE_BIT))
_SHIFT, _TABLE = tl.constexpr(SHIFT_BIT), tl.constexpr((1 << SHIFT_BIT) - 1)
_NO_WORD, _NO_ESCAPE = tl.constexpr(NO_WORD), tl.constexpr(NO_ESCAPE)
_OUT_OF_RANGE, _NEVER = tl.constexpr(OUT_OF_RANGE), tl.constexpr(1 << 40)


@triton.jit
def _decode(
    state_ptr, word_ptr, escape_ptr, position_ptr, level_ptr, entry_ptr, table_ptr, code_ptr,
    count, words, escapes, PRECISION: tl.constexpr, SLOT: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    lane = tl.arange(0, LANES)
    state = tl.load(state_ptr + lane).to(tl.uint64, bitcast=True)
    word, escape = tl.load(position_ptr), tl.load(position_ptr + 1)
    trouble = tl.full((LANES,), _NEVER, tl.int64)
    level = tl.load(level_ptr + lane, mask=lane < count, other=0)
    table = tl.load(table_ptr + level.to(tl.int32))
    for first in range(0, count, LANES):
        at = first + lane
        live = at < count
        # The next step's tables hang on no state: they can be on their way while this step works.
        level = tl.load(level_ptr + at + LANES, mask=at + LANES < count, other=0)
        next_table = tl.load(table_ptr + level.to(tl.int32))
        slot = (state & SLOT).to(tl.int32)
        entry = tl.load(entry_ptr + (table & _TABLE) + slot)
        shift = (table >> _SHIFT).to(tl.int64)
        bins = tl.full((LANES,), 1, tl.int64) << shift
        freq = (entry & SLOT).to(tl.uint64)
        offset = ((entry >> _OFFSET) & SLOT).to(tl.uint64)
        symbol = (entry >> _SYMBOL) & 63
        moved = (state >> PRECISION) * freq + offset
        signed = (symbol > 0).to(tl.uint64)
        negative = moved & signed
        moved = moved >> signed
        low = moved.to(tl.int64, bitcast=True) & (bins - 1)
        moved = moved >> shift.to(tl.uint64)
        hungry = live & ((moved >> 32) == 0)
        escaped = live & ((entry >> _ESCAPE) > 0)
        # Both counts in one scan: LANES is 4,096 at most.
        upto = tl.cumsum(hungry.to(tl.int32) + (escaped.to(tl.int32) << 16), axis=0)
        drawn = tl.max(upto, axis=0)
        word_at = word + (upto & 0xFFFF) - 1
        fed = tl.load(word_ptr + word_at, mask=hungry & (word_at < words), other=0)
        fed = fed.to(tl.uint32, bitcast=True).to(tl.uint64)
        state = tl.where(live, tl.where(hungry, (moved << 32) | fed, moved), state)
        escape_at = escape + (upto >> 16) - 1
        excess = tl.load(escape_ptr + escape_at, mask=escaped & (escape_at < escapes), other=0)
        magnitude = symbol.to(tl.int64) + excess
        code = tl.where(negative == 1, -magnitude, magnitude) * bins + low - (bins >> 1)
        tl.store(code_ptr + at, code.to(tl.int32), mask=live)
        word += drawn & 0xFFFF
        escape += drawn >> 16
        outside = live & ((code > 2147483647) | (code < -2147483648))
        found = tl.where(outside, _OUT_OF_RANGE, _NEVER)
        found = tl.where(escape > escapes, _NO_ESCAPE, found)
        found = tl.where(word > words, _NO_WORD, found)
        # Where and what, in one number: the least of them is the first fault.
        trouble = tl.minimum(trouble, (at - lane).to(tl.int64) * 4 + found)
        table = next_table
    tl.store(state_ptr + lane, state.to(tl.int64, bitcast=True))
    tl.store(position_ptr, word)
    tl.store(position_ptr + 1, escape)
    earlier, first_trouble = tl.load(position_ptr + 2), tl.min(trouble, axis=0)
    fault = tl.where(first_trouble < _NEVER, first_trouble & 3, 0)
    tl.store(position_ptr + 2, tl.where(earlier > 0, earlier, fault))


def warps(lanes: int) -> int:
    """Warps of a program of so many lanes."""
    return min(max(lanes // LANES_PER_WARP, 1), MAX_WARPS)


def decode_kernel(
    lanes: Lanes, levels: torch.Tensor, tables: LaneTables
) -> tuple[torch.Tensor, Lanes]:
    """`rans.decode_plain`, in one launch."""
    codes = torch.empty(len(levels), dtype=torch.int32, device=levels.device)
    left = Lanes(lanes.states.clone(), lanes.words, lanes.escapes, lanes.position.clone())
    width = len(lanes.states)
    _decode[(1,)](
        left.states, left.words, left.escapes, left.position, levels, tables.entry, tables.level, codes,
        len(levels), len(left.words), len(left.escapes), PRECISION=tables.precision,
        SLOT=(1 << tables.precision) - 1, LANES=width,
        num_warps=warps(width),  # pyright: ignore[reportCallIssue]
    )  # fmt: skip
    return codes, left
