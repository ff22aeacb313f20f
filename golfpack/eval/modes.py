"""What every way of evaluating has in common, and the way without training: windows alone."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from golfpack.eval.log import ScoreLog
from golfpack.eval.scorer import Scorer, score_windows
from golfpack.eval.windows import lay_windows
from golfpack.models.ranks import Group

# Legality is checked with windows of this many tokens at most: the code is the same at any length.
PROBE_WINDOW = 128
# Where a stream is shorter than a chunk, the chunk to try instead makes about so many of it: training
# then has happened before most of the stream is scored.
CHUNKS = 8


@dataclass(frozen=True, eq=False)
class Stream:
    """A token stream as a mode gets to see it.

    In an evaluation the three views are one tensor. Legality checks change one of them after some
    point, and look which scores notice.

    Attributes:
        read: (n,) int64, tokens the model reads while it scores.
        labels: (n,) int64, tokens whose nll is asked for: target i is labels[i + 1].
        learned: (n,) int64, tokens that test-time training reads and learns.
        documents: (d + 1,) int64, first position of each document, then the number of targets.
    """

    read: torch.Tensor
    labels: torch.Tensor
    learned: torch.Tensor
    documents: np.ndarray

    @classmethod
    def of(cls, tokens: np.ndarray, documents: np.ndarray) -> "Stream":
        """The stream of an evaluation."""
        one = torch.from_numpy(tokens.astype(np.int64))
        return cls(one, one, one, documents)

    @property
    def targets(self) -> int:
        return len(self.labels) - 1


@dataclass(frozen=True)
class Probe:
    """A small run of a mode's own code, for legality checks.

    Attributes:
        mode: the mode with small windows and chunks.
        documents: lengths, in targets, of the documents to run it on.
    """

    mode: "Mode"
    documents: tuple[int, ...]


class Mode(Protocol):
    """A way of evaluating: a frozen dataclass whose fields are its options."""

    def run(self, scorer: Scorer, stream: Stream, group: Group, log: ScoreLog) -> None:
        """Score this rank's part of the stream into the log."""
        ...

    def rounds(self, stream: Stream) -> np.ndarray:
        """(targets,) integers: a target may depend on training on targets of lower rounds only."""
        ...

    def idle(self, documents: np.ndarray) -> list[str]:
        """What of its training never happens on a stream, a warning each.

        Args:
            documents: (d + 1,) bounds, as of a `Stream`.
        """
        ...

    def frozen(self) -> "Mode":
        """The same mode with training that changes nothing."""
        ...

    def probe(self) -> Probe:
        """The mode made small."""
        ...

    def options(self) -> dict[str, Any]:
        """All options, for the report."""
        ...


@dataclass(frozen=True)
class Windowed:
    """Windows over the whole stream, documents or not, as the challenge; plain when stride = window."""

    window: int
    stride: int

    def run(self, scorer: Scorer, stream: Stream, group: Group, log: ScoreLog) -> None:
        """Score this rank's windows: a contiguous part."""
        windows = lay_windows(stream.targets, self.window, self.stride)
        mine = windows[group.share(len(windows))]
        score_windows(scorer, stream.read, stream.labels, mine, log)

    def rounds(self, stream: Stream) -> np.ndarray:
        """One round: nothing is trained."""
        return np.zeros(stream.targets, np.int64)

    def idle(self, documents: np.ndarray) -> list[str]:
        """Nothing: no training was asked for."""
        del documents
        return []

    def frozen(self) -> "Windowed":
        """Itself."""
        return self

    def probe(self) -> Probe:
        """Short windows, with a first, a middle and a partial one."""
        small = shrunk(self.window, self.stride, PROBE_WINDOW)
        return Probe(Windowed(*small), (small[0] + small[1] + small[1] // 2 + 1,))

    def options(self) -> dict[str, Any]:
        """Window and stride."""
        return dataclasses.asdict(self)


def smaller_chunk(targets: int, sequence: int) -> int | None:
    """A chunk of whole sequences, about 1 / CHUNKS of some targets; None where two do not fit."""
    if targets <= sequence:
        return None
    return max(sequence, targets // CHUNKS // sequence * sequence)


def shrunk(window: int, stride: int, most: int) -> tuple[int, int]:
    """A window of at most `most` and a stride in about the same proportion to it."""
    small = min(window, most)
    return small, max(1, small * stride // window)
