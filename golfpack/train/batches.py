"""Training sequences, drawn from a token stream in an order that the seed fixes."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from golfpack.errors import UsageError


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches as a pure function of the step, so that a step number is all a resumption needs.

    An epoch cuts the stream at a random offset into sequences and visits each once, shuffled; the
    offset differs from epoch to epoch, so that sequences do too.

    Attributes:
        tokens: (N,) uint16 stream.
        seq_len: T, inputs per sequence; a row has T + 1 tokens, the last being only a target.
        batch_size: B, sequences per step.
        seed: of offsets and shuffles.
    """

    tokens: np.ndarray
    seq_len: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.epoch_size < 1:
            raise UsageError(
                f"{self.tokens.size} training tokens are too few for sequences of {self.seq_len}",
                f"Give {2 * self.seq_len} tokens or more, or use a shorter seq_len.",
            )

    @property
    def epoch_size(self) -> int:
        """Sequences per epoch: as many as fit after the largest offset."""
        return (self.tokens.size - self.seq_len) // self.seq_len

    def at(self, step: int) -> np.ndarray:
        """The batch of a step (counted from 0): (B, T + 1) int64."""
        first = step * self.batch_size
        starts = [self._start(i) for i in range(first, first + self.batch_size)]
        windows = np.asarray(starts)[:, None] + np.arange(self.seq_len + 1)
        return self.tokens[windows].astype(np.int64)

    def _start(self, index: int) -> int:
        """Where sequence `index` of the endless succession of epochs begins in the stream."""
        epoch, position = divmod(index, self.epoch_size)
        offset, order = _epoch_plan(self.seed, epoch, self.seq_len, self.epoch_size)
        return offset + int(order[position]) * self.seq_len


@lru_cache(maxsize=2)  # a batch may straddle two epochs
def _epoch_plan(seed: int, epoch: int, seq_len: int, epoch_size: int) -> tuple[int, np.ndarray]:
    """(offset into the stream, order of the sequences) of an epoch."""
    rng = np.random.default_rng([seed, epoch])
    return int(rng.integers(seq_len)), rng.permutation(epoch_size)
