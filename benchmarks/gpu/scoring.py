"""Tokens per second of scoring, against a straightforward batched loop."""

import numpy as np
import torch

from benchmarks.gpu.measure import Findings, Job, timed
from benchmarks.gpu.models import looks_trained, some_tokens
from golfpack.eval.log import ScoreLog
from golfpack.eval.modes import Mode, Stream, Windowed
from golfpack.eval.scorer import Scorer
from golfpack.eval.ttt_sgd import SgdOptions, SgdTtt
from golfpack.models import FAMILIES
from golfpack.models.golf.family import spec
from golfpack.models.ranks import ALONE

STRIDE = 64
# Scoring in windows that slide, over the straightforward loop.
LEAST_RATIO = 1.5


class LoopScorer(Scorer):
    """Batches of windows with logits of every position, and losses fetched after every batch."""

    def logits(self, tokens: torch.Tensor, keep: int) -> torch.Tensor:
        """As `Scorer.logits`, without leaving anything out."""
        with self._precision():
            return self.model(tokens)[:, -keep:].float()


def scoring(job: Job, found: Findings) -> None:
    """Plain, sliding and SGD test-time training; plain also under torch.compile."""
    window = job.model["seq_len"]
    stride = job.pick(STRIDE, 8)
    chunk = job.pick(32768, 128)
    sgd = SgdTtt(window, window, SgdOptions(chunk_tokens=chunk, epochs=1))
    plain = Windowed(window, window)
    # Enough for a second or more each on an H100.
    modes: tuple[tuple[str, Mode, int], ...] = (
        ("plain", plain, job.pick(1 << 21, 200)),
        (f"sliding, stride {stride}", Windowed(window, stride), job.pick(1 << 17, 100)),
        ("SGD test-time training", sgd, job.pick(1 << 18, 300)),
    )
    for name, mode, targets in modes:
        ours, nll = _timed_mode(job, mode, targets, Scorer)
        loop, other = _timed_mode(job, mode, targets, LoopScorer)
        found.rates(name, targets, ours, loop, "batched loop, all logits, fetched every batch")
        found.check(f"{name}: mean loss against the loop's", abs(nll - other), 2e-3)
        if name.startswith("sliding") and not job.smoke:
            found.check("sliding: time over the loop's", ours / loop, 1 / LEAST_RATIO)
    if not job.smoke:
        targets = modes[0][2]
        eager, nll = _timed_mode(job, plain, targets, Scorer)
        ours, other = _timed_mode(job, plain, targets, Scorer, "default")
        found.rates("plain, compiled", targets, ours, eager, "the same without torch.compile")
        found.check("plain, compiled: mean loss", abs(nll - other), 2e-3)


def _timed_mode(
    job: Job, mode: Mode, targets: int, kind: type[Scorer], compiled: str | None = None
) -> tuple[float, float]:
    """(seconds, mean loss) of a mode; the warm-up run counts for nothing."""
    config = job.model
    of = spec(config)
    weights = {n: w.numpy() for n, w in looks_trained(config).items()}
    scorer = kind(FAMILIES["golf"].module(of.config, weights), of, job.device, None, compiled)
    if kind is LoopScorer:
        scorer.fetch_every = 1
    if compiled:
        scorer.warm_up(config["seq_len"])
    stream = Stream.of(some_tokens(job, config["vocab_size"], targets + 1), np.array([0, targets]))
    logs: list[ScoreLog] = []

    def run() -> None:
        logs.append(ScoreLog(targets))
        mode.run(scorer, stream, ALONE, logs[-1])

    seconds = timed(run, job, 3)
    return seconds, float(logs[-1].nll.mean())
