"""Codes with row and column steps straight to the type a network computes in."""

import torch

from golfpack.kernels.select import use_kernels


def dequantize(
    codes: torch.Tensor,
    row_step: torch.Tensor,
    col_step: torch.Tensor | None = None,
    *,
    group: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    kernel: bool | None = None,
) -> torch.Tensor:
    """(rows, cols) weights: the float32 bits of `QTensor.dequantize` before its correction, as `dtype`.

    Products are rounded one by one, columns first; other types are rounded from that to nearest even.

    Args:
        codes: (rows, cols) int8, int16 or int32.
        row_step: (rows,) float32, or (rows, groups) under `group`.
        col_step: (cols,) float32, or None.
        group: consecutive columns that share a step within a row; None for whole rows.
        dtype: float32, bfloat16 or float16.
        kernel: Triton's kernel or the plain twin; None: the kernel where it can run.
    """
    if use_kernels(codes.device) if kernel is None else kernel:
        from golfpack.kernels.dequantize_triton import dequantize_tiles

        return dequantize_tiles(codes, row_step, col_step, group, dtype)
    return dequantize_plain(codes, row_step, col_step, group, dtype)


def dequantize_plain(
    codes: torch.Tensor,
    row_step: torch.Tensor,
    col_step: torch.Tensor | None,
    group: int | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The twin."""
    w = codes.to(torch.float32)
    if col_step is not None:
        w *= col_step
    if group is None:
        w *= row_step[:, None]
    else:
        w *= row_step.repeat_interleave(group, dim=1)[:, : codes.shape[1]]
    return w.to(dtype)
