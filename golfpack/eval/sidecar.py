"""Byte counts from side-car shards, for tokenizers whose pieces are not the text itself.

CaseOps shards (openai/parameter-golf, since 2026-04-18) spell capitals with operator tokens. Beside
`x_val_000.bin` lies `x_val_bytes_000.bin`: a shard whose numbers are the bytes that each token stands
for in the original text; BOS and operators 0. They replace the byte table.
"""

import glob
from pathlib import Path

import numpy as np

from golfpack.data.shards import read_shard
from golfpack.errors import CorruptError, UsageError

MARK = "_bytes_"  # in the name of every side-car; token globs leave such files out


def find_sidecars(pattern: str) -> list[Path]:
    """Side-cars among the files that match a glob, in the order of their names."""
    matches = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern))
    return [Path(m) for m in matches if MARK in Path(m).name]


def read_byte_counts(
    pattern: str, tokens: np.ndarray, bos: int, *, whole: bool = False
) -> np.ndarray:
    """Bytes of each target tokens[1:], from the side-cars that match a glob.

    Args:
        whole: the tokens are all of their shards', so that there are as many counts and no more.

    Returns:
        (len(tokens) - 1,) int64.

    Raises:
        UsageError: no side-car matches, or they hold fewer counts than there are tokens, or, of whole
            shards, more.
        CorruptError: they count bytes for BOS, so they are not side-cars of these tokens.
    """
    paths = find_sidecars(pattern)
    if not paths:
        raise UsageError(
            f"no byte-count shard matches {pattern}",
            f"their names hold {MARK}, as x_val{MARK}0.bin",
        )
    parts: list[np.ndarray] = []
    left = len(tokens) + whole
    for path in paths:
        parts.append(read_shard(path, left))
        left -= len(parts[-1])
        if left <= 0:
            break
    counts = np.concatenate(parts).astype(np.int64)
    if len(counts) != len(tokens):
        more = " or more" if len(counts) > len(tokens) else ""
        raise UsageError(
            f"{pattern} holds {len(counts)}{more} byte counts for {len(tokens)} tokens",
            "give the side-cars of these very shards",
        )
    of_bos = counts[tokens == bos]
    if of_bos.any():
        raise CorruptError(
            f"{pattern} counts {int(of_bos.max())} bytes for a BOS token, which stands for none",
            "these are not the side-cars of these tokens",
        )
    return counts[1:]
