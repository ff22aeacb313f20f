"""Phased test-time training: LoRA per document, and SGD on the whole model between phases.

Facts: openai/parameter-golf, the phased records since 2026-04-13. The first `prefix_docs` documents are
cut into phases. Each phase's documents are scored with LoRA; then, and only then, the model itself
learns from them (one SGD run, fresh momentum), and scoring goes on with the better model. What follows
the prefix is scored with LoRA alone.
"""

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from golfpack.base.convert import require
from golfpack.eval.log import ScoreLog
from golfpack.eval.modes import Probe, Stream, smaller_chunk
from golfpack.eval.scorer import Scorer
from golfpack.eval.ttt_lora import (
    LoraOptions,
    chunk_in_document,
    idle_adapters,
    score_documents,
    small_lora,
)
from golfpack.eval.ttt_sgd import SgdOptions, SgdTrainer, cosine
from golfpack.models.ranks import Group


@dataclass(frozen=True)
class PhasedOptions(LoraOptions):
    """Options of phased test-time training: those of LoRA, and of the SGD between phases.

    Attributes:
        prefix_docs: documents in phases, all together.
        phases: how many times the model itself is trained.
        global_lr, global_momentum, global_epochs, global_chunk_tokens, global_batch_seqs,
        global_clip: as in `SgdOptions`; the cosine starts anew in each phase.
        global_window: length of the sequences of that training.
    """

    prefix_docs: int = 2500
    phases: int = 3
    global_lr: float = 0.001
    global_momentum: float = 0.9
    global_epochs: int = 1
    global_chunk_tokens: int = 32768
    global_batch_seqs: int = 32
    global_clip: float = 1.0
    global_window: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prefix_docs", "phases", "global_window"):
            value = getattr(self, name)
            require(value >= 1, f"ttt.{name} cannot be {value}", "it is at least 1")
        require(
            self.global_chunk_tokens >= self.global_window,
            f"ttt.global_chunk_tokens={self.global_chunk_tokens} holds no sequence of "
            f"{self.global_window}",
            "use larger chunks or a smaller ttt.global_window",
        )
        self.sgd()

    def sgd(self) -> SgdOptions:
        """The options of the training between phases."""
        return SgdOptions(
            lr=self.global_lr, momentum=self.global_momentum, epochs=self.global_epochs,
            chunk_tokens=self.global_chunk_tokens, batch_seqs=self.global_batch_seqs,
            clip=self.global_clip,
        )  # fmt: skip


@dataclass(frozen=True)
class PhasedTtt:
    """LoRA on every document; the documents of a phase, once scored, train the model."""

    ttt: PhasedOptions = PhasedOptions()

    def run(self, scorer: Scorer, stream: Stream, group: Group, log: ScoreLog) -> None:
        """Score phase by phase; ranks share documents while scoring and batches while training."""
        scorer = scorer.trainable()
        count = len(stream.documents) - 1
        done = 0
        for boundary in self.boundaries(count):
            score_documents(scorer, self.ttt, stream, range(done, boundary), group, log)
            self._train(scorer, stream, done, boundary, group)
            done = boundary
        score_documents(scorer, self.ttt, stream, range(done, count), group, log)

    def boundaries(self, documents: int) -> list[int]:
        """Numbers of documents after which the model is trained: those with documents behind them."""
        ends = [self.ttt.prefix_docs * (i + 1) // self.ttt.phases for i in range(self.ttt.phases)]
        return [end for end in dict.fromkeys(ends) if 0 < end < documents]

    def idle(self, documents: np.ndarray) -> list[str]:
        """That no phase ends within the stream, phases shorter than a chunk, and idle adapters."""
        ends = self.boundaries(len(documents) - 1)
        found = idle_adapters(self.ttt, documents)
        if not ends:
            found.append(
                f"the {len(documents) - 1:,} documents end before the first phase does: the model "
                f"itself is never trained; lower ttt.prefix_docs, now {self.ttt.prefix_docs:,}"
            )
            return found
        targets = np.diff(documents[[0, *ends]])
        chunk = self.ttt.global_chunk_tokens
        if short := int((targets <= chunk).sum()):
            smaller = smaller_chunk(int(targets.min()), self.ttt.global_window)
            way_out = (
                f"--set ttt.global_chunk_tokens={smaller} trains"
                if smaller is not None
                else "raise ttt.prefix_docs, or lower ttt.phases or ttt.global_window"
            )
            found.append(
                f"the model itself is not trained after {short} of {len(ends)} phases: the shortest "
                f"has {targets.min():,} targets, one chunk has {chunk:,}, and the last chunk is never "
                f"trained on; {way_out}"
            )
        return found

    def _train(
        self, scorer: Scorer, stream: Stream, done: int, boundary: int, group: Group
    ) -> None:
        """SGD on the documents [done, boundary), all of them scored; the last chunk is left out."""
        options = self.ttt.sgd()
        trainer = SgdTrainer(scorer, options, self.ttt.global_window, group)
        first, last = int(stream.documents[done]), int(stream.documents[boundary])
        chunks = -(-(last - first) // options.chunk_tokens)
        for chunk in range(chunks - 1):
            start = first + chunk * options.chunk_tokens
            tokens = stream.learned[start : start + options.chunk_tokens + 1]
            trainer.train(tokens, cosine(chunk, chunks))

    def rounds(self, stream: Stream) -> np.ndarray:
        """Phase first, then the chunk within the document."""
        chunk = chunk_in_document(stream, self.ttt.chunk)
        lengths = np.diff(stream.documents)
        phase = np.searchsorted(self.boundaries(len(lengths)), np.arange(len(lengths)), "right")
        return np.repeat(phase, lengths) * (int(chunk.max()) + 1) + chunk

    def frozen(self) -> "PhasedTtt":
        """The same with rates 0."""
        return replace(self, ttt=replace(self.ttt, lr=0.0, global_lr=0.0))

    def probe(self) -> Probe:
        """Four documents, the model trained after the first and the second."""
        small = small_lora(self.ttt)
        window = min(self.ttt.global_window, small.chunk)
        small = replace(
            small, prefix_docs=2, phases=2, global_window=window, global_chunk_tokens=2 * window
        )
        return Probe(PhasedTtt(small), (4 * small.chunk,) * 3 + (2 * small.chunk,))

    def options(self) -> dict[str, Any]:
        """The options of training."""
        return dataclasses.asdict(self)
