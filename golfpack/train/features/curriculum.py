"""Easy sequences first: a curriculum over the data, by how rare a sequence's tokens are.

Source: competence-based curriculum learning (Platanios et al. 2019, arXiv 1903.09848), sentence rarity
and linear competence. Seed 004 has curricula of lengths (exp44b: `seq_schedule`) and of the weight of
word starts (exp78: `word_start_from`).
"""

from dataclasses import dataclass

import numpy as np

# The share of the sequences that the first step draws from.
FIRST_SHARE = 0.1
_CHUNK = 1 << 14  # sequences whose rarity is worked out at once


def rarity(tokens: np.ndarray, seq_len: int) -> np.ndarray:
    """Mean -log frequency of each sequence's tokens, nats: (N // T,) float64 of a stream (N,)."""
    counts = np.bincount(tokens)
    nats = np.log(tokens.size) - np.log(np.maximum(counts, 1))
    rows = tokens[: tokens.size // seq_len * seq_len].reshape(-1, seq_len)
    parts = [nats[rows[i : i + _CHUNK]].mean(1) for i in range(0, len(rows), _CHUNK)]
    return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class Curriculum:
    """Draws from the easiest share of the sequences, which grows linearly from 0.1 to 1.

    Attributes:
        starts: (S,) where sequences begin in the stream, the easiest first.
        steps: after which all sequences have been open to the draw.
        seed: of the draws.
    """

    starts: np.ndarray
    steps: int
    seed: int

    @staticmethod
    def of(tokens: np.ndarray, seq_len: int, steps: int, seed: int) -> "Curriculum":
        """That of a stream, cut at multiples of `seq_len`; a sequence needs one token behind it."""
        usable = tokens[: (tokens.size - 1) // seq_len * seq_len]
        order = np.argsort(rarity(usable, seq_len), kind="stable")
        return Curriculum(order * seq_len, steps, seed)

    def at(self, step: int, count: int) -> np.ndarray:
        """(count,) starts of the sequences of a step before `steps`."""
        share = FIRST_SHARE + (1.0 - FIRST_SHARE) * step / self.steps
        open_to = max(1, int(share * len(self.starts)))
        rng = np.random.default_rng([self.seed, step, self.steps])
        return self.starts[rng.integers(open_to, size=count)]
