"""Decode plans: how the codes of a cache are read. Every plan gives the same bits in its own time."""

from dataclasses import dataclass

import torch

from golfpack.kv.blocks import decode

READERS = ("tables", "loops")


@dataclass(frozen=True)
class Plan:
    """How codes become numbers.

    Attributes:
        reader: tables (a lookup per byte, then a product: torch) or loops (one compiled pass: numba, CPU
            alone).
        positions: read at once, so that what lies between stays in the processor's cache; 0 for all.
    """

    reader: str = "tables"
    positions: int = 0

    @property
    def name(self) -> str:
        """For tables: reader/positions."""
        return f"{self.reader}/{self.positions or 'all'}"


def plans(device: str) -> tuple[Plan, ...]:
    """All that a device has."""
    sizes = (0, 256, 1024)
    readers = READERS if device == "cpu" else READERS[:1]
    return tuple(Plan(reader, size) for reader in readers for size in sizes)


def read_blocks(
    plan: Plan, kind: str, codes: torch.Tensor, scales: torch.Tensor, out: torch.Tensor
) -> None:
    """Write the rows behind codes (B, L, bytes) and scales (B, L, blocks) into out (B, L, dim)."""
    length = codes.shape[1]
    step = plan.positions or max(length, 1)
    for at in range(0, length, step):
        part = slice(at, at + step)
        if plan.reader == "loops" and out.dtype == torch.float32:
            from golfpack.kv.loops import read  # numba takes its time to import

            read(kind, codes[:, part], scales[:, part], out[:, part])
        else:
            out[:, part] = decode(kind, codes[:, part], scales[:, part], out.shape[-1])
