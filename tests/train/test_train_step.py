"""One step: what a batch's parts, averages, types and targets come to."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from golfpack.errors import UsageError
from golfpack.models import FAMILIES
from golfpack.train.config import TrainConfig
from golfpack.train.log import Stopwatch
from golfpack.train.loss import sequence_loss, validation_loss
from golfpack.train.run import Run, new_run, weights_of
from golfpack.train.step import train_step
from golfpack.train.trainer import complete_options, train

SHAPE: dict[str, Any] = {
    "vocab_size": 32, "num_layers": 2, "dim": 16, "num_heads": 2, "mlp_hidden": 32,
}  # fmt: skip
CONFIG = TrainConfig(
    steps=8, batch_tokens=128, seq_len=16, optimizer="adamw", lr=0.01, schedule="constant",
    warmup_steps=0, grad_clip=None, threads=1,
)  # fmt: skip
GPT2 = FAMILIES["gpt2"]
TOKENS = np.random.default_rng(0).integers(32, size=2000).astype(np.uint16)
BATCH = TOKENS[: 8 * 17].reshape(8, 17).astype(np.int64)


def fresh(config: TrainConfig) -> Run:
    return new_run(GPT2, GPT2.spec(complete_options(GPT2, SHAPE, 16)), config)


def stepped(config: TrainConfig, steps: int = 3) -> tuple[Run, list[Any]]:
    run = fresh(config)
    records = [train_step(run, config, BATCH, step / 8, Stopwatch("cpu")) for step in range(steps)]
    return run, records


def difference(one: Run, other: Run) -> float:
    mine, theirs = weights_of(one.model), weights_of(other.model)
    return max((mine[name] - theirs[name]).abs().max().item() for name in mine)


def test_parts_of_a_batch_add_up_to_it() -> None:
    whole, records = stepped(CONFIG)
    parts, also = stepped(dataclasses.replace(CONFIG, accumulate=4))
    assert difference(whole, parts) < 1e-4
    assert [r.loss for r in also] == pytest.approx([r.loss for r in records], rel=1e-5)
    assert [r.grad_norm for r in also] == pytest.approx([r.grad_norm for r in records], rel=1e-4)
    with_dropout = dataclasses.replace(CONFIG, dropout=0.2, accumulate=4)
    assert difference(stepped(with_dropout)[0], stepped(with_dropout)[0]) == 0.0
    assert difference(stepped(with_dropout)[0], parts) > 1e-3


def test_padding_is_no_target() -> None:
    """Half the rows padded: their loss and gradient are those of the other half."""
    padded = np.concatenate((BATCH[:4], BATCH[:4]))
    padded[4:, 1:] = 31
    padded[0, 1:] = np.where(padded[0, 1:] == 31, 30, padded[0, 1:])
    model = fresh(CONFIG).model.eval()
    logits = model(torch.from_numpy(padded[:, :-1]))
    targets = torch.from_numpy(padded[:, 1:])
    kept = targets != 31
    expected = F.cross_entropy(logits[kept], targets[kept])
    found = sequence_loss(model, padded, "mean", ignore_id=31)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    losses = []
    for accumulate in (1, 4, 8):  # in parts of 1 and 2 rows, some hold no target at all
        config = dataclasses.replace(CONFIG, ignore_id=31, accumulate=accumulate)
        record = train_step(fresh(config), config, padded, 0.0, Stopwatch("cpu"))
        losses.append(record.loss)
    assert losses == pytest.approx([expected.item()] * 3, rel=1e-6)
    nothing = np.full((8, 17), 31)
    with pytest.raises(UsageError, match="nothing but token 31"):
        train_step(fresh(config), config, nothing, 0.0, Stopwatch("cpu"))


def test_smoothing_shares_the_targets_probability() -> None:
    model = fresh(CONFIG).model.eval()
    log_p = torch.log_softmax(model(torch.from_numpy(BATCH[:, :-1])), -1)
    hard = -log_p.gather(-1, torch.from_numpy(BATCH[:, 1:, None])).mean()
    expected = 0.9 * hard - 0.1 * log_p.mean()
    found = sequence_loss(model, BATCH, "mean", smoothing=0.1)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_norm_is_that_before_clipping() -> None:
    _, plain = stepped(CONFIG, 1)
    _, clipped = stepped(dataclasses.replace(CONFIG, grad_clip=0.01), 1)
    assert clipped[0].grad_norm == plain[0].grad_norm > 0.02


def test_only_what_decays_shrinks() -> None:
    run = fresh(dataclasses.replace(CONFIG, lr=0.5))
    for optimiser in run.optimisers:
        for p in (p for group in optimiser.param_groups for p in group["params"]):
            p.grad = torch.zeros_like(p)
        before = {n: w.clone() for n, w in weights_of(run.model).items()}
        optimiser.step()
    for name, weight in weights_of(run.model).items():
        factor = 1.0 - 0.5 * 0.1 if weight.ndim == 2 else 1.0
        assert torch.allclose(weight, before[name] * factor), name


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_averages(kind: str) -> None:
    """EMA: every step, by 1 - decay. SWA: from its start on, every other step, equally."""
    changes: dict[str, Any] = (
        {"ema_decay": 0.75} if kind == "ema" else {"swa_start": 0.5, "swa_every": 2}
    )
    config = dataclasses.replace(CONFIG, **changes)
    run, seen = fresh(config), []
    for step in range(8):
        train_step(run, config, BATCH, step / 8, Stopwatch("cpu"))
        seen.append(run.model.get_parameter("wte.weight").detach().clone())
    expected = seen[0]
    if kind == "ema":
        for weights in seen[1:]:
            expected = 0.75 * expected + 0.25 * weights
    else:
        expected = (seen[3] + seen[5] + seen[7]) / 3
    averaged = run.result.get_parameter("wte.weight")
    assert torch.allclose(averaged, expected, atol=1e-6)
    assert not run.result.training


def test_weights_of_bfloat16(tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG,
        param_dtype="bfloat16",
        precision="bfloat16",
        optimizer="lion",
        ema_decay=0.5,
        lr=0.002,
    )
    found = train(config, SHAPE, TOKENS, tmp_path, family=GPT2, val_tokens=TOKENS[:200])
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert {t.dtype for t in last["model"].values()} == {torch.bfloat16}
    states = [t for s in last["optimisers"][0]["state"].values() for t in s.values()]
    assert {t.dtype for t in states} == {torch.bfloat16}
    final = torch.load(found.checkpoint, weights_only=True)
    assert {t.dtype for t in final.values()} == {torch.float32}  # an average is no bfloat16


def test_a_validation_of_some_batches_is_spread_over_all() -> None:
    model = fresh(CONFIG).model
    tokens = TOKENS[: 16 * 40 + 1]
    each = [validation_loss(model, tokens[i * 64 : i * 64 + 65], 16, 4) for i in range(10)]
    some = validation_loss(model, tokens, 16, 4, batches=3)
    assert some == pytest.approx(np.mean([each[i] for i in (0, 3, 6)]), rel=1e-6)
    assert validation_loss(model, tokens, 16, 4, batches=99) == validation_loss(
        model, tokens, 16, 4
    )
