"""The Muon optimiser, in a precision that the device is fast at.

torch has a Muon, but it multiplies in bfloat16 everywhere. Most CPUs lack such instructions, and
there it would take most of the training time.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

NEWTON_SCHULZ_STEPS = 5
# Steepest at 0 among the odd quintics whose iterates stay near 1; see `orthogonalise`.
QUINTIC = (3.4445, -4.7750, 2.0315)
EPSILON = 1e-7


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """U V^T of the singular value decomposition U S V^T of `matrix` (out, in), roughly and fast.

    Five Newton-Schulz iterations bring all but the smallest singular values to between 0.7 and 1.2.
    In bfloat16 on CUDA, in float32 elsewhere. Source: Jordan et al. 2024, "Muon: an optimizer for
    hidden layers in neural networks".
    """
    a, b, c = QUINTIC
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = wide / wide.norm().clamp(min=EPSILON)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return (wide if x.shape[0] <= x.shape[1] else wide.T).to(matrix.dtype)


class Muon(Optimizer):
    """Orthogonalised Nesterov momentum for matrices (out, in).

    The rate is scaled by sqrt(max(1, out / in)), and weight decay is decoupled: equal to
    `torch.optim.Muon(adjust_lr_fn="original")` but for the precision of `orthogonalise`.
    """

    def __init__(
        self, params: Iterable[dict[str, Any]], momentum: float, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step on the gradients present; it takes no closure, unlike torch's own optimisers."""
        for group in self.param_groups:
            for p in group["params"]:
                self._update(p, group)

    def _update(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        assert p.grad is not None  # every matrix of a model takes part in its loss
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        velocity = state["momentum"].lerp_(p.grad, 1.0 - group["momentum"])
        direction = orthogonalise(p.grad.lerp(velocity, group["momentum"]))
        p.mul_(1.0 - group["lr"] * group["weight_decay"])
        p.sub_(direction, alpha=group["lr"] * math.sqrt(max(1.0, p.shape[0] / p.shape[1])))
