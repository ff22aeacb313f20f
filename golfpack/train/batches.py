"""Training sequences, drawn from a token stream in an order that the seed fixes."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import TracebackType
from typing import Self

import numpy as np

from golfpack.errors import UsageError
from golfpack.train.features.curriculum import Curriculum


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches as a pure function of the step, so that a step number is all a resumption needs.

    In the order "epochs" an epoch cuts the stream at a random offset into sequences and visits each
    once, shuffled; the offset differs from epoch to epoch, so that sequences do too. In the order
    "random" sequences begin anywhere, independent of each other.

    Attributes:
        tokens: (N,) uint16 or uint32 stream.
        seq_len: T, inputs per sequence; a row has T + 1 tokens, the last being only a target.
        batch_size: B, sequences per step.
        seed: of offsets and shuffles, or of the starts.
        order: "epochs" or "random".
        curriculum_steps: steps at the beginning that draw from the easiest sequences, see `Curriculum`;
            those behind them are what they are without.
    """

    tokens: np.ndarray
    seq_len: int
    batch_size: int
    seed: int
    order: str = "epochs"
    curriculum_steps: int = 0

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

    def at(self, step: int, length: int | None = None) -> np.ndarray:
        """The batch of a step (counted from 0): (B, length + 1) int64.

        Args:
            length: T at most; shorter rows are the beginnings of those of `seq_len`.
        """
        if step < self.curriculum_steps:
            starts = self._curriculum.at(step, self.batch_size)
        else:
            starts = self._random(step) if self.order == "random" else self._of_epochs(step)
        windows = starts[:, None] + np.arange((length or self.seq_len) + 1)
        return self.tokens[windows].astype(np.int64)

    @cached_property
    def _curriculum(self) -> Curriculum:
        return Curriculum.of(self.tokens, self.seq_len, self.curriculum_steps, self.seed)

    def _random(self, step: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, step])
        return rng.integers(self.tokens.size - self.seq_len, size=self.batch_size)

    def _of_epochs(self, step: int) -> np.ndarray:
        first = step * self.batch_size
        return np.array([self._start(i) for i in range(first, first + self.batch_size)])

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


class Prefetch:
    """What a function of the step gives, made one step ahead in a thread of its own."""

    def __init__(self, make: Callable[[int], np.ndarray]) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(1, "golfpack-batches")
        self._next: tuple[int, Future[np.ndarray]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def at(self, step: int) -> np.ndarray:
        """That of a step; the next step's is being made when this returns."""
        ahead, self._next = self._next, None
        made = ahead[1] if ahead is not None and ahead[0] == step else self._submit(step)
        result = made.result()
        self._next = step + 1, self._submit(step + 1)
        return result

    def _submit(self, step: int) -> Future[np.ndarray]:
        return self._pool.submit(self._make, step)
