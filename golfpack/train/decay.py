"""Weight decay with a schedule of its own, everywhere or only where the update agrees with it."""

from collections.abc import Sequence

import torch
from torch.optim import Optimizer

from golfpack.train.config import TrainConfig


class Decay:
    """The decay of one step, taken from the optimisers and applied after they have updated.

    Cautious decay shrinks a weight only where the update has made it smaller, so that the two never
    pull against each other (cautious weight decay: Chen et al. 2025, arXiv 2510.12402).
    """

    def __init__(self, optimisers: Sequence[Optimizer], config: TrainConfig, scale: float) -> None:
        self.cautious = config.cautious_decay
        self.work: list[tuple[torch.nn.Parameter, torch.Tensor, float]] = []
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                decay = group.setdefault("peak_decay", group["weight_decay"])
                group["weight_decay"] = 0.0
                share = group["lr"] * decay * scale
                if share:
                    self.work += [(p, p.detach().clone(), share) for p in group["params"]]

    @torch.no_grad()
    def apply(self) -> None:
        """Shrink in place."""
        for p, before, share in self.work:
            if self.cautious:
                before = torch.where((p - before) * before < 0, before, 0.0)
            p.sub_(before, alpha=share)
