"""Rounding with error feedback for a batch of matrices of one shape, on any device.

The algorithm is `packer.quantize.gptq.round_feedback`'s (GPTQ: Frantar et al., arXiv 2210.17323;
two-sided: a Babai pass along rows within each column). `round_plain` is the straightforward twin, a
few operations of torch a column; `gptq_triton` does the same in one launch per diagonal of tiles.

Both work in the type of `w`. In float64 they give numba's codes: only where a target lies within
rounding error (1e-12 steps) of halfway between two codes may one fall the other way, and later codes
of its row, in two-sided feedback of any row, may follow it. In float32 such ties are 1e-5 steps wide;
the weighted error of the whole matrix stays the same within 1e-4 (docs/kernels.md).
"""

import torch

from golfpack.kernels.rounding import BLOCK, HALF_LOG2_E, largest_code
from golfpack.kernels.select import use_kernels


def round_feedback_batch(
    w: torch.Tensor,
    row_step: torch.Tensor,
    col_step: torch.Tensor | None,
    upper: torch.Tensor,
    limit: int | None = None,
    row_upper: torch.Tensor | None = None,
    rate_weight: float = 0.0,
    row_rate: torch.Tensor | None = None,
    col_rate: torch.Tensor | None = None,
    *,
    group_of: torch.Tensor | None = None,
    kernel: bool | None = None,
) -> torch.Tensor:
    """Codes (B, rows, cols) int32 of `w` with error feedback, columns from first to last.

    Everything is in rounding order and on one device; factors may be float32 under a float64 `w`.

    Args:
        w: (B, rows, cols) float32 or float64, the type the feedback is worked out in. H100 and A100 do
            float64 at half the rate of float32: take it there, for the codes of the CPU.
        row_step: (B, rows), or (B, rows, groups) with `group_of`.
        col_step: (B, cols), or None for ones.
        upper: (B, cols, cols) U of each H^-1 = U^T U.
        limit: clamps codes to [-limit, limit].
        row_upper: (B, rows, rows), the same of the output gradients' covariance, for two-sided feedback.
        rate_weight: lambda of rate-distortion rounding; 0 rounds to nearest.
        row_rate: (B, rows), with `col_rate` (B, cols) the precisions whose products are about
            1 / variance of each code; needed with a rate_weight.
        col_rate: see `row_rate`.
        group_of: (cols,) int64, the group of each column.
        kernel: Triton's kernel or the plain twin; None: the kernel where it can run.
    """
    batch, rows, cols = w.shape
    steps = row_step[:, :, None] if group_of is None else row_step[:, :, group_of]
    steps = steps.to(w.dtype)
    if col_step is not None:
        steps = steps * col_step.to(w.dtype)[:, None, :]
    steps = steps.expand(batch, rows, cols)
    slope = None
    if rate_weight > 0:
        assert row_rate is not None
        assert col_rate is not None
        slope, col_rate = rate_weight * row_rate.to(w.dtype), col_rate.to(w.dtype)
    if use_kernels(w.device) if kernel is None else kernel:
        from golfpack.kernels.gptq_triton import round_tiles

        return round_tiles(w, steps, upper, limit, row_upper, slope, col_rate)
    return round_plain(w, steps, upper, limit, row_upper, slope, col_rate)


def round_plain(
    w: torch.Tensor,
    steps: torch.Tensor,
    upper: torch.Tensor,
    limit: int | None,
    row_upper: torch.Tensor | None,
    slope: torch.Tensor | None,
    col_rate: torch.Tensor | None,
) -> torch.Tensor:
    """The twin: column after column; two-sided, within a column row after row.

    Args:
        w: (B, rows, cols).
        steps: (B, rows, cols), of every weight.
        upper: (B, cols, cols).
        limit: or None.
        row_upper: (B, rows, rows), or None.
        slope: (B, rows), rate_weight times row_rate, or None to round to nearest.
        col_rate: (B, cols), with `slope`.
    """
    batch, rows, cols = w.shape
    work, upper = w.clone(), upper.to(w.dtype)
    lower = None if row_upper is None else row_upper.to(w.dtype)
    codes = torch.empty((batch, rows, cols), dtype=torch.int32, device=w.device)
    for start in range(0, cols, BLOCK):
        end = min(start + BLOCK, cols)
        errors = torch.empty((batch, rows, end - start), dtype=w.dtype, device=w.device)
        for i in range(start, end):
            step = steps[:, :, i]
            rate = None if col_rate is None else col_rate[:, i, None]
            if lower is None:
                q = _round(work[:, :, i] / step, limit, slope, rate)
            else:
                q = _down_the_rows(work[:, :, i], step, lower, limit, slope, rate)
            codes[:, :, i] = q.to(torch.int32)
            error = (work[:, :, i] - q * step) / upper[:, i, i, None]
            errors[:, :, i - start] = error
            work[:, :, i + 1 : end] -= error[:, :, None] * upper[:, None, i, i + 1 : end]
        work[:, :, end:] -= errors @ upper[:, start:end, end:]
    return codes


def _down_the_rows(
    column: torch.Tensor,
    step: torch.Tensor,
    row_upper: torch.Tensor,
    limit: int | None,
    slope: torch.Tensor | None,
    rate: torch.Tensor | None,
) -> torch.Tensor:
    """Codes of one column (B, rows), each row's rounding error moving the targets below it."""
    target, q = column.clone(), torch.empty_like(column)
    for r in range(column.shape[1]):
        row_slope = None if slope is None else slope[:, r, None]
        one = _round(target[:, r, None] / step[:, r, None], limit, row_slope, rate)[:, 0]
        q[:, r] = one
        push = (target[:, r] - one * step[:, r]) / row_upper[:, r, r]
        target[:, r + 1 :] -= push[:, None] * row_upper[:, r, r + 1 :]
    return q


def _round(
    x: torch.Tensor, limit: int | None, slope: torch.Tensor | None, rate: torch.Tensor | None
) -> torch.Tensor:
    """Nearest code of targets `x` in steps; with a slope, the smaller neighbour while it is worth it."""
    q = x.round()
    if slope is not None:
        assert rate is not None
        size = x.abs()
        low = size.floor()
        margin = 0.5 + slope * (HALF_LOG2_E * (2.0 * low + 1.0) * rate)
        smaller = (slope > 0) & (size - low <= margin)
        q = torch.where(smaller, torch.where(x > 0, low, -low), q)
    bound = largest_code(limit, single=x.dtype == torch.float32)
    return q.clamp(-bound, bound)
