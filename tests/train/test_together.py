"""Several processes train what one does."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import agree
from ranks import run_ranks

from golfpack.errors import UsageError
from golfpack.train.config import TrainConfig
from golfpack.train.trainer import check_parts

SETTINGS = (
    "train.seq_len=16", "train.batch_tokens=256", "train.accumulate=4", "train.log_every=1",
    "train.dropout=0.1", "train.order=random", "train.optimizer=adamw", "train.lr=0.003",
    "train.val_every=25", "model.num_layers=2", "model.dim=16", "model.num_heads=2",
    "model.mlp_hidden=32", "model.vocab_size=64",
)  # fmt: skip


def golfpack(folder: Path, ranks: int, steps: int, *more: str) -> subprocess.CompletedProcess[str]:
    settings = [word for s in SETTINGS for word in ("--set", s)]
    return run_ranks(
        ranks, "-m", "golfpack", "train", "--family", "gpt2", "--tokens", "t.npy", "--val-fraction",
        "0.1", "--out", folder, "--steps", steps, "--threads", "1", *settings, *more,
        cwd=folder.parent,
    )  # fmt: skip


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    ids = np.random.default_rng(0).zipf(1.6, 5000) % 64
    np.save(tmp_path / "t.npy", ids)
    return tmp_path


def steps_of(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    return [line for line in lines if line["type"] == "step"]


def compare(tokens: Path, ranks: int, steps: int, *more: str) -> None:
    run = golfpack(tokens / f"of{ranks}", ranks, steps, *more)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("wrote") == 1
    alone, shared = steps_of(tokens / "of1"), steps_of(tokens / f"of{ranks}")
    assert len(alone) == len(shared) == steps
    for one, other in zip(alone, shared, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert shared[-1]["val_loss"] == pytest.approx(alone[-1]["val_loss"], rel=1e-5)
    final = [
        torch.load(tokens / f"of{n}" / "final_model.pt", weights_only=True) for n in (1, ranks)
    ]
    for name in final[0]:
        agree(final[1][name].numpy(), final[0][name].numpy(), 1e-3)


@pytest.mark.slow
def test_two_ranks_train_what_one_does(tokens: Path) -> None:
    assert golfpack(tokens / "of1", 1, 6).returncode == 0
    compare(tokens, 2, 6)


@pytest.mark.slow  # test_features.py has the gradients of a group in one process
def test_two_ranks_share_every_feature(tokens: Path) -> None:
    settings = (
        "model.num_kv_heads=1", "model.passes=2", "train.dropout=0", "train.loops_from=0.5",
        "train.word_starts=3-9", "train.word_start_weight=1.5", "train.focal_gamma=1",
        "train.mtp_heads=1", "train.jepa_weight=0.1", "train.meta_weight=0.5", "train.ignore_id=2",
        "train.curriculum_steps=3", "train.qk_init_tokens=999",
    )  # fmt: skip
    more = ["--family", "golf", *(word for s in settings for word in ("--set", s))]
    alone = golfpack(tokens / "of1", 1, 6, *more)
    assert alone.returncode == 0, alone.stderr
    compare(tokens, 2, 6, *more)


@pytest.mark.slow
def test_two_ranks_share_muons_matrices(tokens: Path) -> None:
    """What they train is what one does, and each of them could go on with it."""
    more = ("--set", "train.optimizer=muon", "--set", "train.matrix_lr=0.01")
    assert golfpack(tokens / "of1", 1, 20, *more).returncode == 0
    compare(tokens, 2, 20, *more)


@pytest.mark.slow
def test_one_two_and_four_ranks(tokens: Path) -> None:
    assert golfpack(tokens / "of1", 1, 50).returncode == 0
    compare(tokens, 2, 50)
    compare(tokens, 4, 50)
    # A run of four goes on with two, and the first rank's message is the only one.
    again = golfpack(tokens / "of4", 2, 50, "--resume")
    assert again.returncode == 0, again.stderr
    refused = golfpack(tokens / "of4", 2, 50)
    assert refused.returncode != 0
    assert refused.stderr.count("already holds last.pt") == 1


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(UsageError, match="3 processes cannot share a batch of 4 parts") as caught:
        check_parts(TrainConfig(steps=1, accumulate=4), 3)
    assert "train.accumulate=3" in (caught.value.hint or "")
