"""Dequantization as one Triton kernel: each code is read once, each weight written once.

Bound by memory: at bfloat16 3 bytes a weight from int8 codes, so 36 M weights are 0.11 GB, which an
H100's 3.35 TB/s move in some 35 us. A program takes some rows of one block of columns.
"""

import torch
import triton
import triton.language as tl

from golfpack.kernels.tuning import tuned


@tuned(
    [
        {"ROWS": 8, "COLS": 256, "num_warps": 4},
        {"ROWS": 16, "COLS": 256, "num_warps": 8},
        {"ROWS": 4, "COLS": 1024, "num_warps": 8},
    ],
    key=["HAS_COL", "GROUPED"],
)
@triton.jit
def _dequantize(
    code_ptr, row_ptr, col_ptr, out_ptr, rows, cols, group, groups,
    HAS_COL: tl.constexpr, GROUPED: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    # Rows on the first axis of the grid, which may have more than 65,535 programs.
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = (row[:, None] < rows) & (col[None, :] < cols)
    place = row[:, None] * cols + col[None, :]
    w = tl.load(code_ptr + place, mask=inside, other=0).to(tl.float32)
    if HAS_COL:
        w *= tl.load(col_ptr + col, mask=col < cols, other=0.0)[None, :]
    if GROUPED:
        at = row[:, None] * groups + (col // group)[None, :]
        w *= tl.load(row_ptr + at, mask=inside, other=0.0)
    else:
        w *= tl.load(row_ptr + row, mask=row < rows, other=0.0)[:, None]
    tl.store(out_ptr + place, w.to(out_ptr.dtype.element_ty), mask=inside)


def dequantize_tiles(
    codes: torch.Tensor,
    row_step: torch.Tensor,
    col_step: torch.Tensor | None,
    group: int | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """(rows, cols) of `dtype`; arguments as `dequantize.dequantize`'s."""
    rows, cols = codes.shape
    out = torch.empty((rows, cols), dtype=dtype, device=codes.device)
    if not out.numel():
        return out
    codes, row_step = codes.contiguous(), row_step.contiguous()
    col = row_step if col_step is None else col_step.contiguous()
    groups = 1 if group is None else row_step.shape[1]

    def grid(chosen: dict[str, int]) -> tuple[int, int]:
        return -(-rows // chosen["ROWS"]), -(-cols // chosen["COLS"])

    _dequantize[grid](
        codes, row_step, col, out, rows, cols, group or cols, groups,
        HAS_COL=col_step is not None, GROUPED=group is not None,
    )  # fmt: skip
    return out
