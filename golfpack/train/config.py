"""The settings of a training run."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from golfpack.errors import UsageError
from golfpack.models.device import check_compile_mode

# May differ between a run and its resumption: they do not change what is meant to be learnt.
FREE_ON_RESUME = frozenset(
    {"val_every", "log_every", "save_every", "sample_every", "threads", "device", "compile_mode"}
)


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The budget is either `steps` or `minutes`, whichever is given.

    Attributes:
        steps: optimiser steps; runs of equal settings are then bit-equal on one CPU thread.
        minutes: wall-clock minutes; the schedule follows the clock, so that warm-down completes.
        batch_tokens: tokens per step, a multiple of `seq_len`.
        seq_len: tokens per sequence.
        matrix_lr: Muon's peak rate, for the matrices inside blocks.
        embed_lr: Adam's peak rate for the embedding, tied or not.
        head_lr: Adam's peak rate for an untied output head.
        scalar_lr: Adam's peak rate for vectors (gains, mixes, skip weights).
        momentum: Muon's Nesterov momentum.
        weight_decay: Muon's decoupled decay; each step shrinks matrices by rate * decay.
        warmup_steps: steps of linear rise to the peak rates.
        warmdown_fraction: last share of the budget over which the rates fall linearly to 0.
        grad_clip: bound on the global gradient norm, or None.
        ema_decay: decay of a moving average of the weights that replaces them in the final model,
            or None. Warm-down does the same job; use one of them.
        seed: of initial weights and of the order of the data.
        val_every: steps between validation losses (the last step always has one), or None.
        log_every: steps between lines of the log; the last step always has one.
        save_every: steps between resumable checkpoints; the last step always has one.
        sample_every: steps between sampled texts in the log (the last step always has some), or None;
            needs a tokenizer.
        threads: CPU threads of torch, or None for torch's own choice.
        device: "auto", "cpu", or "cuda" (forward passes then run in bfloat16).
        compile_mode: mode of torch.compile for training passes, or None to leave it out.

    Raises:
        UsageError: a value out of its range, or a budget that is not exactly one of the two.
    """

    steps: int | None = None
    minutes: float | None = None
    batch_tokens: int = 2048
    seq_len: int = 256
    matrix_lr: float = 0.03
    embed_lr: float = 0.01
    head_lr: float = 0.008
    scalar_lr: float = 0.01
    momentum: float = 0.95
    weight_decay: float = 0.1
    warmup_steps: int = 20
    warmdown_fraction: float = 0.4
    grad_clip: float | None = 1.0
    ema_decay: float | None = None
    seed: int = 0
    val_every: int | None = None
    log_every: int = 10
    save_every: int = 100
    sample_every: int | None = None
    threads: int | None = None
    device: str = "cpu"
    compile_mode: str | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise UsageError(
                f"the budget is steps={self.steps} and minutes={self.minutes}",
                "Give exactly one of steps and minutes.",
            )
        for name, (holds, wanted) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise UsageError(f"{name} is {value}", f"It must be {wanted}.")
        check_compile_mode(self.compile_mode)
        if self.batch_tokens % self.seq_len:
            raise UsageError(
                f"batch_tokens is {self.batch_tokens}, not a multiple of seq_len {self.seq_len}",
                f"Use {max(1, self.batch_tokens // self.seq_len) * self.seq_len}, for instance.",
            )


_Range = tuple[Callable[[float], bool], str]
_AT_LEAST_ONE: _Range = (lambda v: v >= 1, "at least 1")
_POSITIVE: _Range = (lambda v: 0 < v < math.inf, "above 0 and finite")
_NOT_NEGATIVE: _Range = (lambda v: 0 <= v < math.inf, "0 or more and finite")
_BELOW_ONE: _Range = (lambda v: 0 <= v < 1, "at least 0 and below 1")

_RANGES: dict[str, _Range] = {
    "steps": _AT_LEAST_ONE,
    "minutes": _POSITIVE,
    "batch_tokens": _AT_LEAST_ONE,
    "seq_len": _AT_LEAST_ONE,
    "matrix_lr": _NOT_NEGATIVE,
    "embed_lr": _NOT_NEGATIVE,
    "head_lr": _NOT_NEGATIVE,
    "scalar_lr": _NOT_NEGATIVE,
    "momentum": _BELOW_ONE,
    "weight_decay": _NOT_NEGATIVE,
    "warmup_steps": _NOT_NEGATIVE,
    "warmdown_fraction": (lambda v: 0 <= v <= 1, "between 0 and 1"),
    "grad_clip": _POSITIVE,
    "ema_decay": _BELOW_ONE,
    "seed": _NOT_NEGATIVE,
    "val_every": _AT_LEAST_ONE,
    "log_every": _AT_LEAST_ONE,
    "save_every": _AT_LEAST_ONE,
    "sample_every": _AT_LEAST_ONE,
    "threads": _AT_LEAST_ONE,
}
