"""What changes over a run: learning rates, Muon's momentum, the length of sequences.

All are functions of the step (counted from 0) and of the share of the budget used, so that a resumed
run needs no memory of them.
"""

import math

from golfpack.train.config import TrainConfig


def budget_used(
    config: TrainConfig, step: int, seconds: float, extended_at: float | None = None
) -> float:
    """Share of the budget spent once `step` steps took `seconds`; the run ends at 1.

    Args:
        extended_at: seconds after which the steps got the time of the codes, too (`codes_share`); what
            was left then goes by that much more slowly. None where they have not got it.
    """
    if config.steps is not None:
        return step / config.steps
    assert config.minutes is not None  # TrainConfig holds one of the two
    whole = 60.0 * config.minutes
    of_steps = whole * (1.0 - config.codes_share)
    if extended_at is None:
        return min(1.0, seconds / of_steps)
    before = extended_at / of_steps
    return min(1.0, before + (1.0 - before) * (seconds - extended_at) / (whole - extended_at))


def lr_scale(config: TrainConfig, step: int, used: float) -> float:
    """Factor on the peak rates for the step after `step` steps, with `used` of the budget spent.

    Rise: from `warmup_from` linearly to 1 within `warmup_steps`. Trapezoid: from there a plateau, then
    a linear fall to `final_lr_share`. Cosine: half a cosine from the end of the rise to that share; it
    runs over steps, or over the clock where minutes are the budget.
    """
    return _rise(config, step) * fall(config, step, used)


def _rise(config: TrainConfig, step: int) -> float:
    if step + 1 >= config.warmup_steps:
        return 1.0
    return config.warmup_from + (1.0 - config.warmup_from) * (step + 1) / config.warmup_steps


def fall(config: TrainConfig, step: int, used: float) -> float:
    """The factor's part that falls towards the end, whatever the rise."""
    floor = config.final_lr_share
    if config.schedule == "cosine":
        at = used
        if config.steps is not None:
            left = max(config.steps - config.warmup_steps, 1)
            at = min(max((step - config.warmup_steps) / left, 0.0), 1.0)
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * at))
    left = 1.0 - used
    if config.schedule == "constant" or left >= config.warmdown_fraction:
        return 1.0
    return floor + (1.0 - floor) * left / config.warmdown_fraction


def momentum_at(config: TrainConfig, step: int) -> float:
    """Muon's momentum for the step after `step` steps: constant, risen, or going up and down."""
    if config.momentum_start is None:
        return config.momentum
    if (period := config.momentum_cycle) is not None:
        share = 0.5 * (1.0 - math.cos(2.0 * math.pi * (step % period) / period))
    else:
        share = min(1.0, step / config.momentum_steps)
    return config.momentum_start + (config.momentum - config.momentum_start) * share


def decay_scale(config: TrainConfig, used: float) -> float:
    """Factor on all decay, with `used` of the budget spent."""
    share = (1.0 - used) / config.warmdown_fraction if config.warmdown_fraction else 1.0
    return 1.0 + (config.decay_final - 1.0) * (1.0 - min(1.0, share))


def aimed(config: TrainConfig, used: float) -> float:
    """How far the run has come from `aim_from` on, 0 to 1, with `used` of the budget spent."""
    return max(0.0, used - config.aim_from) / max(1.0 - config.aim_from, 1e-9)


def length_at(config: TrainConfig, step: int) -> int:
    """Tokens per sequence of the step after `step` steps."""
    known = [length for first, length in config.lengths if first <= step]
    return known[-1] if known else config.seq_len


def tokens_per_second(config: TrainConfig, step: int, step_ms: float) -> float:
    """How fast the step after `step` steps was, which took `step_ms` milliseconds."""
    return 1000.0 * config.rows * length_at(config, step) / step_ms


def tokens_seen(config: TrainConfig, steps: int) -> int:
    """Training tokens of the first `steps` steps."""
    parts = config.lengths or ((0, config.seq_len),)
    ends = [*(first for first, _ in parts[1:]), steps]
    return config.rows * sum(
        length * max(0, min(end, steps) - first)
        for (first, length), end in zip(parts, ends, strict=True)
    )
