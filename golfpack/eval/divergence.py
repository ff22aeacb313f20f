"""How far one model's predictions are from another's: KL divergence, and how much worse they are."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from golfpack.base.parallel import map_ordered
from golfpack.models.device import exact_products, send

# Tokens per forward pass on a device: their logits are there twice, in float64.
DEVICE_TOKENS = 4096

Progress = Callable[[int, int, str], None]


def mean_kl(
    reference: nn.Module,
    other: nn.Module,
    sequences: np.ndarray,
    threads: int,
    progress: Progress | None = None,
) -> float:
    """Mean over all positions of KL(reference || other), nats per token; arguments as `text_losses`."""
    found = text_losses(reference, other, sequences, threads, progress)
    return float(found[:, 0].sum()) / sequences.size


def text_losses(
    reference: nn.Module,
    other: nn.Module,
    sequences: np.ndarray,
    threads: int,
    progress: Progress | None = None,
) -> np.ndarray:
    """What `other` loses on every sequence of a text, summed over positions in float64.

    Args:
        reference, other: tokens (B, T) -> logits (B, T, V), float32 on CPU.
        sequences: (n, T) integers.
        threads: sequences in flight; changes nothing but the time.
        progress: called after each sequence with (done, total, the KL so far).

    Returns:
        (n, 2): nats of KL(reference || other) over all T positions, and by how many nats the cross
        entropy of the T - 1 tokens behind the first rises.
    """

    def one(row: np.ndarray) -> np.ndarray:
        torch.set_num_threads(1)
        with torch.no_grad():
            return _losses(reference, other, torch.from_numpy(row.astype(np.int64))[None])

    before, total, found = torch.get_num_threads(), 0.0, []
    try:
        for done, losses in enumerate(map_ordered(one, list(sequences), threads), 1):
            found.append(losses)
            total += losses[0, 0]
            if progress is not None:
                so_far = total / (done * sequences.shape[1])
                progress(done, len(sequences), f"{so_far:.5f} nats per token")
    finally:
        torch.set_num_threads(before)
    return np.concatenate(found)


def text_losses_on(
    device: str, reference: nn.Module, other: nn.Module, sequences: np.ndarray
) -> np.ndarray:
    """The same with both models on `device`, many sequences at a time."""
    reference, other = reference.to(device), other.to(device)
    rows = torch.from_numpy(sequences.astype(np.int64))
    with exact_products(), torch.no_grad():
        found = [
            _losses(reference, other, send(part, device))
            for part in rows.split(max(1, DEVICE_TOKENS // sequences.shape[1]))
        ]
    return np.concatenate(found)


def _losses(reference: nn.Module, other: nn.Module, tokens: torch.Tensor) -> np.ndarray:
    p = reference(tokens).double().log_softmax(-1)
    q = other(tokens).double().log_softmax(-1)
    less = p - q
    kl = (p.exp() * less).sum((1, 2))
    rise = less[:, :-1].gather(-1, tokens[:, 1:, None]).sum((1, 2))
    return torch.stack([kl, rise], 1).cpu().numpy()
