"""Tokens per second of every way of evaluating, against a straightforward loop in the same run.

    python benchmarks/bench_eval.py CKPT --tokens SHARD [--limit 4097] [--window 512] [--stride 64]

The loop has one window (or document) at a time in the model and computes logits for every position. The
second table is about what sliding windows share: a KV cache per window that is filled with the
context first gives the same figures; one that is carried on through the stream does not.

One thread; tokens per second of CPU time, so that other jobs on the machine do not blur the ratios.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from golfpack.data.shards import read_tokens
from golfpack.eval.documents import document_bounds
from golfpack.eval.log import ScoreLog
from golfpack.eval.modes import Mode, Stream, Windowed
from golfpack.eval.scorer import Scorer
from golfpack.eval.ttt_lora import LoraOptions, LoraTtt
from golfpack.eval.ttt_sgd import SgdOptions, SgdTtt
from golfpack.eval.windows import lay_windows
from golfpack.models.base import KVCache
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.model import Model
from golfpack.models.ranks import ALONE

BOS = 1


class LoopScorer(Scorer):
    """One window at a time, logits of every position."""

    def logits(self, tokens: torch.Tensor, keep: int) -> torch.Tensor:
        """As `Scorer.logits`, without leaving anything out."""
        return self.model(tokens)[:, -keep:].float()


def timed(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """(CPU seconds, losses) of a run, the best of three."""
    runs = []
    for _ in range(3):
        began = time.process_time()
        nll = run()
        runs.append((time.process_time() - began, nll))
    return min(runs, key=lambda r: r[0])


def mode_run(checkpoint: Model, mode: Mode, tokens: np.ndarray, kind: type[Scorer]) -> Callable:
    """A run of a mode, ready to be timed."""
    model = checkpoint.module()
    scorer = kind(model, checkpoint.spec, batch_tokens=1 if kind is LoopScorer else None)
    stream = Stream.of(tokens, document_bounds(tokens, BOS))

    def run() -> np.ndarray:
        log = ScoreLog(stream.targets)
        mode.run(scorer, stream, ALONE, log)
        return log.nll

    return run


@torch.inference_mode()
def window_loop(model: nn.Module, tokens: torch.Tensor, window: int, stride: int) -> np.ndarray:
    """Sliding windows one by one, as plainly as it can be written."""
    nll = []
    windows = lay_windows(len(tokens) - 1, window, stride)
    for start, stop, first in zip(windows.start, windows.stop, windows.first, strict=True):
        logits = model(tokens[None, start:stop])[0]
        losses = F.cross_entropy(logits, tokens[start + 1 : stop + 1], reduction="none")
        nll.append(losses[first - start :].double().numpy())
    return np.concatenate(nll)


@torch.inference_mode()
def cache_loop(model: nn.Module, tokens: torch.Tensor, window: int, stride: int) -> np.ndarray:
    """A KV cache per window, filled with its context, then read with the targets it scores."""
    nll = []
    windows = lay_windows(len(tokens) - 1, window, stride)
    for start, stop, first in zip(windows.start, windows.stop, windows.first, strict=True):
        cache = KVCache(window)
        if first > start:
            model(tokens[None, start:first], cache=cache)
        logits = model(tokens[None, first:stop], cache=cache)[0]
        losses = F.cross_entropy(logits, tokens[first + 1 : stop + 1], reduction="none")
        nll.append(losses.double().numpy())
    return np.concatenate(nll)


@torch.inference_mode()
def carried_loop(model: nn.Module, tokens: torch.Tensor, window: int, stride: int) -> np.ndarray:
    """One KV cache for the whole stream: nothing is read twice, and nothing is ever forgotten."""
    del window
    cache, nll = KVCache(len(tokens)), []
    for start in range(0, len(tokens) - 1, stride):
        stop = min(start + stride, len(tokens) - 1)
        logits = model(tokens[None, start:stop], cache=cache)[0]
        losses = F.cross_entropy(logits, tokens[start + 1 : stop + 1], reduction="none")
        nll.append(losses.double().numpy())
    return np.concatenate(nll)


def modes(window: int, stride: int) -> dict[str, Mode]:
    """What is timed; chunks are short, so that a short stream has some to train on."""
    lora = LoraOptions(window=window, chunk=128)
    return {
        "plain": Windowed(window, window),
        f"sliding, stride {stride}": Windowed(window, stride),
        "SGD training": SgdTtt(window, window, SgdOptions(chunk_tokens=4 * window)),
        "LoRA training": LoraTtt(lora),
    }


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--limit", type=int, default=4097)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--stride", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(args.checkpoint)
    tokens = read_tokens(args.tokens, args.limit)
    targets = len(tokens) - 1
    print(
        "| mode | tokens/s | loop, tokens/s | ratio | difference of mean loss |\n|---|---|---|---|---|"
    )
    for name, mode in modes(args.window, args.stride).items():
        loop = mode
        if isinstance(mode, LoraTtt):
            loop = LoraTtt(replace(mode.ttt, batch_docs=1))
        ours, nll = timed(mode_run(checkpoint, mode, tokens, Scorer))
        theirs, other = timed(mode_run(checkpoint, loop, tokens, LoopScorer))
        print(
            f"| {name} | {targets / ours:,.0f} | {targets / theirs:,.0f} | {theirs / ours:.2f} "
            f"| {abs(nll.mean() - other.mean()):.1e} |",
            flush=True,
        )
    model = checkpoint.module()
    stream = torch.from_numpy(tokens.astype(np.int64))
    batched, nll = timed(
        mode_run(checkpoint, Windowed(args.window, args.stride), tokens, Scorer)
    )  # fmt: skip
    print("\n| sliding windows | tokens/s | of the batched form | difference of mean loss |")
    print(f"|---|---|---|---|\n| batched, as golfpack does | {targets / batched:,.0f} | 1 | 0 |")
    for name, loop in (
        ("window by window", window_loop),
        ("a KV cache per window", cache_loop),
        ("one KV cache, never emptied", carried_loop),
    ):
        seconds, other = timed(lambda loop=loop: loop(model, stream, args.window, args.stride))
        print(
            f"| {name} | {targets / seconds:,.0f} | {batched / seconds:.2f} "
            f"| {other.mean() - nll.mean():+.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
