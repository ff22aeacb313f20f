from typing import Any

import pytest

from golfpack.errors import UsageError
from golfpack.train.config import TrainConfig
from golfpack.train.schedule import (
    budget_used,
    length_at,
    lr_scale,
    momentum_at,
    tokens_seen,
)


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


def test_steps_may_get_the_time_of_the_codes() -> None:
    config = TrainConfig(minutes=1.0, budget="2bpw", codes_share=0.25)
    assert [budget_used(config, 1, s) for s in (0.0, 27.0, 45.0, 60.0)] == [0.0, 0.6, 1.0, 1.0]
    # From there on the clock of the schedule is slower, and never goes back.
    extended = [budget_used(config, 1, s, 27.0) for s in (27.0, 43.5, 60.0, 70.0)]
    assert extended == pytest.approx([0.6, 0.8, 1.0, 1.0])
    steps = TrainConfig(steps=10, budget="2bpw", codes_share=0.25)
    assert budget_used(steps, 5, 1000.0) == 0.5


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
        ({"minutes": 5.0, "codes_share": 1.0}, "codes_share is 1.0"),
        ({"minutes": 5.0, "codes_share": 0.2}, "whose size nobody said"),
        ({"steps": 5, "matrix_lr": -0.1}, "matrix_lr is -0.1"),
        ({"steps": 5, "warmdown_fraction": 1.5}, "warmdown_fraction is 1.5"),
        ({"steps": 5, "ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"steps": 5, "batch_tokens": 1000, "seq_len": 256}, "batch_tokens is 1000"),
        ({"steps": 5, "accumulate": 3}, "8 sequences a step are no 3 equal parts"),
        ({"steps": 5, "optimizer": "sgd"}, "optimizer is 'sgd'"),
        ({"steps": 5, "schedule": "linear"}, "schedule is 'linear'"),
        ({"steps": 5, "ema_decay": 0.9, "swa_start": 0.5}, "ema_decay and swa_start"),
        ({"steps": 5, "seq_schedule": "256@0,512@500,1024@2000"}, "1024 > block 256"),
        ({"steps": 5, "seq_schedule": "64@1"}, "begins at step 1"),
        ({"steps": 5, "seq_schedule": "64@0,long@9"}, "has 'long@9'"),
        ({"steps": 5, "seq_schedule": "64@0,128@0"}, "two lengths for step 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        TrainConfig(**settings)
    assert caught.value.hint


def test_a_cosine_falls_from_the_end_of_the_rise_to_its_floor() -> None:
    config = TrainConfig(
        steps=101, schedule="cosine", warmup_steps=1, final_lr_share=0.1, warmup_from=0.1
    )
    scales = [lr_scale(config, step, budget_used(config, step, 0.0)) for step in range(101)]
    assert scales[0] == scales[1] == 1.0
    assert scales[51] == pytest.approx(0.55)
    assert scales[100] == pytest.approx(0.1 + 0.9 * 0.000246719, rel=1e-4)
    timed = TrainConfig(minutes=1.0, schedule="cosine", warmup_steps=0)
    assert [lr_scale(timed, 9, u) for u in (0.0, 0.5)] == [1.0, pytest.approx(0.5)]


def test_a_trapezoid_may_end_above_zero() -> None:
    config = TrainConfig(steps=10, warmup_steps=0, warmdown_fraction=0.5, final_lr_share=0.2)
    scales = [lr_scale(config, step, step / 10) for step in range(11)]
    assert scales[5:] == pytest.approx([1.0, 0.84, 0.68, 0.52, 0.36, 0.2])


def test_lengths_change_at_their_steps_and_rows_do_not() -> None:
    config = TrainConfig(
        steps=6000, batch_tokens=16 * 1024, seq_len=1024, seq_schedule="256@0,512@500,1024@2000"
    )
    assert config.rows == 16
    # Steps counted from 1, as logs count them.
    assert [length_at(config, step - 1) for step in (1, 500, 501, 2000, 2001)] == [
        256, 256, 512, 512, 1024,
    ]  # fmt: skip
    assert tokens_seen(config, 6000) == 79_872_000
    assert tokens_seen(config, 501) == 16 * (500 * 256 + 512)
    assert tokens_seen(TrainConfig(steps=6), 6) == 6 * 2048


def test_momentum_warms_up() -> None:
    config = TrainConfig(steps=9, momentum=0.95, momentum_start=0.85, momentum_steps=100)
    assert [momentum_at(config, s) for s in (0, 50, 100, 500)] == pytest.approx(
        [0.85, 0.9, 0.95, 0.95]
    )
    assert momentum_at(TrainConfig(steps=9), 0) == 0.95


def test_momentum_cycles() -> None:
    """Seed 004's, between 0.85 and 0.95 every 50 steps."""
    config = TrainConfig(steps=200, momentum=0.95, momentum_start=0.85, momentum_cycle=50)
    found = [momentum_at(config, s) for s in (0, 25, 50, 75, 100, 12)]
    assert found[:5] == pytest.approx([0.85, 0.95, 0.85, 0.95, 0.85])
    assert 0.89 < found[5] < 0.9
    assert {momentum_at(config, s) for s in range(200)} <= {
        momentum_at(config, s) for s in range(50)
    }
    with pytest.raises(UsageError, match="the other end of its swing"):
        TrainConfig(steps=9, momentum_cycle=50)
