"""Rounding with error feedback as one Triton kernel, a launch a diagonal of tiles.

Weight (r, i) hangs on the errors of columns before i in its row and, in two-sided feedback, on those of
the rows above r in its column. So tiles of rows and columns on one anti-diagonal are independent of
each other (one-sided: all tiles of a block of columns), over all matrices of the batch, and are one
launch. A tile first takes what earlier tiles push onto it, as matrix products of their stored errors
with U and with the rows' factor; then it steps through its own anti-diagonals (one-sided: columns),
where each row rounds one weight at a time and its error moves the rest of the tile, in registers.

Cost, two-sided, at (2048, 512) and 32 x 32 tiles: 64 + 16 - 1 = 79 launches, each 63 steps, and up to
78 products of 32^3. A step is 2 x 1024 multiply-adds, three reductions and first-level cache look-ups;
at an estimated 1,000 cycles a step and 2,000 a product a launch takes 40 to 130 us on an H100, and a
shape some 7 ms while its tiles of one diagonal (16 a matrix) fit the 132 processors. Column by column
it would be rows x cols = 1 M dependent steps. Registers: two tiles of float64, 16 KiB of a processor's
256, and what is looked up; shared memory: 32 KiB, for products and reductions.

A launch only writes its own tiles and reads others', so tuning may run it any number of times.
"""

import torch
import triton
import triton.language as tl

from golfpack.kernels.rounding import HALF_LOG2_E, largest_code
from golfpack.kernels.tuning import tuned

# Rows and columns of a tile: powers of two, 16 at least for matrix products.
TILE = 32


@triton.jit
def _round_to_codes(x, bound, slope, rate, WEIGHTED: tl.constexpr):
    """Nearest code of targets in steps, ties to even; WEIGHTED: the smaller while it is worth it."""
    size = tl.abs(x)
    low = tl.floor(size)
    rest = size - low  # exact
    odd = low - 2.0 * tl.floor(low * 0.5) > 0.5
    up = (rest > 0.5) | ((rest == 0.5) & odd)
    if WEIGHTED:
        margin = 0.5 + slope * ((2.0 * low + 1.0) * rate)
        up = up & ((slope <= 0.0) | (rest > margin))
    magnitude = tl.minimum(tl.where(up, low + 1.0, low), bound)
    return tl.where(x > 0, magnitude, -magnitude)


@triton.jit
def _tile(pointer, row, col, rows, cols, stride):
    """A tile of a matrix, zeros outside."""
    inside = (row[:, None] < rows) & (col[None, :] < cols)
    return tl.load(pointer + row[:, None] * stride + col[None, :], mask=inside, other=0.0)


@triton.jit
def _pushed_from_left(w, error_ptr, upper_ptr, row, col, rows, cols, before, COLS: tl.constexpr):
    """The tile less what the errors of `before` tiles to its left push onto it."""
    for k in range(0, before):
        source = k * COLS + tl.arange(0, COLS)
        errors = _tile(error_ptr, row, source, rows, cols, cols)
        onto = _tile(upper_ptr, source, col, cols, cols, cols).to(w.dtype)
        w -= tl.dot(errors, onto, input_precision="ieee", out_dtype=w.dtype)
    return w


@triton.jit
def _pushed_from_above(
    moved, push_ptr, lower_ptr, row, col, rows, cols, before, ROWS: tl.constexpr
):
    """What `before` tiles above take off the tile's targets."""
    for k in range(0, before):
        source = k * ROWS + tl.arange(0, ROWS)
        onto = _tile(lower_ptr, row, source, rows, rows, rows).to(moved.dtype)
        pushes = _tile(push_ptr, source, col, rows, cols, cols)
        moved += tl.dot(onto, pushes, input_precision="ieee", out_dtype=moved.dtype)
    return moved


