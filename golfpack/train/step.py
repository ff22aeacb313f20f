"""The one step that advances a run."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from golfpack.models.ranks import ALONE, Group
from golfpack.models.training import seeded
from golfpack.train.average import is_averaged
from golfpack.train.config import TrainConfig
from golfpack.train.decay import Decay
from golfpack.train.deferred import with_dense_gradient
from golfpack.train.late import (
    compiled_weights,
    decay_by_rate,
    seed_of,
    to_paths,
    to_points,
    with_errors,
)
from golfpack.train.log import Stopwatch
from golfpack.train.optim import set_rates
from golfpack.train.run import Run
from golfpack.train.schedule import (
    aimed,
    decay_scale,
    lr_scale,
    momentum_at,
    tokens_seen,
)

# Parts of a batch get seeds of their own: more parts than that would share some.
_MOST_PARTS = 1 << 16


@dataclass(frozen=True)
class StepRecord:
    """What one step was like; a line of the log.

    Attributes:
        step: steps taken, this one included.
        loss: what was minimised on this step's batch, before its update: cross-entropy, nats per token,
            with its weights and without what auxiliary heads and meta-TTT add.
        lr: rate of the block matrices.
        grad_norm: global gradient norm before clipping.
        tokens: training tokens seen so far.
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int


def train_step(
    run: Run,
    config: TrainConfig,
    batch: np.ndarray,
    used: float,
    watch: Stopwatch,
    group: Group = ALONE,
) -> StepRecord:
    """One optimiser step on `batch` (B, T + 1), with `used` of the budget spent, timed by `watch`.

    The batch is the whole group's: each rank takes every size-th of its `accumulate` parts. In a lazy
    run the record's loss and norm are those of the last step that was looked at.

    Raises:
        UsageError: the loss or its gradient is not finite; the weights are as they were. In a lazy run
            it is `Run.read` that finds out, some steps later.
    """
    with _weights_of_passes(run, config), run.lookups():
        loss = _add_gradients(run, config, np.split(batch, config.accumulate), used, watch, group)
    bound = config.grad_clip or math.inf
    norm = nn.utils.clip_grad_norm_([with_dense_gradient(p) for p in run.model.parameters()], bound)
    run.unread.append((run.step, torch.stack((loss, norm))))
    if not run.lazy:
        run.read()
    watch.lap("grad_norm")
    scale = lr_scale(config, run.step, used)
    set_rates(run.optimisers, scale, momentum_at(config, run.step))
    decay = None
    if config.cautious_decay or config.decay_final != 1.0:
        decay = Decay(run.optimisers, config, decay_scale(config, used))
    for optimiser in run.optimisers:
        optimiser.step()
        optimiser.zero_grad()
    if decay is not None:
        decay.apply()
    if config.rate_decay and run.look is not None:
        share = config.rate_decay * aimed(config, used)
        decay_by_rate(run.model, run.look, run.optimisers, share)
    watch.lap("optimiser")
    run.step += 1
    if run.average is not None and is_averaged(config, run.step, run.used(config)):
        run.average.update(run.model, config.ema_decay)
    return StepRecord(
        step=run.step,
        loss=run.loss,
        lr=scale * config.peak_lr,
        grad_norm=run.grad_norm,
        tokens=tokens_seen(config, run.step),
    )


def _weights_of_passes(run: Run, config: TrainConfig) -> contextlib.AbstractContextManager[None]:
    """What passes run on: the weights, or what a compiler might leave of them."""
    if run.look is None:
        return contextlib.nullcontext()
    if config.aim_errors:
        generator = torch.Generator(next(run.model.parameters()).device)
        generator.manual_seed(seed_of(config.seed, run.step))
        return compiled_weights(run.model, run.look, with_errors(config.aim_errors, generator))
    if config.aim_rounding:
        return compiled_weights(run.model, run.look, to_points)
    if config.aim_trellis:
        return compiled_weights(run.model, run.look, to_paths)
    return contextlib.nullcontext()


def _add_gradients(
    run: Run,
    config: TrainConfig,
    parts: Sequence[np.ndarray],
    used: float,
    watch: Stopwatch,
    group: Group,
) -> torch.Tensor:
    """Leave the gradient of what the whole batch's step minimises in the parameters.

    Returns the main term's value, (), float32: the batch's mean loss.
    """
    for switch in run.loop_switches:
        switch(used >= config.loops_from)
    # `or` would ask a compiled module for its length, which torch 2.11 answers with an error.
    forward = run.model if run.forward is None else run.forward
    batch = run.objective.batch(parts, run.step, used)
    device = next(run.model.parameters()).device
    total = torch.zeros((), device=device)
    for index in range(group.rank, len(parts), group.size):
        if not batch.has_targets(index):
            continue
        with seeded(_seed(config.seed, run.step, index), device):
            main, loss = batch.loss(forward, index)
            watch.lap("forward")
            loss.backward()
            batch.add_meta_gradient(index)
        total += main.detach()
        watch.lap("backward")
    if group.size > 1:
        group.sum_gradients(run.objective.parameters())
        total = group.sum_tensor(total)
        watch.lap("backward")
    return total


def _seed(seed: int, step: int, part: int) -> int:
    """Of the dropout in a part of a step's batch: the same on whichever rank computes it."""
    mixed = np.random.SeedSequence([seed, step, part % _MOST_PARTS]).generate_state(2, np.uint32)
    return int(mixed[0]) << 31 ^ int(mixed[1])
