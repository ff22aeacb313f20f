"""Quantized matrices whose codes are trained: a real number beside every code."""

from dataclasses import dataclass, replace

import numpy as np
import torch

# A latent starts at its float weight, but no further from its code than this, so that the first
# forward pass is the rounding it starts from.
HEADROOM = 0.45
RAREST = 1 / 64  # mean of codes: what is rarer costs as much
TINY = 1e-30  # in place of 0 below a fraction


@dataclass(frozen=True, eq=False)
class Latent:
    """A quantized matrix while its codes are trained.

    Attributes:
        z: float32 (rows, cols), in steps; its code is the nearest integer.
        step: float32 (rows, cols), what one code is worth.
        offset: float32 (rows, cols), what is added to the product (a low-rank correction), or None.
        limit: largest |code|, or None.
        shape: the tensor's own.
        rounded: whether the network runs with codes, or with `z` as it is.
    """

    z: torch.Tensor
    step: torch.Tensor
    offset: torch.Tensor | None
    limit: int | None
    shape: tuple[int, ...]
    rounded: bool = True

    def weight(self) -> torch.Tensor:
        """The weights that the network runs with, in the tensor's own shape."""
        w = (torch.round(self.z) if self.rounded else self.z) * self.step
        return (w if self.offset is None else w + self.offset).reshape(self.shape)

    def on(self, device: str) -> "Latent":
        """The same on a device; `z` is a copy."""
        offset = None if self.offset is None else self.offset.to(device)
        return replace(
            self, z=self.z.to(device, copy=True), step=self.step.to(device), offset=offset
        )

    def move(self, change: torch.Tensor) -> None:
        """Add to `z` in place, within the limit."""
        self.z.add_(change)
        if self.limit is not None:
            self.z.clamp_(-self.limit, self.limit)

    def bit_slopes(self) -> torch.Tensor:
        """(rows, cols) bits that one step away from 0 adds.

        Of a magnitude that is geometrically distributed (a two-sided geometric code, as of a Laplace
        variable) about its mean, and that is separable by rows and columns, as the coder's scales are.
        """
        size = torch.round(self.z).abs_()
        rows, cols = size.mean(1, keepdim=True), size.mean(0, keepdim=True)
        mean = rows * cols / size.mean().clamp(min=TINY)
        return torch.log2(1 + 1 / mean.clamp(min=RAREST))

    def onto(self, other: "Latent") -> "Latent":
        """The same weights, before rounding, on the steps and with the offset of `other`."""
        z = self.z * self.step
        z = z if self.offset is None else z + self.offset
        z = (z if other.offset is None else z - other.offset).div_(other.step)
        return replace(other, z=z if other.limit is None else z.clamp_(-other.limit, other.limit))


def latent(
    w: np.ndarray, codes: np.ndarray, step: np.ndarray, limit: int | None, shape: tuple[int, ...],
    offset: np.ndarray | None = None,
) -> Latent:  # fmt: skip
    """The latent of one matrix: `w` its float weights, all arrays (rows, cols)."""
    start = w if offset is None else w - offset
    away = np.clip(start / step - codes, -HEADROOM, HEADROOM)
    z, steps = (torch.from_numpy(x.astype(np.float32)) for x in (codes + away, step))
    kept = None if offset is None else torch.from_numpy(offset.astype(np.float32))
    return Latent(z, steps, kept, limit, shape)
