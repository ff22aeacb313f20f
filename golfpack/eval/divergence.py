"""How far one model's predictions are from another's: KL divergence per token."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from golfpack.base.parallel import map_ordered
from golfpack.models.device import exact_products, send

# Tokens per forward pass on a device: their logits are there twice, in float64.
DEVICE_TOKENS = 4096


def mean_kl(
    reference: nn.Module,
    other: nn.Module,
    sequences: np.ndarray,
    threads: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> float:
    """Mean over all positions of KL(reference || other), nats per token, summed in float64.

    Args:
        reference, other: tokens (B, T) -> logits (B, T, V), float32 on CPU.
        sequences: (n, T) integers.
        threads: sequences in flight; changes nothing but the time.
        progress: called after each sequence with (done, total, the KL so far).
    """

    def one(row: np.ndarray) -> float:
        torch.set_num_threads(1)
        with torch.no_grad():
            tokens = torch.from_numpy(row.astype(np.int64))[None]
            p = reference(tokens)[0].double().log_softmax(-1)
            q = other(tokens)[0].double().log_softmax(-1)
            return float((p.exp() * (p - q)).sum())

    before, total = torch.get_num_threads(), 0.0
    try:
        for done, kl in enumerate(map_ordered(one, list(sequences), threads), 1):
            total += kl
            if progress is not None:
                so_far = total / (done * sequences.shape[1])
                progress(done, len(sequences), f"{so_far:.5f} nats per token")
    finally:
        torch.set_num_threads(before)
    return total / sequences.size


def mean_kl_on(device: str, reference: nn.Module, other: nn.Module, sequences: np.ndarray) -> float:
    """The same with both models on `device`, many sequences at a time, waiting for it once."""
    reference, other = reference.to(device), other.to(device)
    total = torch.zeros((), dtype=torch.float64, device=device)
    with exact_products(), torch.no_grad():
        for rows in torch.from_numpy(sequences.astype(np.int64)).split(
            max(1, DEVICE_TOKENS // sequences.shape[1])
        ):
            tokens = send(rows, device)
            p = reference(tokens).double().log_softmax(-1)
            q = other(tokens).double().log_softmax(-1)
            total = total + (p.exp() * (p - q)).sum()
    return float(total) / sequences.size
