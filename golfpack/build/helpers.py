"""Processes that help one that builds: what it asks of them, and how work is split.

What a build does with tokens is sums over sequences: statistics, losses, gradients. The first process
asks (a word, options, arrays), every process works on its own part, and the sums come back to all. Parts
follow from positions alone, and sums are taken in one order, so that a build by so many processes is the
same every time; another number of them differs by rounding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from golfpack.models.ranks import ALONE, Group

# Name of the tokens among a message's arrays; no parameter has it.
SEQUENCES = "?sequences"


@dataclass(frozen=True, eq=False)
class Helpers:
    """The group of the process that builds; alone, nothing is exchanged."""

    group: Group = ALONE

    def ask(self, task: str, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Have the others begin a task."""
        if self.group.size > 1:
            self.group.tell({"task": task, **options}, arrays)

    def ask_gradients(self, batch: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> None:
        """Have the others work out their parts of an update's gradients."""
        if self.group.size > 1:
            arrays = {name: w.detach().cpu().numpy() for name, w in weights.items()}
            self.ask("gradients", {}, {**arrays, SEQUENCES: batch.numpy()})

    def part(self, batch: torch.Tensor) -> torch.Tensor:
        """This process's sequences of a batch (n, T): none of them, perhaps."""
        return batch[self.group.share(len(batch))]

    def summed(
        self, loss: torch.Tensor, gradients: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The sums of all processes' parts, in one exchange for all gradients."""
        if self.group.size == 1:
            return loss, gradients
        whole = self.group.sum_tensor(torch.cat([g.flatten() for g in gradients.values()]))
        parts = whole.split([g.numel() for g in gradients.values()])
        sums = {n: p.view_as(gradients[n]) for n, p in zip(gradients, parts, strict=True)}
        return self.group.sum_tensor(loss), sums


NO_HELP = Helpers()


def weights_by_name(model: nn.Module) -> dict[str, np.ndarray]:
    """A model's parameters, for a message."""
    return {name: p.detach().cpu().numpy() for name, p in model.named_parameters()}
