"""Small models and runs for the tests of evaluation."""

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import nn

from golfpack.eval.documents import document_bounds
from golfpack.eval.log import ScoreLog
from golfpack.eval.modes import Mode, Stream
from golfpack.eval.scorer import Scorer
from golfpack.models.model import Model
from golfpack.models.ranks import ALONE
from golfpack.spec import ModelSpec, TensorSpec

BOS = 1


class RunningMean(nn.Module):
    """Logits that depend on all tokens of the window so far, and on nothing else."""

    spec = ModelSpec("toy", {"vocab_size": 5}, (TensorSpec("table", (5, 5), "embed"),))

    def forward(self, tokens):
        seen = F.one_hot(tokens, 5).float().cumsum(1)
        return seen / seen.sum(-1, keepdim=True)


def scorer_of(checkpoint: Model, kind: type[Scorer] = Scorer, **options: Any) -> Scorer:
    model = checkpoint.module()
    return kind(model, checkpoint.spec, **options)


def toy_tokens(count: int, seed: int = 0, document: int = 40) -> np.ndarray:
    """Zipfian tokens of a vocabulary of 256, in documents of about `document` tokens."""
    rng = np.random.default_rng(seed)
    tokens = np.minimum(rng.zipf(1.3, count) + BOS, 255)
    starts = np.cumsum(rng.integers(document // 2, document * 3 // 2, count // document * 2))
    tokens[starts[starts < count]] = BOS
    tokens[0] = BOS
    return tokens


def run_mode(mode: Mode, scorer: Scorer, tokens: np.ndarray) -> ScoreLog:
    """A complete log of a run in one process."""
    log = ScoreLog(len(tokens) - 1)
    mode.run(scorer, Stream.of(tokens, document_bounds(tokens, BOS)), ALONE, log)
    log.merge(ALONE)
    assert log.complete
    assert log.refused == 0
    return log
