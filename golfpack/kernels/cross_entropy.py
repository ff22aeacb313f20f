"""Cross entropy of a (tied) head whose logits are capped, without the logits of all tokens at once.

Plain torch, chunk by chunk of tokens. torch's own `linear_cross_entropy` and Liger's fused one have no
cap of the records' polynomial kind. At 1,024 tokens a chunk of 8,192 float32 logits takes 32 MiB, which
an H100's second-level cache holds, so a fused kernel has little left to save; it was not measured.
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CHUNK = 1024

Cap = Callable[[torch.Tensor], torch.Tensor]


def head_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    cap: Cap | None = None,
    chunk: int = CHUNK,
) -> torch.Tensor:
    """Negative log-likelihood of every token, (N,) float32 (float64 for a float64 head).

    Differentiable: where gradients are asked for, a chunk's logits are worked out again on the way back.

    Args:
        hidden: (N, D), the head's inputs.
        weight: (V, D).
        targets: (N,) int64.
        cap: what becomes of logits, float32 or wider, element by element; None leaves them.
        chunk: tokens whose logits exist at a time.
    """
    learning = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    parts = []
    for x, y in zip(hidden.split(chunk), targets.split(chunk), strict=True):
        if learning:
            parts.append(checkpoint(_nll, x, weight, y, cap, use_reentrant=False))
        else:
            parts.append(_nll(x, weight, y, cap))
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=_wide(hidden.dtype))


def _nll(
    x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, cap: Cap | None
) -> torch.Tensor:
    z = _logits(x, weight)
    if cap is not None:
        z = cap(z)
    return F.cross_entropy(z, targets, reduction="none")


def _logits(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(tokens, V) in float32 or wider.

    Without gradients, products of bfloat16 on a GPU keep the float32 they were summed in.
    """
    half = x.dtype in (torch.bfloat16, torch.float16)
    if half and x.is_cuda and x.dtype == weight.dtype and not torch.is_grad_enabled():
        return torch.mm(x, weight.t(), out_dtype=torch.float32)
    z = F.linear(x, weight)
    return z.to(_wide(z.dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
