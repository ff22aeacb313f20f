"""The Muon optimiser, in a precision that the device is fast at.

torch has a Muon, but it multiplies in bfloat16 everywhere. Most CPUs lack such instructions, and
there it would take most of the training time.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from golfpack.models.ranks import ALONE, Group

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

    Args:
        ranks: processes with the same parameters and gradients, of which each orthogonalises a part of
            the matrices for all. What comes out is the same as alone: others add zeros to it.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        momentum: float,
        weight_decay: float = 0.0,
        ranks: Group = ALONE,
    ) -> None:
        self.ranks = ranks
        super().__init__(params, {"momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step on the gradients present; it takes no closure, unlike torch's own optimisers."""
        for group in self.param_groups:
            moved = [self._moved(p, group["momentum"]) for p in group["params"]]
            for p, direction in zip(group["params"], self._directions(moved), strict=True):
                p.mul_(1.0 - group["lr"] * group["weight_decay"])
                scale = math.sqrt(max(1.0, p.shape[0] / p.shape[1]))
                p.sub_(direction, alpha=group["lr"] * scale)

    def _moved(self, p: torch.Tensor, momentum: float) -> torch.Tensor:
        """The Nesterov step of a matrix, before it is orthogonalised."""
        assert p.grad is not None  # every matrix of a model takes part in its loss
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        velocity = state["momentum"].lerp_(p.grad, 1.0 - momentum)
        return p.grad.lerp(velocity, momentum)

    def _directions(self, moved: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Each matrix orthogonalised, one at a time where nobody helps."""
        if self.ranks.size == 1:
            yield from map(orthogonalise, moved)
            return
        owners = shared_out([tuple(m.shape) for m in moved], self.ranks.size)
        found = [
            orthogonalise(m) if owner == self.ranks.rank else torch.zeros_like(m)
            for m, owner in zip(moved, owners, strict=True)
        ]
        whole = self.ranks.sum_tensor(torch.cat([d.flatten() for d in found]))
        parts = whole.split([m.numel() for m in moved])
        yield from (part.view_as(m) for part, m in zip(parts, moved, strict=True))


def shared_out(shapes: Sequence[tuple[int, ...]], ranks: int) -> list[int]:
    """Which rank orthogonalises each matrix: the dearest first, to whoever has least to do."""
    cost = [math.prod(shape) * min(shape) for shape in shapes]
    load, owners = [0] * ranks, [0] * len(shapes)
    for index in sorted(range(len(shapes)), key=lambda i: (-cost[i], i)):
        owners[index] = load.index(min(load))
        load[owners[index]] += cost[index]
    return owners
