"""Training of ALPH's tokenizer: byte-pair encoding of characters, with no words.

The vocabulary begins with the characters of the text in the order of their UTF-16 code units; each merge
joins the most frequent pair of neighbours, of equally frequent ones the first in the text, and none that
occurs once. Only the text's beginning is looked at.
Source: thomasdavis/alpha2, `packages/tokenizers/src/bpe.ts`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from golfpack.base.files import write_atomically
from golfpack.data.alph_tokenizer import AlphTokenizer
from golfpack.errors import UsageError

TRAINED_ON = 500_000  # characters


def train_alph_tokenizer(text: str, vocab_size: int) -> AlphTokenizer:
    """Learn a vocabulary of exactly `vocab_size` tokens from the text's first 500,000 characters.

    Raises:
        UsageError: there are more characters than that, or too few pairs that occur twice.
    """
    begin = text[:TRAINED_ON]
    characters = sorted(set(begin), key=lambda c: c.encode("utf-16-be", "surrogatepass"))
    if not len(characters) <= vocab_size <= 1 << 16:
        raise UsageError(
            f"a vocabulary of {vocab_size} does not hold the text's {len(characters)} characters",
            f"use one of {len(characters)} to 65,536",
        )
    ids = {c: i for i, c in enumerate(characters)}
    stream = np.array([ids[c] for c in begin], np.int32)
    merges = _learn(stream, len(characters), vocab_size)
    found = len(characters) + len(merges)
    if found < vocab_size:
        raise UsageError(
            f"the text tells {found} tokens, not {vocab_size}: no further pair occurs twice",
            f"give more text, or use a vocabulary of {found}",
        )
    vocab = list(characters)
    for left, right in merges.tolist():
        vocab.append(vocab[left] + vocab[right])
    return AlphTokenizer(tuple(vocab), tuple((left, right) for left, right in merges.tolist()))


def alph_artifacts(tokenizer: AlphTokenizer) -> dict[str, Any]:
    """A tokenizer as its checkpoints carry it: `tokenizerArtifacts`."""
    return {
        "type": "bpe",
        "vocabSize": len(tokenizer.vocab),
        "vocab": tokenizer.vocab,
        "merges": tokenizer.merges,
    }


def write_alph_tokenizer(tokenizer: AlphTokenizer, path: Path) -> None:
    """Write a tokenizer as its checkpoints carry it, in a JSON file of its own."""
    write_atomically(path, json.dumps(alph_artifacts(tokenizer), ensure_ascii=False).encode())


@njit(cache=True)
def _learn(ids: np.ndarray, first: int, vocab_size: int) -> np.ndarray:
    """Merges (n, 2) of a stream of characters, which is overwritten.

    Counts of pairs are kept from merge to merge: only those change that a merged token is part of.
    """
    counts = np.zeros((vocab_size, vocab_size), np.int32)
    n = len(ids)
    for i in range(n - 1):
        counts[ids[i], ids[i + 1]] += 1
    merges = np.empty((vocab_size - first, 2), np.int32)
    joined = np.zeros(n, np.bool_)
    for made in range(vocab_size - first):
        most, left, right = 1, -1, -1
        for i in range(n - 1):  # in the text's order, so that the first of equals stays
            count = counts[ids[i], ids[i + 1]]
            if count > most:
                most, left, right = count, ids[i], ids[i + 1]
        if left < 0:
            return merges[:made]
        merges[made, 0], merges[made, 1] = left, right
        n = _merge(ids, n, left, right, first + made, counts, joined)
    return merges


@njit(cache=True)
def _merge(
    ids: np.ndarray,
    n: int,
    left: int,
    right: int,
    token: int,
    counts: np.ndarray,
    joined: np.ndarray,
) -> int:
    """Replace a pair from left to right in place, and count its neighbourhoods anew; the new length."""
    i = 0
    while i < n:
        joined[i] = i + 1 < n and ids[i] == left and ids[i + 1] == right
        if joined[i]:
            joined[i + 1] = True
            i += 1
        i += 1
    for i in range(n - 1):
        if joined[i] or joined[i + 1]:
            counts[ids[i], ids[i + 1]] -= 1
    read = write = 0
    while read < n:
        if joined[read]:
            ids[write] = token
            read += 2
        else:
            ids[write] = ids[read]
            read += 1
        write += 1
    for i in range(write - 1):
        if ids[i] == token or ids[i + 1] == token:
            counts[ids[i], ids[i + 1]] += 1
    return write
