"""Averages of the weights over a run: exponential (EMA), or equal from some point on (SWA)."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from golfpack.train.config import TrainConfig


class Average:
    """Weights averaged in float32, whatever the model's own type.

    Attributes:
        module: a copy of the model with the averaged weights, in eval mode.
        count: weights that went into it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.module = copy.deepcopy(model).float().eval().requires_grad_(False)
        self.count = 0

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float | None) -> None:
        """Take in the model's weights: by 1 - decay, or equally where that is None."""
        share = 1.0 / (self.count + 1) if decay is None or self.count == 0 else 1.0 - decay
        new = dict(model.named_parameters())
        for name, averaged in self.module.named_parameters():
            averaged.lerp_(new[name].float(), share)
        self.count += 1

    def state(self) -> dict[str, Any]:
        weights = {name: p.detach() for name, p in self.module.named_parameters()}
        return {"weights": weights, "count": self.count}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        for name, averaged in self.module.named_parameters():
            averaged.copy_(state["weights"][name])
        self.count = state["count"]


def is_averaged(config: TrainConfig, step: int, used: float) -> bool:
    """Whether the weights after `step` steps, with `used` of the budget spent, go into the average."""
    if config.ema_decay is not None:
        return True
    last = used >= 1.0
    return config.swa_start is not None and (
        last or (used >= config.swa_start and step % config.swa_every == 0)
    )
