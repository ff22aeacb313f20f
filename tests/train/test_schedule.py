from typing import Any

import pytest

from golfpack.errors import UsageError
from golfpack.train.config import TrainConfig
from golfpack.train.schedule import budget_used, lr_scale


def test_rates_rise_hold_and_fall() -> None:
    config = TrainConfig(steps=100, warmup_steps=10, warmdown_fraction=0.5)
    scales = [lr_scale(config, step, budget_used(config, step, 0.0)) for step in range(100)]
    assert scales[:11] == pytest.approx([*(i / 10 for i in range(1, 11)), 1.0])
    assert scales[10:51] == [1.0] * 41
    assert scales[50:] == pytest.approx([i / 50 for i in range(50, 0, -1)])


def test_minutes_follow_the_clock_whatever_the_speed() -> None:
    config = TrainConfig(minutes=2.0, warmup_steps=0, warmdown_fraction=0.25)
    for steps_per_second in (0.1, 50.0):
        used = [budget_used(config, round(s * steps_per_second), s) for s in (0.0, 90.0, 105.0)]
        assert [lr_scale(config, 7, u) for u in used] == pytest.approx([1.0, 1.0, 0.5])
    assert budget_used(config, 1, 500.0) == 1.0
    assert lr_scale(config, 7, 1.0) == 0.0


def test_no_warmdown_holds_to_the_end() -> None:
    config = TrainConfig(steps=4, warmup_steps=0, warmdown_fraction=0.0)
    assert [lr_scale(config, s, budget_used(config, s, 0.0)) for s in range(4)] == [1.0] * 4


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "steps=None and minutes=None"),
        ({"steps": 5, "minutes": 1.0}, "steps=5 and minutes=1.0"),
        ({"steps": 0}, "steps is 0"),
        ({"minutes": float("nan")}, "minutes is nan"),
        ({"steps": 5, "matrix_lr": -0.1}, "matrix_lr is -0.1"),
        ({"steps": 5, "warmdown_fraction": 1.5}, "warmdown_fraction is 1.5"),
        ({"steps": 5, "ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"steps": 5, "batch_tokens": 1000, "seq_len": 256}, "batch_tokens is 1000"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        TrainConfig(**settings)
    assert caught.value.hint
