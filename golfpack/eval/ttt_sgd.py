"""Score-first test-time training of all weights by SGD, chunk by chunk.

Facts: openai/parameter-golf, `eval_val_sliding_ttt` of the records of 2026-03-23, 04-06 and 04-11. A
chunk is scored under the weights as they are, then trained on; the last chunk is never trained on.
"""

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from golfpack.base.convert import require
from golfpack.errors import UsageError
from golfpack.eval.log import ScoreLog
from golfpack.eval.modes import CHUNKS, Probe, Stream, shrunk, smaller_chunk
from golfpack.eval.scorer import Scorer, score_windows
from golfpack.eval.windows import lay_windows
from golfpack.models.device import send
from golfpack.models.ranks import Group


@dataclass(frozen=True)
class SgdOptions:
    """Options of SGD test-time training; defaults of the records since 2026-04-06.

    Attributes:
        lr: rate of the first chunk; a cosine over the chunks takes it to 0.
        momentum: carried from chunk to chunk.
        epochs: passes over each chunk.
        chunk_tokens: targets that are scored, then trained on.
        batch_seqs: sequences per step, over all ranks; their length is the window.
        clip: norm of the whole gradient, at most.
        frozen_blocks: blocks, from the first, that are not trained.
        hash_embed: rows of a table of hashed token pairs that is added to the embedding, begins as zeros
            and is trained with the rest (the 1.0744 record, pull request 1529); 0 means none.
    """

    lr: float = 0.005
    momentum: float = 0.9
    epochs: int = 3
    chunk_tokens: int = 32768
    batch_seqs: int = 32
    clip: float = 1.0
    frozen_blocks: int = 0
    hash_embed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "chunk_tokens", "batch_seqs"):
            value = getattr(self, name)
            require(value >= 1, f"ttt.{name} cannot be {value}", "it is at least 1")
        require(self.lr >= 0, f"ttt.lr cannot be {self.lr}", "it is 0 or more")
        require(0 <= self.momentum < 1, f"ttt.momentum cannot be {self.momentum}", "use 0.9")
        frozen = f"ttt.frozen_blocks cannot be {self.frozen_blocks}"
        require(self.frozen_blocks >= 0, frozen, "it is 0 or more")
        what = f"ttt.hash_embed cannot be {self.hash_embed}"
        require(self.hash_embed >= 0, what, "0 means none, the record has 16384")
        require(self.clip > 0, f"ttt.clip cannot be {self.clip}", "it is more than 0")


@dataclass(frozen=True)
class SgdTtt:
    """Windows, scored chunk by chunk, with SGD on each chunk once it is scored.

    Attributes:
        window, stride: of the windows; a window belongs to the chunk of its first scored target.
    """

    window: int
    stride: int
    ttt: SgdOptions = SgdOptions()

    def __post_init__(self) -> None:
        require(
            self.ttt.chunk_tokens >= self.window,
            f"ttt.chunk_tokens={self.ttt.chunk_tokens} is less than the window of {self.window}, so "
            "that no sequence fits a chunk",
            "use larger chunks or a smaller --window",
        )

    def run(self, scorer: Scorer, stream: Stream, group: Group, log: ScoreLog) -> None:
        """Score each chunk's windows, split over the ranks, then train on it together."""
        scorer = scorer.trainable(self.ttt.frozen_blocks)
        if self.ttt.hash_embed:
            if not hasattr(scorer.model, "add_pairs"):
                raise UsageError(
                    "ttt.hash_embed adds to the embedding of golf models alone", "leave it out"
                )
            cast(Any, scorer.model).add_pairs(self.ttt.hash_embed)
        trainer = SgdTrainer(scorer, self.ttt, self.window, group)
        windows = lay_windows(stream.targets, self.window, self.stride)
        chunk_of = windows.first // self.ttt.chunk_tokens
        chunks = -(-stream.targets // self.ttt.chunk_tokens)
        for chunk in range(chunks):
            mine = windows[np.flatnonzero(chunk_of == chunk)]
            mine = mine[group.share(len(mine))]
            score_windows(scorer, stream.read, stream.labels, mine, log)
            if chunk < chunks - 1:
                start = chunk * self.ttt.chunk_tokens
                tokens = stream.learned[start : start + self.ttt.chunk_tokens + 1]
                trainer.train(tokens, cosine(chunk, chunks))

    def rounds(self, stream: Stream) -> np.ndarray:
        """The chunk in which a target is trained on; all of them are scored by then."""
        return np.arange(stream.targets) // self.ttt.chunk_tokens

    def idle(self, documents: np.ndarray) -> list[str]:
        """That all targets are in the last chunk."""
        targets, chunk = int(documents[-1]), self.ttt.chunk_tokens
        if targets > chunk:
            return []
        if (smaller := smaller_chunk(targets, self.window)) is not None:
            way_out = f"--set ttt.chunk_tokens={smaller} trains"
        elif (smaller := smaller_chunk(targets, window := max(1, targets // CHUNKS))) is not None:
            way_out = f"--window {window} --set ttt.chunk_tokens={smaller} trains"
        else:
            way_out = f"score more than {chunk:,}"
        return [
            f"nothing is trained: one chunk of {chunk:,} holds all {targets:,} targets, and the last "
            f"chunk is never trained on; {way_out}"
        ]

    def frozen(self) -> "SgdTtt":
        """The same with rate 0."""
        return replace(self, ttt=replace(self.ttt, lr=0.0))

    def probe(self) -> Probe:
        """Three chunks, the last one partial."""
        window, stride = shrunk(self.window, self.stride, 32)
        small = replace(self.ttt, chunk_tokens=2 * window)
        return Probe(SgdTtt(window, stride, small), (5 * window,))

    def options(self) -> dict[str, Any]:
        """Window, stride and the options of training."""
        return dataclasses.asdict(self)


class SgdTrainer:
    """SGD with momentum on all trainable weights of a scorer; one optimiser for its whole life."""

    def __init__(self, scorer: Scorer, options: SgdOptions, length: int, group: Group) -> None:
        self.scorer, self.options, self.length, self.group = scorer, options, length, group
        self.parameters = [p for p in scorer.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.SGD(self.parameters, lr=options.lr, momentum=options.momentum)

    def train(self, tokens: torch.Tensor, scale: float) -> None:
        """Train on the sequences of `length` targets that fit tokens (n + 1,), n targets.

        The targets after the last full sequence are not trained on.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.lr * scale
        count = (len(tokens) - 1) // self.length
        inputs = tokens[: count * self.length].view(count, self.length)
        targets = tokens[1 : count * self.length + 1].view(count, self.length)
        for _ in range(self.options.epochs):
            for i in range(0, count, self.options.batch_seqs):
                batch = slice(i, i + self.options.batch_seqs)
                self._step(inputs[batch], targets[batch])

    def _step(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """One step on the mean loss of a batch (B, T), each rank taking its share of the rows."""
        share = self.group.share(len(inputs))
        rows = max(1, self.scorer.batch_tokens // self.length)
        self.optimiser.zero_grad(set_to_none=True)
        for i in range(share.start, share.stop, rows):  # nothing, if ranks outnumber rows
            part = slice(i, min(i + rows, share.stop))
            losses = self.scorer.score(
                send(inputs[part], self.scorer.device), send(targets[part], self.scorer.device)
            )
            (losses.sum() / targets.numel()).backward()
        self.group.sum_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.options.clip)
        self.optimiser.step()


def cosine(chunk: int, chunks: int) -> float:
    """From 1 at the first chunk to 0 at the last."""
    return 0.5 * (1.0 + math.cos(math.pi * chunk / max(1, chunks - 1)))
