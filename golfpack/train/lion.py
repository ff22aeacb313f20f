"""The Lion optimiser: the sign of an interpolated momentum, one state per weight.

Source: Chen et al. 2023, arXiv 2302.06675, algorithm 2.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class Lion(Optimizer):
    """u = sign(b1 m + (1 - b1) g); w <- (1 - rate * decay) w - rate u; m <- b2 m + (1 - b2) g.

    The momentum moves once a step, after its use, and has the weights' type. (Programs v27 to v29 of
    the decoupled-bottleneck runs move it twice, by b1 and by b2, which is another optimiser.)
    """

    def __init__(self, params: Iterable[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(params, {"betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step on the gradients present; it takes no closure, unlike torch's own optimisers."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)

    def _update(self, p: torch.Tensor, grad: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        momentum, (beta1, beta2) = state["momentum"], group["betas"]
        p.mul_(1.0 - group["lr"] * group["weight_decay"])
        p.sub_(momentum.lerp(grad, 1.0 - beta1).sign_(), alpha=group["lr"])
        momentum.lerp_(grad, 1.0 - beta2)
