"""The BPE tokenizer of ALPH checkpoints, with the bytes of text behind every token.

Tokens are characters and merges of two tokens; text is not split into words first, and merges apply
in the order they were learned, each from left to right. A character outside the vocabulary is
dropped without a trace, so the bytes that bits per byte divides by cannot be read off the tokens:
they are counted here, on the original text.
Source: thomasdavis/alpha2, `packages/tokenizers/src/bpe.ts`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numba import njit

from golfpack.data.alph_header import read_header, sub_object
from golfpack.errors import UsageError

# What its trainer's chat data has at the end of a document, as ordinary text.
DOCUMENT_END = " <|end_of_text|>"
_HINT = 'the latter is {"type": "bpe", "vocab": [...], "merges": [[left, right], ...]}'


@dataclass(frozen=True, eq=False)
class Encoded:
    """A text as tokens.

    Attributes:
        tokens: (n,) uint16.
        bytes: (n,) int64, UTF-8 bytes of the text that each token stands for. Those of dropped
            characters count to the token before them, or at the beginning to the first token, so
            that the sum is the length of the original text.
        dropped: characters outside the vocabulary, with how often each occurred.
    """

    tokens: np.ndarray
    bytes: np.ndarray
    dropped: Mapping[str, int]


@dataclass(frozen=True)
class AlphTokenizer:
    """Vocabulary and merges.

    Attributes:
        vocab: text of each token: single characters first, then one token for each merge.
        merges: (left, right) tokens, in the order they apply.
    """

    vocab: tuple[str, ...]
    merges: tuple[tuple[int, int], ...]

    @classmethod
    def from_artifacts(cls, artifacts: Mapping[str, Any], source: str | Path) -> "AlphTokenizer":
        """Check and take over the `tokenizerArtifacts` of a checkpoint, or a tokenizer file.

        Args:
            artifacts: `type`, `vocab` and `merges`, by the trainer's names.
            source: where they came from, for messages.

        Raises:
            UsageError: not a BPE tokenizer, or its vocabulary and its merges contradict each other.
        """
        vocab, merges = artifacts.get("vocab"), artifacts.get("merges")
        if artifacts.get("type") != "bpe" or not _is_list_of_text(vocab) or not _are_pairs(merges):
            raise UsageError(
                f"{source} is no SentencePiece model, and holds no BPE tokenizer of an ALPH checkpoint",
                _HINT,
            )
        first = len(vocab) - len(merges)
        if not 0 < first <= len(vocab) <= 1 << 16:
            raise UsageError(
                f"{source}: {len(vocab)} tokens with {len(merges)} merges are no vocabulary",
                "tokens are characters and merges, at most 65,536 together",
            )
        for token, (left, right) in enumerate(merges, start=first):
            known = 0 <= left < token and 0 <= right < token
            if not known or vocab[token] != vocab[left] + vocab[right]:
                raise UsageError(
                    f"{source}: token {token} is {vocab[token]!r}, which is not what its merge of "
                    f"{left} and {right} makes",
                    "the tokenizer is damaged; export it again",
                )
        if any(len(text) != 1 for text in vocab[:first]):
            raise UsageError(f"{source}: a token without a merge is not one character", _HINT)
        return cls(tuple(vocab), tuple((left, right) for left, right in merges))

    def encode(self, text: str) -> Encoded:
        """Encode a text as one stream.

        Raises:
            UsageError: not one character of the text is in the vocabulary.
        """
        first = len(self.vocab) - len(self.merges)
        ids = {character: i for i, character in enumerate(self.vocab[:first])}
        found = np.array([ids.get(c, -1) for c in text], np.int32)
        kept = np.flatnonzero(found >= 0)
        if not kept.size:
            raise UsageError(
                "no character of the text is in the tokenizer's vocabulary",
                "give the tokenizer the model was trained with",
            )
        merges = np.array(self.merges, np.int32).reshape(-1, 2)
        tokens = _merged(found[kept], merges, first)
        # Characters of the tokens before each token, hence where in the text its own begin.
        lengths = np.array([len(t) for t in self.vocab])[tokens]
        starts = kept[np.cumsum(lengths) - lengths]
        starts[0] = 0
        sizes = np.array([len(c.encode()) for c in text])
        return Encoded(
            tokens.astype(np.uint16),
            np.add.reduceat(sizes, starts),
            Counter(c for c in text if c not in ids),
        )

    # What follows is SentencePiece's interface, so that this can stand wherever `data.tokenizer`'s do.

    def vocab_size(self) -> int:
        return len(self.vocab)

    def Encode(self, text: str) -> list[int]:
        return self.encode(text).tokens.tolist()

    def Decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, without what was dropped when they were made."""
        return "".join(self.vocab[i] for i in tokens)

    def IdToPiece(self, token: int) -> str:
        return self.vocab[token]

    def bos_id(self) -> int:
        return -1  # there is none, nor any of the next

    def unk_id(self) -> int:
        return -1

    def IsByte(self, token: int) -> bool:
        return False

    def IsControl(self, token: int) -> bool:
        return False

    def IsUnknown(self, token: int) -> bool:
        return False

    def IsUnused(self, token: int) -> bool:
        return False


def read_alph_tokenizer(data: bytes, path: Path) -> AlphTokenizer:
    """The tokenizer inside a checkpoint, or in a JSON file of its own.

    Args:
        data: the whole file.
        path: where it came from, for messages.

    Raises:
        UsageError: the file is damaged, or holds no such tokenizer.
    """
    header, _ = read_header(data, path)
    return AlphTokenizer.from_artifacts(
        sub_object(header, "tokenizerArtifacts", path) or header, path
    )


def _is_list_of_text(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _are_pairs(value: object) -> TypeGuard[list[list[int]]]:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(type(i) is int for i in pair)
        for pair in value
    )


@njit(cache=True)
def _merged(ids: np.ndarray, merges: np.ndarray, first: int) -> np.ndarray:
    """Replace pairs by merges, one merge after the other over the whole text, in place."""
    n = len(ids)
    for rank in range(len(merges)):
        left, right = merges[rank]
        read = write = 0
        while read < n:
            if read + 1 < n and ids[read] == left and ids[read + 1] == right:
                ids[write] = first + rank
                read += 2
            else:
                ids[write] = ids[read]
                read += 1
            write += 1
        n = write
    return ids[:n]
