"""Device dequantization has the bits of `QTensor.dequantize`."""

import numpy as np
import pytest
import torch

from golfpack.kernels.dequantize import dequantize
from golfpack.packer.format.steps import (
    StepField,
    col_logs,
    f16_steps,
    log_steps,
)
from golfpack.packer.format.tensors import QTensor

RNG = np.random.default_rng(0)


def fields(rows: int, cols: int) -> list[StepField]:
    row, col = np.exp(RNG.standard_normal(rows)), np.exp(RNG.standard_normal(cols))
    grouped = np.exp(RNG.standard_normal((rows, -(-cols // 5))))
    plain = f16_steps(row)
    return [
        log_steps(row, col),
        plain,
        type(plain)(plain.row_f16, None, col_logs(col)),
        f16_steps(grouped, 5),
    ]


def on_device(codes: np.ndarray, steps: StepField, kernel: bool, dtype: torch.dtype, stored: str):
    return dequantize(
        torch.from_numpy(codes.astype(stored)),
        torch.from_numpy(steps.row),
        None if steps.col is None else torch.from_numpy(steps.col),
        group=steps.group,
        dtype=dtype,
        kernel=kernel,
    )


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 300), (9, 1), (11, 263), (0, 4), (4, 0)])
@pytest.mark.parametrize(("stored", "top"), [("int8", 2**7), ("int16", 2**15), ("int32", 2**31)])
def test_bits_are_those_of_the_cpu(kernel, rows, cols, stored, top):
    codes = RNG.integers(-top, top, (rows, cols)).astype(np.int32)
    for steps in fields(rows, cols):
        expected = torch.from_numpy(QTensor(codes, steps).dequantize())
        assert torch.equal(on_device(codes, steps, kernel, torch.float32, stored), expected)
        half = on_device(codes, steps, kernel, torch.bfloat16, stored)
        if kernel:  # the interpreter cuts bfloat16 off where a GPU rounds to nearest even
            expected = (expected.view(torch.int32) >> 16 << 16).view(torch.float32)
        assert torch.equal(half, expected.to(torch.bfloat16))