@tuned([{"num_warps": 8}, {"num_warps": 4}, {"num_warps": 16}], key=["TWO_SIDED", "WEIGHTED"])
@triton.jit(do_not_specialize=["diagonal", "first", "bound"])
def _round_diagonal(
    w_ptr, step_ptr, upper_ptr, lower_ptr, slope_ptr, rate_ptr, error_ptr, push_ptr, code_ptr,
    rows, cols, diagonal, first, bound,
    TWO_SIDED: tl.constexpr, WEIGHTED: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """One tile: what earlier tiles push onto it, then its own weights. TWO_SIDED is 0 or 1."""
    row_tile = first + tl.program_id(0)
    col_tile = diagonal - row_tile * TWO_SIDED
    batch = tl.program_id(1).to(tl.int64)
    weights = batch * rows * cols
    upper_ptr += batch * cols * cols
    lower_ptr += batch * rows * rows  # not read unless TWO_SIDED; so the next two, unless WEIGHTED
    slope_ptr += batch * rows
    rate_ptr += batch * cols
    row = row_tile * ROWS + tl.arange(0, ROWS)
    col = col_tile * COLS + tl.arange(0, COLS)
    w = _tile(w_ptr + weights, row, col, rows, cols, cols)
    w = _pushed_from_left(
        w, error_ptr + weights, upper_ptr, row, col, rows, cols, col_tile, COLS
    )  # fmt: skip
    moved = tl.zeros((ROWS, COLS), dtype=w.dtype)
    if TWO_SIDED:
        moved = _pushed_from_above(
            moved, push_ptr + weights, lower_ptr, row, col, rows, cols, row_tile, ROWS
        )  # fmt: skip
    _round_tile(
        w, moved, step_ptr + weights, upper_ptr, lower_ptr, slope_ptr, rate_ptr, error_ptr + weights,
        push_ptr + weights, code_ptr + weights, rows, cols, row_tile * ROWS, col_tile * COLS,
        bound.to(w.dtype), TWO_SIDED, WEIGHTED, ROWS, COLS,
    )  # fmt: skip


@triton.jit
def _round_tile(
    w, moved, step_ptr, upper_ptr, lower_ptr, slope_ptr, rate_ptr, error_ptr, push_ptr, code_ptr,
    rows, cols, row_start, col_start, bound,
    TWO_SIDED: tl.constexpr, WEIGHTED: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Round a tile, one weight a row and step. Stores codes, errors and what they push down.

    `w` is what rows have left to round, `moved` what rows above take off that to give targets.
    """
    r, c = tl.arange(0, ROWS), tl.arange(0, COLS)
    row, col = row_start + r, col_start + c
    slope = 0.0
    if WEIGHTED:
        slope = tl.load(slope_ptr + row, mask=row < rows, other=0.0)
    steps = tl.minimum(cols - col_start, COLS)
    if TWO_SIDED:
        steps += tl.minimum(rows - row_start, ROWS) - 1
        row_diagonal = tl.load(lower_ptr + row * (rows + 1), mask=row < rows, other=1.0).to(w.dtype)
    for t in range(0, steps):
        # At step t row r rounds column `at[r]`; below, one weight a row, or a row's weight a column.
        at = t - r * TWO_SIDED
        place = col_start + at
        live = (at >= 0) & (at < COLS) & (row < rows) & (place < cols)
        now = (c[None, :] == at[:, None]) & live[:, None]
        step = tl.load(step_ptr + row * cols + place, mask=live, other=1.0)
        col_diagonal = tl.load(upper_ptr + place * (cols + 1), mask=live, other=1.0).to(w.dtype)
        rate = 0.0
        if WEIGHTED:
            rate = tl.load(rate_ptr + place, mask=live, other=0.0)
        value = tl.sum(tl.where(now, w, 0.0), axis=1)
        target = value
        if TWO_SIDED:
            target -= tl.sum(tl.where(now, moved, 0.0), axis=1)
        q = _round_to_codes(target / step, bound, slope, rate, WEIGHTED)
        error = tl.where(live, (value - q * step) / col_diagonal, 0.0)
        tl.store(code_ptr + row * cols + place, q.to(tl.int32), mask=live)
        tl.store(error_ptr + row * cols + place, error, mask=live)
        later = live[:, None] & (col[None, :] < cols)
        onto = tl.load(upper_ptr + place[:, None] * cols + col[None, :], mask=later, other=0.0)
        w -= error[:, None] * onto.to(w.dtype)
        if TWO_SIDED:
            push = tl.where(live, (target - q * step) / row_diagonal, 0.0)
            tl.store(push_ptr + row * cols + place, push, mask=live)
            of_col = tl.sum(tl.where(now, push[:, None], 0.0), axis=0)
            source = row_start + t - c  # the row that rounds in each column
            below = (t >= c) & (t - c < ROWS) & (source < rows)
            below = below[None, :] & (row[:, None] < rows)
            onto = tl.load(lower_ptr + row[:, None] * rows + source[None, :], mask=below, other=0.0)
            moved += of_col[None, :] * onto.to(w.dtype)


def round_tiles(
    w: torch.Tensor,
    steps: torch.Tensor,
    upper: torch.Tensor,
    limit: int | None,
    row_upper: torch.Tensor | None,
    slope: torch.Tensor | None,
    col_rate: torch.Tensor | None,
) -> torch.Tensor:
    """Codes (B, rows, cols) int32; arguments as `feedback.round_plain`'s."""
    batch, rows, cols = w.shape
    codes = torch.empty((batch, rows, cols), dtype=torch.int32, device=w.device)
    if not codes.numel():
        return codes
    two_sided, weighted = row_upper is not None, slope is not None
    # Places within one matrix are int32 in the kernel.
    assert max(rows * cols, cols * cols, rows * rows * two_sided) < 1 << 31
    w, steps, upper = w.contiguous(), steps.contiguous(), upper.contiguous()
    errors = torch.empty_like(w)
    pushes = torch.empty_like(w) if two_sided else errors
    # Transposed, the factor's look-ups within a step lie side by side.
    lower = upper if row_upper is None else row_upper.mT.contiguous()
    rate = w if col_rate is None else HALF_LOG2_E * col_rate.contiguous()
    slopes = w if slope is None else slope.contiguous()
    row_tiles, col_tiles = triton.cdiv(rows, TILE), triton.cdiv(cols, TILE)
    for diagonal in range(row_tiles + col_tiles - 1 if two_sided else col_tiles):
        first = max(0, diagonal - col_tiles + 1) if two_sided else 0
        end = min(row_tiles, diagonal + 1) if two_sided else row_tiles
        _round_diagonal[(end - first, batch)](
            w, steps, upper, lower, slopes, rate, errors, pushes, codes,
            rows, cols, diagonal, first, int(largest_code(limit, single=w.dtype == torch.float32)),
            TWO_SIDED=int(two_sided), WEIGHTED=weighted, ROWS=TILE, COLS=TILE,
        )  # fmt: skip
    return codes
