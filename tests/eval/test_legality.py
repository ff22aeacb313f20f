"""Our modes are legal, and every cheat is caught by the check that is there for it, and by no other."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from eval.toys import BOS, run_mode, scorer_of, toy_tokens

from golfpack.eval.documents import document_bounds
from golfpack.eval.legality import check_legality
from golfpack.eval.log import ScoreLog
from golfpack.eval.modes import Probe, Stream, Windowed
from golfpack.eval.scorer import Scorer, score_windows
from golfpack.eval.ttt_lora import LoraOptions, LoraTtt
from golfpack.eval.ttt_phased import PhasedOptions, PhasedTtt
from golfpack.eval.ttt_sgd import SgdOptions, SgdTrainer, SgdTtt
from golfpack.eval.windows import lay_windows
from golfpack.models.ranks import ALONE

LORA = LoraOptions(rank=4, chunk=8, window=32, lr=0.01)
PHASED = PhasedOptions(
    rank=4, chunk=8, window=32, lr=0.01, prefix_docs=4, phases=2, global_window=8,
    global_chunk_tokens=16, global_lr=0.01,
)  # fmt: skip
SGD = SgdTtt(32, 16, SgdOptions(chunk_tokens=64))
TOKENS = toy_tokens(300)


def verdicts(mode, scorer, tokens=TOKENS):
    """Names of the checks that fail."""
    log = ScoreLog(len(tokens) - 1)
    mode.run(scorer, Stream.of(tokens, document_bounds(tokens, BOS)), ALONE, log)
    checks = check_legality(mode, scorer, tokens, 256, ALONE, log)
    assert [c.name for c in checks] == [
        "causality", "normalisation", "score_before_update", "single_pass",
    ]  # fmt: skip
    return [c.name for c in checks if not c.passed]


@pytest.mark.parametrize(
    "mode",
    [Windowed(64, 64), Windowed(64, 1), Windowed(64, 24), SGD, LoraTtt(LORA), PhasedTtt(PHASED)],
    ids=lambda m: type(m).__name__,
)
def test_our_modes_are_legal(tiny, mode):
    assert verdicts(mode, scorer_of(tiny)) == []


@pytest.mark.parametrize("mode", [SGD, LoraTtt(LORA), PhasedTtt(PHASED)])
def test_the_checks_of_training_could_have_failed(tiny, mode):
    """Altered training does change later rounds: a check on training that does nothing is empty."""
    scorer = scorer_of(tiny)
    log = run_mode(mode, scorer, TOKENS)

    def later(trained):
        """By how much losses of later rounds moved, in nats, as the check tells it."""
        checks = check_legality(trained, scorer, TOKENS, 256, ALONE, log)
        (measured,) = (c.measured for c in checks if c.name == "score_before_update")
        found = re.search(r"later rounds by ([0-9.e+-]+)", measured)
        assert found, measured
        return float(found[1])

    assert later(mode) > 1e-4
    assert later(mode.frozen()) == 0


def test_a_short_stream_is_probed_too(tiny):
    assert verdicts(SgdTtt(2, 2, SgdOptions(chunk_tokens=2)), scorer_of(tiny), TOKENS[:4]) == []


class Peeker(Scorer):
    """Mixes in what it would have said had it seen the next token."""

    def logits(self, tokens, keep):
        z = super().logits(tokens, tokens.shape[1])
        ahead = F.one_hot(tokens[:, 1:], z.shape[-1]).to(z.dtype)
        return (z + 1e-3 * F.pad(ahead, (0, 0, 0, 1)))[:, -keep:]


class Omitter(Scorer):
    """Leaves a token it does not expect out of the sum over the alphabet."""

    def losses(self, logits, targets):
        total = logits[..., 1:].logsumexp(-1)
        return total - logits.gather(-1, targets[..., None])[..., 0]


class Forbidder(Scorer):
    """Gives one token no probability at all."""

    def losses(self, logits, targets):
        banned = torch.arange(logits.shape[-1]) == 254
        return super().losses(logits.masked_fill(banned, -torch.inf), targets)


@dataclass(frozen=True)
class TrainsFirst(SgdTtt):
    """Trains on a chunk, then scores it."""

    def run(self, scorer, stream, group, log):
        scorer = scorer.trainable()
        trainer = SgdTrainer(scorer, self.ttt, self.window, group)
        windows = lay_windows(stream.targets, self.window, self.window)
        for w in range(len(windows)):
            at = slice(int(windows.start[w]), int(windows.stop[w]) + 1)
            trainer.train(stream.learned[at], 1.0)
            score_windows(scorer, stream.read, stream.labels, windows[w : w + 1], log)

    def rounds(self, stream):
        return np.arange(stream.targets) // self.window

    def probe(self):
        small = super().probe()
        return Probe(TrainsFirst(small.mode.window, small.mode.stride, self.ttt), small.documents)


@dataclass(frozen=True)
class TrainsAhead(TrainsFirst):
    """Scores a chunk, then trains on the one that comes next."""

    def run(self, scorer, stream, group, log):
        scorer = scorer.trainable()
        trainer = SgdTrainer(scorer, self.ttt, self.window, group)
        windows = lay_windows(stream.targets, self.window, self.window)
        for w in range(len(windows)):
            score_windows(scorer, stream.read, stream.labels, windows[w : w + 1], log)
            if w + 1 < len(windows):
                at = slice(int(windows.start[w + 1]), int(windows.stop[w + 1]) + 1)
                trainer.train(stream.learned[at], 1.0)

    def probe(self):
        small = super().probe()
        return Probe(TrainsAhead(small.mode.window, small.mode.stride, self.ttt), small.documents)


@dataclass(frozen=True)
class Rescorer(SgdTtt):
    """Goes over the stream again once it has been trained on."""

    def run(self, scorer, stream, group, log):
        super().run(scorer, stream, group, log)
        scorer = scorer.trainable()
        SgdTrainer(scorer, replace(self.ttt, epochs=1), self.window, group).train(
            stream.learned, 1.0
        )
        windows = lay_windows(stream.targets, self.window, self.stride)
        score_windows(scorer, stream.read, stream.labels, windows, log)


@pytest.mark.parametrize(
    ("mode", "kind", "caught"),
    [
        (Windowed(64, 64), Peeker, "causality"),
        (Windowed(64, 24), Peeker, "causality"),
        (SGD, Peeker, "causality"),
        (LoraTtt(LORA), Peeker, "causality"),
        (PhasedTtt(PHASED), Peeker, "causality"),
        (Windowed(64, 64), Omitter, "normalisation"),
        (LoraTtt(LORA), Omitter, "normalisation"),
        (Windowed(64, 64), Forbidder, "normalisation"),
        (TrainsFirst(32, 32, SGD.ttt), Scorer, "score_before_update"),
        (TrainsAhead(32, 32, SGD.ttt), Scorer, "score_before_update"),
        (Rescorer(32, 16, SGD.ttt), Scorer, "single_pass"),
    ],
)
def test_each_cheat_is_caught_by_its_check(tiny, mode, kind, caught):
    tokens = np.where(TOKENS == 254, 253, TOKENS)
    assert verdicts(mode, scorer_of(tiny, kind), tokens) == [caught]


def test_a_target_is_logged_once():
    log = ScoreLog(4)
    log.write(0, np.array([1.0, 2.0]), np.array([1, 2]))
    log.write(1, np.array([0.5, 3.0]), np.array([9, 3]))
    assert log.nll[:3].tolist() == [1.0, 2.0, 3.0]
    assert log.context.tolist() == [1, 2, 3, 0]
    assert (log.refused, log.complete) == (1, False)
