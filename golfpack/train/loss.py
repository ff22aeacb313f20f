"""Cross-entropy of training batches and of held-out tokens."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from golfpack.models.device import send

# F.cross_entropy's own; no token has it.
NO_TARGET = -100


def sequence_loss(
    model: nn.Module,
    batch: np.ndarray,
    reduction: str,
    *,
    precision: str = "auto",
    smoothing: float = 0.0,
    ignore_id: int | None = None,
) -> torch.Tensor:
    """Cross-entropy of a batch (B, T + 1), in float32; "mean" or "sum" over its targets.

    Args:
        precision: of the products: bfloat16, float32, or auto (bfloat16 on CUDA).
        smoothing: share of a target's probability that all tokens share.
        ignore_id: the token that is no target, if there is one.
    """
    device = next(model.parameters()).device
    rows = send(torch.from_numpy(batch), device)
    with lowered(precision, device):
        logits = model(rows[:, :-1])
    targets = rows[:, 1:].flatten()
    return F.cross_entropy(
        logits.float().flatten(0, 1), targets, reduction=reduction, label_smoothing=smoothing,
        ignore_index=NO_TARGET if ignore_id is None else ignore_id,
    )  # fmt: skip


def lowered(precision: str, device: torch.device) -> torch.autocast:
    """Products in bfloat16 where `precision` asks for it: "auto" does on CUDA."""
    lower = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=lower)


def targets_in(batch: np.ndarray, ignore_id: int | None) -> int:
    """Targets of a batch (B, T + 1)."""
    targets = batch[:, 1:]
    return targets.size if ignore_id is None else int((targets != ignore_id).sum())


@torch.no_grad()
def validation_loss(
    model: nn.Module,
    tokens: np.ndarray,
    seq_len: int,
    batch_size: int,
    *,
    batches: int | None = None,
    precision: str = "auto",
    ignore_id: int | None = None,
) -> float:
    """Mean cross-entropy over `tokens` in sequences side by side: nats per token, float64 sums.

    A monitor of training: it drops the last, incomplete sequence. Scoring is `golfpack.eval`.

    Args:
        batches: how many batches to look at, spread evenly; None for all.
    """
    count = (tokens.size - 1) // seq_len
    firsts = range(0, count, batch_size)
    if batches is not None and batches < len(firsts):
        firsts = [firsts[i * len(firsts) // batches] for i in range(batches)]
    window = np.arange(seq_len + 1)
    total = torch.zeros((), dtype=torch.float64, device=next(model.parameters()).device)
    targets = 0
    with evaluating(model):
        for first in firsts:
            starts = seq_len * np.arange(first, min(first + batch_size, count))
            rows = tokens[starts[:, None] + window].astype(np.int64)
            total += sequence_loss(model, rows, "sum", precision=precision, ignore_id=ignore_id)
            targets += targets_in(rows, ignore_id)
    return total.item() / max(targets, 1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model without dropout, then again as it was."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)
