"""Learning rate over a run: a linear rise, a plateau, a linear fall to 0 (a trapezoid)."""

from golfpack.train.config import TrainConfig


def budget_used(config: TrainConfig, step: int, seconds: float) -> float:
    """Share of the budget spent once `step` steps took `seconds`; the run ends at 1."""
    if config.steps is not None:
        return step / config.steps
    assert config.minutes is not None  # TrainConfig holds one of the two
    return min(1.0, seconds / (60.0 * config.minutes))


def lr_scale(config: TrainConfig, step: int, used: float) -> float:
    """Factor on the peak rates for the step after `step` steps, with `used` of the budget spent."""
    rise = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    left = 1.0 - used
    fall = left / config.warmdown_fraction if left < config.warmdown_fraction else 1.0
    return rise * fall
