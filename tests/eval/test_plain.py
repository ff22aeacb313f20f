"""Plain scoring: every target once, each window on its own, the challenge's figures."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from golfpack.data.shards import read_shard
from golfpack.data.tokenizer import load_tokenizer
from golfpack.errors import UsageError
from golfpack.eval.bytes import ByteTable, loss_and_bpb
from golfpack.eval.plain import score_plain
from golfpack.models.checkpoint import build_model, load_checkpoint


class RunningMean(nn.Module):
    """Logits that depend on all tokens of the window so far, and on nothing else."""

    def forward(self, tokens):
        one_hot = F.one_hot(tokens, 5).float()
        return one_hot.cumsum(1) / torch.arange(1, tokens.shape[1] + 1)[:, None]


def by_hand(tokens, window):
    nll = []
    for start in range(0, len(tokens) - 1, window):
        for t in range(start, min(start + window, len(tokens) - 1)):
            z = np.bincount(tokens[start : t + 1], minlength=5) / (t + 1 - start)
            nll.append(np.log(np.exp(z).sum()) - z[tokens[t + 1]])
    return nll


@pytest.mark.parametrize("batch_tokens", [1, 8, 10_000])
@pytest.mark.parametrize(("count", "window"), [(22, 7), (23, 7), (2, 7), (9, 8), (30, 1)])
def test_every_target_is_scored_once_given_its_own_window(count, window, batch_tokens):
    tokens = np.random.default_rng(0).integers(0, 5, count).astype(np.uint16)
    calls = []
    score = score_plain(
        RunningMean(),
        tokens,
        window,
        batch_tokens=batch_tokens,
        progress=lambda *a: calls.append(a),
    )
    assert score.scored_tokens == count - 1
    np.testing.assert_allclose(score.nll, by_hand(tokens, window), atol=1e-6)
    assert calls[-1][:2] == (count - 1, count - 1)


def test_threads_are_restored():
    before = torch.get_num_threads()
    score_plain(RunningMean(), np.arange(5), 4, threads=before + 1)
    assert torch.get_num_threads() == before


def test_what_cannot_be_scored():
    for tokens, window in ((np.array([1]), 4), (np.arange(4), 0)):
        with pytest.raises(UsageError, match="cannot score"):
            score_plain(RunningMean(), tokens, window)

    class Overflow(RunningMean):
        def forward(self, tokens):
            return super().forward(tokens) * torch.nan

    with pytest.raises(UsageError, match="not finite at target 0"):
        score_plain(Overflow(), np.arange(4), 2)


@pytest.mark.parametrize(
    ("name", "shard", "tokenizer", "window", "loss", "bpb"),
    [
        ("golf_0.48M", "fineweb10B_sp1024_val_first262k", "", 512, 4.611656, 2.726690),
        ("golf_0.48M", "fineweb10B_sp1024_val_first262k", "", 1024, 4.627859, 2.736270),
        pytest.param(
            "web_8x256", "fineweb10B_sp1024_val_first262k", "", 1024, 3.376098, 1.996153,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "books_6x256", "books_sp1024nb_val", ".NO_BYTE_FALLBACK", 512, 2.940190, 1.538162,
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_the_challenges_figures(shared, name, shard, tokenizer, window, loss, bpb):
    checkpoint = load_checkpoint(shared / "checkpoints" / name / "final_model.pt")
    model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    tokens = read_shard(shared / f"data/shards/{shard}.bin", 65_537)
    sp = load_tokenizer(shared / f"data/tokenizers/fineweb_1024_bpe{tokenizer}.model")
    score = score_plain(model, tokens, window)
    counts = ByteTable.from_tokenizer(sp, 1024).count(tokens)
    assert loss_and_bpb(score.nll, counts) == pytest.approx((loss, bpb), abs=2e-6)
