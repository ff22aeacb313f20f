"""AdamW for tables that are looked up: rows that no token finds wait, and are moved when one does.

A step of 2,048 tokens finds a few thousand rows of a table of hashed tokens, and AdamW moves all of
them: at half a million rows that, the gradient's zeros and its norm take a fifth of a small model's step
(docs/LOG.md). But how a row goes on without a gradient is known beforehand, so it can be moved in one go
before it is read again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import AdamW

from golfpack.train.config import TrainConfig

TINY = 1e-30
# Rows of a table for each token of a step: below, waiting saves nothing (docs/LOG.md).
MANY = 64


def may_wait(config: TrainConfig) -> bool:
    """Whether a run's steps read and change no table but by looking up rows and by AdamW.

    On a GPU, whose memory is fast, and in compiled passes rows do not wait. Nor where second moments
    fade faster than first ones: how far a row would go on depends on eps then.
    """
    whole = (
        config.aim_errors, config.aim_rounding, config.aim_trellis, config.rate_decay,
        config.cautious_decay, config.decay_final != 1.0, config.swa_start is not None,
        config.ema_decay is not None,
    )  # fmt: skip
    plain = (config.device, config.param_dtype, config.compile_mode) == ("cpu", "float32", None)
    beta1, beta2 = config.betas
    return plain and not any(whole) and config.optimizer != "lion" and beta1 < beta2


def with_dense_gradient(p: torch.Tensor) -> torch.Tensor:
    """The tensor, or a stand-in whose gradient is the rows of its sparse one, each once, in place."""
    if p.grad is None or not p.grad.is_sparse:
        return p
    p.grad = p.grad.coalesce()
    rows = p.grad.values()
    stand_in = torch.empty_like(rows)
    stand_in.grad = rows
    return stand_in


class _Waiting:
    """What the steps since the last settlement do to rows without a gradient.

    Attributes:
        last: (rows,) int64: the step after which a row is as it should be, counted from there on.
        moves: (steps + 1,) float64, by that step: what the row moves by until now, in units of
            m / (sqrt(v) + eps') of the moments then.
        floors: the same, times eps': to first order in Adam's eps.
        kept: the same: what decay leaves of the row.
    """

    def __init__(self, rows: int) -> None:
        self.last = torch.zeros(rows, dtype=torch.int64)
        self.moves, self.floors, self.kept = np.zeros(1), np.zeros(1), np.ones(1)

    @property
    def steps(self) -> int:
        return len(self.kept) - 1

    def step(self, group: dict[str, Any], taken: int) -> None:
        """The step after `taken` steps, in which all rows wait."""
        (beta1, beta2), rate = group["betas"], group["lr"]
        ages = np.arange(len(self.kept), 0, -1.0)
        bias1, bias2 = 1.0 - beta1 ** (taken + 1), sqrt(1.0 - beta2 ** (taken + 1))
        left = 1.0 - rate * group["weight_decay"]
        size = rate * bias2 / bias1
        moves = size * (beta1 / sqrt(beta2)) ** ages
        floors = size * bias2 * group["eps"] * (beta1 / beta2) ** ages
        self.moves = np.append(left * self.moves + moves, 0.0)
        self.floors = np.append(left * self.floors + floors, 0.0)
        self.kept = np.append(left * self.kept, 1.0)


class DeferredAdamW(AdamW):
    """AdamW in whose steps rows of tables wait until they are looked up.

    Weights and moments are those of AdamW, up to rounding and the square of eps over a gradient's size
    (Loshchilov and Hutter 2019, algorithm 2). Passes that lead to a step go on inside `lookups`; whoever
    else reads a table has `settle` bring its rows to where they belong.

    Args:
        tables: embeddings whose weights, each in one of the groups, are read by looking up rows alone.
    """

    def __init__(
        self, groups: list[dict[str, Any]], tables: Sequence[nn.Embedding], **settings: Any
    ) -> None:
        super().__init__(groups, **settings)
        self.tables = list(tables)
        self.waiting = {t.weight: _Waiting(len(t.weight)) for t in tables}

    @contextmanager
    def lookups(self) -> Iterator[None]:
        """Rows are moved before they are read, and the tables' gradients are of the rows read."""
        hooks = [table.register_forward_pre_hook(self._arrive) for table in self.tables]
        for table in self.tables:
            table.sparse = True
        try:
            yield
        finally:
            for table in self.tables:
                table.sparse = False
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step on the gradients present, those of tables sparse; it takes no closure."""
        gradients = {p: p.grad for p in self.waiting if p.grad is not None}
        for p in gradients:
            p.grad = None
        super().step()
        for p, gradient in gradients.items():
            state = self._moments(p)
            taken = int(state["step"])
            self.waiting[p].step(self._group(p), taken)
            state["step"] += 1.0
            found = gradient.coalesce()
            self._update(p, found.indices()[0], found.values(), taken + 1)

    @torch.no_grad()
    def settle(self) -> None:
        """Move all rows to where they belong after the last step."""
        for p, waiting in self.waiting.items():
            if waiting.steps:
                self._move(p, torch.arange(len(p)))
                self.waiting[p] = _Waiting(len(p))

    def _arrive(self, table: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        weight = table.weight
        assert isinstance(weight, torch.Tensor)
        if self.waiting[weight].steps:
            with torch.no_grad():
                self._move(weight, torch.unique(args[0]))

    def _group(self, p: torch.Tensor) -> dict[str, Any]:
        return next(g for g in self.param_groups if any(p is other for other in g["params"]))

    def _moments(self, p: torch.Tensor) -> dict[str, Any]:
        """AdamW's state of a tensor, as AdamW itself begins it."""
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        return state

    def _move(self, p: torch.Tensor, rows: torch.Tensor) -> None:
        """Bring rows to where they belong after the last step, moments too."""
        waiting, state = self.waiting[p], self.state[p]
        last = waiting.last[rows]
        behind = last < waiting.steps
        rows, last = rows[behind], last[behind]
        tensors = p, state["exp_avg"], state["exp_avg_sq"]
        old, mean, square = (t.index_select(0, rows) for t in tensors)
        moves, floors, kept = (
            torch.from_numpy(known)[last][:, None]
            for known in (waiting.moves, waiting.floors, waiting.kept)
        )
        # A rate of 0 moves nothing, whatever the moments.
        floor = (floors / moves.clamp(min=TINY)).clamp(min=TINY).to(p.dtype)
        move = mean * moves.to(p.dtype) / (square.sqrt() + floor)
        beta1, beta2 = self._group(p)["betas"]
        ages = (waiting.steps - last)[:, None].double()
        new = (
            old.mul_(kept.to(p.dtype)).sub_(move),
            mean.mul_((beta1**ages).to(p.dtype)),
            square.mul_((beta2**ages).to(p.dtype)),
        )
        self._put(p, rows, new)

    def _update(
        self, p: torch.Tensor, rows: torch.Tensor, gradient: torch.Tensor, step: int
    ) -> None:
        """AdamW's step of rows that are where they belonged before it."""
        group, state = self._group(p), self.state[p]
        (beta1, beta2), rate = group["betas"], group["lr"]
        tensors = p, state["exp_avg"], state["exp_avg_sq"]
        old, mean, square = (t.index_select(0, rows) for t in tensors)
        mean.lerp_(gradient, 1.0 - beta1)
        square.lerp_(gradient.square(), 1.0 - beta2)
        size = (square.sqrt() / sqrt(1.0 - beta2**step)).add_(group["eps"])
        old.mul_(1.0 - rate * group["weight_decay"])
        old.addcdiv_(mean, size, value=-rate / (1.0 - beta1**step))
        self._put(p, rows, (old, mean, square))

    def _put(self, p: torch.Tensor, rows: torch.Tensor, new: Sequence[torch.Tensor]) -> None:
        """Weights and moments of rows, which do not wait any more."""
        state = self.state[p]
        for tensor, found in zip((p, state["exp_avg"], state["exp_avg_sq"]), new, strict=True):
            tensor.index_copy_(0, rows, found)
        self.waiting[p].last[rows] = self.waiting[p].steps
