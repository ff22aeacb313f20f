"""Rows of a table that wait to be moved end where AdamW would have moved them at every step."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import AdamW

from golfpack.errors import UsageError
from golfpack.models.golf.family import GOLF
from golfpack.train import run as run_module
from golfpack.train.config import TrainConfig
from golfpack.train.deferred import DeferredAdamW, may_wait
from golfpack.train.run import new_run
from golfpack.train.trainer import complete_options, train

# 600 rows are many beside the 8 tokens of a step; most wait for some steps, and some for all.
MODEL: dict[str, Any] = {
    "vocab_size": 32, "num_layers": 2, "dim": 16, "num_heads": 2, "num_kv_heads": 1, "mlp_hidden": 16,
    "bigram_size": 600, "bigram_dim": 8, "bigram_trigram": True,
}  # fmt: skip
CONFIG = TrainConfig(
    steps=30, batch_tokens=8, seq_len=4, warmup_steps=5, save_every=15, log_every=10, threads=1,
    eps=1e-12,
)  # fmt: skip
TOKENS = np.random.default_rng(0).integers(32, size=600).astype(np.uint16)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / one.norm()).item()


@pytest.mark.parametrize(
    ("settings", "dtype", "bound"),
    [
        ({"eps": 1e-14}, torch.float64, 1e-12),
        ({"eps": 1e-14, "betas": (0.5, 0.999)}, torch.float64, 1e-12),
        # Adam's eps is followed to first order.
        ({"eps": 1e-8, "weight_decay": 0.3}, torch.float64, 1e-8),
        ({"eps": 1e-8}, torch.float32, 1e-5),
    ],
)
def test_waiting_changes_nothing(
    settings: dict[str, Any], dtype: torch.dtype, bound: float
) -> None:
    random = torch.Generator().manual_seed(0)
    whole = nn.Sequential(nn.Embedding(500, 4), nn.Linear(4, 3)).to(dtype)
    for p in whole.parameters():
        nn.init.normal_(p, generator=random)
    waiting = copy.deepcopy(whole)
    (table, _) = waiting
    assert isinstance(table, nn.Embedding)
    settings = {"weight_decay": 0.0, "betas": (0.9, 0.95)} | settings
    plain = AdamW([{"params": list(whole.parameters())}], **settings)
    deferred = DeferredAdamW([{"params": list(waiting.parameters())}], [table], **settings)
    for step in range(120):
        rows = torch.randint(500, (7,), generator=random) ** 2 // 500  # some often, and some rarely
        wanted = torch.randn(7, 3, dtype=dtype, generator=random)
        for optimiser in (plain, deferred):
            optimiser.param_groups[0]["lr"] = 0.01 * min(step / 20, 1.0)
        (whole(rows) - wanted).square().mean().backward()
        with deferred.lookups():
            (waiting(rows) - wanted).square().mean().backward()
        for optimiser in (plain, deferred):
            optimiser.step()
            optimiser.zero_grad()
        if step == 70:
            deferred.settle()
    assert distance(whole[0].weight, table.weight) > bound  # rows wait, and are elsewhere meanwhile
    deferred.settle()
    for p, q in zip(whole.parameters(), waiting.parameters(), strict=True):
        assert distance(p, q) < bound
        for moment in ("exp_avg", "exp_avg_sq"):
            assert distance(plain.state[p][moment], deferred.state[q][moment]) < bound
        assert plain.state[p]["step"] == deferred.state[q]["step"]


@pytest.mark.parametrize(
    "setting",
    [
        {"accumulate": 2, "meta_weight": 0.5}, {"optimizer": "adamw", "lr": 0.01},
        {"grad_clip": 0.05, "budget": "3.5bpw", "aim_tokens": 64},
    ],
    ids=str,
)  # fmt: skip
def test_runs_of_rows_that_wait(
    setting: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, val_every=10, **setting)
    found, weights = [], []
    for may in (lambda _: False, may_wait):
        monkeypatch.setattr(run_module, "may_wait", may)
        folder = tmp_path / str(len(found))
        result = train(config, MODEL, TOKENS, folder, val_tokens=TOKENS[:200])
        found.append(result)
        weights.append(torch.load(result.checkpoint, weights_only=True))
    assert found[1].val_loss == pytest.approx(found[0].val_loss, rel=1e-5)
    for name, expected in weights[0].items():
        assert distance(expected, weights[1][name]) < 1e-4, name


def test_a_run_is_resumed_with_rows_that_waited(tmp_path: Path) -> None:
    def stop(done: int, total: int, note: str) -> None:
        if done == 24:
            raise UsageError("stopped", "go on")

    straight = train(CONFIG, MODEL, TOKENS, tmp_path / "straight").checkpoint
    with pytest.raises(UsageError, match="stopped"):
        train(CONFIG, MODEL, TOKENS, tmp_path / "resumed", progress=stop)
    resumed = train(CONFIG, MODEL, TOKENS, tmp_path / "resumed", resume=True).checkpoint
    assert straight.read_bytes() == resumed.read_bytes()


@pytest.mark.parametrize(
    ("setting", "waits"),
    [
        ({}, True),
        ({"ema_decay": 0.9}, False),
        ({"ema_decay": 0.0}, False),
        ({"swa_start": 0.5}, False),
        ({"swa_start": 0.0}, False),
        ({"cautious_decay": True}, False),
        ({"decay_final": 2.0}, False),
        ({"beta2": 0.8}, False),  # a moment that fades faster than the other
        ({"param_dtype": "bfloat16"}, False),
        ({"optimizer": "lion"}, False),
        ({"budget": "3bpw"}, True),
        ({"budget": "3bpw", "aim_errors": 1.0}, False),
        ({"budget": "3bpw", "aim_rounding": True}, False),
        ({"budget": "3bpw", "aim_trellis": True}, False),
        ({"budget": "3bpw", "rate_decay": 1.0}, False),
    ],
    ids=str,
)
def test_who_waits(setting: dict[str, Any], waits: bool) -> None:
    config = dataclasses.replace(CONFIG, **setting)
    spec = GOLF.spec(complete_options(GOLF, MODEL, config.seq_len))
    optimisers = new_run(GOLF, spec, config).optimisers
    assert any(isinstance(o, DeferredAdamW) for o in optimisers) == waits


def test_small_tables_do_not_wait() -> None:
    config = dataclasses.replace(CONFIG, batch_tokens=16)
    spec = GOLF.spec(complete_options(GOLF, MODEL, config.seq_len))
    assert not any(isinstance(o, DeferredAdamW) for o in new_run(GOLF, spec, config).optimisers)
