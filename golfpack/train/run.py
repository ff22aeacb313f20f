"""A training run in memory, and the one step that advances it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from golfpack.errors import UsageError
from golfpack.models.device import send
from golfpack.spec import ModelSpec
from golfpack.train.config import TrainConfig
from golfpack.train.init import initialise
from golfpack.train.log import Stopwatch
from golfpack.train.optim import make_optimisers, scale_rates

RUNNING_DECAY = 0.95


@dataclass
class Run:
    """Everything that changes as a run advances; what `last.pt` holds.

    Attributes:
        average: moving average of the weights, or None where the run keeps none.
        step: optimiser steps taken.
        seconds: wall-clock time spent, over all resumptions.
        running_loss: moving average of the training loss, nats per token; NaN at step 0.
        val_loss: latest validation loss, nats per token, or None.
        forward: what computes the training loss: the model itself, or its compiled form.
        lazy: losses stay on the device until somebody needs them (on CUDA, where looking waits).
        loss, grad_norm: of the last step that was looked at.
        looked: the step of the last look and the clock then, in seconds, once that step was dealt with.
        unread: steps whose figures are still on the device: (steps before it, loss and norm).
    """

    model: nn.Module
    optimisers: list[Optimizer]
    average: AveragedModel | None
    step: int = 0
    seconds: float = 0.0
    running_loss: float = math.nan
    val_loss: float | None = None
    forward: nn.Module | None = None
    lazy: bool = False
    loss: float = math.nan
    grad_norm: float = math.nan
    looked: tuple[int, float] = (0, 0.0)
    unread: list[tuple[int, torch.Tensor]] = field(default_factory=list)

    def read(self) -> None:
        """Look at the figures of all steps not looked at yet, which waits for the device.

        Raises:
            UsageError: a loss or its gradient is not finite.
        """
        unread, self.unread = self.unread, []
        if not unread:
            return
        for (before, _), (loss, norm) in zip(
            unread, torch.stack([figures for _, figures in unread]).tolist(), strict=True
        ):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise UsageError(
                    f"after {before} steps the training loss is {loss} and its gradient's norm {norm}",
                    "Lower the learning rates (matrix_lr, embed_lr, scalar_lr) or grad_clip.",
                )
            self.loss, self.grad_norm = loss, norm
            known = loss if math.isnan(self.running_loss) else self.running_loss
            self.running_loss = RUNNING_DECAY * known + (1.0 - RUNNING_DECAY) * loss

    @property
    def result(self) -> nn.Module:
        """The model this run stands for: the averaged one where there is one."""
        return self.model if self.average is None else self.average.module

    def state(self) -> dict[str, Any]:
        """All of it as tensors and plain values; "model" is the key checkpoint readers look for."""
        return {
            "model": self.model.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "average": None if self.average is None else self.average.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "running_loss": self.running_loss,
            "val_loss": self.val_loss,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned, possibly on another device."""
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.running_loss, self.val_loss = state["running_loss"], state["val_loss"]


@dataclass(frozen=True)
class StepRecord:
    """What one step was like; a line of the log.

    Attributes:
        step: steps taken, this one included.
        loss: cross-entropy of this step's batch before its update, nats per token.
        lr: rate of the block matrices.
        grad_norm: global gradient norm before clipping.
        tokens: training tokens seen so far.
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int


def new_run(model: nn.Module, spec: ModelSpec, config: TrainConfig) -> Run:
    """A run at step 0, with initial weights, on the device of `config`."""
    initialise(model, spec, config.seed)
    model.to(config.device).train()
    average = None
    if config.ema_decay is not None:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    forward = None
    if config.compile_mode is not None:
        forward = cast(nn.Module, torch.compile(model, mode=config.compile_mode))
    return Run(
        model,
        make_optimisers(model, spec, config),
        average,
        forward=forward,
        lazy=config.device == "cuda",
    )


def train_step(
    run: Run, config: TrainConfig, batch: np.ndarray, scale: float, watch: Stopwatch
) -> StepRecord:
    """One optimiser step on `batch` (B, T + 1), at `scale` times the peak rates, timed by `watch`.

    In a lazy run the record's loss and norm are those of the last step that was looked at.

    Raises:
        UsageError: the loss or its gradient is not finite; the weights are as they were. In a lazy run
            it is `Run.read` that finds out, some steps later.
    """
    # `or` would ask a compiled module for its length, which torch 2.11 answers with an error.
    forward = run.model if run.forward is None else run.forward
    mean_loss = sequence_loss(forward, batch, "mean")
    watch.lap("forward")
    mean_loss.backward()
    watch.lap("backward")
    bound = config.grad_clip or math.inf
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), bound)
    run.unread.append((run.step, torch.stack((mean_loss.detach(), norm))))
    if not run.lazy:
        run.read()
    watch.lap("grad_norm")
    scale_rates(run.optimisers, scale)
    for optimiser in run.optimisers:
        optimiser.step()
        optimiser.zero_grad()
    watch.lap("optimiser")
    if run.average is not None:
        run.average.update_parameters(run.model)
    run.step += 1
    return StepRecord(
        step=run.step,
        loss=run.loss,
        lr=scale * config.matrix_lr,
        grad_norm=run.grad_norm,
        tokens=run.step * config.batch_tokens,
    )


def sequence_loss(model: nn.Module, batch: np.ndarray, reduction: str) -> torch.Tensor:
    """Cross-entropy of a batch (B, T + 1), in float32; "mean" or "sum" over its B * T targets."""
    device = next(model.parameters()).device
    rows = send(torch.from_numpy(batch), device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        logits = model(rows[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction=reduction)


@torch.no_grad()
def validation_loss(model: nn.Module, tokens: np.ndarray, seq_len: int, batch_size: int) -> float:
    """Mean cross-entropy over `tokens` in sequences side by side: nats per token, float64 sums.

    A monitor of training: it drops the last, incomplete sequence. Scoring is `golfpack.eval`.
    """
    count = (tokens.size - 1) // seq_len
    windows = np.arange(count)[:, None] * seq_len + np.arange(seq_len + 1)
    total = torch.zeros((), dtype=torch.float64, device=next(model.parameters()).device)
    for first in range(0, count, batch_size):
        rows = tokens[windows[first : first + batch_size]].astype(np.int64)
        total += sequence_loss(model, rows, "sum")
    return total.item() / (count * seq_len)
