import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golfpack.errors import CorruptError, UsageError
from golfpack.models.checkpoint import load_checkpoint
from golfpack.train.config import TrainConfig
from golfpack.train.loss import validation_loss
from golfpack.train.trainer import Progress, train

MODEL: dict[str, Any] = {
    "vocab_size": 32, "num_layers": 2, "dim": 16, "num_heads": 2, "num_kv_heads": 1,
    "mlp_hidden": 32,
}  # fmt: skip
CONFIG = TrainConfig(
    steps=30,
    batch_tokens=128,
    seq_len=16,
    matrix_lr=0.02,
    embed_lr=0.05,
    scalar_lr=0.02,
    weight_decay=0.1,
    warmup_steps=3,
    log_every=4,
    save_every=5,
    threads=1,
)


def stream(size: int, seed: int = 0) -> np.ndarray:
    """A cycle of 32 tokens in a fixed order, cut into pieces: easy to learn, not trivial."""
    order = np.random.default_rng(7).permutation(32)
    starts = np.random.default_rng(seed).integers(32, size=-(-size // 24))
    return order[(starts[:, None] + np.arange(24)) % 32].ravel()[:size].astype(np.uint16)


TOKENS, HELD_OUT = stream(4000), stream(500, seed=1)


class Interrupted(Exception):
    pass


def interrupt_at(step: int) -> Progress:
    def progress(done: int, total: int, note: str) -> None:
        if done == step:
            raise Interrupted

    return progress


def weights(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


# What the clock tells differs from run to run; nothing else does.
CLOCK = {"seconds", "time", "timing_ms", "tokens_per_second"}


def records_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(x).items() if k not in CLOCK} for x in lines]


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [x for x in records_of(folder) if x["type"] == "step"]


@pytest.fixture(scope="module", params=[None, 0.8], ids=["plain", "ema"])
def settings(request: pytest.FixtureRequest) -> TrainConfig:
    return dataclasses.replace(CONFIG, ema_decay=request.param, val_every=10)


@pytest.fixture(scope="module")
def straight(settings: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "straight"
    train(settings, MODEL, TOKENS, folder, val_tokens=HELD_OUT)
    return folder


def test_resumed_run_equals_straight_run(
    settings: TrainConfig, straight: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted) as caught:
        train(settings, MODEL, TOKENS, tmp_path, val_tokens=HELD_OUT, progress=interrupt_at(13))
    told = "the run ends after step 13: --resume goes on from step 10; 3 steps come again"
    assert caught.value.__notes__ == [told]
    assert [line["step"] for line in log_of(tmp_path)] == [
        4,
        8,
        10,
        12,
    ]  # 12 is past the save at 10
    result = train(settings, MODEL, TOKENS, tmp_path, val_tokens=HELD_OUT, resume=True)
    expected, found = weights(straight / "final_model.pt"), weights(result.checkpoint)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert log_of(tmp_path) == log_of(straight)
    assert result.steps == 30


def test_checkpoint_is_the_model_that_was_validated(straight: Path) -> None:
    loaded = load_checkpoint(straight / "final_model.pt")
    assert (loaded.config["seq_len"], loaded.config["num_kv_heads"]) == (16, 1)
    assert not loaded.assumed
    model = loaded.module()
    last = log_of(straight)[-1]
    assert last["step"] == 30
    assert validation_loss(model, HELD_OUT, 16, 8) == pytest.approx(last["val_loss"], rel=1e-5)
    assert load_checkpoint(straight / "last.pt").config == loaded.config


def test_it_learns_and_reports(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    config = dataclasses.replace(CONFIG, steps=80)
    rng = torch.get_rng_state()
    result = train(
        config, MODEL, TOKENS, tmp_path, val_tokens=HELD_OUT, progress=lambda *a: seen.append(a)
    )
    assert torch.equal(torch.get_rng_state(), rng)
    assert result.val_loss is not None
    assert result.val_loss < 0.4 * math.log(32)
    assert result.final_loss < 0.4 * math.log(32)
    assert [s[:2] for s in seen] == [(i, 80) for i in range(1, 81)]
    assert seen[-1][2] == f"loss {result.final_loss:.3f}"
    first = log_of(tmp_path)[0]
    assert first.keys() == {"type", "step", "loss", "lr", "grad_norm", "tokens"}
    assert (first["step"], first["tokens"], first["lr"]) == (4, 512, config.matrix_lr)


def test_averaged_weights_are_kept_apart(tmp_path: Path) -> None:
    train(dataclasses.replace(CONFIG, ema_decay=0.9, steps=6), MODEL, TOKENS, tmp_path)
    last, final = weights(tmp_path / "last.pt"), weights(tmp_path / "final_model.pt")
    name = "blocks.0.attn.c_q.weight"
    assert not torch.equal(final[name], last["model"][name])


def test_minutes_end_the_run_with_the_rate_near_zero(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    config = dataclasses.replace(CONFIG, steps=None, minutes=0.02, log_every=1)
    result = train(config, MODEL, TOKENS, tmp_path, progress=lambda *a: seen.append(a))
    assert result.seconds >= 1.2
    assert result.val_loss is None
    assert seen[-1][:2] == (1, 1)
    rates = [line["lr"] for line in log_of(tmp_path)]
    assert len(rates) == result.steps
    assert rates[-1] < max(rates)


@pytest.mark.parametrize(
    ("config", "model", "tokens", "named"),
    [
        ({"matrix_lr": 0.5}, {}, TOKENS, r"matrix_lr = 0\.02, not 0\.5"),
        ({"steps": 60}, {}, TOKENS, "steps = 30, not 60"),
        ({}, {"mlp_hidden": 48}, TOKENS, r"model\.mlp_hidden = 32, not 48"),
        ({}, {}, TOKENS[1:], "tokens = '4000 tokens, sha256 .*, not '3999 tokens"),
    ],
)
def test_resuming_refuses_changed_settings(
    straight: Path,
    settings: TrainConfig,
    config: dict[str, Any],
    model: dict[str, Any],
    tokens: np.ndarray,
    named: str,
) -> None:
    changed = dataclasses.replace(settings, **config)
    with pytest.raises(UsageError, match=named):
        train(changed, MODEL | model, tokens, straight, resume=True)


def test_tokens_to_validate_on_may_go_but_not_change(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=6, save_every=3, val_every=3)
    with pytest.raises(Interrupted):
        train(config, MODEL, TOKENS, tmp_path, val_tokens=HELD_OUT, progress=interrupt_at(4))
    with pytest.raises(UsageError, match=r"val_tokens = '.* tokens, sha256"):
        train(config, MODEL, TOKENS, tmp_path, val_tokens=HELD_OUT[1:], resume=True)
    # A figure of the third step is none of the last one's.
    assert train(config, MODEL, TOKENS, tmp_path, resume=True).val_loss is None


def test_ids_beyond_16_bits_are_trained_on(tmp_path: Path) -> None:
    model, wide = MODEL | {"vocab_size": 70_000}, TOKENS.astype(np.uint32)
    wide[::7] = 69_999
    result = train(dataclasses.replace(CONFIG, steps=3), model, wide, tmp_path, val_tokens=wide)
    assert result.final_loss < math.log(70_000)
    with torch.no_grad():
        logits = load_checkpoint(result.checkpoint).module()(torch.arange(31)[None])
    assert logits[..., 69_999].mean() > logits[..., 69_999 - 65_536].mean() + 0.5


def test_resuming_a_finished_run_changes_nothing(straight: Path, settings: TrainConfig) -> None:
    free = dataclasses.replace(settings, log_every=1, save_every=1)
    before, log = weights(straight / "final_model.pt"), log_of(straight)
    result = train(free, MODEL, TOKENS, straight, resume=True)
    after = weights(result.checkpoint)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert log_of(straight) == log
    assert result.val_loss == log[-1]["val_loss"]


def test_folders_in_use_or_empty(straight: Path, settings: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"already holds last\.pt"):
        train(settings, MODEL, TOKENS, straight)
    with pytest.raises(UsageError, match="no training run to resume"):
        train(settings, MODEL, TOKENS, tmp_path, resume=True)


def test_damage_is_named(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=5)
    train(config, MODEL, TOKENS, tmp_path)
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(CorruptError, match="has lost lines"):
        train(config, MODEL, TOKENS, tmp_path, resume=True)
    last = tmp_path / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(CorruptError, match=r"last\.pt is damaged"):
        train(config, MODEL, TOKENS, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("config", "model", "tokens", "named"),
    [
        ({"embed_lr": 1e38}, {}, TOKENS, "the training loss is .* norm nan"),
        ({"device": "tpu"}, {}, TOKENS, "unknown device 'tpu'"),
        ({}, {"vocab_size": 31}, TOKENS, "hold id 31"),
        ({}, {"seq_len": 99}, TOKENS, "seq_len is 99, the training run's 16"),
        ({}, {"width": 99}, TOKENS, "the model has no option 'width'"),
        ({}, {}, TOKENS[:10], "10 training tokens"),
        ({}, {}, TOKENS.astype(np.int64), "training tokens are int64"),
    ],
)
def test_unusable_input_is_named(
    tmp_path: Path, config: dict[str, Any], model: dict[str, Any], tokens: np.ndarray, named: str
) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        train(dataclasses.replace(CONFIG, **config), MODEL | model, tokens, tmp_path)
    assert caught.value.hint


def test_missing_model_options_are_named(tmp_path: Path) -> None:
    model = {k: v for k, v in MODEL.items() if k not in ("dim", "num_heads")}
    with pytest.raises(UsageError, match="lack dim, num_heads") as caught:
        train(CONFIG, model, TOKENS, tmp_path)
    assert "--set model.dim=VALUE" in str(caught.value.hint)
