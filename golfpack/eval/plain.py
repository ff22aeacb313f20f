"""Plain scoring: contiguous windows that do not overlap, each scored without the others.

The challenge's `eval_val` (openai/parameter-golf, `train_gpt.py`), except that it drops the targets
after the last full window, and here they are scored as a shorter window.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from golfpack.errors import UsageError

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Score:
    """Losses of a token stream.

    Attributes:
        nll: (targets,) float32, negative log-likelihood of each target in stream order, nats.
        seconds: wall time of scoring.
    """

    nll: np.ndarray
    seconds: float

    @property
    def scored_tokens(self) -> int:
        return len(self.nll)


def score_plain(
    model: nn.Module,
    tokens: np.ndarray,
    window: int,
    *,
    batch_tokens: int = 8192,
    threads: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Score:
    """Score every target tokens[1:] once, each given its window's tokens before it.

    Float32 on CPU; bfloat16 autocast on CUDA, as the challenge.

    Args:
        model: tokens (B, T) -> logits (B, T, V); moved to `device`.
        tokens: (n,) integers, n >= 2.
        window: targets per window.
        batch_tokens: targets per forward pass, about.
        threads: CPU threads while scoring; None leaves them as they are.
        device: "cpu", "cuda" or "cuda:N".
        progress: called with targets done, targets in all, and the mean loss so far.

    Raises:
        UsageError: too few tokens, a window below 1, or losses that are not finite.
    """
    if window < 1 or len(tokens) < 2:
        raise UsageError(
            f"cannot score {len(tokens)} tokens in windows of {window}",
            "at least 2 tokens and a window of at least 1 are needed",
        )
    began = time.perf_counter()
    stream = torch.from_numpy(tokens.astype(np.int64))
    nll = np.zeros(len(tokens) - 1, np.float32)
    times_scored = np.zeros(len(nll), np.int64)
    model.to(device).eval()
    with _threads(threads), torch.inference_mode(), _precision(device):
        for start, stop, length in _batches(len(nll), window, max(1, batch_tokens // window)):
            inputs = stream[start:stop].view(-1, length).to(device)
            targets = stream[start + 1 : stop + 1].to(device)
            logits = model(inputs).float().flatten(0, 1)
            losses = F.cross_entropy(logits, targets, reduction="none")
            nll[start:stop] = losses.cpu().numpy()
            times_scored[start:stop] += 1
            if progress is not None:
                progress(stop, len(nll), f"loss {nll[:stop].mean(dtype=np.float64):.4f}")
    assert (times_scored == 1).all(), "every target must be scored exactly once"
    if not np.isfinite(nll).all():
        raise UsageError(
            f"the model's loss is not finite at target {int((~np.isfinite(nll)).argmax())}",
            "its weights overflow; is the config (softcap, activation) the right one?",
        )
    return Score(nll, time.perf_counter() - began)


def _batches(targets: int, window: int, windows_per_batch: int) -> Iterator[tuple[int, int, int]]:
    """(start, stop, window length) of each forward pass; a last shorter window goes alone."""
    full = targets - targets % window
    step = window * windows_per_batch
    for start in range(0, full, step):
        yield start, min(start + step, full), window
    if full < targets:
        yield full, targets, targets - full


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _precision(device: str) -> torch.autocast | nullcontext[None]:
    if device.startswith("cuda"):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()
