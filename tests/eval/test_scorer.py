"""Scoring windows: by hand, whatever the batch and the threads, and the challenge's figures."""

import numpy as np
import pytest
import torch
from conftest import agree
from eval.toys import RunningMean, run_mode, scorer_of, toy_tokens
from torch import nn

from golfpack.data.shards import read_shard
from golfpack.data.tokenizer import load_tokenizer
from golfpack.errors import UsageError
from golfpack.eval.bytes import ByteTable, loss_and_bpb
from golfpack.eval.modes import Windowed
from golfpack.eval.scorer import Scorer, head_modules
from golfpack.models.checkpoint import load_checkpoint


def by_hand(tokens, window, stride):
    """(nll, context) of every target, one at a time."""
    found = []
    for target in range(len(tokens) - 1):
        late = max(0, -(-(target + 1 - window) // stride))  # strides until a window reaches it
        seen = tokens[late * stride : target + 1]
        z = np.bincount(seen, minlength=5) / len(seen)
        found.append((np.log(np.exp(z).sum()) - z[tokens[target + 1]], len(seen)))
    return [np.array(column) for column in zip(*found, strict=True)]


@pytest.mark.parametrize("batch_tokens", [1, 20, 10_000])
@pytest.mark.parametrize(
    ("count", "window", "stride"),
    [(2, 7, 7), (22, 7, 7), (23, 7, 7), (30, 1, 1), (7, 8, 3), (9, 8, 3), (12, 8, 3), (40, 8, 3)],
)
def test_every_target_is_scored_given_its_own_window(count, window, stride, batch_tokens):
    tokens = np.random.default_rng(0).integers(0, 5, count)
    scorer = Scorer(RunningMean(), RunningMean.spec, batch_tokens=batch_tokens)
    log = run_mode(Windowed(window, stride), scorer, tokens)
    nll, context = by_hand(tokens, window, stride)
    agree(log.nll, nll)
    assert log.context.tolist() == context.tolist()


def test_batch_size_and_threads_change_nothing(tiny):
    tokens = toy_tokens(700)
    losses = []
    before = torch.get_num_threads()
    try:
        for batch_tokens, threads in ((64, 1), (1000, 1), (100_000, 2)):
            torch.set_num_threads(threads)
            scorer = scorer_of(tiny, batch_tokens=batch_tokens)
            losses.append(run_mode(Windowed(64, 24), scorer, tokens).nll)
    finally:
        torch.set_num_threads(before)
    for other in losses[1:]:
        agree(other.mean(), losses[0].mean())
        agree(other, losses[0])


def test_the_head_sees_only_positions_that_are_scored(tiny):
    scorer, rows = scorer_of(tiny), []
    head = scorer.model.get_submodule(head_modules(tiny.spec)[0])
    head.register_forward_hook(lambda _m, _args, out: rows.append(out.shape[1]))
    tokens = torch.arange(32)[None]
    with torch.inference_mode():
        last = scorer.logits(tokens, 5)
        assert rows == [5]
        assert last.shape == (1, 5, 256)
        agree(last, scorer.model(tokens)[:, -5:])


def test_a_model_that_mixes_positions_behind_its_head_is_left_alone(tiny):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = tiny.module()

        def get_submodule(self, target):
            return self.net.get_submodule(target)

        def forward(self, tokens):
            z = self.net(tokens)
            return z + 0.5 * torch.cat((z[:, :1] * 0, z[:, :-1]), 1)

    scorer = Scorer(Mixed(), tiny.spec)
    tokens = torch.arange(32)[None]
    with torch.inference_mode():
        assert torch.equal(scorer.logits(tokens, 5), scorer.model(tokens)[:, -5:])


def test_a_copy_is_trained_and_the_original_is_not(tiny):
    scorer = scorer_of(tiny)
    copy = scorer.trainable(frozen_blocks=1)
    trained = {n for n, p in copy.model.named_parameters() if p.requires_grad}
    assert "blocks.1.attn.c_q.weight" in trained
    assert "tok_emb.weight" in trained
    assert not any(n.startswith("blocks.0.") for n in trained)
    with torch.no_grad():
        for p in copy.model.parameters():
            p.zero_()
    assert not any(p.requires_grad or not p.any() for p in scorer.model.parameters())


def test_losses_that_are_not_finite():
    class Overflow(RunningMean):
        def forward(self, tokens):
            return super().forward(tokens) * torch.nan

    with pytest.raises(UsageError, match="not finite at target 0"):
        run_mode(Windowed(2, 2), Scorer(Overflow(), RunningMean.spec), np.arange(4))


@pytest.mark.slow
def test_compiled_scoring_gives_the_same(tiny):
    tokens = toy_tokens(300)
    scorer = scorer_of(tiny, compiled="default")
    scorer.warm_up(64)
    plain = run_mode(Windowed(64, 24), scorer_of(tiny), tokens)
    np.testing.assert_allclose(run_mode(Windowed(64, 24), scorer, tokens).nll, plain.nll, atol=1e-4)


BOOKS = ("books_sp1024nb_val", ".NO_BYTE_FALLBACK")
WEB = ("fineweb10B_sp1024_val_first262k", "")
S1 = "golf_7.6M/s1_relu2_bpb1.875.int8.ptz"
FIGURES = [
    # checkpoint, data, tokens, window, stride, val_loss, val_bpb, fast
    ("golf_0.48M/final_model.pt", WEB, 65_537, 512, 512, 4.611656, 2.726690, True),
    ("golf_0.48M/final_model.pt", WEB, 65_537, 1024, 1024, 4.627859, 2.736270, False),
    ("golf_0.48M/final_model.pt", WEB, 8_193, 512, 64, 4.612493, 2.682199, True),
    ("golf_0.48M/final_model.pt", WEB, 16_000, 512, 256, 4.660259, 2.727002, True),
    ("books_6x256/final_model.pt", BOOKS, 65_537, 512, 512, 2.940190, 1.538162, False),
    ("books_6x256/final_model.pt", BOOKS, 65_537, 1024, 1024, 2.942214, 1.539221, False),
    ("books_6x256/final_model.pt", BOOKS, 8_193, 512, 64, 3.166130, 1.664772, False),
    ("books_6x256/final_model.pt", BOOKS, 16_000, 512, 256, 3.078864, 1.611825, False),
    (S1, WEB, 65_537, 1024, 1024, 3.408717, 2.015440, False),
    (S1, WEB, 8_193, 512, 64, 3.351374, 1.948849, False),
    (S1, WEB, 16_000, 512, 256, 3.466321, 2.028356, False),
    ("web_8x256/final_model.pt", WEB, 65_537, 512, 512, 3.367569, 1.991110, False),
    ("web_8x256/final_model.pt", WEB, 65_537, 1024, 1024, 3.376098, 1.996153, False),
    ("web_8x256/final_model.pt", WEB, 8_193, 512, 64, 3.429027, 1.994005, False),
    ("web_8x256/final_model.pt", WEB, 16_000, 512, 256, 3.414728, 1.998166, False),
]


@pytest.mark.parametrize(
    ("name", "data", "count", "window", "stride", "loss", "bpb"),
    [pytest.param(*f[:-1], marks=[] if f[-1] else [pytest.mark.slow]) for f in FIGURES],
)
def test_the_challenges_figures(shared, name, data, count, window, stride, loss, bpb):
    tokens = read_shard(shared / f"data/shards/{data[0]}.bin", count)
    sp = load_tokenizer(shared / f"data/tokenizers/fineweb_1024_bpe{data[1]}.model")
    scorer = scorer_of(load_checkpoint(shared / "checkpoints" / name))
    log = run_mode(Windowed(window, stride), scorer, tokens)
    counts = ByteTable.from_tokenizer(sp, 1024).count(tokens)
    # The references are printed to six digits.
    assert loss_and_bpb(log.nll, counts) == pytest.approx((loss, bpb), abs=5e-6)
