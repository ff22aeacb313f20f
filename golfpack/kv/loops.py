"""Reading quantized blocks in one compiled pass: the same products as `blocks.decode`, bit for bit."""

import numpy as np
import torch
from numba import njit

from golfpack.kv.blocks import pair_levels

_TABLES = {kind: pair_levels(kind).numpy() for kind in ("q4_0", "nf4")}


def read(kind: str, codes: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
    """Write the rows behind codes and scales (B, L, ...) into out (B, L, dim) float32, on the CPU."""
    arrays = codes.numpy(), scales.float().numpy(), out.numpy()
    if kind == "q8_0":
        _bytes(*arrays)
    else:
        _pairs(*arrays, _TABLES[kind])


@njit(cache=True)
def _bytes(codes: np.ndarray, scales: np.ndarray, out: np.ndarray) -> None:
    """One value a byte."""
    batch, length, dim = out.shape
    blocks = scales.shape[2]
    block = codes.shape[2] // blocks
    for b in range(batch):
        for r in range(length):
            for j in range(blocks):
                scale = scales[b, r, j]
                for c in range(j * block, min(dim, (j + 1) * block)):
                    out[b, r, c] = np.float32(codes[b, r, c]) * scale


@njit(cache=True)
def _pairs(codes: np.ndarray, scales: np.ndarray, out: np.ndarray, levels: np.ndarray) -> None:
    """Two values a byte."""
    batch, length, dim = out.shape
    blocks = scales.shape[2]
    block = 2 * codes.shape[2] // blocks
    for b in range(batch):
        for r in range(length):
            for j in range(blocks):
                scale = scales[b, r, j]
                for c in range(j * block, min(dim, (j + 1) * block), 2):
                    byte = codes[b, r, c // 2]
                    out[b, r, c] = levels[byte, 0] * scale
                    if c + 1 < dim:
                        out[b, r, c + 1] = levels[byte, 1] * scale
