"""A training run in memory: all that changes as it advances, and how it begins."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from golfpack.errors import UsageError
from golfpack.models.base import Family
from golfpack.models.ranks import ALONE, Group
from golfpack.models.training import Training
from golfpack.spec import ModelSpec
from golfpack.train.aim import Look
from golfpack.train.average import Average
from golfpack.train.config import TrainConfig
from golfpack.train.deferred import MANY, DeferredAdamW, may_wait
from golfpack.train.features.heads import Split, heads_optimiser
from golfpack.train.features.late_loops import Switch, loop_switches
from golfpack.train.features.qk_init import set_queries_and_keys
from golfpack.train.objective import Objective
from golfpack.train.optim import make_optimisers
from golfpack.train.schedule import budget_used

RUNNING_DECAY = 0.95
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Trend:
    """A straight line through points as they come, by least squares.

    Attributes:
        count, x, y, xx, xy: how many points there were, and the sums of these.
    """

    count: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def add(self, x: float, y: float) -> None:
        """Another point."""
        self.count += 1
        self.x += x
        self.y += y
        self.xx += x * x
        self.xy += x * y

    @property
    def slope(self) -> float | None:
        """None where the points tell none."""
        spread = self.count * self.xx - self.x**2
        return (self.count * self.xy - self.x * self.y) / spread if spread > 1e-9 else None


@dataclass
class Run:
    """Everything that changes as a run advances; what `last.pt` holds.

    Attributes:
        objective: what its steps minimise; its auxiliary heads are in `last.pt` and in no final model.
        average: average of the weights, or None where the run keeps none.
        step: optimiser steps taken.
        seconds: wall-clock time spent, over all resumptions.
        running_loss: moving average of the training loss, nats per token; NaN at step 0.
        val_loss: latest validation loss, nats per token, or None.
        best_val: lowest so far; infinite before the first.
        trend: of losses on the way to the first look at an artifact, or None.
        extended_at: seconds at which steps got the codes' time, or None; see `schedule.budget_used`.
        forward: what computes the training loss: None for the model itself, or its compiled form, or
            one that also gives what auxiliary heads read.
        loop_switches: what turns repeated blocks on and off, where they begin late.
        lazy: losses stay on the device until somebody needs them (on CUDA, where looking waits).
        loss, grad_norm: of the last step that was looked at.
        looked: the step of the last look and the clock then, in seconds, once that step was dealt with.
        look: the latest look at the artifact, or None before the first.
        saved: the step that `last.pt` has, or None before there is one.
        unread: steps whose figures are still on the device: (steps before it, loss and norm).
    """

    model: nn.Module
    optimisers: list[Optimizer]
    average: Average | None
    objective: Objective
    step: int = 0
    seconds: float = 0.0
    running_loss: float = math.nan
    val_loss: float | None = None
    best_val: float = math.inf
    forward: nn.Module | None = None
    loop_switches: tuple[Switch, ...] = ()
    lazy: bool = False
    loss: float = math.nan
    grad_norm: float = math.nan
    looked: tuple[int, float] = (0, 0.0)
    look: Look | None = None
    saved: int | None = None
    trend: Trend | None = None
    extended_at: float | None = None
    unread: list[tuple[int, torch.Tensor]] = field(default_factory=list)

    def used(self, config: TrainConfig) -> float:
        """Share of the budget spent."""
        return budget_used(config, self.step, self.seconds, self.extended_at)

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
                    "Lower the learning rates (lr, matrix_lr, embed_lr, scalar_lr) or grad_clip.",
                )
            self.loss, self.grad_norm = loss, norm
            if self.trend is not None:
                self.trend.add(math.log(before + 1), loss)
            known = loss if math.isnan(self.running_loss) else self.running_loss
            self.running_loss = RUNNING_DECAY * known + (1.0 - RUNNING_DECAY) * loss

    @contextmanager
    def lookups(self) -> Iterator[None]:
        """For passes that lead to a step: what they read is as it should be, whatever waits."""
        with ExitStack() as stack:
            for optimiser in self._deferred:
                stack.enter_context(optimiser.lookups())
            yield

    def settle(self) -> None:
        """Bring all weights to where they belong after the last step; before that, read no table."""
        for optimiser in self._deferred:
            optimiser.settle()

    @property
    def _deferred(self) -> list[DeferredAdamW]:
        return [o for o in self.optimisers if isinstance(o, DeferredAdamW)]

    @property
    def result(self) -> nn.Module:
        """The model this run stands for, settled: the averaged one where anything has been averaged."""
        self.settle()
        averaged = self.average is not None and self.average.count > 0
        return self.average.module if averaged and self.average is not None else self.model

    def state(self) -> dict[str, Any]:
        """All of it as tensors and plain values; "model" is the key checkpoint readers look for."""
        self.settle()
        heads = self.objective.heads
        trend = None if self.trend is None else asdict(self.trend)
        looked = {"trend": trend, "extended_at": self.extended_at}
        looked |= {} if self.look is None else {"look": self.look.state()}
        return looked | {
            "model": weights_of(self.model),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "average": None if self.average is None else self.average.state(),
            "step": self.step,
            "seconds": self.seconds,
            "running_loss": self.running_loss,
            "val_loss": self.val_loss,
            **({} if heads is None else {"heads": weights_of(heads)}),
            "best_val": self.best_val,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned, possibly on another device."""
        _load(self.model, state["model"])
        if self.objective.heads is not None:
            _load(self.objective.heads, state["heads"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        if self.average is not None:
            self.average.restore(state["average"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.running_loss, self.val_loss = state["running_loss"], state["val_loss"]
        if "look" in state:
            device = next(self.model.parameters()).device
            self.look = Look.restored(state["look"], device)
        if (trend := state.get("trend")) is not None:
            self.trend = Trend(**trend)
        self.extended_at = state.get("extended_at")
        self.best_val = state.get("best_val", math.inf)  # runs of before kept none, nor a best.pt


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Its parameters, each once: what a class keeps beside them it makes itself."""
    return {name: p.detach() for name, p in model.named_parameters()}


def new_run(
    family: Family,
    spec: ModelSpec,
    config: TrainConfig,
    tokens: np.ndarray | None = None,
    group: Group = ALONE,
) -> Run:
    """A run at step 0, with initial weights, on the device of `config`.

    Args:
        tokens: (N,) that it trains on, for what begins from them (`qk_init_tokens`).
        group: the processes that take its steps together.

    Raises:
        UsageError: the family cannot be trained, or not as `config` asks.
    """
    training = training_of(family)
    model = family.build(spec.config)
    training.initialise(model, spec, torch.Generator().manual_seed(config.seed))
    if config.qk_init_tokens:
        _begin_attention(model, family, config, tokens)
    model.to(config.device, DTYPES[config.param_dtype]).train()
    _set_dropout(model, family, config.dropout)
    averages = config.ema_decay is not None or config.swa_start is not None
    average = Average(model) if averages else None
    if config.grad_checkpoint:
        _checkpoint_blocks(model, family)
    objective = Objective.of(config, family, spec, model)
    forward = None
    if objective.readout is not None:
        forward = Split(model, objective.readout)
    if config.compile_mode is not None:
        forward = model if forward is None else forward
        forward = cast(nn.Module, torch.compile(forward, mode=config.compile_mode))
    parameters = dict(model.named_parameters())
    tables: Sequence[nn.Embedding] = ()
    if group.size == 1 and may_wait(config):
        tables = [t for t in training.tables(model) if len(t.weight) >= MANY * config.batch_tokens]
    optimisers = make_optimisers(parameters, spec, training.decays, config, group, tables)
    if objective.heads is not None:
        optimisers.append(heads_optimiser(objective.heads, config))
    modules = [model] if average is None else [model, average.module]
    return Run(
        model,
        optimisers,
        average,
        objective,
        forward=forward,
        loop_switches=loop_switches(config, family, modules),
        lazy=config.device.startswith("cuda"),
    )


@torch.no_grad()
def _load(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def training_of(family: Family) -> Training:
    """How models of a family are trained. Raises UsageError where they cannot be."""
    if family.training is None:
        raise UsageError(
            f"family {family.name!r} cannot be trained",
            "use another --family, or name a class with --model FILE.py:CLASS",
        )
    return family.training


def _begin_attention(
    model: nn.Module, family: Family, config: TrainConfig, tokens: np.ndarray | None
) -> None:
    first = training_of(family).first_attention(model)
    if first is None:
        raise UsageError(
            f"the {family.name} family does not tell what its first attention reads, and "
            f"qk_init_tokens is {config.qk_init_tokens}",
            "leave out train.qk_init_tokens; the golf family has it",
        )
    assert tokens is not None  # whoever trains has some
    set_queries_and_keys(first, tokens[: config.qk_init_tokens])


def _set_dropout(model: nn.Module, family: Family, rate: float) -> None:
    if not rate:
        return
    if not training_of(family).dropout:
        raise UsageError(
            f"the {family.name} family has no dropout, and dropout is {rate}",
            "leave out train.dropout; a class of your own has its rates in its arguments",
        )
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate


def _checkpoint_blocks(model: nn.Module, family: Family) -> None:
    """Have every block keep its input alone for the backward pass, and run a second time there."""
    blocks = training_of(family).blocks(model)
    if not blocks:
        raise UsageError(
            f"the blocks of this {family.name} model cannot run a second time",
            "leave out train.grad_checkpoint",
        )
    for block in blocks:
        block.forward = _twice(block.forward)


def _twice(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args)
        return checkpoint(forward, *args, use_reentrant=False)

    return run
